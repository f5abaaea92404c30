// SPDX-License-Identifier: Apache-2.0
//! Reads what one version is made of: its files, and the labels of its outputs.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use diolkos_backend::ModelFiles;
use diolkos_types::Signature;

use super::blob::BlobStore;
use super::config::ModelConfig;
use super::error::VersionError;
use super::fingerprint::Fingerprint;
use super::layout::{self, CONFIG_NAME, ModelSource, Origin, VersionSource};
use super::limits::LABELS_BYTES_MAX;
use super::manifest::{self, ReadError, is_plain_relative};

/// The files of a version.
pub(super) fn read_version(
    source: &VersionSource,
    config: Option<&ModelConfig>,
    extensions: &[&str],
    limit: u64,
    blobs: Option<&mut BlobStore>,
) -> Result<ModelFiles, VersionError> {
    let entry_of = |files: &BTreeMap<String, _>, dir: &Path| {
        let names: Vec<&str> = files.keys().map(String::as_str).collect();
        layout::entry_of(&names, config, extensions, dir)
    };
    match source {
        VersionSource::File(path) => {
            let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            Ok(ModelFiles::single(&name, manifest::read_file(path, limit)?))
        }
        VersionSource::Directory(dir) => {
            let files = manifest::read_directory(dir, limit)?;
            Ok(ModelFiles { entry: entry_of(&files, dir)?, files })
        }
        VersionSource::Blobs(list) => {
            let mut files = BTreeMap::new();
            let blobs = blobs.expect("only a content store makes sources of this kind");
            for file in &**list {
                files.insert(file.name.to_string(), blobs.get(&file.digest)?);
            }
            Ok(ModelFiles { entry: entry_of(&files, Path::new("its files"))?, files })
        }
    }
}

/// Adds a file that the model refers to, and that lies beside its one file. `false` if there is none.
pub(super) fn add_external(
    files: &mut ModelFiles,
    beside: &Path,
    name: &str,
    limit: u64,
) -> Result<Option<PathBuf>, ReadError> {
    // The name comes out of the model's own bytes, and may not lead out of its directory.
    if !is_plain_relative(name) || files.files.contains_key(name) {
        return Ok(None);
    }
    let path = beside.with_file_name(name);
    if !path.exists() {
        return Ok(None);
    }
    let left = limit.saturating_sub(files.total_bytes());
    files.files.insert(name.to_owned(), manifest::read_file(&path, left)?);
    Ok(Some(path))
}

/// The labels of each output, where the configuration names a file of them.
pub(super) fn read_labels(
    source: &ModelSource,
    files: &ModelFiles,
    signature: &Signature,
) -> Result<Vec<Option<Arc<[String]>>>, VersionError> {
    let mut labels = vec![None; signature.outputs.len()];
    for output in source.config.iter().flat_map(|config| &config.outputs) {
        let (Some(file), Some(index)) =
            (output.label_filename.as_deref(), signature.output_index(&output.name))
        else {
            continue;
        };
        let refused = |problem| VersionError::Labels { file: file.to_owned(), problem };
        let text = match &source.origin {
            Origin::Directory(dir) => manifest::read_file(&dir.join(file), LABELS_BYTES_MAX as u64)?,
            Origin::File(_) | Origin::Blobs => {
                files.files.get(file).cloned().ok_or_else(|| refused("are not among the model's files"))?
            }
        };
        if text.len() > LABELS_BYTES_MAX {
            return Err(refused("are longer than 4 MiB"));
        }
        let text = std::str::from_utf8(&text).map_err(|_| refused("are not UTF-8"))?;
        labels[index] = Some(text.lines().map(|line| line.trim_end().to_owned()).collect());
    }
    Ok(labels)
}

/// The stamps of everything that makes a model on disk.
pub(super) fn fingerprint(source: &ModelSource, externals: &[PathBuf]) -> Result<Fingerprint, ReadError> {
    let mut print = Fingerprint::new();
    if let Origin::Directory(dir) = &source.origin {
        print.add(&dir.join(CONFIG_NAME))?;
        for output in source.config.iter().flat_map(|config| &config.outputs) {
            if let Some(labels) = &output.label_filename {
                print.add(&dir.join(&**labels))?;
            }
        }
    }
    for version in source.versions.values() {
        match version {
            VersionSource::File(path) => print.add(path)?,
            VersionSource::Directory(dir) => {
                // An empty version counts, too: its stamp changes when a file comes.
                print.add(dir)?;
                print.add_directory(dir)?;
            }
            VersionSource::Blobs(_) => {}
        }
    }
    externals.iter().try_for_each(|path| print.add(path))?;
    Ok(print)
}
