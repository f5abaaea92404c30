// SPDX-License-Identifier: Apache-2.0
//! `bench sched`: what the scheduler promises, measured on engines in this process.
//!
//! | module | its one job |
//! |---|---|
//! | `cases` | what is measured in a round |
//! | `drive` | clients |
//! | `node` | engines |
//! | `spin`, `onnx` | what they run |
//! | `results`, `verdict`, `page` | what was found, what it means, how it is shown |

mod cases;
mod drive;
mod node;
mod onnx;
mod page;
mod results;
mod spin;
mod verdict;

use std::path::{Path, PathBuf};
use std::time::Duration;

use cases::{Bench, MLP};
use results::Results;

use super::args::SchedArgs;
use super::children::cannot;
use super::host::Host;
use super::judge::{self, Judged};
use super::report::{MOBILENET, MODELS, Plan, Watch};
use crate::commands::{print, print_json};
use crate::exit::{Exit, Failure};

/// Clean rounds if nobody says: a round takes more than a minute.
const ROUNDS: usize = 12;

/// Runs `bench sched`.
pub(super) fn run(args: &SchedArgs) -> Result<Exit, Failure> {
    let results = measure(args)?;
    let judged = verdict::judge(&results);
    if let Some(out) = &args.out {
        write(out, &results, &judged)?;
    }
    match &args.json {
        Some(path) if path.as_os_str() == "-" => print_json(&results)?,
        path => {
            if let Some(path) = path {
                save(path, &json(&results))?;
            }
            print(page::terminal(&results, &judged).as_bytes())?;
        }
    }
    Ok(judge::exit(&judged))
}

fn measure(args: &SchedArgs) -> Result<Results, Failure> {
    let named = args.models.clone().or_else(|| std::env::var_os("DIOLKOS_TEST_MODELS").map(PathBuf::from));
    let mobilenet = named.unwrap_or_else(|| MODELS.into()).join(MOBILENET);
    let mobilenet = Some(mobilenet).filter(|file| file.exists());
    if mobilenet.is_none() {
        eprintln!("bench: there is no {MOBILENET}, so something of about its size runs in its place");
    }
    let dir = tempfile::tempdir().map_err(|error| cannot("make a directory", &error))?;
    let mlp = dir.path().join("mlp.onnx");
    save(&mlp, &onnx::mlp(MLP.0, MLP.1))?;
    let plan = Plan::new(args.quick);
    let plan = plan.of(args.rounds.map_or(ROUNDS, usize::from));
    let plan = args.rounds.map_or(plan, |rounds| plan.with(usize::from(rounds)));
    let length = args.seconds.unwrap_or(if args.quick { Duration::from_millis(300) } else { plan.length });
    let bench = Bench::start(mlp, mobilenet.clone(), length)?;
    let mut results = Results {
        host: Host::look(),
        quick: args.quick,
        trial: bench.trial(),
        mobilenet: mobilenet.is_some(),
        rounds: Vec::new(),
    };
    while !plan.is_done(results.clean(), results.rounds.len()) {
        let number = results.rounds.len();
        eprintln!("bench: round {}, {} of {} were clean so far", number + 1, results.clean(), plan.rounds);
        let watch = Watch::begin(&[])?;
        let mut round = bench.round(number)?;
        round.foreign = watch.end()?;
        results.rounds.push(round);
    }
    Ok(results)
}

fn json(results: &Results) -> Vec<u8> {
    let mut json = serde_json::to_vec_pretty(results).expect("results are plain data");
    json.push(b'\n');
    json
}

fn save(path: &Path, text: &[u8]) -> Result<(), Failure> {
    std::fs::write(path, text).map_err(|error| cannot(&format!("write {}", path.display()), &error))
}

fn write(out: &Path, results: &Results, judged: &[Judged]) -> Result<(), Failure> {
    let folder = out.join("performance");
    std::fs::create_dir_all(&folder)
        .map_err(|error| cannot(&format!("make {}", folder.display()), &error))?;
    save(&folder.join("sched.json"), &json(results))?;
    save(&out.join("performance-sched.md"), page::render(results, judged).as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_is_measured_judged_and_shown() {
        let dir = tempfile::tempdir().expect("a directory");
        let mlp = dir.path().join("mlp.onnx");
        save(&mlp, &onnx::mlp(2, 64)).expect("it is written");
        let bench = Bench::start(mlp, None, Duration::from_millis(60)).expect("it starts");
        let rounds = vec![bench.round(0).expect("it is measured")];
        let results = Results { rounds, ..Results::default() };
        assert_eq!(results.failed(), 0);
        let round = &results.rounds[0];
        assert!(round.beside.p99_ns > 0.0 && round.beside.batch_rate > 0.0, "{round:?}");
        assert!(round.sharing.jain > 0.3 && round.weights.device_s.len() == 3, "{round:?}");
        assert!(
            round.batching.many.iter().chain(&round.batching.one).all(|many| many.rate > 0.0),
            "{round:?}"
        );
        let judged = verdict::judge(&results);
        let page = page::render(&results, &judged);
        assert!(page.contains("## Targets") && page.contains("Jain's index"));
        let read: Results = serde_json::from_slice(&json(&results)).expect("it is read again");
        assert_eq!(read.rounds.len(), 1);
    }
}
