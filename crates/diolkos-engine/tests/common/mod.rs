// SPDX-License-Identifier: Apache-2.0
//! Operations for tests, and an engine that has them.

#![allow(dead_code)] // Each test executable uses its own part.

use std::sync::{Arc, Condvar, Mutex};

use diolkos_backend::{Operation, RunError, Work};
use diolkos_engine::store::{NoRehearsal, Store, StoreConfig};
use diolkos_engine::{Engine, EngineConfig};
use diolkos_types::{DataType, Dim, Shape, Signature, TensorSpec};

type Run = dyn Fn(&mut Work, &Signature) -> Result<(), RunError> + Send + Sync;

/// An operation from FP32 `x` [-1,2] to FP32 `y` [-1,2] whose run is a closure.
pub(crate) struct TestOperation {
    signature: Signature,
    peak_bytes: Option<u64>,
    run: Box<Run>,
}

impl TestOperation {
    pub(crate) fn new(
        run: impl Fn(&mut Work, &Signature) -> Result<(), RunError> + Send + Sync + 'static,
    ) -> TestOperation {
        let dims = [Dim::Variable { max: 1 << 20 }, Dim::Fixed(2)];
        let spec = |name| TensorSpec::new(name, DataType::Fp32, &dims);
        let signature = Signature { inputs: [spec("x")].into(), outputs: [spec("y")].into() };
        TestOperation { signature, peak_bytes: Some(0), run: Box::new(run) }
    }

    pub(crate) fn with_peak_bytes(mut self, peak_bytes: Option<u64>) -> TestOperation {
        self.peak_bytes = peak_bytes;
        self
    }
}

impl Operation for TestOperation {
    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn resident_bytes(&self) -> u64 {
        0
    }

    fn peak_bytes(&self, _shapes: &[Option<Shape>], _input_bytes: u64) -> Option<u64> {
        self.peak_bytes
    }

    fn run(&self, work: &mut Work) -> Result<(), RunError> {
        work.compute_begins();
        (self.run)(work, &self.signature)
    }
}

/// Waits at a gate, then gives the input back.
pub(crate) fn waits_at(gate: &Arc<Gate>) -> TestOperation {
    let gate = gate.clone();
    TestOperation::new(move |work, signature| {
        gate.wait();
        give_back(work, signature)
    })
}

/// Gives the input back as the output.
pub(crate) fn give_back(work: &mut Work, signature: &Signature) -> Result<(), RunError> {
    let input = work.take_input(0).expect("admission saw that it is there");
    work.compute_ends();
    let bytes = input.data.len();
    work.output(signature, 0, input.data_type, input.shape, bytes)?.give(input.data);
    Ok(())
}

/// Holds whoever waits until it is opened, and tells how many are held.
#[derive(Default)]
pub(crate) struct Gate {
    state: Mutex<(bool, usize)>,
    changed: Condvar,
}

impl Gate {
    pub(crate) fn new() -> Arc<Gate> {
        Arc::default()
    }

    pub(crate) fn open(&self) {
        self.state.lock().unwrap().0 = true;
        self.changed.notify_all();
    }

    pub(crate) fn wait(&self) {
        let mut state = self.state.lock().unwrap();
        state.1 += 1;
        self.changed.notify_all();
        while !state.0 {
            state = self.changed.wait(state).unwrap();
        }
    }

    /// Waits until `count` have come.
    pub(crate) fn wait_for_arrivals(&self, count: usize) {
        let mut state = self.state.lock().unwrap();
        while state.1 < count {
            state = self.changed.wait(state).unwrap();
        }
    }
}

/// An engine with one device of `slots` slots and these operations.
pub(crate) fn engine(slots: usize, operations: Vec<(&str, TestOperation)>) -> Engine {
    engine_with(&EngineConfig::cpu(slots), operations)
}

pub(crate) fn engine_with(config: &EngineConfig, operations: Vec<(&str, TestOperation)>) -> Engine {
    let store = Store::new(StoreConfig::default(), Vec::new(), Box::new(NoRehearsal)).unwrap();
    for (name, operation) in operations {
        store.add_builtin(name, "for a test", Arc::new(operation)).unwrap();
    }
    Engine::start(config, store).unwrap()
}
