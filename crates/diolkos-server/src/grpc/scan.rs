// SPDX-License-Identifier: Apache-2.0
//! Counts what a message would decode to, before it is decoded.
//!
//! prost bounds recursion and never trusts a length, but it allocates one struct per repeated field, and a
//! field can be two bytes long. This walk over the encoded bytes allocates nothing, looks at every byte of
//! payload never, and refuses first.
//!
//! Invariant, checked by a property test: what passes here decodes to at most [`Bounds`], because every
//! field that prost would append is counted here, whatever its wire type.

use std::fmt;

/// Most of each kind in one message.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    /// Inputs, outputs, payloads: each on its own.
    pub(crate) tensors: usize,
    /// Parameters of the request and of all its tensors.
    pub(crate) params: usize,
    /// Dimensions of all inputs.
    pub(crate) dims: usize,
    /// Numbers in typed contents of all inputs.
    pub(crate) elements: usize,
    /// Strings in typed contents of all inputs.
    pub(crate) strings: usize,
    /// Parameters of a load.
    pub(crate) load_params: usize,
}

/// Why a message is not decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refusal {
    /// It is no protobuf message.
    #[error("the message is damaged or no protobuf at all")]
    Malformed,
    /// It holds too many of something.
    #[error("the request has more than {max} {what}, which is the limit")]
    TooMany {
        /// Of what.
        what: Counted,
        /// The bound.
        max: usize,
    },
}

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Counted {
    Inputs,
    Outputs,
    RawInputs,
    Params,
    Dims,
    Elements,
    Strings,
    LoadParams,
}

impl fmt::Display for Counted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Counted::Inputs => "`inputs`",
            Counted::Outputs => "`outputs`",
            Counted::RawInputs => "`raw_input_contents`",
            Counted::Params | Counted::LoadParams => "`parameters`",
            Counted::Dims => "dimensions in `shape` of all inputs together",
            Counted::Elements => "values in typed `contents`; send larger tensors in `raw_input_contents`",
            Counted::Strings => "elements in `bytes_contents`; send larger tensors in `raw_input_contents`",
        })
    }
}

/// A counter that says when it is full.
#[derive(Clone, Copy, Debug)]
struct Count {
    what: Counted,
    left: usize,
    max: usize,
}

impl Count {
    fn new(what: Counted, max: usize) -> Count {
        Count { what, left: max, max }
    }

    fn add(&mut self, count: usize) -> Result<(), Refusal> {
        self.left =
            self.left.checked_sub(count).ok_or(Refusal::TooMany { what: self.what, max: self.max })?;
        Ok(())
    }

    fn used(&self) -> usize {
        self.max - self.left
    }
}

/// What a scan of an inference request found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    /// Values in typed contents: the part of the message whose decoding takes time.
    pub(crate) typed_values: usize,
}

/// One field of a message.
struct Field<'a> {
    number: u64,
    value: Value<'a>,
}

enum Value<'a> {
    /// A varint or fixed-width number.
    Scalar,
    /// Length-delimited: text, bytes, a message or packed numbers.
    Delimited(&'a [u8]),
}

/// Walks over the fields of one message.
struct Fields<'a> {
    rest: &'a [u8],
}

impl<'a> Fields<'a> {
    fn of(message: &'a [u8]) -> Fields<'a> {
        Fields { rest: message }
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8], Refusal> {
        let (head, rest) = self.rest.split_at_checked(count).ok_or(Refusal::Malformed)?;
        self.rest = rest;
        Ok(head)
    }

    fn varint(&mut self) -> Result<u64, Refusal> {
        let mut value = 0u64;
        // Ten bytes carry 64 bits; the tenth may only hold the last of them.
        for shift in (0..64).step_by(7) {
            let byte = self.take(1)?[0];
            if shift == 63 && byte > 1 {
                return Err(Refusal::Malformed);
            }
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(Refusal::Malformed)
    }

    fn field(&mut self) -> Result<Field<'a>, Refusal> {
        let key = self.varint()?;
        let value = match key & 7 {
            0 => {
                self.varint()?;
                Value::Scalar
            }
            1 => {
                self.take(8)?;
                Value::Scalar
            }
            2 => {
                let length = usize::try_from(self.varint()?).map_err(|_| Refusal::Malformed)?;
                Value::Delimited(self.take(length)?)
            }
            5 => {
                self.take(4)?;
                Value::Scalar
            }
            // 3 and 4 are groups, which no version 3 message has; 6 and 7 never were.
            _ => return Err(Refusal::Malformed),
        };
        Ok(Field { number: key >> 3, value })
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Result<Field<'a>, Refusal>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let field = self.field();
        if field.is_err() {
            self.rest = &[];
        }
        Some(field)
    }
}

/// Numbers in a packed list of varints: each ends with a byte below 128.
fn packed_varints(list: &[u8]) -> usize {
    list.iter().filter(|&&byte| byte < 0x80).count()
}

struct InferScan {
    inputs: Count,
    outputs: Count,
    raw_inputs: Count,
    params: Count,
    dims: Count,
    elements: Count,
    strings: Count,
}

/// Scans a `ModelInferRequest`.
pub(crate) fn infer_request(message: &[u8], bounds: &Bounds) -> Result<Found, Refusal> {
    let mut scan = InferScan {
        inputs: Count::new(Counted::Inputs, bounds.tensors),
        outputs: Count::new(Counted::Outputs, bounds.tensors),
        raw_inputs: Count::new(Counted::RawInputs, bounds.tensors),
        params: Count::new(Counted::Params, bounds.params),
        dims: Count::new(Counted::Dims, bounds.dims),
        elements: Count::new(Counted::Elements, bounds.elements),
        strings: Count::new(Counted::Strings, bounds.strings),
    };
    for field in Fields::of(message) {
        let field = field?;
        match (field.number, field.value) {
            (4, _) => scan.params.add(1)?,
            (5, value) => {
                scan.inputs.add(1)?;
                scan.input(value)?;
            }
            (6, value) => {
                scan.outputs.add(1)?;
                scan.output(value)?;
            }
            (7, _) => scan.raw_inputs.add(1)?,
            _ => {}
        }
    }
    Ok(Found { typed_values: scan.elements.used() + scan.strings.used() })
}

impl InferScan {
    fn input(&mut self, value: Value<'_>) -> Result<(), Refusal> {
        let Value::Delimited(input) = value else { return Err(Refusal::Malformed) };
        for field in Fields::of(input) {
            let field = field?;
            match (field.number, field.value) {
                (3, Value::Scalar) => self.dims.add(1)?,
                (3, Value::Delimited(list)) => self.dims.add(packed_varints(list))?,
                (4, _) => self.params.add(1)?,
                (5, value) => self.contents(value)?,
                _ => {}
            }
        }
        Ok(())
    }

    fn output(&mut self, value: Value<'_>) -> Result<(), Refusal> {
        let Value::Delimited(output) = value else { return Err(Refusal::Malformed) };
        for field in Fields::of(output) {
            if field?.number == 2 {
                self.params.add(1)?;
            }
        }
        Ok(())
    }

    fn contents(&mut self, value: Value<'_>) -> Result<(), Refusal> {
        let Value::Delimited(contents) = value else { return Err(Refusal::Malformed) };
        for field in Fields::of(contents) {
            let field = field?;
            match (field.number, field.value) {
                (1..=7, Value::Scalar) => self.elements.add(1)?,
                (1..=5, Value::Delimited(list)) => self.elements.add(packed_varints(list))?,
                (6, Value::Delimited(list)) => self.elements.add(list.len() / 4)?,
                (7, Value::Delimited(list)) => self.elements.add(list.len() / 8)?,
                (8, _) => self.strings.add(1)?,
                _ => {}
            }
        }
        Ok(())
    }
}

/// Scans a `RepositoryModelLoadRequest` or `RepositoryModelUnloadRequest`.
pub(crate) fn repository_request(message: &[u8], bounds: &Bounds) -> Result<(), Refusal> {
    let mut params = Count::new(Counted::LoadParams, bounds.load_params);
    for field in Fields::of(message) {
        if field?.number == 3 {
            params.add(1)?;
        }
    }
    Ok(())
}

#[cfg(test)]
#[path = "scan_tests.rs"]
mod tests;
