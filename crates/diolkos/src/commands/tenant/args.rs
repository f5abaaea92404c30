// SPDX-License-Identifier: Apache-2.0
//! The command line of `tenant` and `lease`, and the JSON it means: keys and units are those of the settings, and it is the
//! daemon that reads them.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use diolkos_server::Settings;
use serde_json::{Map, Value, json};

use crate::cli::DaemonArgs;
use crate::exit::Failure;

/// Name of the lease that `tenant add` makes of its own flags.
const LEASE: &str = "default";

/// `tenant`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  diolkos tenant add web --socket /run/diolkos/web.sock --socket-mode 0666 --model 'mobilenet*' --rate 100/s
  diolkos tenant add batch --cgroup '/machine.slice/batch-*.scope' --model '*' --class batch
  diolkos tenant add web --from web.toml --replace
  diolkos tenant ls
  diolkos tenant rm web

Asks the daemon on its unix socket, as a tenant with `admin = true`; without tenants in the settings, that is \
whoever runs the daemon. Tenants that stand in the settings file are changed there (and SIGHUP sent). \
What is added here is gone when the daemon ends, unless its settings name a `tenants_file`.")]
pub struct TenantArgs {
    /// What to do.
    #[command(subcommand)]
    pub action: TenantAction,
}

/// What to do with tenants.
#[derive(Debug, Subcommand)]
pub enum TenantAction {
    /// List the tenants, and what they have and used
    Ls(List),
    /// Show the settings of a tenant, and what it has and used
    Show(One),
    /// Add a tenant
    Add(Box<TenantAdd>),
    /// Remove a tenant: its sockets go, its connections are cut, what it has in flight is cancelled
    Rm(One),
}

/// `ls`.
#[derive(Debug, Args)]
pub struct List {
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    /// Which daemon.
    #[command(flatten)]
    pub daemon: DaemonArgs,
}

/// One tenant.
#[derive(Debug, Args)]
pub struct One {
    /// The tenant
    pub name: String,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    /// Which daemon.
    #[command(flatten)]
    pub daemon: DaemonArgs,
}

/// `tenant add`.
#[derive(Debug, Args)]
pub struct TenantAdd {
    /// Its name: letters, digits, `.`, `_` and `-`
    pub name: String,
    /// A unix socket of its own, which is made now: whoever connects there is this tenant. May be repeated
    #[arg(long = "socket", value_name = "PATH")]
    pub sockets: Vec<String>,
    /// Permissions of these sockets [default: the daemon's socket_mode]
    #[arg(long, value_name = "MODE")]
    pub socket_mode: Option<String>,
    /// Processes of this user are the tenant. May be repeated
    #[arg(long = "uid", value_name = "UID")]
    pub uids: Vec<u32>,
    /// Processes in this control group are the tenant. May be repeated
    #[arg(long = "cgroup", value_name = "PATTERN")]
    pub cgroups: Vec<String>,
    /// The virtual machine with this context id is the tenant, on vsock. May be repeated
    #[arg(long = "cid", value_name = "CID")]
    pub cids: Vec<u32>,
    /// Whoever shows the token with this hash is the tenant (`diolkos token` makes both). May be repeated
    #[arg(long = "token-hash", value_name = "sha256:…")]
    pub tokens: Vec<String>,
    /// Whoever shows a certificate of this name is the tenant: dns:NAME, uri:URI or sha256:FINGERPRINT. May be repeated
    #[arg(long = "certificate", value_name = "NAME")]
    pub certificates: Vec<String>,
    /// Requests, such as 100/s
    #[arg(long, value_name = "RATE")]
    pub rate: Option<String>,
    /// Requests at once after a pause [default: a second's]
    #[arg(long, value_name = "N")]
    pub burst: Option<u32>,
    /// Bytes of its requests, such as 64MiB/s
    #[arg(long, value_name = "RATE")]
    pub bytes_rate: Option<String>,
    /// Connections
    #[arg(long, value_name = "N")]
    pub connections_max: Option<u64>,
    /// New connections, such as 50/s
    #[arg(long, value_name = "RATE")]
    pub connection_rate: Option<String>,
    /// Sessions
    #[arg(long, value_name = "N")]
    pub sessions_max: Option<u64>,
    /// Memory that its requests in flight may need, such as 256MiB
    #[arg(long, value_name = "SIZE")]
    pub requests_memory_max: Option<String>,
    /// Memory of the regions that it registers over native channels, and of its rings there
    #[arg(long, value_name = "SIZE")]
    pub regions_memory_max: Option<String>,
    /// Memory of the models that are loaded because it asks for them, such as 1GiB
    #[arg(long, value_name = "SIZE")]
    pub models_memory_max: Option<String>,
    /// A request that has not begun by then never does, such as 5s
    #[arg(long, value_name = "TIME")]
    pub deadline_max: Option<String>,
    /// Its requests share runs of a model only with each other
    #[arg(long)]
    pub batch_alone: bool,
    /// It may load and unload installed models
    #[arg(long)]
    pub load: bool,
    /// It may read the metrics
    #[arg(long)]
    pub metrics: bool,
    /// It may look after tenants
    #[arg(long)]
    pub admin: bool,
    /// What it may use; makes a lease named `default`.
    #[command(flatten)]
    pub lease: LeaseOptions,
    /// Take everything from `[tenants.NAME]` in this file instead, which is TOML as in the settings; `-` = standard input
    #[arg(long, value_name = "FILE", conflicts_with_all = ["sockets", "socket_mode", "uids", "cgroups", "cids", "tokens",
        "certificates", "rate", "burst", "bytes_rate", "connections_max", "connection_rate", "sessions_max", "requests_memory_max", "regions_memory_max", "models_memory_max",
        "deadline_max", "batch_alone", "load", "metrics", "admin", "models", "operations", "class", "resource", "pool", "weight", "concurrency_max",
        "queue_max"])]
    pub from: Option<PathBuf>,
    /// Replace the tenant if it is there
    #[arg(long)]
    pub replace: bool,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    /// Which daemon.
    #[command(flatten)]
    pub daemon: DaemonArgs,
}

/// What a lease is of, and its limits.
#[derive(Debug, Args)]
pub struct LeaseOptions {
    /// Models that may be run; * stands for any text and ? for one character. May be repeated
    #[arg(long = "model", value_name = "PATTERN")]
    pub models: Vec<String>,
    /// Built-in operations that may be run, alike. May be repeated
    #[arg(long = "operation", value_name = "PATTERN")]
    pub operations: Vec<String>,
    /// The most urgent class of its jobs: interactive, standard or batch [default: interactive]
    #[arg(long, value_name = "CLASS")]
    pub class: Option<String>,
    /// Which device [default: every device that no other lease of the tenant names]
    #[arg(long, value_name = "DEVICE")]
    pub resource: Option<String>,
    /// Which pool of its slots, of engine.pools in the daemon's settings [default: default]
    #[arg(long, value_name = "POOL")]
    pub pool: Option<String>,
    /// Its part of the device time beside other tenants of the class: twice the weight, twice the time [default: 1]
    #[arg(long, value_name = "N")]
    pub weight: Option<u32>,
    /// Jobs that may run at once
    #[arg(long, value_name = "N")]
    pub concurrency_max: Option<u64>,
    /// Jobs that may wait
    #[arg(long, value_name = "N")]
    pub queue_max: Option<u64>,
}

/// `lease`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  diolkos lease ls
  diolkos lease add web cpu --model 'mobilenet*' --concurrency-max 1
  diolkos lease rm web cpu

Leases of tenants that stand in the settings file are changed there. `diolkos tenant --help` says who may ask.")]
pub struct LeaseArgs {
    /// What to do.
    #[command(subcommand)]
    pub action: LeaseAction,
}

/// What to do with leases.
#[derive(Debug, Subcommand)]
pub enum LeaseAction {
    /// List the leases, of all tenants or of one
    Ls(LeaseList),
    /// Show a lease
    Show(OneLease),
    /// Add a lease to a tenant
    Add(LeaseAdd),
    /// Take a lease from a tenant; requests that are running end
    Rm(OneLease),
}

/// `lease ls`.
#[derive(Debug, Args)]
pub struct LeaseList {
    /// Of this tenant only
    pub tenant: Option<String>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    /// Which daemon.
    #[command(flatten)]
    pub daemon: DaemonArgs,
}

/// One lease.
#[derive(Debug, Args)]
pub struct OneLease {
    /// Whose
    pub tenant: String,
    /// Which
    pub name: String,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    /// Which daemon.
    #[command(flatten)]
    pub daemon: DaemonArgs,
}

/// `lease add`.
#[derive(Debug, Args)]
pub struct LeaseAdd {
    /// Whose
    pub tenant: String,
    /// Its name
    pub name: String,
    /// Of what kind; `compute`, time on a device that computes, is the one there is
    #[arg(long, value_name = "KIND", default_value = "compute")]
    pub kind: String,
    /// What it is of.
    #[command(flatten)]
    pub lease: LeaseOptions,
    /// Replace the lease if it is there
    #[arg(long)]
    pub replace: bool,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    /// Which daemon.
    #[command(flatten)]
    pub daemon: DaemonArgs,
}

impl LeaseOptions {
    fn is_empty(&self) -> bool {
        let LeaseOptions { models, operations, class, resource, pool, weight, concurrency_max, queue_max } =
            self;
        let limits = weight.is_some() || concurrency_max.is_some() || queue_max.is_some();
        models.is_empty()
            && operations.is_empty()
            && class.is_none()
            && resource.is_none()
            && pool.is_none()
            && !limits
    }

    /// As the settings have it.
    pub(super) fn to_json(&self, kind: &str) -> Value {
        let mut lease = Map::from_iter([("kind".to_owned(), kind.into())]);
        let mut say = |key: &str, value: Value| drop(lease.insert(key.to_owned(), value));
        say("models", self.models.clone().into());
        say("operations", self.operations.clone().into());
        self.class.iter().for_each(|class| say("class", class.clone().into()));
        say("resource", self.resource.clone().into());
        say("pool", self.pool.clone().into());
        say("weight", self.weight.into());
        say("concurrency_max", self.concurrency_max.into());
        say("queue_max", self.queue_max.into());
        lease.into()
    }
}

/// The tenant, as the settings have it.
pub(super) fn body_of(add: &TenantAdd) -> Result<Value, Failure> {
    match &add.from {
        Some(file) => from_file(file, &add.name),
        None => of_flags(add),
    }
}

fn of_flags(add: &TenantAdd) -> Result<Value, Failure> {
    let sockets = add.sockets.iter().map(|socket| unix_address(socket)).collect::<Result<Vec<_>, _>>()?;
    let lease = (!add.lease.is_empty()).then(|| add.lease.to_json("compute"));
    let leases = Map::from_iter(lease.map(|lease| (LEASE.to_owned(), lease)));
    Ok(json!({
        "sockets": sockets,
        "socket_mode": add.socket_mode,
        "uids": add.uids,
        "cgroups": add.cgroups,
        "cids": add.cids,
        "tokens": add.tokens,
        "certificates": add.certificates,
        "rate": add.rate,
        "burst": add.burst,
        "bytes_rate": add.bytes_rate,
        "connections_max": add.connections_max,
        "connection_rate": add.connection_rate,
        "sessions_max": add.sessions_max,
        "requests_memory_max": add.requests_memory_max,
        "regions_memory_max": add.regions_memory_max,
        "models_memory_max": add.models_memory_max,
        "deadline_max": add.deadline_max,
        "batch_alone": add.batch_alone,
        "load": add.load,
        "metrics": add.metrics,
        "admin": add.admin,
        "leases": leases,
    }))
}

/// The daemon may have another working directory.
fn unix_address(socket: &str) -> Result<String, Failure> {
    let path = Path::new(socket.strip_prefix("unix:").unwrap_or(socket));
    let path = std::path::absolute(path);
    let path = path.map_err(|error| Failure::usage(format!("--socket {socket}")).because(&error))?;
    Ok(format!("unix:{}", path.display()))
}

fn from_file(file: &Path, name: &str) -> Result<Value, Failure> {
    let unread = |error| {
        let shown = file.display();
        Failure::usage(format!("can't read `{shown}`")).because(&error)
    };
    let text = if file == Path::new("-") {
        let mut text = String::new();
        std::io::stdin().read_to_string(&mut text).map_err(unread)?;
        text
    } else {
        std::fs::read_to_string(file).map_err(unread)?
    };
    let origin = std::path::absolute(file).map_err(unread)?;
    let settings = Settings::parse(&text, &origin).map_err(|error| {
        let failure = Failure::usage("the tenant is wrong");
        error.diagnostics.iter().fold(failure, |failure, diagnostic| failure.note(diagnostic.to_string()))
    })?;
    let Some(tenant) = settings.tenants.get(name) else {
        return Err(Failure::usage(format!("there is no [tenants.{name}] in `{}`", file.display())));
    };
    Ok(serde_json::to_value(tenant).expect("settings are plain data with text keys"))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        add: TenantAdd,
    }

    fn body(args: &[&str]) -> Result<Value, Failure> {
        body_of(&Cli::try_parse_from(["add", "web"].iter().chain(args)).unwrap().add)
    }

    #[test]
    fn flags_are_the_keys_of_the_settings() {
        let told =
            body(&["--socket", "/run/w.sock", "--uid", "7", "--cid", "3", "--model", "m*", "--rate", "9/s"])
                .unwrap();
        assert_eq!(told["sockets"], json!(["unix:/run/w.sock"]));
        assert_eq!(
            (&told["uids"], &told["cids"], &told["rate"], &told["burst"]),
            (&json!([7]), &json!([3]), &json!("9/s"), &Value::Null)
        );
        let lease = &told["leases"]["default"];
        assert_eq!((&lease["kind"], &lease["models"]), (&json!("compute"), &json!(["m*"])));
        assert!(lease.get("class").is_none(), "the default is the daemon's");
        assert_eq!(body(&[]).unwrap()["leases"], json!({}));
    }

    #[test]
    fn a_file_says_everything_or_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("t.toml");
        std::fs::write(&file, "[tenants.web]\nsockets = [\"unix:w.sock\"]\n[tenants.b]\n").unwrap();
        let file = file.to_str().unwrap();
        let told = body(&["--from", file]).unwrap();
        assert_eq!(told["sockets"][0], format!("unix:{}/w.sock", dir.path().display()));
        assert!(Cli::try_parse_from(["add", "web", "--from", file, "--uid", "3"]).is_err());
        std::fs::write(file, "[tenants.b]\n").unwrap();
        assert!(body(&["--from", file]).is_err());
        std::fs::write(file, "[tenants.web]\nrat = 1\n").unwrap();
        let text = body(&["--from", file]).unwrap_err().render(crate::term::Paint::PLAIN);
        assert!(text.contains("t.toml:2:1: unknown key"), "{text}");
    }
}
