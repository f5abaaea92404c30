// SPDX-License-Identifier: Apache-2.0
//! Each fault, the gate, and the replay of plans.

use std::mem::discriminant;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread;

use super::*;
use crate::conformance::{SampleModel, Suite, run_once};
use crate::null::{NullBackend, noop, parse};

fn two_outputs() -> Arc<dyn Operation> {
    Arc::new(parse(b"output a UINT8 [2]\noutput b UINT8 [3]", 1).unwrap())
}

#[test]
fn without_faults_it_passes_the_suite() {
    let backend = FaultyBackend::new(
        Arc::new(NullBackend),
        Plan::always(LoadFault::None),
        Plan::script(vec![RunFault::Hold(open_gate())], RunFault::None),
    );
    let files = ModelFiles::single("m.null", &b"input x FP32 [-1]\noutput y FP32 [-1]"[..]);
    Suite::for_backend(Arc::new(backend)).model(SampleModel::new("m", files)).run().assert_conforms();
}

fn open_gate() -> Gate {
    let gate = Gate::new();
    gate.open();
    gate
}

#[test]
fn scripts_are_followed_and_counted() {
    let faults: Vec<RunFault> = RunFailure::ALL.into_iter().map(RunFault::Fail).collect();
    let plan = Plan::script(faults, RunFault::None);
    let operation = FaultyOperation::new(two_outputs(), plan.clone());
    for failure in RunFailure::ALL {
        let error = run_once(&operation, Vec::new()).unwrap_err();
        assert_eq!(discriminant(&error), discriminant(&failure.error(operation.signature())));
    }
    assert_eq!(run_once(&operation, Vec::new()).unwrap().len(), 2);
    assert_eq!(plan.begun(), 7);
}

#[test]
fn outputs_go_missing() {
    let script = vec![RunFault::WithoutOutput { index: 0 }, RunFault::WithoutOutputs];
    let operation = FaultyOperation::new(two_outputs(), Plan::script(script, RunFault::None));
    let outputs = run_once(&operation, Vec::new()).unwrap();
    assert!(outputs[0].is_none());
    assert_eq!(outputs[1].as_ref().unwrap().data.len(), 3);
    assert!(run_once(&operation, Vec::new()).unwrap().is_empty());
}

#[test]
fn panics_and_load_failures() {
    let files = ModelFiles::single("m.null", &b"output a UINT8 [2]"[..]);
    let options = LoadOptions { variable_dim_max: 1, resident_bytes_max: 1 };
    let loads = vec![
        LoadFault::Invalid,
        LoadFault::Unsupported,
        LoadFault::TooLarge,
        LoadFault::MissingFile,
        LoadFault::Panic,
    ];
    let plan = Plan::script(loads, LoadFault::None);
    let backend = FaultyBackend::new(Arc::new(NullBackend), plan, Plan::always(RunFault::Panic));
    let mut load = || backend.load(&files, &options).map(drop);
    assert!(matches!(load(), Err(LoadError::Invalid { .. })));
    assert!(matches!(load(), Err(LoadError::Unsupported { .. })));
    assert!(matches!(load(), Err(LoadError::TooLarge { needed: 2, limit: 1 })));
    assert!(matches!(load(), Err(LoadError::MissingFile { .. })));
    assert!(catch_unwind(AssertUnwindSafe(&mut load)).is_err());
    let operation = backend.load(&files, &options).unwrap();
    assert!(catch_unwind(AssertUnwindSafe(|| run_once(&*operation, Vec::new()))).is_err());
}

#[test]
fn a_gate_holds_work_until_it_opens() {
    let gate = Gate::new();
    let operation = FaultyOperation::new(noop(), Plan::always(RunFault::Hold(gate.clone())));
    thread::scope(|scope| {
        let runs: Vec<_> = (0..2).map(|_| scope.spawn(|| run_once(&operation, Vec::new()))).collect();
        gate.wait_for_arrivals(2);
        assert_eq!(gate.waiting(), 2);
        assert!(runs.iter().all(|run| !run.is_finished()));
        gate.open();
        for run in runs {
            run.join().unwrap().unwrap();
        }
    });
    assert_eq!(gate.waiting(), 0);
    gate.wait();
    gate.close();
    gate.wait_for_arrivals(3);
}

#[test]
fn seeded_plans_replay_and_follow_their_weights() {
    let faults = || vec![(3, RunFault::None), (1, RunFault::Panic), (0, RunFault::WithoutOutputs)];
    let (one, again) = (Plan::seeded(7, faults()), Plan::seeded(7, faults()));
    let drawn = |plan: &Plan<RunFault>| -> Vec<_> {
        (0..1000).map(|number| discriminant(&plan.fault(number))).collect()
    };
    assert_eq!(drawn(&one), drawn(&again));
    assert_ne!(drawn(&one), drawn(&Plan::seeded(8, faults())));
    let panics = drawn(&one).iter().filter(|&&d| d == discriminant(&RunFault::Panic)).count();
    assert!((200..300).contains(&panics), "{panics} of 1000 with a weight of one in four");
    assert!(!drawn(&one).contains(&discriminant(&RunFault::WithoutOutputs)));
}
