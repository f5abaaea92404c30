// SPDX-License-Identifier: Apache-2.0
//! The operations of the store. See [`super`] for how they are made.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use diolkos_backend::{Backend, Operation};
use diolkos_types::Digest;

use super::StoreConfig;
use super::behalf::Behalf;
use super::blob::BlobStore;
use super::entry::ModelEntry;
use super::error::{StoreError, VersionError};
use super::layout::{self, LayoutError, ModelSource, Origin, VersionSource};
use super::loader::{Control, Known, Loader, Outcome, Prepared, extensions};
use super::memory::Memory;
use super::reference::Reference;
use super::registry::{Namespace, Registry};
use super::rehearse::{Rehearser, Verdict, VerdictCache};
use super::source::fingerprint;
use super::version::{IndexRow, LoadedVersion, Usage};
use crate::account::VersionStats;

pub(super) const SHARED: Namespace = Namespace::Shared;

/// How a version fared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VersionReport {
    /// The version.
    pub version: u64,
    /// Id of its files; `None` for a built-in operation.
    pub digest: Option<Digest>,
    /// How it came to be ready.
    pub outcome: Outcome,
    /// How long loading and its runs took.
    pub verdict: Verdict,
}

/// How a load ended.
#[derive(Clone, Debug, Default)]
pub struct LoadReport {
    /// The model.
    pub name: Box<str>,
    /// The versions that serve because of it, rising.
    pub versions: Vec<VersionReport>,
    /// Versions that no longer serve.
    pub retired: Vec<u64>,
    /// What was skipped or has no effect.
    pub notes: Vec<String>,
}

/// What a repository held.
#[derive(Debug, Default)]
pub struct ScanReport {
    /// Models that are registered now, by name.
    pub models: Vec<Box<str>>,
    /// Entries that are no models. Those with a name of their own are in the index with their reason.
    pub errors: Vec<(PathBuf, StoreError)>,
    /// What was skipped or has no effect.
    pub notes: Vec<String>,
}

/// The store.
///
/// [`Store::find`], [`Store::index`] and what they give are for every thread. All else may block and is for the
/// control thread alone; the lock below only makes that safe, and nobody on a request's way takes it.
pub struct Store {
    pub(super) config: StoreConfig,
    pub(super) backends: Vec<Arc<dyn Backend>>,
    rehearser: Box<dyn Rehearser>,
    pub(super) registry: Registry,
    control: Mutex<Control>,
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Store({} models)", self.registry.all().len())
    }
}

impl Store {
    /// A store with these backends. Opens the content store, if there is one, and registers what is in it.
    pub fn new(
        config: StoreConfig,
        backends: Vec<Arc<dyn Backend>>,
        rehearser: Box<dyn Rehearser>,
    ) -> Result<Store, StoreError> {
        let mut blobs = None;
        if let Some(dir) = &config.blob_dir {
            let (opened, report) = BlobStore::open(dir, config.blob_quota)?;
            if report.leftovers > 0 {
                tracing::info!(
                    leftovers = report.leftovers,
                    "removed what a crash left in the content store"
                );
            }
            for name in report.damaged_references {
                tracing::warn!(model = name, "its reference in the content store is damaged; load it again");
            }
            blobs = Some(opened);
        }
        let control = Control {
            known: BTreeMap::new(),
            repositories: Vec::new(),
            memory: Memory::default(),
            verdicts: VerdictCache::default(),
            blobs,
        };
        let store = Store {
            config,
            backends,
            rehearser,
            registry: Registry::default(),
            control: Mutex::new(control),
        };
        store.register_blobs();
        Ok(store)
    }

    pub(super) fn control(&self) -> MutexGuard<'_, Control> {
        // A panic in here loses at most what the control thread knew of one model.
        self.control.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn register_blobs(&self) {
        let mut control = self.control();
        let names: Vec<(String, bool)> = control
            .blobs
            .iter()
            .flat_map(|blobs| {
                blobs.references().map(|(name, reference)| (name.to_owned(), reference.unloaded))
            })
            .filter(|(name, _)| layout::check_name(name).is_ok())
            .collect();
        for (name, unloaded) in names {
            let entry = Arc::new(ModelEntry::new(&name, None));
            self.registry.insert(SHARED, &entry);
            control.known.insert(name.as_str().into(), Known::default());
            match refresh(&mut control, &name, &extensions(&self.backends)) {
                Ok(source) => entry.select(&source.selected(), self.config.lazy),
                Err(error) => entry.fail(error.to_status().message()),
            }
            if unloaded {
                entry.unload();
            }
        }
    }

    /// Registers a built-in operation, which is always ready.
    pub fn add_builtin(
        &self,
        name: &str,
        summary: &str,
        operation: Arc<dyn Operation>,
    ) -> Result<(), StoreError> {
        layout::check_name(name).map_err(|source| StoreError::Layout { name: name.into(), source })?;
        if self.registry.any(SHARED, name).is_some() {
            return Err(StoreError::NameTaken { name: name.into(), by: "another model" });
        }
        let entry = Arc::new(ModelEntry::new(name, Some(summary)));
        let signature = operation.signature().clone();
        entry.publish(Arc::new(LoadedVersion {
            name: name.into(),
            version: 1,
            digest: None,
            backend: "builtin",
            platform: "diolkos_builtin",
            signature: Arc::new(signature),
            labels: vec![None; operation.signature().outputs.len()],
            resident_bytes: operation.resident_bytes(),
            operation,
            config: None,
            verdict: Verdict::default(),
            together: None,
            usage: Usage::default(),
            stats: Arc::new(VersionStats::default()),
        }));
        self.registry.insert(SHARED, &entry);
        Ok(())
    }

    /// Registers a single file, or a single model's directory. [`Store::load`] loads it.
    pub fn add_file(&self, path: &Path) -> Result<(), StoreError> {
        let failed = |source| StoreError::Root { path: path.into(), source };
        let source = layout::scan_model(path, &extensions(&self.backends)).map_err(failed)?;
        self.register(&mut self.control(), source)
    }

    /// Registers every model of a repository, and the repository itself for [`Store::rescan`].
    pub fn add_repository(&self, dir: &Path) -> Result<ScanReport, StoreError> {
        let mut control = self.control();
        let dir = std::path::absolute(dir).unwrap_or_else(|_| dir.into());
        let scan = layout::scan_repository(&dir, &extensions(&self.backends))
            .map_err(|source| StoreError::Root { path: dir.clone(), source })?;
        let mut report = ScanReport { notes: scan.notes, ..ScanReport::default() };
        for model in scan.models {
            let (name, path) = (model.name.clone(), path_of(&model.origin));
            match self.register(&mut control, model) {
                Ok(()) => report.models.push(name),
                Err(error) => report.errors.push((path.unwrap_or_default(), error)),
            }
        }
        for failed in scan.errors {
            let error = self.register_failed(&mut control, &failed.name, &failed.path, failed.error);
            report.errors.push((failed.path, error));
        }
        control.repositories.push(dir);
        Ok(report)
    }

    /// The entry for a model on disk at `path`, unless the name belongs to something else.
    fn claim(&self, control: &mut Control, name: &str, path: &Path) -> Result<Arc<ModelEntry>, StoreError> {
        let taken = |by| StoreError::NameTaken { name: name.into(), by };
        let entry = self.registry.any(SHARED, name);
        if let Some(entry) = &entry
            && !entry.is_gone()
        {
            match control.known.get(name) {
                _ if entry.is_builtin() => return Err(taken("a built-in operation")),
                Some(known) if known.path.as_deref() == Some(path) => {}
                Some(Known { path: None, .. }) => return Err(taken("a model that a client loaded")),
                Some(_) | None => return Err(taken("a model at another path")),
            }
        }
        let entry = entry.unwrap_or_else(|| {
            let entry = Arc::new(ModelEntry::new(name, None));
            self.registry.insert(SHARED, &entry);
            entry
        });
        control.known.entry(name.into()).or_default().path = Some(path.into());
        Ok(entry)
    }

    pub(super) fn register(&self, control: &mut Control, source: ModelSource) -> Result<(), StoreError> {
        let path = path_of(&source.origin).unwrap_or_default();
        let entry = self.claim(control, &source.name, &path)?;
        entry.select(&source.selected(), self.config.lazy);
        let known = control.known.entry(source.name.clone()).or_default();
        known.seen = fingerprint(&source, &known.externals).ok();
        known.source = Some(source);
        Ok(())
    }

    /// Registers an entry of a repository that is no model, so that the index says why.
    pub(super) fn register_failed(
        &self,
        control: &mut Control,
        name: &str,
        path: &Path,
        source: LayoutError,
    ) -> StoreError {
        let error = StoreError::Layout { name: name.into(), source };
        // A name that no model can have is only reported.
        if layout::check_name(name).is_ok()
            && let Ok(entry) = self.claim(control, name, path)
        {
            entry.fail(error.to_status().message());
        }
        error
    }

    /// The model of this name. Cheap.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<Arc<ModelEntry>> {
        self.registry.find(SHARED, name)
    }

    /// All models, by name.
    #[must_use]
    pub fn entries(&self) -> Vec<Arc<ModelEntry>> {
        self.registry.all().into_iter().filter(|entry| !entry.is_gone()).collect()
    }

    /// All versions of all models, and what they do.
    #[must_use]
    pub fn index(&self) -> Vec<IndexRow> {
        self.index_where(|_| true)
    }

    /// [`Store::index`], of some models.
    #[must_use]
    pub fn index_where(&self, mut wanted: impl FnMut(&ModelEntry) -> bool) -> Vec<IndexRow> {
        self.registry.all().iter().filter(|entry| wanted(entry)).flat_map(|entry| entry.index()).collect()
    }

    /// Bytes of all weights that are in memory.
    #[must_use]
    pub fn memory_used(&self) -> u64 {
        let mut seen = BTreeSet::new();
        let ready = self.registry.all().into_iter().flat_map(|entry| entry.ready());
        ready.filter(|version| seen.insert(version.digest)).map(|version| version.resident_bytes).sum()
    }

    /// What the control thread counts, versions that drain included.
    #[cfg(test)]
    pub(super) fn control_memory_used(&self) -> u64 {
        self.control().memory.used()
    }

    /// Loads the versions that the policy selects, or loads them anew where files changed.
    ///
    /// The new ones serve before the old ones drain. When one is refused, the old ones serve on and this is an
    /// error that says so. Blocking, for the control thread alone.
    pub fn load(&self, name: &str) -> Result<LoadReport, StoreError> {
        self.load_for(name, None)
    }

    /// The same for a tenant, whose share of memory it takes.
    pub fn load_for(&self, name: &str, behalf: Option<&Behalf>) -> Result<LoadReport, StoreError> {
        let mut control = self.control();
        let unknown = || StoreError::UnknownModel { name: name.into() };
        let entry = self.registry.any(SHARED, name).ok_or_else(unknown)?;
        if entry.is_builtin() {
            return Ok(report_of(&entry, name));
        }
        if !control.known.contains_key(name) {
            return Err(unknown());
        }
        note_unloaded(&mut control, name, false)?;
        let source = match refresh(&mut control, name, &extensions(&self.backends)) {
            Ok(source) => source,
            Err(_) if entry.is_gone() => return Err(unknown()),
            Err(error) if error.is_passing() && !entry.versions().is_empty() => {
                entry.delay_all(error.to_status().message());
                return Err(error);
            }
            Err(error) => {
                entry.fail(error.to_status().message());
                return Err(error);
            }
        };
        let selected = source.selected();
        if selected.is_empty() {
            let error = StoreError::NothingSelected {
                name: name.into(),
                present: source.versions.keys().copied().collect(),
            };
            entry.fail(error.to_status().message());
            return Err(error);
        }
        let known = control.known.entry(name.into()).or_default();
        // Before anything is read, so that a change while reading shows next time.
        let print = fingerprint(&source, &known.externals).ok();
        let serving: Vec<u64> = entry.ready().iter().map(|version| version.version).collect();
        let same = matches!((&print, &known.seen), (Some(now), Some(before)) if now.same_as(before));
        if same && serving == selected && entry.index().iter().all(|row| row.reason.is_empty()) {
            return Ok(report_of(&entry, name));
        }
        if let (true, Some(behalf), Some(needed)) = (same, behalf, known.needs)
            && needed > behalf.memory_max
        {
            // Known before anything is read.
            let source =
                VersionError::Share { needed, used: behalf.loaded.bytes(), limit: behalf.memory_max };
            let version = selected[0];
            let still = still_serving(&entry);
            return Err(StoreError::Version { name: name.into(), version, source: source.into(), still });
        }
        known.seen = print;
        known.source = Some(source.clone());
        self.load_selected(&mut control, &entry, &source, &selected, behalf)
    }

    fn load_selected(
        &self,
        control: &mut Control,
        entry: &ModelEntry,
        source: &ModelSource,
        selected: &[u64],
        behalf: Option<&Behalf>,
    ) -> Result<LoadReport, StoreError> {
        let name = entry.name();
        entry.select(selected, false);
        let mut report =
            LoadReport { name: name.into(), notes: source.notes.clone(), ..LoadReport::default() };
        let mut first_error = None;
        let mut externals = Vec::new();
        let mut delayed = false;
        for &version in selected {
            match self.prepare(control, entry, source, version, behalf) {
                Ok(prepared) => {
                    externals.extend_from_slice(&prepared.externals);
                    report.versions.push(publish(entry, prepared));
                }
                Err(error) => {
                    let still = still_serving(entry);
                    let share_needs = match &error {
                        VersionError::Share { needed, .. } => Some(*needed),
                        _ => None,
                    };
                    let error =
                        StoreError::Version { name: name.into(), version, source: error.into(), still };
                    tracing::warn!(model = name, version, %error, "not loaded");
                    if share_needs.is_some() {
                        // Everybody reads this, and it is one tenant's limit.
                        entry.delay(
                            version,
                            "it was not loaded for whoever asked; the next request tries again",
                        );
                        control.known.entry(name.into()).or_default().needs = share_needs;
                        // Where old files serve, the next look at the disk must find the new ones again.
                        delayed |= !entry.ready().is_empty();
                    } else if error.is_passing() {
                        entry.delay(version, error.to_status().message());
                        delayed = true;
                    } else {
                        entry.refuse(version, error.to_status().message());
                    }
                    first_error.get_or_insert(error);
                }
            }
        }
        let known = control.known.entry(name.into()).or_default();
        if first_error.is_none() && known.externals != externals {
            // Their stamps were not taken before they were read, so the next look reads everything once more.
            known.externals = externals;
            known.seen = None;
        }
        if delayed {
            // What serves are the old files, so the next look at the disk must find a change again.
            known.seen = None;
        }
        match first_error {
            Some(error) => Err(error),
            None => {
                report.retired = entry.retire_unwanted();
                Ok(report)
            }
        }
    }

    pub(super) fn prepare(
        &self,
        control: &mut Control,
        entry: &ModelEntry,
        source: &ModelSource,
        version: u64,
        behalf: Option<&Behalf>,
    ) -> Result<Prepared, VersionError> {
        let stats = entry.begin(version);
        let serving = entry.ready().into_iter().find(|serving| serving.version == version);
        let entries = self.registry.all();
        let mut loader = Loader {
            config: &self.config,
            backends: &self.backends,
            rehearser: &*self.rehearser,
            entries: &entries,
            control,
            behalf,
        };
        loader.prepare(entry.name(), source, version, serving.as_ref(), stats)
    }

    /// Takes a model out of service until somebody loads it again; jobs that bound it go on.
    ///
    /// One that a client loaded stays out of service over a restart; one that the operator installed comes back,
    /// since the settings say so.
    pub fn unload(&self, name: &str) -> Result<(), StoreError> {
        let entry = self.find(name).ok_or_else(|| StoreError::UnknownModel { name: name.into() })?;
        if entry.is_builtin() {
            return Err(StoreError::Builtin { name: name.into() });
        }
        // Waits for a load under way, so that it can't bring back what this takes out.
        let mut control = self.control();
        note_unloaded(&mut control, name, true)?;
        entry.unload();
        Ok(())
    }
}

/// Keeps it for the next start that a model which a client loaded was unloaded, or loaded again.
fn note_unloaded(control: &mut Control, name: &str, unloaded: bool) -> Result<(), StoreError> {
    let by_client = control.known.get(name).is_some_and(|known| known.path.is_none());
    match control.blobs.as_mut().filter(|_| by_client) {
        Some(blobs) => Ok(blobs.set_unloaded(name, unloaded)?),
        None => Ok(()),
    }
}

pub(super) fn path_of(origin: &Origin) -> Option<PathBuf> {
    match origin {
        Origin::File(path) | Origin::Directory(path) => Some(path.clone()),
        Origin::Blobs => None,
    }
}

/// What a model is now, on disk or in the content store.
pub(super) fn refresh(
    control: &mut Control,
    name: &str,
    extensions: &[&str],
) -> Result<ModelSource, StoreError> {
    let failed = |source| StoreError::Layout { name: name.into(), source };
    if let Some(path) = control.known.get(name).and_then(|known| known.path.as_deref()) {
        return layout::scan_model(path, extensions).map_err(failed);
    }
    let blobs = control.blobs.as_mut().ok_or(StoreError::NoContentStore)?;
    let reference =
        blobs.reference(name).cloned().ok_or_else(|| StoreError::UnknownModel { name: name.into() })?;
    let mut notes = Vec::new();
    let config = match &reference.config {
        Some(digest) => {
            let text = blobs.get(digest)?;
            let config =
                layout::parse_config(&text, name, Path::new("config"), &mut notes).map_err(failed)?;
            Some(Arc::new(config))
        }
        None => None,
    };
    Ok(source_of(name, &reference, config, notes))
}

pub(super) fn source_of(
    name: &str,
    reference: &Reference,
    config: Option<Arc<super::config::ModelConfig>>,
    notes: Vec<String>,
) -> ModelSource {
    let versions = reference.versions.iter();
    let versions = versions.map(|(version, files)| (*version, VersionSource::Blobs(files.clone()))).collect();
    ModelSource { name: name.into(), origin: Origin::Blobs, versions, config, notes }
}

pub(super) fn publish(entry: &ModelEntry, prepared: Prepared) -> VersionReport {
    let Prepared { loaded, outcome, .. } = prepared;
    let report = VersionReport {
        version: loaded.version,
        digest: loaded.digest,
        outcome,
        verdict: loaded.verdict.clone(),
    };
    match outcome {
        Outcome::Unchanged => entry.keep(loaded.version),
        Outcome::Loaded | Outcome::Shared => {
            tracing::info!(
                model = entry.name(),
                version = loaded.version,
                backend = loaded.backend,
                resident_bytes = loaded.resident_bytes,
                load_ns = loaded.verdict.load_ns,
                note = loaded.verdict.note,
                "ready"
            );
            entry.publish(loaded);
        }
    }
    report
}

/// A report that everything is as it was.
fn report_of(entry: &ModelEntry, name: &str) -> LoadReport {
    let ready = entry.ready();
    let versions = ready.iter().map(|version| VersionReport {
        version: version.version,
        digest: version.digest,
        outcome: Outcome::Unchanged,
        verdict: version.verdict.clone(),
    });
    LoadReport { name: name.into(), versions: versions.collect(), ..LoadReport::default() }
}

pub(super) fn still_serving(entry: &ModelEntry) -> &'static str {
    if entry.ready().is_empty() { "" } else { "; what served before serves on" }
}
