// SPDX-License-Identifier: Apache-2.0
//! A tensor's JSON `data` → payload, one value at a time.
//!
//! The values stand in one flat list, or nested exactly as the shape says; the first item of the outermost
//! list decides. Reading stops at the first value too many, of the wrong type, out of range, or nested wrongly.
//!
//! JSON has no word for NaN and infinity: floating-point tensors take the strings `"NaN"`, `"Infinity"` and
//! `"-Infinity"` for them, which is also how replies write them. (Bare words were put in quotes before; see [`super::envelope::quote_bare_floats`].)

use bytes::Bytes;
use diolkos_types::{DataType, RANK_MAX, Shape, Status};
use serde::de::{DeserializeSeed, Deserializer, Error as _, SeqAccess, Visitor};

use crate::oip::element::{self, OutOfRange};
use crate::oip::{self};

/// The payload of the input `name`, whose values stand in `json`.
pub(crate) fn payload_from_json(
    name: &str,
    data_type: DataType,
    shape: &Shape,
    json: &str,
) -> Result<Bytes, Status> {
    if data_type == DataType::Bf16 {
        return Err(Status::invalid(format!(
            "input `{name}`: BF16 has no JSON form; send it as binary data (`parameters.binary_data_size`)"
        )));
    }
    let expected = element::elements_of(name, shape)?;
    let mut reader = Reader {
        name,
        data_type,
        shape,
        expected,
        count: 0,
        layout: Layout::Unknown,
        payload: Vec::with_capacity(capacity(data_type, expected, json.len())),
        error: None,
    };
    let mut json_reader = serde_json::Deserializer::from_str(json);
    let read = Level { reader: &mut reader, depth: 0 }
        .deserialize(&mut json_reader)
        .and_then(|()| json_reader.end());
    if let Err(error) = read {
        // What the reader said is better than what was made of it on the way.
        return Err(reader
            .error
            .take()
            .unwrap_or_else(|| Status::invalid(format!("input `{name}`: data: {error}"))));
    }
    if reader.count != expected {
        return Err(element::wrong_count(name, reader.count, shape, expected));
    }
    Ok(reader.payload.into())
}

/// Room for the payload, never more than the text can fill: a value takes two characters at least.
fn capacity(data_type: DataType, expected: u64, json_bytes: usize) -> usize {
    let values = usize::try_from(expected).unwrap_or(usize::MAX).min(json_bytes / 2 + 1);
    values.saturating_mul(data_type.element_bytes().unwrap_or(8))
}

/// How the values are laid out, known from the first item of the outermost list on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Layout {
    Unknown,
    Flat,
    Nested,
}

struct Reader<'a> {
    name: &'a str,
    data_type: DataType,
    shape: &'a Shape,
    expected: u64,
    count: u64,
    layout: Layout,
    payload: Vec<u8>,
    error: Option<Status>,
}

impl Reader<'_> {
    fn fail<E: serde::de::Error>(&mut self, status: Status) -> E {
        self.error = Some(status);
        E::custom("refused")
    }

    fn fail_nesting<E: serde::de::Error>(&mut self) -> E {
        let (name, shape) = (self.name, self.shape);
        let status = Status::invalid(format!(
            "input `{name}`: the nesting of `data` does not fit its shape {shape}; nest it as the shape says, or send one flat list"
        ));
        self.fail(status)
    }

    /// A list begins inside `depth` others.
    fn begin_list<E: serde::de::Error>(&mut self, depth: usize) -> Result<(), E> {
        if depth == 0 {
            return Ok(());
        }
        if self.layout == Layout::Flat || depth >= self.shape.rank() || depth >= RANK_MAX {
            return Err(self.fail_nesting());
        }
        self.layout = Layout::Nested;
        Ok(())
    }

    /// Another item follows in a list inside `depth` others that has `items` already.
    fn check_room<E: serde::de::Error>(&mut self, depth: usize, items: u64) -> Result<(), E> {
        let nested_length = self.shape.dims().get(depth).copied();
        if self.layout == Layout::Nested && nested_length.is_none_or(|length| items > length) {
            return Err(self.fail_nesting());
        }
        Ok(())
    }

    fn end_list<E: serde::de::Error>(&mut self, depth: usize, items: u64) -> Result<(), E> {
        if self.layout == Layout::Nested && self.shape.dims().get(depth) != Some(&items) {
            return Err(self.fail_nesting());
        }
        Ok(())
    }

    /// A value stands inside `depth` lists.
    fn begin_value<E: serde::de::Error>(&mut self, depth: usize) -> Result<(), E> {
        let fits = match (depth, self.layout) {
            // A bare value is the nested form of a scalar.
            (0, _) => self.shape.rank() == 0,
            (1, Layout::Unknown | Layout::Flat) => {
                self.layout = Layout::Flat;
                true
            }
            (depth, _) => depth == self.shape.rank(),
        };
        if !fits {
            return Err(self.fail_nesting());
        }
        if self.count >= self.expected {
            let status = element::wrong_count(
                self.name,
                format_args!("more than {}", self.expected),
                self.shape,
                self.expected,
            );
            return Err(self.fail(status));
        }
        Ok(())
    }

    fn end_value<E: serde::de::Error>(
        &mut self,
        pushed: Result<(), OutOfRange>,
        given: impl std::fmt::Display,
    ) -> Result<(), E> {
        if pushed.is_err() {
            let status = element::wrong_element(self.name, self.count, given, self.data_type);
            return Err(self.fail(status));
        }
        self.count += 1;
        Ok(())
    }
}

/// Reads what stands inside `depth` lists.
struct Level<'r, 'a> {
    reader: &'r mut Reader<'a>,
    depth: usize,
}

impl<'de> DeserializeSeed<'de> for Level<'_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<(), D::Error> {
        from.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Level<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} values ({})", self.reader.data_type, element::range_of(self.reader.data_type))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        let Level { reader, depth } = self;
        reader.begin_list::<A::Error>(depth)?;
        let mut items = 0;
        while list.next_element_seed(Level { reader: &mut *reader, depth: depth + 1 })?.is_some() {
            items += 1;
            reader.check_room::<A::Error>(depth, items)?;
        }
        reader.end_list(depth, items)
    }

    fn visit_bool<E: serde::de::Error>(self, value: bool) -> Result<(), E> {
        self.reader.begin_value::<E>(self.depth)?;
        let pushed = match self.reader.data_type {
            DataType::Bool => {
                self.reader.payload.push(u8::from(value));
                Ok(())
            }
            _ => Err(OutOfRange),
        };
        self.reader.end_value(pushed, value)
    }

    fn visit_u64<E: serde::de::Error>(self, value: u64) -> Result<(), E> {
        self.reader.begin_value::<E>(self.depth)?;
        let pushed = element::push_integer(&mut self.reader.payload, self.reader.data_type, value.into());
        self.reader.end_value(pushed, value)
    }

    fn visit_i64<E: serde::de::Error>(self, value: i64) -> Result<(), E> {
        self.reader.begin_value::<E>(self.depth)?;
        let pushed = element::push_integer(&mut self.reader.payload, self.reader.data_type, value.into());
        self.reader.end_value(pushed, value)
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<(), E> {
        self.reader.begin_value::<E>(self.depth)?;
        let pushed = element::push_float(&mut self.reader.payload, self.reader.data_type, value);
        self.reader.end_value(pushed, value)
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<(), E> {
        let Level { reader, depth } = self;
        reader.begin_value::<E>(depth)?;
        if reader.data_type == DataType::Bytes {
            let pushed = oip::bytes::push(&mut reader.payload, reader.name, reader.count, text.as_bytes());
            pushed.map_err(|status| reader.fail::<E>(status))?;
            return reader.end_value(Ok(()), "");
        }
        let special = special_float(text).filter(|_| element::is_float(reader.data_type)).ok_or(OutOfRange);
        let pushed =
            special.and_then(|value| element::push_float(&mut reader.payload, reader.data_type, value));
        let shown: String = text.chars().take(40).collect();
        reader.end_value(pushed, format_args!("\"{}\"", shown.escape_debug()))
    }

    fn visit_unit<E: serde::de::Error>(self) -> Result<(), E> {
        self.reader.begin_value::<E>(self.depth)?;
        self.reader.end_value(Err(OutOfRange), "null")
    }

    fn visit_map<A: serde::de::MapAccess<'de>>(self, _: A) -> Result<(), A::Error> {
        self.reader.begin_value::<A::Error>(self.depth)?;
        self.reader.end_value::<A::Error>(Err(OutOfRange), "an object")?;
        Err(A::Error::custom("an object is no value"))
    }
}

/// The numbers that JSON has no word for.
fn special_float(text: &str) -> Option<f64> {
    match text {
        "NaN" => Some(f64::NAN),
        "Infinity" => Some(f64::INFINITY),
        "-Infinity" => Some(f64::NEG_INFINITY),
        _ => None,
    }
}

#[cfg(test)]
#[path = "data_tests.rs"]
mod tests;
