// SPDX-License-Identifier: Apache-2.0
//! `diolkos explain`: why requests took as long as they did.

use std::fmt::Write as _;
use std::time::Duration;

use clap::Args;
use serde::{Deserialize, Serialize};

use super::{connect, of_client, print, print_json, runtime};
use crate::cli::DaemonArgs;
use crate::client::{Client, escape};
use crate::exit::{Exit, Failure};
use crate::term::time;

/// `explain`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  diolkos explain                       the last requests of your tenant, model by model
  diolkos explain digits                those to one model, and what it will take next time
  diolkos explain 4711                  one job; replies to requests with `x-diolkos-explain: 1` name theirs
  diolkos explain --tenant web          another tenant's, for whoever may read metrics

The daemon remembers a tenant's last 256 jobs, without those that are known to be shorter than 20 µs.")]
pub struct ExplainArgs {
    /// A job's number, or a model's name
    #[arg(value_name = "JOB|MODEL")]
    pub what: Option<String>,
    /// Of this tenant
    #[arg(long, value_name = "NAME")]
    pub tenant: Option<String>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    /// Which daemon.
    #[command(flatten)]
    pub daemon: DaemonArgs,
}

/// A job, as the daemon tells of it. What it has depends on `state`.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default)]
struct Job {
    job: u64,
    /// `waits`, `runs` or `ended`.
    state: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    model: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    class: String,
    ahead: u64,
    own_before: u64,
    /// What it waited for, or waits for.
    #[serde(alias = "waits_for")]
    waited_for: String,
    since_ns: u64,
    wait_ns: u64,
    predicted_ns: u64,
    device_ns: u64,
    together: u64,
    queue_ns: u64,
    latency_ns: u64,
    failed: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Jobs {
    jobs: Vec<Job>,
}

/// What is known of a model, of which a part is shown.
#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(default)]
struct Model {
    name: String,
    rehearsal: Option<Rehearsal>,
    batching: Option<Batching>,
}

#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(default)]
struct Rehearsal {
    run_ns: Option<u64>,
}

#[derive(Debug, Deserialize, Serialize)]
struct Batching {
    rows_max: u64,
    gain: f64,
    gain_rows: u64,
}

/// The last requests to one model, together.
#[derive(Debug, Default, Serialize)]
struct Summary {
    model: String,
    jobs: usize,
    failed: usize,
    /// Why those failed: code and how many.
    failures: Vec<(String, usize)>,
    /// Jobs that had to wait: for a slot, and for their tenant's own limit.
    waited_for_slots: usize,
    /// Of these, those that came while a slot of their pool was lent.
    waited_for_lent: usize,
    waited_for_own_limit: usize,
    mean_ahead: f64,
    mean_queue_ns: u64,
    mean_predicted_ns: u64,
    mean_device_ns: u64,
    /// Jobs of a run.
    mean_together: f64,
}

/// The form of `--json`.
#[derive(Debug, Serialize)]
struct Report {
    #[serde(skip_serializing_if = "Option::is_none")]
    details: Option<Model>,
    models: Vec<Summary>,
}

/// Runs `explain`.
pub(super) fn run(args: &ExplainArgs) -> Result<Exit, Failure> {
    runtime()?.block_on(async {
        let mut client = connect(&args.daemon).await?;
        match args.what.as_deref().map(|what| what.parse::<u64>().map_err(|_| what)) {
            Some(Ok(job)) => one(args, &mut client, job).await,
            Some(Err(model)) => many(args, &mut client, Some(model)).await,
            None => many(args, &mut client, None).await,
        }
    })?;
    Ok(Exit::Ok)
}

async fn one(args: &ExplainArgs, client: &mut Client, job: u64) -> Result<(), Failure> {
    let job: Job = client.get(&format!("/v2/diolkos/jobs/{job}")).await.map_err(of_client)?;
    if args.json { print_json(&job) } else { print(sentences(&job).as_bytes()) }
}

async fn many(args: &ExplainArgs, client: &mut Client, model: Option<&str>) -> Result<(), Failure> {
    let query = args.tenant.as_ref().map_or_else(String::new, |name| format!("?tenant={}", escape(name)));
    let Jobs { jobs } = client.get(&format!("/v2/diolkos/jobs{query}")).await.map_err(of_client)?;
    let details = match model {
        Some(model) => {
            let path = format!("/v2/diolkos/models/{}", escape(model));
            Some(client.get::<Model>(&path).await.map_err(of_client)?)
        }
        None => None,
    };
    let report = Report { details, models: summaries(&jobs, model) };
    if args.json { print_json(&report) } else { print(shown(&report).as_bytes()) }
}

fn ns(nanoseconds: u64) -> String {
    time(Duration::from_nanos(nanoseconds))
}

/// A word for what was waited for.
fn reason(waited_for: &str) -> &'static str {
    match waited_for {
        "slots" => "all slots of its pool were taken",
        "lent" => "all slots of its pool were taken, some of them lent to another pool",
        "concurrency_max" => "your tenant had as many jobs running as it may (`concurrency_max`)",
        _ => "nothing was in its way",
    }
}

fn sentences(job: &Job) -> String {
    let mut out = String::new();
    let Job { job: number, state, model, class, ahead, own_before, waited_for, .. } = job;
    // Writing to a String can't fail, here and below.
    let _ = match state.as_str() {
        "waits" => writeln!(
            out,
            "job {number} waits for {} already, as class {class}: {}\n{own_before} of your own jobs go before it; it will begin in about {}\n\
             and is predicted to take {} of the device alone",
            ns(job.since_ns),
            reason(waited_for).replace("were", "are").replace("had", "has"),
            ns(job.wait_ns),
            ns(job.predicted_ns),
        ),
        "runs" => writeln!(out, "job {number} runs, and was predicted to take {}", ns(job.predicted_ns)),
        _ => {
            let end =
                job.failed.as_ref().map_or_else(|| "succeeded".into(), |code| format!("failed ({code})"));
            let _ =
                writeln!(out, "job {number}, `{model}`, class {class}: {end} after {}", ns(job.latency_ns));
            if waited_for == "nothing" {
                let _ = writeln!(out, "it began at once");
            } else {
                let _ = writeln!(
                    out,
                    "it waited {}, because {}; {ahead} others of your tenant waited when it came",
                    ns(job.queue_ns),
                    reason(waited_for)
                );
            }
            match job.together {
                0 => writeln!(out, "it never ran; it was predicted to take {}", ns(job.predicted_ns)),
                1 => writeln!(
                    out,
                    "it ran alone and took {} of the device; {} were predicted",
                    ns(job.device_ns),
                    ns(job.predicted_ns)
                ),
                together => writeln!(
                    out,
                    "it shared its run with {} others, and was charged {}; alone it was predicted to take {}",
                    together - 1,
                    ns(job.device_ns),
                    ns(job.predicted_ns)
                ),
            }
        }
    };
    out
}

fn summaries(jobs: &[Job], only: Option<&str>) -> Vec<Summary> {
    let mut models: Vec<(&str, Vec<&Job>)> = Vec::new();
    for job in jobs.iter().filter(|job| only.is_none_or(|only| only == job.model)) {
        match models.iter_mut().find(|(model, _)| *model == job.model) {
            Some((_, of)) => of.push(job),
            None => models.push((&job.model, vec![job])),
        }
    }
    models.into_iter().map(|(model, jobs)| summary(model, &jobs)).collect()
}

fn summary(model: &str, jobs: &[&Job]) -> Summary {
    let count = |which: &dyn Fn(&Job) -> bool| jobs.iter().filter(|job| which(job)).count();
    let mean = |of: &[&Job], number: fn(&Job) -> u64| {
        of.iter().map(|job| u128::from(number(job))).sum::<u128>() as f64 / of.len().max(1) as f64
    };
    let ran: Vec<&Job> = jobs.iter().copied().filter(|job| job.together > 0).collect();
    let mut failures: Vec<(String, usize)> = Vec::new();
    for code in jobs.iter().filter_map(|job| job.failed.as_ref()) {
        match failures.iter_mut().find(|(known, _)| known == code) {
            Some((_, count)) => *count += 1,
            None => failures.push((code.clone(), 1)),
        }
    }
    Summary {
        model: model.into(),
        jobs: jobs.len(),
        failed: count(&|job| job.failed.is_some()),
        failures,
        waited_for_slots: count(&|job| matches!(job.waited_for.as_str(), "slots" | "lent")),
        waited_for_lent: count(&|job| job.waited_for == "lent"),
        waited_for_own_limit: count(&|job| job.waited_for == "concurrency_max"),
        mean_ahead: mean(jobs, |job| job.ahead),
        mean_queue_ns: mean(jobs, |job| job.queue_ns) as u64,
        mean_predicted_ns: mean(&ran, |job| job.predicted_ns) as u64,
        mean_device_ns: mean(&ran, |job| job.device_ns) as u64,
        mean_together: mean(&ran, |job| job.together),
    }
}

fn shown(report: &Report) -> String {
    let mut out = String::new();
    if let Some(Model { name, rehearsal, batching }) = &report.details {
        if let Some(run) = rehearsal.as_ref().and_then(|rehearsal| rehearsal.run_ns) {
            let _ = writeln!(out, "`{name}` took {} for one request when it was loaded", ns(run));
        }
        let _ = match batching {
            Some(Batching { rows_max, gain, gain_rows }) => writeln!(
                out,
                "its requests share runs of up to {rows_max} rows: each of {gain_rows} took {gain:.1} times less than alone when it was loaded"
            ),
            None => writeln!(out, "its requests run alone: sharing runs was not faster, or is not possible"),
        };
    }
    if report.models.is_empty() {
        let _ =
            writeln!(out, "no request is remembered; those that are known to be shorter than 20 µs are not");
    }
    for summary in &report.models {
        let Summary { model, jobs, failed, failures, waited_for_slots, waited_for_own_limit, .. } = summary;
        let lent = match summary.waited_for_lent {
            0 => String::new(),
            lent => format!(" ({lent} while one was lent to another pool)"),
        };
        let _ = writeln!(out, "\nthe last {jobs} jobs of `{model}`: {failed} failed");
        for (code, count) in failures {
            let _ = writeln!(out, "  {count} times {code}");
        }
        let at_once = jobs - waited_for_slots - waited_for_own_limit;
        let _ = writeln!(
            out,
            "  {at_once} began at once; {waited_for_slots} waited for a slot{lent}, {waited_for_own_limit} for your tenant's own limit\n  \
             waiting took {} on average, behind {:.1} others of your tenant",
            ns(summary.mean_queue_ns),
            summary.mean_ahead,
        );
        if summary.mean_together > 0.0 {
            let _ = writeln!(
                out,
                "  a job was charged {} of the device ({} predicted, alone), with {:.1} jobs in its run",
                ns(summary.mean_device_ns),
                ns(summary.mean_predicted_ns),
                summary.mean_together,
            );
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(model: &str, waited_for: &str, together: u64, failed: Option<&str>) -> Job {
        Job {
            job: 7,
            state: "ended".into(),
            model: model.into(),
            class: "standard".into(),
            waited_for: waited_for.into(),
            together,
            device_ns: 2_000_000,
            predicted_ns: 3_000_000,
            failed: failed.map(Into::into),
            ..Job::default()
        }
    }

    #[test]
    fn one_job_is_told_in_sentences() {
        let text = sentences(&job("m", "slots", 4, None));
        assert!(text.contains("succeeded") && text.contains("shared its run with 3 others"), "{text}");
        assert!(text.contains("all slots of its pool were taken"), "{text}");
        let text = sentences(&job("m", "nothing", 0, Some("busy")));
        assert!(text.contains("failed (busy)") && text.contains("never ran"), "{text}");
        let waits = Job { state: "waits".into(), own_before: 3, ..job("", "concurrency_max", 0, None) };
        assert!(sentences(&waits).contains("3 of your own jobs go before it"), "{}", sentences(&waits));
    }

    #[test]
    fn many_are_summed_up_by_model() {
        let jobs = [
            job("a", "slots", 4, None),
            job("a", "nothing", 2, None),
            job("a", "concurrency_max", 0, Some("deadline_exceeded")),
            job("b", "nothing", 1, None),
        ];
        let sums = summaries(&jobs, None);
        assert_eq!(
            sums.iter().map(|sum| (sum.model.as_str(), sum.jobs)).collect::<Vec<_>>(),
            [("a", 3), ("b", 1)]
        );
        assert_eq!((sums[0].waited_for_slots, sums[0].waited_for_own_limit, sums[0].failed), (1, 1, 1));
        assert_eq!(sums[0].mean_together, 3.0);
        assert_eq!(summaries(&jobs, Some("b")).len(), 1);
        let text = shown(&Report { details: None, models: sums });
        assert!(text.contains("1 times deadline_exceeded") && text.contains("1 began at once"), "{text}");
        assert!(shown(&Report { details: None, models: Vec::new() }).contains("no request is remembered"));
    }
}
