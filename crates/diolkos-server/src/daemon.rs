// SPDX-License-Identifier: Apache-2.0
//! The daemon: start, serve, reload, drain.
//!
//! ```text
//! start ──> listening, models load in the background ──all tried──> ready
//!                        SIGHUP: settings, then a rescan, aside ─────┘│
//! SIGTERM, SIGINT ──> not ready, nothing accepted ──in flight ends, or drain_timeout──> connections cut ──> end
//!        a second one ──> end at once
//! ```
//!
//! Listening comes first, so that a client that starts together with the daemon waits for its model
//! rather than failing to connect.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use diolkos_backend::{Backend, LoadOptions, Operation};
use diolkos_engine::store::{Rehearser, Store, StoreConfig, StoreError};
use diolkos_engine::{DeviceConfig, Engine, EngineConfig, PoolSnapshot, StartError, Strangers};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::app::{App, Phase};
use crate::audit::{Audit, AuditError};
use crate::identity::Directory;
use crate::listen::{self, BoundAddress, ListenError, Listener, Rim, Stop};
use crate::loading::Loading;
use crate::reloading::Reloading;
use crate::settings::{Settings, SettingsError};
use crate::tenancy::{self, ChangeError, Keeper, Kept};
use crate::{grpc, limits, rest, systemd};

/// A built-in operation.
pub struct Builtin {
    /// The name it is found by.
    pub name: String,
    /// What it does, in a sentence.
    pub summary: String,
    /// What runs.
    pub operation: Arc<dyn Operation>,
}

impl fmt::Debug for Builtin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Builtin({})", self.name)
    }
}

/// Reads the settings again, with whatever the command line adds to them.
pub type ReadSettings = Box<dyn Fn() -> Result<Settings, SettingsError> + Send + Sync>;

/// What the executable gives the daemon, which itself names no backend.
pub struct Deps {
    /// Loaders of models.
    pub backends: Vec<Arc<dyn Backend>>,
    /// Operations that need no model.
    pub builtins: Vec<Builtin>,
    /// Tries each load in a child process first.
    pub rehearser: Box<dyn Rehearser>,
    /// Called on SIGHUP; `None`: the settings stay, and only models are looked at again.
    pub read_settings: Option<ReadSettings>,
}

impl fmt::Debug for Deps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let backends: Vec<_> = self.backends.iter().map(|backend| backend.name()).collect();
        f.debug_struct("Deps")
            .field("backends", &backends)
            .field("builtins", &self.builtins)
            .finish_non_exhaustive()
    }
}

/// Why the daemon did not start, or did not end well.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    /// An address.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// The model store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The engine.
    #[error(transparent)]
    Engine(#[from] StartError),
    /// The audit log.
    #[error(transparent)]
    Audit(#[from] AuditError),
    /// Tenants that were added before, and their sockets.
    #[error(transparent)]
    Tenants(#[from] ChangeError),
    /// The async runtime, or its signal handlers.
    #[error("the operating system refused {what}")]
    System {
        /// What was asked for.
        what: &'static str,
        /// What it said.
        source: io::Error,
    },
    /// Somebody did not want to wait for requests in flight.
    #[error("stopped at once by a second signal; {jobs} jobs were not finished")]
    SecondSignal {
        /// Jobs that waited or ran.
        jobs: usize,
    },
}

/// The runtime that [`Daemon::start`] wants to be called in: few threads, because the rim only decodes and
/// copies. Models run on the engine's threads.
pub fn runtime() -> Result<tokio::runtime::Runtime, DaemonError> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(cores.min(limits::RIM_THREADS_MAX))
        .thread_name("dk-rim")
        .event_interval(limits::TURNS_PER_LOOK)
        .enable_all()
        .build()
        .map_err(|source| DaemonError::System { what: "the threads of the rim", source })
}

/// A daemon that serves.
pub struct Daemon {
    app: Arc<App>,
    rim: Rim,
    addresses: Vec<BoundAddress>,
    accepting: JoinSet<()>,
    stop: watch::Sender<Stop>,
    loading: Loading,
    reloading: Reloading,
}

impl fmt::Debug for Daemon {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Daemon")
            .field("app", &self.app)
            .field("addresses", &self.addresses)
            .finish_non_exhaustive()
    }
}

impl Daemon {
    /// Listens, and begins to load models. Must be called within a tokio runtime; see [`runtime`].
    pub async fn start(settings: Settings, deps: Deps) -> Result<Daemon, DaemonError> {
        listen::open_files::raise(settings.limits.connections_max);
        if !diolkos_shm::presence::can_tell() {
            tracing::warn!(
                "this system does not tell whether native clients' shared memory has holes, so their pages may be made, and count \
                 to the daemon: that takes userfaultfd, which container engines can allow, and Linux 5.14"
            );
        }
        let kept = Kept::read(settings, rustix::process::geteuid().as_raw())?;
        let settings = kept.merged().clone();
        let listeners = listen_on(&settings)?;
        let prepared = kept.prepare()?;
        let Deps { backends, builtins, rehearser, read_settings } = deps;
        let store = open_store(&settings, backends, builtins, rehearser)?;
        let engine = Engine::start(&engine_config(&settings), store)?;
        tell_pools(&engine);
        let audit = Audit::open(settings.audit.file.as_deref())?;
        let app = Arc::new(App::new(engine, settings, audit));
        let (stop, stopping) = watch::channel(Stop::No);
        let grpc = grpc::routes(app.clone(), stopping.clone());
        let rim = Rim::new(app.clone(), rest::router(app.clone()), grpc, stopping.clone());
        let mut addresses: Vec<BoundAddress> =
            listeners.iter().map(|listener| listener.bound().clone()).collect();
        addresses.extend(tenancy::addresses(&prepared));
        let certificates = listeners.iter().filter_map(Listener::tls).cloned().collect();
        let mut accepting = JoinSet::new();
        for listener in listeners {
            tracing::info!(address = %listener.bound(), "listening");
            accepting.spawn(rim.clone().accept_until_stopped(listener));
        }
        let keeper = Keeper::new(&app, &rim, kept, prepared);
        accepting.spawn(keeper.run(listen::draining(stopping)));
        let loading = Loading::start(&app);
        let reloading = Reloading::new(&app, certificates, read_settings);
        Ok(Daemon { app, rim, addresses, accepting, stop, loading, reloading })
    }

    /// Where it listens.
    #[must_use]
    pub fn addresses(&self) -> &[BoundAddress] {
        &self.addresses
    }

    /// Whether every model named at start was loaded, or failed to be.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.app.is_ready()
    }

    /// Returns once [`Daemon::is_ready`], or once the daemon stops.
    pub async fn wait_ready(&self) {
        self.loading.tried().await;
    }

    /// Settings in force now.
    #[must_use]
    pub fn settings(&self) -> Arc<Settings> {
        self.app.settings()
    }

    /// The engine, for in-process callers.
    #[must_use]
    pub fn engine(&self) -> &Engine {
        &self.app.engine
    }

    /// Serves until SIGTERM or SIGINT, then drains. SIGHUP reloads.
    pub async fn run_until_signal(mut self) -> Result<(), DaemonError> {
        let fail = |source| DaemonError::System { what: "signal handlers", source };
        let mut end = EndSignals::new().map_err(fail)?;
        let mut hangup = signal(SignalKind::hangup()).map_err(fail)?;
        let ready = self.loading.tried();
        let life_signs = tokio::spawn(async move {
            if ready.await {
                systemd::ready();
            }
            life_signs().await;
        });
        loop {
            tokio::select! {
                name = end.next() => {
                    tracing::info!(signal = name, "draining");
                    break;
                }
                _ = hangup.recv() => {
                    systemd::reloading();
                    self.reloading.ask();
                }
                () = self.reloading.ended() => systemd::ready(),
            }
        }
        systemd::stopping();
        let app = self.app.clone();
        let result = tokio::select! {
            () = self.shutdown() => Ok(()),
            name = end.next() => {
                tracing::warn!(signal = name, "stopping at once");
                let jobs = app.engine.jobs();
                // Dropping the engine waits for what runs, and nobody wants to wait.
                std::mem::forget(app);
                Err(DaemonError::SecondSignal { jobs })
            }
        };
        life_signs.abort();
        result
    }

    /// Reads the settings again and looks at the models again, as SIGHUP does. A bad file changes nothing.
    pub async fn reload(&self) {
        self.reloading.once().await;
    }

    /// Stops: nothing more is accepted, what is in flight ends within the drain timeout, connections that
    /// are left are cut.
    pub async fn shutdown(self) {
        let Daemon { app, rim, mut accepting, stop, loading, reloading, .. } = self;
        let until = Instant::now() + app.settings().shutdown.drain_timeout.get();
        app.advance(Phase::Draining);
        loading.stop();
        drop(reloading);
        stop.send_replace(Stop::Drain);
        // Listeners close here, and socket files go.
        while accepting.join_next().await.is_some() {}
        let drained = tokio::time::timeout_at(until, rim.table().wait_empty()).await.is_ok();
        if !drained {
            tracing::warn!(connections = rim.table().len(), "the drain timeout passed; connections are cut");
        }
        // Later than the connections: a request whose body was just arriving was to be served, too.
        app.engine.begin_drain();
        stop.send_replace(Stop::Cut);
        // If this passes as well, the runtime's end takes them down.
        let _ = tokio::time::timeout(limits::CLOSE_TIMEOUT, rim.table().wait_empty()).await;
        drop(rim);
        end_engine(app, until.saturating_duration_since(Instant::now())).await;
    }
}

fn listen_on(settings: &Settings) -> Result<Vec<Listener>, DaemonError> {
    let passed = systemd::passed_sockets()
        .map_err(|source| DaemonError::System { what: "the sockets of the service manager", source })?;
    let mut listeners = Vec::new();
    for (index, socket) in passed.into_iter().enumerate() {
        listeners.push(Listener::passed(index, socket)?);
    }
    let mut addresses = settings.listen.clone();
    if addresses.is_empty() && listeners.is_empty() {
        addresses.push(listen::prepare_default().map_err(ListenError::from)?.into());
    }
    for address in &addresses {
        listeners.extend(Listener::bind(address, settings.socket_mode.get())?);
    }
    let directory = Directory::new(settings, rustix::process::geteuid().as_raw());
    for listener in &listeners {
        let (serves, known_by) = match listener.bound() {
            BoundAddress::Unix(_) => continue,
            BoundAddress::Tcp(_) => {
                let takes_certificates = listener.tls().is_some_and(|tls| tls.takes_certificates());
                let serves = directory.serves_tcp(listener.is_open_to_others(), takes_certificates);
                (serves, "tokens or certificates")
            }
            BoundAddress::Vsock(_) => (directory.serves_vsock(), "CIDs"),
        };
        if listener.tenant().is_none() && !serves {
            tracing::warn!(address = %listener.bound(), "nobody can be served here: name a tenant's {known_by}, a tenant of the \
                address, or `anonymous` in the settings");
        }
    }
    Ok(listeners)
}

/// Where there are several pools, says what became of the settings.
fn tell_pools(engine: &Engine) {
    for device in engine.devices().iter().filter(|device| device.pools.len() > 1) {
        for PoolSnapshot { name, policy, slots, cpus, .. } in &device.pools {
            let cpus = cpus.as_ref().map_or("all".to_owned(), ToString::to_string);
            tracing::info!(pool = name, slots, policy = policy.name(), cpus, "pool of slots");
        }
    }
}

fn engine_config(settings: &Settings) -> EngineConfig {
    EngineConfig {
        requests_memory_max: settings.limits.requests_memory_max.get(),
        request_memory_max: settings.limits.request_memory_max.get(),
        strangers: Strangers::Refused,
        batching: settings.engine.batching,
        devices: vec![DeviceConfig {
            floors: settings.floors(),
            pools: settings.pools(),
            ..DeviceConfig::cpu(1)
        }],
    }
}

/// The store with everything that is known by name; nothing is loaded yet.
fn open_store(
    settings: &Settings,
    backends: Vec<Arc<dyn Backend>>,
    builtins: Vec<Builtin>,
    rehearser: Box<dyn Rehearser>,
) -> Result<Store, DaemonError> {
    let models = &settings.models;
    let config = StoreConfig {
        memory_max: models.memory_max.get(),
        blob_dir: models.store_dir.clone(),
        blob_quota: models.store_quota.get(),
        lazy: models.lazy,
        client_load: models.client_load,
        load: LoadOptions {
            variable_dim_max: models.variable_dim_max,
            resident_bytes_max: models.memory_max.get(),
        },
        file_bytes_max: models.file_bytes_max.get(),
    };
    let store = Store::new(config, backends, rehearser)?;
    for Builtin { name, summary, operation } in builtins {
        store.add_builtin(&name, &summary, operation)?;
    }
    for file in &models.files {
        store.add_file(file)?;
    }
    for dir in &models.repositories {
        let report = store.add_repository(dir)?;
        for (path, error) in &report.errors {
            tracing::error!(path = %path.display(), %error, "not a model that can be served");
        }
        for note in &report.notes {
            tracing::warn!(repository = %dir.display(), "{note}");
        }
    }
    Ok(store)
}

/// Waits for the engine's threads, but not for ever: an operation that never returns must not keep the
/// daemon from ending, and a model that is just being rehearsed is of no use to anybody any more. Its child
/// process ends with this one.
async fn end_engine(app: Arc<App>, left: Duration) {
    let (idled, idle) = oneshot::channel();
    let (ended, end) = oneshot::channel();
    // A thread of its own, because the runtime would wait for one of its blocking threads at its end.
    let waiter = std::thread::Builder::new().name("dk-end".into()).spawn(move || {
        let jobs = app.engine.wait_idle(left);
        // Nobody listens, here and below, if it took too long.
        let _ = idled.send(());
        if jobs > 0 {
            tracing::warn!(jobs, "ending with jobs that do not end");
            std::mem::forget(app);
        } else {
            drop(app);
        }
        let _ = ended.send(());
    });
    match waiter {
        Ok(_) => {
            let _ = tokio::time::timeout(left + limits::CLOSE_TIMEOUT, idle).await;
            let _ = tokio::time::timeout(limits::CLOSE_TIMEOUT, end).await;
        }
        Err(error) => tracing::warn!(%error, "no thread to end the engine on"),
    }
}

/// SIGTERM and SIGINT.
struct EndSignals {
    terminate: Signal,
    interrupt: Signal,
}

impl EndSignals {
    fn new() -> io::Result<EndSignals> {
        let terminate = signal(SignalKind::terminate())?;
        Ok(EndSignals { terminate, interrupt: signal(SignalKind::interrupt())? })
    }

    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}

/// Tells the service manager now and then that the runtime still runs, if it wants to know.
async fn life_signs() {
    let Some(interval) = systemd::watchdog_interval() else { return };
    let mut ticks = tokio::time::interval(interval);
    loop {
        ticks.tick().await;
        systemd::watchdog();
    }
}
