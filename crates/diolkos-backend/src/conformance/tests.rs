// SPDX-License-Identifier: Apache-2.0
//! The suite's own tests: whatever breaks exactly one promise makes exactly that check fail.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::{self, ThreadId};

use diolkos_types::{DataType, Dim, Shape, TensorSpec};

use super::*;
use crate::{Buffer, Format, LoadError, RunError, Work};

/// Doubles `x` into `y` and puts the sum of `x` into `sum`, except for one deliberate fault.
struct Doubler {
    signature: Signature,
    other: Signature,
    fault: Option<Check>,
    factor: f32,
    runs: AtomicU32,
    changed: AtomicBool,
    first_thread: OnceLock<ThreadId>,
}

impl Doubler {
    fn new(fault: Option<Check>, factor: f32, max: u64) -> Doubler {
        let vector = |name| TensorSpec::new(name, DataType::Fp32, &[Dim::Variable { max }]);
        let scalar = TensorSpec::new("sum", DataType::Fp32, &[]);
        let second = if fault == Some(Check::NamesUnique) { vector("sum") } else { vector("y") };
        let signature = Signature { inputs: [vector("x")].into(), outputs: [second, scalar].into() };
        let other = Signature { inputs: [vector("z")].into(), ..signature.clone() };
        Doubler {
            signature,
            other,
            fault,
            factor,
            runs: AtomicU32::new(0),
            changed: AtomicBool::new(false),
            first_thread: OnceLock::new(),
        }
    }

    fn has(&self, check: Check) -> bool {
        self.fault == Some(check)
    }

    fn refuse(reason: &str) -> RunError {
        RunError::Failed { backend: "doubler", reason: reason.into() }
    }

    fn read(&self, data: &Buffer) -> Result<Vec<f32>, RunError> {
        let extents = format!("{data:?}");
        if self.has(Check::Extents) && extents.contains("3 extents") {
            return Err(Doubler::refuse("three extents"));
        }
        match data.as_slice() {
            None if self.has(Check::SharedMemory) && extents.contains("1 extents") => {
                return Err(Doubler::refuse("not a slice"));
            }
            Some(slice) if self.has(Check::Alignment) && !(slice.as_ptr() as usize).is_multiple_of(4) => {
                return Err(Doubler::refuse("not aligned"));
            }
            Some(_) | None => {}
        }
        let bytes = data.to_private();
        Ok(bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect())
    }

    fn check_values(&self, values: &[f32]) -> Result<(), RunError> {
        assert!(!(self.has(Check::AnyValue) && values.iter().any(|v| v.is_nan())), "not a number");
        assert!(!(self.has(Check::EmptyTensors) && values.is_empty()), "no values");
        if self.has(Check::Answers) && !values.is_empty() {
            return Err(Doubler::refuse("never answers"));
        }
        Ok(())
    }

    /// What is added to every answer.
    fn disturbance(&self) -> f32 {
        let run = self.runs.fetch_add(1, Ordering::Relaxed);
        let first = self.first_thread.get_or_init(|| thread::current().id());
        if self.has(Check::Concurrent) && *first != thread::current().id() {
            return 1.0;
        }
        if self.has(Check::Deterministic) { run as f32 } else { 0.0 }
    }

    fn give_vector(&self, work: &mut Work, values: &[f32]) -> Result<(), RunError> {
        let mut data: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        let mut shape = Shape::new(&[values.len() as u64]).unwrap();
        let data_type = if self.has(Check::OutputTypes) { DataType::Int32 } else { DataType::Fp32 };
        if self.has(Check::OutputShapes) {
            shape.push(1).unwrap();
        }
        if self.has(Check::OutputBytes) {
            data.push(0);
        }
        let times = if self.has(Check::OutputsOnce) { 2 } else { 1 };
        for _ in 0..times {
            let slot = work.output(&self.signature, 0, data_type, shape, data.len());
            let slot = if self.has(Check::OutputRoom) { slot.expect("room") } else { slot? };
            slot.copy_from(&data);
        }
        Ok(())
    }
}

impl Operation for Doubler {
    fn signature(&self) -> &Signature {
        let changed = self.has(Check::SignatureStable) && self.changed.load(Ordering::Relaxed);
        if changed { &self.other } else { &self.signature }
    }

    fn resident_bytes(&self) -> u64 {
        8
    }

    fn peak_bytes(&self, _shapes: &[Option<Shape>], _input_bytes: u64) -> Option<u64> {
        self.has(Check::PeakBytes).then_some(1)
    }

    fn run(&self, work: &mut Work) -> Result<(), RunError> {
        self.changed.store(true, Ordering::Relaxed);
        if self.has(Check::Cancelled) && work.cancel_flag().is_cancelled() {
            return Ok(());
        }
        work.check_cancelled()?;
        let x = self.read(&work.input(0).unwrap().data)?;
        self.check_values(&x)?;
        if !self.has(Check::Phases) {
            work.compute_begins();
        }
        let add = self.disturbance();
        let doubled: Vec<f32> = x.iter().map(|v| v * self.factor + add).collect();
        work.compute_ends();
        let all = self.has(Check::OutputsWanted);
        if work.wants(0) || all {
            self.give_vector(work, &doubled)?;
        }
        if (work.wants(1) || all) && !self.has(Check::OutputsComplete) {
            let sum: f32 = x.iter().sum();
            work.output(&self.signature, 1, DataType::Fp32, Shape::SCALAR, 4)?.copy_from(&sum.to_le_bytes());
        }
        Ok(())
    }
}

/// Loads `DBL` and a factor as text, except for one deliberate fault.
struct DoublerBackend {
    fault: Option<Check>,
    loads: AtomicU32,
}

impl Backend for DoublerBackend {
    fn name(&self) -> &'static str {
        "doubler"
    }

    fn formats(&self) -> &[Format] {
        match self.fault {
            Some(Check::Describes) => &[Format { extension: ".dbl", platform: "doubler" }],
            _ => &[Format { extension: "dbl", platform: "doubler" }],
        }
    }

    fn load(&self, files: &ModelFiles, options: &LoadOptions) -> Result<Arc<dyn Operation>, LoadError> {
        let has = |check| self.fault == Some(check);
        let invalid = || LoadError::Invalid { reason: "it does not say DBL".into() };
        let contents = match files.entry_contents() {
            Err(_) if has(Check::LoadOnlyItsFiles) => std::fs::read(&files.entry).map_err(|_| invalid())?,
            other => other?.to_vec(),
        };
        assert!(!(has(Check::LoadNeverPanics) && contents.len() == 4), "four bytes");
        if has(Check::LoadSample) {
            return Err(invalid());
        }
        let parsed = contents.strip_prefix(b"DBL").and_then(|n| std::str::from_utf8(n).ok()?.parse().ok());
        let factor =
            if has(Check::LoadRefusesNoise) { parsed.unwrap_or(1.0) } else { parsed.ok_or_else(invalid)? };
        if options.resident_bytes_max < 8 && !has(Check::LoadLimits) {
            return Err(LoadError::TooLarge { needed: 8, limit: options.resident_bytes_max });
        }
        let loads = self.loads.fetch_add(1, Ordering::Relaxed);
        let drift = if has(Check::LoadTwice) { loads as f32 } else { 0.0 };
        let fault = self.fault.filter(|check| !check.is_of_backends());
        Ok(Arc::new(Doubler::new(fault, factor + drift, options.variable_dim_max)))
    }
}

fn report(fault: Option<Check>) -> Report {
    let files = ModelFiles::single("model.dbl", &b"DBL2.5"[..]);
    let backend = DoublerBackend { fault, loads: AtomicU32::new(0) };
    Suite::for_backend(Arc::new(backend)).model(SampleModel::new("sample", files)).run()
}

#[test]
fn a_sound_backend_passes_every_check_once() {
    let report = report(None);
    report.assert_conforms();
    let checks: Vec<Check> = report.entries().iter().map(|entry| entry.check).collect();
    for &check in Check::ALL {
        assert_eq!(checks.iter().filter(|&&c| c == check).count(), 1, "{check}\n{report}");
    }
    assert!(report.entries().iter().all(|entry| entry.verdict == Verdict::Passed), "{report}");
}

#[test]
fn each_broken_promise_fails_its_own_check_alone() {
    for &check in Check::ALL {
        let report = report(Some(check));
        assert_eq!(report.failed(), [check], "broken on purpose: {check}\n{report}");
        let lines = report.entries().iter().filter(|entry| entry.check == check).count();
        assert_eq!(lines, 1, "{check} has several lines\n{report}");
    }
}

#[test]
fn limits_on_variable_dimensions_are_noticed() {
    struct Wide;
    impl Backend for Wide {
        fn name(&self) -> &'static str {
            "wide"
        }
        fn formats(&self) -> &[Format] {
            &[Format { extension: "dbl", platform: "wide" }]
        }
        fn load(&self, files: &ModelFiles, options: &LoadOptions) -> Result<Arc<dyn Operation>, LoadError> {
            if options.resident_bytes_max < 8 {
                return Err(LoadError::TooLarge { needed: 8, limit: options.resident_bytes_max });
            }
            match files.entry_contents()?.as_ref() {
                b"DBL" => Ok(Arc::new(Doubler::new(None, 1.0, 64))),
                _ => Err(LoadError::Invalid { reason: "no".into() }),
            }
        }
    }
    let files = ModelFiles::single("m.dbl", &b"DBL"[..]);
    let report = Suite::for_backend(Arc::new(Wide)).model(SampleModel::new("m", files)).run();
    assert_eq!(report.failed(), [Check::LoadLimits], "{report}");
    let text = report.to_string();
    assert!(text.contains("`x` varies up to 64 where 3 was allowed"), "{text}");
}

/// Reads its input twice and trusts that it is the same.
struct ReadsTwice(Doubler);

impl Operation for ReadsTwice {
    fn signature(&self) -> &Signature {
        self.0.signature()
    }

    fn resident_bytes(&self) -> u64 {
        0
    }

    fn peak_bytes(&self, _shapes: &[Option<Shape>], _input_bytes: u64) -> Option<u64> {
        None
    }

    fn run(&self, work: &mut Work) -> Result<(), RunError> {
        let data = &work.input(0).unwrap().data;
        assert_eq!(data.to_private(), data.to_private());
        self.0.run(work)
    }
}

#[test]
fn memory_that_changes_is_tried() {
    let operation = Arc::new(ReadsTwice(Doubler::new(None, 2.0, 64)));
    let report = Suite::for_operation("reads twice", operation).run();
    assert_eq!(report.failed(), [Check::SharedMemory], "{report}");
}

#[test]
fn no_model_and_no_answer_are_failures() {
    let backend = DoublerBackend { fault: None, loads: AtomicU32::new(0) };
    let report = Suite::for_backend(Arc::new(backend)).run();
    assert_eq!(report.failed(), [Check::LoadSample]);
}

/// Wants exactly the value 7, so that only a case by hand is answered.
struct Picky(Doubler);

impl Operation for Picky {
    fn signature(&self) -> &Signature {
        self.0.signature()
    }

    fn resident_bytes(&self) -> u64 {
        0
    }

    fn peak_bytes(&self, _shapes: &[Option<Shape>], _input_bytes: u64) -> Option<u64> {
        None
    }

    fn run(&self, work: &mut Work) -> Result<(), RunError> {
        if work.input(0).unwrap().data.to_private()[..] != 7f32.to_le_bytes() {
            return Err(RunError::InvalidInput { tensor: "x".into(), reason: "is not 7".into() });
        }
        self.0.run(work)
    }
}

#[test]
fn cases_by_hand_reach_what_generated_ones_do_not() {
    let suite = || Suite::for_operation("picky", Arc::new(Picky(Doubler::new(None, 2.0, 64))));
    assert_eq!(suite().run().failed(), [Check::Answers]);
    let report = suite().case(Case::new("seven").fp32(&[1], &[7.0])).run();
    report.assert_conforms();
    assert!(report.entries().iter().all(|entry| entry.verdict == Verdict::Passed), "{report}");
}

#[test]
#[should_panic(expected = "FAIL  names-unique")]
fn assert_conforms_panics_with_the_table() {
    report(Some(Check::NamesUnique)).assert_conforms();
}

#[test]
fn names_of_checks_are_unique() {
    for &check in Check::ALL {
        assert_eq!(Check::ALL.iter().filter(|other| other.name() == check.name()).count(), 1);
        assert!(check.promise().ends_with('.'));
    }
}
