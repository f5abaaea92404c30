// SPDX-License-Identifier: Apache-2.0
//! Enumerations. In C they are integers, so that whatever is in one can be looked at before it is believed.

use std::ffi::CStr;

use ::diolkos_client::types::{Code, DataType};
use ::diolkos_client::{Class, Memory, ModelState, Waiting};

use crate::errors::Failure;

/// What a function returns. 0: it did what it says. Positive: the daemon refused. Negative: this side failed.
#[repr(C)]
pub enum diolkos_code {
    /// It worked.
    DIOLKOS_OK = 0,
    /// The request itself is wrong; sent again unchanged, it fails again.
    DIOLKOS_STATUS_INVALID_ARGUMENT = 1,
    /// No such model or version.
    DIOLKOS_STATUS_NOT_FOUND = 2,
    /// A limit is reached now; diolkos_retry_after_us() tells when to send it again.
    DIOLKOS_STATUS_BUSY = 3,
    /// The request's timeout passed before it began.
    DIOLKOS_STATUS_DEADLINE_EXCEEDED = 4,
    /// It was cancelled.
    DIOLKOS_STATUS_CANCELLED = 5,
    /// Known, and not offered by this daemon or model.
    DIOLKOS_STATUS_UNSUPPORTED = 6,
    /// The model exists, but does not serve now.
    DIOLKOS_STATUS_UNAVAILABLE = 7,
    /// This client may not do that.
    DIOLKOS_STATUS_PERMISSION_DENIED = 8,
    /// More than the daemon will ever give.
    DIOLKOS_STATUS_TOO_LARGE = 9,
    /// The daemon or a backend is at fault.
    DIOLKOS_STATUS_INTERNAL = 10,
    /// The work ended without an answer.
    DIOLKOS_STATUS_ABORTED = 11,
    /// An argument is wrong; nothing was sent.
    DIOLKOS_ERROR_ARGUMENT = -1,
    /// No daemon answers at the address.
    DIOLKOS_ERROR_CONNECT = -2,
    /// The connection ended while something waited for an answer.
    DIOLKOS_ERROR_LOST = -3,
    /// The answer did not come in the time that was given to diolkos_wait(). It can be waited for again.
    DIOLKOS_ERROR_TIMEOUT = -4,
    /// There is no memory for the tensor, or for the outputs.
    DIOLKOS_ERROR_MEMORY = -5,
    /// The model was replaced by one that takes or gives other tensors; open it again.
    DIOLKOS_ERROR_CHANGED = -6,
    /// A defect of this library; the text tells which.
    DIOLKOS_ERROR_DEFECT = -7,
}

/// The type of every element of a tensor. Elements are little-endian and lie row by row.
#[repr(C)]
pub enum diolkos_data_type {
    /// One byte, 0 or 1.
    DIOLKOS_BOOL = 1,
    /// uint8_t
    DIOLKOS_UINT8 = 2,
    /// uint16_t
    DIOLKOS_UINT16 = 3,
    /// uint32_t
    DIOLKOS_UINT32 = 4,
    /// uint64_t
    DIOLKOS_UINT64 = 5,
    /// int8_t
    DIOLKOS_INT8 = 6,
    /// int16_t
    DIOLKOS_INT16 = 7,
    /// int32_t
    DIOLKOS_INT32 = 8,
    /// int64_t
    DIOLKOS_INT64 = 9,
    /// IEEE 754 binary16
    DIOLKOS_FP16 = 10,
    /// float
    DIOLKOS_FP32 = 11,
    /// double
    DIOLKOS_FP64 = 12,
    /// The upper 16 bits of a float.
    DIOLKOS_BF16 = 13,
    /// Strings of any length: each is a uint32_t, its length, and that many bytes, without a gap.
    DIOLKOS_BYTES = 14,
}

/// How a client waits for an answer.
#[repr(C)]
pub enum diolkos_waiting {
    /// Looks for a while if answers have been coming quickly and nobody else wants the core, then sleeps.
    DIOLKOS_WAITING_ADAPTIVE = 0,
    /// Sleeps at once: least processor time, and about a wake-up more of latency.
    DIOLKOS_WAITING_BLOCKING = 1,
    /// Looks until the answer is there: a core for itself, and the least latency.
    DIOLKOS_WAITING_POLLING = 2,
}

/// Where tensors lie.
#[repr(C)]
pub enum diolkos_memory {
    /// In memory that the daemon shares, where the socket allows that; otherwise as with PRIVATE.
    DIOLKOS_MEMORY_SHARED = 0,
    /// In this process's own, from which they are sent over the socket.
    DIOLKOS_MEMORY_PRIVATE = 1,
}

/// Which of one's own requests go first.
#[repr(C)]
pub enum diolkos_class {
    /// Nothing was said.
    DIOLKOS_CLASS_STANDARD = 0,
    /// Somebody waits for the answer.
    DIOLKOS_CLASS_INTERACTIVE = 1,
    /// Throughput counts and latency does not.
    DIOLKOS_CLASS_BATCH = 2,
}

/// Which member of a diolkos_param_value counts.
#[repr(C)]
pub enum diolkos_param_type {
    /// flag
    DIOLKOS_PARAM_BOOL = 1,
    /// integer
    DIOLKOS_PARAM_INT = 2,
    /// natural
    DIOLKOS_PARAM_UINT = 3,
    /// number
    DIOLKOS_PARAM_DOUBLE = 4,
    /// text
    DIOLKOS_PARAM_TEXT = 5,
}

/// What a model does.
#[repr(C)]
pub enum diolkos_model_state {
    /// It serves.
    DIOLKOS_MODEL_READY = 1,
    /// It is being loaded.
    DIOLKOS_MODEL_LOADING = 2,
    /// It is not loaded.
    DIOLKOS_MODEL_UNAVAILABLE = 3,
    /// It could not be loaded.
    DIOLKOS_MODEL_FAILED = 4,
}

fn unknown(number: i32, what: &str) -> Failure {
    Failure::argument(format!("{number} is no {what}"))
}

pub(crate) fn data_type(number: i32) -> Result<DataType, Failure> {
    let known = DataType::ALL.into_iter().find(|known| *known as i32 == number);
    known.ok_or_else(|| unknown(number, "diolkos_data_type"))
}

pub(crate) fn waiting(number: i32) -> Result<Waiting, Failure> {
    Ok(match number {
        0 => Waiting::Adaptive,
        1 => Waiting::Blocking,
        2 => Waiting::Polling,
        _ => return Err(unknown(number, "diolkos_waiting")),
    })
}

pub(crate) fn memory(number: i32) -> Result<Memory, Failure> {
    Ok(match number {
        0 => Memory::Shared,
        1 => Memory::Private,
        _ => return Err(unknown(number, "diolkos_memory")),
    })
}

pub(crate) fn class(number: i32) -> Result<Class, Failure> {
    Ok(match number {
        0 => Class::Standard,
        1 => Class::Interactive,
        2 => Class::Batch,
        _ => return Err(unknown(number, "diolkos_class")),
    })
}

pub(crate) fn model_state(state: ModelState) -> i32 {
    let state = match state {
        ModelState::Ready => diolkos_model_state::DIOLKOS_MODEL_READY,
        ModelState::Loading => diolkos_model_state::DIOLKOS_MODEL_LOADING,
        ModelState::Unavailable => diolkos_model_state::DIOLKOS_MODEL_UNAVAILABLE,
        ModelState::Failed => diolkos_model_state::DIOLKOS_MODEL_FAILED,
    };
    state as i32
}

pub(crate) fn code_name(number: i32) -> &'static CStr {
    match number {
        0 => c"ok",
        1 => c"invalid_argument",
        2 => c"not_found",
        3 => c"busy",
        4 => c"deadline_exceeded",
        5 => c"cancelled",
        6 => c"unsupported",
        7 => c"unavailable",
        8 => c"permission_denied",
        9 => c"too_large",
        10 => c"internal",
        11 => c"aborted",
        -1 => c"argument",
        -2 => c"connect",
        -3 => c"lost",
        -4 => c"timeout",
        -5 => c"memory",
        -6 => c"changed",
        -7 => c"defect",
        _ => c"unknown",
    }
}

pub(crate) fn data_type_name(number: i32) -> &'static CStr {
    match number {
        1 => c"BOOL",
        2 => c"UINT8",
        3 => c"UINT16",
        4 => c"UINT32",
        5 => c"UINT64",
        6 => c"INT8",
        7 => c"INT16",
        8 => c"INT32",
        9 => c"INT64",
        10 => c"FP16",
        11 => c"FP32",
        12 => c"FP64",
        13 => c"BF16",
        14 => c"BYTES",
        _ => c"unknown",
    }
}

/// The number of a daemon's code. It is the same in C.
pub(crate) fn status(code: Code) -> i32 {
    i32::from(code as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_daemons_codes_have_the_same_numbers_and_names() {
        for code in Code::ALL {
            assert_eq!(code_name(status(code)).to_str(), Ok(code.name()));
        }
        assert_eq!(status(Code::InvalidArgument), diolkos_code::DIOLKOS_STATUS_INVALID_ARGUMENT as i32);
        assert_eq!(status(Code::Aborted), diolkos_code::DIOLKOS_STATUS_ABORTED as i32);
        let after_the_last = status(Code::ALL[Code::ALL.len() - 1]) + 1;
        assert_eq!(code_name(after_the_last), c"unknown");
        assert_eq!(code_name(diolkos_code::DIOLKOS_ERROR_DEFECT as i32), c"defect");
    }

    #[test]
    fn data_types_have_the_protocols_numbers_and_names() {
        for known in DataType::ALL {
            assert_eq!(data_type(known as i32).ok(), Some(known));
            assert_eq!(data_type_name(known as i32).to_str(), Ok(known.name()));
        }
        for (here, there) in [
            (diolkos_data_type::DIOLKOS_BOOL as i32, DataType::Bool),
            (diolkos_data_type::DIOLKOS_FP32 as i32, DataType::Fp32),
            (diolkos_data_type::DIOLKOS_BF16 as i32, DataType::Bf16),
            (diolkos_data_type::DIOLKOS_BYTES as i32, DataType::Bytes),
        ] {
            assert_eq!(here, there as i32);
        }
    }

    #[test]
    fn other_numbers_are_refused() {
        for number in [i32::MIN, -1, 15, 256 + 11, i32::MAX] {
            assert!(data_type(number).is_err() && class(number).is_err());
            assert!(waiting(number).is_err() && memory(number).is_err());
        }
    }

    #[test]
    fn zero_is_the_default() {
        assert_eq!(waiting(0).ok(), Some(Waiting::default()));
        assert_eq!(memory(0).ok(), Some(Memory::default()));
        assert_eq!(class(0).ok(), Some(Class::default()));
    }
}
