// SPDX-License-Identifier: Apache-2.0
//! The null backend: models that are a few lines of text and answer zeros.
//!
//! Tests, benchmarks and the plumbing of a new installation need models that cost nothing. A `*.null`
//! file declares tensors, one per line, in this grammar (fields are separated by blanks):
//!
//! ```text
//! # a comment; empty lines are ignored
//! input  NAME TYPE [DIM,DIM,...]
//! output NAME TYPE [DIM,DIM,...]
//! resident BYTES
//! ```
//!
//! * `TYPE` is a data type of the Open Inference Protocol, such as `FP32`.
//! * `DIM` is a length, `-1`, or a symbol such as `batch`. `-1` and symbols vary between 0 and
//!   [`LoadOptions::variable_dim_max`]. No blanks inside the brackets; `[]` is a scalar.
//! * A symbol stands for one length in the whole request: inputs that disagree are refused.
//! * An output's symbol takes the length that the inputs gave it. An output's `-1` takes the length of the
//!   first input whose dimension at the same position varies. One that nothing determines is an error.
//! * `resident` (at most once) is what the model claims to keep in memory. Nothing is allocated for it; it
//!   lets tests of eviction and memory limits work with models of any size.
//!
//! Answers are all zero bytes: zeros, false, and for `BYTES` empty elements.
//!
//! Invariant: what a loaded operation knows about an output's dimensions is complete, so a run can only be
//! refused for the values of the lengths, never for a missing one.

use std::sync::Arc;

use diolkos_types::{DataType, Dim, RANK_MAX, Shape, Signature, TensorSpec};

use crate::{Backend, Format, LoadError, LoadOptions, ModelFiles, Operation, RunError, Work};

const NAME: &str = "null";

/// Longest file that is read. Hundreds of tensors fit, and parsing stays far below a millisecond.
pub const FILE_BYTES_MAX: usize = 64 * 1024;

/// Most tensors that a file may declare, inputs and outputs together.
pub const TENSORS_MAX: usize = 256;

/// Loads `*.null` files.
#[derive(Clone, Copy, Debug, Default)]
pub struct NullBackend;

impl Backend for NullBackend {
    fn name(&self) -> &'static str {
        NAME
    }

    fn formats(&self) -> &[Format] {
        &[Format { extension: "null", platform: "null" }]
    }

    fn load(&self, files: &ModelFiles, options: &LoadOptions) -> Result<Arc<dyn Operation>, LoadError> {
        let operation = parse(files.entry_contents()?, options.variable_dim_max)?;
        if operation.resident_bytes > options.resident_bytes_max {
            return Err(LoadError::TooLarge {
                needed: operation.resident_bytes,
                limit: options.resident_bytes_max,
            });
        }
        Ok(Arc::new(operation))
    }
}

/// Where the length of one output dimension comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Length {
    Fixed(u64),
    /// Dimension `dim` of input `input`.
    From {
        input: usize,
        dim: usize,
    },
}

/// Two input dimensions that carry the same symbol.
#[derive(Clone, Debug)]
struct SameLength {
    symbol: Box<str>,
    first: (usize, usize),
    other: (usize, usize),
}

/// A loaded `*.null` model.
#[derive(Clone, Debug)]
pub struct NullOperation {
    signature: Signature,
    outputs: Vec<Vec<Length>>,
    same: Vec<SameLength>,
    resident_bytes: u64,
}

impl NullOperation {
    fn shape_of(&self, output: usize, inputs: &[Option<Shape>]) -> Option<Shape> {
        let mut shape = Shape::SCALAR;
        for &length in &self.outputs[output] {
            let length = match length {
                Length::Fixed(length) => length,
                Length::From { input, dim } => *inputs.get(input)?.as_ref()?.dims().get(dim)?,
            };
            shape.push(length).ok()?;
        }
        Some(shape)
    }

    fn bytes_of(&self, output: usize, shape: &Shape) -> Option<usize> {
        // An empty BYTES element is its length alone.
        let data_type = match self.signature.outputs[output].data_type {
            DataType::Bytes => DataType::Uint32,
            fixed => fixed,
        };
        data_type.payload_bytes(shape.elements()?)
    }

    fn check_symbols(&self, shapes: &[Option<Shape>]) -> Result<(), RunError> {
        let length = |(input, dim): (usize, usize)| shapes.get(input)?.as_ref()?.dims().get(dim).copied();
        for SameLength { symbol, first, other } in &self.same {
            let (expected, given) = (length(*first), length(*other));
            if let (Some(expected), Some(given)) = (expected, given)
                && expected != given
            {
                let earlier = &self.signature.inputs[first.0].name;
                return Err(RunError::InvalidInput {
                    tensor: self.signature.inputs[other.0].name.clone(),
                    reason: format!(
                        "has {given} in dimension {} (`{symbol}`), and dimension {} of `{earlier}` has {expected}; \
                         both must be equal",
                        other.1, first.1
                    ),
                });
            }
        }
        Ok(())
    }
}

impl Operation for NullOperation {
    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn resident_bytes(&self) -> u64 {
        self.resident_bytes
    }

    fn peak_bytes(&self, shapes: &[Option<Shape>], _input_bytes: u64) -> Option<u64> {
        (0..self.outputs.len()).try_fold(0u64, |sum, output| {
            let shape = self.shape_of(output, shapes)?;
            sum.checked_add(self.bytes_of(output, &shape)? as u64)
        })
    }

    fn run(&self, work: &mut Work) -> Result<(), RunError> {
        work.check_cancelled()?;
        let shapes: Vec<Option<Shape>> =
            work.inputs().map(|input| input.map(|tensor| tensor.shape)).collect();
        self.check_symbols(&shapes)?;
        work.computes_nothing();
        for (output, spec) in self.signature.outputs.iter().enumerate() {
            if !work.wants(output) {
                continue;
            }
            let placed = self.shape_of(output, &shapes).and_then(|s| Some((s, self.bytes_of(output, &s)?)));
            let Some((shape, bytes)) = placed else {
                let what = format!("output `{}` would be larger than memory can be", spec.name);
                return Err(RunError::Unsupported { backend: NAME, what });
            };
            // Claimed before it is allocated, so a length that a tenant chose costs nothing.
            work.output(&self.signature, output, spec.data_type, shape, bytes)?.give(vec![0; bytes]);
        }
        Ok(())
    }
}

/// The text of a `*.null` model with these tensors, for tests: `model_text(&["x FP32 [-1]"], &["y FP32 [-1]"])`.
#[must_use]
pub fn model_text(inputs: &[&str], outputs: &[&str]) -> String {
    let inputs = inputs.iter().map(|line| format!("input {line}\n"));
    inputs.chain(outputs.iter().map(|line| format!("output {line}\n"))).collect()
}

/// Reads a `*.null` file. Never panics, and allocates no more than a small multiple of the file.
pub fn parse(contents: &[u8], variable_dim_max: u64) -> Result<NullOperation, LoadError> {
    if contents.len() > FILE_BYTES_MAX {
        return Err(LoadError::TooLarge { needed: contents.len() as u64, limit: FILE_BYTES_MAX as u64 });
    }
    let text = std::str::from_utf8(contents)
        .map_err(|error| invalid(format!("byte {} is not UTF-8 text", error.valid_up_to())))?;
    let mut draft = Draft::default();
    for (index, line) in text.lines().enumerate() {
        draft.line(line).map_err(|reason| invalid(format!("line {}: {reason}", index + 1)))?;
    }
    draft.finish(variable_dim_max)
}

fn invalid(reason: String) -> LoadError {
    LoadError::Invalid { reason }
}

/// A dimension as written.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Written {
    Length(u64),
    Open,
    Symbol(Box<str>),
}

#[derive(Debug)]
struct Declared {
    name: Box<str>,
    data_type: DataType,
    dims: Vec<Written>,
}

impl Declared {
    fn spec(&self, max: u64) -> TensorSpec {
        let dims: Vec<Dim> = self
            .dims
            .iter()
            .map(|dim| match dim {
                Written::Length(length) => Dim::Fixed(*length),
                Written::Open | Written::Symbol(_) => Dim::Variable { max },
            })
            .collect();
        TensorSpec::new(&self.name, self.data_type, &dims)
    }
}

#[derive(Debug, Default)]
struct Draft {
    inputs: Vec<Declared>,
    outputs: Vec<Declared>,
    resident: Option<u64>,
}

impl Draft {
    fn line(&mut self, line: &str) -> Result<(), String> {
        let fields: Vec<&str> = line.split_ascii_whitespace().take(6).collect();
        match fields.as_slice() {
            [] => Ok(()),
            [first, ..] if first.starts_with('#') => Ok(()),
            ["input", rest @ ..] => declare(&mut self.inputs, self.outputs.len(), "input", rest),
            ["output", rest @ ..] => declare(&mut self.outputs, self.inputs.len(), "output", rest),
            ["resident", number] if self.resident.is_none() => {
                let bytes = number.parse().map_err(|_| format!("`{number}` is no number of bytes"))?;
                self.resident = Some(bytes);
                Ok(())
            }
            ["resident", _] => Err("`resident` was given before; remove one of the two".into()),
            ["resident", ..] => Err("`resident` takes one number of bytes".into()),
            [other, ..] => Err(format!("`{other}` begins no line; known are input, output, resident and #")),
        }
    }

    fn finish(self, variable_dim_max: u64) -> Result<NullOperation, LoadError> {
        if self.inputs.is_empty() && self.outputs.is_empty() {
            return Err(invalid("it declares no tensor; write lines such as `input x FP32 [-1,4]`".into()));
        }
        let outputs = self.outputs.iter().map(|output| self.lengths(output)).collect::<Result<_, _>>()?;
        let same = self.same_lengths();
        let specs = |declared: &[Declared]| declared.iter().map(|d| d.spec(variable_dim_max)).collect();
        let signature = Signature { inputs: specs(&self.inputs), outputs: specs(&self.outputs) };
        Ok(NullOperation { signature, outputs, same, resident_bytes: self.resident.unwrap_or(0) })
    }

    fn lengths(&self, output: &Declared) -> Result<Vec<Length>, LoadError> {
        let length = |(position, dim): (usize, &Written)| {
            let found = match dim {
                Written::Length(length) => return Ok(Length::Fixed(*length)),
                Written::Open => self.inputs.iter().enumerate().find_map(|(input, declared)| {
                    let varies = !matches!(declared.dims.get(position)?, Written::Length(_));
                    varies.then_some(Length::From { input, dim: position })
                }),
                Written::Symbol(_) => self.first_use(dim).map(|(input, dim)| Length::From { input, dim }),
            };
            found.ok_or_else(|| {
                let name = &output.name;
                invalid(format!(
                    "nothing determines dimension {position} of output `{name}`: no input has it"
                ))
            })
        };
        output.dims.iter().enumerate().map(length).collect()
    }

    fn first_use(&self, symbol: &Written) -> Option<(usize, usize)> {
        self.inputs.iter().enumerate().find_map(|(input, declared)| {
            declared.dims.iter().position(|dim| dim == symbol).map(|dim| (input, dim))
        })
    }

    fn same_lengths(&self) -> Vec<SameLength> {
        let mut same = Vec::new();
        for (input, declared) in self.inputs.iter().enumerate() {
            for (position, dim) in declared.dims.iter().enumerate() {
                let Written::Symbol(symbol) = dim else { continue };
                let other = (input, position);
                match self.first_use(dim) {
                    Some(first) if first != other => {
                        same.push(SameLength { symbol: symbol.clone(), first, other });
                    }
                    Some(_) | None => {}
                }
            }
        }
        same
    }
}

fn declare(list: &mut Vec<Declared>, others: usize, kind: &str, fields: &[&str]) -> Result<(), String> {
    let &[name, data_type, dims] = fields else {
        return Err(format!("`{kind}` takes a name, a type and dimensions, such as `{kind} x FP32 [-1,4]`"));
    };
    if list.iter().any(|known| &*known.name == name) {
        return Err(format!("{kind} `{name}` was declared before; names are unique"));
    }
    if list.len() + others >= TENSORS_MAX {
        return Err(format!("more than {TENSORS_MAX} tensors"));
    }
    let data_type = data_type.parse().map_err(|error| format!("`{data_type}`: {error}"))?;
    list.push(Declared { name: name.into(), data_type, dims: written_dims(dims)? });
    Ok(())
}

fn written_dims(text: &str) -> Result<Vec<Written>, String> {
    let inside = text
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
        .ok_or_else(|| format!("`{text}` is no list of dimensions; write it as [-1,4], without blanks"))?;
    if inside.is_empty() {
        return Ok(Vec::new());
    }
    let dims: Vec<Written> =
        inside.split(',').take(RANK_MAX + 1).map(written_dim).collect::<Result<_, _>>()?;
    if dims.len() > RANK_MAX {
        return Err(format!("more than {RANK_MAX} dimensions"));
    }
    Ok(dims)
}

fn written_dim(text: &str) -> Result<Written, String> {
    if text == "-1" {
        return Ok(Written::Open);
    }
    let symbol = |text: &str| {
        text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
            && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
    };
    if symbol(text) {
        return Ok(Written::Symbol(text.into()));
    }
    // The protocols carry lengths as signed numbers.
    match text.parse::<i64>() {
        Ok(length) if length >= 0 => Ok(Written::Length(length as u64)),
        Ok(_) | Err(_) => {
            Err(format!("`{text}` is no dimension; write a length, -1 or a name such as batch"))
        }
    }
}

/// An operation without inputs and outputs, for tests that need one and no file.
#[must_use]
pub fn noop() -> Arc<dyn Operation> {
    Arc::new(NullOperation {
        signature: Signature::default(),
        outputs: Vec::new(),
        same: Vec::new(),
        resident_bytes: 0,
    })
}

#[cfg(test)]
mod tests;
