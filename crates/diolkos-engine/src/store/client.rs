// SPDX-License-Identifier: Apache-2.0
//! Models whose contents a client sends: checked, kept in the content store, and served all or not at all.
//!
//! Order, so that a crash at any moment leaves the old model or the new one: contents are stored, named by
//! nothing; every version is loaded; the reference is replaced; only then do the new versions serve.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;

use super::blob::BlobFile;
use super::entry::ModelEntry;
use super::error::StoreError;
use super::layout::{self, ModelSource};
use super::limits::{BLOB_GRACE, FILES_PER_VERSION_MAX, VERSIONS_PER_MODEL_MAX};
use super::loader::{Control, Known};
use super::manifest::is_plain_relative;
use super::reference::Reference;
use super::source::fingerprint;
use super::store::{LoadReport, SHARED, Store, publish, source_of, still_serving};

/// The contents of a model that a client sent.
#[derive(Clone, Debug, Default)]
pub struct ClientFiles {
    /// Contents by version and name inside the version.
    pub files: BTreeMap<(u64, String), Bytes>,
    /// A configuration, in the text format or in its JSON form.
    pub config: Option<Bytes>,
}

impl Store {
    /// Loads a model from contents that a client sent, and keeps them. All of it takes effect, or nothing.
    pub fn load_files(&self, name: &str, files: ClientFiles) -> Result<LoadReport, StoreError> {
        if !self.config.client_load {
            return Err(StoreError::ClientLoadOff);
        }
        let mut control = self.control();
        let (reference, source) = self.stage(&mut control, name, files)?;
        let selected = source.selected();
        if selected.is_empty() {
            let present = source.versions.keys().copied().collect();
            return Err(StoreError::NothingSelected { name: name.into(), present });
        }
        let existing = self.registry.any(SHARED, name);
        // Not in the registry until it is a model, so that refused ones leave nothing behind.
        let entry = existing.unwrap_or_else(|| Arc::new(ModelEntry::new(name, None)));
        let mut prepared = Vec::new();
        for &version in &selected {
            match self.prepare(&mut control, &entry, &source, version, None) {
                Ok(version) => prepared.push(version),
                Err(error) => {
                    let still = still_serving(&entry);
                    selected.iter().for_each(|version| entry.abandon(*version));
                    return Err(StoreError::Version {
                        name: name.into(),
                        version,
                        source: error.into(),
                        still,
                    });
                }
            }
        }
        let blobs = control.blobs.as_mut().ok_or(StoreError::NoContentStore)?;
        if let Err(error) = blobs.set_reference(name, reference) {
            selected.iter().for_each(|version| entry.abandon(*version));
            return Err(error.into());
        }
        entry.select(&selected, false);
        let mut report =
            LoadReport { name: name.into(), notes: source.notes.clone(), ..LoadReport::default() };
        report.versions = prepared.into_iter().map(|version| publish(&entry, version)).collect();
        report.retired = entry.retire_unwanted();
        self.registry.insert(SHARED, &entry);
        let seen = fingerprint(&source, &[]).ok();
        control.known.insert(name.into(), Known { source: Some(source), seen, ..Known::default() });
        Ok(report)
    }

    /// Checks what a client sent and stores it, named by nothing yet.
    fn stage(
        &self,
        control: &mut Control,
        name: &str,
        files: ClientFiles,
    ) -> Result<(Reference, ModelSource), StoreError> {
        let refused = |problem: String| StoreError::ClientFiles { name: name.into(), problem };
        layout::check_name(name).map_err(|source| StoreError::Layout { name: name.into(), source })?;
        if let Some(entry) = self.registry.find(SHARED, name) {
            let by_client = control.known.get(name).is_some_and(|known| known.path.is_none());
            if entry.is_builtin() || !by_client {
                return Err(StoreError::NameTaken { name: name.into(), by: "what the operator installed" });
            }
        }
        let mut total = files.config.as_ref().map_or(0, |config| config.len() as u64);
        let mut counts: BTreeMap<u64, usize> = BTreeMap::new();
        for ((version, file), contents) in &files.files {
            if *version == 0 || !is_plain_relative(file) || file.chars().any(char::is_control) {
                let file: String = file.chars().take(80).collect();
                return Err(refused(format!("`{version}/{}` is no file of a version", file.escape_debug())));
            }
            total = total.saturating_add(contents.len() as u64);
            *counts.entry(*version).or_default() += 1;
        }
        if total > self.config.file_bytes_max {
            let limit = self.config.file_bytes_max;
            return Err(refused(format!("they have {total} bytes and the limit is {limit}")));
        }
        if counts.is_empty()
            || counts.len() > VERSIONS_PER_MODEL_MAX
            || counts.values().any(|count| *count > FILES_PER_VERSION_MAX)
        {
            return Err(refused("there must be some files, and not thousands".to_owned()));
        }
        let mut notes = Vec::new();
        let config = match &files.config {
            Some(text) => {
                let config = layout::parse_config(text, name, Path::new("config"), &mut notes)
                    .map_err(|source| StoreError::Layout { name: name.into(), source })?;
                Some(Arc::new(config))
            }
            None => None,
        };
        let blobs = control.blobs.as_mut().ok_or(StoreError::NoContentStore)?;
        let mut versions: BTreeMap<u64, Vec<BlobFile>> = BTreeMap::new();
        for ((version, file), contents) in files.files {
            let digest = blobs.put(&contents)?;
            versions.entry(version).or_default().push(BlobFile { name: file.into(), digest });
        }
        let versions: BTreeMap<u64, Arc<[BlobFile]>> =
            versions.into_iter().map(|(version, files)| (version, files.into())).collect();
        let digest = files.config.map(|text| blobs.put(&text)).transpose()?;
        let reference = Reference { versions, config: digest, unloaded: false };
        let source = source_of(name, &reference, config, notes);
        Ok((reference, source))
    }

    /// Forgets a model whose contents a client gave, and frees their place on disk. Jobs that bound it go on.
    ///
    /// What the operator installed is refused.
    pub fn remove(&self, name: &str) -> Result<(), StoreError> {
        let mut control = self.control();
        let unknown = || StoreError::UnknownModel { name: name.into() };
        let entry = self.find(name).ok_or_else(unknown)?;
        if entry.is_builtin() {
            return Err(StoreError::Builtin { name: name.into() });
        }
        // A reference may be there although the operator's model has the name, where both came to be.
        let by_client = control.known.get(name).is_some_and(|known| known.path.is_none());
        let blobs = control.blobs.as_mut().filter(|_| by_client);
        let removed = blobs.map(|blobs| blobs.remove_reference(name)).transpose()?;
        if removed != Some(true) {
            return Err(StoreError::NotRemovable { name: name.into() });
        }
        entry.vanish();
        control.known.remove(name);
        collect(&mut control);
        Ok(())
    }
}

/// Removes contents that nothing names.
pub(super) fn collect(control: &mut Control) {
    let Some(blobs) = control.blobs.as_mut() else { return };
    match blobs.collect(SystemTime::now(), BLOB_GRACE) {
        Ok(collected) if collected.blobs > 0 => {
            tracing::info!(
                blobs = collected.blobs,
                bytes = collected.bytes,
                "collected unreferenced contents"
            );
        }
        Ok(_) => {}
        Err(error) => tracing::warn!(%error, "collecting unreferenced contents failed"),
    }
}
