// SPDX-License-Identifier: Apache-2.0
//! Everything behind the `diolkos` command line.
//!
//! | module | its one job |
//! |---|---|
//! | [`cli`] | what can be written on the command line |
//! | `commands` | one module per command |
//! | [`backends`] | which backends this build has; the only place that names them |
//! | [`client`] | a small client of the daemon, over a socket like any other program |
//! | [`input`] | files to tensors: npy, JSON, pictures |
//! | [`memory`] | how much freed memory the process keeps |
//! | [`tensor`] | a tensor's elements for people and for JSON |
//! | [`term`] | colour, tables, progress, units |
//! | [`exit`] | exit codes, and the one form of error messages |
//!
//! Invariants: results go to standard output and nothing else does; progress, notes and errors go to
//! standard error; a reader that goes away ends the program quietly.

#![forbid(unsafe_code)]

pub mod backends;
pub mod cli;
pub mod client;
mod commands;
pub mod exit;
pub mod input;
pub mod memory;
pub mod tensor;
pub mod term;

use std::io::Write as _;
use std::process::ExitCode;

use clap::Parser as _;

use crate::term::Paint;

/// Runs the command line of this process.
#[must_use]
pub fn main() -> ExitCode {
    let cli = cli::Cli::parse();
    match commands::dispatch(cli.command) {
        Ok(code) => code,
        Err(failure) => {
            let text = failure.render(Paint::stderr());
            // If even standard error is closed, the exit code is all that is left to say.
            let _ = std::io::stderr().write_all(text.as_bytes());
            failure.exit.into()
        }
    }
}
