// SPDX-License-Identifier: Apache-2.0
//! `diolkos demo`: a private daemon, a separate client process, real images, and where the time went.

pub(super) mod client;
mod daemon;
mod files;
mod picture;

use std::fmt::Write as _;
use std::time::Duration;

use diolkos_types::DataType;
use serde::Serialize;
use tokio::signal::unix::{SignalKind, signal};

use self::client::{Again, Report};
use self::daemon::Daemon;
use super::{print, print_json, runtime};
use crate::cli::DemoArgs;
use crate::exit::{Exit, Failure};
use crate::input::{self, ImageOptions, Wanted};
use crate::term::{self, Lean, Paint, Progress, Style, Table};

/// Pictures in one band.
const PICTURES_PER_BAND: usize = 5;

/// The form of `--json`.
#[derive(Debug, Serialize)]
struct Demo {
    daemon_pid: u32,
    #[serde(flatten)]
    report: Report,
    correct: usize,
}

pub(super) fn run(args: &DemoArgs) -> Result<Exit, Failure> {
    let runtime = runtime()?;
    let demo = runtime.block_on(async {
        let failed = |error: std::io::Error| Failure::failed("can't wait for signals").because(&error);
        let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
        let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
        // Whichever comes first: dropping `play` ends its processes and removes its directory.
        tokio::select! {
            demo = play() => demo,
            _ = interrupt.recv() => Err(Failure::quiet(Exit::Interrupted)),
            _ = terminate.recv() => Err(Failure::quiet(Exit::Interrupted)),
        }
    })?;
    let good = demo.correct > 0 && demo.report.again.changed == 0;
    if args.json {
        print_json(&demo)?;
    } else {
        print(render(&demo, Paint::stdout(), term::speaks_utf8()).as_bytes())?;
    }
    Ok(if good { Exit::Ok } else { Exit::Failed })
}

async fn play() -> Result<Demo, Failure> {
    // Readable by this user only, and gone when dropped.
    let dir = tempfile::Builder::new().prefix("diolkos-demo-").tempdir();
    let dir = dir.map_err(|error| Failure::failed("can't make a temporary directory").because(&error))?;
    files::write(dir.path()).map_err(|error| Failure::failed("can't write the example").because(&error))?;
    let progress = Progress::spinner("starting a daemon and loading the model");
    let mut daemon = Daemon::start(dir.path())?;
    daemon.wait_until_ready().await?;
    drop(progress);
    let progress = Progress::spinner("classifying from another process");
    let printed = daemon::run_client(&daemon.address, &dir.path().join("images")).await?;
    drop(progress);
    let report: Report = serde_json::from_slice(&printed)
        .map_err(|error| Failure::failed("the client process printed something strange").because(&error))?;
    let daemon_pid = daemon.pid();
    daemon.stop().await?;
    let correct = report.images.iter().filter(|image| image.answer == image.label).count();
    Ok(Demo { daemon_pid, report, correct })
}

fn render(demo: &Demo, paint: Paint, utf8: bool) -> String {
    let Demo { daemon_pid, report, correct } = demo;
    let mut text = String::new();
    // Writing to a String can't fail, here and below.
    let _ = writeln!(
        text,
        "A daemon (process {daemon_pid}) served the model `{}` on a unix socket; a client (process {}) asked it.\n",
        files::MODEL,
        report.pid
    );
    if utf8 {
        text.push_str(&gallery(paint));
    }
    text.push_str(&table(report, paint));
    let total = report.images.len();
    let _ = writeln!(text, "\n{correct} of {total} right.\n");
    text.push_str(&spent(&report.again, paint));
    let Again { requests, elapsed_ns, p50_ns, p99_ns, changed, .. } = &report.again;
    let rate = *requests as f64 / (*elapsed_ns as f64 / 1e9);
    let time = |ns| term::time(Duration::from_nanos(ns));
    let _ = writeln!(
        text,
        "\n{requests} more requests, one at a time on one connection: median {}, p99 {}, {rate:.0} per second.",
        time(*p50_ns),
        time(*p99_ns)
    );
    if *changed > 0 {
        let complaint =
            format!("{changed} of them were answered otherwise than the first time, which is a defect.");
        let _ = writeln!(text, "{}", paint.on(&complaint, Style::Bad));
    }
    text.push_str(&next(paint));
    text
}

/// One image per digit.
fn gallery(paint: Paint) -> String {
    let wanted = Wanted { name: "image".into(), data_type: DataType::Uint8, dims: vec![1, 8, 8] };
    let one_per_digit = files::IMAGES.iter().step_by(files::IMAGES.len() / 10).take(10);
    let pictures: Vec<Vec<u8>> = one_per_digit
        .filter_map(|(_, contents)| input::decode(contents, &wanted, &ImageOptions::default()).ok())
        .map(|value| value.data.to_vec())
        .collect();
    let mut text = String::new();
    for band in pictures.chunks(PICTURES_PER_BAND) {
        let band: Vec<&[u8]> = band.iter().map(Vec::as_slice).collect();
        for line in picture::band(&band, paint.colours()) {
            text.push_str(&line);
            text.push('\n');
        }
        text.push('\n');
    }
    text
}

fn table(report: &Report, paint: Paint) -> String {
    let columns = [
        ("IMAGE", Lean::Left),
        ("SHOWS", Lean::Right),
        ("ANSWER", Lean::Right),
        ("PROBABILITY", Lean::Right),
        ("µs", Lean::Right),
    ];
    let mut table = Table::new(&columns);
    for image in &report.images {
        let cells = vec![
            image.image.clone(),
            image.label.to_string(),
            image.answer.to_string(),
            format!("{:.4}", image.probability),
            term::micros(Duration::from_nanos(image.latency_ns)),
        ];
        table.row(cells, (image.answer != image.label).then_some(Style::Bad));
    }
    written(&table, paint)
}

fn written(table: &Table, paint: Paint) -> String {
    let mut out = Vec::new();
    table.write(&mut out, paint).expect("writing to memory does not fail");
    String::from_utf8(out).expect("cells are text")
}

/// Where the time of a request went.
fn spent(again: &Again, paint: Paint) -> String {
    let Some(mean) = &again.mean else { return String::new() };
    let all = again.mean_latency_ns;
    let rest = all.saturating_sub(mean.total_ns());
    let mut table =
        Table::new(&[("WHERE THE TIME WENT", Lean::Left), ("MEAN µs", Lean::Right), ("SHARE", Lean::Right)]);
    for (what, ns) in [
        ("queue: waiting for a slot", mean.queue_ns),
        ("copy in: to where the backend reads it", mean.copy_in_ns),
        ("compute", mean.compute_ns),
        ("copy out: handing the answer over", mean.copy_out_ns),
        ("the rest: HTTP, socket, both processes", rest),
        ("all, as the client saw it", all),
    ] {
        let share = 100.0 * ns as f64 / all.max(1) as f64;
        table.row(vec![what.into(), term::micros(Duration::from_nanos(ns)), format!("{share:.0} %")], None);
    }
    written(&table, paint)
}

fn next(paint: Paint) -> String {
    let head = paint.on("What to try next:", Style::Head);
    format!(
        "\n{head}
  diolkos serve --model path/to/model.onnx --listen tcp:127.0.0.1:8000    and point tritonclient at it
  diolkos run path/to/model.onnx --input picture.jpg                      or run a model once, without a daemon
  diolkos doctor                                                          what this machine offers
"
    )
}

#[cfg(test)]
mod tests {
    use super::client::Classified;
    use super::*;
    use crate::client::Parts;

    fn demo(mean: Option<Parts>, changed: usize) -> Demo {
        let image = |label, answer| Classified {
            image: format!("00_{label}.png"),
            label,
            answer,
            probability: 0.75,
            latency_ns: 41_500,
        };
        let again = Again {
            requests: 100,
            elapsed_ns: 1_000_000_000,
            p50_ns: 40_000,
            p99_ns: 90_000,
            changed,
            mean,
            mean_latency_ns: 50_000,
        };
        let report = Report { pid: 2, images: vec![image(3, 3), image(4, 9)], again };
        Demo { daemon_pid: 1, report, correct: 1 }
    }

    #[test]
    fn tells_everything() {
        let mean = Parts { queue_ns: 1000, copy_in_ns: 2000, compute_ns: 20_000, copy_out_ns: 2000 };
        let text = render(&demo(Some(mean), 0), Paint::PLAIN, false);
        assert!(text.contains("00_4.png      4       9       0.7500  41.5\n"), "{text}");
        assert!(text.contains("1 of 2 right"), "{text}");
        assert!(text.contains("the rest: HTTP, socket, both processes     25.0   50 %\n"), "{text}");
        assert!(text.contains("median 40.0 µs, p99 90.0 µs, 100 per second"), "{text}");
        assert!(!text.contains("defect") && !text.contains('█'), "{text}");
    }

    #[test]
    fn changed_answers_are_called_a_defect_and_untold_parts_left_out() {
        let text = render(&demo(None, 2), Paint::PLAIN, true);
        assert!(text.contains("defect") && !text.contains("WHERE THE TIME WENT"), "{text}");
        assert!(text.contains('█') || text.contains('▀'), "{text}");
    }
}
