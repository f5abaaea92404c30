// SPDX-License-Identifier: Apache-2.0
//! The way of one version into memory, on the control thread:
//!
//! ```text
//! read + hash ─> in memory already? ── yes ──────────────────────────┐
//!                    │ no                                            v
//!                rehearse (child) ─> make room ─> load ─> warm ─> narrow ─> ready to publish
//! ```
//!
//! Until the last step nothing that serves is touched, so every failure leaves the model as it was.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use diolkos_backend::{Backend, LoadError, LoadOptions, ModelFiles};
use diolkos_types::Digest;

use super::StoreConfig;
use super::behalf::Behalf;
use super::blob::BlobStore;
use super::entry::ModelEntry;
use super::error::VersionError;
use super::fingerprint::Fingerprint;
use super::layout::{CONFIG_NAME, ModelSource, Origin, VersionSource};
use super::limits::EXTERNAL_FILES_MAX;
use super::manifest::model_digest;
use super::memory::{Acquired, Memory};
use super::narrow::narrow;
use super::rehearse::{Rehearsal, RehearsalError, Rehearser, VerdictCache};
use super::source::{add_external, read_labels, read_version};
use super::trial::{row_bytes, try_together};
use super::version::{LoadedVersion, Usage};
use super::warm::warm;
use crate::account::VersionStats;
use crate::batch::Together;
use crate::job::panic_text;

/// What the control thread knows of a model beside its entry.
#[derive(Default)]
pub(super) struct Known {
    /// Where it is on disk; `None` for contents that a client gave.
    pub(super) path: Option<PathBuf>,
    /// What was found there last.
    pub(super) source: Option<ModelSource>,
    /// Stamps of its files when they were read last, or found if they were never read.
    pub(super) seen: Option<Fingerprint>,
    /// Files beside a single file that it turned out to refer to.
    pub(super) externals: Vec<PathBuf>,
    /// What it was found to need by somebody in whose share it did not fit, of the files that were seen last.
    pub(super) needs: Option<u64>,
}

/// What the control thread owns.
pub(super) struct Control {
    pub(super) known: BTreeMap<Box<str>, Known>,
    /// Directories whose entries are models.
    pub(super) repositories: Vec<PathBuf>,
    pub(super) memory: Memory,
    pub(super) verdicts: VerdictCache,
    pub(super) blobs: Option<BlobStore>,
}

/// How a version came to be ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Loaded into memory.
    Loaded,
    /// Its weights were in memory already, under another name or from before.
    Shared,
    /// It served already, from the same files.
    Unchanged,
}

/// A version that may be published.
pub(super) struct Prepared {
    pub(super) loaded: Arc<LoadedVersion>,
    pub(super) outcome: Outcome,
    /// Files beside a single file that it refers to.
    pub(super) externals: Vec<PathBuf>,
}

/// One load: everything that its steps need.
pub(super) struct Loader<'a> {
    pub(super) config: &'a StoreConfig,
    pub(super) backends: &'a [Arc<dyn Backend>],
    pub(super) rehearser: &'a dyn Rehearser,
    /// All entries, which may have to make room.
    pub(super) entries: &'a [Arc<ModelEntry>],
    pub(super) control: &'a mut Control,
    /// Who asked for it, if somebody did who has a share.
    pub(super) behalf: Option<&'a Behalf>,
}

/// A backend that loads a file, and what its format is called.
struct Chosen<'a> {
    backend: &'a dyn Backend,
    platform: &'static str,
}

impl Loader<'_> {
    /// Everything but publishing.
    pub(super) fn prepare(
        &mut self,
        name: &str,
        source: &ModelSource,
        version: u64,
        serving: Option<&Arc<LoadedVersion>>,
        stats: Arc<VersionStats>,
    ) -> Result<Prepared, VersionError> {
        let config = source.config.as_deref();
        let at = &source.versions[&version];
        let extensions = extensions(self.backends);
        let mut files =
            read_version(at, config, &extensions, self.config.file_bytes_max, self.control.blobs.as_mut())?;
        let Chosen { backend, platform } = choose(self.backends, &files.entry)?;
        let mut externals = Vec::new();
        let (digest, acquired) = loop {
            let digest = model_digest(backend.name(), &files);
            match self.acquire(name, digest, backend, &files) {
                Ok(acquired) => break (digest, acquired),
                Err(error) => {
                    let found = self
                        .external(at, &mut files, &error)?
                        .filter(|_| externals.len() < EXTERNAL_FILES_MAX);
                    externals.push(found.ok_or(error)?);
                }
            }
        };
        let signature = match config {
            Some(config) => narrow(config, acquired.operation.signature())
                .map_err(|source| VersionError::Config { file: CONFIG_NAME.to_owned(), source })?,
            None => acquired.operation.signature().clone(),
        };
        let labels = read_labels(source, &files, &signature)?;
        if let Some(serving) = serving
            && serving.digest == Some(digest)
            && serving.config == source.config
            && serving.labels == labels
        {
            return Ok(Prepared { loaded: serving.clone(), outcome: Outcome::Unchanged, externals });
        }
        let own_only = matches!(source.origin, Origin::Blobs);
        let together = Together::new(acquired.verdict.batch, &signature, own_only);
        let outcome = if acquired.shared { Outcome::Shared } else { Outcome::Loaded };
        if let Some(gain) = acquired.verdict.batch.filter(|_| outcome == Outcome::Loaded) {
            // So that the first requests are predicted as well as later ones.
            let row = row_bytes(&signature.inputs).unwrap_or(0);
            stats.learn(row, Duration::from_nanos(gain.one_ns));
            stats.learn(row.saturating_mul(gain.rows), Duration::from_nanos(gain.all_ns));
        }
        let loaded = LoadedVersion {
            name: name.into(),
            version,
            digest: Some(digest),
            backend: backend.name(),
            platform,
            signature: Arc::new(signature),
            operation: acquired.operation,
            config: source.config.clone(),
            labels,
            resident_bytes: acquired.resident_bytes,
            verdict: acquired.verdict,
            together,
            usage: Usage::default(),
            stats,
        };
        Ok(Prepared { loaded: Arc::new(loaded), outcome, externals })
    }

    /// The file that was missing, if the model is a single file and it lies beside it.
    fn external(
        &self,
        at: &VersionSource,
        files: &mut ModelFiles,
        error: &VersionError,
    ) -> Result<Option<PathBuf>, VersionError> {
        let (VersionError::Rehearsal(RehearsalError::Load(LoadError::MissingFile { name }))
        | VersionError::Load(LoadError::MissingFile { name })) = error
        else {
            return Ok(None);
        };
        match at {
            VersionSource::File(path) => Ok(add_external(files, path, name, self.config.file_bytes_max)?),
            // All that there is was read.
            VersionSource::Directory(_) | VersionSource::Blobs(_) => Ok(None),
        }
    }

    /// The operation of these files: the one in memory, or a new one.
    fn acquire(
        &mut self,
        name: &str,
        digest: Digest,
        backend: &dyn Backend,
        files: &ModelFiles,
    ) -> Result<Acquired, VersionError> {
        if let Some(acquired) = self.control.memory.get(&digest) {
            return Ok(acquired);
        }
        let limit = self.config.memory_max;
        let options = LoadOptions {
            resident_bytes_max: self.config.load.resident_bytes_max.min(limit),
            ..self.config.load.clone()
        };
        let verdict = match self.control.verdicts.get(&digest) {
            Some(verdict) => verdict.clone(),
            None => {
                let rehearsal = Rehearsal { backend: backend.name(), files, options: &options };
                let verdict = self.rehearser.rehearse(&rehearsal)?;
                self.control.verdicts.insert(digest, verdict.clone());
                verdict
            }
        };
        if let Some(behalf) = self.behalf {
            self.control.memory.make_room_of(behalf, verdict.resident_bytes, self.entries, name)?;
        }
        self.control.memory.make_room(verdict.resident_bytes, limit, self.entries, name)?;
        let trial_rows = verdict.trial_rows.unwrap_or(u64::MAX);
        let mut acquired = load(backend, files, &options, trial_rows)?;
        // What only the child could measure.
        acquired.verdict.peak_bytes = verdict.peak_bytes;
        self.control.memory.insert(digest, &acquired, self.behalf);
        // It may keep more than its rehearsal said; then the difference has to be found now.
        let needed = acquired.resident_bytes;
        if let Some(behalf) = self.behalf {
            let made = self.control.memory.make_room_of(behalf, 0, self.entries, name);
            made.map_err(|error| match error {
                VersionError::Share { used, limit, .. } => {
                    VersionError::Share { needed, used: used.saturating_sub(needed), limit }
                }
                error => error,
            })?;
        }
        self.control.memory.make_room(0, limit, self.entries, name).map_err(|error| match error {
            VersionError::Memory { used, .. } => {
                VersionError::Memory { needed, used: used.saturating_sub(needed), limit }
            }
            error => error,
        })?;
        Ok(acquired)
    }
}

/// Loads and warms in this process.
///
/// `trial_rows` is how many rows at once a child ran before.
fn load(
    backend: &dyn Backend,
    files: &ModelFiles,
    options: &LoadOptions,
    trial_rows: u64,
) -> Result<Acquired, VersionError> {
    let began = Instant::now();
    let attempt = AssertUnwindSafe(|| {
        let operation = backend.load(files, options)?;
        let load_ns = u64::try_from(began.elapsed().as_nanos()).unwrap_or(u64::MAX);
        let warmth = warm(&*operation);
        let trial = try_together(&*operation, warmth.median_ns, trial_rows);
        Ok((operation, load_ns, warmth, trial))
    });
    // The rehearsal did not panic, so this is rare; it must not take the control thread along.
    let (operation, load_ns, warmth, trial) = catch_unwind(attempt)
        .map_err(|panic| VersionError::Panicked {
            backend: backend.name(),
            message: panic_text(&*panic).to_owned(),
        })?
        .map_err(VersionError::Load)?;
    let resident_bytes = operation.resident_bytes();
    let verdict = super::rehearse::Verdict {
        signature: super::rehearse::describe(operation.signature()),
        resident_bytes,
        peak_bytes: 0,
        load_ns,
        first_ns: warmth.first_ns,
        median_ns: warmth.median_ns,
        trial_rows: Some(trial.rows),
        batch: trial.gain,
        note: warmth.note,
    };
    Ok(Acquired { operation, resident_bytes, verdict, shared: false })
}

/// Every extension that a backend loads.
pub(super) fn extensions(backends: &[Arc<dyn Backend>]) -> Vec<&'static str> {
    let formats = backends.iter().flat_map(|backend| backend.formats().iter());
    formats.map(|format| format.extension).collect()
}

fn choose<'a>(backends: &'a [Arc<dyn Backend>], file: &str) -> Result<Chosen<'a>, VersionError> {
    let given = file.rsplit_once('.').map_or("", |(_, extension)| extension);
    for backend in backends {
        if let Some(format) =
            backend.formats().iter().find(|format| format.extension.eq_ignore_ascii_case(given))
        {
            return Ok(Chosen { backend: &**backend, platform: format.platform });
        }
    }
    let known: Vec<String> = extensions(backends).iter().map(|extension| format!(".{extension}")).collect();
    Err(VersionError::UnknownFormat { file: file.to_owned(), known: known.join(", ") })
}
