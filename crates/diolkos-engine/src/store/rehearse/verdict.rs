// SPDX-License-Identifier: Apache-2.0
//! What the child tells the daemon: lines that begin with a mark, so that a library that prints to standard
//! output does not spoil them. Text is escaped, so a line is a line.

use std::fmt::Write as _;

use diolkos_backend::LoadError;
use diolkos_types::Signature;

use super::RehearsalError;
use crate::store::BatchGain;
use crate::store::limits::VERDICT_TEXT_MAX;

/// Every line of a verdict begins with this.
const MARK: &str = "@diolkos ";

/// What a model that passed needs, and how fast it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Its inputs and outputs, for people.
    pub signature: String,
    /// Bytes that it keeps while loaded.
    pub resident_bytes: u64,
    /// Most memory that loading and the first runs took, the bare process included.
    pub peak_bytes: u64,
    /// How long loading took.
    pub load_ns: u64,
    /// How long the first run took; 0 without a run.
    pub first_ns: u64,
    /// The median of the runs after it; 0 without a run.
    pub median_ns: u64,
    /// The most rows that ran at once; `None` = nobody tried in a child, so there is no bound for the daemon.
    pub trial_rows: Option<u64>,
    /// What running several rows together gains, if it does. Not told by the child: only the daemon's own times count.
    pub batch: Option<BatchGain>,
    /// Why there was no run, or why it failed.
    pub note: Option<String>,
}

/// What the child has to say.
#[derive(Debug)]
pub(super) enum Answer {
    Passed(Verdict),
    Refused(LoadError),
    OutOfMemory,
    Panicked(String),
    UnknownBackend,
}

impl Answer {
    /// The lines.
    pub(super) fn print(&self) -> String {
        // The first line break ends whatever a library left on the line.
        let mut out = String::from("\n");
        let mut line = |key: &str, value: &str| {
            let value: String = value.chars().take(VERDICT_TEXT_MAX / 16).collect();
            // Writing to a String can't fail.
            let _ = writeln!(out, "{MARK}{key} {}", value.escape_default());
        };
        match self {
            Answer::Passed(verdict) => {
                line("signature", &verdict.signature);
                if let Some(note) = &verdict.note {
                    line("note", note);
                }
                let numbers = [
                    ("resident", verdict.resident_bytes),
                    ("peak", verdict.peak_bytes),
                    ("load", verdict.load_ns),
                    ("first", verdict.first_ns),
                    ("median", verdict.median_ns),
                ];
                numbers.iter().for_each(|(key, number)| line(key, &number.to_string()));
                if let Some(rows) = verdict.trial_rows {
                    line("trial", &rows.to_string());
                }
                line("end", "passed");
            }
            Answer::Refused(LoadError::Invalid { reason }) => line("invalid", reason),
            Answer::Refused(LoadError::Unsupported { what, .. }) => line("unsupported", what),
            Answer::Refused(LoadError::TooLarge { needed, limit }) => {
                line("too-large", &format!("{needed} {limit}"));
            }
            Answer::Refused(LoadError::MissingFile { name }) => line("missing", name),
            Answer::OutOfMemory => line("memory", ""),
            Answer::Panicked(message) => line("panic", message),
            Answer::UnknownBackend => line("unknown-backend", ""),
        }
        out
    }

    /// Reads the lines, among whatever else was printed; `None` without an answer.
    pub(super) fn parse(printed: &[u8], backend: &'static str) -> Option<Answer> {
        let mut verdict = Verdict::default();
        let mut resident = None;
        for line in printed.split(|&byte| byte == b'\n') {
            let Some((key, value)) = line
                .strip_prefix(MARK.as_bytes())
                .filter(|line| line.len() <= VERDICT_TEXT_MAX)
                .and_then(|line| std::str::from_utf8(line).ok())
                .and_then(|line| line.split_once(' '))
            else {
                continue;
            };
            match key {
                "signature" => verdict.signature = unescape(value),
                "note" => verdict.note = Some(unescape(value)),
                "resident" => resident = value.parse().ok(),
                "peak" => verdict.peak_bytes = value.parse().ok()?,
                "load" => verdict.load_ns = value.parse().ok()?,
                "first" => verdict.first_ns = value.parse().ok()?,
                "median" => verdict.median_ns = value.parse().ok()?,
                "trial" => verdict.trial_rows = Some(value.parse().ok()?),
                "end" => {
                    verdict.resident_bytes = resident?;
                    return Some(Answer::Passed(verdict));
                }
                "memory" => return Some(Answer::OutOfMemory),
                "panic" => return Some(Answer::Panicked(unescape(value))),
                "unknown-backend" => return Some(Answer::UnknownBackend),
                _ => {
                    if let Some(error) = refusal(key, value, backend) {
                        return Some(Answer::Refused(error));
                    }
                }
            }
        }
        None
    }

    pub(super) fn into_result(
        self,
        backend: &'static str,
        memory_max: u64,
    ) -> Result<Verdict, RehearsalError> {
        match self {
            Answer::Passed(verdict) => Ok(verdict),
            Answer::Refused(error) => Err(error.into()),
            Answer::OutOfMemory => Err(RehearsalError::Memory { limit: memory_max }),
            Answer::Panicked(message) => Err(RehearsalError::Panic { backend, message }),
            Answer::UnknownBackend => Err(RehearsalError::UnknownBackend { backend }),
        }
    }
}

fn refusal(key: &str, value: &str, backend: &'static str) -> Option<LoadError> {
    match key {
        "invalid" => Some(LoadError::Invalid { reason: unescape(value) }),
        "unsupported" => Some(LoadError::Unsupported { backend, what: unescape(value) }),
        "missing" => Some(LoadError::MissingFile { name: unescape(value) }),
        "too-large" => {
            let (needed, limit) = value.split_once(' ')?;
            Some(LoadError::TooLarge { needed: needed.parse().ok()?, limit: limit.parse().ok()? })
        }
        _ => None,
    }
}

/// Undoes `escape_default`; what is no escape of it stays as it is.
fn unescape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('\\') {
        out.push_str(before);
        let (character, after) = escaped(after).unwrap_or(('\\', after));
        out.push(character);
        rest = after;
    }
    out.push_str(rest);
    out
}

fn escaped(after: &str) -> Option<(char, &str)> {
    let kind = after.chars().next()?;
    let rest = &after[kind.len_utf8()..];
    match kind {
        'n' => Some(('\n', rest)),
        't' => Some(('\t', rest)),
        'r' => Some(('\r', rest)),
        '\\' | '\'' | '"' => Some((kind, rest)),
        'u' => {
            let (hex, rest) = rest.strip_prefix('{')?.split_once('}')?;
            Some((u32::from_str_radix(hex, 16).ok().and_then(char::from_u32)?, rest))
        }
        _ => None,
    }
}

/// A signature on one line.
pub(in crate::store) fn describe(signature: &Signature) -> String {
    let side = |specs: &[diolkos_types::TensorSpec]| {
        let tensors: Vec<String> =
            specs.iter().map(|spec| format!("{} {}{spec}", spec.name, spec.data_type)).collect();
        tensors.join(", ")
    };
    format!("{} -> {}", side(&signature.inputs), side(&signature.outputs))
}

/// Reads what a child printed and throws the answer away: for the fuzzer and the property test.
pub fn fuzz_parse_verdict(printed: &[u8]) {
    let _ = Answer::parse(printed, "fuzz");
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn again(answer: &Answer) -> String {
        let mut printed = b"a library prints this".to_vec();
        printed.extend_from_slice(answer.print().as_bytes());
        printed.extend_from_slice(b"@diolkos panic later\n");
        format!("{:?}", Answer::parse(&printed, "b").unwrap())
    }

    #[test]
    fn round_trip() {
        let text = || "é\n\t\\ \"x\" @diolkos end passed".to_owned();
        let verdict = Verdict {
            signature: text(),
            resident_bytes: 1,
            peak_bytes: 2,
            load_ns: 3,
            first_ns: 4,
            median_ns: u64::MAX,
            trial_rows: Some(16),
            batch: None,
            note: Some(text()),
        };
        for answer in [
            Answer::Passed(verdict),
            Answer::Refused(LoadError::Invalid { reason: text() }),
            Answer::Refused(LoadError::Unsupported { backend: "b", what: text() }),
            Answer::Refused(LoadError::TooLarge { needed: 5, limit: 4 }),
            Answer::Refused(LoadError::MissingFile { name: text() }),
            Answer::OutOfMemory,
            Answer::Panicked(text()),
            Answer::UnknownBackend,
        ] {
            assert_eq!(again(&answer), format!("{answer:?}"));
        }
    }

    #[test]
    fn a_verdict_needs_its_end_and_its_size() {
        assert!(Answer::parse(b"", "b").is_none());
        assert!(Answer::parse(b"@diolkos resident 5\n", "b").is_none());
        assert!(Answer::parse(b"@diolkos end passed\n", "b").is_none());
        assert!(Answer::parse(b"@diolkos resident 5\n@diolkos end passed\n", "b").is_some());
        assert!(Answer::parse(b"@diolkos resident 5\n@diolkos peak x\n@diolkos end passed\n", "b").is_none());
    }

    #[test]
    fn long_text_is_cut_and_still_fits() {
        let long = Answer::Refused(LoadError::Invalid { reason: "\u{1F600}".repeat(100_000) });
        let printed = long.print();
        assert!(printed.len() < 2 * VERDICT_TEXT_MAX);
        assert!(Answer::parse(printed.as_bytes(), "b").is_some());
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_harm(
            printed in r"((@diolkos )?(end|peak|note|resident|too-large|invalid)? ?(\\u\{[0-9a-f]{0,9}\}?|\\|é|[0-9 ]{0,30})\n?){0,20}"
        ) {
            fuzz_parse_verdict(printed.as_bytes());
        }

        #[test]
        fn unescape_undoes_escape(text in "\\PC{0,30}|[\\\\\n\t\"'u{}0-9]{0,30}") {
            prop_assert_eq!(unescape(&text.escape_default().to_string()), text);
        }
    }
}
