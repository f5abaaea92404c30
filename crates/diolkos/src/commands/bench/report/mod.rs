// SPDX-License-Identifier: Apache-2.0
//! `bench report`: everything that docs/performance.md says, measured in one run and written by this program.
//!
//! ```text
//! rounds ──> pairs, single ──> results ──> verdict ──> page, plot
//!            (measuring)        (JSON)      └────────────┴── pure
//! ```

mod page;
mod pairs;
mod plot;
mod results;
mod rounds;
mod single;
mod stats;
#[cfg(test)]
mod tests;
mod verdict;

use std::fs;
use std::path::{Path, PathBuf};

pub(super) use rounds::{Plan, Watch};
pub(super) use stats::Spread;

use results::Results;
use verdict::{Judged, Verdict};

use super::args::{Part, ReportArgs};
use super::children::cannot;
use super::host::Host;
use super::runtime;
use crate::commands::print;
use crate::exit::{Exit, Failure};
use crate::term::{Lean, Paint, Style, Table};

/// Clients at most in what is measured here, for the number of client threads.
const CLIENTS: usize = 8;

/// Where real models are, relative to the repository.
pub(super) const MODELS: &str = "../shared/models";

/// The example model, relative to the repository.
pub(super) const EXAMPLE: &str = "examples/digits/models/digits";

/// A MobileNet among the real models.
pub(super) const MOBILENET: &str = "mobilenet_v2_1.0_224_dq.onnx";

pub(super) fn run(args: &ReportArgs) -> Result<Exit, Failure> {
    let results = match &args.from {
        Some(path) => read(path)?,
        None => measure(args)?,
    };
    let judged = verdict::judge(&results);
    write(&args.out, &results, &judged)?;
    let mut text = Vec::new();
    show(&judged, &mut text)?;
    print(&text)?;
    let undecided = judged.iter().any(|judged| matches!(judged.verdict, Verdict::Undecided(_)));
    let missed = judged.iter().any(|judged| judged.verdict == Verdict::Missed);
    Ok(match (undecided, missed) {
        (_, true) => Exit::Problems,
        (true, _) => Exit::Failed,
        _ => Exit::Ok,
    })
}

fn read(path: &Path) -> Result<Results, Failure> {
    let failed = |error: &dyn std::error::Error| {
        Failure::usage(format!("{} holds no results of `bench report`", path.display())).because(error)
    };
    let text = fs::read(path).map_err(|error| failed(&error))?;
    serde_json::from_slice(&text).map_err(|error| failed(&error))
}

fn measure(args: &ReportArgs) -> Result<Results, Failure> {
    let wants = |part| args.only.is_empty() || args.only.contains(&part);
    let step = |what: String| eprintln!("bench: {what}");
    let plan = Plan::new(args.quick);
    let few = plan.of(6);
    let runtime = runtime(CLIENTS)?;
    let mut results = Results { host: Host::look(), quick: args.quick, ..Results::default() };
    if wants(Part::Noop) {
        step("noop in this process".into());
        results.noop = Some(single::noop(&plan)?);
    }
    if wants(Part::Start) {
        step("start and memory".into());
        results.start = Some(runtime.block_on(single::start(&few))?);
    }
    if wants(Part::Pairs) {
        results.pairs = runtime.block_on(pairs::measure(&plan, &step))?;
    }
    if wants(Part::Open) {
        if results.pairs.is_empty() {
            results
                .notes
                .push("The open loop needs the rates that `--only pairs` finds, and was left out.".into());
        }
        results.open = runtime.block_on(pairs::measure_open(&few, &results.pairs, &step))?;
    }
    if wants(Part::Models) {
        for (name, file) in models(args) {
            if file.exists() {
                step(format!("model {name}"));
                results.models.push(runtime.block_on(single::model(name, &file, &few))?);
            } else {
                results.notes.push(format!("{name}: there is no {}.", file.display()));
            }
        }
    }
    if wants(Part::Connections) {
        results.connections = runtime.block_on(single::connections(&few, &step))?;
    }
    Ok(results)
}

fn models(args: &ReportArgs) -> [(&'static str, PathBuf); 2] {
    let named = args.models.clone().or_else(|| std::env::var_os("DIOLKOS_TEST_MODELS").map(PathBuf::from));
    let dir = named.unwrap_or_else(|| MODELS.into());
    [("digits (the example model)", EXAMPLE.into()), ("MobileNet v2, 8-bit weights", dir.join(MOBILENET))]
}

fn write(out: &Path, results: &Results, judged: &[Judged]) -> Result<(), Failure> {
    let folder = out.join("performance");
    let save = |path: PathBuf, text: &[u8]| {
        fs::write(&path, text).map_err(|error| cannot(&format!("write {}", path.display()), &error))
    };
    fs::create_dir_all(&folder).map_err(|error| cannot(&format!("make {}", folder.display()), &error))?;
    let mut json = serde_json::to_vec_pretty(results).expect("results are plain data");
    json.push(b'\n');
    save(folder.join("results.json"), &json)?;
    let plots = plot::all(results).map_err(|error| cannot("draw a plot", &*error))?;
    for plot in &plots {
        save(folder.join(&plot.file), plot.svg.as_bytes())?;
    }
    save(out.join("performance.md"), page::render(results, judged, &plots).as_bytes())
}

fn show(judged: &[Judged], out: &mut Vec<u8>) -> Result<(), Failure> {
    let head = ["MEASURED", "TARGET", "FOUND", "VERDICT"].map(|name| (name, Lean::Left));
    let mut table = Table::new(&head);
    for Judged { what, target, found, verdict } in judged {
        let style = match verdict {
            Verdict::Met => None,
            Verdict::Missed => Some(Style::Bad),
            Verdict::Undecided(_) => Some(Style::Warn),
        };
        let plain = |text: &str| text.replace(['`', '*'], "");
        table.row(vec![plain(what), target.clone(), found.clone(), plain(&verdict.to_string())], style);
    }
    table.write(out, Paint::stdout())?;
    Ok(())
}
