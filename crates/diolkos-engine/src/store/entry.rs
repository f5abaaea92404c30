// SPDX-License-Identifier: Apache-2.0
//! One model of the registry: its versions, and which of them serves.
//!
//! ```text
//!            ┌────────────── evicted ───────────────┐
//!            v                                      │
//! Cold ──load──> Loading ──published──> Ready ──replaced, unloaded──> Draining ──last job──> (gone)
//!   ^               │                     │  ^
//!   ├── delayed ────┤                     └──┘ reload: the old one serves until the new one is published,
//!   │               └──refused──> Failed       and goes on serving when the new one is refused
//!   └── files changed ─────────────┘
//! ```
//!
//! A load is delayed rather than refused by what may pass, such as memory that others use: the next request
//! tries again.
//!
//! Invariants:
//!
//! * Whoever bound a version holds it; its weights go when the last holder lets go.
//! * A version that serves is replaced in one write, so there is no moment without one.
//! * The lock is a leaf, and is never held while anything is read, hashed, loaded or run.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard, Weak};
use std::time::Instant;

use super::version::{BindError, IndexRow, IndexState, LoadedVersion};
use crate::account::VersionStats;

/// Why a model has no version to load.
const UNLOADED: &str = "it was unloaded; load it to use it again";
const GONE: &str = "its files are gone";

#[derive(Default)]
struct Slot {
    serving: Option<Arc<LoadedVersion>>,
    loading: bool,
    /// The version policy selects it.
    wanted: bool,
    /// A request for it loads it.
    on_demand: bool,
    failure: Option<Box<str>>,
    /// Why the last load did not succeed, where the next one may.
    delay: Option<Box<str>>,
    draining: Vec<Weak<LoadedVersion>>,
    stats: Arc<VersionStats>,
}

impl Slot {
    fn drains(&self) -> bool {
        self.draining.iter().any(|old| old.strong_count() > 0)
    }

    /// Takes what serves out of service.
    fn retire(&mut self) {
        self.draining.retain(|old| old.strong_count() > 0);
        if let Some(old) = self.serving.take() {
            self.draining.push(Arc::downgrade(&old));
        }
    }

    /// The load ended because of something that may pass.
    fn delayed(&mut self, reason: &str) {
        self.loading = false;
        self.on_demand = true;
        self.failure = None;
        self.delay = Some(reason.into());
    }
}

#[derive(Default)]
struct State {
    versions: BTreeMap<u64, Slot>,
    /// The highest version that serves.
    default: Option<u64>,
    /// Somebody unloaded it, so only a load brings it back.
    held: bool,
    /// Its files are gone, and the registry does not find it.
    gone: bool,
    /// What is wrong with the model as a whole.
    failure: Option<Box<str>>,
}

impl State {
    fn settle(&mut self) {
        self.versions.retain(|_, slot| slot.wanted || slot.serving.is_some() || slot.drains());
        self.default = self.versions.iter().rev().find(|(_, slot)| slot.serving.is_some()).map(|(v, _)| *v);
    }

    fn unavailable(&self, slot: Option<&Slot>) -> BindError {
        let failure = slot.and_then(|slot| slot.failure.as_deref()).or(self.failure.as_deref());
        let reason = match failure {
            _ if self.gone => GONE,
            _ if self.held => UNLOADED,
            Some(reason) => reason,
            None => UNLOADED,
        };
        BindError::Unavailable { reason: reason.into() }
    }

    fn why_not(&self, slot: &Slot) -> BindError {
        match slot {
            _ if self.held || self.gone => self.unavailable(Some(slot)),
            // Whoever comes while it is loaded on demand waits with the one who came first.
            Slot { on_demand: true, failure: None, wanted: true, .. } => BindError::Cold,
            Slot { loading: true, .. } => BindError::Loading,
            Slot { failure: None, wanted: true, .. } => BindError::Loading,
            _ => self.unavailable(Some(slot)),
        }
    }
}

/// A model by its name. Stays the same object over reloads.
pub struct ModelEntry {
    name: Box<str>,
    /// What a built-in operation does; `None` for a model.
    summary: Option<Box<str>>,
    state: RwLock<State>,
}

impl ModelEntry {
    pub(super) fn new(name: &str, summary: Option<&str>) -> ModelEntry {
        ModelEntry { name: name.into(), summary: summary.map(Into::into), state: RwLock::default() }
    }

    fn read(&self) -> RwLockReadGuard<'_, State> {
        // No code below panics between two writes that belong together.
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether it is a built-in operation.
    #[must_use]
    pub fn is_builtin(&self) -> bool {
        self.summary.is_some()
    }

    /// What a built-in operation does, in a sentence.
    #[must_use]
    pub fn summary(&self) -> Option<&str> {
        self.summary.as_deref()
    }

    /// The version to run: this one, or else the highest that serves.
    pub fn bind(&self, version: Option<u64>) -> Result<Arc<LoadedVersion>, BindError> {
        let state = self.read();
        if let Some(wanted) = version.or(state.default) {
            let Some(slot) = state.versions.get(&wanted) else {
                let available = state.versions.keys().copied().collect();
                return Err(BindError::NoSuchVersion { version: wanted, available });
            };
            return slot.serving.clone().ok_or_else(|| state.why_not(slot));
        }
        let reasons: Vec<BindError> = state.versions.values().rev().map(|slot| state.why_not(slot)).collect();
        // A version that loads, or could, is better news than one that failed.
        let best = [BindError::Cold, BindError::Loading].into_iter().find(|good| reasons.contains(good));
        Err(best.or_else(|| reasons.into_iter().next()).unwrap_or_else(|| state.unavailable(None)))
    }

    /// The versions that serve or could, rising.
    #[must_use]
    pub fn versions(&self) -> Vec<u64> {
        let state = self.read();
        state
            .versions
            .iter()
            .filter(|(_, slot)| slot.wanted || slot.serving.is_some())
            .map(|(v, _)| *v)
            .collect()
    }

    /// The versions that serve now, rising.
    #[must_use]
    pub fn ready(&self) -> Vec<Arc<LoadedVersion>> {
        self.read().versions.values().filter_map(|slot| slot.serving.clone()).collect()
    }

    /// Its rows of the index.
    #[must_use]
    pub fn index(&self) -> Vec<IndexRow> {
        let state = self.read();
        if state.gone && state.versions.values().all(|slot| !slot.drains()) {
            return Vec::new();
        }
        let row = |version, kind, reason: &str| IndexRow {
            name: self.name.clone(),
            version,
            state: kind,
            reason: reason.to_owned(),
        };
        if state.versions.is_empty() {
            let reason = state.failure.as_deref().unwrap_or(UNLOADED);
            return vec![row(None, IndexState::Unavailable, reason)];
        }
        let rows = state.versions.iter().map(|(version, slot)| {
            let failure = slot.failure.as_deref().or(state.failure.as_deref());
            let delay = slot.delay.as_deref();
            let (kind, reason) = match slot {
                Slot { serving: Some(_), .. } => (IndexState::Ready, failure.or(delay).unwrap_or("")),
                Slot { loading: true, .. } => (IndexState::Loading, ""),
                _ if slot.drains() => (IndexState::Unloading, ""),
                _ if state.held => (IndexState::Unavailable, UNLOADED),
                _ if failure.is_some() => (IndexState::Unavailable, failure.unwrap_or("")),
                Slot { on_demand: true, .. } => {
                    (IndexState::Unavailable, delay.unwrap_or("not loaded yet; the first request loads it"))
                }
                _ => (IndexState::Unavailable, "not loaded yet"),
            };
            row(Some(*version), kind, reason)
        });
        rows.collect()
    }

    pub(super) fn is_gone(&self) -> bool {
        self.read().gone
    }

    /// Whether somebody unloaded it, so that only a load brings it back.
    #[must_use]
    pub fn is_unloaded(&self) -> bool {
        self.read().held
    }

    /// Whether it only waits for somebody to ask for it.
    pub(super) fn is_cold(&self) -> bool {
        let state = self.read();
        let cold = |slot: &Slot| slot.on_demand && slot.serving.is_none() && slot.failure.is_none();
        state.failure.is_none() && state.versions.values().all(cold)
    }

    /// These versions are selected and may be loaded; others serve on until [`ModelEntry::retire_unwanted`].
    pub(super) fn select(&self, versions: &[u64], on_demand: bool) {
        let mut state = self.write();
        state.gone = false;
        state.failure = None;
        for (version, slot) in &mut state.versions {
            slot.wanted = versions.contains(version);
        }
        for version in versions {
            let slot = state.versions.entry(*version).or_default();
            if !slot.wanted {
                slot.wanted = true;
                slot.on_demand = on_demand;
            }
            if slot.serving.is_none() {
                slot.failure = None;
            }
        }
        state.settle();
    }

    /// The model as a whole can't be read.
    pub(super) fn fail(&self, reason: &str) {
        let mut state = self.write();
        state.gone = false;
        state.failure = Some(reason.into());
    }

    /// The model as a whole can't be read now, and may be later.
    pub(super) fn delay_all(&self, reason: &str) {
        let mut state = self.write();
        state.held = false;
        let wanted = state.versions.values_mut().filter(|slot| slot.wanted);
        wanted.for_each(|slot| slot.delayed(reason));
    }

    /// A load of the version begins. One that was unloaded stays so until that load ends.
    pub(super) fn begin(&self, version: u64) -> Arc<VersionStats> {
        let mut state = self.write();
        let slot = state.versions.entry(version).or_default();
        slot.loading = true;
        slot.stats.clone()
    }

    /// The version could not be loaded; what served before serves on.
    pub(super) fn refuse(&self, version: u64, reason: &str) {
        let mut state = self.write();
        // Whoever unloaded it wanted it back, and is told why it is not.
        state.held = false;
        if let Some(slot) = state.versions.get_mut(&version) {
            slot.loading = false;
            slot.failure = Some(reason.into());
            slot.delay = None;
        }
    }

    /// The version could not be loaded now; the next request for it tries again.
    pub(super) fn delay(&self, version: u64, reason: &str) {
        let mut state = self.write();
        state.held = false;
        if let Some(slot) = state.versions.get_mut(&version) {
            slot.delayed(reason);
        }
    }

    /// The load that was begun is as if it had never been.
    pub(super) fn abandon(&self, version: u64) {
        let mut state = self.write();
        if let Some(slot) = state.versions.get_mut(&version) {
            slot.loading = false;
        }
        state.settle();
    }

    /// The version that was begun is what serves already.
    pub(super) fn keep(&self, version: u64) {
        let mut state = self.write();
        if let Some(slot) = state.versions.get_mut(&version) {
            slot.loading = false;
            slot.failure = None;
            slot.delay = None;
        }
    }

    /// From now on this serves; what served before drains.
    pub(super) fn publish(&self, loaded: Arc<LoadedVersion>) {
        loaded.usage.touch(Instant::now());
        let mut state = self.write();
        state.held = false;
        state.gone = false;
        let slot = state.versions.entry(loaded.version).or_default();
        slot.retire();
        slot.serving = Some(loaded);
        slot.loading = false;
        slot.wanted = true;
        slot.failure = None;
        slot.delay = None;
        state.settle();
    }

    /// Versions that the policy no longer selects drain. Gives back which served.
    pub(super) fn retire_unwanted(&self) -> Vec<u64> {
        let mut state = self.write();
        let unwanted = state.versions.iter_mut().filter(|(_, slot)| !slot.wanted && slot.serving.is_some());
        let retired = unwanted
            .map(|(version, slot)| {
                slot.retire();
                *version
            })
            .collect();
        state.settle();
        retired
    }

    /// Everything drains, and only a load brings it back.
    pub(super) fn unload(&self) {
        let mut state = self.write();
        state.held = true;
        state.versions.values_mut().for_each(Slot::retire);
        state.settle();
    }

    /// Everything drains, and the registry does not find it.
    pub(super) fn vanish(&self) {
        let mut state = self.write();
        state.gone = true;
        state.held = false;
        state.failure = None;
        for slot in state.versions.values_mut() {
            slot.retire();
            slot.wanted = false;
        }
        state.settle();
    }

    /// Takes a version out of memory that nobody uses; the next request loads it again.
    ///
    /// `false` when somebody has it. Nobody can bind it meanwhile, since that needs the lock.
    pub(super) fn evict(&self, version: u64) -> bool {
        let mut state = self.write();
        let Some(slot) = state.versions.get_mut(&version) else { return false };
        if slot.serving.as_ref().is_none_or(|serving| Arc::strong_count(serving) > 1) {
            return false;
        }
        slot.retire();
        slot.on_demand = true;
        state.settle();
        true
    }
}

impl fmt::Debug for ModelEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ModelEntry({}, {:?})", self.name, self.versions())
    }
}
