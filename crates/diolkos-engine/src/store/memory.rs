// SPDX-License-Identifier: Apache-2.0
//! Which weights are in memory, and making room for more.
//!
//! Weights are counted once however many models share them, and for as long as anybody holds them: a version
//! that drains is counted until its last job ended. Room is made by taking out what nobody uses, the least
//! recently used first; a model that is in use is never taken out, and neither is another version of the model
//! that is being loaded, because that would leave a moment without it.
//!
//! What is loaded because a tenant asked for it is charged to that tenant. Past its share (`tenants.NAME.models_memory_max`) it makes
//! room itself, so that whoever asks for one model after the other drives out its own.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use diolkos_backend::Operation;
use diolkos_types::Digest;

use super::behalf::{Behalf, Loaded};
use super::entry::ModelEntry;
use super::error::VersionError;
use super::rehearse::Verdict;
use super::version::LoadedVersion;

/// An operation that may still be in memory.
struct Live {
    operation: Weak<dyn Operation>,
    resident_bytes: u64,
    verdict: Verdict,
    /// Whoever it was loaded for.
    loaded_for: Option<Arc<Loaded>>,
}

/// What is in memory, by model id. The owner is the control thread.
#[derive(Default)]
pub(super) struct Memory {
    live: HashMap<Digest, Live>,
}

/// An operation in memory, and what it costs.
#[derive(Clone)]
pub(super) struct Acquired {
    pub(super) operation: Arc<dyn Operation>,
    pub(super) resident_bytes: u64,
    pub(super) verdict: Verdict,
    /// It was in memory before.
    pub(super) shared: bool,
}

/// Versions that share weights and serve, and whether anybody else uses them.
struct Group {
    members: Vec<(Arc<ModelEntry>, u64)>,
    operation: Arc<dyn Operation>,
    last_ns: u64,
    idle: bool,
}

impl Memory {
    /// The operation of these files, if it is in memory.
    pub(super) fn get(&self, digest: &Digest) -> Option<Acquired> {
        let live = self.live.get(digest)?;
        Some(Acquired {
            operation: live.operation.upgrade()?,
            resident_bytes: live.resident_bytes,
            verdict: live.verdict.clone(),
            shared: true,
        })
    }

    /// Counts an operation from now on, as somebody's if it was loaded for somebody.
    pub(super) fn insert(&mut self, digest: Digest, acquired: &Acquired, behalf: Option<&Behalf>) {
        let live = Live {
            operation: Arc::downgrade(&acquired.operation),
            resident_bytes: acquired.resident_bytes,
            verdict: acquired.verdict.clone(),
            loaded_for: behalf.map(|behalf| behalf.loaded.clone()),
        };
        self.live.insert(digest, live);
    }

    /// Bytes of all weights that somebody holds.
    pub(super) fn used(&mut self) -> u64 {
        self.live.values().filter_map(|live| live.loaded_for.as_ref()).for_each(|loaded| loaded.set(0));
        self.live.retain(|_, live| live.operation.strong_count() > 0);
        for live in self.live.values() {
            if let Some(loaded) = &live.loaded_for {
                loaded.set(loaded.bytes().saturating_add(live.resident_bytes));
            }
        }
        self.live.values().fold(0, |sum, live| sum.saturating_add(live.resident_bytes))
    }

    fn is_loaded_for(&self, digest: &Digest, whom: &Arc<Loaded>) -> bool {
        let loaded_for = self.live.get(digest).and_then(|live| live.loaded_for.as_ref());
        loaded_for.is_some_and(|loaded| Arc::ptr_eq(loaded, whom))
    }

    /// Makes room for `needed` more bytes in a tenant's share, with what was loaded for it and nothing else.
    pub(super) fn make_room_of(
        &mut self,
        behalf: &Behalf,
        needed: u64,
        entries: &[Arc<ModelEntry>],
        spare: &str,
    ) -> Result<(), VersionError> {
        let Behalf { loaded, memory_max } = behalf;
        let limit = *memory_max;
        let fits = |memory: &mut Memory| {
            memory.used();
            loaded.bytes().saturating_add(needed) <= limit
        };
        if needed <= limit {
            self.evict_until(entries, spare, fits, |memory, digest| memory.is_loaded_for(digest, loaded));
        }
        if fits(self) { Ok(()) } else { Err(VersionError::Share { needed, used: loaded.bytes(), limit }) }
    }

    /// Takes out idle models that may go, least recently used ones first, until there is room.
    fn evict_until(
        &mut self,
        entries: &[Arc<ModelEntry>],
        spare: &str,
        fits: impl Fn(&mut Memory) -> bool,
        may_go: impl Fn(&Memory, &Digest) -> bool,
    ) {
        if fits(self) {
            return;
        }
        let groups = groups(entries, spare).into_iter().filter(|(_, group)| group.idle);
        let mut groups: Vec<_> = groups.filter(|(digest, _)| may_go(self, digest)).collect();
        groups.sort_by_key(|(_, group)| group.last_ns);
        for (_, Group { members, operation, .. }) in groups {
            drop(operation);
            for (entry, version) in &members {
                if entry.evict(*version) {
                    tracing::info!(model = entry.name(), version, "evicted, to make room for `{spare}`");
                }
            }
            if fits(self) {
                return;
            }
        }
    }

    /// Makes room for `needed` more bytes, sparing the model called `spare`.
    pub(super) fn make_room(
        &mut self,
        needed: u64,
        limit: u64,
        entries: &[Arc<ModelEntry>],
        spare: &str,
    ) -> Result<(), VersionError> {
        let fits = |memory: &mut Memory| memory.used().saturating_add(needed) <= limit;
        // A model that could never fit must not drive out the others.
        if needed <= limit {
            self.evict_until(entries, spare, fits, |_, _| true);
        }
        if fits(self) { Ok(()) } else { Err(VersionError::Memory { needed, used: self.used(), limit }) }
    }
}

fn groups(entries: &[Arc<ModelEntry>], spare: &str) -> HashMap<Digest, Group> {
    let mut groups: HashMap<Digest, Group> = HashMap::new();
    for entry in entries {
        for version in entry.ready() {
            let Some(digest) = version.digest else { continue };
            let LoadedVersion { operation, usage, .. } = &*version;
            let group = groups.entry(digest).or_insert_with(|| Group {
                members: Vec::new(),
                operation: operation.clone(),
                last_ns: 0,
                idle: true,
            });
            group.last_ns = group.last_ns.max(usage.last_ns());
            // The entry holds one, and `version` here is another.
            group.idle &= entry.name() != spare && Arc::strong_count(&version) <= 2;
            group.members.push((entry.clone(), version.version));
        }
    }
    for group in groups.values_mut() {
        // One for each member and one for the group; any other is a version that drains or a load under way.
        group.idle &= Arc::strong_count(&group.operation) <= group.members.len() + 1;
    }
    groups
}
