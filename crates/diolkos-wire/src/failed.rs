// SPDX-License-Identifier: Apache-2.0
//! Why a request got no result.

use alloc::boxed::Box;
use core::num::NonZeroU64;
use core::time::Duration;

use diolkos_types::{Code, Status};

use crate::cursor::{Reader, Wire, Writer};
use crate::error::DecodeError;
use crate::limits::SENTENCE_BYTES_MAX;

/// Answers a request that got no result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failed {
    /// The kind. A number that this side does not know, from a daemon of the future, reads as [`Code::Internal`].
    pub code: Code,
    /// After how many microseconds it is worth trying again.
    pub retry_after_us: Option<NonZeroU64>,
    /// Bytes that the results would have needed, where their place was too small.
    pub needed: Option<NonZeroU64>,
    /// What was wrong and what to do. A longer one than [`SENTENCE_BYTES_MAX`] is cut as it is written.
    pub message: Box<str>,
}

impl Wire for Failed {
    fn write(&self, to: &mut Writer<'_>) {
        to.u16(self.code as u16);
        to.nonzero(self.retry_after_us);
        to.nonzero(self.needed);
        let sentence = &self.message[..self.message.floor_char_boundary(SENTENCE_BYTES_MAX)];
        to.text("message", SENTENCE_BYTES_MAX, sentence);
    }

    fn read(from: &mut Reader<'_>) -> Result<Failed, DecodeError> {
        let number = from.u16("code")?;
        Ok(Failed {
            code: Code::ALL.into_iter().find(|code| *code as u16 == number).unwrap_or(Code::Internal),
            retry_after_us: from.nonzero("retry_after_us")?,
            needed: from.nonzero("needed")?,
            message: from.text("message", SENTENCE_BYTES_MAX)?.into(),
        })
    }
}

/// A status says nothing of `needed`; whoever knows it sets it.
impl From<&Status> for Failed {
    fn from(status: &Status) -> Failed {
        let micros = |time: Duration| {
            // Rounded up, so that nobody comes back too early and a short time is not none.
            u64::try_from(time.as_nanos().div_ceil(1000)).unwrap_or(u64::MAX)
        };
        Failed {
            code: status.code(),
            retry_after_us: status.retry_after().map(micros).and_then(NonZeroU64::new),
            needed: None,
            message: status.message().into(),
        }
    }
}

/// A status has a time to come back only for [`Code::Busy`], and no `needed`.
impl From<Failed> for Status {
    fn from(failed: Failed) -> Status {
        match (failed.code, failed.retry_after_us) {
            (Code::Busy, Some(micros)) => Status::busy(failed.message, Duration::from_micros(micros.get())),
            (code, _) => Status::new(code, failed.message),
        }
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec::Vec;

    use super::*;

    fn over_the_wire(failed: &Failed) -> Failed {
        let mut out = Vec::new();
        let mut to = Writer::new(&mut out);
        failed.write(&mut to);
        to.finish().unwrap();
        Failed::read(&mut Reader::new(&out)).unwrap()
    }

    #[test]
    fn every_status_comes_back() {
        for code in Code::ALL {
            let status = Status::new(code, "what to do");
            assert_eq!(Status::from(over_the_wire(&Failed::from(&status))), status);
        }
        let busy = Status::busy("later", Duration::from_millis(50));
        assert_eq!(Status::from(over_the_wire(&Failed::from(&busy))), busy);
    }

    #[test]
    fn a_short_wait_is_not_none_and_a_long_one_is_finite() {
        let wait = |time| Failed::from(&Status::busy("later", time)).retry_after_us.map(NonZeroU64::get);
        assert_eq!(wait(Duration::from_nanos(1)), Some(1));
        assert_eq!(wait(Duration::ZERO), None);
        assert_eq!(wait(Duration::MAX), Some(u64::MAX));
    }

    #[test]
    fn a_code_of_the_future_is_internal() {
        let bytes: Vec<u8> = [&900u16.to_le_bytes()[..], &[0; 18]].concat();
        assert_eq!(Failed::read(&mut Reader::new(&bytes)).unwrap().code, Code::Internal);
    }

    #[test]
    fn a_long_sentence_is_cut_between_characters() {
        let message = "é".repeat(SENTENCE_BYTES_MAX);
        let failed = Failed { message: message.into(), ..Failed::from(&Status::invalid("")) };
        assert_eq!(over_the_wire(&failed).message.len(), SENTENCE_BYTES_MAX);
        let message = alloc::format!("x{}", failed.message);
        let failed = Failed { message: message.into(), ..failed };
        assert_eq!(over_the_wire(&failed).message.len(), SENTENCE_BYTES_MAX - 1);
    }
}
