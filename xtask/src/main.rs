// SPDX-License-Identifier: Apache-2.0
//! Project commands, run as `cargo xtask COMMAND`.
//!
//! `cargo xtask test` is everything CI checks. It needs the stable toolchain, a C compiler and python3,
//! makes what else it needs under `target/`, and says loudly what a machine can't do. Each part is also
//! a command of its own. This crate stays light: it is built before anything else of a clean clone.

#![forbid(unsafe_code)]

mod fuzz;
mod policy;
mod process;
mod proto;
mod python;
mod small;
mod steps;
mod tally;
mod test;
mod tools;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use crate::tally::{Stop, Tally};

const USAGE: &str = "\
Usage: cargo xtask COMMAND

  test [--only STEP[,STEP]] [--skip STEP[,STEP]] [--list]
                  everything CI checks; ends with a table and `N passed, N failed, N skipped`
  clients [ARGS]  stock clients against a spawned daemon (tests/clients/run.py)
  small-client    the crates that a client pulls in, and the size of a static one
  soak [ARGS]     1,000 connections and 100 hot reloads (tests/clients/soak.py)
  memory [ARGS]   a daemon under a memory limit, flooded (tests/clients/memory.py)
  vm [ARGS]       tests that need vsock, in a virtual machine (tests/vm/run.py)
  perf-analyzer [ARGS]
                  Triton's perf_analyzer in http, grpc and grpc-over-unix modes
  onnx-nodes [ARGS]
                  the ONNX node tests through the server; --write renews docs/onnx-operators.md
  fuzz [TARGET] [--seconds N] [--stable]
                  fuzz the decoders of foreign bytes (docs/fuzzing.md)
  policy          crate floors, documented dependencies, licence lines, where unsafe may be
  proto           turn crates/diolkos-server/proto/inference.proto into Rust

ARGS go to the Python script as they are; `--help` lists them. CI=true makes a missing package registry
an error instead of a skip. DIOLKOS_BIN names an executable to test instead of building one.
DIOLKOS_TEST_MODELS names the directory of larger models (default ../shared/models).
";

/// The root of the workspace: this crate lies directly below it.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("the manifest directory of xtask lies inside the workspace")
        .to_path_buf()
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (command, rest) = match arguments.split_first() {
        Some((command, rest)) => (command.as_str(), rest),
        None => ("help", &[][..]),
    };
    match command {
        "test" => test::command(rest),
        "clients" => finish("clients", steps::clients(rest)),
        "small-client" => finish("small-client", small::step()),
        "soak" => finish("soak", steps::soak(rest)),
        "memory" => finish("memory", steps::memory(rest)),
        "vm" => finish("vm", steps::virtual_machine(rest)),
        "perf-analyzer" => finish("perf-analyzer", steps::perf_analyzer(rest)),
        "onnx-nodes" => finish("onnx-nodes", steps::onnx_nodes(rest)),
        "fuzz" => finish("fuzz", fuzz::command(rest)),
        "policy" => finish("policy", policy::step()),
        "proto" => generate(),
        "help" | "--help" | "-h" => {
            print!("{USAGE}");
            ExitCode::SUCCESS
        }
        other => {
            eprintln!("xtask: no command '{other}'\n\n{USAGE}");
            ExitCode::from(2)
        }
    }
}

/// Reports a step that ran alone, in the words of the table that `test` prints.
fn finish(name: &str, result: Result<Tally, Stop>) -> ExitCode {
    let (tally, note) = tally::judge(result);
    if !note.is_empty() {
        eprintln!("{name}: {note}");
    }
    println!("{tally}");
    if tally.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn generate() -> ExitCode {
    match proto::generate(&root()) {
        Ok(path) => {
            println!("wrote {}", path.display());
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("xtask proto: {error}");
            ExitCode::FAILURE
        }
    }
}
