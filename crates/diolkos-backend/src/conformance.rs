// SPDX-License-Identifier: Apache-2.0
//! The suite that every backend and every operation passes, ours and a plug-in author's alike.
//!
//! Each promise of [`Backend`] and [`Operation`] is one [`Check`]. A [`Suite`] runs them all over sample
//! models or a bare operation and gives a [`Report`]:
//!
//! ```
//! use std::sync::Arc;
//! use diolkos_backend::ModelFiles;
//! use diolkos_backend::conformance::{SampleModel, Suite};
//! use diolkos_backend::null::NullBackend;
//!
//! let files = ModelFiles::single("m.null", &b"input x FP32 [-1,4]\noutput y FP32 [-1,4]"[..]);
//! let report = Suite::for_backend(Arc::new(NullBackend)).model(SampleModel::new("m", files)).run();
//! println!("{report}");
//! report.assert_conforms();
//! ```
//!
//! Inputs are generated from the signature. A model that refuses them (one that wants indices below 10, say)
//! needs a [`Case`] of its own; without one case that is answered, [`Check::Answers`] fails.
//!
//! Rules that keep a report readable:
//!
//! * Each defect is blamed on one check. A run that panics counts for [`Check::AnyValue`] and is left out
//!   elsewhere; if answers vary from run to run, the checks that compare answers are skipped.
//! * All random choices come from one seed, which the report prints.
//!
//! What it can't see: a run or load that never returns, that aborts the process (stack overflow, out of
//! memory) or that reads files other than the decoy of [`Check::LoadOnlyItsFiles`]. Panics that are caught
//! still print a line to standard error.

mod case;
mod hostile;
mod memory;
mod outputs;
mod report;
mod runs;
mod sample;
mod signature;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use diolkos_types::Signature;

pub use case::{Case, SampleModel};
pub use report::{Check, Entry, Report, Verdict};
pub use runs::run_once;

use crate::conformance::runs::Subject;
use crate::{Backend, LoadOptions, ModelFiles, Operation};

/// What the suite allows a model: small, so that generated inputs stay small too.
const OPTIONS: LoadOptions = LoadOptions { variable_dim_max: 64, resident_bytes_max: 1 << 32 };

/// What is checked, and with what.
pub struct Suite {
    target: Target,
    seed: u64,
    hostile_loads_max: usize,
}

enum Target {
    Backend { backend: Arc<dyn Backend>, models: Vec<SampleModel> },
    Operation { name: String, operation: Arc<dyn Operation>, cases: Vec<Case> },
}

impl Suite {
    fn new(target: Target) -> Suite {
        Suite { target, seed: 1, hostile_loads_max: 256 }
    }

    /// Checks a backend with the models that [`Suite::model`] adds; without any, the report fails.
    #[must_use]
    pub fn for_backend(backend: Arc<dyn Backend>) -> Suite {
        Suite::new(Target::Backend { backend, models: Vec::new() })
    }

    /// Checks one operation that no backend loads, such as a built-in.
    #[must_use]
    pub fn for_operation(name: &str, operation: Arc<dyn Operation>) -> Suite {
        Suite::new(Target::Operation { name: name.into(), operation, cases: Vec::new() })
    }

    /// Adds a model for the backend to load.
    ///
    /// # Panics
    ///
    /// If the suite checks a bare operation: it loads nothing.
    #[must_use]
    pub fn model(mut self, model: SampleModel) -> Suite {
        match &mut self.target {
            Target::Backend { models, .. } => models.push(model),
            Target::Operation { .. } => panic!("a suite for an operation takes cases, and no models"),
        }
        self
    }

    /// Adds a case for the operation to run.
    ///
    /// # Panics
    ///
    /// If the suite checks a backend: cases belong to its models, see [`SampleModel::case`].
    #[must_use]
    pub fn case(mut self, case: Case) -> Suite {
        match &mut self.target {
            Target::Operation { cases, .. } => cases.push(case),
            Target::Backend { .. } => panic!("a suite for a backend takes cases with its models"),
        }
        self
    }

    /// Draws generated values and damage from another seed.
    #[must_use]
    pub fn seed(mut self, seed: u64) -> Suite {
        self.seed = seed;
        self
    }

    /// How many damaged copies of each model are loaded (256 unless told); for models that load slowly.
    #[must_use]
    pub fn hostile_loads_max(mut self, loads: usize) -> Suite {
        self.hostile_loads_max = loads;
        self
    }

    /// Runs every check.
    #[must_use]
    pub fn run(&self) -> Report {
        let mut report = Report::new(self.seed);
        match &self.target {
            Target::Operation { name, operation, cases } => {
                check_operation(&mut report, name, &**operation, cases, self.seed);
            }
            Target::Backend { backend, models } => {
                signature::describes_itself(&mut report, &**backend);
                if models.is_empty() {
                    report.fail(backend.name(), Check::LoadSample, "the suite was given no sample model");
                }
                for model in models {
                    self.check_model(&mut report, &**backend, model);
                }
            }
        }
        report
    }

    fn check_model(&self, report: &mut Report, backend: &dyn Backend, model: &SampleModel) {
        let label = &*model.label;
        match runs::load(backend, &model.files, &OPTIONS) {
            Ok(operation) => {
                report.pass(label, Check::LoadSample, "");
                // Before any run: a signature that changes is another check's to blame.
                let signature = operation.signature().clone();
                check_operation(report, label, &*operation, &model.cases, self.seed);
                signature::load_limits(report, label, backend, &model.files, &*operation);
                self.load_twice(report, backend, model, &*operation, &signature);
            }
            Err(error) => {
                report.fail(label, Check::LoadSample, error.to_string());
                for check in Check::of_operations().chain([Check::LoadLimits, Check::LoadTwice]) {
                    report.skip(label, check, "the model did not load");
                }
            }
        }
        hostile::damaged(report, label, backend, &model.files, self.seed, self.hostile_loads_max);
        hostile::noise(report, label, backend, &model.files, self.seed);
        hostile::decoy(report, label, backend, &model.files);
    }

    fn load_twice(
        &self,
        report: &mut Report,
        backend: &dyn Backend,
        model: &SampleModel,
        first: &dyn Operation,
        signature: &Signature,
    ) {
        let label = &*model.label;
        let check = Check::LoadTwice;
        let second = match runs::load(backend, &model.files, &OPTIONS) {
            Ok(second) => second,
            Err(error) => return report.fail(label, check, format!("the second load failed: {error}")),
        };
        if second.signature() != signature {
            return report.fail(label, check, "the second load has another signature");
        }
        if report.failed_for(label, Check::Deterministic) {
            return report.skip(label, check, "answers vary from run to run");
        }
        let subject = Subject::new(label, first, &model.cases, self.seed);
        let other = Subject::new(label, &*second, &model.cases, self.seed);
        report.judge(label, check, subject.same_answers_as(&other));
    }
}

fn check_operation(report: &mut Report, label: &str, operation: &dyn Operation, cases: &[Case], seed: u64) {
    signature::names_unique(report, label, operation);
    let subject = Subject::new(label, operation, cases, seed);
    runs::values(report, &subject);
    runs::repeats(report, &subject);
    memory::kinds(report, &subject);
    outputs::form(report, &subject);
    outputs::choice_and_room(report, &subject);
    runs::cancelled(report, &subject);
    runs::phases(report, &subject);
    signature::unchanged(report, &subject);
}

/// A copy of `files` in which `name` has other contents.
fn with_contents(files: &ModelFiles, name: &str, contents: Vec<u8>) -> ModelFiles {
    let mut changed = files.clone();
    changed.files.insert(name.into(), contents.into());
    changed
}
