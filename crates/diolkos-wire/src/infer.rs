// SPDX-License-Identifier: Apache-2.0
//! Running an operation: the request on the hot path, and its answer.

use alloc::vec::Vec;
use core::num::NonZeroU64;
use core::time::Duration;

use diolkos_types::{HandleId, Params};

use crate::cursor::{Item, Reader, Wire, Writer};
use crate::error::DecodeError;
use crate::limits::TENSORS_MAX;
use crate::tensor::{Extent, REGION, STREAM, TensorRef, stream_bytes};

/// Which of a tenant's own requests go first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum Class {
    /// Somebody waits for the answer.
    Interactive = 0,
    /// Nothing was said.
    #[default]
    Standard = 1,
    /// Throughput counts and latency does not.
    Batch = 2,
}

impl Class {
    /// Every class, in the order of their numbers, which begin at 0.
    pub const ALL: [Class; 3] = [Class::Interactive, Class::Standard, Class::Batch];
}

/// Where the outputs are to go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ResultPlace {
    /// Behind the answer, on the stream. Over rings there is no payload, so results go to a region.
    #[default]
    Stream,
    /// Into this room, which all outputs share: each begins at the next multiple of 64 bytes from its start.
    Region(Extent),
}

impl Wire for ResultPlace {
    fn write(&self, to: &mut Writer<'_>) {
        match self {
            ResultPlace::Stream => to.u8(STREAM),
            ResultPlace::Region(extent) => {
                to.u8(REGION);
                extent.write(to);
            }
        }
    }

    fn read(from: &mut Reader<'_>) -> Result<ResultPlace, DecodeError> {
        match from.u8("results")? {
            STREAM => Ok(ResultPlace::Stream),
            REGION => Ok(ResultPlace::Region(Extent::read(from)?)),
            given => Err(DecodeError::UnknownNumber { what: "results", given, first: STREAM, last: REGION }),
        }
    }
}

/// Runs the operation behind a handle.
///
/// One input of four dimensions in a region, and results to a region, take 104 bytes without parameters;
/// from and to the stream they take 76. Reading that allocates once, for the list of inputs.
#[derive(Clone, Debug, PartialEq)]
pub struct Infer {
    /// What to run.
    pub handle: HandleId,
    /// Which of the tenant's own requests go first.
    pub class: Class,
    /// A request that has not begun after so many microseconds never runs.
    pub timeout_us: Option<NonZeroU64>,
    /// Requests with the same number run one after the other, in the order in which they come.
    pub order: Option<NonZeroU64>,
    /// Parameters for the operation.
    pub params: Params,
    /// Inputs, in any order.
    pub inputs: Vec<TensorRef>,
    /// Positions of the wanted outputs, in the wanted order; `None` means all.
    pub outputs: Option<Vec<u16>>,
    /// Where the outputs are to go.
    pub results: ResultPlace,
}

impl Infer {
    /// A request of the usual class, for all outputs on the stream, with no inputs yet.
    #[must_use]
    pub fn new(handle: HandleId) -> Infer {
        Infer {
            handle,
            class: Class::default(),
            timeout_us: None,
            order: None,
            params: Params::new(),
            inputs: Vec::new(),
            outputs: None,
            results: ResultPlace::Stream,
        }
    }

    /// Payload that the inputs take on the stream; `None` where 64 bits can't hold it.
    #[must_use]
    pub fn stream_bytes(&self) -> Option<u64> {
        stream_bytes(&self.inputs)
    }
}

impl Wire for Infer {
    fn write(&self, to: &mut Writer<'_>) {
        self.handle.write(to);
        to.u8(self.class as u8);
        to.nonzero(self.timeout_us);
        to.nonzero(self.order);
        self.params.write(to);
        to.list("inputs", TENSORS_MAX, &self.inputs);
        to.bool(self.outputs.is_some());
        if let Some(outputs) = &self.outputs {
            to.list("outputs", TENSORS_MAX, outputs);
        }
        self.results.write(to);
    }

    fn read(from: &mut Reader<'_>) -> Result<Infer, DecodeError> {
        Ok(Infer {
            handle: HandleId::read(from)?,
            class: from.choice("class", 0, &Class::ALL)?,
            timeout_us: from.nonzero("timeout_us")?,
            order: from.nonzero("order")?,
            params: Params::read(from)?,
            inputs: from.list("inputs", TENSORS_MAX)?,
            outputs: if from.bool("outputs")? { Some(from.list("outputs", TENSORS_MAX)?) } else { None },
            results: ResultPlace::read(from)?,
        })
    }
}

/// The position of an output.
impl Wire for u16 {
    fn write(&self, to: &mut Writer<'_>) {
        to.u16(*self);
    }

    fn read(from: &mut Reader<'_>) -> Result<u16, DecodeError> {
        from.u16("outputs")
    }
}

impl Item for u16 {
    const BYTES_MIN: usize = 2;
}

/// Where the time went, in nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timing {
    /// From admission until a slot took the job.
    pub queue_ns: u64,
    /// Bringing inputs to where the backend reads them.
    pub copy_in_ns: u64,
    /// Computing.
    pub compute_ns: u64,
    /// Handing outputs over.
    pub copy_out_ns: u64,
}

impl Timing {
    /// All of it.
    #[must_use]
    pub fn total(&self) -> Duration {
        let parts = [self.queue_ns, self.copy_in_ns, self.compute_ns, self.copy_out_ns];
        Duration::from_nanos(parts.into_iter().fold(0, u64::saturating_add))
    }
}

impl Wire for Timing {
    fn write(&self, to: &mut Writer<'_>) {
        to.u64(self.queue_ns);
        to.u64(self.copy_in_ns);
        to.u64(self.compute_ns);
        to.u64(self.copy_out_ns);
    }

    fn read(from: &mut Reader<'_>) -> Result<Timing, DecodeError> {
        Ok(Timing {
            queue_ns: from.u64("queue_ns")?,
            copy_in_ns: from.u64("copy_in_ns")?,
            compute_ns: from.u64("compute_ns")?,
            copy_out_ns: from.u64("copy_out_ns")?,
        })
    }
}

/// Answers [`Infer`]. One output of two dimensions in a region takes 81 bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inferred {
    /// Version of the model that ran.
    pub version: u64,
    /// Where the time went.
    pub timing: Timing,
    /// The outputs, in the wanted order.
    pub outputs: Vec<TensorRef>,
}

impl Inferred {
    /// Payload that the outputs take on the stream; `None` where 64 bits can't hold it.
    #[must_use]
    pub fn stream_bytes(&self) -> Option<u64> {
        stream_bytes(&self.outputs)
    }

    /// Bytes that the body has at most, if the outputs have these numbers of dimensions.
    #[must_use]
    pub fn body_bytes_max(ranks: impl IntoIterator<Item = usize>) -> usize {
        // Version, timing and the number of outputs.
        let rest = 8 + 4 * 8 + 2;
        ranks.into_iter().map(TensorRef::bytes_max).fold(rest, usize::saturating_add)
    }
}

impl Wire for Inferred {
    fn write(&self, to: &mut Writer<'_>) {
        to.u64(self.version);
        self.timing.write(to);
        to.list("outputs", TENSORS_MAX, &self.outputs);
    }

    fn read(from: &mut Reader<'_>) -> Result<Inferred, DecodeError> {
        Ok(Inferred {
            version: from.u64("version")?,
            timing: Timing::read(from)?,
            outputs: from.list("outputs", TENSORS_MAX)?,
        })
    }
}
