// SPDX-License-Identifier: Apache-2.0
//! Settings: one struct tree, read from TOML. Unknown keys are errors, and every key has a default.
//!
//! `docs/settings.md` lists every key; a test compares it with these structs. Which keys take effect on
//! SIGHUP is in [`reload`].

mod listen;
mod parse;
mod pools;
pub mod reload;
mod suggest;
mod tenant_text;
mod tenants;
mod tls;
mod units;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use diolkos_engine::FloorShares;
use diolkos_engine::limits as engine_limits;
use serde::{Deserialize, Serialize};

pub use listen::Listen;
pub use parse::{Diagnostic, SettingsError};
pub use pools::{Cpus, PolicyName, PoolSettings};
pub(crate) use tenant_text::{tenants_from_toml, tenants_to_toml};
pub use tenants::{ClassName, LeaseKind, LeaseSettings, TenantSettings};
pub use tls::TlsFiles;
pub use units::{Interval, LogFormat, LogLevel, Mode, RequestRate, Size, UnitError};

/// Everything an operator can set.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Where to listen: `unix:PATH` or `tcp:HOST:PORT` (on loopback), or tables of `address` and what holds there. Empty:
    /// the default socket, `$XDG_RUNTIME_DIR/diolkos/diolkos.sock`.
    pub listen: Vec<Listen>,
    /// Permissions of the unix sockets, octal. Default `"0600"`.
    pub socket_mode: Mode,
    /// How long a client process's session outlives its last connection. Default `"5s"`.
    pub linger: Interval,
    /// The tenant that peers are whom no other one claims. Default: none, so that they are refused.
    pub anonymous: Option<String>,
    /// Who may connect, and what they may have. Default: one, named `default`, who may have everything and is the user that
    /// the daemon runs as.
    pub tenants: BTreeMap<String, TenantSettings>,
    /// File that keeps tenants over a restart which were added while the daemon ran. Default: none, so that they are gone
    /// then.
    pub tenants_file: Option<PathBuf>,
    /// Models: where they are and what they may use.
    pub models: Models,
    /// Bounds of connections and requests.
    pub limits: Limits,
    /// Which jobs run, and how many at once.
    pub engine: EngineSettings,
    /// The native channel.
    pub channel: Channel,
    /// The extension `system_shared_memory` of REST and gRPC.
    pub shared_memory: SharedMemory,
    /// Log lines.
    pub log: Log,
    /// Who did what, and who was refused what.
    pub audit: AuditSettings,
    /// How the daemon stops.
    pub shutdown: Shutdown,
}

/// Models: where they are and what they may use.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Models {
    /// Directories laid out as `<model>/<version>/model.onnx`. Default none.
    pub repositories: Vec<PathBuf>,
    /// Single model files or model directories, each named after itself. Default none.
    pub files: Vec<PathBuf>,
    /// Memory that all loaded models together may keep; the least recently used is unloaded for a new
    /// one. Default `"4GiB"`.
    pub memory_max: Size,
    /// Size that the files of one version of a model may have together. Default `"4GiB"`.
    pub file_bytes_max: Size,
    /// Load a model when it is first asked for rather than at start. Default `false`.
    pub lazy: bool,
    /// How often to look for changed model files; `"0s"` = only on SIGHUP. Default `"0s"`.
    pub watch_interval: Interval,
    /// Let clients load and unload models. Default `false`.
    pub client_load: bool,
    /// Longest length of a dimension that a model leaves open, in elements. Default 1048576.
    pub variable_dim_max: u64,
    /// Directory for models that clients send. Default: none, so that they can't.
    pub store_dir: Option<PathBuf>,
    /// Disk space that `store_dir` may use. Default `"16GiB"`.
    pub store_quota: Size,
    /// Memory of the child process that rehearses a load. Default `"4GiB"`.
    pub rehearsal_memory_max: Size,
    /// CPU time of that child. Default `"60s"`.
    pub rehearsal_cpu: Interval,
    /// Wall-clock time of that child. Default `"120s"`.
    pub rehearsal_timeout: Interval,
}

/// Bounds of connections and requests.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Connections on all addresses together. Past it, the longest idle one makes room. Default 4096.
    pub connections_max: usize,
    /// Largest body of a request, after decompression. Default `"64MiB"`.
    pub body_bytes_max: Size,
    /// Time for a request's header to arrive once it began. Default `"10s"`.
    pub header_timeout: Interval,
    /// Time that a connection may be without a request. Default `"120s"`.
    pub idle_timeout: Interval,
    /// Time in which the next 64 KiB of a body (or its end) must arrive, and in which a client must take
    /// the next part of a reply. Default `"20s"`.
    pub body_timeout: Interval,
    /// Memory that one request's tensors may need. Default `"1GiB"`.
    pub request_memory_max: Size,
    /// Memory that the tensors of all requests in flight may need; bodies that are being received or
    /// sent may need as much again. Default `"4GiB"`.
    pub requests_memory_max: Size,
}

/// Which jobs run, and how many at once.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EngineSettings {
    /// Jobs that run at once, each on a thread of its own; 0 = one for each core. Default 0.
    pub slots: usize,
    /// What jobs of class `standard` get although more urgent ones wait: percent of the device time that others are served.
    /// Default 10.
    pub standard_floor: u16,
    /// The same for class `batch`. Default 5.
    pub batch_floor: u16,
    /// Requests for the same model that wait share a run, where that was measured to be faster. Default `true`.
    pub batching: bool,
    /// Slots that some leases have for themselves. Default: one pool, `default`.
    pub pools: BTreeMap<String, PoolSettings>,
}

/// The native channel.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Channel {
    /// How long the daemon looks into a client's ring before it sleeps; less where others want the core, and
    /// `"0us"` = it sleeps at once. Default `"60us"`.
    pub spin: Interval,
}

/// The extension `system_shared_memory` of REST and gRPC.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SharedMemory {
    /// Where the shared memory lies that clients register: a tmpfs. `""` = the extension is off. Default
    /// `"/dev/shm"`.
    pub directory: PathBuf,
    /// Size that all regions of one user of a tenant may have together, as they were registered. Default `"4GiB"`.
    pub bytes_max: Size,
}

/// Log lines.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Log {
    /// `"error"`, `"warn"`, `"info"`, `"debug"` or `"trace"`. Default `"info"`.
    pub level: LogLevel,
    /// `"text"` or `"json"`. Default `"text"`.
    pub format: LogFormat,
}

/// Who did what, and who was refused what.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AuditSettings {
    /// File that lines of JSON are appended to. Default: none, so that they are among the log lines.
    pub file: Option<PathBuf>,
}

/// How the daemon stops.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Shutdown {
    /// Time that requests in flight get to end after SIGTERM or SIGINT. Default `"30s"`.
    pub drain_timeout: Interval,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            listen: Vec::new(),
            socket_mode: Mode::OWNER_ONLY,
            linger: Interval::seconds(5),
            anonymous: None,
            tenants: BTreeMap::new(),
            tenants_file: None,
            models: Models::default(),
            limits: Limits::default(),
            engine: EngineSettings::default(),
            channel: Channel::default(),
            shared_memory: SharedMemory::default(),
            log: Log::default(),
            audit: AuditSettings::default(),
            shutdown: Shutdown::default(),
        }
    }
}

impl Default for Models {
    fn default() -> Models {
        Models {
            repositories: Vec::new(),
            files: Vec::new(),
            memory_max: Size::gibibytes(4),
            file_bytes_max: Size::gibibytes(4),
            lazy: false,
            watch_interval: Interval::seconds(0),
            client_load: false,
            variable_dim_max: 1 << 20,
            store_dir: None,
            store_quota: Size::gibibytes(16),
            rehearsal_memory_max: Size::gibibytes(4),
            rehearsal_cpu: Interval::seconds(60),
            rehearsal_timeout: Interval::seconds(120),
        }
    }
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            connections_max: 4096,
            body_bytes_max: Size::new(64 << 20),
            header_timeout: Interval::seconds(10),
            idle_timeout: Interval::seconds(120),
            body_timeout: Interval::seconds(20),
            request_memory_max: Size::new(engine_limits::ONE_REQUEST_MEMORY_MAX),
            requests_memory_max: Size::new(engine_limits::REQUEST_MEMORY_MAX),
        }
    }
}

impl Default for EngineSettings {
    fn default() -> EngineSettings {
        EngineSettings {
            slots: 0,
            standard_floor: 10,
            batch_floor: 5,
            batching: true,
            pools: BTreeMap::new(),
        }
    }
}

impl Default for Channel {
    fn default() -> Channel {
        Channel { spin: Interval::micros(60) }
    }
}

impl Default for SharedMemory {
    fn default() -> SharedMemory {
        SharedMemory { directory: "/dev/shm".into(), bytes_max: Size::gibibytes(4) }
    }
}

impl Default for Shutdown {
    fn default() -> Shutdown {
        Shutdown { drain_timeout: Interval::seconds(30) }
    }
}

impl Settings {
    /// Reads a file. Relative paths in it are relative to the directory it lies in.
    pub fn load(path: &Path) -> Result<Settings, SettingsError> {
        let text = parse::read(path)?;
        Settings::parse(&text, path)
    }

    /// Reads settings from text; `origin` is the file name in errors and the base of relative paths.
    pub fn parse(text: &str, origin: &Path) -> Result<Settings, SettingsError> {
        let mut settings = parse::parse(text, origin)?;
        settings.resolve_in(origin);
        Ok(settings)
    }

    /// [`Settings::load`], and looks whether the paths that it names are there. Starts nothing.
    pub fn check(path: &Path) -> Result<Settings, SettingsError> {
        let text = parse::read(path)?;
        let settings = Settings::parse(&text, path)?;
        parse::check_paths(&settings, &text, path)?;
        Ok(settings)
    }

    /// Slots of the device, with 0 replaced by the number of cores.
    #[must_use]
    pub fn slots(&self) -> usize {
        match self.engine.slots {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            slots => slots,
        }
    }

    /// What the less urgent classes get whatever the others want.
    #[must_use]
    pub fn floors(&self) -> FloorShares {
        // Percent here, thousandths there.
        FloorShares { standard: self.engine.standard_floor * 10, batch: self.engine.batch_floor * 10 }
    }

    /// What is wrong with values that the types allow, a sentence each.
    #[must_use]
    pub fn broken_rules(&self) -> Vec<String> {
        parse::broken_rules(self).into_iter().map(|(_, message)| message).collect()
    }

    /// Leases that name a pool which is not there, a sentence each.
    pub(crate) fn leases_without_pool(&self) -> Vec<String> {
        let mut broken = Vec::new();
        pools::broken_leases(self, |_, message| broken.push(message));
        broken
    }

    /// Paths that are relative lie beside this file.
    fn resolve_in(&mut self, origin: &Path) {
        let base = origin.parent().unwrap_or(Path::new(""));
        let paths = self
            .models
            .repositories
            .iter_mut()
            .chain(&mut self.models.files)
            .chain(&mut self.models.store_dir)
            .chain(&mut self.audit.file)
            .chain(&mut self.tenants_file);
        // Empty says something else than the directory of the settings.
        let memory = Some(&mut self.shared_memory.directory).filter(|path| !path.as_os_str().is_empty());
        for path in paths.chain(memory) {
            // Joining an absolute path gives just that path.
            *path = base.join(&*path);
        }
        for listen in &mut self.listen {
            listen.address.resolve(base);
            if let Some(tls) = &mut listen.tls {
                tls.resolve(base);
            }
        }
        for socket in self.tenants.values_mut().flat_map(|tenant| &mut tenant.sockets) {
            socket.resolve(base);
        }
    }
}
