// SPDX-License-Identifier: Apache-2.0
//! `bench load`: one load on one target, as a table for people or as JSON.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::IsTerminal as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use diolkos_types::{DataType, UnknownDataType};
use serde::{Deserialize, Serialize};

use super::args::{LoadArgs, Mode, Target};
use super::caller::{CallBlocking, Caller, Question, Route};
use super::children::cannot;
use super::inproc::{InprocCaller, Local};
use super::latencies::{Latencies, Point, Summary};
use super::native::NativeCaller;
use super::payload::{self, Wish};
use super::schedule::Schedule;
use super::split::{Counted, Split};
use super::tally::Tally;
use super::{closed, open, runtime};
use crate::client::{Address, Client};
use crate::commands::{address, of_client, print};
use crate::exit::{Exit, Failure};
use crate::input::Wanted;
use crate::term::{self, Lean, Paint, Progress, Style, Table};

/// How long an open loop may go on after its schedule's end, to answer what is late.
const GRACE: Duration = Duration::from_secs(30);

/// Clients of an open loop when nobody says: enough to have that many requests on the way at once.
const OPEN_CLIENTS: u32 = 64;

/// The due times of every run are the same.
const SEED: u64 = 20;

/// Bars of the histogram, and the width of the longest.
const BARS: usize = 14;
const BAR_WIDTH: f64 = 48.0;

/// The form of `--json`.
#[derive(Debug, Serialize, Deserialize)]
struct LoadResult {
    target: String,
    model: String,
    mode: String,
    concurrency: usize,
    /// Requests per second that were intended; nothing in the closed loop.
    offered_rate: Option<f64>,
    warmup_s: f64,
    seconds: f64,
    /// Payload of one request.
    request_bytes: usize,
    ok: u64,
    errors: BTreeMap<String, u64>,
    /// Good answers per second.
    rate: f64,
    latency: Summary,
    /// How late requests were sent; nothing in the closed loop.
    lag: Option<Summary>,
    /// Where the server spent the time, by its own account.
    server: Option<Split>,
    distribution: Vec<Point>,
}

/// What a run gave.
struct Ran {
    tally: Tally,
    lag: Option<Latencies>,
    rate: f64,
    server: Option<Split>,
}

pub(super) fn run(args: &LoadArgs) -> Result<Exit, Failure> {
    let clients = args.concurrency.unwrap_or(match args.mode {
        Mode::Closed => 1,
        Mode::Open => OPEN_CLIENTS,
    });
    let clients = clients as usize;
    let runtime = runtime(clients)?;
    let (route, question) = runtime.block_on(prepare(args))?;
    let ticker = Ticker::start("measuring", args.warmup + args.seconds);
    let ran = match (&route, args.mode) {
        (Route::Inproc(local), Mode::Closed) => {
            in_threads(args, clients, &question, || InprocCaller::open(local, &question))?
        }
        (Route::Native(address), Mode::Closed) => {
            let before = runtime.block_on(counted(&route, &question));
            let ran = in_threads(args, clients, &question, || NativeCaller::open(address, &question))?;
            let after = runtime.block_on(counted(&route, &question));
            Ran { server: split(before, after), ..ran }
        }
        _ => runtime.block_on(measure(&route, &question, clients, args))?,
    };
    drop(ticker);
    let result = result(args, clients, &question, &ran);
    let to_stdout = args.json.as_deref() == Some(Path::new("-"));
    if let Some(path) = &args.json {
        let mut text = serde_json::to_vec_pretty(&result).expect("results are plain data");
        text.push(b'\n');
        if to_stdout {
            print(&text)?;
        } else {
            std::fs::write(path, text)
                .map_err(|error| cannot(&format!("write {}", path.display()), &error))?;
        }
    }
    if !to_stdout {
        print(show(&result, &ran, Paint::stdout()).as_bytes())?;
    }
    Ok(if result.errors.is_empty() { Exit::Ok } else { Exit::Failed })
}

async fn prepare(args: &LoadArgs) -> Result<(Route, Question), Failure> {
    let wish = Wish { bytes: args.bytes, shape: args.shape, data_type: args.datatype };
    if args.target == Target::Inproc {
        let path = Path::new(&args.model);
        // No model's name has a slash, so whoever writes one means a file.
        let file = (args.model.contains('/') || path.is_file()).then_some(path);
        let (local, loaded) = Local::start(file)?;
        let model = loaded.unwrap_or_else(|| args.model.clone());
        let question = payload::question(&model, &local.wanted(&model)?, &wish)?;
        return Ok((Route::Inproc(local), question));
    }
    let address = address(&args.daemon)?;
    let question = payload::question(&args.model, &wanted(&address, &args.model).await?, &wish)?;
    let route = match args.target {
        Target::Rest => Route::Rest(address),
        Target::Grpc => Route::Grpc(address),
        Target::Native => Route::Native(address),
        Target::Inproc => unreachable!("it has no address"),
    };
    Ok((route, question))
}

/// What a model at a server takes. The two operations that every daemon and every bare server has need no
/// asking.
pub(super) async fn wanted(address: &Address, model: &str) -> Result<Vec<Wanted>, Failure> {
    match model {
        "noop" => return Ok(Vec::new()),
        "echo" => return Ok(vec![Wanted { name: "data".into(), data_type: DataType::Fp32, dims: vec![-1] }]),
        _ => {}
    }
    let mut client = Client::connect(address).await.map_err(of_client)?;
    let metadata = client.metadata(model, None).await.map_err(of_client)?;
    let inputs = metadata.inputs.into_iter().map(|input| match input.datatype.parse() {
        Ok(data_type) => Ok(Wanted { name: input.name, data_type, dims: input.shape }),
        Err(error) => {
            let error: UnknownDataType = error;
            Err(Failure::failed(format!("input `{}`", input.name)).because(&error))
        }
    });
    inputs.collect()
}

/// A closed loop of clients that each have a thread.
fn in_threads<C: CallBlocking + Send>(
    args: &LoadArgs,
    clients: usize,
    question: &Question,
    open: impl Fn() -> Result<C, Failure>,
) -> Result<Ran, Failure> {
    let mut callers = (0..clients).map(|_| open()).collect::<Result<Vec<_>, Failure>>()?;
    for caller in &mut callers {
        caller.checked_call(question).map_err(Failure::failed)?;
    }
    let closed = closed::in_threads(&mut callers, args.warmup, args.seconds);
    Ok(Ran { rate: closed.rate(), tally: closed.tally, lag: None, server: None })
}

/// Where the server spent the time between.
fn split(before: Option<Counted>, after: Option<Counted>) -> Option<Split> {
    after.zip(before).and_then(|(after, before)| after.since(&before))
}

async fn measure(
    route: &Route,
    question: &Question,
    clients: usize,
    args: &LoadArgs,
) -> Result<Ran, Failure> {
    let callers = Caller::open_many(route, question, clients).await?;
    let before = counted(route, question).await;
    let (tally, lag, rate) = match args.mode {
        Mode::Closed => {
            let (_, closed) = closed::run(callers, args.warmup, args.seconds).await;
            let rate = closed.rate();
            (closed.tally, None, rate)
        }
        Mode::Open => {
            let rate = args.rate.expect("the command line asks for it in this mode");
            let length = args.warmup + args.seconds;
            let schedule = Schedule::new(args.arrivals, rate, length, SEED);
            let (_, tally) = open::run(callers, schedule, args.warmup, length, GRACE).await;
            let rate = tally.all.ok() as f64 / args.seconds.as_secs_f64();
            (tally.all, Some(tally.lag), rate)
        }
    };
    let after = counted(route, question).await;
    let server = split(before, after);
    Ok(Ran { tally, lag, rate, server })
}

async fn counted(route: &Route, question: &Question) -> Option<Counted> {
    match route {
        Route::Rest(address) | Route::Grpc(address) | Route::Native(address) => {
            Counted::ask(address, &question.model).await
        }
        Route::Inproc(_) => None,
    }
}

fn result(args: &LoadArgs, clients: usize, question: &Question, ran: &Ran) -> LoadResult {
    let target = match args.target {
        Target::Inproc => "inproc",
        Target::Rest => "rest",
        Target::Grpc => "grpc",
        Target::Native => "native",
    };
    LoadResult {
        target: target.into(),
        model: question.model.clone(),
        mode: if args.mode == Mode::Open { "open" } else { "closed" }.into(),
        concurrency: clients,
        offered_rate: args.rate.filter(|_| args.mode == Mode::Open),
        warmup_s: args.warmup.as_secs_f64(),
        seconds: args.seconds.as_secs_f64(),
        request_bytes: question.inputs.iter().map(|input| input.data.len()).sum(),
        ok: ran.tally.ok(),
        errors: ran.tally.errors().iter().map(|(kind, count)| (kind.to_string(), *count)).collect(),
        rate: ran.rate,
        latency: ran.tally.latencies().summary(),
        lag: ran.lag.as_ref().map(Latencies::summary),
        server: ran.server,
        distribution: ran.tally.latencies().curve(),
    }
}

fn show(result: &LoadResult, ran: &Ran, paint: Paint) -> String {
    let LoadResult { target, model, mode, concurrency, seconds, request_bytes, rate, .. } = result;
    let mut text = String::new();
    // Writing to a String can't fail, here and below.
    let _ = writeln!(
        text,
        "`{model}` by {target}, {mode} loop, {concurrency} clients, {seconds} s, {} per request",
        term::bytes(*request_bytes as u64)
    );
    let _ = match result.offered_rate {
        Some(offered) => writeln!(text, "rate    {rate:.1} good answers per second; {offered:.1} were due"),
        None => writeln!(text, "rate    {rate:.1} good answers per second"),
    };
    if result.errors.is_empty() {
        text.push_str("errors  none\n");
    } else {
        let list: Vec<String> =
            result.errors.iter().map(|(kind, count)| format!("{count} × {kind}")).collect();
        let _ = writeln!(text, "{}", paint.on(&format!("errors  {}", list.join(", ")), Style::Bad));
    }
    text.push('\n');
    text.push_str(&table(result, paint));
    if let Some(split) = &result.server {
        let time = |ns: f64| term::time(Duration::from_nanos(ns as u64));
        let _ = writeln!(
            text,
            "\nserver, mean per request: queue {}, copy in {}, compute {}, copy out {}",
            time(split.queue_ns),
            time(split.copy_in_ns),
            time(split.compute_ns),
            time(split.copy_out_ns)
        );
    }
    text.push('\n');
    text.push_str(&bars(ran.tally.latencies()));
    text
}

fn table(result: &LoadResult, paint: Paint) -> String {
    let head = ["MEAN", "P50", "P90", "P99", "P99.9", "MAX"].map(|name| (name, Lean::Right));
    let mut columns = vec![("", Lean::Left)];
    columns.extend(head);
    let mut table = Table::new(&columns);
    let mut row = |name: &str, summary: &Summary| {
        let times = [summary.p50_ns, summary.p90_ns, summary.p99_ns, summary.p999_ns, summary.max_ns];
        let mut cells = vec![name.to_owned(), term::time(Duration::from_nanos(summary.mean_ns as u64))];
        cells.extend(times.map(|ns| term::time(Duration::from_nanos(ns))));
        table.row(cells, None);
    };
    row("latency", &result.latency);
    if let Some(lag) = &result.lag {
        row("of it, before sending", lag);
    }
    let mut out = Vec::new();
    // Neither can writing to a Vec fail.
    let _ = table.write(&mut out, paint);
    String::from_utf8_lossy(&out).into_owned()
}

fn bars(latencies: &Latencies) -> String {
    let bars = latencies.bars(BARS);
    let (all, most) = (latencies.count().max(1), bars.iter().map(|bar| bar.count).max().unwrap_or(0).max(1));
    let block = if term::speaks_utf8() { "█" } else { "#" };
    let mut text = String::new();
    for bar in bars {
        let width = (bar.count as f64 / most as f64 * BAR_WIDTH).ceil() as usize;
        let from = term::time(Duration::from_nanos(bar.from_ns));
        let share = bar.count as f64 / all as f64 * 100.0;
        let _ = writeln!(text, "{from:>10} {share:>6.2} % {}", block.repeat(width));
    }
    text
}

/// A progress bar that follows the clock; nothing where there is no terminal.
struct Ticker(Option<(Arc<AtomicBool>, JoinHandle<()>)>);

impl Ticker {
    const STEP: Duration = Duration::from_millis(100);

    fn start(message: &'static str, length: Duration) -> Ticker {
        if !std::io::stderr().is_terminal() {
            return Ticker(None);
        }
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = std::thread::spawn(move || {
            let steps = length.div_duration_f64(Ticker::STEP).ceil() as u64;
            let progress = Progress::steps(message, steps);
            while !stopped.load(Ordering::Relaxed) {
                std::thread::sleep(Ticker::STEP);
                progress.step();
            }
        });
        Ticker(Some((stop, thread)))
    }
}

impl Drop for Ticker {
    fn drop(&mut self) {
        if let Some((stop, thread)) = self.0.take() {
            stop.store(true, Ordering::Relaxed);
            // It draws and sleeps, and neither panics.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::caller::Outcome;
    use super::*;

    #[test]
    fn shows_what_was_counted() {
        let mut tally = Tally::new();
        for micros in 100..200 {
            tally.count(&Outcome::Ok, Duration::from_micros(micros));
        }
        tally.count(&Outcome::failed("503"), Duration::from_millis(3));
        let mut lag = Latencies::new();
        lag.record(Duration::from_micros(7));
        let ran = Ran { lag: Some(lag), rate: 12.5, server: None, tally };
        let result = LoadResult {
            target: "rest".into(),
            model: "echo".into(),
            mode: "open".into(),
            concurrency: 3,
            offered_rate: Some(13.0),
            warmup_s: 0.0,
            seconds: 8.0,
            request_bytes: 602_112,
            ok: ran.tally.ok(),
            errors: [("503".to_owned(), 1)].into(),
            rate: ran.rate,
            latency: ran.tally.latencies().summary(),
            lag: ran.lag.as_ref().map(Latencies::summary),
            server: Some(Split { queue_ns: 1500.0, ..Split::default() }),
            distribution: ran.tally.latencies().curve(),
        };
        let text = show(&result, &ran, Paint::PLAIN);
        for part in [
            "`echo` by rest, open loop, 3 clients, 8 s, 602.1 kB per request",
            "12.5 good answers per second; 13.0 were due",
            "1 × 503",
            "queue 1.5 µs",
            "before sending",
        ] {
            assert!(text.contains(part), "{part} is not in:\n{text}");
        }
        assert_eq!(text.lines().filter(|line| line.contains(" % ")).count(), BARS);
        let json = serde_json::to_string(&result).unwrap();
        let back: LoadResult = serde_json::from_str(&json).unwrap();
        assert_eq!(back.latency, result.latency);
    }
}
