// SPDX-License-Identifier: Apache-2.0
//! How the program ends: exit codes, and the one form in which failures are told.
//!
//! ```text
//! error: what was wrong
//!   the cause of that
//! help: what to do
//! ```

use std::fmt::Write as _;
use std::io;
use std::process::ExitCode;

use crate::term::{Paint, Style};

/// What the exit code says. Numbers are promised in docs/cli.md and never change their meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Everything that was asked for was done.
    Ok = 0,
    /// The daemon or a model refused the request, or something failed on the way.
    Failed = 1,
    /// The command line, or a file named on it, can't be understood. The same number that clap uses.
    Usage = 2,
    /// No daemon answers at the address.
    NoDaemon = 3,
    /// `check` or `doctor` worked and found something that needs attention, or `bench` missed a target.
    Problems = 4,
    /// `serve` could not start: settings, address or model repository.
    Start = 5,
    /// Ended by Ctrl-C or SIGTERM before it was done; 128 + SIGINT, as shells count.
    Interrupted = 130,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> ExitCode {
        ExitCode::from(exit as u8)
    }
}

/// Why a command ended early.
#[derive(Debug)]
pub struct Failure {
    /// The exit code.
    pub exit: Exit,
    /// One sentence; empty when there is nothing to say (a closed pipe, or all was said already).
    message: String,
    causes: Vec<String>,
    help: Option<String>,
}

impl Failure {
    /// A failure with one sentence.
    #[must_use]
    pub fn new(exit: Exit, message: impl Into<String>) -> Failure {
        Failure { exit, message: message.into(), causes: Vec::new(), help: None }
    }

    /// [`Exit::Usage`].
    #[must_use]
    pub fn usage(message: impl Into<String>) -> Failure {
        Failure::new(Exit::Usage, message)
    }

    /// [`Exit::Failed`].
    #[must_use]
    pub fn failed(message: impl Into<String>) -> Failure {
        Failure::new(Exit::Failed, message)
    }

    /// An end about which nothing is said.
    #[must_use]
    pub fn quiet(exit: Exit) -> Failure {
        Failure::new(exit, "")
    }

    /// Adds an error and everything that caused it.
    #[must_use]
    pub fn because(mut self, error: &(dyn std::error::Error + '_)) -> Failure {
        let mut next = Some(error);
        while let Some(cause) = next {
            let text = cause.to_string();
            // Some libraries repeat their cause in their own text.
            if self.causes.last().is_none_or(|last| !last.contains(&text)) {
                self.causes.push(text);
            }
            next = cause.source();
        }
        self
    }

    /// Adds a line of explanation.
    #[must_use]
    pub fn note(mut self, text: impl Into<String>) -> Failure {
        self.causes.push(text.into());
        self
    }

    /// Says what to do.
    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Failure {
        self.help = Some(help.into());
        self
    }

    /// The text for standard error; empty if there is nothing to say.
    #[must_use]
    pub fn render(&self, paint: Paint) -> String {
        let mut text = String::new();
        if self.message.is_empty() {
            return text;
        }
        // Writing to a String can't fail.
        let _ = writeln!(text, "{} {}", paint.on("error:", Style::Bad), self.message);
        for cause in &self.causes {
            for line in cause.lines() {
                let _ = writeln!(text, "  {line}");
            }
        }
        if let Some(help) = &self.help {
            let _ = writeln!(text, "{} {help}", paint.on("help:", Style::Good));
        }
        text
    }
}

/// For `?` on writes to standard output: whoever reads may stop reading, which is no error.
impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Failure {
        if error.kind() == io::ErrorKind::BrokenPipe {
            Failure::quiet(Exit::Ok)
        } else {
            Failure::failed("can't write the output").because(&error)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_cause_and_help() {
        let cause = io::Error::other("the disk is on fire");
        let failure = Failure::failed("can't save").because(&cause).help("use another disk");
        assert_eq!(
            failure.render(Paint::PLAIN),
            "error: can't save\n  the disk is on fire\nhelp: use another disk\n"
        );
    }

    #[test]
    fn a_closed_pipe_is_quiet_and_fine() {
        let failure = Failure::from(io::Error::from(io::ErrorKind::BrokenPipe));
        assert_eq!((failure.exit, failure.render(Paint::PLAIN).as_str()), (Exit::Ok, ""));
        let failure = Failure::from(io::Error::other("full"));
        assert_eq!(failure.exit, Exit::Failed);
    }
}
