// SPDX-License-Identifier: Apache-2.0
//! Reads the cases of the ONNX node suite: `model.onnx` (only names and types), `input_N.pb`, `output_N.pb`.
//!
//! It depends on nothing but the tensor types and `half`, so that a test of any front can include it by
//! `#[path]`. It reads files of a package that the test chose, so damaged ones may panic.

#![allow(dead_code, unreachable_pub, reason = "each user needs another part")]

use std::path::{Path, PathBuf};

use diolkos_backend::Tensor;
use diolkos_types::{BytesElements, DataType, Shape, push_bytes_element};

/// One field of a protobuf message.
enum Field<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

impl<'a> Field<'a> {
    fn bytes(&self) -> &'a [u8] {
        match self {
            Field::Bytes(bytes) => bytes,
            Field::Number(_) => panic!("a number where bytes belong"),
        }
    }

    fn text(&self) -> String {
        String::from_utf8(self.bytes().to_vec()).expect("names are UTF-8")
    }

    fn number(&self) -> u64 {
        match self {
            Field::Number(number) => *number,
            Field::Bytes(_) => panic!("bytes where a number belongs"),
        }
    }

    /// The numbers of a repeated field, packed or not.
    fn varints(&self) -> Vec<u64> {
        match self {
            Field::Number(number) => vec![*number],
            Field::Bytes(bytes) => {
                let mut rest: &[u8] = bytes;
                let mut numbers = Vec::new();
                while !rest.is_empty() {
                    numbers.push(varint(&mut rest));
                }
                numbers
            }
        }
    }
}

fn varint(rest: &mut &[u8]) -> u64 {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let (byte, tail) = rest.split_first().expect("a varint ends inside the message");
        *rest = tail;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return value;
        }
    }
    panic!("a varint of more than ten bytes");
}

/// Fields of a message in their order.
fn fields(mut rest: &[u8]) -> Vec<(u64, Field<'_>)> {
    let mut fields = Vec::new();
    while !rest.is_empty() {
        let key = varint(&mut rest);
        let length = match key & 7 {
            0 => {
                fields.push((key >> 3, Field::Number(varint(&mut rest))));
                continue;
            }
            1 => 8,
            2 => varint(&mut rest) as usize,
            5 => 4,
            other => panic!("wire type {other}"),
        };
        let (head, tail) = rest.split_at(length);
        rest = tail;
        fields.push((key >> 3, Field::Bytes(head)));
    }
    fields
}

/// What a graph's input or output is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A tensor of a type that the protocol has.
    Plain(DataType),
    /// A tensor of an element type that the protocol lacks; its ONNX number.
    OtherType(u64),
    /// A sequence, map, optional or sparse tensor.
    NotTensor,
}

/// A named input or output of a graph.
#[derive(Clone, Debug)]
pub struct Port {
    /// Its name.
    pub name: String,
    /// What it is.
    pub kind: Kind,
}

/// The inputs without initializers, and the outputs.
pub fn ports(model: &[u8]) -> (Vec<Port>, Vec<Port>) {
    let fields_of_model = fields(model);
    let graph = fields_of_model.iter().find(|(id, _)| *id == 7).expect("a model has a graph").1.bytes();
    let (mut inputs, mut outputs, mut initialised) = (Vec::new(), Vec::new(), Vec::new());
    for (id, field) in fields(graph) {
        match id {
            5 => initialised.extend(fields(field.bytes()).iter().filter(|f| f.0 == 8).map(|f| f.1.text())),
            11 => inputs.push(port(field.bytes())),
            12 => outputs.push(port(field.bytes())),
            _ => {}
        }
    }
    inputs.retain(|input: &Port| !initialised.contains(&input.name));
    (inputs, outputs)
}

fn port(info: &[u8]) -> Port {
    let mut port = Port { name: String::new(), kind: Kind::NotTensor };
    for (id, field) in fields(info) {
        match id {
            1 => port.name = field.text(),
            2 => {
                for (id, field) in fields(field.bytes()) {
                    if id == 1 {
                        let element =
                            fields(field.bytes()).iter().find(|f| f.0 == 1).map_or(0, |f| f.1.number());
                        port.kind = data_type(element).map_or(Kind::OtherType(element), Kind::Plain);
                    }
                }
            }
            _ => {}
        }
    }
    port
}

/// The protocol's type for an ONNX element type number.
pub fn data_type(number: u64) -> Option<DataType> {
    Some(match number {
        1 => DataType::Fp32,
        2 => DataType::Uint8,
        3 => DataType::Int8,
        4 => DataType::Uint16,
        5 => DataType::Int16,
        6 => DataType::Int32,
        7 => DataType::Int64,
        8 => DataType::Bytes,
        9 => DataType::Bool,
        10 => DataType::Fp16,
        11 => DataType::Fp64,
        12 => DataType::Uint32,
        13 => DataType::Uint64,
        16 => DataType::Bf16,
        _ => return None,
    })
}

/// A serialized `TensorProto`; `None` for element types that the protocol lacks.
pub fn tensor(proto: &[u8]) -> Option<Tensor> {
    let (mut dims, mut element, mut raw) = (Vec::new(), 0, Vec::new());
    let (mut varints, mut fixed) = (Vec::new(), Vec::new());
    let mut strings = Vec::new();
    for (id, field) in fields(proto) {
        match id {
            1 => dims.extend(field.varints()),
            2 => element = field.number(),
            4 | 10 => fixed.extend_from_slice(field.bytes()),
            5 | 7 | 11 => varints.extend(field.varints()),
            6 => push_bytes_element(&mut strings, field.bytes()).expect("short strings"),
            9 => raw = field.bytes().to_vec(),
            _ => {}
        }
    }
    let data_type = data_type(element)?;
    let data = match data_type.element_bytes() {
        None => strings,
        Some(_) if !raw.is_empty() => raw,
        Some(_) if !fixed.is_empty() => fixed,
        Some(size) => varints.iter().flat_map(|v| v.to_le_bytes()[..size].to_vec()).collect(),
    };
    Some(Tensor { data_type, shape: Shape::new(&dims).expect("at most 16 dimensions"), data: data.into() })
}

/// `input_0.pb`, `input_1.pb`, … of a data set, parsed.
pub fn tensors(set: &Path, prefix: &str) -> Vec<Option<Tensor>> {
    (0..)
        .map(|index| set.join(format!("{prefix}_{index}.pb")))
        .take_while(|path| path.exists())
        .map(|path| tensor(&std::fs::read(path).expect("a file of the suite")))
        .collect()
}

/// The data sets of a case.
pub fn data_sets(case: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(case).expect("a directory of the suite");
    let mut sets: Vec<PathBuf> = entries
        .map(|entry| entry.expect("an entry of the suite").path())
        .filter(|path| path.file_name().is_some_and(|n| n.to_string_lossy().starts_with("test_data_set_")))
        .collect();
    sets.sort();
    sets
}

/// How two tensors differ.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Difference {
    /// Floats that differ by no more than rounding in their type, measured against the largest element:
    /// sums that cancel leave such residues where the exact result is near zero.
    Rounding(String),
    /// Anything else.
    Wrong(String),
}

/// Compares as ONNX's own runner does: floats to rtol 1e-3 and atol 1e-7, the rest exactly, NaN equal to NaN.
pub fn compare(expected: &Tensor, given: &Tensor) -> Result<(), Difference> {
    let strict = compare_with(expected, given, 0.0);
    // In units of the last place of the largest element: 64 for FP32, whose inner values are often larger
    // than the results, and 4 for FP16, which most engines compute in FP32.
    let epsilon = match expected.data_type {
        DataType::Fp16 => 4.0 / 2048.0,
        DataType::Fp32 => 64.0 / 16_777_216.0,
        _ => 0.0,
    };
    strict.map_err(|why| match compare_with(expected, given, epsilon) {
        Ok(()) => Difference::Rounding(why),
        Err(_) => Difference::Wrong(why),
    })
}

fn compare_with(expected: &Tensor, given: &Tensor, epsilon: f64) -> Result<(), String> {
    if expected.data_type != given.data_type {
        return Err(format!("type {}, expected {}", given.data_type, expected.data_type));
    }
    if expected.shape != given.shape {
        return Err(format!("shape {}, expected {}", given.shape, expected.shape));
    }
    let (left, right) = (expected.data.to_private(), given.data.to_private());
    if expected.data_type == DataType::Bytes {
        let elements =
            |payload| BytesElements::new(payload).map(|e| e.map(<[u8]>::to_vec)).collect::<Vec<_>>();
        return if elements(&left) == elements(&right) { Ok(()) } else { Err("other strings".into()) };
    }
    match (floats(expected.data_type, &left), floats(expected.data_type, &right)) {
        (Some(expected), Some(given)) => close(&expected, &given, epsilon),
        _ if left == right => Ok(()),
        _ => {
            let size = expected.data_type.element_bytes().unwrap_or(1);
            let count = left.chunks(size).zip(right.chunks(size)).filter(|(l, r)| l != r).count();
            Err(format!("{count} of {} elements differ", left.len() / size))
        }
    }
}

fn close(expected: &[f64], given: &[f64], epsilon: f64) -> Result<(), String> {
    let largest = expected.iter().filter(|e| e.is_finite()).fold(0f64, |most, e| most.max(e.abs()));
    let absolute = 1e-7 + epsilon * largest;
    let apart = |(e, g): &(f64, f64)| {
        let same = e == g || (e.is_nan() && g.is_nan());
        !(same || (e.is_finite() && g.is_finite() && (e - g).abs() <= absolute + 1e-3 * e.abs()))
    };
    let differing: Vec<(f64, f64)> =
        expected.iter().copied().zip(given.iter().copied()).filter(apart).collect();
    match differing.first() {
        None => Ok(()),
        Some((e, g)) => {
            Err(format!("{} of {} elements differ, first {g}, expected {e}", differing.len(), expected.len()))
        }
    }
}

/// The elements of a floating-point payload.
pub fn floats(data_type: DataType, payload: &[u8]) -> Option<Vec<f64>> {
    let chunks = |size| payload.chunks_exact(size);
    let bits = |c: &[u8]| u16::from_le_bytes([c[0], c[1]]);
    Some(match data_type {
        DataType::Fp16 => chunks(2).map(|c| half::f16::from_bits(bits(c)).to_f64()).collect(),
        DataType::Bf16 => chunks(2).map(|c| half::bf16::from_bits(bits(c)).to_f64()).collect(),
        DataType::Fp32 => {
            chunks(4).map(|c| f64::from(f32::from_le_bytes(c.try_into().expect("chunks of 4")))).collect()
        }
        DataType::Fp64 => chunks(8).map(|c| f64::from_le_bytes(c.try_into().expect("chunks of 8"))).collect(),
        _ => return None,
    })
}
