// SPDX-License-Identifier: Apache-2.0
//! Models by name. A name means something in a namespace; today there is only the shared one.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, PoisonError, RwLock};

use super::entry::ModelEntry;

/// Where a name means something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Namespace {
    /// What the operator installed, for everybody.
    Shared,
}

type Names = HashMap<Box<str>, Arc<ModelEntry>>;

/// Entries by namespace and name. Finding one takes a read lock and allocates nothing.
#[derive(Debug, Default)]
pub(super) struct Registry {
    names: RwLock<BTreeMap<Namespace, Names>>,
}

impl Registry {
    /// The entry, unless its model is gone.
    pub(super) fn find(&self, namespace: Namespace, name: &str) -> Option<Arc<ModelEntry>> {
        self.any(namespace, name).filter(|entry| !entry.is_gone())
    }

    /// The entry, even if its model is gone. Handles that outlive a model's absence find it again this way.
    pub(super) fn any(&self, namespace: Namespace, name: &str) -> Option<Arc<ModelEntry>> {
        let names = self.names.read().unwrap_or_else(PoisonError::into_inner);
        names.get(&namespace)?.get(name).cloned()
    }

    pub(super) fn insert(&self, namespace: Namespace, entry: &Arc<ModelEntry>) {
        let mut names = self.names.write().unwrap_or_else(PoisonError::into_inner);
        names.entry(namespace).or_default().insert(entry.name().into(), entry.clone());
    }

    /// All entries, by name.
    pub(super) fn all(&self) -> Vec<Arc<ModelEntry>> {
        let names = self.names.read().unwrap_or_else(PoisonError::into_inner);
        let mut all: Vec<Arc<ModelEntry>> = names.values().flat_map(HashMap::values).cloned().collect();
        all.sort_by(|a, b| a.name().cmp(b.name()));
        all
    }
}
