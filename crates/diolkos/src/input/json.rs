// SPDX-License-Identifier: Apache-2.0
//! Nested JSON arrays as tensors. The nesting is the shape, and elements take the type that the model wants.
//! `{"shape": [2, 2], "data": [1, 2, 3, 4]}` is read as well.

use diolkos_types::{DataType, Shape, push_bytes_element};
use half::{bf16, f16};
use serde_json::Value as Json;

use super::{InputError, Wanted, fit};
use crate::tensor::Value;

fn bad(text: impl Into<String>) -> InputError {
    InputError::Json(text.into())
}

/// Reads a tensor.
pub(super) fn read(text: &[u8], wanted: &Wanted) -> Result<Value, InputError> {
    let json: Json = serde_json::from_slice(text).map_err(|error| bad(format!("its JSON: {error}")))?;
    let (json, explicit) = match json {
        Json::Object(mut object) => {
            let data = object.remove("data").ok_or_else(|| bad("it is an object without `data`"))?;
            (data, object.remove("shape"))
        }
        other => (other, None),
    };
    let mut lengths = Vec::new();
    measure(&json, &mut lengths);
    let nested = Shape::new(&lengths).map_err(|error| bad(format!("it {error}")))?;
    let mut data = Vec::new();
    flatten(&json, &lengths, wanted.data_type, &mut Vec::new(), &mut data)?;
    let shape = match explicit {
        Some(explicit) => reshape(&explicit, &nested)?,
        None => fit(nested, &wanted.dims),
    };
    Ok(Value { name: wanted.name.clone(), data_type: wanted.data_type, shape, data: data.into() })
}

/// The lengths along the first elements; [`flatten`] sees whether the others agree.
fn measure(json: &Json, lengths: &mut Vec<u64>) {
    if let Json::Array(elements) = json {
        lengths.push(elements.len() as u64);
        if let Some(first) = elements.first() {
            measure(first, lengths);
        }
    }
}

fn reshape(explicit: &Json, nested: &Shape) -> Result<Shape, InputError> {
    let lengths: Vec<u64> = serde_json::from_value(explicit.clone())
        .map_err(|error| bad(format!("its `shape` is no list of lengths: {error}")))?;
    let shape = Shape::new(&lengths).map_err(|error| bad(format!("its `shape` {error}")))?;
    if shape.elements() != nested.elements() {
        let count = nested.elements().unwrap_or(0);
        return Err(bad(format!("its `shape` is {shape} and its `data` has {count} elements")));
    }
    Ok(shape)
}

fn flatten(
    json: &Json,
    lengths: &[u64],
    data_type: DataType,
    path: &mut Vec<usize>,
    data: &mut Vec<u8>,
) -> Result<(), InputError> {
    let place = |path: &[usize]| path.iter().map(|index| format!("[{index}]")).collect::<String>();
    match (json, lengths) {
        (Json::Array(elements), [length, rest @ ..]) => {
            if elements.len() as u64 != *length {
                let (place, count) = (place(path), elements.len());
                return Err(bad(format!(
                    "the list at {place} has {count} elements, and its siblings {length}"
                )));
            }
            for (index, element) in elements.iter().enumerate() {
                path.push(index);
                flatten(element, rest, data_type, path, data)?;
                path.pop();
            }
            Ok(())
        }
        (Json::Array(_), []) => {
            Err(bad(format!("there is a list at {}, and its siblings are none", place(path))))
        }
        (_, [_, ..]) => Err(bad(format!("there is no list at {}, and its siblings are some", place(path)))),
        (element, []) => push(element, data_type, data).ok_or_else(|| {
            let shown: String = element.to_string().chars().take(60).collect();
            bad(format!("{shown} at {} is no {data_type}", place(path)))
        }),
    }
}

fn push(element: &Json, data_type: DataType, data: &mut Vec<u8>) -> Option<()> {
    match data_type {
        DataType::Bool => data.push(match element {
            Json::Bool(value) => u8::from(*value),
            number => u8::try_from(number.as_u64()?).ok().filter(|value| *value < 2)?,
        }),
        DataType::Uint8 => data.push(element.as_u64()?.try_into().ok()?),
        DataType::Uint16 => data.extend(u16::try_from(element.as_u64()?).ok()?.to_le_bytes()),
        DataType::Uint32 => data.extend(u32::try_from(element.as_u64()?).ok()?.to_le_bytes()),
        DataType::Uint64 => data.extend(element.as_u64()?.to_le_bytes()),
        DataType::Int8 => data.extend(i8::try_from(element.as_i64()?).ok()?.to_le_bytes()),
        DataType::Int16 => data.extend(i16::try_from(element.as_i64()?).ok()?.to_le_bytes()),
        DataType::Int32 => data.extend(i32::try_from(element.as_i64()?).ok()?.to_le_bytes()),
        DataType::Int64 => data.extend(element.as_i64()?.to_le_bytes()),
        DataType::Fp16 => {
            data.extend(f16::from_f64(in_range(element, |x| f16::from_f64(x).to_f64())?).to_le_bytes())
        }
        DataType::Bf16 => {
            data.extend(bf16::from_f64(in_range(element, |x| bf16::from_f64(x).to_f64())?).to_le_bytes())
        }
        DataType::Fp32 => data.extend((in_range(element, |x| f64::from(x as f32))? as f32).to_le_bytes()),
        DataType::Fp64 => data.extend(in_range(element, |x| x)?.to_le_bytes()),
        DataType::Bytes => push_bytes_element(data, element.as_str()?.as_bytes()).ok()?,
    }
    Some(())
}

/// The element as a number, unless rounding it to its type makes it infinite. NaN and the infinities, which
/// JSON lacks, may be written as text.
fn in_range(element: &Json, round: impl Fn(f64) -> f64) -> Option<f64> {
    match element {
        Json::String(text) => match text.as_str() {
            "NaN" | "nan" => Some(f64::NAN),
            "inf" | "Infinity" => Some(f64::INFINITY),
            "-inf" | "-Infinity" => Some(f64::NEG_INFINITY),
            _ => None,
        },
        number => number.as_f64().filter(|number| round(*number).is_finite()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(data_type: DataType, dims: &[i64]) -> Wanted {
        Wanted { name: "x".into(), data_type, dims: dims.into() }
    }

    fn told(text: &str, data_type: DataType) -> String {
        read(text.as_bytes(), &wanted(data_type, &[-1])).unwrap_err().to_string()
    }

    #[test]
    fn nesting_is_shape() {
        let value = read(b"[[1, 2, 3], [4, 5, 6]]", &wanted(DataType::Int16, &[-1])).unwrap();
        assert_eq!(value.shape.dims(), [2, 3]);
        assert_eq!(value.data[..], [1, 0, 2, 0, 3, 0, 4, 0, 5, 0, 6, 0]);
        let value = read(b"7", &wanted(DataType::Uint8, &[])).unwrap();
        assert_eq!((value.shape.rank(), &value.data[..]), (0, &[7][..]));
        let value = read(b"[[], []]", &wanted(DataType::Uint8, &[-1])).unwrap();
        assert_eq!(value.shape.dims(), [2, 0]);
        let value =
            read(br#"{"shape": [2, 1], "data": ["a", "bc"]}"#, &wanted(DataType::Bytes, &[-1])).unwrap();
        assert_eq!((value.shape.dims(), value.json()), (&[2, 1][..], vec!["a".into(), "bc".into()]));
    }

    #[test]
    fn every_type_is_made_and_read_back() {
        for data_type in DataType::ALL {
            let text = match data_type {
                DataType::Bool => "[true,false]",
                DataType::Bytes => r#"["a",""]"#,
                DataType::Fp16 | DataType::Bf16 | DataType::Fp32 | DataType::Fp64 => "[1.5,-2.0]",
                _ => "[1,2]",
            };
            let value = read(text.as_bytes(), &wanted(data_type, &[2])).unwrap();
            assert_eq!(serde_json::to_string(&value.json()).unwrap(), text, "{data_type}");
        }
        let value = read(br#"["NaN", "-inf"]"#, &wanted(DataType::Fp16, &[2])).unwrap();
        assert_eq!(value.json(), ["NaN", "-inf"]);
    }

    #[test]
    fn says_what_does_not_fit_and_where() {
        assert_eq!(
            told("[[1], [2, 3]]", DataType::Int8),
            "the list at [1] has 2 elements, and its siblings 1"
        );
        assert_eq!(told("[1, [2]]", DataType::Int8), "there is a list at [1], and its siblings are none");
        assert_eq!(told("[[1], 2]", DataType::Int8), "there is no list at [1], and its siblings are some");
        assert_eq!(told("[1, 128]", DataType::Int8), "128 at [1] is no INT8");
        assert_eq!(told("[1.5]", DataType::Int64), "1.5 at [0] is no INT64");
        assert_eq!(told("[1e39]", DataType::Fp32), "1e+39 at [0] is no FP32");
        assert_eq!(told("[70000]", DataType::Fp16), "70000 at [0] is no FP16");
        assert_eq!(told("[null]", DataType::Fp32), "null at [0] is no FP32");
        assert_eq!(told("[2]", DataType::Bool), "2 at [0] is no BOOL");
        assert!(told(r#"{"data":[1],"shape":[2]}"#, DataType::Int8).contains("[2] and its `data` has 1"));
        assert!(told("[1,", DataType::Int8).contains("line 1"));
        assert!(
            told(&format!("{}1{}", "[".repeat(17), "]".repeat(17)), DataType::Int8).contains("17 dimensions")
        );
    }
}
