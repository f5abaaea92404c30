// SPDX-License-Identifier: Apache-2.0
//! Runs the ONNX node suite through the library, and prints what passes and why the rest does not.
//!
//! ```text
//! python3 -m pip download --no-deps -d /tmp/whl onnx==1.22.0 && unzip -qo /tmp/whl/onnx-1.22.0*.whl -d /tmp/onnx-1.22.0
//! cargo run -p diolkos-tract --example node_suite -- /tmp/onnx-1.22.0/onnx/backend/test/data/node [FILTER] [--tsv FILE]
//! ```
//!
//! Cases run in child processes of the same program (`--worker`), which take a path per line and answer
//! with a line each. A child that dies or takes more than a minute is one case's result, not the end.

#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use diolkos_backend::{Backend as _, CancelFlag, LoadOptions, ModelFiles, Tensor, Work};
use diolkos_tract::TractBackend;
use diolkos_types::Params;

#[path = "../tests/common/onnx_data.rs"]
mod onnx_data;

use onnx_data::{Difference, Kind};

const CASE_SECONDS_MAX: u64 = 60;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.first().is_some_and(|a| a == "--worker") {
        worker();
        return ExitCode::SUCCESS;
    }
    let Some(suite) = arguments.first() else {
        eprintln!("usage: node_suite DIRECTORY [FILTER] [--tsv FILE]");
        return ExitCode::from(2);
    };
    let tsv = arguments.iter().position(|a| a == "--tsv").and_then(|at| arguments.get(at + 1));
    let filter = arguments.get(1).filter(|a| *a != "--tsv").map_or("", String::as_str);
    let results = run_all(cases(Path::new(suite), filter));
    report(&results);
    if let Some(path) = tsv {
        let lines: String =
            results.iter().fold(String::new(), |mut text, (case, (status, of_type, reason))| {
                let _ = writeln!(text, "{case}\t{of_type}\t{status}\t{reason}");
                text
            });
        std::fs::write(path, lines).expect("the file for the results can be written");
    }
    let bad = |status: &str| matches!(status, "wrong" | "crash" | "hang");
    if results.values().any(|(status, ..)| bad(status)) { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

fn cases(suite: &Path, filter: &str) -> Vec<PathBuf> {
    let mut cases: Vec<PathBuf> = std::fs::read_dir(suite)
        .expect("the directory of the node suite can be read")
        .map(|entry| entry.expect("an entry of the suite").path())
        .filter(|path| path.join("model.onnx").exists() && path.to_string_lossy().contains(filter))
        .collect();
    cases.sort();
    cases
}

/// Case → (status, type, reason).
type Results = BTreeMap<String, (String, String, String)>;

fn run_all(cases: Vec<PathBuf>) -> Results {
    let queue = Arc::new(Mutex::new(cases.into_iter()));
    let results = Arc::new(Mutex::new(Results::new()));
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                let mut worker = Worker::start();
                loop {
                    let Some(case) = queue.lock().expect("no thread panics").next() else { break };
                    let line = worker.run(&case);
                    let mut parts = line.splitn(3, '\t').map(str::to_owned);
                    let mut part = || parts.next().unwrap_or_default();
                    let name = case.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
                    results.lock().expect("no thread panics").insert(name, (part(), part(), part()));
                }
                worker.stop();
            });
        }
    });
    Arc::into_inner(results).expect("the threads are done").into_inner().expect("no thread panics")
}

/// A child process that runs cases.
struct Worker {
    child: Child,
    answers: Receiver<String>,
}

impl Worker {
    fn start() -> Worker {
        let program = std::env::current_exe().expect("the path of this program");
        let mut child = Command::new(program)
            .arg("--worker")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("this program starts a second time");
        let output = BufReader::new(child.stdout.take().expect("stdout is a pipe"));
        let (sender, answers) = channel();
        std::thread::spawn(move || {
            output.lines().map_while(Result::ok).try_for_each(|line| sender.send(line))
        });
        Worker { child, answers }
    }

    fn run(&mut self, case: &Path) -> String {
        let input = self.child.stdin.as_mut().expect("stdin is a pipe");
        let sent = writeln!(input, "{}", case.display()).and_then(|()| input.flush());
        let answer = sent
            .map_err(|_| RecvTimeoutError::Disconnected)
            .and_then(|()| self.answers.recv_timeout(Duration::from_secs(CASE_SECONDS_MAX)));
        match answer {
            Ok(line) => line,
            Err(error) => {
                let what = if error == RecvTimeoutError::Timeout { "hang" } else { "crash" };
                let of_type = case_type(case);
                std::mem::replace(self, Worker::start()).stop();
                format!("{what}\t{of_type}\tno answer")
            }
        }
    }

    fn stop(mut self) {
        drop(self.child.stdin.take());
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn worker() {
    for line in std::io::stdin().lines().map_while(Result::ok) {
        let case = Path::new(&line);
        let (status, reason) = run_case(case);
        println!("{status}\t{}\t{}", case_type(case), reason.replace(['\n', '\t'], " "));
    }
}

/// The data type a case is counted under: that of its first input, or of its first output if it has none.
fn case_type(case: &Path) -> String {
    let model = std::fs::read(case.join("model.onnx")).expect("a model of the suite");
    let (inputs, outputs) = onnx_data::ports(&model);
    match inputs.iter().chain(&outputs).next().map(|port| &port.kind) {
        Some(Kind::Plain(data_type)) => data_type.name().into(),
        Some(Kind::OtherType(number)) => format!("type {number}"),
        _ => "no tensor".into(),
    }
}

fn run_case(case: &Path) -> (&'static str, String) {
    let model = std::fs::read(case.join("model.onnx")).expect("a model of the suite");
    let (inputs, outputs) = onnx_data::ports(&model);
    for port in inputs.iter().chain(&outputs) {
        match port.kind {
            Kind::Plain(_) => {}
            Kind::OtherType(number) => {
                return ("not-plain", format!("`{}` has ONNX type {number}", port.name));
            }
            Kind::NotTensor => return ("not-plain", format!("`{}` is no tensor", port.name)),
        }
    }
    let files = ModelFiles::single("model.onnx", model);
    let options = LoadOptions { variable_dim_max: 1 << 20, resident_bytes_max: 4 << 30 };
    let operation = match TractBackend::new().load(&files, &options) {
        Ok(operation) => operation,
        Err(error) => return ("no-load", error.to_string()),
    };
    for set in onnx_data::data_sets(case) {
        let (Some(given), Some(expected)) = (all(&set, "input"), all(&set, "output")) else {
            return ("not-plain", "data of a type that the protocol lacks".into());
        };
        let signature = operation.signature();
        if signature.inputs.len() != given.len() || signature.outputs.len() != expected.len() {
            return (
                "wrong",
                format!("{} inputs in the signature, {} in the data", signature.inputs.len(), given.len()),
            );
        }
        for (spec, tensor) in signature.inputs.iter().zip(&given) {
            if !spec.takes_type(tensor.data_type) || spec.check_shape(&tensor.shape).is_err() {
                return (
                    "wrong",
                    format!("input {spec} does not take {} {}", tensor.data_type, tensor.shape),
                );
            }
        }
        let inputs = given.into_iter().map(Some).collect();
        let mut work = Work::new(inputs, None, Params::new(), u64::MAX, CancelFlag::new());
        if let Err(error) = operation.run(&mut work) {
            return ("no-run", error.to_string());
        }
        let outputs = work.into_outputs();
        for ((spec, expected), given) in signature.outputs.iter().zip(&expected).zip(&outputs) {
            let Some(given) = given else { return ("wrong", format!("no output `{}`", spec.name)) };
            match onnx_data::compare(expected, given) {
                Ok(()) => {}
                Err(Difference::Rounding(why)) => {
                    return ("rounding", format!("output `{}`: {why}", spec.name));
                }
                Err(Difference::Wrong(why)) => return ("wrong", format!("output `{}`: {why}", spec.name)),
            }
        }
    }
    ("pass", String::new())
}

fn all(set: &Path, prefix: &str) -> Option<Vec<Tensor>> {
    onnx_data::tensors(set, prefix).into_iter().collect()
}

fn report(results: &Results) {
    const STATUSES: [&str; 8] =
        ["pass", "rounding", "no-load", "no-run", "wrong", "crash", "hang", "not-plain"];
    let mut table: BTreeMap<&str, BTreeMap<&str, usize>> = BTreeMap::new();
    for (status, of_type, _) in results.values() {
        for row in [of_type.as_str(), "~ all"] {
            *table.entry(row).or_default().entry(status).or_default() += 1;
        }
    }
    print!("{:10}", "type");
    STATUSES.iter().for_each(|status| print!("{status:>10}"));
    println!();
    for (of_type, counts) in &table {
        print!("{of_type:10}");
        STATUSES.iter().for_each(|status| print!("{:>10}", counts.get(status).unwrap_or(&0)));
        println!();
    }
    for status in &STATUSES[1..7] {
        println!("\n## {status}");
        for (case, (of_case, of_type, reason)) in results {
            if of_case == status {
                println!("{case} ({of_type}): {}", reason.chars().take(240).collect::<String>());
            }
        }
    }
}
