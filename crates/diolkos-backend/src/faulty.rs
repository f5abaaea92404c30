// SPDX-License-Identifier: Apache-2.0
//! Faults on purpose: wrap a backend or an operation, and some of its loads and runs go wrong.
//!
//! Which ones is decided by a [`Plan`], from the number of the run alone: a script names the fault of each
//! run, a seeded plan draws it. The same plan gives the same faults again, and [`Plan::fault`] tells them
//! in advance, so a test that failed can be replayed from its seed.
//!
//! Delays are [`Gate`]s, not times. A test sees with [`Gate::wait_for_arrivals`] that work really is inside,
//! does what it wants meanwhile, and opens the gate; nothing sleeps.
//!
//! ```text
//! gate:  closed --open()--> open        wait() returns at once while it is open
//!           ^                 |
//!           +----close()------+
//! ```

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use diolkos_types::{Shape, Signature};

use crate::{Backend, Format, LoadError, LoadOptions, ModelFiles, Operation, RunError, Work, seeded};

/// Name that injected errors carry as their backend.
pub const NAME: &str = "faulty";

/// Holds back whoever waits at it until it is opened. Clones are the same gate.
#[derive(Clone, Debug, Default)]
pub struct Gate(Arc<GateInner>);

#[derive(Debug, Default)]
struct GateInner {
    state: Mutex<GateState>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct GateState {
    open: bool,
    arrived: u64,
    waiting: u64,
}

impl Gate {
    /// A closed gate.
    #[must_use]
    pub fn new() -> Gate {
        Gate::default()
    }

    // A panic elsewhere in a test must not hide behind a poisoned gate: the state is three plain values
    // that are each changed at once, so it is never half changed.
    fn state(&self) -> MutexGuard<'_, GateState> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait_while(&self, condition: impl Fn(&GateState) -> bool) -> MutexGuard<'_, GateState> {
        let state = self.state();
        self.0.changed.wait_while(state, |state| condition(state)).unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets through everybody who waits and everybody who comes.
    pub fn open(&self) {
        self.state().open = true;
        self.0.changed.notify_all();
    }

    /// Holds back everybody who comes from now on.
    pub fn close(&self) {
        self.state().open = false;
    }

    /// Waits until the gate is open.
    pub fn wait(&self) {
        {
            let mut state = self.state();
            state.arrived += 1;
            state.waiting += 1;
        }
        self.0.changed.notify_all();
        self.wait_while(|state| !state.open).waiting -= 1;
    }

    /// Waits until somebody came to the gate for the `count`th time, since it was made.
    pub fn wait_for_arrivals(&self, count: u64) {
        drop(self.wait_while(|state| state.arrived < count));
    }

    /// How many are waiting now.
    #[must_use]
    pub fn waiting(&self) -> u64 {
        self.state().waiting
    }
}

/// Which [`RunError`] is injected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RunFailure {
    /// [`RunError::InvalidInput`], naming the first input.
    InvalidInput,
    /// [`RunError::InvalidParam`].
    InvalidParam,
    /// [`RunError::Unsupported`].
    Unsupported,
    /// [`RunError::OutputTooSmall`], naming the first output.
    OutputTooSmall,
    /// [`RunError::Cancelled`], although nobody asked.
    Cancelled,
    /// [`RunError::Failed`].
    Failed,
}

impl RunFailure {
    /// Every kind.
    pub const ALL: [RunFailure; 6] = [
        RunFailure::InvalidInput,
        RunFailure::InvalidParam,
        RunFailure::Unsupported,
        RunFailure::OutputTooSmall,
        RunFailure::Cancelled,
        RunFailure::Failed,
    ];

    fn error(self, signature: &Signature) -> RunError {
        let reason = || "was refused on purpose".to_owned();
        let first = |specs: &[diolkos_types::TensorSpec]| specs.first().map_or("".into(), |s| s.name.clone());
        match self {
            RunFailure::InvalidInput => {
                RunError::InvalidInput { tensor: first(&signature.inputs), reason: reason() }
            }
            RunFailure::InvalidParam => RunError::InvalidParam { name: "fault".into(), reason: reason() },
            RunFailure::Unsupported => {
                RunError::Unsupported { backend: NAME, what: "an injected fault".into() }
            }
            RunFailure::OutputTooSmall => {
                RunError::OutputTooSmall { tensor: first(&signature.outputs), needed: 1, available: 0 }
            }
            RunFailure::Cancelled => RunError::Cancelled,
            RunFailure::Failed => RunError::Failed { backend: NAME, reason: "an injected fault".into() },
        }
    }
}

/// What goes wrong in one run.
#[derive(Clone, Debug)]
pub enum RunFault {
    /// Nothing.
    None,
    /// The run ends with this error before it touches anything.
    Fail(RunFailure),
    /// The run panics.
    Panic,
    /// The run waits at the gate, then goes on as if nothing had been. Like a device that hangs, it does
    /// not look at the cancel flag while it waits.
    Hold(Gate),
    /// The run ends with `Ok` and without output `index`.
    WithoutOutput {
        /// Position in the signature.
        index: usize,
    },
    /// The run ends with `Ok`, without any output and without having computed anything.
    WithoutOutputs,
}

/// What goes wrong in one load.
#[derive(Clone, Debug)]
pub enum LoadFault {
    /// Nothing.
    None,
    /// [`LoadError::Invalid`].
    Invalid,
    /// [`LoadError::Unsupported`].
    Unsupported,
    /// [`LoadError::TooLarge`].
    TooLarge,
    /// [`LoadError::MissingFile`].
    MissingFile,
    /// The load panics.
    Panic,
    /// The load waits at the gate, then goes on.
    Hold(Gate),
}

/// Which call has which fault. Clones share the count of calls.
#[derive(Clone, Debug)]
pub struct Plan<F>(Arc<PlanInner<F>>);

#[derive(Debug)]
struct PlanInner<F> {
    choice: Choice<F>,
    begun: AtomicU64,
}

#[derive(Debug)]
enum Choice<F> {
    /// The fault of each call, then of all that follow.
    Script { faults: Vec<F>, then: F },
    /// A weighted draw for each call.
    Seeded { seed: u64, faults: Vec<(u32, F)>, total: u64 },
}

impl<F: Clone> Plan<F> {
    fn new(choice: Choice<F>) -> Plan<F> {
        Plan(Arc::new(PlanInner { choice, begun: AtomicU64::new(0) }))
    }

    /// The same fault every time.
    #[must_use]
    pub fn always(fault: F) -> Plan<F> {
        Plan::script(Vec::new(), fault)
    }

    /// These faults, one per call, and `then` for all calls that follow.
    #[must_use]
    pub fn script(faults: Vec<F>, then: F) -> Plan<F> {
        Plan::new(Choice::Script { faults, then })
    }

    /// For each call one of these faults, drawn with these weights from `seed`.
    ///
    /// # Panics
    ///
    /// If the weights are all zero: nothing could be drawn.
    #[must_use]
    pub fn seeded(seed: u64, faults: Vec<(u32, F)>) -> Plan<F> {
        let total = faults.iter().map(|&(weight, _)| u64::from(weight)).sum();
        assert!(total > 0, "a plan needs a fault whose weight is not zero");
        Plan::new(Choice::Seeded { seed, faults, total })
    }

    /// The fault of call `number`, counted from 0 in the order in which calls begin.
    #[must_use]
    pub fn fault(&self, number: u64) -> F {
        match &self.0.choice {
            Choice::Script { faults, then } => {
                let index = usize::try_from(number).unwrap_or(usize::MAX);
                faults.get(index).unwrap_or(then).clone()
            }
            Choice::Seeded { seed, faults, total } => {
                let mut left = seeded::at(*seed, number) % total;
                for (weight, fault) in faults {
                    match left.checked_sub(u64::from(*weight)) {
                        Some(rest) => left = rest,
                        None => return fault.clone(),
                    }
                }
                unreachable!("a draw below the sum of the weights falls on one of them")
            }
        }
    }

    /// How many calls have begun.
    #[must_use]
    pub fn begun(&self) -> u64 {
        self.0.begun.load(Ordering::Relaxed)
    }

    fn next(&self) -> F {
        // Relaxed: only the uniqueness of the number matters.
        self.fault(self.0.begun.fetch_add(1, Ordering::Relaxed))
    }
}

/// An operation whose runs go wrong as planned.
pub struct FaultyOperation {
    inner: Arc<dyn Operation>,
    plan: Plan<RunFault>,
}

impl FaultyOperation {
    /// Wraps `inner`.
    #[must_use]
    pub fn new(inner: Arc<dyn Operation>, plan: Plan<RunFault>) -> FaultyOperation {
        FaultyOperation { inner, plan }
    }

    /// Runs the inner operation on work of its own, and hands all outputs on but one.
    fn run_without(&self, work: &mut Work, missing: usize) -> Result<(), RunError> {
        let signature = self.inner.signature();
        let inputs = (0..signature.inputs.len()).map(|index| work.take_input(index)).collect();
        let wanted = (0..signature.outputs.len()).map(|index| work.wants(index)).collect();
        let params = work.params().clone();
        let mut inner = Work::new(inputs, Some(wanted), params, u64::MAX, work.cancel_flag().clone());
        work.compute_begins();
        self.inner.run(&mut inner)?;
        work.compute_ends();
        for (index, tensor) in inner.into_outputs().into_iter().enumerate() {
            let Some(tensor) = tensor.filter(|_| index != missing) else { continue };
            let slot = work.output(signature, index, tensor.data_type, tensor.shape, tensor.data.len())?;
            slot.give(tensor.data);
        }
        Ok(())
    }
}

impl Operation for FaultyOperation {
    fn signature(&self) -> &Signature {
        self.inner.signature()
    }

    fn resident_bytes(&self) -> u64 {
        self.inner.resident_bytes()
    }

    fn peak_bytes(&self, shapes: &[Option<Shape>], input_bytes: u64) -> Option<u64> {
        self.inner.peak_bytes(shapes, input_bytes)
    }

    fn run(&self, work: &mut Work) -> Result<(), RunError> {
        match self.plan.next() {
            RunFault::None => self.inner.run(work),
            RunFault::Fail(failure) => Err(failure.error(self.inner.signature())),
            RunFault::Panic => panic!("an injected panic"),
            RunFault::Hold(gate) => {
                gate.wait();
                self.inner.run(work)
            }
            RunFault::WithoutOutput { index } => self.run_without(work, index),
            RunFault::WithoutOutputs => Ok(()),
        }
    }
}

/// A backend whose loads, and whose operations' runs, go wrong as planned.
///
/// All operations that it loads share the plan of runs, and so its count.
pub struct FaultyBackend {
    inner: Arc<dyn Backend>,
    loads: Plan<LoadFault>,
    runs: Plan<RunFault>,
}

impl FaultyBackend {
    /// Wraps `inner`.
    #[must_use]
    pub fn new(inner: Arc<dyn Backend>, loads: Plan<LoadFault>, runs: Plan<RunFault>) -> FaultyBackend {
        FaultyBackend { inner, loads, runs }
    }
}

impl Backend for FaultyBackend {
    fn name(&self) -> &'static str {
        self.inner.name()
    }

    fn formats(&self) -> &[Format] {
        self.inner.formats()
    }

    fn load(&self, files: &ModelFiles, options: &LoadOptions) -> Result<Arc<dyn Operation>, LoadError> {
        match self.loads.next() {
            LoadFault::None => {}
            LoadFault::Invalid => return Err(LoadError::Invalid { reason: "an injected fault".into() }),
            LoadFault::Unsupported => {
                return Err(LoadError::Unsupported { backend: NAME, what: "an injected fault".into() });
            }
            LoadFault::TooLarge => {
                let limit = options.resident_bytes_max;
                return Err(LoadError::TooLarge { needed: limit.saturating_add(1), limit });
            }
            LoadFault::MissingFile => return Err(LoadError::MissingFile { name: "injected.fault".into() }),
            LoadFault::Panic => panic!("an injected panic"),
            LoadFault::Hold(gate) => gate.wait(),
        }
        let inner = self.inner.load(files, options)?;
        Ok(Arc::new(FaultyOperation::new(inner, self.runs.clone())))
    }
}

#[cfg(test)]
mod tests;
