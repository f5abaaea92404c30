// SPDX-License-Identifier: Apache-2.0
//! What an operation is given to do: inputs, room for outputs, and a cancel flag.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use diolkos_types::{DataType, Params, Shape, Signature};

use crate::destination::{Filling, Place};
use crate::{Buffer, Destination, RunError};

/// A tensor's value.
#[derive(Clone, Debug)]
pub struct Tensor {
    /// Element type.
    pub data_type: DataType,
    /// Dimensions.
    pub shape: Shape,
    /// Row-major, little-endian elements; for `BYTES`, each behind its `u32` length.
    pub data: Buffer,
}

/// Set by whoever wants the work to stop; read by operations that can.
#[derive(Clone, Debug, Default)]
pub struct CancelFlag(Arc<AtomicBool>);

impl CancelFlag {
    /// A flag that is not set.
    #[must_use]
    pub fn new() -> CancelFlag {
        CancelFlag::default()
    }

    /// Asks the work to stop.
    pub fn cancel(&self) {
        // Relaxed: the flag is a hint and guards no other memory.
        self.0.store(true, Ordering::Relaxed);
    }

    /// Whether somebody asked.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// When the parts of a run began and ended, as far as the operation said so.
#[derive(Clone, Copy, Debug, Default)]
pub struct Phases {
    /// Inputs are where the backend reads them, and computing began.
    pub compute_began: Option<Instant>,
    /// Computing ended, and outputs are being handed over.
    pub compute_ended: Option<Instant>,
}

/// One run of an operation. See [`crate::Operation::run`] for what is promised about it.
#[derive(Debug)]
pub struct Work {
    inputs: Vec<Option<Tensor>>,
    outputs: Vec<Option<Tensor>>,
    /// Where they go; boxed, because work changes hands and few have one.
    filling: Option<Box<Filling>>,
    /// `None` = all of them.
    wanted: Option<Box<[bool]>>,
    output_bytes_left: u64,
    params: Params,
    cancel: CancelFlag,
    phases: Phases,
}

impl Work {
    /// Work on these inputs, which are in the order of the signature.
    ///
    /// `wanted` says for each output of the signature whether it is wanted; `None` means all.
    /// Outputs together may have `output_bytes_max` bytes.
    #[must_use]
    pub fn new(
        inputs: Vec<Option<Tensor>>,
        wanted: Option<Box<[bool]>>,
        params: Params,
        output_bytes_max: u64,
        cancel: CancelFlag,
    ) -> Work {
        let phases = Phases::default();
        Work {
            inputs,
            outputs: Vec::new(),
            filling: None,
            wanted,
            output_bytes_left: output_bytes_max,
            params,
            cancel,
            phases,
        }
    }

    /// The same, and its outputs go there: in this order, by their positions in the signature; `None` means as they are.
    #[must_use]
    pub fn going_to(mut self, destination: Option<Destination>, order: Option<&[usize]>) -> Work {
        self.filling = destination.map(|destination| Box::new(Filling::new(destination, order)));
        self
    }

    /// Input `index` of the signature, if it was given.
    #[must_use]
    pub fn input(&self, index: usize) -> Option<&Tensor> {
        self.inputs.get(index)?.as_ref()
    }

    /// Takes input `index` out, for operations that hand it on.
    pub fn take_input(&mut self, index: usize) -> Option<Tensor> {
        self.inputs.get_mut(index)?.take()
    }

    /// Puts an input where one was taken out.
    ///
    /// # Panics
    ///
    /// If `index` is none of the signature's inputs.
    pub fn put_input(&mut self, index: usize, tensor: Tensor) {
        self.inputs[index] = Some(tensor);
    }

    /// The inputs in the order of the signature.
    pub fn inputs(&self) -> impl Iterator<Item = Option<&Tensor>> {
        self.inputs.iter().map(Option::as_ref)
    }

    /// Parameters of the request.
    #[must_use]
    pub fn params(&self) -> &Params {
        &self.params
    }

    /// The cancel flag. Operations that loop look at it between steps.
    #[must_use]
    pub fn cancel_flag(&self) -> &CancelFlag {
        &self.cancel
    }

    /// `Err(RunError::Cancelled)` once somebody asked to stop.
    pub fn check_cancelled(&self) -> Result<(), RunError> {
        if self.cancel.is_cancelled() { Err(RunError::Cancelled) } else { Ok(()) }
    }

    /// Whether output `index` of the signature is wanted. Others need not be computed.
    #[must_use]
    pub fn wants(&self, index: usize) -> bool {
        self.wanted.as_ref().is_none_or(|wanted| wanted.get(index).copied().unwrap_or(false))
    }

    /// Marks that the inputs are in place and computing begins.
    pub fn compute_begins(&mut self) {
        self.phases.compute_began = Some(Instant::now());
    }

    /// Marks that computing ended and outputs follow.
    pub fn compute_ends(&mut self) {
        self.phases.compute_ended = Some(Instant::now());
    }

    /// Marks that there is nothing to compute, which reads the clock once.
    pub fn computes_nothing(&mut self) {
        let now = Some(Instant::now());
        (self.phases.compute_began, self.phases.compute_ended) = (now, now);
    }

    /// Takes over the marks of the work that this one was a part of.
    pub fn was_part_of(&mut self, whole: &Work) {
        self.phases = whole.phases;
    }

    /// Bytes that outputs may still have.
    #[must_use]
    pub fn output_bytes_left(&self) -> u64 {
        self.output_bytes_left
    }

    /// The marks.
    #[must_use]
    pub fn phases(&self) -> Phases {
        self.phases
    }

    /// Whether `bytes` more would fit, for operations that compute before they claim; claims nothing.
    pub fn check_room(&self, signature: &Signature, index: usize, bytes: usize) -> Result<(), RunError> {
        let available = self.output_bytes_left;
        let needed = bytes as u64;
        if needed <= available {
            return Ok(());
        }
        let tensor = signature.outputs.get(index).map_or("", |spec| &spec.name).into();
        Err(RunError::OutputTooSmall { tensor, needed, available })
    }

    /// Claims room for output `index`, whose type and shape are now known.
    ///
    /// `signature` is the operation's own; it gives the name for the error.
    pub fn output(
        &mut self,
        signature: &Signature,
        index: usize,
        data_type: DataType,
        shape: Shape,
        bytes: usize,
    ) -> Result<OutputSlot<'_>, RunError> {
        self.check_room(signature, index, bytes)?;
        self.output_bytes_left -= bytes as u64;
        if self.outputs.len() <= index {
            self.outputs.resize_with(index + 1, || None);
        }
        let place = self.filling.as_mut().and_then(|filling| filling.claim(index, bytes));
        Ok(OutputSlot { slot: &mut self.outputs[index], data_type, shape, bytes, place })
    }

    /// The outputs in the order of the signature; those that were not wanted are `None` or missing at the end. Their payload
    /// is private, or lies where it was to go.
    #[must_use]
    pub fn into_outputs(self) -> Vec<Option<Tensor>> {
        self.outputs
    }
}

/// The place of one output. Exactly as many bytes as were claimed go in.
#[derive(Debug)]
#[must_use = "an output that was claimed must be filled"]
pub struct OutputSlot<'a> {
    slot: &'a mut Option<Tensor>,
    data_type: DataType,
    shape: Shape,
    bytes: usize,
    /// Where the client wants it.
    place: Option<Place>,
}

impl OutputSlot<'_> {
    /// Hands over memory that the operation owns, or an input as it is. What others can write is copied, because whoever owns
    /// it could change the answer afterwards.
    ///
    /// # Panics
    ///
    /// If it has another length than was claimed.
    pub fn give(self, data: impl Into<Buffer>) {
        let data = data.into();
        assert_eq!(data.len(), self.bytes, "an operation claimed another length than it gave");
        let data = match self.place {
            Some(place) => place.fill(&data),
            None if data.is_private() => data,
            None => data.to_private_pieces().collect(),
        };
        *self.slot = Some(Tensor { data_type: self.data_type, shape: self.shape, data });
    }

    /// Copies from memory that the operation keeps.
    ///
    /// # Panics
    ///
    /// If it has another length than was claimed.
    pub fn copy_from(self, data: &[u8]) {
        assert_eq!(data.len(), self.bytes, "an operation claimed another length than it gave");
        let data = match self.place {
            Some(place) => place.fill_from(data),
            None => data.to_vec().into(),
        };
        *self.slot = Some(Tensor { data_type: self.data_type, shape: self.shape, data });
    }
}

#[cfg(test)]
mod tests {
    use diolkos_types::TensorSpec;

    use super::*;

    #[test]
    fn outputs_share_one_budget() {
        let spec = |name| TensorSpec::any_shape(name, DataType::Uint8);
        let signature = Signature { inputs: [].into(), outputs: [spec("a"), spec("b")].into() };
        let mut work = Work::new(Vec::new(), None, Params::new(), 10, CancelFlag::new());
        let shape = Shape::new(&[6]).unwrap();
        work.output(&signature, 0, DataType::Uint8, shape, 6).unwrap().copy_from(&[1; 6]);
        let error = work.output(&signature, 1, DataType::Uint8, shape, 6).unwrap_err();
        assert_eq!(error.to_string(), "output `b` needs 6 bytes and 4 are available");
        assert_eq!(work.into_outputs().len(), 1);
    }

    #[test]
    fn wants_all_or_what_was_named() {
        let work = |wanted| Work::new(Vec::new(), wanted, Params::new(), 0, CancelFlag::new());
        assert!(work(None).wants(7));
        let some = work(Some([false, true].into()));
        assert!(!some.wants(0) && some.wants(1) && !some.wants(2));
    }
}
