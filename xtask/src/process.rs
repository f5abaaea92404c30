// SPDX-License-Identifier: Apache-2.0
//! Running other programs: shown to the reader as they go, counted where they print counts.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::thread;

use crate::tally::{Stop, Tally};

/// Runs a program whose exit status is the whole answer.
pub(crate) fn check(command: &mut Command) -> Result<Tally, Stop> {
    announce(command);
    let status = command.status().map_err(|error| cannot_start(command, &error))?;
    if status.success() {
        Ok(Tally::ONE)
    } else {
        Err(Stop::failed(format!("`{}` ended with {status}", shown(command))))
    }
}

/// Runs a program that prints counts, adding up every line that `read` understands. A program that
/// succeeds without printing a count has not run what it was meant to, and that is a failure.
pub(crate) fn counted(command: &mut Command, read: fn(&str) -> Option<Tally>) -> Result<Tally, Stop> {
    announce(command);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|error| cannot_start(command, &error))?;
    let (out, err) = (child.stdout.take(), child.stderr.take());
    let total = Mutex::new(None::<Tally>);
    let failure = thread::scope(|scope| {
        let readers = [
            out.map(|pipe| scope.spawn(|| relay(pipe, &total, read))),
            err.map(|pipe| scope.spawn(|| relay(pipe, &total, read))),
        ];
        let mut failure = None;
        for reader in readers.into_iter().flatten() {
            let ended = reader.join().unwrap_or_else(|_| Err(io::Error::other("the reader panicked")));
            failure = failure.or(ended.err());
        }
        failure
    });
    let status = child.wait().map_err(|error| cannot_start(command, &error))?;
    let total = total.into_inner().unwrap_or_default();
    let tally = total.unwrap_or_default();
    if let Some(error) = failure {
        return Err(Stop::Failed(tally, format!("reading from `{}`: {error}", shown(command))));
    }
    if !status.success() {
        return Err(Stop::Failed(tally, format!("`{}` ended with {status}", shown(command))));
    }
    if total.is_none() {
        return Err(Stop::failed(format!("`{}` printed no count", shown(command))));
    }
    if tally.failed > 0 {
        return Err(Stop::Failed(tally, "see above".into()));
    }
    Ok(tally)
}

/// Copies a pipe line by line to our own stdout. Lines may hold any bytes.
fn relay(pipe: impl Read, total: &Mutex<Option<Tally>>, read: fn(&str) -> Option<Tally>) -> io::Result<()> {
    let mut reader = BufReader::new(pipe);
    let mut line = Vec::new();
    loop {
        line.clear();
        if reader.read_until(b'\n', &mut line)? == 0 {
            return Ok(());
        }
        if let Some(tally) = read(String::from_utf8_lossy(&line).trim_end())
            && let Ok(mut total) = total.lock()
        {
            total.get_or_insert_default().add(tally);
        }
        let mut out = io::stdout().lock();
        out.write_all(&line)?;
        out.flush()?;
    }
}

fn announce(command: &Command) {
    println!("$ {}", shown(command));
}

fn cannot_start(command: &Command, error: &io::Error) -> Stop {
    Stop::failed(format!("can't start `{}`: {error}", shown(command)))
}

/// The command line, with paths below the workspace written relative to it.
fn shown(command: &Command) -> String {
    let root = format!("{}/", crate::root().display());
    std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(|word| word.to_string_lossy().replace(&root, ""))
        .collect::<Vec<_>>()
        .join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tally;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn counts_of_both_streams_are_added() {
        let script = "echo 1 passed, 0 failed, 2 skipped; echo 3 passed, 0 failed, 0 skipped >&2";
        let tally = counted(&mut shell(script), tally::own).unwrap();
        assert_eq!(tally, Tally { passed: 4, failed: 0, skipped: 2 });
    }

    #[test]
    fn success_without_a_count_is_a_failure() {
        assert!(matches!(counted(&mut shell("echo fine"), tally::own), Err(Stop::Failed(..))));
    }

    #[test]
    fn a_failing_program_fails_even_with_a_clean_count() {
        let script = "echo 1 passed, 0 failed, 0 skipped; exit 3";
        let Err(Stop::Failed(tally, reason)) = counted(&mut shell(script), tally::own) else {
            panic!("exit status 3 is a failure");
        };
        assert_eq!(tally.passed, 1);
        assert!(reason.contains('3'), "{reason}");
    }

    #[test]
    fn a_missing_program_is_named() {
        let Err(Stop::Failed(_, reason)) = check(&mut Command::new("/nonexistent/program")) else {
            panic!("a missing program can't pass");
        };
        assert!(reason.contains("/nonexistent/program"), "{reason}");
    }
}
