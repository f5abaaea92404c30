// SPDX-License-Identifier: Apache-2.0
//! The model store: models on disk, in memory, and by name.
//!
//! | module | its one job |
//! |---|---|
//! | [`pbtxt`], [`config`], `narrow` | read a `config.pbtxt`, give it its meaning, apply it to a signature |
//! | [`layout`], [`manifest`], `fingerprint`, `source` | find models, read them once, tell whether they changed |
//! | [`blob`], `reference`, [`file_ops`] | keep contents that clients gave, over any crash |
//! | [`rehearse`], `warm` | load in a child first; run on zeros |
//! | `loader`, `memory`, `behalf` | the way of a version into memory, making room for it, and whose share it takes |
//! | `version`, `entry`, `registry` | a loaded version; which one serves; names |
//! | `store`, `client`, `rescan`, `error` | the operations, and how they fail |
//!
//! Invariants:
//!
//! * Everything that may block is called from one thread, the engine's control thread. Binding a version and
//!   reading the index only take read locks that no load holds.
//! * The same bytes are in memory once, whatever they are called.
//! * A load changes nothing that serves until the new version is loaded and warm.

mod behalf;
pub mod blob;
mod client;
pub mod config;
mod entry;
mod error;
pub mod file_ops;
mod fingerprint;
pub mod layout;
pub mod limits;
mod loader;
pub mod manifest;
mod memory;
pub mod narrow;
pub mod pbtxt;
mod reference;
mod registry;
pub mod rehearse;
mod rescan;
mod source;
#[expect(clippy::module_inception, reason = "the module is the type that the folder is named after")]
mod store;
mod suggest;
mod trial;
mod version;
mod warm;

use std::path::PathBuf;

use diolkos_backend::LoadOptions;

pub use behalf::{Behalf, Loaded};
pub use client::ClientFiles;
pub use entry::ModelEntry;
pub use error::{StoreError, VersionError};
pub use loader::Outcome;
pub use reference::{Reference, ReferenceError};
pub use registry::Namespace;
pub use rehearse::{
    NoRehearsal, ProcessRehearser, Rehearsal, RehearsalError, RehearsalLimits, Rehearser, Verdict, child_main,
};
pub use rescan::{Change, ChangeKind};
pub use store::{LoadReport, ScanReport, Store, VersionReport};
pub use trial::BatchGain;
pub(crate) use trial::{has_batch, row_bytes};
pub use version::{BindError, IndexRow, IndexState, LoadedVersion, Usage};

/// What the operator decides about the store.
#[derive(Clone, Debug)]
pub struct StoreConfig {
    /// Most bytes of weights in memory (`models.memory_max`).
    pub memory_max: u64,
    /// Where contents that clients give are kept (`models.store_dir`); `None` keeps none, so clients can't load.
    pub blob_dir: Option<PathBuf>,
    /// Most bytes there (`models.store_quota`).
    pub blob_quota: u64,
    /// Models are loaded at their first request instead of at the start (`models.lazy`).
    pub lazy: bool,
    /// Clients may load models by sending their contents (`models.client_load`).
    pub client_load: bool,
    /// What is asked of backends.
    pub load: LoadOptions,
    /// Most bytes of one version's files.
    pub file_bytes_max: u64,
}

impl Default for StoreConfig {
    /// What suits a node that serves a few models from its CPUs.
    fn default() -> StoreConfig {
        StoreConfig {
            memory_max: 4 << 30,
            blob_dir: None,
            blob_quota: 8 << 30,
            lazy: false,
            client_load: false,
            load: LoadOptions { variable_dim_max: 65_536, resident_bytes_max: 4 << 30 },
            file_bytes_max: 4 << 30,
        }
    }
}

#[cfg(test)]
mod tests;
