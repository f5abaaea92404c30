// SPDX-License-Identifier: Apache-2.0
//! What one native client has open, and its requests as the engine's.
//!
//! A handle remembers the signature that it was opened with: tensors are named by their positions in it. When the
//! model is replaced meanwhile, names still decide, so nobody's numbers change their meaning.

use std::collections::HashMap;
use std::num::NonZeroU64;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use diolkos_backend::{Buffer, RESULT_ALIGNMENT, ResultMemory as _, Tensor};
use diolkos_engine::store::LoadedVersion;
use diolkos_engine::{NamedTensor, Outputs, Request, Timing};
use diolkos_types::{BuildSpread, Code, HandleId, RANK_MAX, Shape, Signature, Status, TensorSpec};
use diolkos_wire::{
    Class, Extent, Failed, HEADER_BYTES, Infer, Inferred, Limits, ModelOpened, Place, ResultPlace, TensorRef,
};

use super::regions::{Files, Piece, Regions};
use crate::metrics::Copied;
use crate::sessions::ClientSession;

type Opened = HashMap<HandleId, Arc<Signature>, BuildSpread>;

/// A piece of a region that outputs go to, and the number of the region.
pub(super) type Results = (u16, Piece);

/// A request for the engine, and what is needed to tell of its outputs.
pub(super) struct Prepared {
    pub(super) request: Request,
    /// The signature that the client knows.
    pub(super) opened: Arc<Signature>,
    /// Where the outputs go, if not behind the answer.
    pub(super) results: Option<Results>,
}

/// A client's session.
pub(super) struct NativeSession {
    pub(super) client: Arc<ClientSession>,
    pub(super) regions: Regions,
    /// Handles are ours; one that a client makes up is only looked for.
    opened: Mutex<Opened>,
}

impl NativeSession {
    pub(super) fn new(
        client: Arc<ClientSession>,
        limits: Limits,
        copied: Arc<Copied>,
        files: Arc<Files>,
    ) -> NativeSession {
        NativeSession { client, regions: Regions::new(limits, copied, files), opened: Mutex::default() }
    }

    fn opened(&self) -> MutexGuard<'_, Opened> {
        // Nothing below panics while it holds the lock.
        self.opened.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens a handle on a model that is loaded as `version`.
    pub(super) fn open(
        &self,
        name: &str,
        wanted: Option<NonZeroU64>,
        version: &LoadedVersion,
    ) -> Result<ModelOpened, Status> {
        let handle = self.client.open(name, wanted.map(NonZeroU64::get))?;
        self.opened().insert(handle, version.signature.clone());
        Ok(ModelOpened { handle, version: version.version, signature: (*version.signature).clone() })
    }

    /// Closes a handle. Requests that it admitted go on.
    pub(super) fn close(&self, handle: HandleId) -> Result<(), Status> {
        self.opened().remove(&handle);
        self.client.close(handle)
    }

    /// Makes a request. `payload` are the bytes that came behind the message; their number is that of the tensors
    /// which lie there.
    pub(super) fn prepare(&self, infer: Infer, payload: &Bytes) -> Result<Prepared, Status> {
        let Infer { handle, class, timeout_us, order, params, inputs, outputs, results } = infer;
        if order.is_some() {
            return Err(Status::new(
                Code::Unsupported,
                "requests with an `order` are not offered by compute leases",
            ));
        }
        let signature = self.opened().get(&handle).cloned().ok_or_else(|| {
            Status::new(Code::NotFound, "the handle is not open; open the model first, in this session")
        })?;
        let results = match results {
            ResultPlace::Stream => None,
            ResultPlace::Region(extent) => Some((extent, self.regions.piece(&extent)?)),
        };
        // Where an input lies, outputs come once it is read.
        let apart = results.as_ref().filter(|(extent, _)| !inputs.iter().any(|input| meets(input, extent)));
        let destination = apart.map(|(_, piece)| piece.destination());
        let mut at = 0;
        let inputs = inputs.iter().map(|input| self.input(input, &signature, payload, &mut at));
        let inputs = inputs.collect::<Result<Vec<_>, Status>>()?;
        let outputs =
            outputs.map(|outputs| outputs.iter().map(|&index| output_name(index, &signature)).collect());
        let request = Request {
            params,
            inputs,
            outputs: outputs.transpose()?,
            destination,
            class: class_of(class),
            // A timeout past the end of the clock is none.
            deadline: timeout_us
                .and_then(|timeout| Instant::now().checked_add(Duration::from_micros(timeout.get()))),
            ..Request::new(handle)
        };
        let results = results.map(|(extent, piece)| (extent.region, piece));
        Ok(Prepared { request, opened: signature, results })
    }

    fn input(
        &self,
        input: &TensorRef,
        signature: &Signature,
        payload: &Bytes,
        at: &mut usize,
    ) -> Result<NamedTensor, Status> {
        let &TensorRef { index, data_type, shape, place } = input;
        let spec = signature.inputs.get(usize::from(index)).ok_or_else(|| {
            Status::invalid(format!("there is no input {index}: the model has {}", signature.inputs.len()))
        })?;
        let data = match place {
            Place::Region(extent) => self.regions.buffer(&extent)?,
            Place::Stream { length } => {
                let end = usize::try_from(length).ok().and_then(|length| at.checked_add(length));
                let end = end.filter(|&end| end <= payload.len()).ok_or_else(|| {
                    Status::invalid(format!(
                        "input `{}` reaches beyond the payload of the message",
                        spec.name
                    ))
                })?;
                let data = payload.slice(*at..end);
                *at = end;
                Buffer::from(data)
            }
        };
        Ok(NamedTensor { name: spec.name.clone(), tensor: Tensor { data_type, shape, data } })
    }
}

/// Whether an input and an extent have bytes in common.
fn meets(input: &TensorRef, with: &Extent) -> bool {
    let Place::Region(at) = input.place else { return false };
    at.region == with.region
        && at.offset < with.offset.saturating_add(with.length)
        && with.offset < at.offset.saturating_add(at.length)
}

fn output_name(index: u16, signature: &Signature) -> Result<Box<str>, Status> {
    let spec = signature.outputs.get(usize::from(index));
    spec.map(|spec| spec.name.clone()).ok_or_else(|| {
        Status::invalid(format!("there is no output {index}: the model has {}", signature.outputs.len()))
    })
}

fn class_of(class: Class) -> diolkos_engine::Class {
    match class {
        Class::Interactive => diolkos_engine::Class::Interactive,
        Class::Standard => diolkos_engine::Class::Standard,
        Class::Batch => diolkos_engine::Class::Batch,
    }
}

/// The engine's timing as messages carry it.
pub(super) fn timing_of(timing: &Timing) -> diolkos_wire::Timing {
    let ns = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
    diolkos_wire::Timing {
        queue_ns: ns(timing.queue),
        copy_in_ns: ns(timing.copy_in),
        compute_ns: ns(timing.compute),
        copy_out_ns: ns(timing.copy_out),
    }
}

/// Bytes of the answer to a request, without payload, at most. Of another version, which may run instead, a dimension more
/// makes it longer.
pub(super) fn inferred_bytes_max(opened: &Signature) -> usize {
    let rank = |spec: &TensorSpec| spec.dims.as_ref().map_or(RANK_MAX, |dims| dims.len());
    HEADER_BYTES + Inferred::body_bytes_max(opened.outputs.iter().map(rank))
}

/// Each output with its position in the signature that the client knows.
pub(super) fn positions<'a>(
    outputs: &'a Outputs,
    opened: &'a Signature,
) -> impl Iterator<Item = Result<(u16, &'a Tensor), Status>> {
    let ran = &outputs.version.signature.outputs;
    outputs.tensors.iter().map(move |(index, tensor)| {
        let name = &ran[*index].name;
        let same = opened.outputs.get(*index).is_some_and(|spec| spec.name == *name);
        let position =
            if same { Some(*index) } else { opened.outputs.iter().position(|spec| spec.name == *name) };
        let position = position.and_then(|position| u16::try_from(position).ok()).ok_or_else(|| {
            Status::new(
                Code::Aborted,
                format!("the model was replaced by one with another output, `{name}`; open it again"),
            )
        })?;
        Ok((position, tensor))
    })
}

/// Copies the outputs into a piece of a region, one behind the other, but for those that lie there already.
pub(super) fn place_outputs(
    outputs: &Outputs,
    opened: &Signature,
    region: u16,
    room: &Piece,
) -> Result<Vec<TensorRef>, Failed> {
    let needed = needed_bytes(outputs.tensors.iter().map(|(_, tensor)| tensor.data.len()));
    if needed > room.length {
        let message = format!(
            "the outputs need {needed} bytes, and the place for them has {}; send the request again with a larger one",
            room.length
        );
        let mut failed = Failed::from(&Status::new(Code::TooLarge, message));
        failed.needed = NonZeroU64::new(needed as u64);
        return Err(failed);
    }
    let mut at = 0usize;
    let mut placed = Vec::with_capacity(outputs.tensors.len());
    for output in positions(outputs, opened) {
        let (index, tensor) = output.map_err(|status| Failed::from(&status))?;
        let Tensor { data_type, shape, ref data } = *tensor;
        let offset = room.offset + at;
        placed.push(tensor_ref(index, data_type, shape, region, offset, data.len()));
        if !data.lies_in(&*room.memory, offset) {
            let mut to = offset;
            for piece in data.to_private_pieces() {
                room.memory.write(to, &piece);
                to += piece.len();
            }
        }
        at = (at + data.len()).next_multiple_of(RESULT_ALIGNMENT);
    }
    Ok(placed)
}

fn tensor_ref(
    index: u16,
    data_type: diolkos_types::DataType,
    shape: Shape,
    region: u16,
    offset: usize,
    length: usize,
) -> TensorRef {
    let extent = diolkos_wire::Extent { region, offset: offset as u64, length: length as u64 };
    TensorRef { index, data_type, shape, place: Place::Region(extent) }
}

/// Room that outputs of these lengths need. Their sum is far below the end of the address space: they are there.
fn needed_bytes(lengths: impl Iterator<Item = usize>) -> usize {
    lengths.fold(0, |sum: usize, length| sum.next_multiple_of(RESULT_ALIGNMENT) + length)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outputs_begin_on_cache_lines() {
        assert_eq!(needed_bytes([].into_iter()), 0);
        assert_eq!(needed_bytes([10].into_iter()), 10);
        assert_eq!(needed_bytes([10, 0, 65, 1].into_iter()), 64 + 128 + 1);
    }

    #[test]
    fn inputs_that_lie_among_the_results_are_found() {
        let extent = |region, offset, length| Extent { region, offset, length };
        let input = |place| TensorRef {
            index: 0,
            data_type: diolkos_types::DataType::Uint8,
            shape: Shape::SCALAR,
            place,
        };
        let meets = |at, with| super::meets(&input(Place::Region(at)), &with);
        assert!(meets(extent(1, 10, 10), extent(1, 19, 1)));
        assert!(meets(extent(1, 10, 10), extent(1, 0, 11)));
        assert!(!meets(extent(1, 10, 10), extent(1, 20, 10)));
        assert!(!meets(extent(1, 10, 10), extent(1, 0, 10)));
        assert!(!meets(extent(1, 10, 10), extent(2, 10, 10)));
        assert!(meets(extent(1, 0, u64::MAX), extent(1, u64::MAX - 1, 1)));
        assert!(!super::meets(&input(Place::Stream { length: 10 }), &extent(1, 0, 10)));
    }
}
