// SPDX-License-Identifier: Apache-2.0
//! A daemon with the built-in operations and `gate`, an `echo` that waits until it is let through.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use diolkos_backend::faulty::{FaultyOperation, Gate, Plan, RunFault};
use diolkos_builtin::Echo;
use diolkos_client::{Client, Memory, Options, TlsFiles, Waiting};
use diolkos_engine::store::NoRehearsal;
use diolkos_engine::{Engine, LocalEndpoint};
use diolkos_server::{Builtin, Daemon, Deps, Settings};
use diolkos_shm::vsock::{self, VsockAddr};
use diolkos_types::TenantId;
use tokio::runtime::Runtime;

use crate::certificates;

pub(crate) struct Fixture {
    pub(crate) gate: Gate,
    pub(crate) socket: PathBuf,
    pub(crate) tcp: String,
    /// An address over vsock, where this kernel has the loopback device.
    pub(crate) vsock: Option<String>,
    /// An address over TLS, on which certificates of [`certificates`] say who it is.
    pub(crate) tls: String,
    daemon: Option<Daemon>,
    runtime: Runtime,
    _dir: Arc<tempfile::TempDir>,
}

impl Fixture {
    pub(crate) fn start(settings: &str) -> Fixture {
        Fixture::start_in(Arc::new(tempfile::tempdir().unwrap()), settings)
    }

    pub(crate) fn start_in(dir: Arc<tempfile::TempDir>, settings: &str) -> Fixture {
        certificates::write(dir.path());
        let socket = dir.path().join("d.sock");
        // Sockets beside the one that there is always.
        let settings = settings.replace("DIR", &dir.path().display().to_string());
        let mut settings = Settings::parse(&settings, Path::new("/test.toml")).unwrap();
        settings.listen.push(format!("unix:{}", socket.display()).parse().unwrap());
        let has_vsock = vsock::listen(VsockAddr { cid: vsock::LOCAL, port: 0 }, 1).is_ok();
        assert!(has_vsock || std::env::var_os("DIOLKOS_TEST_VSOCK").is_none(), "no loopback device");
        if has_vsock {
            let mut listen: diolkos_server::settings::Listen = "vsock:local:0".parse().unwrap();
            // Nothing tells the daemon's own user there.
            listen.tenant = settings.tenants.is_empty().then(|| TenantId::default().name().to_owned());
            settings.listen.push(listen);
        }
        settings.listen.push("tcp:127.0.0.1:0".parse().unwrap());
        settings.listen.push(certificates::listen(dir.path()));
        let gate = Gate::new();
        let held = FaultyOperation::new(Arc::new(Echo::new()), Plan::always(RunFault::Hold(gate.clone())));
        let mut builtins: Vec<Builtin> = diolkos_builtin::operations()
            .into_iter()
            .map(|built_in| Builtin {
                name: built_in.name.into(),
                summary: built_in.summary.into(),
                operation: built_in.operation,
            })
            .collect();
        builtins.push(Builtin { name: "gate".into(), summary: "waits".into(), operation: Arc::new(held) });
        let deps =
            Deps { backends: Vec::new(), builtins, rehearser: Box::new(NoRehearsal), read_settings: None };
        let runtime = diolkos_server::daemon::runtime().unwrap();
        let daemon = runtime.block_on(async {
            let daemon = Daemon::start(settings, deps).await.unwrap();
            daemon.wait_ready().await;
            daemon
        });
        let addresses = daemon.addresses().iter().map(ToString::to_string);
        let vsock = addresses.clone().find(|at| at.starts_with("vsock:"));
        let mut on_tcp = addresses.filter(|at| at.starts_with("tcp:"));
        // Those of the fixture come last.
        let tls = on_tcp.next_back().unwrap().replace("tcp:127.0.0.1", "tls:localhost");
        let tcp = on_tcp.next_back().unwrap();
        Fixture { gate, socket, tcp, vsock, tls, daemon: Some(daemon), runtime, _dir: dir }
    }

    /// Stops the daemon and starts another where it was.
    pub(crate) fn restart(self) -> Fixture {
        self.restart_with("")
    }

    pub(crate) fn restart_with(mut self, settings: &str) -> Fixture {
        self.stop();
        Fixture::start_in(self._dir.clone(), settings)
    }

    /// Stops the daemon while the gate holds whoever is there.
    pub(crate) fn stop_without_opening(&mut self) {
        if let Some(daemon) = self.daemon.take() {
            self.runtime.block_on(daemon.shutdown());
        }
    }

    pub(crate) fn stop(&mut self) {
        if let Some(daemon) = self.daemon.take() {
            self.gate.open();
            self.runtime.block_on(daemon.shutdown());
        }
    }

    pub(crate) fn engine(&self) -> &Engine {
        self.daemon.as_ref().unwrap().engine()
    }

    pub(crate) fn unix(&self) -> String {
        format!("unix:{}", self.socket.display())
    }

    pub(crate) fn client(&self) -> Client {
        Client::connect(&self.unix()).unwrap()
    }

    /// The daemon's engine, as a program in its process would use it.
    pub(crate) fn endpoint(&self) -> LocalEndpoint {
        self.engine().endpoint(&TenantId::default()).unwrap()
    }

    /// Trusts the fixture's daemon over TLS, and shows nothing.
    pub(crate) fn trusting(&self) -> TlsFiles {
        TlsFiles { ca: Some(self.dir().join("ca.pem")), ..TlsFiles::default() }
    }

    pub(crate) fn dir(&self) -> &Path {
        self._dir.path()
    }

    /// A client for every way that there is.
    pub(crate) fn clients(&self) -> Vec<(&'static str, Client)> {
        let with = |address: &str, options| Client::connect_with(address, options).unwrap();
        let waiting = |waiting| Options { waiting, ..Options::default() };
        let private = || Options { memory: Memory::Private, ..Options::default() };
        // An endpoint has no queue before that of the channel.
        let wide = Options { in_flight: 512, ..Options::default() };
        let over_vsock = self.vsock.as_ref().map(|at| ("stream over vsock", with(at, private())));
        let clients = [
            ("adaptive", with(&self.unix(), waiting(Waiting::Adaptive))),
            ("blocking", with(&self.unix(), waiting(Waiting::Blocking))),
            ("polling", with(&self.unix(), waiting(Waiting::Polling))),
            ("stream over unix", with(&self.unix(), private())),
            ("stream over tcp", with(&self.tcp, private())),
            ("stream over tls", with(&self.tls, Options { tls: self.trusting(), ..private() })),
            ("in process", Client::local(self.endpoint())),
            // A client of an endpoint that is a client of the daemon.
            ("in process, and on to a daemon", Client::local(with(&self.unix(), wide).endpoint())),
        ];
        clients.into_iter().chain(over_vsock).collect()
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Waits for something that another thread brings about, and fails if it does not come.
pub(crate) fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let until = std::time::Instant::now() + std::time::Duration::from_secs(30);
    while !holds() {
        assert!(std::time::Instant::now() < until, "{what} did not come about");
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
}
