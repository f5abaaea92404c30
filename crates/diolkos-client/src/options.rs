// SPDX-License-Identifier: Apache-2.0
//! How a client connects and waits.

use std::path::PathBuf;
use std::time::Duration;

pub use diolkos_wire::Token;

use diolkos_shm::region::Pages;
use diolkos_shm::spin::{ANSWER_LOOK_MAX, Spin};

/// How a client waits for an answer in its ring.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Waiting {
    /// Looks for a while if answers have been coming quickly and nobody else wants the core, then sleeps. If they come
    /// late but at their usual time, sleeps first, and looks from shortly before that time on.
    #[default]
    Adaptive,
    /// Sleeps at once: least processor time, and about a wake-up more of latency.
    Blocking,
    /// Looks until the answer is there: a core for itself, and the least latency.
    Polling,
}

impl Waiting {
    pub(crate) fn spin(self) -> Spin {
        match self {
            Waiting::Adaptive => Spin::new(ANSWER_LOOK_MAX),
            Waiting::Blocking | Waiting::Polling => Spin::new(Duration::ZERO),
        }
    }
}

/// Where tensors lie.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Memory {
    /// In memory that the daemon shares, where the socket allows that; otherwise as with `Private`.
    #[default]
    Shared,
    /// In this process's own, from which they are sent over the stream.
    Private,
}

/// How a client connects. All of it has a default.
#[derive(Clone, Debug)]
pub struct Options {
    /// How it waits. Default: adaptive.
    pub waiting: Waiting,
    /// Where tensors lie. Default: shared.
    pub memory: Memory,
    /// Requests that may be under way at once; a power of two, at most 512. Default 64.
    pub in_flight: u32,
    /// Size of the first region in bytes, whose pages are made at once; further ones are made as they are needed, each as
    /// large as all before it, but of 64 MiB at most or as large as its tensor. Default 1 MiB.
    pub region_bytes: usize,
    /// How long connecting may take, until the daemon has said what it grants. Default 5 s.
    pub connect: Duration,
    /// How long to try to connect again when the connection is lost, before requests fail. Zero: not at all.
    /// Default 5 s.
    pub reconnect: Duration,
    /// Name of this client in the daemon's log. Default: the executable's.
    pub name: String,
    /// Says who this is where the transport does not: over TCP. Default: what the environment variable `DIOLKOS_TOKEN`
    /// says, if it is there.
    pub token: Token,
    /// The tenant that this client speaks for, if it is a bridge (`tenants.NAME.acts_for` in the daemon's settings); empty
    /// for itself. Default: what the environment variable `DIOLKOS_TENANT` says, if it is there.
    pub tenant: String,
    /// The kernel may put the pages of shared memory together into huge ones, where
    /// `/sys/kernel/mm/transparent_hugepage/shmem_enabled` says `advise`. Default: yes.
    pub huge_pages: bool,
    /// Files for `tls:` addresses. Default: [`TlsFiles::from_env`].
    pub tls: TlsFiles,
}

/// What a client trusts and shows over TLS: files in PEM.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsFiles {
    /// Roots that the daemon's certificate must lead to. `None`: those that the system trusts.
    pub ca: Option<PathBuf>,
    /// The certificate that is shown to the daemon. `None`: none.
    pub certificate: Option<PathBuf>,
    /// Its private key. `None`: it is in the file of the certificate.
    pub key: Option<PathBuf>,
}

impl TlsFiles {
    /// What the environment variables `DIOLKOS_CA`, `DIOLKOS_CERTIFICATE` and `DIOLKOS_KEY` say.
    #[must_use]
    pub fn from_env() -> TlsFiles {
        let file = |name: &str| std::env::var_os(name).filter(|path| !path.is_empty()).map(PathBuf::from);
        TlsFiles {
            ca: file("DIOLKOS_CA"),
            certificate: file("DIOLKOS_CERTIFICATE"),
            key: file("DIOLKOS_KEY"),
        }
    }
}

impl Options {
    pub(crate) fn pages(&self) -> Pages {
        if self.huge_pages { Pages::Transparent } else { Pages::Ordinary }
    }
}

impl Default for Options {
    fn default() -> Options {
        let program = std::env::args_os().next().unwrap_or_default();
        let name = std::path::Path::new(&program).file_name().map(|name| name.to_string_lossy().into_owned());
        Options {
            waiting: Waiting::default(),
            memory: Memory::default(),
            in_flight: 64,
            region_bytes: 1 << 20,
            connect: Duration::from_secs(5),
            reconnect: Duration::from_secs(5),
            name: name.unwrap_or_else(|| "client".into()),
            token: Token(std::env::var("DIOLKOS_TOKEN").unwrap_or_default().into_bytes().into()),
            tenant: std::env::var("DIOLKOS_TENANT").unwrap_or_default(),
            huge_pages: true,
            tls: TlsFiles::from_env(),
        }
    }
}
