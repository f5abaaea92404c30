// SPDX-License-Identifier: Apache-2.0
//! The command line. A new command is one line in [`Command`] and one in `commands::dispatch`.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::client::Address;
use crate::input::ImageOptions;

/// Environment variable with the daemon's address, for whoever gives no `--address`.
pub const ENDPOINT_VARIABLE: &str = "DIOLKOS_ENDPOINT";

/// Environment variable with the token that says who asks, for a daemon on TCP.
pub const TOKEN_VARIABLE: &str = "DIOLKOS_TOKEN";

const EXAMPLES: &str = "\
Examples:
  diolkos demo                                   see it work, without any set-up
  diolkos serve --model ./mobilenet.onnx         serve one model on the default socket
  diolkos run mobilenet --input owl.jpg          ask that daemon
  diolkos run ./mobilenet.onnx --input owl.jpg   or run the model in this process

Exit codes:
  0 done   1 refused or failed   2 wrong arguments   3 no daemon   4 problems found
  5 the daemon could not start   130 interrupted";

/// Lends a node's devices to sandboxed workloads: serves models over the Open Inference Protocol.
#[derive(Debug, Parser)]
#[command(name = "diolkos", version, after_help = EXAMPLES, max_term_width = 100)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the daemon
    Serve(ServeArgs),
    /// Run a model once, at a daemon or (given a file) in this process
    Run(RunArgs),
    /// List the models of a daemon
    Ls(LsArgs),
    /// Show what a model takes and gives, how large and how fast it is
    Inspect(InspectArgs),
    /// Check a settings file, a model, its directory or its config.pbtxt, without a daemon
    Check(CheckArgs),
    /// Show what this host offers, what is wrong with it, and what to do
    Doctor(DoctorArgs),
    /// Make a token, which says who a client is where the transport does not, and the hash for the settings
    Token(TokenArgs),
    /// List, add and remove the tenants of a daemon while it runs
    Tenant(crate::commands::tenant::TenantArgs),
    /// List, add and remove what its tenants may use
    Lease(crate::commands::tenant::LeaseArgs),
    /// Say why requests took as long as they did
    Explain(crate::commands::explain::ExplainArgs),
    /// Simulate the scheduler with a load of your own, and the daemon's settings
    Sim(crate::commands::sim::SimArgs),
    /// See it work: start a private daemon, classify real images from a second process
    Demo(DemoArgs),
    /// Measure: load on a server, or this build against bare servers
    Bench(crate::commands::bench::BenchArgs),
    /// The bare server that `bench report` compares with
    #[command(hide = true)]
    BenchBaseline(crate::commands::bench::BaselineArgs),
    /// The other process of `bench channel`
    #[command(hide = true)]
    BenchPeer(crate::commands::bench::PeerArgs),
    /// The flooding process of `bench flood`
    #[command(hide = true)]
    BenchFlooder(crate::commands::bench::FlooderArgs),
    /// Load a model under limits, on behalf of a daemon
    #[command(hide = true)]
    Rehearse,
    /// The client process of `demo`
    #[command(hide = true)]
    DemoClient(DemoClientArgs),
}

/// Which daemon.
#[derive(Clone, Debug, Args)]
pub struct DaemonArgs {
    /// The daemon: unix:PATH, tcp:HOST:PORT, tls:HOST:PORT or vsock:CID:PORT [default: $DIOLKOS_ENDPOINT, else the default socket]
    #[arg(long, short, value_name = "ADDRESS")]
    pub address: Option<Address>,
}

/// `serve`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  diolkos serve                                    the default socket, built-in operations only
  diolkos serve --model ./mnist.onnx               and a model, called `mnist`
  diolkos serve --models ./models                  a directory laid out as <model>/<version>/model.onnx
  diolkos serve --listen tcp:127.0.0.1:8000 --listen unix:/run/user/1000/d.sock
  diolkos serve --config diolkos.toml              settings from a file; flags add to it

Without --listen and without `listen` in the settings, the daemon listens on \
$XDG_RUNTIME_DIR/diolkos/diolkos.sock. SIGHUP reads the settings again, SIGTERM drains and stops.")]
pub struct ServeArgs {
    /// A model file, or a model's directory; named after itself. May be repeated
    #[arg(long = "model", value_name = "PATH")]
    pub model: Vec<PathBuf>,
    /// A directory of models, <model>/<version>/model.onnx. May be repeated
    #[arg(long = "models", value_name = "DIR")]
    pub models: Vec<PathBuf>,
    /// Settings, in TOML (docs/settings.md lists them)
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Where to listen: unix:PATH, tcp:HOST:PORT on loopback, or vsock:any:PORT. May be repeated; replaces the settings'
    #[arg(long, value_name = "ADDRESS")]
    pub listen: Vec<String>,
    /// Stop when standard input ends, so that a daemon never outlives whoever started it
    #[arg(long, hide = true)]
    pub exit_with_stdin: bool,
}

/// `token`.
#[derive(Debug, Args)]
#[command(after_help = "\
The token is shown once and kept nowhere: give it to the client (DIOLKOS_TOKEN=…, or the header \
`authorization: Bearer …`), and the hash to the daemon, in its settings:

  [tenants.NAME]
  tokens = [\"sha256:…\"]

It counts on TCP only; on unix sockets the kernel says who a client is.")]
pub struct TokenArgs {
    /// As JSON
    #[arg(long)]
    pub json: bool,
}

/// `run`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  diolkos run digits --input image=examples/digits/images/04_1.png
  diolkos run mobilenet --input owl.jpg --mean 0.485,0.456,0.406 --std 0.229,0.224,0.225 --top 3
  diolkos run affine --input 'x=[[1, 2, 3]]' --json
  diolkos run ./model.onnx --input x=x.npy --output results/

An input file may be a .npy array, JSON (nested lists), a PNG or a JPEG; what it is is told from its \
contents. A model with one input needs no NAME=. Nothing is converted to another element type silently.")]
pub struct RunArgs {
    /// Name of a model at the daemon, or path of a model file
    pub model: String,
    /// An input, NAME=FILE or NAME=[1,2,3]; NAME= may be left out if there is only one
    #[arg(long = "input", short, value_name = "NAME=FILE")]
    pub inputs: Vec<String>,
    /// Only this output. May be repeated [default: all]
    #[arg(long = "only", value_name = "NAME")]
    pub outputs: Vec<String>,
    /// Which version of the model [default: the current one]
    #[arg(long, value_name = "N")]
    pub model_version: Option<u64>,
    /// Save outputs: a .npy file for a single one, or a directory for all
    #[arg(long, short, value_name = "DIR|FILE.npy")]
    pub output: Option<PathBuf>,
    /// How many of the best classes to show, where an output looks like class scores; 0 = none
    /// [default: 5 where class names are known]
    #[arg(long, value_name = "N")]
    pub top: Option<usize>,
    /// Run so often, and show how long it took
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    pub count: u32,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    /// How pictures become tensors.
    #[command(flatten)]
    pub images: ImageOptions,
    /// Which daemon.
    #[command(flatten)]
    pub daemon: DaemonArgs,
}

/// `ls`.
#[derive(Debug, Args)]
pub struct LsArgs {
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    /// Which daemon.
    #[command(flatten)]
    pub daemon: DaemonArgs,
}

/// `inspect`.
#[derive(Debug, Args)]
pub struct InspectArgs {
    /// Name of the model
    pub model: String,
    /// Which version of it [default: the current one]
    #[arg(long, value_name = "N")]
    pub model_version: Option<u64>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    /// Which daemon.
    #[command(flatten)]
    pub daemon: DaemonArgs,
}

/// `check`.
#[derive(Debug, Args)]
#[command(after_help = "\
What is checked is told from the path: *.toml is a settings file, *.pbtxt a model configuration, another \
file a model (it is loaded in a child process under limits, as the daemon would), a directory one model \
or a repository of models. Each finding is one line, FILE:LINE:COLUMN: error: …

Exit codes: 0 nothing found, 2 the path can't be read, 4 problems found.")]
pub struct CheckArgs {
    /// A settings file, a model file, a config.pbtxt, or a directory of one or many models
    pub path: PathBuf,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// `doctor`.
#[derive(Debug, Args)]
#[command(after_help = "Exit codes: 0 nothing is wrong (warnings allowed), 4 something is.")]
pub struct DoctorArgs {
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    /// Which daemon.
    #[command(flatten)]
    pub daemon: DaemonArgs,
}

/// `demo`.
#[derive(Debug, Args)]
#[command(after_help = "\
Starts a daemon on a unix socket in a private temporary directory, and a second process that knows only \
that socket. Needs no GPU, no root, no download and no settings; leaves nothing behind.")]
pub struct DemoArgs {
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// `demo-client`.
#[derive(Debug, Args)]
pub struct DemoClientArgs {
    /// The daemon of the demo.
    #[arg(long)]
    pub address: Address,
    /// Directory with the images.
    #[arg(long)]
    pub images: PathBuf,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn negative_numbers_are_no_flags() {
        let cli = Cli::try_parse_from(["diolkos", "run", "m", "--scale", "-1..1", "--mean", "-1,2"]).unwrap();
        let Command::Run(run) = cli.command else { panic!("another command") };
        assert_eq!(run.images.mean, [-1.0, 2.0]);
        assert!(Cli::try_parse_from(["diolkos", "run", "m", "--count", "0"]).is_err());
    }
}
