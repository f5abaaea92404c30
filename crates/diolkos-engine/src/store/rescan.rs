// SPDX-License-Identifier: Apache-2.0
//! What changed on disk, and making it effective.

use std::collections::BTreeSet;
use std::path::Path;

use super::client::collect;
use super::error::StoreError;
use super::layout;
use super::loader::{Known, extensions};
use super::source::fingerprint;
use super::store::{Store, refresh};

/// What happened to a model on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChangeKind {
    /// It was not there before.
    Appeared,
    /// Its files are not what they were, or may not be.
    Changed,
    /// Its files are gone.
    Vanished,
}

/// A change on disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The model.
    pub name: Box<str>,
    /// What happened.
    pub kind: ChangeKind,
}

impl Store {
    /// Looks at the disk again. What it finds takes effect by [`Store::take_up`].
    pub fn rescan(&self) -> Vec<Change> {
        let mut control = self.control();
        collect(&mut control);
        let extensions = extensions(&self.backends);
        let mut changes = Vec::new();
        let mut found: BTreeSet<Box<str>> = BTreeSet::new();
        for dir in control.repositories.clone() {
            let scan = match layout::scan_repository(&dir, &extensions) {
                Ok(scan) => scan,
                Err(error) => {
                    // A mount that is away for a moment is no reason to drop models.
                    tracing::warn!(%error, "can't look at the repository; its models stay as they are");
                    let inside = control.known.iter().filter(|(_, known)| {
                        known.path.as_ref().is_some_and(|path| path.parent() == Some(&dir))
                    });
                    found.extend(inside.map(|(name, _)| name.clone()));
                    continue;
                }
            };
            for source in scan.models {
                let name = source.name.clone();
                let known = self.find(&name).is_some();
                found.insert(name.clone());
                if !known && self.register(&mut control, source).is_ok() {
                    changes.push(Change { name, kind: ChangeKind::Appeared });
                }
            }
            for failed in scan.errors {
                found.insert(failed.name.clone());
                if self.find(&failed.name).is_none() {
                    self.register_failed(&mut control, &failed.name, &failed.path, failed.error);
                }
            }
        }
        let appeared: BTreeSet<Box<str>> = changes.iter().map(|change| change.name.clone()).collect();
        for (name, known) in &control.known {
            let (Some(path), Some(entry)) = (&known.path, self.find(name)) else { continue };
            let kind = if !found.contains(name) && !path.exists() {
                ChangeKind::Vanished
            } else if !appeared.contains(name) && !entry.is_unloaded() && changed(known, path, &extensions) {
                ChangeKind::Changed
            } else {
                continue;
            };
            changes.push(Change { name: name.clone(), kind });
        }
        changes
    }

    /// Makes a change on disk effective: loads, loads anew, or takes out of service.
    pub fn take_up(&self, change: &Change) -> Result<(), StoreError> {
        let unknown = || StoreError::UnknownModel { name: change.name.clone() };
        match change.kind {
            ChangeKind::Appeared if self.config.lazy => Ok(()),
            ChangeKind::Appeared => self.load(&change.name).map(|_| ()),
            ChangeKind::Vanished => {
                let entry = self.find(&change.name).ok_or_else(unknown)?;
                let _control = self.control();
                entry.vanish();
                Ok(())
            }
            ChangeKind::Changed => {
                let entry = self.find(&change.name).ok_or_else(unknown)?;
                if !entry.is_cold() {
                    return self.load(&change.name).map(|_| ());
                }
                // Nobody asked for it yet, so it stays cold and only its versions are looked at.
                let mut control = self.control();
                let source = refresh(&mut control, &change.name, &extensions(&self.backends))?;
                self.register(&mut control, source)
            }
        }
    }
}

fn changed(known: &Known, path: &Path, extensions: &[&str]) -> bool {
    // What can't be read is a change that loading will explain.
    let Ok(source) = layout::scan_model(path, extensions) else { return known.source.is_some() };
    match (&known.seen, fingerprint(&source, &known.externals)) {
        (Some(before), Ok(now)) => !now.same_as(before),
        (None, _) | (_, Err(_)) => true,
    }
}
