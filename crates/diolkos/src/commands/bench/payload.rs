// SPDX-License-Identifier: Apache-2.0
//! The tensors that are sent: made up once, the same in every run.

use bytes::Bytes;
use diolkos_types::{DataType, Shape};
use half::{bf16, f16};

use super::caller::Question;
use super::schedule::Random;
use crate::exit::Failure;
use crate::input::Wanted;
use crate::tensor::Value;

/// Largest made-up tensor, so that a slip of a digit does not eat this machine's memory.
const TENSOR_BYTES_MAX: usize = 1 << 30;

/// What the command line says about the tensors.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Wish {
    /// UINT8 tensor of so many elements.
    pub(crate) bytes: Option<usize>,
    /// Dimensions.
    pub(crate) shape: Option<Shape>,
    /// Element type, where the model leaves it open.
    pub(crate) data_type: Option<DataType>,
}

/// A call of `noop`.
pub(crate) fn noop() -> Question {
    Question { model: "noop".into(), inputs: Vec::new(), echoes: false }
}

/// A call of `echo` with so many bytes.
pub(crate) fn echo_bytes(bytes: usize) -> Question {
    let shape = Shape::new(&[bytes as u64]).expect("one dimension is a shape");
    echo(made_up("data", DataType::Uint8, shape).expect("callers give sizes below the limit"))
}

/// A call of `echo` with the tensor that image models commonly take, of 602,112 bytes.
pub(crate) fn echo_image() -> Question {
    let shape = Shape::new(&[1, 3, 224, 224]).expect("four dimensions are a shape");
    echo(made_up("data", DataType::Fp32, shape).expect("it is far below the limit"))
}

fn echo(input: Value) -> Question {
    Question { model: "echo".into(), inputs: vec![input], echoes: true }
}

/// A call of a model that takes these inputs.
pub(crate) fn question(model: &str, wanted: &[Wanted], wish: &Wish) -> Result<Question, Failure> {
    if wanted.len() > 1 && (wish.bytes.is_some() || wish.shape.is_some()) {
        return Err(Failure::usage(format!(
            "`{model}` has {} inputs, and --bytes and --shape are for one",
            wanted.len()
        ))
        .help("leave them out: open dimensions become 1"));
    }
    let mut inputs = Vec::with_capacity(wanted.len());
    for input in wanted {
        // What echoes takes any type, so its own says nothing.
        let any = model == "echo";
        let data_type = match (wish.bytes, wish.data_type) {
            (Some(_), _) if any => DataType::Uint8,
            (_, Some(data_type)) if any => data_type,
            _ if any => DataType::Fp32,
            _ => input.data_type,
        };
        let shape = shape_of(input, data_type, wish)?;
        inputs.push(made_up(&input.name, data_type, shape)?);
    }
    Ok(Question { model: model.into(), inputs, echoes: model == "echo" })
}

fn shape_of(input: &Wanted, data_type: DataType, wish: &Wish) -> Result<Shape, Failure> {
    if let Some(shape) = wish.shape {
        return Ok(shape);
    }
    if let Some(bytes) = wish.bytes {
        let size = data_type.element_bytes().unwrap_or(1);
        if !bytes.is_multiple_of(size) {
            return Err(Failure::usage(format!(
                "--bytes {bytes} is no whole number of {data_type} elements"
            )));
        }
        return Ok(Shape::new(&[(bytes / size) as u64]).expect("one dimension is a shape"));
    }
    let lengths: Vec<u64> = input.dims.iter().map(|&length| u64::try_from(length).unwrap_or(1)).collect();
    Shape::new(&lengths).map_err(|error| Failure::usage(format!("input `{}`", input.name)).because(&error))
}

/// A tensor of made-up values: numbers from 0 to 1, zeros where integers are wanted (they may be indices),
/// and short texts.
fn made_up(name: &str, data_type: DataType, shape: Shape) -> Result<Value, Failure> {
    let size = data_type.element_bytes().unwrap_or(5);
    let elements = shape.elements().and_then(|elements| usize::try_from(elements).ok());
    let bytes =
        elements.and_then(|elements| elements.checked_mul(size)).filter(|bytes| *bytes <= TENSOR_BYTES_MAX);
    let (Some(elements), Some(bytes)) = (elements, bytes) else {
        return Err(Failure::usage(format!(
            "{data_type} {shape} is larger than the {TENSOR_BYTES_MAX} bytes this makes up"
        )));
    };
    let mut random = Random(0x00D1_0130_5000_0001);
    let mut data = Vec::with_capacity(bytes);
    for _ in 0..elements {
        let value = random.unit();
        match data_type {
            DataType::Fp32 => data.extend_from_slice(&(value as f32).to_le_bytes()),
            DataType::Fp64 => data.extend_from_slice(&value.to_le_bytes()),
            DataType::Fp16 => data.extend_from_slice(&f16::from_f64(value).to_le_bytes()),
            DataType::Bf16 => data.extend_from_slice(&bf16::from_f64(value).to_le_bytes()),
            DataType::Bytes => data.extend_from_slice(&[1, 0, 0, 0, b'a']),
            // Noise, so that nothing on the way can be clever about zeros.
            DataType::Uint8 if name == "data" => data.push((value * 256.0) as u8),
            _ => data.resize(data.len() + size, 0),
        }
    }
    Ok(Value { name: name.into(), data_type, shape, data: Bytes::from(data) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(name: &str, data_type: DataType, dims: &[i64]) -> Wanted {
        Wanted { name: name.into(), data_type, dims: dims.to_vec() }
    }

    #[test]
    fn payloads_have_the_size_that_type_and_shape_say() {
        let image = echo_image();
        assert_eq!(image.inputs[0].data.len(), 602_112);
        assert_eq!(image.inputs[0].data, echo_image().inputs[0].data, "runs must be comparable");
        for data_type in DataType::ALL {
            let value = made_up("x", data_type, Shape::new(&[2, 3]).unwrap()).unwrap();
            assert_eq!(value.data.len(), 6 * data_type.element_bytes().unwrap_or(5), "{data_type}");
            assert_eq!(value.elements().count(), 6);
        }
        let huge = Shape::new(&[u64::MAX, 2]).unwrap();
        assert!(made_up("x", DataType::Uint8, huge).is_err());
    }

    #[test]
    fn open_dimensions_become_one_unless_a_shape_is_given() {
        let input = [wanted("x", DataType::Fp32, &[-1, 3])];
        let asked = question("m", &input, &Wish::default()).unwrap();
        assert_eq!(asked.inputs[0].shape.dims(), [1, 3]);
        let wish = Wish { shape: Some(Shape::new(&[8, 3]).unwrap()), ..Wish::default() };
        assert_eq!(question("m", &input, &wish).unwrap().inputs[0].data.len(), 96);
        let two = [wanted("x", DataType::Fp32, &[1]), wanted("y", DataType::Int64, &[1])];
        assert!(question("m", &two, &wish).is_err());
        assert_eq!(question("m", &two, &Wish::default()).unwrap().inputs[1].data, [0; 8][..]);
    }

    #[test]
    fn bytes_are_whole_elements() {
        let wish = Wish { bytes: Some(6), ..Wish::default() };
        assert!(question("m", &[wanted("x", DataType::Fp32, &[-1])], &wish).is_err());
        let echo = question("echo", &[wanted("data", DataType::Fp32, &[-1])], &wish).unwrap();
        assert_eq!((echo.inputs[0].data_type, echo.inputs[0].data.len()), (DataType::Uint8, 6));
        assert!(echo.echoes);
    }
}
