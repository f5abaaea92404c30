// SPDX-License-Identifier: Apache-2.0
//! Brings the data of every tensor in a model into one form: raw little-endian bytes, in place.

use diolkos_backend::{LoadError, ModelFiles};
use diolkos_types::{DataType, Shape};
use tract_onnx::pb::{GraphProto, TensorProto, tensor_proto};

use super::{data_type, invalid, type_name, unsupported};
use crate::limits::NESTING_MAX;

/// Treats every tensor of a graph and of the graphs in it; gives the bytes they have together.
pub(super) fn inline_graph(
    graph: &mut GraphProto,
    files: &ModelFiles,
    depth: usize,
) -> Result<u64, LoadError> {
    if depth > NESTING_MAX {
        return Err(unsupported(format!("graphs nested deeper than {NESTING_MAX}")));
    }
    if !graph.sparse_initializer.is_empty() {
        return Err(unsupported("sparse initializers"));
    }
    let mut bytes = 0u64;
    for tensor in &mut graph.initializer {
        bytes = bytes.saturating_add(inline(tensor, files)?);
    }
    for attribute in graph.node.iter_mut().flat_map(|node| &mut node.attribute) {
        if attribute.sparse_tensor.is_some() || !attribute.sparse_tensors.is_empty() {
            return Err(unsupported("sparse tensors"));
        }
        for tensor in attribute.t.iter_mut().chain(&mut attribute.tensors) {
            bytes = bytes.saturating_add(inline(tensor, files)?);
        }
        for inner in attribute.g.iter_mut().chain(&mut attribute.graphs) {
            bytes = bytes.saturating_add(inline_graph(inner, files, depth + 1)?);
        }
    }
    Ok(bytes)
}

fn inline(tensor: &mut TensorProto, files: &ModelFiles) -> Result<u64, LoadError> {
    let name = tensor.name.clone();
    let of_type = data_type(tensor.data_type)
        .ok_or_else(|| unsupported(format!("tensor `{name}` of type {}", type_name(tensor.data_type))))?;
    if tensor.segment.is_some() {
        return Err(unsupported(format!("tensor `{name}`, which is stored in segments")));
    }
    let shape = Shape::from_signed(&tensor.dims).map_err(|e| invalid(format!("tensor `{name}` {e}")))?;
    let elements =
        shape.elements().ok_or_else(|| invalid(format!("tensor `{name}` has too large a shape, {shape}")))?;
    if of_type == DataType::Bytes {
        return strings(tensor, elements);
    }
    if tensor.data_location == Some(tensor_proto::DataLocation::External as i32) {
        tensor.raw_data = external(tensor, files)?.to_vec();
    } else if tensor.raw_data.is_empty() {
        tensor.raw_data = typed(tensor, of_type);
    }
    clear_typed(tensor);
    let given = tensor.raw_data.len();
    if of_type.payload_bytes(elements) != Some(given) {
        return Err(invalid(format!(
            "tensor `{name}` of {of_type} and shape {shape} has {given} bytes of data"
        )));
    }
    Ok(given as u64)
}

fn strings(tensor: &TensorProto, elements: u64) -> Result<u64, LoadError> {
    let name = &tensor.name;
    if tensor.string_data.len() as u64 != elements {
        return Err(invalid(format!(
            "tensor `{name}` has {} strings for {elements}",
            tensor.string_data.len()
        )));
    }
    if tensor.string_data.iter().any(|text| std::str::from_utf8(text).is_err()) {
        return Err(unsupported(format!("tensor `{name}`, whose strings are not UTF-8")));
    }
    Ok(tensor.string_data.iter().map(|text| text.len() as u64).sum())
}

/// The bytes of a tensor that lies in another file of the model.
fn external<'a>(tensor: &TensorProto, files: &'a ModelFiles) -> Result<&'a [u8], LoadError> {
    let name = &tensor.name;
    let entry = |key: &str| tensor.external_data.iter().find(|e| e.key == key).map(|e| e.value.as_str());
    let number = |key: &str| match entry(key) {
        None => Ok(None),
        Some(text) => text
            .trim()
            .parse::<usize>()
            .map(Some)
            .map_err(|_| invalid(format!("tensor `{name}` has the {key} `{text}` in its external file"))),
    };
    let location =
        entry("location").ok_or_else(|| invalid(format!("tensor `{name}` is external and names no file")))?;
    let contents = files.get(location.strip_prefix("./").unwrap_or(location))?;
    let offset = number("offset")?.unwrap_or(0);
    let rest = contents.get(offset..);
    let part = match number("length")? {
        None => rest,
        Some(length) => rest.and_then(|rest| rest.get(..length)),
    };
    part.ok_or_else(|| {
        let size = contents.len();
        invalid(format!("tensor `{name}` reaches past the end of `{location}`, which has {size} bytes"))
    })
}

/// The bytes of the elements that the file holds as lists of numbers. The specification says which list
/// holds which type, and that the 16-bit floats lie in the list of 32-bit integers as bit patterns.
fn typed(tensor: &TensorProto, of_type: DataType) -> Vec<u8> {
    let ints = &tensor.int32_data;
    match of_type {
        DataType::Bool => ints.iter().map(|&v| u8::from(v != 0)).collect(),
        DataType::Uint8 | DataType::Int8 => ints.iter().map(|&v| v as u8).collect(),
        DataType::Uint16 | DataType::Int16 | DataType::Fp16 | DataType::Bf16 => {
            ints.iter().flat_map(|&v| (v as u16).to_le_bytes()).collect()
        }
        DataType::Int32 => ints.iter().flat_map(|v| v.to_le_bytes()).collect(),
        DataType::Uint32 => tensor.uint64_data.iter().flat_map(|&v| (v as u32).to_le_bytes()).collect(),
        DataType::Uint64 => tensor.uint64_data.iter().flat_map(|v| v.to_le_bytes()).collect(),
        DataType::Int64 => tensor.int64_data.iter().flat_map(|v| v.to_le_bytes()).collect(),
        DataType::Fp32 => tensor.float_data.iter().flat_map(|v| v.to_le_bytes()).collect(),
        DataType::Fp64 => tensor.double_data.iter().flat_map(|v| v.to_le_bytes()).collect(),
        DataType::Bytes => Vec::new(),
    }
}

fn clear_typed(tensor: &mut TensorProto) {
    tensor.float_data = Vec::new();
    tensor.double_data = Vec::new();
    tensor.int32_data = Vec::new();
    tensor.int64_data = Vec::new();
    tensor.uint64_data = Vec::new();
    tensor.external_data = Vec::new();
    tensor.data_location = None;
}

#[cfg(test)]
mod tests {
    use tract_onnx::pb::StringStringEntryProto;
    use tract_onnx::pb::tensor_proto::DataType as Onnx;

    use super::*;

    fn files() -> ModelFiles {
        let mut files = ModelFiles::single("model.onnx", vec![]);
        files.files.insert("weights.bin".into(), (0..16u8).collect::<Vec<_>>().into());
        files
    }

    fn external_tensor(pairs: &[(&str, &str)]) -> TensorProto {
        TensorProto {
            dims: vec![2],
            data_type: Onnx::Uint16 as i32,
            data_location: Some(tensor_proto::DataLocation::External as i32),
            external_data: pairs
                .iter()
                .map(|&(key, value)| StringStringEntryProto { key: key.into(), value: value.into() })
                .collect(),
            ..TensorProto::default()
        }
    }

    #[test]
    fn external_data_comes_from_the_files_given() {
        let mut tensor = external_tensor(&[("location", "./weights.bin"), ("offset", "4"), ("length", "4")]);
        assert_eq!(inline(&mut tensor, &files()).unwrap(), 4);
        assert_eq!(tensor.raw_data, [4, 5, 6, 7]);
        assert_eq!(tensor.data_location, None);
    }

    #[test]
    fn external_data_that_is_not_there() {
        let cases: [&[(&str, &str)]; 6] = [
            &[("location", "../../etc/passwd")],
            &[("location", "/etc/passwd")],
            &[("offset", "4")],
            &[("location", "weights.bin"), ("offset", "14"), ("length", "4")],
            &[("location", "weights.bin"), ("offset", "18446744073709551615"), ("length", "4")],
            &[("location", "weights.bin"), ("offset", "-1")],
        ];
        for pairs in cases {
            inline(&mut external_tensor(pairs), &files()).unwrap_err();
        }
    }

    #[test]
    fn unsigned_numbers_come_from_their_own_list() {
        let mut tensor = TensorProto {
            dims: vec![2],
            data_type: Onnx::Uint32 as i32,
            uint64_data: vec![1, 0xffff_ffff],
            ..TensorProto::default()
        };
        inline(&mut tensor, &files()).unwrap();
        assert_eq!(tensor.raw_data, [1, 0, 0, 0, 255, 255, 255, 255]);
    }

    #[test]
    fn a_claimed_size_allocates_nothing() {
        let mut tensor =
            TensorProto { dims: vec![i64::MAX, 2], data_type: Onnx::Float as i32, ..TensorProto::default() };
        assert!(matches!(inline(&mut tensor, &files()), Err(LoadError::Invalid { .. })));
        tensor.dims = vec![1 << 40];
        assert!(matches!(inline(&mut tensor, &files()), Err(LoadError::Invalid { .. })));
    }
}
