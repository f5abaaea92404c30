// SPDX-License-Identifier: Apache-2.0
//! The command line of `diolkos bench`.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use diolkos_types::{DataType, Shape};

use super::flood::Case;
use super::schedule::Arrivals;
use crate::cli::DaemonArgs;

/// `bench`.
#[derive(Debug, Args)]
pub struct BenchArgs {
    /// What to measure.
    #[command(subcommand)]
    pub command: BenchCommand,
}

/// What `bench` measures.
#[derive(Debug, Subcommand)]
pub enum BenchCommand {
    /// Put load on a server, or on the engine in this process
    Load(LoadArgs),
    /// Measure this build against bare servers, and write docs/performance.md
    Report(ReportArgs),
    /// Measure the native channel against what this machine can do at best
    Channel(ChannelArgs),
    /// Measure what one tenant notices of another that floods the daemon
    Flood(FloodArgs),
    /// Measure how devices are shared, and what runs of several requests gain
    Sched(SchedArgs),
}

/// By which way requests go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Target {
    /// The engine in this process, without a socket
    Inproc,
    /// REST with tensors in binary
    Rest,
    /// gRPC with raw tensors
    Grpc,
    /// The native channel, with tensors in shared memory where the address is a unix socket
    Native,
}

/// When requests are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Mode {
    /// Each client when it has its last answer: finds the greatest rate
    Closed,
    /// At times fixed beforehand: finds the latency at a rate
    Open,
}

/// `bench load`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  diolkos bench load --target inproc --model noop
  diolkos bench load --target native --model mobilenet --concurrency 4
  diolkos bench load --target rest --model echo --shape 1,3,224,224 --concurrency 8
  diolkos bench load --target grpc --model mobilenet --mode open --rate 50 --seconds 30 --json result.json

In the open loop, latency counts from the time a request was due, so that a stall counts for everything that \
waits behind it. Inputs are made up from the model's signature; open dimensions become 1. \
Exit codes: 0 every call succeeded, 1 one or more failed, 2 wrong arguments, 3 no server answers.")]
pub struct LoadArgs {
    /// How requests go
    #[arg(long, value_enum)]
    pub target: Target,
    /// Name of a model at the server, or for inproc also a model file
    #[arg(long)]
    pub model: String,
    /// Send a UINT8 tensor of so many bytes (the model's own type where it is not open)
    #[arg(long, value_name = "N", conflicts_with = "shape")]
    pub bytes: Option<usize>,
    /// Send a tensor of this shape, such as 1,3,224,224
    #[arg(long, value_name = "N,N,…", value_parser = shape)]
    pub shape: Option<Shape>,
    /// Its element type where the model leaves it open [default: FP32]
    #[arg(long, value_name = "TYPE", value_parser = data_type)]
    pub datatype: Option<DataType>,
    /// When to send
    #[arg(long, value_enum, default_value = "closed")]
    pub mode: Mode,
    /// Clients, each with a connection of its own [default: 1 in the closed loop, 64 in the open one]
    #[arg(long, short, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub concurrency: Option<u32>,
    /// Requests per second of the open loop
    #[arg(long, value_name = "R", value_parser = rate, required_if_eq("mode", "open"))]
    pub rate: Option<f64>,
    /// How the open loop spreads them
    #[arg(long, value_enum, default_value = "poisson")]
    pub arrivals: Arrivals,
    /// Length of the measurement in seconds
    #[arg(long, value_name = "S", default_value = "10", value_parser = seconds)]
    pub seconds: Duration,
    /// Seconds of load before it
    #[arg(long, value_name = "S", default_value = "1", value_parser = seconds_or_none)]
    pub warmup: Duration,
    /// Also write the result, with the whole distribution, as JSON; `-` = to standard output, alone
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    #[command(flatten)]
    pub daemon: DaemonArgs,
}

/// `bench report`.
#[derive(Debug, Args)]
#[command(after_help = "\
The daemon and the bare servers it is compared with run as child processes, turn by turn in many short \
rounds, so that a machine that gets slower or faster meanwhile does so for both. Rounds in which other \
programs used the machine are measured again. Needs a release build on a quiet machine.

Exit codes: 0 every target is met, 4 one is missed, 1 something could not be concluded.")]
pub struct ReportArgs {
    /// Directory for performance.md and performance/*.svg
    #[arg(long, value_name = "DIR", default_value = "docs")]
    pub out: PathBuf,
    /// Few and short rounds: a look, not a result
    #[arg(long)]
    pub quick: bool,
    /// Measure nothing; write the pages from results of an earlier run
    #[arg(long, value_name = "FILE", conflicts_with = "quick")]
    pub from: Option<PathBuf>,
    /// Directory with more real models [default: $DIOLKOS_TEST_MODELS, else ../shared/models]
    #[arg(long, value_name = "DIR")]
    pub models: Option<PathBuf>,
    /// Only these parts
    #[arg(long, value_enum, value_delimiter = ',')]
    pub only: Vec<Part>,
}

/// `bench channel`.
#[derive(Debug, Args)]
#[command(after_help = "\
Bare ping-pongs between two processes, copies in memory, the engine in this process, gRPC, and the channel in each of \
its ways, all of them in every round. Rounds in which other programs used the machine are measured again. Needs a \
release build on a quiet machine with two cores at least.

Exit codes: 0 every target is met, 4 one is missed, 1 something could not be concluded.")]
pub struct ChannelArgs {
    /// Directory for performance-channel.md and performance/channel.json [default: write nothing]
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Few and short rounds: a look, not a result
    #[arg(long)]
    pub quick: bool,
    /// Clean rounds [default: 15, or 6 if quick]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub rounds: Option<u16>,
    /// Directory with more real models [default: $DIOLKOS_TEST_MODELS, else ../shared/models]
    #[arg(long, value_name = "DIR")]
    pub models: Option<PathBuf>,
    /// The client whose first answer and memory are measured: the example `ask` of diolkos-client, which
    /// `cargo xtask small-client` builds [default: this executable, which is far larger than a client]
    #[arg(long, value_name = "FILE")]
    pub client: Option<PathBuf>,
}

/// `bench flood`.
#[derive(Debug, Args)]
#[command(after_help = "\
A daemon with two tenants. One of them floods it, from a process that keeps to half of a core: with 100 times the \
requests that it may send, with huge bodies, with thousands of connections, with all of that. The other's latencies are \
compared with those beside the same flood sent to a server that only accepts and drops, turn by turn, and the daemon's \
memory, descriptors and threads with what its settings let the flood have. Rounds in which other programs used the \
machine are measured again. Needs a release build on a quiet machine.

Exit codes: 0 every target is met, 4 one is missed, 1 something could not be concluded.")]
pub struct FloodArgs {
    /// Directory for performance-flood.md and performance/flood.json [default: write nothing]
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Few and short rounds: a look, not a result
    #[arg(long)]
    pub quick: bool,
    /// Clean rounds of each flood [default: 15, or 6 if quick]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub rounds: Option<u16>,
    /// Length of each of the three measurements in a round, in seconds [default: 3, or 0.9 if quick]
    #[arg(long, value_name = "S", value_parser = seconds)]
    pub seconds: Option<Duration>,
    /// How many times its limit the flooding tenant sends, as far as its share of a core allows [default: 110]
    #[arg(long, value_name = "N", value_parser = rate)]
    pub times: Option<f64>,
    /// Only these floods
    #[arg(long, value_enum, value_delimiter = ',')]
    pub only: Vec<Case>,
    /// Also write the results as JSON; `-` = to standard output, alone
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
}

/// `bench sched`.
#[derive(Debug, Args)]
#[command(after_help = "\
Engines in this process, in each round: somebody who waits for answers beside somebody who saturates the device, with \
classes and first come first served; tenants with jobs of very different lengths, and with weights; a model that gains from \
runs of many requests and one that does not, with batching and without. Rounds in which other programs used the machine \
are measured again. Needs a release build on a quiet machine.

Exit codes: 0 every target is met, 4 one is missed, 1 something could not be concluded.")]
pub struct SchedArgs {
    /// Directory for performance-sched.md and performance/sched.json [default: write nothing]
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Few and short rounds: a look, not a result
    #[arg(long)]
    pub quick: bool,
    /// Clean rounds [default: 12, or 6 if quick]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub rounds: Option<u16>,
    /// Length of a measurement, in seconds; some take up to six times as long [default: 1, or 0.3 if quick]
    #[arg(long, value_name = "S", value_parser = seconds)]
    pub seconds: Option<Duration>,
    /// Directory with more real models [default: $DIOLKOS_TEST_MODELS, else ../shared/models]
    #[arg(long, value_name = "DIR")]
    pub models: Option<PathBuf>,
    /// Also write the results as JSON; `-` = to standard output, alone
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
}

/// A part of the report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Part {
    /// `noop` in this process
    Noop,
    /// The daemon against bare servers
    Pairs,
    /// Latency at a rate
    Open,
    /// Start-up time and memory
    Start,
    /// Real models
    Models,
    /// Many connections
    Connections,
}

fn shape(text: &str) -> Result<Shape, String> {
    let lengths: Result<Vec<u64>, _> = text.split(',').map(|length| length.trim().parse::<u64>()).collect();
    let lengths =
        lengths.map_err(|_| "a shape is whole numbers with commas, such as 1,3,224,224".to_owned())?;
    Shape::new(&lengths).map_err(|error| error.to_string())
}

fn data_type(text: &str) -> Result<DataType, String> {
    text.parse().map_err(|error: diolkos_types::UnknownDataType| error.to_string())
}

fn positive(text: &str, what: &str, max: f64) -> Result<f64, String> {
    let number: f64 = text.parse().map_err(|_| format!("`{text}` is no number"))?;
    // Not the other way round, because NaN compares with nothing.
    if number > 0.0 && number <= max {
        Ok(number)
    } else {
        Err(format!("{what} is above 0 and at most {max}"))
    }
}

fn rate(text: &str) -> Result<f64, String> {
    positive(text, "a rate", 1e7)
}

fn seconds(text: &str) -> Result<Duration, String> {
    positive(text, "a time", 86_400.0).map(Duration::from_secs_f64)
}

fn seconds_or_none(text: &str) -> Result<Duration, String> {
    if text == "0" { Ok(Duration::ZERO) } else { seconds(text) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_bounds() {
        assert!(rate("0").is_err() && rate("nan").is_err() && rate("1e9").is_err() && rate("x").is_err());
        assert_eq!(rate("0.5"), Ok(0.5));
        assert_eq!(seconds("0.25"), Ok(Duration::from_millis(250)));
        assert!(seconds("0").is_err() && seconds("inf").is_err());
        assert_eq!(seconds_or_none("0"), Ok(Duration::ZERO));
        assert_eq!(shape("1, 3,2").unwrap().dims(), [1, 3, 2]);
        assert!(shape("").is_err() && shape("1,-1").is_err() && data_type("FP31").is_err());
    }
}
