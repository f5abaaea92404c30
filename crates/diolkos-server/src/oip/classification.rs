// SPDX-License-Identifier: Apache-2.0
//! The classification extension: instead of an output's values, the best N of them as `value:index[:label]`.
//!
//! A model with a batch dimension is classified row by row and answers `[rows, N]`, and so is one without a
//! configuration whose open first dimension is above 1; any other one is taken as one long row and answers `[N]`. `N` larger than a row means the whole row. The order is that of falling
//! values; equal values keep the order of their indices, and NaN comes last.

use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::fmt::Write as _;

use diolkos_engine::store::LoadedVersion;
use diolkos_types::{Code, DataType, Dim, Shape, Status, push_bytes_element};
use half::{bf16, f16};

use super::ReplyTensor;
use super::metadata::max_batch_size;

/// Most texts that one output becomes. Each takes some 50 bytes, from a value that may have been a single one.
const CLASSES_MAX: usize = 1 << 20;

/// Replaces the values of `tensor` with the best `count` of each row.
pub(crate) fn classify(
    tensor: &mut ReplyTensor,
    count: usize,
    version: &LoadedVersion,
) -> Result<(), Status> {
    let labels = labels_of(version, &tensor.name);
    classify_rows(tensor, count, is_batch(version, tensor), |index| labels.get(index).map(String::as_str))
}

/// Without a configuration nothing says that an open first dimension is a batch. Several rows surely are one;
/// a single row is answered as for a model without batches, which is what stock clients expect then.
fn is_batch(version: &LoadedVersion, tensor: &ReplyTensor) -> bool {
    if max_batch_size(version) > 0 {
        return true;
    }
    let spec = version.signature.outputs.iter().find(|spec| spec.name == tensor.name);
    let open = matches!(spec.and_then(|spec| spec.dims.as_deref()), Some([Dim::Variable { .. }, _, ..]));
    open && tensor.shape.dims().first().is_some_and(|&rows| rows > 1)
}

/// The labels of an output, in the order of its classes; none where the model has none.
fn labels_of<'a>(version: &'a LoadedVersion, output: &str) -> &'a [String] {
    let index = version.signature.output_index(output);
    index.and_then(|index| version.labels.get(index)?.as_deref()).unwrap_or(&[])
}

fn classify_rows<'a>(
    tensor: &mut ReplyTensor,
    count: usize,
    batched: bool,
    label: impl Fn(usize) -> Option<&'a str>,
) -> Result<(), Status> {
    let width = element_width(tensor)?;
    let (rows, row_elements) = rows_of(&tensor.shape, batched, tensor.data.len() / width);
    let count = count.min(row_elements);
    if rows.saturating_mul(count) > CLASSES_MAX {
        return Err(Status::new(
            Code::TooLarge,
            format!(
                "output `{}`: classification of {rows} rows by {count} gives more than {CLASSES_MAX} texts; ask for fewer",
                tensor.name
            ),
        ));
    }
    let mut payload = Vec::new();
    let values = tensor.data.to_private();
    for row in 0..rows {
        let row = &values[row * row_elements * width..][..row_elements * width];
        push_row(&mut payload, row, tensor.data_type, count, &label);
    }
    let dims = [rows as u64, count as u64];
    tensor.shape =
        Shape::new(if batched { &dims } else { &dims[1..] }).expect("two dimensions are few enough");
    tensor.data_type = DataType::Bytes;
    tensor.data = payload.into();
    Ok(())
}

fn element_width(tensor: &ReplyTensor) -> Result<usize, Status> {
    match tensor.data_type {
        DataType::Bool | DataType::Bytes => Err(Status::invalid(format!(
            "output `{}` is {}, and only numbers can be classified; ask for it without `classification`",
            tensor.name, tensor.data_type
        ))),
        numeric => Ok(numeric.element_bytes().expect("only BYTES has no fixed size")),
    }
}

/// Rows, and elements of each. A batch of nothing has no rows.
fn rows_of(shape: &Shape, batched: bool, elements: usize) -> (usize, usize) {
    let outer = shape.dims().first().and_then(|&length| usize::try_from(length).ok());
    match outer.filter(|_| batched) {
        Some(0) => (0, 0),
        Some(rows) => (rows, elements / rows),
        None => (1, elements),
    }
}

fn push_row<'a>(
    payload: &mut Vec<u8>,
    row: &[u8],
    data_type: DataType,
    count: usize,
    label: &impl Fn(usize) -> Option<&'a str>,
) {
    let width = data_type.element_bytes().expect("checked by element_width");
    let mut best: BinaryHeap<Ranked> = BinaryHeap::with_capacity(count);
    for (index, bytes) in row.chunks_exact(width).enumerate() {
        let ranked = Ranked { value: Number::read(data_type, bytes), index };
        if best.len() < count {
            best.push(ranked);
        } else if let Some(mut worst) = best.peek_mut()
            && ranked < *worst
        {
            *worst = ranked;
        }
    }
    let mut text = String::new();
    for Ranked { value, index } in best.into_sorted_vec() {
        text.clear();
        // Writing to a String can't fail.
        let _ = write!(text, "{value}:{index}");
        if let Some(label) = label(index) {
            text.push(':');
            text.push_str(label);
        }
        push_bytes_element(payload, text.as_bytes()).expect("a label file is smaller than 4 GiB");
    }
}

/// A value and where it stands; smaller is better.
#[derive(Clone, Copy)]
struct Ranked {
    value: Number,
    index: usize,
}

impl Ord for Ranked {
    fn cmp(&self, other: &Ranked) -> Ordering {
        self.value.falling(other.value).then(self.index.cmp(&other.index))
    }
}

impl PartialOrd for Ranked {
    fn partial_cmp(&self, other: &Ranked) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Ranked {
    fn eq(&self, other: &Ranked) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Ranked {}

/// A value of any numeric type. Floats keep their own width, so that they print as short as they are.
#[derive(Clone, Copy)]
enum Number {
    Int(i128),
    Single(f32),
    Double(f64),
}

impl Number {
    fn read(data_type: DataType, bytes: &[u8]) -> Number {
        macro_rules! read {
            ($type:ty) => {
                <$type>::from_le_bytes(bytes.try_into().expect("chunks have the width of the type"))
            };
        }
        match data_type {
            DataType::Uint8 | DataType::Bool => Number::Int(read!(u8).into()),
            DataType::Uint16 => Number::Int(read!(u16).into()),
            DataType::Uint32 => Number::Int(read!(u32).into()),
            DataType::Uint64 => Number::Int(read!(u64).into()),
            DataType::Int8 => Number::Int(read!(i8).into()),
            DataType::Int16 => Number::Int(read!(i16).into()),
            DataType::Int32 => Number::Int(read!(i32).into()),
            DataType::Int64 => Number::Int(read!(i64).into()),
            DataType::Fp16 => Number::Single(read!(f16).into()),
            DataType::Bf16 => Number::Single(read!(bf16).into()),
            DataType::Fp32 => Number::Single(read!(f32)),
            DataType::Fp64 => Number::Double(read!(f64)),
            DataType::Bytes => unreachable!("refused by element_width"),
        }
    }

    fn falling(self, other: Number) -> Ordering {
        fn floats(a: f64, b: f64) -> Ordering {
            b.partial_cmp(&a).unwrap_or_else(|| a.is_nan().cmp(&b.is_nan()))
        }
        match (self, other) {
            (Number::Int(a), Number::Int(b)) => b.cmp(&a),
            (a, b) => floats(a.as_f64(), b.as_f64()),
        }
    }

    fn as_f64(self) -> f64 {
        match self {
            Number::Int(value) => value as f64,
            Number::Single(value) => value.into(),
            Number::Double(value) => value,
        }
    }
}

impl std::fmt::Display for Number {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Number::Int(value) => value.fmt(f),
            Number::Single(value) => value.fmt(f),
            Number::Double(value) => value.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use diolkos_types::BytesElements;

    use super::*;

    fn tensor(data_type: DataType, dims: &[u64], data: Vec<u8>) -> ReplyTensor {
        ReplyTensor {
            name: "y".into(),
            data_type,
            shape: Shape::new(dims).unwrap(),
            data: data.into(),
            place: None,
        }
    }

    fn classified(mut tensor: ReplyTensor, count: usize, batched: bool) -> (String, Vec<String>) {
        let labels = ["zero", "one"];
        classify_rows(&mut tensor, count, batched, |index| labels.get(index).copied()).unwrap();
        assert_eq!(tensor.data_type, DataType::Bytes);
        let payload = tensor.data.to_private();
        let text = BytesElements::new(&payload).map(|e| String::from_utf8(e.unwrap().to_vec()).unwrap());
        (tensor.shape.to_string(), text.collect())
    }

    fn floats(dims: &[u64], values: &[f32]) -> ReplyTensor {
        tensor(DataType::Fp32, dims, values.iter().flat_map(|v| v.to_le_bytes()).collect())
    }

    #[test]
    fn the_best_of_one_long_row() {
        let (shape, best) = classified(floats(&[1, 4], &[0.1, 0.7, f32::NAN, 0.2]), 3, false);
        assert_eq!(shape, "[3]");
        assert_eq!(best, ["0.7:1:one", "0.2:3", "0.1:0:zero"]);
    }

    #[test]
    fn each_row_of_a_batch() {
        let (shape, best) = classified(floats(&[2, 2], &[1.0, 2.0, 4.0, 3.0]), 1, true);
        assert_eq!(shape, "[2,1]");
        assert_eq!(best, ["2:1:one", "4:0:zero"]);
        assert_eq!(classified(floats(&[0, 2], &[]), 5, true).0, "[0,0]");
    }

    #[test]
    fn ties_keep_their_order_and_nan_is_last() {
        let (shape, best) = classified(floats(&[4], &[f32::NAN, 5.0, 5.0, f32::NEG_INFINITY]), 9, false);
        assert_eq!(shape, "[4]");
        assert_eq!(best, ["5:1:one", "5:2", "-inf:3", "NaN:0:zero"]);
    }

    #[test]
    fn the_number_of_texts_is_bounded() {
        let mut huge = tensor(DataType::Uint8, &[CLASSES_MAX as u64 + 1], vec![0; CLASSES_MAX + 1]);
        let refused = classify_rows(&mut huge, usize::MAX, false, |_| None).unwrap_err();
        assert_eq!(refused.code(), Code::TooLarge);
        classify_rows(&mut huge, 5, false, |_| None).unwrap();
        assert_eq!(huge.shape.dims(), [5]);
    }

    #[test]
    fn every_numeric_type_counts() {
        for data_type in DataType::ALL {
            let width = data_type.element_bytes().unwrap_or(1);
            let mut tensor = tensor(data_type, &[2], vec![0; 2 * width]);
            let result = classify_rows(&mut tensor, 1, false, |_| None);
            match data_type {
                DataType::Bool | DataType::Bytes => {
                    assert!(result.unwrap_err().message().contains("`y`"), "{data_type}");
                }
                _ => assert_eq!(tensor.data.to_private()[4..], *b"0:0", "{data_type}"),
            }
        }
        let (_, best) = classified(
            tensor(DataType::Uint64, &[2], [[0xff; 8], [1, 0, 0, 0, 0, 0, 0, 0]].concat()),
            1,
            false,
        );
        assert_eq!(best, ["18446744073709551615:0:zero"]);
    }
}
