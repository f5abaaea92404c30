// SPDX-License-Identifier: Apache-2.0
//! The client process of the demo: knows a socket and some images, and prints what it saw as JSON.

use std::path::Path;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::files::{MODEL, label_of};
use crate::cli::DemoClientArgs;
use crate::client::{Client, Parts};
use crate::commands::show::{self, Class};
use crate::commands::{of_client, print_json, runtime};
use crate::exit::{Exit, Failure};
use crate::input::{self, ImageOptions, Wanted};
use crate::tensor::Value;

/// How long the images are classified again and again.
const AGAIN_TIME_MAX: Duration = Duration::from_secs(1);

/// How many requests that takes at most.
const AGAIN_REQUESTS_MAX: usize = 5000;

/// What the client saw.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Report {
    /// Its process.
    pub(super) pid: u32,
    /// Each image once.
    pub(super) images: Vec<Classified>,
    /// All of them again and again, one request at a time on one connection.
    pub(super) again: Again,
}

/// One image.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Classified {
    pub(super) image: String,
    /// The digit it shows.
    pub(super) label: u32,
    /// The model's answer.
    pub(super) answer: u32,
    pub(super) probability: f64,
    /// From sending to having the answer, in nanoseconds.
    pub(super) latency_ns: u64,
}

/// Requests for steady figures.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Again {
    pub(super) requests: usize,
    pub(super) elapsed_ns: u64,
    pub(super) p50_ns: u64,
    pub(super) p99_ns: u64,
    /// Answers that were other ones than the first time; there must be none.
    pub(super) changed: usize,
    /// Means of the parts that the daemon tells; nothing if it does not.
    pub(super) mean: Option<Parts>,
    pub(super) mean_latency_ns: u64,
}

pub(crate) fn run(args: &DemoClientArgs) -> Result<Exit, Failure> {
    let report = runtime()?.block_on(classify(args))?;
    print_json(&report)?;
    Ok(Exit::Ok)
}

async fn classify(args: &DemoClientArgs) -> Result<Report, Failure> {
    let mut client = Client::connect(&args.address).await.map_err(of_client)?;
    let metadata = client.metadata(MODEL, None).await.map_err(of_client)?;
    let takes = metadata.inputs.first().ok_or_else(|| Failure::failed("the model takes nothing"))?;
    let data_type = takes.datatype.parse();
    let data_type =
        data_type.map_err(|error| Failure::failed("the model's input is strange").because(&error))?;
    let wanted = Wanted { name: takes.name.clone(), data_type, dims: takes.shape.clone() };
    let prepared = prepare(&args.images, &wanted)?;
    let mut images = Vec::with_capacity(prepared.len());
    for (name, label, value) in &prepared {
        let Asked { best, latency_ns, .. } = ask(&mut client, value).await?;
        images.push(Classified {
            image: name.clone(),
            label: *label,
            answer: u32::try_from(best.index).unwrap_or(u32::MAX),
            probability: best.score,
            latency_ns,
        });
    }
    let again = again(&mut client, &prepared, &images).await?;
    Ok(Report { pid: std::process::id(), images, again })
}

type Prepared = (String, u32, Value);

fn prepare(dir: &Path, wanted: &Wanted) -> Result<Vec<Prepared>, Failure> {
    let failed = |error: &dyn std::error::Error| {
        Failure::failed(format!("can't read the images in {}", dir.display())).because(error)
    };
    let mut names = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(|error| failed(&error))? {
        names.push(entry.map_err(|error| failed(&error))?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    let mut prepared = Vec::with_capacity(names.len());
    for name in names {
        let Some(label) = label_of(&name) else { continue };
        let contents = std::fs::read(dir.join(&name)).map_err(|error| failed(&error))?;
        let value =
            input::decode(&contents, wanted, &ImageOptions::default()).map_err(|error| failed(&error))?;
        prepared.push((name, label, value));
    }
    Ok(prepared)
}

struct Asked {
    best: Class,
    latency_ns: u64,
    parts: Option<Parts>,
}

async fn ask(client: &mut Client, value: &Value) -> Result<Asked, Failure> {
    let began = Instant::now();
    let reply = client.infer(MODEL, None, std::slice::from_ref(value), &[]).await.map_err(of_client)?;
    let latency_ns = u64::try_from(began.elapsed().as_nanos()).unwrap_or(u64::MAX);
    let best = reply.outputs.first().and_then(|output| show::best(output, None, 1)?.pop());
    let best = best.ok_or_else(|| Failure::failed("the model's answer does not look like classes"))?;
    Ok(Asked { best, latency_ns, parts: reply.parts })
}

async fn again(client: &mut Client, images: &[Prepared], first: &[Classified]) -> Result<Again, Failure> {
    let mut times = Vec::new();
    let mut sum = Parts::default();
    let mut told = true;
    let mut changed = 0;
    let began = Instant::now();
    for ((_, _, value), first) in images.iter().zip(first).cycle().take(AGAIN_REQUESTS_MAX) {
        let Asked { best, latency_ns, parts } = ask(client, value).await?;
        times.push(latency_ns);
        changed += usize::from(best.index != first.answer as usize);
        match parts {
            Some(parts) => sum = add(sum, parts),
            None => told = false,
        }
        if began.elapsed() >= AGAIN_TIME_MAX {
            break;
        }
    }
    let elapsed_ns = u64::try_from(began.elapsed().as_nanos()).unwrap_or(u64::MAX);
    let requests = times.len();
    let count = requests.max(1) as u64;
    let mean_latency_ns = times.iter().sum::<u64>() / count;
    times.sort_unstable();
    let rank = |quantile: f64| {
        let rank = ((requests as f64 * quantile).ceil() as usize).max(1) - 1;
        times.get(rank).copied().unwrap_or(0)
    };
    let mean = Parts {
        queue_ns: sum.queue_ns / count,
        copy_in_ns: sum.copy_in_ns / count,
        compute_ns: sum.compute_ns / count,
        copy_out_ns: sum.copy_out_ns / count,
    };
    Ok(Again {
        requests,
        elapsed_ns,
        p50_ns: rank(0.5),
        p99_ns: rank(0.99),
        changed,
        mean: told.then_some(mean),
        mean_latency_ns,
    })
}

fn add(a: Parts, b: Parts) -> Parts {
    Parts {
        queue_ns: a.queue_ns + b.queue_ns,
        copy_in_ns: a.copy_in_ns + b.copy_in_ns,
        compute_ns: a.compute_ns + b.compute_ns,
        copy_out_ns: a.copy_out_ns + b.copy_out_ns,
    }
}
