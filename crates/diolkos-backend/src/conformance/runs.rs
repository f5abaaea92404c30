// SPDX-License-Identifier: Apache-2.0
//! Running an operation under observation, and the checks that compare one run with another.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::Instant;

use bytes::Bytes;
use diolkos_types::{DataType, Params, Shape, Signature};

use crate::conformance::{Case, Check, Report, sample};
use crate::{
    Backend, CancelFlag, LoadError, LoadOptions, ModelFiles, Operation, Phases, RunError, Tensor, Work,
};

/// Room for outputs where room is not the question. Finite, so that a wild operation fails instead of
/// eating the machine.
const ROOM: u64 = 1 << 30;

/// Threads of the concurrency check.
const THREADS: usize = 4;

/// Most cases whose answers are compared again and again.
const ANSWERED_MAX: usize = 20;

/// Runs `operation` once, outside an engine: no parameters, every output wanted, room without limit.
///
/// For tests and examples of backends; the daemon's path is the engine.
pub fn run_once(
    operation: &dyn Operation,
    inputs: Vec<Option<Tensor>>,
) -> Result<Vec<Option<Tensor>>, RunError> {
    let mut work = Work::new(inputs, None, Params::new(), u64::MAX, CancelFlag::new());
    operation.run(&mut work)?;
    Ok(work.into_outputs())
}

/// What a panic said.
pub(super) fn panic_text(payload: &(dyn std::any::Any + Send)) -> String {
    let text = payload.downcast_ref::<&str>().copied();
    text.or_else(|| payload.downcast_ref::<String>().map(String::as_str)).unwrap_or("no text").to_owned()
}

/// Runs `f`; the error is the text of its panic.
pub(super) fn no_panic<T>(f: impl FnOnce() -> T) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(f)).map_err(|payload| panic_text(&*payload))
}

/// Loads; a panic becomes an error that says so, and is [`Check::LoadNeverPanics`]'s to find.
pub(super) fn load(
    backend: &dyn Backend,
    files: &ModelFiles,
    options: &LoadOptions,
) -> Result<Arc<dyn Operation>, LoadError> {
    no_panic(|| backend.load(files, options))
        .unwrap_or_else(|text| Err(LoadError::Invalid { reason: format!("`load` panicked: {text}") }))
}

/// One output, copied out of whatever the operation gave.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Given {
    pub(super) data_type: DataType,
    pub(super) shape: Shape,
    pub(super) bytes: Bytes,
}

/// How a run ended.
pub(super) enum Ending {
    Answer(Vec<Option<Given>>),
    Refused(RunError),
    Panicked(String),
}

impl Ending {
    /// A few words for a report.
    pub(super) fn describe(&self) -> String {
        match self {
            Ending::Answer(outputs) => format!("an answer with {} outputs", outputs.iter().flatten().count()),
            Ending::Refused(error) => format!("the error `{error}`"),
            Ending::Panicked(text) => format!("a panic: {text}"),
        }
    }

    /// `Err` says how this ending differs from an answer that was expected.
    pub(super) fn must_be(&self, expected: &[Option<Given>]) -> Result<(), String> {
        let Ending::Answer(given) = self else { return Err(format!("gave {}", self.describe())) };
        let length = expected.len().max(given.len());
        for index in 0..length {
            let (expected, given) =
                (expected.get(index).and_then(Option::as_ref), given.get(index).and_then(Option::as_ref));
            if expected != given {
                return Err(format!("output {index} differs: {}", difference(expected, given)));
            }
        }
        Ok(())
    }
}

fn difference(expected: Option<&Given>, given: Option<&Given>) -> String {
    let (Some(expected), Some(given)) = (expected, given) else {
        let there = |output: Option<&Given>| if output.is_some() { "given" } else { "missing" };
        return format!("{} before, {} now", there(expected), there(given));
    };
    if (expected.data_type, expected.shape) != (given.data_type, given.shape) {
        let (a, b) = (expected, given);
        return format!("{} {} before, {} {} now", a.data_type, a.shape, b.data_type, b.shape);
    }
    match expected.bytes.iter().zip(&given.bytes).position(|(a, b)| a != b) {
        Some(byte) => format!("from byte {byte} of {}", expected.bytes.len()),
        None => format!("{} bytes before, {} now", expected.bytes.len(), given.bytes.len()),
    }
}

/// A run and what was seen of it.
pub(super) struct Ran {
    pub(super) ending: Ending,
    pub(super) phases: Phases,
    pub(super) from: Instant,
    pub(super) to: Instant,
}

/// What is special about a run.
#[derive(Clone)]
pub(super) struct Setup {
    pub(super) wanted: Option<Box<[bool]>>,
    pub(super) room: u64,
    pub(super) cancelled: bool,
}

impl Setup {
    pub(super) const PLAIN: Setup = Setup { wanted: None, room: ROOM, cancelled: false };
}

pub(super) fn run(operation: &dyn Operation, case: &Case, setup: Setup) -> Ran {
    let cancel = CancelFlag::new();
    if setup.cancelled {
        cancel.cancel();
    }
    let mut work = Work::new(case.inputs.clone(), setup.wanted, case.params.clone(), setup.room, cancel);
    let from = Instant::now();
    let result = no_panic(|| operation.run(&mut work));
    let to = Instant::now();
    let phases = work.phases();
    let ending = match result {
        Err(text) => Ending::Panicked(text),
        Ok(Err(error)) => Ending::Refused(error),
        Ok(Ok(())) => Ending::Answer(work.into_outputs().into_iter().map(|o| o.map(given)).collect()),
    };
    Ran { ending, phases, from, to }
}

fn given(tensor: Tensor) -> Given {
    Given { data_type: tensor.data_type, shape: tensor.shape, bytes: tensor.data.to_private() }
}

/// A case and the answer that it got first.
pub(super) struct Answered {
    pub(super) case: Case,
    pub(super) answer: Vec<Option<Given>>,
}

/// An operation with the cases that it answers, found by running all of them once.
pub(super) struct Subject<'a> {
    pub(super) label: &'a str,
    pub(super) operation: &'a dyn Operation,
    /// As it was before the first run.
    pub(super) signature: Signature,
    pub(super) answered: Vec<Answered>,
    ordinary: usize,
    values: usize,
    empties: usize,
    last_refusal: Option<String>,
    panic: Option<String>,
    empty_panic: Option<String>,
    stray_cancel: Option<String>,
}

impl<'a> Subject<'a> {
    pub(super) fn new(label: &'a str, operation: &'a dyn Operation, own: &[Case], seed: u64) -> Subject<'a> {
        let signature = operation.signature().clone();
        let generated = sample::generate(&signature, seed);
        let (ordinary, extreme) = if own.is_empty() {
            (generated.ordinary, generated.extreme)
        } else {
            (own.to_vec(), [generated.ordinary, generated.extreme].concat())
        };
        let mut subject = Subject {
            label,
            operation,
            signature,
            answered: Vec::new(),
            ordinary: ordinary.len(),
            values: ordinary.len() + extreme.len(),
            empties: generated.empty.len(),
            last_refusal: None,
            panic: None,
            empty_panic: None,
            stray_cancel: None,
        };
        for case in ordinary {
            if let Some(answer) = subject.first_run(&case, false)
                && subject.answered.len() < ANSWERED_MAX
            {
                subject.answered.push(Answered { case, answer });
            }
        }
        for case in extreme {
            subject.first_run(&case, false);
        }
        for case in generated.empty {
            subject.first_run(&case, true);
        }
        subject
    }

    fn first_run(&mut self, case: &Case, empty: bool) -> Option<Vec<Option<Given>>> {
        match run(self.operation, case, Setup::PLAIN).ending {
            Ending::Answer(answer) => return Some(answer),
            Ending::Panicked(text) => {
                let slot = if empty { &mut self.empty_panic } else { &mut self.panic };
                slot.get_or_insert(format!("panicked for {}: {text}", case.label));
            }
            Ending::Refused(RunError::Cancelled) => {
                self.stray_cancel.get_or_insert(format!("{} was `Cancelled`, and nobody asked", case.label));
            }
            Ending::Refused(error) => self.last_refusal = Some(format!("{}: {error}", case.label)),
        }
        None
    }

    /// Runs `check` for every answered case; the result says how many, or what was wrong with the first.
    pub(super) fn each(
        &self,
        mut check: impl FnMut(&Answered) -> Result<(), String>,
    ) -> Result<String, String> {
        for answered in &self.answered {
            check(answered).map_err(|text| format!("{}: {text}", answered.case.label))?;
        }
        Ok(format!("{} cases", self.answered.len()))
    }

    /// [`Subject::each`] for `check`, or skipped where there is no answer to look at.
    pub(super) fn judge_each(
        &self,
        report: &mut Report,
        check: Check,
        test: impl FnMut(&Answered) -> Result<(), String>,
    ) {
        if self.answered.is_empty() {
            return report.skip(self.label, check, "no case was answered");
        }
        report.judge(self.label, check, self.each(test));
    }

    /// Like [`Subject::judge_each`], for checks that compare answers: skipped where answers vary anyway.
    pub(super) fn compare_each(
        &self,
        report: &mut Report,
        check: Check,
        test: impl FnMut(&Answered) -> Result<(), String>,
    ) {
        if report.failed_for(self.label, Check::Deterministic) {
            return report.skip(self.label, check, "answers vary from run to run");
        }
        self.judge_each(report, check, test);
    }

    pub(super) fn same_answers_as(&self, other: &Subject<'_>) -> Result<String, String> {
        self.each(|answered| {
            run(other.operation, &answered.case, Setup::PLAIN).ending.must_be(&answered.answer)
        })
    }
}

/// What the first run of every case showed.
pub(super) fn values(report: &mut Report, subject: &Subject<'_>) {
    let label = subject.label;
    let answered = subject.answered.len();
    if answered == 0 {
        let why = subject.last_refusal.as_deref().unwrap_or("its tensors are too large to generate");
        report.fail(label, Check::Answers, format!("no case was answered; give one that is. Last: {why}"));
    } else {
        let text = format!("{answered} of {} cases are compared", subject.ordinary);
        report.pass(label, Check::Answers, text);
    }
    match &subject.panic {
        Some(text) => report.fail(label, Check::AnyValue, text),
        None => report.pass(label, Check::AnyValue, format!("{} cases", subject.values)),
    }
    match &subject.empty_panic {
        Some(text) => report.fail(label, Check::EmptyTensors, text),
        None if subject.empties == 0 => {
            report.skip(label, Check::EmptyTensors, "no input has a variable dimension");
        }
        None => report.pass(label, Check::EmptyTensors, format!("{} cases", subject.empties)),
    }
}

/// Again, in another order, and from several threads.
pub(super) fn repeats(report: &mut Report, subject: &Subject<'_>) {
    if subject.answered.is_empty() {
        report.skip(subject.label, Check::Deterministic, "no case was answered");
        return report.skip(subject.label, Check::Concurrent, "no case was answered");
    }
    // Backwards: what one case leaves behind must not show in the next, whichever that is.
    let again = subject.answered.iter().chain(subject.answered.iter().rev()).try_for_each(|answered| {
        let ending = run(subject.operation, &answered.case, Setup::PLAIN).ending;
        ending.must_be(&answered.answer).map_err(|text| format!("{}: {text}", answered.case.label))
    });
    let runs = subject.answered.len() * 2;
    report.judge(subject.label, Check::Deterministic, again.map(|()| format!("{runs} runs")));
    if report.failed_for(subject.label, Check::Deterministic) {
        return report.skip(subject.label, Check::Concurrent, "answers vary from run to run");
    }
    report.judge(subject.label, Check::Concurrent, concurrently(subject));
}

fn concurrently(subject: &Subject<'_>) -> Result<String, String> {
    let start = Barrier::new(THREADS);
    let round = |first: usize| {
        start.wait();
        let rotated = subject.answered.iter().cycle().skip(first).take(subject.answered.len() * 2);
        rotated.into_iter().try_for_each(|answered| {
            let ending = run(subject.operation, &answered.case, Setup::PLAIN).ending;
            ending.must_be(&answered.answer).map_err(|text| format!("{}: {text}", answered.case.label))
        })
    };
    thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS).map(|first| scope.spawn(move || round(first))).collect();
        threads.into_iter().try_for_each(|thread| match thread.join() {
            Ok(result) => result,
            Err(payload) => Err(format!("a thread of the suite panicked: {}", panic_text(&*payload))),
        })
    })?;
    Ok(format!("{} runs from {THREADS} threads", subject.answered.len() * 2 * THREADS))
}

pub(super) fn cancelled(report: &mut Report, subject: &Subject<'_>) {
    if let Some(text) = &subject.stray_cancel {
        return report.fail(subject.label, Check::Cancelled, text);
    }
    subject.compare_each(report, Check::Cancelled, |answered| {
        let setup = Setup { cancelled: true, ..Setup::PLAIN };
        match run(subject.operation, &answered.case, setup).ending {
            Ending::Refused(RunError::Cancelled) => Ok(()),
            other => other.must_be(&answered.answer),
        }
    });
}

pub(super) fn phases(report: &mut Report, subject: &Subject<'_>) {
    subject.judge_each(report, Check::Phases, |answered| {
        let ran = run(subject.operation, &answered.case, Setup::PLAIN);
        let Ending::Answer(_) = ran.ending else { return Ok(()) };
        let (Some(began), Some(ended)) = (ran.phases.compute_began, ran.phases.compute_ended) else {
            return Err("call both `compute_begins` and `compute_ends`".into());
        };
        let ordered = ran.from <= began && began <= ended && ended <= ran.to;
        if ordered { Ok(()) } else { Err("computing ends before it begins".into()) }
    });
}
