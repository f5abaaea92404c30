// SPDX-License-Identifier: Apache-2.0
//! Inputs whose values may become part of a plan: small vectors and scalars, such as the target shape of
//! a `Reshape`, the axes of a `ReduceSum`, the bounds of a `Slice`.

use std::collections::HashSet;

use bytes::Bytes;
use diolkos_backend::Tensor;
use diolkos_types::{DataType, Dim, TensorSpec};
use tract_onnx::pb::GraphProto;

use crate::limits::{MADE_ELEMENTS_MAX, VALUE_ELEMENTS_MAX};

/// How much a plan may take from the values of a request, least first.
pub(crate) const TIERS: [Tier; 3] = [Tier::Shapes, Tier::Integers, Tier::AllSmall];

/// See [`TIERS`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Tier {
    /// Only shapes.
    Shapes,
    /// Small integer inputs too, which nearly always are shapes, axes or indices.
    Integers,
    /// Small inputs of every type, such as the scales of a `Resize` or the depth of a `OneHot`.
    AllSmall,
}

/// Operators that read integers and make nothing larger than their other inputs.
const SIZE_PRESERVING: [&str; 15] = [
    "Slice",
    "Squeeze",
    "Unsqueeze",
    "Reshape",
    "Gather",
    "GatherElements",
    "GatherND",
    "Split",
    "TopK",
    "ReduceSum",
    "ReduceMax",
    "ReduceMin",
    "ReduceMean",
    "ReduceProd",
    "CumSum",
];

/// Operators that make a size of a float.
const SIZE_FROM_FLOAT: [&str; 4] = ["Resize", "Range", "OneHot", "Cast"];

#[derive(Debug)]
struct ValueInput {
    tier: Tier,
    /// Its value may decide how large some result is.
    sizes: bool,
}

/// For each input of the signature, what its value may be used for.
#[derive(Debug)]
pub(crate) struct ValueInputs(Vec<Option<ValueInput>>);

impl ValueInputs {
    /// Looks at who reads the inputs.
    pub(crate) fn new(graph: &GraphProto, inputs: &[TensorSpec]) -> ValueInputs {
        ValueInputs(inputs.iter().map(|spec| ValueInput::new(graph, spec)).collect())
    }

    /// Whether there is any.
    pub(crate) fn any(&self) -> bool {
        self.0.iter().any(Option::is_some)
    }

    /// The values that a plan of this tier takes from the inputs: `None` where it takes none.
    pub(crate) fn take(&self, tier: Tier, inputs: &[&Tensor]) -> Vec<Option<Bytes>> {
        let one = |(known, tensor): (&Option<ValueInput>, &&Tensor)| {
            let known = known.as_ref()?;
            let small = tensor.shape.elements().is_some_and(|n| n <= VALUE_ELEMENTS_MAX as u64);
            let flat = tensor.shape.rank() <= 1;
            (known.tier <= tier && small && flat).then(|| tensor.data.to_private())
        };
        self.0.iter().zip(inputs).map(one).collect()
    }

    /// Whether sizes made of these values stay below the limit. Sizes of intermediate results are
    /// products of such values, so their product bounds them.
    pub(crate) fn are_bounded(&self, inputs: &[&Tensor], values: &[Option<Bytes>]) -> bool {
        let mut product = 1f64;
        for ((known, tensor), value) in self.0.iter().zip(inputs).zip(values) {
            let (Some(known), Some(value)) = (known, value) else { continue };
            if known.sizes {
                product *= magnitudes(tensor.data_type, value).filter(|m| *m > 1.0).product::<f64>();
            }
        }
        product <= MADE_ELEMENTS_MAX as f64
    }
}

impl ValueInput {
    fn new(graph: &GraphProto, spec: &TensorSpec) -> Option<ValueInput> {
        match spec.dims.as_deref() {
            None | Some([]) | Some([Dim::Variable { .. }]) => {}
            Some([Dim::Fixed(length)]) if *length <= VALUE_ELEMENTS_MAX as u64 => {}
            Some(_) => return None,
        }
        let readers: HashSet<&str> = graph
            .node
            .iter()
            .filter(|node| node.input.iter().any(|name| **name == *spec.name))
            .map(|node| node.op_type.as_str())
            .collect();
        let integers = matches!(spec.data_type, DataType::Int64 | DataType::Int32);
        let sizes = if integers {
            readers.iter().any(|reader| !SIZE_PRESERVING.contains(reader))
        } else {
            readers.iter().any(|reader| SIZE_FROM_FLOAT.contains(reader))
        };
        Some(ValueInput { tier: if integers { Tier::Integers } else { Tier::AllSmall }, sizes })
    }
}

fn magnitudes(data_type: DataType, value: &Bytes) -> Box<dyn Iterator<Item = f64> + '_> {
    let chunks = |size| value.chunks_exact(size);
    match data_type {
        DataType::Int64 | DataType::Uint64 => Box::new(chunks(8).map(|c| {
            let mut bytes = [0; 8];
            bytes.copy_from_slice(c);
            (i64::from_le_bytes(bytes) as f64).abs()
        })),
        DataType::Int32 | DataType::Uint32 => Box::new(chunks(4).map(|c| {
            let mut bytes = [0; 4];
            bytes.copy_from_slice(c);
            f64::from(i32::from_le_bytes(bytes)).abs()
        })),
        DataType::Fp32 => Box::new(chunks(4).map(|c| {
            let mut bytes = [0; 4];
            bytes.copy_from_slice(c);
            f64::from(f32::from_le_bytes(bytes)).abs()
        })),
        DataType::Fp64 => Box::new(chunks(8).map(|c| {
            let mut bytes = [0; 8];
            bytes.copy_from_slice(c);
            f64::from_le_bytes(bytes).abs()
        })),
        // Half floats and small integers can't name a size beyond 65,535 each.
        _ => Box::new(std::iter::empty()),
    }
}
