// SPDX-License-Identifier: Apache-2.0
//! Tensors in regions: which parameters say so, and the copies in and out around a request.

use diolkos_backend::Buffer;
use diolkos_engine::NamedTensor;
use diolkos_types::{Param, Params, Status};

use super::{OutputWish, ReplyTensor, params};
use crate::sessions::ClientSession;
use crate::system_memory::{Charge, Place, Targets};

/// Names the region that a tensor lies in or goes to. Without it the other two mean nothing.
pub(crate) const REGION: &str = "shared_memory_region";
/// The tensor's place in it: its size.
pub(crate) const BYTES: &str = "shared_memory_byte_size";
/// The tensor's place in it: where it begins. Left out, at the region's beginning.
pub(crate) const OFFSET: &str = "shared_memory_offset";

/// The place that the parameters of a tensor name, if they name one; `what` is "input" or "output".
pub(crate) fn place_of(what: &str, name: &str, params: &Params) -> Result<Option<Place>, Status> {
    let Some(region) = params.get(REGION) else { return Ok(None) };
    let tensor = format!("{what} `{name}`");
    let of_tensor = |error: Status| Status::new(error.code(), format!("{tensor}: {}", error.message()));
    let Param::Text(region) = region else {
        return Err(Status::invalid(format!("{tensor}: parameter `{REGION}` has to be a region's name")));
    };
    let bytes = params.get(BYTES).ok_or_else(|| {
        Status::invalid(format!(
            "{tensor} has a parameter `{REGION}` and no `{BYTES}`, which says how much of it"
        ))
    })?;
    let bytes = params::whole(BYTES, bytes).map_err(of_tensor)?;
    let offset =
        params.get(OFFSET).map_or(Ok(0), |offset| params::whole(OFFSET, offset)).map_err(of_tensor)?;
    Ok(Some(Place { region: region.as_ref().into(), offset, bytes }))
}

/// Fills inputs that lie in regions; `places` has their indices. The charge is for what was copied.
pub(super) async fn fetch(
    session: &ClientSession,
    inputs: &mut [NamedTensor],
    places: Vec<(usize, Place)>,
) -> Result<Option<Charge>, Status> {
    if places.is_empty() {
        return Ok(None);
    }
    let (indices, places): (Vec<usize>, Vec<_>) = places
        .into_iter()
        .map(|(index, place)| (index, (format!("input `{}`", inputs[index].name), place)))
        .unzip();
    let (data, charge) = session.memory.fetch(&session.turn, &places).await?;
    for (index, data) in indices.into_iter().zip(data) {
        inputs[index].tensor.data = data.into();
    }
    Ok(Some(charge))
}

/// Where outputs go that go to regions.
pub(super) struct Outward {
    /// Which of the wished ones they are.
    indices: Vec<usize>,
    places: Vec<Place>,
    targets: Targets,
}

impl Outward {
    /// Looks the regions up, before the request runs.
    pub(super) async fn find(
        session: &ClientSession,
        wishes: Option<&[OutputWish]>,
    ) -> Result<Option<Outward>, Status> {
        let wishes = wishes.unwrap_or_default().iter().enumerate();
        let wished: Vec<_> =
            wishes.filter_map(|(index, wish)| Some((index, &wish.name, wish.place.clone()?))).collect();
        if wished.is_empty() {
            return Ok(None);
        }
        let named: Vec<(String, Place)> =
            wished.iter().map(|(_, name, place)| (format!("output `{name}`"), place.clone())).collect();
        let targets = session.memory.targets(&named).await?;
        let (indices, places) = wished.into_iter().map(|(index, _, place)| (index, place)).unzip();
        Ok(Some(Outward { indices, places, targets }))
    }

    /// Writes the outputs there. What is left of them says where they are.
    pub(super) async fn store(
        self,
        session: &ClientSession,
        outputs: &mut [ReplyTensor],
    ) -> Result<(), Status> {
        let Outward { indices, places, targets } = self;
        let mut data = Vec::with_capacity(indices.len());
        for (index, place) in indices.into_iter().zip(places) {
            // The engine gives outputs in the order of the wishes.
            let output = &mut outputs[index];
            let payload = std::mem::replace(&mut output.data, Buffer::empty());
            output.place = Some(Place { bytes: payload.len() as u64, ..place });
            data.push((output.name.clone(), payload));
        }
        session.memory.store(targets, data).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(params: &[(&str, Param)]) -> Result<Option<Place>, Status> {
        let mut all = Params::new();
        for (name, value) in params {
            all.set(name, value.clone());
        }
        place_of("input", "x", &all)
    }

    #[test]
    fn three_parameters_make_a_place() {
        let region = || (REGION, Param::Text("r".into()));
        let made = |offset, bytes| Ok(Some(Place { region: "r".into(), offset, bytes }));
        assert_eq!(place(&[]), Ok(None));
        assert_eq!(place(&[(BYTES, Param::Int(4)), (OFFSET, Param::Int(-1))]), Ok(None));
        assert_eq!(place(&[region(), (BYTES, Param::Int(4))]), made(0, 4));
        assert_eq!(place(&[region(), (BYTES, Param::Uint(4)), (OFFSET, Param::Int(8))]), made(8, 4));
        assert_eq!(place(&[region(), (BYTES, Param::Uint(u64::MAX))]), made(0, u64::MAX));
        let message = |params: &[_]| place(params).unwrap_err().message().to_owned();
        assert!(message(&[region()]).contains("no `shared_memory_byte_size`"));
        assert!(
            message(&[region(), (BYTES, Param::Int(-4))])
                .starts_with("input `x`: parameter `shared_memory_byte")
        );
        let wrong = [region(), (BYTES, Param::Int(4)), (OFFSET, Param::Double(1.0))];
        assert!(message(&wrong).contains("`shared_memory_offset` is 1"));
        assert!(message(&[(REGION, Param::Int(1))]).contains("has to be a region's name"));
    }
}
