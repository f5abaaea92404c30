// SPDX-License-Identifier: Apache-2.0
//! The one map from this crate's errors to [`Status`], without a wildcard arm: a new error does not
//! compile until somebody decided what a tenant may learn of it.

use std::time::Duration;

use diolkos_backend::RunError;
use diolkos_types::{Code, DataType, Status, TensorSpec};

use crate::admission::AdmissionError;
use crate::limits;
use crate::memory::Refused;
use crate::sched::{Action, Full, Nanos};
use crate::store::{BindError, LoadedVersion, StoreError};

fn busy(message: impl Into<String>) -> Status {
    Status::busy(message, limits::RETRY_HINT)
}

pub(crate) fn of_admission(error: &AdmissionError) -> Status {
    let message = match error {
        // The cause says where; a tenant gets one sentence.
        AdmissionError::Bytes { source, .. } => format!("{error}: {source}"),
        _ => error.to_string(),
    };
    match error {
        AdmissionError::Memory { refused: Refused::Full { .. }, .. } => busy(message),
        AdmissionError::Memory { refused: Refused::TooLarge { .. }, .. } => {
            Status::new(Code::TooLarge, message)
        }
        AdmissionError::TooManyTensors { .. }
        | AdmissionError::UnknownInput { .. }
        | AdmissionError::DuplicateInput { .. }
        | AdmissionError::MissingInput { .. }
        | AdmissionError::UnknownOutput { .. }
        | AdmissionError::DuplicateOutput { .. }
        | AdmissionError::DataType { .. }
        | AdmissionError::Shape { .. }
        | AdmissionError::ShapeOverflow { .. }
        | AdmissionError::ByteCount { .. }
        | AdmissionError::ElementCount { .. }
        | AdmissionError::Bytes { .. } => Status::invalid(message),
    }
}

pub(crate) fn of_run(version: &LoadedVersion, error: &RunError) -> Status {
    let message = format!("model `{}` version {}: {error}", version.name, version.version);
    match error {
        RunError::InvalidInput { .. } | RunError::InvalidParam { .. } => Status::invalid(message),
        RunError::Unsupported { .. } => Status::new(Code::Unsupported, message),
        RunError::OutputTooSmall { .. } => Status::new(Code::TooLarge, message),
        RunError::Cancelled => Status::new(Code::Cancelled, message),
        RunError::Failed { .. } => Status::new(Code::Internal, message),
    }
}

pub(crate) fn of_bind(name: &str, error: &BindError) -> Status {
    match error {
        BindError::NoSuchVersion { version, available } => no_such_version(name, *version, available),
        BindError::Cold => Status::new(
            Code::Unavailable,
            format!("model `{name}` is not loaded; ask for it to be loaded first"),
        ),
        BindError::Loading => Status::new(Code::Unavailable, format!("model `{name}` is being loaded")),
        BindError::Unavailable { reason } => {
            Status::new(Code::Unavailable, format!("model `{name}` is not available: {reason}"))
        }
    }
}

pub(crate) fn of_scheduler(ended_by: Action) -> Status {
    match ended_by {
        Action::Refuse(_, Full::Device) => busy("the device's queue is full; try again"),
        Action::Refuse(_, Full::Tenant) => busy("your share of the device's queue is full; try again"),
        Action::Refuse(_, Full::Late(wait)) => late_when_it_came(wait),
        Action::Expire(_) => late_while_waiting(),
        Action::Cancelled(_) => cancelled_while_waiting(),
        Action::Start(_)
        | Action::Join(..)
        | Action::Hold(_)
        | Action::Go(_)
        | Action::RunHere(_)
        | Action::WakeAt(_) => {
            unreachable!("these end no job")
        }
    }
}

/// Told at once, so that nobody waits for an answer that can't come in time.
fn late_when_it_came(wait: Nanos) -> Status {
    let wait = Duration::from_nanos(wait);
    Status::new(
        Code::DeadlineExceeded,
        format!(
            "what waits before the request takes about {wait:.1?}, which its deadline does not allow; it did not run"
        ),
    )
}

pub(crate) fn late_while_waiting() -> Status {
    Status::new(Code::DeadlineExceeded, "the deadline passed while the request waited; it did not run")
}

pub(crate) fn cancelled_while_waiting() -> Status {
    Status::new(Code::Cancelled, "cancelled while the request waited; it did not run")
}

pub(crate) fn no_such_model(name: &str) -> Status {
    let name: String = name.chars().take(200).collect();
    Status::new(
        Code::NotFound,
        format!("unknown model `{name}`; the repository index (`diolkos ls`) lists what there is"),
    )
}

pub(crate) fn no_such_version(name: &str, version: u64, available: &[u64]) -> Status {
    let available: Vec<String> = available.iter().map(u64::to_string).collect();
    let available = if available.is_empty() { "none".into() } else { available.join(", ") };
    Status::new(Code::NotFound, format!("model `{name}` has no version {version}; available: {available}"))
}

pub(crate) fn no_such_handle() -> Status {
    Status::new(Code::NotFound, "no such handle in this session")
}

pub(crate) fn too_many_handles() -> Status {
    busy(format!("this session has {} handles open, which is the limit", limits::SESSION_HANDLES_MAX))
}

pub(crate) fn too_many_jobs() -> Status {
    busy(format!("this session has {} requests in flight, which is the limit", limits::SESSION_JOBS_MAX))
}

pub(crate) fn over_rate(wait: Duration) -> Status {
    Status::busy("you send more requests than the `rate` of your tenant; try again later", wait)
}

pub(crate) fn over_bytes(wait: Duration) -> Status {
    Status::busy("you send more bytes than the `bytes_rate` of your tenant; try again later", wait)
}

pub(crate) fn too_many_sessions_of_tenant(limit: u64) -> Status {
    Status::busy(
        format!("your tenant has {limit} sessions open, which is its limit (`sessions_max`)"),
        Duration::from_secs(1),
    )
}

pub(crate) fn tenant_is_gone() -> Status {
    Status::new(Code::PermissionDenied, "your tenant is not served any more")
}

pub(crate) fn too_many_regions_of_tenant(refused: Refused) -> Status {
    match refused {
        Refused::TooLarge { limit, .. } => Status::new(
            Code::TooLarge,
            format!(
                "your regions and rings may have {limit} bytes together (`regions_memory_max` of your tenant)"
            ),
        ),
        Refused::Full { used, limit, .. } => Status::new(
            Code::TooLarge,
            format!(
                "your regions and rings have {used} of the {limit} bytes that they may (`regions_memory_max` of your tenant); close one"
            ),
        ),
    }
}

pub(crate) fn too_many_sessions() -> Status {
    Status::busy(
        format!("{} sessions are open, which is the limit", limits::SESSIONS_MAX),
        Duration::from_secs(1),
    )
}

pub(crate) fn too_many_parked(name: &str) -> Status {
    busy(format!("too many requests wait for models to be loaded; `{name}` is not loaded yet"))
}

pub(crate) fn control_queue_full() -> Status {
    Status::busy(
        format!("{} loads and unloads wait, which is the limit", limits::CONTROL_QUEUE_MAX),
        Duration::from_secs(1),
    )
}

pub(crate) fn control_panicked(reason: &str) -> Status {
    Status::new(Code::Internal, format!("loading failed inside the daemon: {reason}"))
}

pub(crate) fn shutting_down() -> Status {
    Status::new(Code::Unavailable, "the daemon is shutting down")
}

pub(crate) fn output_missing(version: &LoadedVersion, output: &str) -> Status {
    Status::new(Code::Internal, format!("model `{}` did not give its output `{output}`", version.name))
}

pub(crate) fn output_of_wrong_type(version: &LoadedVersion, spec: &TensorSpec, given: DataType) -> Status {
    Status::new(
        Code::Internal,
        format!(
            "model `{}` gave output `{}` as {given} and declares it as {}",
            version.name, spec.name, spec.data_type
        ),
    )
}

/// What a client learns of a store error. Paths on the host are the operator's business and go to the log.
pub(crate) fn of_store(error: &StoreError) -> Status {
    error.to_status()
}
