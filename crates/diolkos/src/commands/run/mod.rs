// SPDX-License-Identifier: Apache-2.0
//! `diolkos run`: a model once, at a daemon or in this process.

mod local;
mod remote;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::Serialize;

use super::show::{self, Class};
use super::{print, print_json};
use crate::cli::RunArgs;
use crate::client::{InferReply, Parts};
use crate::exit::{Exit, Failure};
use crate::input::{self, Wanted};
use crate::tensor::Value;
use crate::term::{self, Paint, Progress, Style};

/// How many classes are shown when nobody says.
const TOP_DEFAULT: usize = 5;

/// A model that is ready to be asked.
trait Target {
    /// What it takes.
    fn wanted(&self) -> &[Wanted];

    /// Class names by output.
    fn labels(&self) -> &BTreeMap<String, Vec<String>>;

    /// Runs it.
    fn infer(&mut self, inputs: &[Value], outputs: &[String]) -> Result<InferReply, Failure>;
}

pub(super) fn run(args: RunArgs) -> Result<Exit, Failure> {
    let path = PathBuf::from(&args.model);
    // No model's name has a slash, so whoever writes one means a file.
    if args.model.contains('/') || path.is_file() {
        let mut target = local::open(&path, args.model_version)?;
        answer(&args, &mut target)
    } else {
        let mut target = remote::open(&args)?;
        answer(&args, &mut target)
    }
}

/// How long the runs took, as the caller saw it.
#[derive(Clone, Copy, Debug, Serialize)]
struct Latency {
    count: u32,
    min_ns: u64,
    p50_ns: u64,
    p99_ns: u64,
    max_ns: u64,
}

/// The form of `--json`.
#[derive(Debug, Serialize)]
struct Answer {
    model: String,
    version: String,
    outputs: Vec<Output>,
    latency: Latency,
    /// Where the daemon spent the last run; nothing if it does not say.
    parts: Option<Parts>,
}

#[derive(Debug, Serialize)]
struct Output {
    name: String,
    datatype: &'static str,
    shape: Vec<u64>,
    /// Row-major.
    data: Vec<serde_json::Value>,
    /// The best classes, if it looks like scores of classes.
    #[serde(skip_serializing_if = "Option::is_none")]
    top: Option<Vec<Class>>,
}

fn answer(args: &RunArgs, target: &mut impl Target) -> Result<Exit, Failure> {
    let inputs = input::read_all(&args.inputs, target.wanted(), &args.images)?;
    let (reply, latency) = repeat(args.count, || target.infer(&inputs, &args.outputs))?;
    if let Some(path) = &args.output {
        save(path, &reply.outputs)?;
    }
    let top = |value: &Value| {
        let labels = target.labels().get(&value.name).map(Vec::as_slice);
        let default = if labels.is_some() { TOP_DEFAULT } else { 0 };
        show::best(value, labels, args.top.unwrap_or(default))
    };
    if args.json {
        let outputs = reply.outputs.iter().map(|value| Output {
            name: value.name.clone(),
            datatype: value.data_type.name(),
            shape: value.shape.dims().to_vec(),
            data: value.json(),
            top: top(value),
        });
        let outputs = outputs.collect();
        print_json(&Answer {
            model: reply.model,
            version: reply.version,
            outputs,
            latency,
            parts: reply.parts,
        })?;
    } else {
        let paint = Paint::stdout();
        let mut text = show::outputs(&reply.outputs, paint);
        for value in &reply.outputs {
            if let Some(classes) = top(value) {
                text.push('\n');
                text.push_str(&show::classes(&value.name, &classes));
            }
        }
        text.push('\n');
        text.push_str(&paint.on(&took(&latency, reply.parts.as_ref()), Style::Dim));
        text.push('\n');
        print(text.as_bytes())?;
    }
    Ok(Exit::Ok)
}

fn repeat(
    count: u32,
    mut infer: impl FnMut() -> Result<InferReply, Failure>,
) -> Result<(InferReply, Latency), Failure> {
    let progress =
        if count > 1 { Progress::steps("running", count.into()) } else { Progress::spinner("running") };
    let mut times = Vec::new();
    let mut last = None;
    for _ in 0..count {
        let began = Instant::now();
        last = Some(infer()?);
        times.push(u64::try_from(began.elapsed().as_nanos()).unwrap_or(u64::MAX));
        progress.step();
    }
    times.sort_unstable();
    let rank =
        |quantile: f64| times[((times.len() as f64 * quantile).ceil() as usize).clamp(1, times.len()) - 1];
    let latency = Latency {
        count,
        min_ns: times[0],
        p50_ns: rank(0.5),
        p99_ns: rank(0.99),
        max_ns: times[times.len() - 1],
    };
    Ok((last.expect("the command line asks for one run at least"), latency))
}

fn took(latency: &Latency, parts: Option<&Parts>) -> String {
    let time = |ns| term::time(Duration::from_nanos(ns));
    let mut text = if latency.count == 1 {
        time(latency.p50_ns)
    } else {
        let Latency { count, min_ns, p50_ns, p99_ns, max_ns } = *latency;
        let [min, p50, p99, max] = [min_ns, p50_ns, p99_ns, max_ns].map(time);
        format!("{count} runs: least {min}, p50 {p50}, p99 {p99}, most {max}; the last one")
    };
    if let Some(parts) = parts {
        let [queue, copy_in, compute, copy_out] =
            [parts.queue_ns, parts.copy_in_ns, parts.compute_ns, parts.copy_out_ns].map(time);
        text += &format!(": queue {queue}, copy in {copy_in}, compute {compute}, copy out {copy_out}");
    }
    text
}

fn save(path: &Path, outputs: &[Value]) -> Result<(), Failure> {
    let failed = |path: &Path, error: std::io::Error| {
        Failure::failed(format!("can't save {}", path.display())).because(&error)
    };
    if path.extension().is_some_and(|extension| extension == "npy") {
        let [output] = outputs else {
            return Err(Failure::usage(format!(
                "the model gives {} outputs and one .npy file holds one",
                outputs.len()
            ))
            .help("name a directory, or choose one with --only NAME"));
        };
        return save_one(path, output).map_err(|error| failed(path, error));
    }
    std::fs::create_dir_all(path).map_err(|error| failed(path, error))?;
    for output in outputs {
        // Names come from the model and must not lead out of the directory.
        let name = output.name.replace(['/', '\0'], "_");
        let file = path.join(format!("{name}.npy"));
        save_one(&file, output).map_err(|error| failed(&file, error))?;
    }
    Ok(())
}

fn save_one(path: &Path, output: &Value) -> std::io::Result<()> {
    let mut file = std::io::BufWriter::new(std::fs::File::create(path)?);
    input::write_npy(&mut file, output)?;
    std::io::Write::flush(&mut file)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply() -> InferReply {
        InferReply { model: "m".into(), version: "1".into(), outputs: vec![], parts: None }
    }

    #[test]
    fn runs_as_often_as_asked_and_stops_at_the_first_failure() {
        let mut runs = 0;
        let (_, latency) = repeat(7, || {
            runs += 1;
            Ok(reply())
        })
        .unwrap();
        assert_eq!((runs, latency.count), (7, 7));
        assert!(latency.min_ns <= latency.p50_ns && latency.p99_ns <= latency.max_ns);
        let mut runs = 0;
        let failed = repeat(7, || {
            runs += 1;
            Err(Failure::failed("no"))
        });
        assert!(failed.is_err() && runs == 1);
    }

    #[test]
    fn outputs_are_saved_inside_the_directory() {
        let value = |name: &str| Value {
            name: name.into(),
            data_type: diolkos_types::DataType::Uint8,
            shape: diolkos_types::Shape::new(&[1]).unwrap(),
            data: bytes::Bytes::from_static(&[7]),
        };
        let dir = tempfile::tempdir().unwrap();
        let inner = dir.path().join("a/b");
        save(&inner, &[value("y"), value("../z")]).unwrap();
        assert!(inner.join("y.npy").is_file() && inner.join(".._z.npy").is_file());
        assert!(save(&dir.path().join("x.npy"), &[value("y"), value("z")]).is_err());
        save(&dir.path().join("x.npy"), &[value("y")]).unwrap();
        assert_eq!(std::fs::read(dir.path().join("x.npy")).unwrap().last(), Some(&7));
    }
}
