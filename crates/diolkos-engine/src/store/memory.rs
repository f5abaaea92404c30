// SPDX-License-Identifier: Apache-2.0
//! Which weights are in memory, and making room for more.
//!
//! Weights are counted once however many models share them, and for as long as anybody holds them: a version
//! that drains is counted until its last job ended. Room is made by taking out what nobody uses, the least
//! recently used first; a model that is in use is never taken out, and neither is another version of the model
//! that is being loaded, because that would leave a moment without it.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use diolkos_backend::Operation;
use diolkos_types::Digest;

use super::entry::ModelEntry;
use super::error::VersionError;
use super::rehearse::Verdict;
use super::version::LoadedVersion;

/// An operation that may still be in memory.
struct Live {
    operation: Weak<dyn Operation>,
    resident_bytes: u64,
    verdict: Verdict,
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

    /// Counts an operation from now on.
    pub(super) fn insert(&mut self, digest: Digest, acquired: &Acquired) {
        let live = Live {
            operation: Arc::downgrade(&acquired.operation),
            resident_bytes: acquired.resident_bytes,
            verdict: acquired.verdict.clone(),
        };
        self.live.insert(digest, live);
    }

    /// Bytes of all weights that somebody holds.
    pub(super) fn used(&mut self) -> u64 {
        self.live.retain(|_, live| live.operation.strong_count() > 0);
        self.live.values().fold(0, |sum, live| sum.saturating_add(live.resident_bytes))
    }

    /// Makes room for `needed` more bytes, sparing the model called `spare`.
    pub(super) fn make_room(
        &mut self,
        needed: u64,
        limit: u64,
        entries: &[Arc<ModelEntry>],
        spare: &str,
    ) -> Result<(), VersionError> {
        let mut used = self.used();
        // A model that could never fit must not drive out the others.
        if needed <= limit && used.saturating_add(needed) > limit {
            let mut groups: Vec<Group> =
                groups(entries, spare).into_values().filter(|group| group.idle).collect();
            groups.sort_by_key(|group| group.last_ns);
            for Group { members, operation, .. } in groups {
                drop(operation);
                for (entry, version) in &members {
                    if entry.evict(*version) {
                        tracing::info!(model = entry.name(), version, "evicted, to make room for `{spare}`");
                    }
                }
                used = self.used();
                if used.saturating_add(needed) <= limit {
                    break;
                }
            }
        }
        if used.saturating_add(needed) > limit {
            return Err(VersionError::Memory { needed, used, limit });
        }
        Ok(())
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
