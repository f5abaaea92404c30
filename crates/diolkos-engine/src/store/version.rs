// SPDX-License-Identifier: Apache-2.0
//! A loaded version, and what is said where there is none: [`BindError`] to a request, [`IndexRow`] to people.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use diolkos_backend::Operation;
use diolkos_types::{Digest, Signature};

use super::config::ModelConfig;
use super::rehearse::Verdict;
use crate::account::VersionStats;
use crate::batch::Together;

/// When something was used last.
#[derive(Debug, Default)]
pub struct Usage {
    last_ns: AtomicU64,
}

impl Usage {
    /// Used at `now`.
    pub fn touch(&self, now: Instant) {
        // Relaxed: the stamp only orders evictions and guards no other memory.
        self.last_ns.fetch_max(since_start(now), Ordering::Relaxed);
    }

    /// Nanoseconds on a clock that only these stamps share.
    #[must_use]
    pub fn last_ns(&self) -> u64 {
        self.last_ns.load(Ordering::Relaxed)
    }
}

fn since_start(now: Instant) -> u64 {
    static START: OnceLock<Instant> = OnceLock::new();
    let start = START.get_or_init(Instant::now);
    u64::try_from(now.saturating_duration_since(*start).as_nanos()).unwrap_or(u64::MAX)
}

/// A version of a model, ready to run. Jobs hold it from admission to their end.
pub struct LoadedVersion {
    /// Name of the model.
    pub name: Box<str>,
    /// Number of the version.
    pub version: u64,
    /// Id of its files; `None` for a built-in operation.
    pub digest: Option<Digest>,
    /// Which backend loaded it.
    pub backend: &'static str,
    /// What fronts report as its platform.
    pub platform: &'static str,
    /// Its tensors, narrowed by its configuration.
    pub signature: Arc<Signature>,
    /// What runs.
    pub operation: Arc<dyn Operation>,
    /// Its configuration, if there is one.
    pub config: Option<Arc<ModelConfig>>,
    /// The class labels of each output, in the order of the signature.
    pub labels: Vec<Option<Arc<[String]>>>,
    /// Bytes that it keeps while loaded; shared with versions of the same digest.
    pub resident_bytes: u64,
    /// What rehearsal measured; times are those of the daemon's own load where it loaded anew.
    pub verdict: Verdict,
    /// How its requests may share runs; `None` where they may not, or gain nothing.
    pub(crate) together: Option<Together>,
    /// When it was used last. Whoever runs it says so.
    pub usage: Usage,
    /// What happened to it; outlives a reload.
    pub stats: Arc<VersionStats>,
}

impl fmt::Debug for LoadedVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LoadedVersion({} {} by {}, {:?})", self.name, self.version, self.backend, self.digest)
    }
}

/// Why no version could be bound.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BindError {
    /// It is loaded at the first request: call [`super::Store::load`], and bind again.
    #[error("not loaded yet")]
    Cold,
    /// It is being loaded for the first time.
    #[error("being loaded")]
    Loading,
    /// No such version, or one that the version policy leaves out.
    #[error("no version {version}; available are {available:?}")]
    NoSuchVersion {
        /// The version.
        version: u64,
        /// What there is.
        available: Vec<u64>,
    },
    /// It can't serve.
    #[error("unavailable: {reason}")]
    Unavailable {
        /// Why.
        reason: Box<str>,
    },
}

/// What a version does, in Triton's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IndexState {
    /// It serves.
    Ready,
    /// It is being loaded.
    Loading,
    /// It serves no new requests and ends old ones.
    Unloading,
    /// It does not serve.
    Unavailable,
}

impl IndexState {
    /// The word that the protocol has for it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            IndexState::Ready => "READY",
            IndexState::Loading => "LOADING",
            IndexState::Unloading => "UNLOADING",
            IndexState::Unavailable => "UNAVAILABLE",
        }
    }
}

/// One row of the index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IndexRow {
    /// Name of the model.
    pub name: Box<str>,
    /// Number of the version; `None` for a model without any, which has a reason.
    pub version: Option<u64>,
    /// What it does.
    pub state: IndexState,
    /// Why it does not serve, or why it still serves old files.
    pub reason: String,
}
