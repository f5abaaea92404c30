// SPDX-License-Identifier: Apache-2.0
//! `minmax`: the least and the greatest element of a tensor.
//!
//! * Every numeric type; the answers are scalars of the input's type, bit for bit elements of the input.
//! * NaN is ignored. If there is nothing else, both answers are the first element, so NaN.
//! * -0 is below +0, so that the answers do not depend on the order of the elements.
//! * `BOOL`, `BYTES` and tensors without elements are refused.
//!
//! vAccel's operation of this name also takes two thresholds and writes an array; this one does neither.

use std::cmp::Ordering;

use diolkos_backend::{Operation, RunError, Tensor, Work};
use diolkos_types::{DataType, Shape, Signature, TensorSpec};
use half::{bf16, f16};

/// Elements between two looks at the cancel flag: well below a millisecond.
const STEP_ELEMENTS: usize = 1 << 18;

/// Widest element in bytes, where only a shape is known.
const ELEMENT_BYTES_MAX: u64 = 8;

/// See the module.
#[derive(Clone, Debug)]
pub struct MinMax {
    signature: Signature,
}

impl MinMax {
    /// The operation.
    #[must_use]
    pub fn new() -> MinMax {
        let data = TensorSpec { any_type: true, ..TensorSpec::any_shape("data", DataType::Fp32) };
        let scalar = |name| TensorSpec { any_type: true, ..TensorSpec::new(name, DataType::Fp32, &[]) };
        MinMax {
            signature: Signature { inputs: [data].into(), outputs: [scalar("min"), scalar("max")].into() },
        }
    }
}

impl Default for MinMax {
    fn default() -> MinMax {
        MinMax::new()
    }
}

impl Operation for MinMax {
    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn resident_bytes(&self) -> u64 {
        0
    }

    /// A private copy of the input, and two elements.
    fn peak_bytes(&self, shapes: &[Option<Shape>], _input_bytes: u64) -> Option<u64> {
        let elements = shapes.first()?.as_ref()?.elements()?;
        elements.checked_add(2)?.checked_mul(ELEMENT_BYTES_MAX)
    }

    fn run(&self, work: &mut Work) -> Result<(), RunError> {
        work.check_cancelled()?;
        let Some(input) = work.take_input(0) else { return Err(invalid("is missing; send it".into())) };
        check_type(input.data_type)?;
        let bytes = input.data.to_private();
        work.compute_begins();
        let extremes = extremes(&input, &bytes, work)?;
        work.compute_ends();
        for (index, element) in extremes.iter().enumerate() {
            if work.wants(index) {
                let slot =
                    work.output(&self.signature, index, input.data_type, Shape::SCALAR, element.len())?;
                slot.copy_from(element);
            }
        }
        Ok(())
    }
}

fn invalid(reason: String) -> RunError {
    RunError::InvalidInput { tensor: "data".into(), reason }
}

fn check_type(data_type: DataType) -> Result<(), RunError> {
    match data_type {
        DataType::Bool | DataType::Bytes => Err(invalid(format!(
            "is {data_type}, and minmax compares numbers; send an integer or floating-point type"
        ))),
        _ => Ok(()),
    }
}

/// The payloads of the least and the greatest element.
fn extremes<'a>(input: &Tensor, bytes: &'a [u8], work: &Work) -> Result<[&'a [u8]; 2], RunError> {
    // For each type: how its little-endian bytes become a value, NaN being none, and how values compare.
    match input.data_type {
        DataType::Uint8 => scan(bytes, work, |b| Some(u8::from_le_bytes(b)), u8::cmp),
        DataType::Uint16 => scan(bytes, work, |b| Some(u16::from_le_bytes(b)), u16::cmp),
        DataType::Uint32 => scan(bytes, work, |b| Some(u32::from_le_bytes(b)), u32::cmp),
        DataType::Uint64 => scan(bytes, work, |b| Some(u64::from_le_bytes(b)), u64::cmp),
        DataType::Int8 => scan(bytes, work, |b| Some(i8::from_le_bytes(b)), i8::cmp),
        DataType::Int16 => scan(bytes, work, |b| Some(i16::from_le_bytes(b)), i16::cmp),
        DataType::Int32 => scan(bytes, work, |b| Some(i32::from_le_bytes(b)), i32::cmp),
        DataType::Int64 => scan(bytes, work, |b| Some(i64::from_le_bytes(b)), i64::cmp),
        DataType::Fp16 => scan(bytes, work, |b| number(f16::from_le_bytes(b), f16::is_nan), f16::total_cmp),
        DataType::Bf16 => {
            scan(bytes, work, |b| number(bf16::from_le_bytes(b), bf16::is_nan), bf16::total_cmp)
        }
        DataType::Fp32 => scan(bytes, work, |b| number(f32::from_le_bytes(b), f32::is_nan), f32::total_cmp),
        DataType::Fp64 => scan(bytes, work, |b| number(f64::from_le_bytes(b), f64::is_nan), f64::total_cmp),
        DataType::Bool | DataType::Bytes => check_type(input.data_type).map(|()| [&bytes[..0]; 2]),
    }
}

fn number<T: Copy>(value: T, is_nan: impl Fn(T) -> bool) -> Option<T> {
    (!is_nan(value)).then_some(value)
}

fn scan<'a, T: Copy, const N: usize>(
    bytes: &'a [u8],
    work: &Work,
    decode: impl Fn([u8; N]) -> Option<T>,
    compare: impl Fn(&T, &T) -> Ordering,
) -> Result<[&'a [u8]; 2], RunError> {
    let (elements, _) = bytes.as_chunks::<N>();
    let Some(first) = elements.first() else {
        return Err(invalid(
            "has no elements, so there is neither a least nor a greatest; send at least one".into(),
        ));
    };
    let mut found: Option<[(T, &'a [u8; N]); 2]> = None;
    for step in elements.chunks(STEP_ELEMENTS) {
        work.check_cancelled()?;
        for element in step {
            let Some(value) = decode(*element) else { continue };
            let here = (value, element);
            let [least, greatest] = found.get_or_insert([here, here]);
            if compare(&value, &least.0) == Ordering::Less {
                *least = here;
            }
            if compare(&value, &greatest.0) == Ordering::Greater {
                *greatest = here;
            }
        }
    }
    Ok(found.map_or([first, first], |[least, greatest]| [least.1, greatest.1]))
}

#[cfg(test)]
mod tests {
    use diolkos_backend::conformance::run_once;
    use proptest::prelude::*;

    use super::*;

    fn minmax(data_type: DataType, shape: &[u64], bytes: Vec<u8>) -> Result<[Vec<u8>; 2], RunError> {
        let input = Tensor { data_type, shape: Shape::new(shape).unwrap(), data: bytes.into() };
        let outputs = run_once(&MinMax::new(), vec![Some(input)])?;
        let outputs: Vec<Vec<u8>> = outputs
            .into_iter()
            .map(|output| {
                let output = output.unwrap();
                assert_eq!((output.data_type, output.shape), (data_type, Shape::SCALAR));
                output.data.to_private().to_vec()
            })
            .collect();
        Ok(outputs.try_into().unwrap())
    }

    fn of_f32(values: &[f32]) -> [f32; 2] {
        let bytes = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        let found = minmax(DataType::Fp32, &[values.len() as u64], bytes).unwrap();
        found.map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap()))
    }

    #[test]
    fn ignores_nan_unless_there_is_nothing_else() {
        assert_eq!(of_f32(&[f32::NAN, 2.0, -1.0, f32::NAN]), [-1.0, 2.0]);
        assert_eq!(of_f32(&[f32::NAN, f32::INFINITY]), [f32::INFINITY; 2]);
        assert!(of_f32(&[f32::NAN; 3]).iter().all(|v| v.is_nan()));
    }

    #[test]
    fn negative_zero_is_below_zero_in_either_order() {
        for values in [[0.0, -0.0], [-0.0, 0.0]] {
            assert_eq!(of_f32(&values).map(f32::to_bits), [(-0.0f32).to_bits(), 0]);
        }
    }

    #[test]
    fn says_what_it_does_not_take() {
        let text = |data_type, bytes| minmax(data_type, &[0], bytes).unwrap_err().to_string();
        assert_eq!(
            text(DataType::Int8, vec![]),
            "input `data` has no elements, so there is neither a least nor a greatest; send at least one"
        );
        for refused in [DataType::Bool, DataType::Bytes] {
            assert!(
                text(refused, vec![]).starts_with(&format!("input `data` is {refused}, and minmax compares"))
            );
        }
    }

    macro_rules! agrees_with_iterators {
        ($($test:ident $type:ty, $data_type:ident;)*) => { proptest! { $(
            #[test]
            fn $test(values in proptest::collection::vec(any::<$type>(), 1..50)) {
                let bytes = values.iter().flat_map(|v| v.to_le_bytes()).collect();
                let found = minmax(DataType::$data_type, &[1, values.len() as u64], bytes).unwrap();
                let expected = [values.iter().min().unwrap(), values.iter().max().unwrap()];
                prop_assert_eq!(found, expected.map(|v| v.to_le_bytes().to_vec()));
            }
        )* } };
    }

    agrees_with_iterators! {
        u8_elements u8, Uint8;
        u16_elements u16, Uint16;
        u32_elements u32, Uint32;
        u64_elements u64, Uint64;
        i8_elements i8, Int8;
        i16_elements i16, Int16;
        i32_elements i32, Int32;
        i64_elements i64, Int64;
    }

    /// The values that are not NaN, compared as `f64`, which holds every element of the narrower types.
    fn expected(values: &[f64]) -> [f64; 2] {
        let numbers = || values.iter().copied().filter(|v| !v.is_nan());
        [numbers().fold(f64::NAN, f64::min), numbers().fold(f64::NAN, f64::max)]
    }

    fn same(found: [f64; 2], expected: [f64; 2]) -> bool {
        found.iter().zip(&expected).all(|(a, b)| a == b || (a.is_nan() && b.is_nan()))
    }

    proptest! {
        #[test]
        fn sixteen_bit_floats(bits in proptest::collection::vec(any::<u16>(), 1..50)) {
            let bytes: Vec<u8> = bits.iter().flat_map(|v| v.to_le_bytes()).collect();
            let length = [bits.len() as u64];
            let halves: Vec<f64> = bits.iter().map(|&b| f16::from_bits(b).to_f64()).collect();
            let found = minmax(DataType::Fp16, &length, bytes.clone()).unwrap();
            let found = found.map(|b| f16::from_le_bytes(b.try_into().unwrap()).to_f64());
            prop_assert!(same(found, expected(&halves)));
            let brains: Vec<f64> = bits.iter().map(|&b| bf16::from_bits(b).to_f64()).collect();
            let found = minmax(DataType::Bf16, &length, bytes).unwrap();
            let found = found.map(|b| bf16::from_le_bytes(b.try_into().unwrap()).to_f64());
            prop_assert!(same(found, expected(&brains)));
        }

        #[test]
        fn wide_floats(bits in proptest::collection::vec(any::<u64>(), 1..50)) {
            let doubles: Vec<f64> = bits.iter().map(|&b| f64::from_bits(b)).collect();
            let bytes = bits.iter().flat_map(|v| v.to_le_bytes()).collect();
            let found = minmax(DataType::Fp64, &[bits.len() as u64], bytes).unwrap();
            prop_assert!(same(found.map(|b| f64::from_le_bytes(b.try_into().unwrap())), expected(&doubles)));
            let singles: Vec<f32> = bits.iter().map(|&b| f32::from_bits(b as u32)).collect();
            let wide: Vec<f64> = singles.iter().map(|&v| f64::from(v)).collect();
            prop_assert!(same(of_f32(&singles).map(f64::from), expected(&wide)));
        }
    }
}
