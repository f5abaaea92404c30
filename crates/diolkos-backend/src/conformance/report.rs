// SPDX-License-Identifier: Apache-2.0
//! The list of checks, and what came of them.

use std::fmt;

macro_rules! checks {
    ($($group:ident: $variant:ident $name:literal $promise:literal;)*) => {
        /// One promise of [`crate::Backend`] or [`crate::Operation`].
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Check {
            $(#[doc = $promise] $variant,)*
        }

        impl Check {
            /// Every check, in the order in which reports list them.
            pub const ALL: &[Check] = &[$(Check::$variant,)*];

            /// Short name, such as `any-value`.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Check::$variant => $name,)* }
            }

            /// What is promised.
            #[must_use]
            pub const fn promise(self) -> &'static str {
                match self { $(Check::$variant => $promise,)* }
            }

            /// Whether it is a promise of `Backend` rather than of `Operation`.
            #[must_use]
            pub const fn is_of_backends(self) -> bool {
                match self { $(Check::$variant => matches!(Group::$group, Group::Backend),)* }
            }
        }
    };
}

enum Group {
    Backend,
    Operation,
}

checks! {
    Backend: Describes "describes-itself" "The name and the formats are well formed and never change.";
    Backend: LoadSample "load-sample" "A sample model loads.";
    Backend: LoadNeverPanics "load-never-panics" "`load` never panics, whatever the bytes are.";
    Backend: LoadRefusesNoise "load-refuses-noise" "Files that are no model are `LoadError::Invalid`.";
    Backend: LoadOnlyItsFiles "load-only-its-files" "`load` reads what is in `ModelFiles` and nothing else.";
    Backend: LoadLimits "load-limits" "`load` keeps to `LoadOptions`.";
    Backend: LoadTwice "load-twice" "Loading the same files twice gives equal signatures and equal answers.";
    Operation: NamesUnique "names-unique" "Names are unique among inputs and among outputs.";
    Operation: SignatureStable "signature-stable" "`signature` never changes.";
    Operation: Answers "answers" "At least one sample input is answered; without one, little is tested.";
    Operation: AnyValue "any-value" "`run` never panics for any value.";
    Operation: EmptyTensors "empty-tensors" "`run` never panics for tensors without elements.";
    Operation: Deterministic "deterministic" "The same inputs give the same outputs.";
    Operation: Concurrent "concurrent" "`run` may be called from several threads at once.";
    Operation: SharedMemory "shared-memory" "Inputs may lie in memory that is not a slice.";
    Operation: Extents "extents" "Inputs may lie in several extents.";
    Operation: Alignment "alignment" "Inputs may lie at any alignment.";
    Operation: OutputsComplete "outputs-complete" "On `Ok`, every wanted output was given.";
    Operation: OutputsWanted "outputs-wanted" "Outputs that are not wanted, or not declared, are not given.";
    Operation: OutputsOnce "outputs-once" "Every output is claimed once: room for all of them is enough.";
    Operation: OutputTypes "output-types" "Outputs have the declared type.";
    Operation: OutputShapes "output-shapes" "Outputs have a shape that fits the declared one.";
    Operation: OutputBytes "output-bytes" "Outputs have as many bytes as their type and shape say.";
    Operation: OutputRoom "output-room" "Too little room for outputs is `OutputTooSmall`.";
    Operation: Cancelled "cancelled" "Work that is cancelled before it runs gives `Cancelled` or a full answer; other work is not `Cancelled`.";
    Operation: Phases "phases" "`run` marks where computing begins and ends.";
    Operation: PeakBytes "peak-bytes" "`peak_bytes` is at least the bytes of the outputs, and never panics.";
}

impl Check {
    pub(super) fn of_operations() -> impl Iterator<Item = Check> {
        Check::ALL.iter().copied().filter(|check| !check.is_of_backends())
    }
}

impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// What came of one check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The promise was kept wherever it was tried.
    Passed,
    /// The promise was broken.
    Failed,
    /// It could not be tried.
    Skipped,
}

/// One line of a report.
#[derive(Clone, Debug)]
pub struct Entry {
    /// The model or operation, or the backend itself.
    pub subject: String,
    /// The check.
    pub check: Check,
    /// What came of it.
    pub verdict: Verdict,
    /// How much was tried, what was wrong, or why it was skipped.
    pub text: String,
}

/// What came of all checks. `Display` prints a table.
#[derive(Clone, Debug)]
pub struct Report {
    seed: u64,
    entries: Vec<Entry>,
}

impl Report {
    pub(super) fn new(seed: u64) -> Report {
        Report { seed, entries: Vec::new() }
    }

    /// The lines.
    #[must_use]
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// Which checks failed, in the order of the lines.
    #[must_use]
    pub fn failed(&self) -> Vec<Check> {
        self.entries.iter().filter(|e| e.verdict == Verdict::Failed).map(|e| e.check).collect()
    }

    /// Panics with the table if any check failed.
    ///
    /// # Panics
    ///
    /// See above.
    #[track_caller]
    pub fn assert_conforms(&self) {
        assert!(self.failed().is_empty(), "{self}");
    }

    fn add(&mut self, subject: &str, check: Check, verdict: Verdict, text: impl Into<String>) {
        self.entries.push(Entry { subject: subject.into(), check, verdict, text: text.into() });
    }

    pub(super) fn pass(&mut self, subject: &str, check: Check, text: impl Into<String>) {
        self.add(subject, check, Verdict::Passed, text);
    }

    pub(super) fn fail(&mut self, subject: &str, check: Check, text: impl Into<String>) {
        self.add(subject, check, Verdict::Failed, text);
    }

    pub(super) fn skip(&mut self, subject: &str, check: Check, text: impl Into<String>) {
        self.add(subject, check, Verdict::Skipped, text);
    }

    /// Passed with what was tried, or failed with what was wrong.
    pub(super) fn judge(&mut self, subject: &str, check: Check, result: Result<String, String>) {
        match result {
            Ok(text) => self.pass(subject, check, text),
            Err(text) => self.fail(subject, check, text),
        }
    }

    pub(super) fn failed_for(&self, subject: &str, check: Check) -> bool {
        self.entries.iter().any(|e| e.subject == subject && e.check == check && e.verdict == Verdict::Failed)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = |verdict| self.entries.iter().filter(|e| e.verdict == verdict).count();
        let (passed, failed, skipped) =
            (count(Verdict::Passed), count(Verdict::Failed), count(Verdict::Skipped));
        writeln!(f, "conformance (seed {}): {passed} passed, {failed} failed, {skipped} skipped", self.seed)?;
        let mut subject = None;
        for entry in &self.entries {
            if subject != Some(&entry.subject) {
                subject = Some(&entry.subject);
                writeln!(f, "\n{}", entry.subject)?;
            }
            let verdict = match entry.verdict {
                Verdict::Passed => "pass",
                Verdict::Failed => "FAIL",
                Verdict::Skipped => "skip",
            };
            writeln!(f, "  {verdict}  {:<20}  {}", entry.check, entry.text.replace('\n', " "))?;
            if entry.verdict == Verdict::Failed {
                writeln!(f, "        {:<20}  promised: {}", "", entry.check.promise())?;
            }
        }
        Ok(())
    }
}
