// SPDX-License-Identifier: Apache-2.0
//! Arrays of numpy, read and written.
//!
//! The format is a line of Python in front of the elements' bytes (numpy.lib.format, versions 1 to 3). Both
//! sides agree on the layout of the elements, so the payload is taken as it is; big-endian and column-major
//! arrays are put in order first.

use std::io::{self, Write};

use bytes::Bytes;
use diolkos_types::{BytesElements, DataType, Shape, push_bytes_element};

use super::{InputError, Wanted, fit};
use crate::tensor::Value;

fn bad(text: impl Into<String>) -> InputError {
    InputError::Npy(text.into())
}

/// What the header says.
#[derive(Debug, PartialEq, Eq)]
struct Header {
    element: Element,
    column_major: bool,
    shape: Shape,
}

/// numpy's type string, such as `<f4`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Element {
    big_endian: bool,
    kind: char,
    /// In bytes; for `U`, in code points.
    count: usize,
}

impl Element {
    fn parse(text: &str) -> Option<Element> {
        let mut chars = text.chars();
        let (order, kind) = (chars.next()?, chars.next()?);
        let big_endian = match order {
            '<' | '|' => false,
            '>' => true,
            _ => return None,
        };
        Some(Element { big_endian, kind, count: chars.as_str().parse().ok()? })
    }

    fn bytes(self) -> Option<usize> {
        self.count.checked_mul(if self.kind == 'U' { 4 } else { 1 })
    }
}

/// The header, and the bytes behind it.
fn header(contents: &[u8]) -> Result<(Header, &[u8]), InputError> {
    let cut_off = || bad("its npy header is cut off");
    let (length, rest) = match contents.get(6..).ok_or_else(cut_off)? {
        [1, _, a, b, rest @ ..] => (usize::from(u16::from_le_bytes([*a, *b])), rest),
        [2 | 3, _, a, b, c, d, rest @ ..] => (u32::from_le_bytes([*a, *b, *c, *d]) as usize, rest),
        [version @ 4..=u8::MAX, ..] => {
            return Err(bad(format!("it is in version {version} of npy; 1 to 3 are known")));
        }
        _ => return Err(cut_off()),
    };
    let (text, payload) = rest.split_at_checked(length).ok_or_else(cut_off)?;
    let text = std::str::from_utf8(text).map_err(|_| bad("its npy header is no text"))?;
    let field = |name: &str| {
        let after = text.split_once(&format!("'{name}':")).map(|(_, after)| after.trim_start());
        after.ok_or_else(|| bad(format!("its npy header has no `{name}`")))
    };
    let descr = field("descr")?;
    if descr.starts_with('[') {
        return Err(bad("it has structured elements; save plain numbers or text"));
    }
    let descr =
        descr.strip_prefix('\'').and_then(|rest| rest.split_once('\'')).map_or("", |(descr, _)| descr);
    let element =
        Element::parse(descr).ok_or_else(|| bad(format!("its elements are `{descr}`, which is unknown")))?;
    let column_major = field("fortran_order")?.starts_with("True");
    let shape = field("shape")?.strip_prefix('(').and_then(|rest| rest.split_once(')'));
    let (shape, _) = shape.ok_or_else(|| bad("its npy header has no shape"))?;
    let lengths = shape.split(',').map(str::trim).filter(|length| !length.is_empty()).map(str::parse);
    let lengths: Vec<u64> =
        lengths.collect::<Result<_, _>>().map_err(|_| bad(format!("its shape is ({shape})")))?;
    let shape = Shape::new(&lengths).map_err(|error| bad(format!("it {error}")))?;
    Ok((Header { element, column_major, shape }, payload))
}

/// Reads an array.
pub(super) fn read(contents: &[u8], wanted: &Wanted) -> Result<Value, InputError> {
    let (Header { element, column_major, shape }, rest) = header(contents)?;
    let size = element.bytes().ok_or_else(|| bad("its elements are too large"))?;
    let total = shape.elements().and_then(|count| usize::try_from(count).ok()?.checked_mul(size));
    let payload = total.and_then(|total| rest.get(..total)).ok_or_else(|| {
        bad(format!("it is cut off: {} bytes follow a header that says {shape} of {size} bytes", rest.len()))
    })?;
    let ordered = if column_major { row_major(payload, shape.dims(), size) } else { payload.to_vec() };
    let (data_type, data) = elements(element, ordered)?;
    Ok(Value { name: wanted.name.clone(), data_type, shape: fit(shape, &wanted.dims), data })
}

fn elements(element: Element, mut data: Vec<u8>) -> Result<(DataType, Bytes), InputError> {
    let data_type = match (element.kind, element.count) {
        ('b', 1) => DataType::Bool,
        ('u', 1) => DataType::Uint8,
        ('u', 2) => DataType::Uint16,
        ('u', 4) => DataType::Uint32,
        ('u', 8) => DataType::Uint64,
        ('i', 1) => DataType::Int8,
        ('i', 2) => DataType::Int16,
        ('i', 4) => DataType::Int32,
        ('i', 8) => DataType::Int64,
        ('f', 2) => DataType::Fp16,
        ('f', 4) => DataType::Fp32,
        ('f', 8) => DataType::Fp64,
        ('S', _) => return text(element, &data, |piece| Some(piece.to_vec())),
        ('U', _) => return text(element, &data, |piece| utf8(piece, element.big_endian)),
        (kind, count) => {
            let message = format!("its elements are `{kind}{count}`, which no tensor can hold");
            return Err(bad(format!("{message}; save bool, int, uint, float or text")));
        }
    };
    if element.big_endian
        && let Some(size @ 2..) = data_type.element_bytes()
    {
        data.chunks_exact_mut(size).for_each(<[u8]>::reverse);
    }
    Ok((data_type, data.into()))
}

/// Text of a fixed length, filled up with zeros.
fn text(
    element: Element,
    data: &[u8],
    convert: impl Fn(&[u8]) -> Option<Vec<u8>>,
) -> Result<(DataType, Bytes), InputError> {
    let size = element.bytes().filter(|size| *size > 0).ok_or_else(|| bad("its texts are all empty"))?;
    let mut payload = Vec::new();
    for piece in data.chunks_exact(size) {
        let piece = convert(piece).ok_or_else(|| bad("a text in it is no valid Unicode"))?;
        let length = piece.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        push_bytes_element(&mut payload, &piece[..length]).map_err(|_| bad("a text in it is too long"))?;
    }
    Ok((DataType::Bytes, payload.into()))
}

fn utf8(piece: &[u8], big: bool) -> Option<Vec<u8>> {
    let points = piece.chunks_exact(4).map(|point| {
        let point: [u8; 4] = point.try_into().expect("chunks of four");
        char::from_u32(if big { u32::from_be_bytes(point) } else { u32::from_le_bytes(point) })
    });
    Some(points.collect::<Option<String>>()?.into_bytes())
}

/// Elements in row-major order, from column-major ones.
fn row_major(payload: &[u8], dims: &[u64], size: usize) -> Vec<u8> {
    // The caller has these many bytes in memory, so lengths fit usize.
    let lengths: Vec<usize> =
        dims.iter().map(|&length| usize::try_from(length).unwrap_or(usize::MAX)).collect();
    let mut strides = vec![0; lengths.len()];
    let mut stride = size;
    for (slot, length) in strides.iter_mut().zip(&lengths) {
        *slot = stride;
        stride = stride.saturating_mul(*length);
    }
    let mut ordered = Vec::with_capacity(payload.len());
    let mut index = vec![0; lengths.len()];
    while ordered.len() < payload.len() {
        let from: usize = index.iter().zip(&strides).map(|(index, stride)| index * stride).sum();
        ordered.extend_from_slice(&payload[from..from + size]);
        for (index, length) in index.iter_mut().zip(&lengths).rev() {
            *index += 1;
            if *index < *length {
                break;
            }
            *index = 0;
        }
    }
    ordered
}

/// Writes a tensor as an array. BF16, which numpy lacks, becomes the `uint16` of its bits.
pub fn write(out: &mut dyn Write, value: &Value) -> io::Result<()> {
    let (descr, data) = match value.data_type {
        DataType::Bool => ("|b1".to_owned(), value.data.clone()),
        DataType::Uint8 => ("|u1".to_owned(), value.data.clone()),
        DataType::Int8 => ("|i1".to_owned(), value.data.clone()),
        DataType::Uint16 | DataType::Bf16 => ("<u2".to_owned(), value.data.clone()),
        DataType::Uint32 => ("<u4".to_owned(), value.data.clone()),
        DataType::Uint64 => ("<u8".to_owned(), value.data.clone()),
        DataType::Int16 => ("<i2".to_owned(), value.data.clone()),
        DataType::Int32 => ("<i4".to_owned(), value.data.clone()),
        DataType::Int64 => ("<i8".to_owned(), value.data.clone()),
        DataType::Fp16 => ("<f2".to_owned(), value.data.clone()),
        DataType::Fp32 => ("<f4".to_owned(), value.data.clone()),
        DataType::Fp64 => ("<f8".to_owned(), value.data.clone()),
        DataType::Bytes => fixed_length_text(&value.data),
    };
    let lengths: Vec<String> = value.shape.dims().iter().map(u64::to_string).collect();
    let comma = if lengths.len() == 1 { "," } else { "" };
    let dict =
        format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': ({}{comma}), }}", lengths.join(", "));
    // Magic, version and length are 10 bytes; the format wants the payload to begin at a multiple of 64.
    let filled = (10 + dict.len() + 1).next_multiple_of(64) - 10;
    let length = u16::try_from(filled).expect("16 dimensions of 20 digits stay far below 64 KiB");
    out.write_all(b"\x93NUMPY\x01\x00")?;
    out.write_all(&length.to_le_bytes())?;
    writeln!(out, "{dict:<width$}", width = filled - 1)?;
    out.write_all(&data)
}

fn fixed_length_text(data: &[u8]) -> (String, Bytes) {
    let elements: Vec<&[u8]> = BytesElements::new(data).map_while(Result::ok).collect();
    let size = elements.iter().map(|element| element.len()).max().unwrap_or(0).max(1);
    let mut fixed = Vec::with_capacity(elements.len() * size);
    for element in elements {
        fixed.extend_from_slice(element);
        fixed.resize(fixed.len() + size - element.len(), 0);
    }
    (format!("|S{size}"), fixed.into())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn wanted() -> Wanted {
        Wanted { name: "x".into(), data_type: DataType::Fp32, dims: vec![-1] }
    }

    fn array(descr: &str, order: &str, shape: &str, data: &[u8]) -> Vec<u8> {
        let dict = format!("{{'descr': '{descr}', 'fortran_order': {order}, 'shape': {shape}, }}\n");
        let length = u16::try_from(dict.len()).unwrap().to_le_bytes();
        [b"\x93NUMPY\x01\x00", &length[..], dict.as_bytes(), data].concat()
    }

    #[test]
    fn column_major_and_big_endian_are_put_in_order() {
        let value = read(&array("|u1", "True", "(2, 3)", &[1, 4, 2, 5, 3, 6]), &wanted()).unwrap();
        assert_eq!(value.data[..], [1, 2, 3, 4, 5, 6]);
        let value = read(&array(">u2", "False", "(2,)", &[0, 1, 0, 2]), &wanted()).unwrap();
        assert_eq!((value.data_type, &value.data[..]), (DataType::Uint16, &[1, 0, 2, 0][..]));
    }

    #[test]
    fn text_becomes_bytes() {
        let value = read(&array("|S3", "False", "(2,)", b"ab\0abc"), &wanted()).unwrap();
        assert_eq!(value.json(), ["ab", "abc"]);
        let points = ['ü', '\0'].map(|c| u32::from(c).to_le_bytes()).concat();
        let value = read(&array("<U2", "False", "(1,)", &points), &wanted()).unwrap();
        assert_eq!(value.json(), ["ü"]);
    }

    #[test]
    fn damaged_and_foreign_arrays_are_refused() {
        let told = |contents: &[u8]| read(contents, &wanted()).unwrap_err().to_string();
        assert!(told(&array("<f4", "False", "(2,)", &[0; 7])).contains("cut off: 7 bytes"));
        assert!(told(&array("<f4", "False", "(4611686018427387904, 4)", &[])).contains("cut off"));
        assert!(told(&array("<c8", "False", "(1,)", &[0; 8])).contains("no tensor can hold"));
        assert!(told(b"\x93NUMPY\x01\x00").contains("header is cut off"));
        assert!(told(b"\x93NUMPY\x09\x00\0\0").contains("version 9"));
        assert!(told(&array("<f4", "False", "(2, -1)", &[])).contains("its shape is (2, -1)"));
        assert!(told(&array("f4", "False", "(2,)", &[])).contains("unknown"));
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back(
            data_type in proptest::sample::select(&DataType::ALL[..]),
            rows in 0u64..4,
            columns in 0u64..4,
            seed: u8,
        ) {
            let count = rows * columns;
            let data: Vec<u8> = match data_type.payload_bytes(count) {
                Some(size) => (0..size).map(|i| (i as u8).wrapping_mul(31).wrapping_add(seed) & 1).collect(),
                None => {
                    let mut data = Vec::new();
                    (0..count).for_each(|i| push_bytes_element(&mut data, &vec![b'a'; i as usize]).unwrap());
                    data
                }
            };
            let shape = Shape::new(&[rows, columns]).unwrap();
            let value = Value { name: "x".into(), data_type, shape, data: data.into() };
            let mut file = Vec::new();
            write(&mut file, &value).unwrap();
            let back = read(&file, &wanted()).unwrap();
            let stored = if data_type == DataType::Bf16 { DataType::Uint16 } else { data_type };
            prop_assert_eq!(back, Value { data_type: stored, ..value });
        }

        #[test]
        fn never_panics(tail in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = read(&[b"\x93NUMPY\x01\x00".as_slice(), &tail].concat(), &wanted());
        }
    }
}
