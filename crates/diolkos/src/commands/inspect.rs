// SPDX-License-Identifier: Apache-2.0
//! `diolkos inspect`: what a model takes and gives, how large and how fast it is.

use std::time::Duration;

use serde::Serialize;

use super::{connect, of_client, print, print_json, runtime};
use crate::cli::InspectArgs;
use crate::client::{ModelDetails, ModelMetadata, TensorMetadata};
use crate::exit::{Exit, Failure};
use crate::term::{self, Lean, Paint, Style, Table};

/// Everything, and the form of `--json`.
#[derive(Debug, Serialize)]
struct Inspection {
    #[serde(flatten)]
    metadata: ModelMetadata,
    max_batch_size: u64,
    /// Nothing if the daemon is of another make.
    details: Option<ModelDetails>,
}

pub(super) fn run(args: &InspectArgs) -> Result<Exit, Failure> {
    let inspection = runtime()?.block_on(ask(args))?;
    if args.json {
        print_json(&inspection)?;
    } else {
        print(render(&inspection, Paint::stdout()).as_bytes())?;
    }
    Ok(Exit::Ok)
}

async fn ask(args: &InspectArgs) -> Result<Inspection, Failure> {
    let mut client = connect(&args.daemon).await?;
    let version = args.model_version.map(|version| version.to_string());
    let (model, version) = (args.model.as_str(), version.as_deref());
    let metadata = client.metadata(model, version).await.map_err(of_client)?;
    let config = client.config(model, version).await.map_err(of_client)?;
    let details = client.details(model, version).await.map_err(of_client)?;
    Ok(Inspection { metadata, max_batch_size: config.max_batch_size, details })
}

fn render(inspection: &Inspection, paint: Paint) -> String {
    let Inspection { metadata, max_batch_size, details } = inspection;
    let mut text = format!("{}\n", paint.on(&metadata.name, Style::Head));
    let mut line = |key: &str, value: String| text += &format!("  {key:<12} {value}\n");
    line("versions", metadata.versions.join(", "));
    line("platform", metadata.platform.clone());
    if *max_batch_size > 0 {
        line("batch", format!("at most {max_batch_size}"));
    }
    if let Some(details) = details {
        line("backend", details.backend.clone());
        if let Some(digest) = &details.digest {
            line("digest", digest.clone());
        }
        line("memory", format!("{} while loaded", term::bytes(details.resident_bytes)));
        if let Some(rehearsal) = &details.rehearsal {
            let peak = term::bytes(rehearsal.peak_bytes);
            line("load", format!("{}, {peak} at its peak (rehearsed)", ns(rehearsal.load_ns)));
            if let Some(run_ns) = rehearsal.run_ns {
                line("run", format!("{} (median of the rehearsal's runs, alone on one thread)", ns(run_ns)));
            }
        }
        let statistics = &details.statistics;
        line("requests", format!("{} answered, {} failed", statistics.success, statistics.fail));
        if let (Some(p50), Some(p99)) = (statistics.p50_bound_ns, statistics.p99_bound_ns) {
            line("latency", format!("p50 under {}, p99 under {} in the daemon", ns(p50), ns(p99)));
            let mean = &statistics.mean;
            line(
                "of which",
                format!(
                    "queue {}, copy in {}, compute {}, copy out {} (means)",
                    ns(mean.queue_ns),
                    ns(mean.copy_in_ns),
                    ns(mean.compute_ns),
                    ns(mean.copy_out_ns)
                ),
            );
        }
    }
    text.push('\n');
    text.push_str(&tensors(metadata, details.as_ref(), paint));
    text
}

fn ns(nanoseconds: u64) -> String {
    term::time(Duration::from_nanos(nanoseconds))
}

fn tensors(metadata: &ModelMetadata, details: Option<&ModelDetails>, paint: Paint) -> String {
    let columns = [
        ("", Lean::Left),
        ("TENSOR", Lean::Left),
        ("TYPE", Lean::Left),
        ("SHAPE", Lean::Left),
        ("", Lean::Left),
    ];
    let mut table = Table::new(&columns);
    let mut add = |what: &str, tensor: &TensorMetadata| {
        let shape: Vec<String> = tensor.shape.iter().map(i64::to_string).collect();
        let labels = details.and_then(|details| details.labels.get(&tensor.name)).map_or(0, Vec::len);
        let note = if labels > 0 { format!("{labels} class names") } else { String::new() };
        let cells = vec![
            what.into(),
            tensor.name.clone(),
            tensor.datatype.clone(),
            format!("[{}]", shape.join(",")),
            note,
        ];
        table.row(cells, None);
    };
    metadata.inputs.iter().for_each(|tensor| add("in", tensor));
    metadata.outputs.iter().for_each(|tensor| add("out", tensor));
    let mut out = Vec::new();
    table.write(&mut out, paint).expect("writing to memory does not fail");
    String::from_utf8(out).expect("cells are text")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_daemon_of_another_make_shows_what_it_has() {
        let tensor = TensorMetadata { name: "x".into(), datatype: "FP32".into(), shape: vec![-1, 3] };
        let metadata = ModelMetadata {
            name: "m".into(),
            versions: vec!["1".into(), "2".into()],
            platform: "p".into(),
            inputs: vec![tensor],
            outputs: vec![],
        };
        let text = render(&Inspection { metadata, max_batch_size: 8, details: None }, Paint::PLAIN);
        assert!(
            text.contains("versions     1, 2\n") && text.contains("at most 8") && text.contains("[-1,3]"),
            "{text}"
        );
        assert!(!text.contains("backend"), "{text}");
    }
}
