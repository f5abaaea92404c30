// SPDX-License-Identifier: Apache-2.0
//! Inputs made from a signature: seeded, small, and hostile where values may be.

use diolkos_types::{DataType, Dim, Params, Shape, Signature, TensorSpec, push_bytes_element};
use half::{bf16, f16};

use crate::conformance::Case;
use crate::seeded::Seeded;
use crate::{Buffer, Tensor};

/// Largest generated tensor. Fits an image batch; keeps a suite over a model within seconds.
const TENSOR_BYTES_MAX: usize = 8 << 20;

/// Lengths that variable dimensions get: one, two, and one that is neither.
const LENGTHS: [u64; 3] = [1, 2, 5];

/// Most places where a single empty dimension is tried.
const EMPTY_PLACES_MAX: usize = 8;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fill {
    Random,
    Zeros,
    Ramp,
    Negative,
    Largest,
    Smallest,
    Nan,
    Infinite,
}

impl Fill {
    const ALL: [Fill; 8] = [
        Fill::Random,
        Fill::Zeros,
        Fill::Ramp,
        Fill::Negative,
        Fill::Largest,
        Fill::Smallest,
        Fill::Nan,
        Fill::Infinite,
    ];
}

/// The generated cases of one signature.
pub(super) struct Samples {
    /// Ordinary values, each shape and type once: where answers are compared.
    pub(super) ordinary: Vec<Case>,
    /// The same shapes with every kind of value.
    pub(super) extreme: Vec<Case>,
    /// Tensors without elements.
    pub(super) empty: Vec<Case>,
}

/// Generates. Tensors whose fixed dimensions are too large for the suite make their case drop out.
pub(super) fn generate(signature: &Signature, seed: u64) -> Samples {
    let maker = Maker { signature, seed };
    let mut samples = Samples { ordinary: Vec::new(), extreme: Vec::new(), empty: maker.empty() };
    let any_type = signature.inputs.iter().any(|spec| spec.any_type);
    let optional = signature.inputs.iter().any(|spec| spec.optional);
    let mut add = |lengths: u64, fill, data_type, with_optional| {
        let list = if fill == Fill::Random { &mut samples.ordinary } else { &mut samples.extreme };
        list.extend(maker.case(&|_, _| lengths, fill, data_type, with_optional));
    };
    let lengths = if maker.varies() { &LENGTHS[..] } else { &LENGTHS[..1] };
    for &length in lengths {
        for fill in Fill::ALL {
            add(length, fill, None, true);
        }
        if optional {
            add(length, Fill::Random, None, false);
        }
    }
    for data_type in DataType::ALL.into_iter().filter(|_| any_type) {
        for fill in Fill::ALL {
            add(2, fill, Some(data_type), true);
        }
    }
    samples
}

struct Maker<'a> {
    signature: &'a Signature,
    seed: u64,
}

impl Maker<'_> {
    fn varies(&self) -> bool {
        self.signature.inputs.iter().any(|spec| {
            spec.dims.as_deref().is_none_or(|dims| dims.iter().any(|d| matches!(d, Dim::Variable { .. })))
        })
    }

    /// `length(input, dim)` is the wanted length of a variable dimension.
    fn case(
        &self,
        length: &dyn Fn(usize, usize) -> u64,
        fill: Fill,
        data_type: Option<DataType>,
        with_optional: bool,
    ) -> Option<Case> {
        let mut inputs = Vec::with_capacity(self.signature.inputs.len());
        for (index, spec) in self.signature.inputs.iter().enumerate() {
            if spec.optional && !with_optional {
                inputs.push(None);
                continue;
            }
            let data_type = data_type.filter(|_| spec.any_type).unwrap_or(spec.data_type);
            let shape = shape_for(spec, &|dim| length(index, dim))?;
            let values = Seeded::new(self.seed.wrapping_add(index as u64));
            inputs.push(Some(tensor(data_type, shape, fill, values)?));
        }
        let shapes: Vec<String> = inputs
            .iter()
            .map(|input| input.as_ref().map_or("none".into(), |t| format!("{} {}", t.data_type, t.shape)))
            .collect();
        let label = format!("{fill:?} ({})", shapes.join(", "));
        Some(Case { label, inputs, params: Params::new() })
    }

    /// All variable dimensions empty, and each one alone.
    fn empty(&self) -> Vec<Case> {
        if !self.varies() {
            return Vec::new();
        }
        let mut cases: Vec<Case> = self.case(&|_, _| 0, Fill::Random, None, true).into_iter().collect();
        let places = self.signature.inputs.iter().enumerate().flat_map(|(input, spec)| {
            // Of a tensor of any rank, `shape_for` makes two dimensions.
            let dims = spec.dims.as_deref().unwrap_or(&[Dim::Variable { max: 1 }; 2]);
            let open = dims.iter().enumerate().filter(|(_, dim)| matches!(dim, Dim::Variable { .. }));
            open.map(|(dim, _)| (input, dim)).collect::<Vec<_>>()
        });
        for place in places.take(EMPTY_PLACES_MAX) {
            let length = move |input, dim| if (input, dim) == place { 0 } else { 5 };
            cases.extend(self.case(&length, Fill::Random, None, true));
        }
        cases
    }
}

fn shape_for(spec: &TensorSpec, length: &dyn Fn(usize) -> u64) -> Option<Shape> {
    let Some(dims) = spec.dims.as_deref() else {
        // Any rank: a scalar, a vector, or a matrix, so that all three are tried.
        return match (length(0), length(1)) {
            (1, 1) => Some(Shape::SCALAR),
            (2, 2) => Shape::new(&[2]).ok(),
            (outer, inner) => Shape::new(&[outer, inner]).ok(),
        };
    };
    let lengths: Vec<u64> = dims
        .iter()
        .enumerate()
        .map(|(index, dim)| match *dim {
            Dim::Fixed(fixed) => fixed,
            Dim::Variable { max } => length(index).min(max),
        })
        .collect();
    Shape::new(&lengths).ok()
}

fn tensor(data_type: DataType, shape: Shape, fill: Fill, mut values: Seeded) -> Option<Tensor> {
    let elements = shape.elements()?;
    // Elements of BYTES are counted with what the longest one takes.
    let bytes = match data_type {
        DataType::Bytes => usize::try_from(elements.checked_mul(512)?).ok()?,
        fixed => fixed.payload_bytes(elements)?,
    };
    if bytes > TENSOR_BYTES_MAX {
        return None;
    }
    let mut data = Vec::new();
    for index in 0..elements {
        push(&mut data, data_type, fill, index, &mut values);
    }
    Some(Tensor { data_type, shape, data: Buffer::from(data) })
}

/// Appends the little-endian bytes of one element.
fn push(data: &mut Vec<u8>, data_type: DataType, fill: Fill, index: u64, values: &mut Seeded) {
    match data_type {
        DataType::Bool => data.push(u8::from(match fill {
            Fill::Random => values.below(2) == 1,
            Fill::Zeros | Fill::Smallest => false,
            Fill::Largest => true,
            Fill::Ramp | Fill::Negative | Fill::Nan | Fill::Infinite => index % 2 == 1,
        })),
        DataType::Uint8 | DataType::Int8 => integer(data, data_type, 1, fill, index, values),
        DataType::Uint16 | DataType::Int16 => integer(data, data_type, 2, fill, index, values),
        DataType::Uint32 | DataType::Int32 => integer(data, data_type, 4, fill, index, values),
        DataType::Uint64 | DataType::Int64 => integer(data, data_type, 8, fill, index, values),
        DataType::Fp16 => {
            let extremes = [f16::MAX, f16::MIN].map(f16::to_f64);
            data.extend(f16::from_f64(float(fill, index, values, extremes)).to_le_bytes());
        }
        DataType::Bf16 => {
            let extremes = [bf16::MAX, bf16::MIN].map(bf16::to_f64);
            data.extend(bf16::from_f64(float(fill, index, values, extremes)).to_le_bytes());
        }
        DataType::Fp32 => {
            let extremes = [f32::MAX, f32::MIN].map(f64::from);
            data.extend((float(fill, index, values, extremes) as f32).to_le_bytes());
        }
        DataType::Fp64 => data.extend(float(fill, index, values, [f64::MAX, f64::MIN]).to_le_bytes()),
        DataType::Bytes => text(data, fill, index, values),
    }
}

fn float(fill: Fill, index: u64, values: &mut Seeded, [largest, smallest]: [f64; 2]) -> f64 {
    match fill {
        Fill::Random => (values.next() >> 40) as f64 / f64::from(1 << 22) - 2.0,
        Fill::Zeros => [0.0, -0.0][index as usize % 2],
        Fill::Ramp => (index % 100) as f64,
        Fill::Negative => -((index % 7 + 1) as f64),
        Fill::Largest => largest,
        Fill::Smallest => smallest,
        Fill::Nan => f64::NAN,
        Fill::Infinite => [f64::INFINITY, f64::NEG_INFINITY][index as usize % 2],
    }
}

fn integer(
    data: &mut Vec<u8>,
    data_type: DataType,
    width: usize,
    fill: Fill,
    index: u64,
    values: &mut Seeded,
) {
    let signed = matches!(data_type, DataType::Int8 | DataType::Int16 | DataType::Int32 | DataType::Int64);
    let top_bit = 1u64 << (width * 8 - 1);
    let value = match fill {
        // Small, because integers often are indices, counts or shapes.
        Fill::Random | Fill::Nan | Fill::Infinite => values.below(4) as u64,
        Fill::Zeros => 0,
        Fill::Ramp => index % 100,
        Fill::Negative => (index % 7 + 1).wrapping_neg(),
        Fill::Largest if signed => top_bit - 1,
        Fill::Largest => u64::MAX,
        Fill::Smallest if signed => top_bit,
        Fill::Smallest => 0,
    };
    data.extend(&value.to_le_bytes()[..width]);
}

fn text(data: &mut Vec<u8>, fill: Fill, index: u64, values: &mut Seeded) {
    let element = match fill {
        Fill::Random => {
            let length = values.below(9);
            values.bytes(length)
        }
        Fill::Zeros => Vec::new(),
        Fill::Ramp | Fill::Negative => index.to_string().into_bytes(),
        Fill::Largest => vec![0xff; 300],
        Fill::Smallest => vec![0],
        Fill::Nan | Fill::Infinite => "\u{feff}zażółć \u{1f600}".into(),
    };
    push_bytes_element(data, &element).expect("a generated element is shorter than 4 GiB");
}

#[cfg(test)]
mod tests {
    use diolkos_types::BytesElements;

    use super::*;

    #[test]
    fn generated_inputs_fit_their_signature_and_replay() {
        let open = Dim::Variable { max: 4 };
        let mut inputs: Vec<TensorSpec> =
            DataType::ALL.into_iter().map(|t| TensorSpec::new(t.name(), t, &[open, Dim::Fixed(3)])).collect();
        inputs[0].optional = true;
        inputs.push(TensorSpec { any_type: true, ..TensorSpec::any_shape("any", DataType::Fp32) });
        let signature = Signature { inputs: inputs.into(), outputs: [].into() };
        let samples = generate(&signature, 3);
        let again = generate(&signature, 3);
        assert!(samples.ordinary.len() >= 6 + DataType::ALL.len() && samples.extreme.len() > 21);
        assert!(samples.empty.len() > 2);
        let all = |s: &Samples| -> Vec<Case> {
            s.ordinary.iter().chain(&s.extreme).chain(&s.empty).cloned().collect()
        };
        for (case, replay) in all(&samples).iter().zip(all(&again)) {
            assert_eq!(case.inputs.len(), signature.inputs.len());
            for ((input, replay), spec) in case.inputs.iter().zip(&replay.inputs).zip(&signature.inputs) {
                let Some(tensor) = input else {
                    assert!(spec.optional);
                    continue;
                };
                assert!(spec.takes_type(tensor.data_type));
                spec.check_shape(&tensor.shape).unwrap();
                let bytes = tensor.data.to_private();
                assert_eq!(bytes, replay.as_ref().unwrap().data.to_private());
                let elements = tensor.shape.elements().unwrap();
                match tensor.data_type {
                    DataType::Bytes => assert_eq!(BytesElements::count_checked(&bytes), Ok(elements)),
                    fixed => assert_eq!(fixed.payload_bytes(elements), Some(bytes.len())),
                }
            }
        }
    }

    #[test]
    fn a_tensor_that_is_too_large_drops_its_case() {
        let spec = TensorSpec::new("x", DataType::Fp64, &[Dim::Fixed(1 << 40)]);
        let samples = generate(&Signature { inputs: [spec].into(), outputs: [].into() }, 1);
        assert!(samples.ordinary.is_empty() && samples.extreme.is_empty() && samples.empty.is_empty());
    }
}
