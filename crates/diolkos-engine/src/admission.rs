// SPDX-License-Identifier: Apache-2.0
//! `Request` → `Admitted`: every check that needs the model's signature, in one place.
//!
//! An [`Admitted`] can be made only here. It holds the version it was checked against, so a reload in
//! between changes nothing for it, and it holds the memory that was reserved for it.

use std::sync::Arc;

use diolkos_backend::{CancelFlag, Tensor, Work};
use diolkos_types::{BytesElements, BytesError, DataType, Dim, Mismatch, RANK_MAX, Shape, TensorSpec};

use crate::lease::Lease;
use crate::limits;
use crate::memory::{Memory, Refused, Reservation};
use crate::request::{NamedTensor, Request};
use crate::sched::{Class, Share};
use crate::store::LoadedVersion;

/// A request that passed every check.
pub(crate) struct Admitted {
    pub(crate) version: Arc<LoadedVersion>,
    pub(crate) work: Work,
    /// Wanted outputs in the wanted order; `None` = all.
    pub(crate) output_order: Option<Vec<usize>>,
    /// Rows of the batch, for the statistics.
    pub(crate) rows: u64,
    pub(crate) class: Class,
    pub(crate) deadline: Option<std::time::Instant>,
    /// What its tenant may have on the device.
    pub(crate) share: Share,
    pub(crate) memory: Reservation,
    /// Bytes to reserve on top when the job begins to run, because its need could not be told.
    pub(crate) reserve_at_start: u64,
    /// Bytes of its inputs.
    pub(crate) input_bytes: u64,
}

/// Why a request is not admitted. Shapes are boxed, because a `Result` is as large as its largest error.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AdmissionError {
    #[error("{count} {what} were given and the limit is {limit}", limit = limits::TENSORS_MAX)]
    TooManyTensors { what: &'static str, count: usize },
    #[error("unknown input `{name}`; the inputs are {known}")]
    UnknownInput { name: Box<str>, known: String },
    #[error("input `{name}` is given twice")]
    DuplicateInput { name: Box<str> },
    #[error("input `{name}` is missing: {data_type} {dims}")]
    MissingInput { name: Box<str>, data_type: DataType, dims: String },
    #[error("unknown output `{name}`; the outputs are {known}")]
    UnknownOutput { name: Box<str>, known: String },
    #[error("output `{name}` is asked for twice")]
    DuplicateOutput { name: Box<str> },
    #[error("input `{name}` has data type {given} and the model takes {expected}")]
    DataType { name: Box<str>, given: DataType, expected: DataType },
    #[error("input `{name}` has shape {given} and the model takes {expected}: {detail}")]
    Shape { name: Box<str>, given: Box<Shape>, expected: String, detail: ShapeDetail },
    #[error("input `{name}` has shape {given}, whose size overflows")]
    ShapeOverflow { name: Box<str>, given: Box<Shape> },
    #[error("input `{name}` has {given} bytes of data, and {data_type} of shape {shape} takes {expected}")]
    ByteCount { name: Box<str>, given: usize, expected: usize, data_type: DataType, shape: Box<Shape> },
    #[error("input `{name}` has {given} BYTES elements and its shape {shape} takes {expected}")]
    ElementCount { name: Box<str>, given: u64, expected: u64, shape: Box<Shape> },
    #[error("input `{name}` is no valid BYTES payload")]
    Bytes { name: Box<str>, source: BytesError },
    #[error("the request would need about {needed} bytes and {}", of_memory(.refused))]
    Memory { needed: u64, refused: Refused },
}

/// The second half of a sentence. What others use is nobody's business, so only a tenant's own use is told.
fn of_memory(refused: &Refused) -> String {
    match refused {
        Refused::TooLarge { limit, own: false } => {
            format!("one request may use {limit} (`limits.request_memory_max`)")
        }
        Refused::TooLarge { limit, own: true } => {
            format!("your requests may use {limit} together (`requests_memory_max` of your tenant)")
        }
        Refused::Full { used, limit, own: true } => {
            format!(
                "your requests in flight use {used} of the {limit} that they may (`requests_memory_max` of your tenant)"
            )
        }
        Refused::Full { limit, own: false, .. } => format!(
            "requests in flight use most of the {limit} that all of them may (`limits.requests_memory_max`)"
        ),
    }
}

/// What exactly is wrong with a shape.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ShapeDetail {
    #[error("it has {given} dimensions instead of {expected}")]
    Rank { given: usize, expected: usize },
    #[error("dimension {index} is {given} instead of {expected}")]
    Length { index: usize, given: u64, expected: i64 },
    #[error("dimension {index} is {given} and at most {max} is allowed (`models.variable_dim_max`)")]
    TooLong { index: usize, given: u64, max: u64 },
}

/// Checks `request` against the signature of `version` and reserves its memory. The lease is the one that allows the
/// operation on the device that will run it. What is wrong comes back with the version, whose statistics it belongs to.
pub(crate) fn admit(
    request: Request,
    version: Arc<LoadedVersion>,
    cancel: CancelFlag,
    memory: &Arc<Memory>,
    lease: &Lease,
) -> Result<Admitted, (AdmissionError, Arc<LoadedVersion>)> {
    let (class, share, deadline) = (request.class.max(lease.class), lease.share, request.deadline);
    match check(request, &version, cancel, memory) {
        Ok(Checked { work, output_order, rows, memory, reserve_at_start, input_bytes }) => Ok(Admitted {
            version,
            work,
            output_order,
            rows,
            class,
            share,
            deadline,
            memory,
            reserve_at_start,
            input_bytes,
        }),
        Err(error) => Err((error, version)),
    }
}

/// What [`check`] found, each as in [`Admitted`].
struct Checked {
    work: Work,
    output_order: Option<Vec<usize>>,
    rows: u64,
    memory: Reservation,
    reserve_at_start: u64,
    input_bytes: u64,
}

fn check(
    request: Request,
    version: &LoadedVersion,
    cancel: CancelFlag,
    memory: &Arc<Memory>,
) -> Result<Checked, AdmissionError> {
    let signature = &version.signature;
    let inputs = place_inputs(request.inputs, &signature.inputs)?;
    let wanted = request.outputs.map(|names| place_outputs(&names, &signature.outputs)).transpose()?;
    let (output_order, wanted) = wanted.unzip();

    let input_bytes = payload_bytes(inputs.iter().flatten());
    // What is kept while it waits and does not lie in tensors.
    let param_bytes = request.params.bytes() as u64;
    let peak = predicted_peak(version, &inputs, input_bytes);
    // Where the operation can't tell, the worst is assumed, but only while the job runs: reserved while it
    // waits, it would turn others away for memory that nobody uses yet.
    let (at_once, reserve_at_start) = match peak {
        Some(peak) => (peak.saturating_add(input_bytes), 0),
        None => (input_bytes, memory.one_max().saturating_sub(input_bytes.saturating_add(param_bytes))),
    };
    let memory = reserve(memory, at_once.saturating_add(param_bytes))?;
    // A wrong prediction must not be a way around the limit: outputs stay within what is reserved.
    let output_bytes_max = at_once.saturating_add(reserve_at_start);

    let rows = inputs.first().and_then(Option::as_ref).map_or(1, |tensor| rows_of(version, &tensor.shape));
    let work = Work::new(inputs, wanted, request.params, output_bytes_max, cancel)
        .going_to(request.destination, output_order.as_deref());
    Ok(Checked { work, output_order, rows, memory, reserve_at_start, input_bytes })
}

/// Sets memory aside.
pub(crate) fn reserve(memory: &Arc<Memory>, needed: u64) -> Result<Reservation, AdmissionError> {
    memory.reserve(needed).map_err(|refused| AdmissionError::Memory { needed, refused })
}

/// Size of the payloads together.
pub(crate) fn payload_bytes<'a>(tensors: impl Iterator<Item = &'a Tensor>) -> u64 {
    tensors.map(|tensor| tensor.data.len() as u64).sum()
}

fn predicted_peak(version: &LoadedVersion, inputs: &[Option<Tensor>], input_bytes: u64) -> Option<u64> {
    if inputs.is_empty() {
        return version.operation.peak_bytes(&[], 0);
    }
    let shapes: Vec<Option<Shape>> = inputs.iter().map(|input| input.as_ref().map(|t| t.shape)).collect();
    version.operation.peak_bytes(&shapes, input_bytes)
}

/// A request counts as many inferences as its batch has rows, and as one if the model has no batch dimension.
fn rows_of(version: &LoadedVersion, shape: &Shape) -> u64 {
    let first = version.signature.inputs.first().and_then(|spec| spec.dims.as_deref()?.first());
    match first {
        Some(Dim::Variable { .. }) => shape.dims().first().copied().unwrap_or(1),
        Some(Dim::Fixed(_)) | None => 1,
    }
}

fn known_names(specs: &[TensorSpec]) -> String {
    if specs.is_empty() {
        return "none".into();
    }
    let names: Vec<String> = specs.iter().map(|spec| format!("`{}`", spec.name)).collect();
    names.join(", ")
}

fn place_inputs(
    given: Vec<NamedTensor>,
    specs: &[TensorSpec],
) -> Result<Vec<Option<Tensor>>, AdmissionError> {
    if given.len() > limits::TENSORS_MAX {
        return Err(AdmissionError::TooManyTensors { what: "inputs", count: given.len() });
    }
    let mut placed: Vec<Option<Tensor>> = specs.iter().map(|_| None).collect();
    for NamedTensor { name, tensor } in given {
        let Some(index) = specs.iter().position(|spec| spec.name == name) else {
            return Err(AdmissionError::UnknownInput { name, known: known_names(specs) });
        };
        check_tensor(&specs[index], &tensor)?;
        if placed[index].replace(tensor).is_some() {
            return Err(AdmissionError::DuplicateInput { name });
        }
    }
    let missing = specs.iter().zip(&placed).find(|(spec, tensor)| tensor.is_none() && !spec.optional);
    if let Some((spec, _)) = missing {
        let (name, data_type, dims) = (spec.name.clone(), spec.data_type, spec.to_string());
        return Err(AdmissionError::MissingInput { name, data_type, dims });
    }
    Ok(placed)
}

type Wanted = (Vec<usize>, Box<[bool]>);

fn place_outputs(names: &[Box<str>], specs: &[TensorSpec]) -> Result<Wanted, AdmissionError> {
    if names.len() > limits::TENSORS_MAX {
        return Err(AdmissionError::TooManyTensors { what: "outputs", count: names.len() });
    }
    let mut wanted: Box<[bool]> = specs.iter().map(|_| false).collect();
    let mut order = Vec::with_capacity(names.len());
    for name in names {
        let Some(index) = specs.iter().position(|spec| spec.name == *name) else {
            return Err(AdmissionError::UnknownOutput { name: name.clone(), known: known_names(specs) });
        };
        if std::mem::replace(&mut wanted[index], true) {
            return Err(AdmissionError::DuplicateOutput { name: name.clone() });
        }
        order.push(index);
    }
    Ok((order, wanted))
}

fn check_tensor(spec: &TensorSpec, tensor: &Tensor) -> Result<(), AdmissionError> {
    let Tensor { data_type, shape, data } = tensor;
    let name = || spec.name.clone();
    if !spec.takes_type(*data_type) {
        return Err(AdmissionError::DataType { name: name(), given: *data_type, expected: spec.data_type });
    }
    spec.check_shape(shape).map_err(|mismatch| AdmissionError::Shape {
        name: name(),
        given: Box::new(*shape),
        expected: spec.to_string(),
        detail: shape_detail(spec, shape, mismatch),
    })?;
    let overflow = || AdmissionError::ShapeOverflow { name: name(), given: Box::new(*shape) };
    let elements = shape.elements().ok_or_else(overflow)?;
    if *data_type == DataType::Bytes {
        // Walking over the text takes as long as there is text, so the device's thread does it: `take_text`.
        return Ok(());
    }
    let expected = data_type.payload_bytes(elements).ok_or_else(overflow)?;
    if data.len() != expected {
        let (given, data_type, shape) = (data.len(), *data_type, Box::new(*shape));
        return Err(AdmissionError::ByteCount { name: name(), given, expected, data_type, shape });
    }
    Ok(())
}

/// The part of admission that is as long as the payload: checks the elements of `BYTES` inputs, on the
/// thread that will run the job. Lengths inside such a payload steer the backend, so what was checked is
/// a private copy, and the backend gets that very copy.
pub(crate) fn take_text(specs: &[TensorSpec], work: &mut Work) -> Result<(), AdmissionError> {
    for (index, spec) in specs.iter().enumerate() {
        let is_text = work.input(index).is_some_and(|tensor| tensor.data_type == DataType::Bytes);
        let Some(mut tensor) = is_text.then(|| work.take_input(index)).flatten() else { continue };
        let payload = tensor.data.to_private();
        let name = || spec.name.clone();
        let given = BytesElements::count_checked(&payload)
            .map_err(|source| AdmissionError::Bytes { name: name(), source })?;
        let shape = Box::new(tensor.shape);
        match shape.elements() {
            Some(expected) if expected == given => {}
            Some(expected) => {
                return Err(AdmissionError::ElementCount { name: name(), given, expected, shape });
            }
            None => return Err(AdmissionError::ShapeOverflow { name: name(), given: shape }),
        }
        tensor.data = payload.into();
        work.put_input(index, tensor);
    }
    Ok(())
}

fn shape_detail(spec: &TensorSpec, shape: &Shape, mismatch: Mismatch) -> ShapeDetail {
    let dims = spec.dims.as_deref().unwrap_or(&[]);
    debug_assert!(dims.len() <= RANK_MAX, "a signature has a rank that no request can have");
    match mismatch {
        Mismatch::Rank => ShapeDetail::Rank { given: shape.rank(), expected: dims.len() },
        Mismatch::Length { index } => {
            ShapeDetail::Length { index, given: shape.dims()[index], expected: dims[index].to_signed() }
        }
        Mismatch::TooLong { index, max } => ShapeDetail::TooLong { index, given: shape.dims()[index], max },
    }
}
