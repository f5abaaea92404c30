// SPDX-License-Identifier: Apache-2.0
//! Finds models on disk: a single file, a model's directory, or a repository of them.
//!
//! ```text
//! digits.onnx                         model `digits`, version 1
//! models/resnet/config.pbtxt          optional
//! models/resnet/labels.txt            named by the configuration
//! models/resnet/3/model.onnx          model `resnet`, version 3
//! models/resnet/3/weights.bin         external data that the model refers to
//! models/digits.onnx                  also a model, version 1
//! ```
//!
//! A mistake in one model is an error of that model and leaves the others alone. Hidden entries are skipped.
//! Links are followed: a repository belongs to the operator.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::blob::BlobFile;
use super::config::{ConfigError, ModelConfig};
use super::limits::{
    CONFIG_BYTES_MAX, MODEL_NAME_BYTES_MAX, MODELS_PER_REPOSITORY_MAX, VERSIONS_PER_MODEL_MAX,
};
use super::manifest::{self, ReadError};

/// Name of the optional configuration in a model's directory.
pub const CONFIG_NAME: &str = "config.pbtxt";

/// Where the files of one version are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VersionSource {
    /// One file, and whatever beside it the model turns out to refer to.
    File(PathBuf),
    /// Every file below a directory.
    Directory(PathBuf),
    /// In the blob store.
    Blobs(Arc<[BlobFile]>),
}

/// Where a model is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A single file.
    File(PathBuf),
    /// A model's directory.
    Directory(PathBuf),
    /// A client or the operator gave the contents; they are in the blob store.
    Blobs,
}

/// A model that was found, not read yet.
#[derive(Clone, Debug)]
pub struct ModelSource {
    /// Its name.
    pub name: Box<str>,
    /// Where it is.
    pub origin: Origin,
    /// Its versions.
    pub versions: BTreeMap<u64, VersionSource>,
    /// Its configuration, if there is one.
    pub config: Option<Arc<ModelConfig>>,
    /// What was skipped or has no effect.
    pub notes: Vec<String>,
}

impl ModelSource {
    /// The versions that the policy selects, rising.
    #[must_use]
    pub fn selected(&self) -> Vec<u64> {
        let present: Vec<u64> = self.versions.keys().copied().collect();
        self.config.as_ref().map(|config| config.version_policy.clone()).unwrap_or_default().select(&present)
    }
}

/// Why something on disk is no model.
#[derive(Debug, thiserror::Error)]
pub enum LayoutError {
    /// The system refused.
    #[error("`{}` can't be read", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A name that no model can have.
    #[error("`{name}` can't be the name of a model: {problem}")]
    BadName {
        /// The name, shortened and escaped.
        name: String,
        /// Why not.
        problem: &'static str,
    },
    /// A file whose extension no backend knows.
    #[error("`{}` is in no format that this build loads; it loads {known}", path.display())]
    UnknownFormat {
        /// The file.
        path: PathBuf,
        /// The known extensions.
        known: String,
    },
    /// A model's directory without versions.
    #[error("`{}` has no version directory; put the model into `{}`", path.display(), path.join("1/model.onnx").display())]
    NoVersions {
        /// The model's directory.
        path: PathBuf,
    },
    /// A version without a file to begin with.
    #[error("`{}` has no `{wanted}`; it has {found}", path.display())]
    NoEntry {
        /// The version's directory.
        path: PathBuf,
        /// What should be there.
        wanted: String,
        /// What is there.
        found: String,
    },
    /// More directories than there may be.
    #[error("`{}` has more than {limit} {what}", path.display())]
    TooMany {
        /// The directory.
        path: PathBuf,
        /// The limit.
        limit: usize,
        /// Of what.
        what: &'static str,
    },
    /// Two entries of a repository make a model of the same name.
    #[error("`{}` and the model `{name}` beside it have the same name; rename one", path.display())]
    Duplicate {
        /// The second one.
        path: PathBuf,
        /// The name.
        name: Box<str>,
    },
    /// The configuration can't be used.
    #[error("{}:{source}", path.display())]
    Config {
        /// The configuration file.
        path: PathBuf,
        /// What is wrong.
        #[source]
        source: ConfigError,
    },
    /// A file can't be read.
    #[error(transparent)]
    Read(#[from] ReadError),
}

/// An entry of a repository that is no model.
#[derive(Debug)]
pub struct ScanError {
    /// The name that it would have.
    pub name: Box<str>,
    /// Where it is.
    pub path: PathBuf,
    /// Why it is none.
    pub error: LayoutError,
}

/// What a repository holds.
#[derive(Debug, Default)]
pub struct Scan {
    /// The models that were found.
    pub models: Vec<ModelSource>,
    /// What is no model.
    pub errors: Vec<ScanError>,
    /// Entries that were skipped.
    pub notes: Vec<String>,
}

/// Whether `name` can be the name of a model.
pub fn check_name(name: &str) -> Result<(), LayoutError> {
    let problem = if name.is_empty() {
        "it is empty"
    } else if name.len() > MODEL_NAME_BYTES_MAX {
        "it is longer than 200 bytes"
    } else if name.contains(['/', '\\']) {
        "it contains a slash"
    } else if name.starts_with('.') {
        "it begins with a dot"
    } else if name.chars().any(char::is_control) {
        "it contains a control character"
    } else if name.trim() != name {
        "it begins or ends with a space"
    } else {
        return Ok(());
    };
    Err(LayoutError::BadName {
        name: name.chars().take(64).collect::<String>().escape_debug().to_string(),
        problem,
    })
}

/// A single model file, or the directory of one model.
pub fn scan_model(path: &Path, extensions: &[&str]) -> Result<ModelSource, LayoutError> {
    let failed = |source| LayoutError::Io { path: path.into(), source };
    // Links keep their own names, so that `latest.onnx` can be pointed elsewhere; only `.` and `..` are resolved.
    let plain = std::path::absolute(path).map_err(failed)?;
    let path = if plain.file_name().is_some() { plain } else { plain.canonicalize().map_err(failed)? };
    std::fs::metadata(&path).map_err(|source| LayoutError::Io { path: path.clone(), source })?;
    if path.is_dir() { scan_directory(&path) } else { scan_file(&path, extensions) }
}

/// Every model of a repository.
pub fn scan_repository(dir: &Path, extensions: &[&str]) -> Result<Scan, LayoutError> {
    let mut scan = Scan::default();
    let mut names = BTreeSet::new();
    for (name, path) in entries(dir, MODELS_PER_REPOSITORY_MAX, "entries")? {
        if !path.is_dir() && extension_of(&path, extensions).is_none() {
            scan.notes.push(format!("`{}` is no model and was skipped", path.display()));
            continue;
        }
        let found = if path.is_dir() { scan_directory(&path) } else { scan_file(&path, extensions) };
        match found {
            Ok(model) if names.contains(&model.name) => {
                let error = LayoutError::Duplicate { path: path.clone(), name: model.name.clone() };
                scan.errors.push(ScanError { name: model.name, path, error });
            }
            Ok(model) => {
                names.insert(model.name.clone());
                scan.models.push(model);
            }
            Err(error) => {
                names.insert(name.as_str().into());
                scan.errors.push(ScanError { name: name.into(), path, error });
            }
        }
    }
    Ok(scan)
}

/// The visible entries of a directory, sorted.
fn entries(dir: &Path, limit: usize, what: &'static str) -> Result<BTreeMap<String, PathBuf>, LayoutError> {
    let failed = |source: io::Error| LayoutError::Io { path: dir.into(), source };
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(dir).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.starts_with('.') {
            continue;
        }
        if found.len() >= limit {
            return Err(LayoutError::TooMany { path: dir.into(), limit, what });
        }
        found.insert(name, entry.path());
    }
    Ok(found)
}

fn extension_of<'a>(path: &Path, extensions: &[&'a str]) -> Option<&'a str> {
    let given = path.extension()?.to_str()?;
    extensions.iter().copied().find(|known| known.eq_ignore_ascii_case(given))
}

fn scan_file(path: &Path, extensions: &[&str]) -> Result<ModelSource, LayoutError> {
    if extension_of(path, extensions).is_none() {
        let known: Vec<String> = extensions.iter().map(|extension| format!(".{extension}")).collect();
        return Err(LayoutError::UnknownFormat { path: path.into(), known: known.join(", ") });
    }
    let name = path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
    check_name(&name)?;
    Ok(ModelSource {
        name: name.into(),
        origin: Origin::File(path.into()),
        versions: [(1, VersionSource::File(path.into()))].into(),
        config: None,
        notes: Vec::new(),
    })
}

fn scan_directory(path: &Path) -> Result<ModelSource, LayoutError> {
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    check_name(&name)?;
    let mut notes = Vec::new();
    let config = read_config(path, &name, &mut notes)?;
    let mut versions = BTreeMap::new();
    // Beside versions there are the configuration, labels and whatever an operator likes to keep.
    for (entry, entry_path) in entries(path, 2 * VERSIONS_PER_MODEL_MAX, "entries")? {
        if !entry_path.is_dir() {
            continue;
        }
        match version_of(&entry) {
            Some(version) => {
                versions.insert(version, VersionSource::Directory(entry_path));
            }
            None => notes.push(format!("`{}` is no version and was skipped", entry_path.display())),
        }
        if versions.len() > VERSIONS_PER_MODEL_MAX {
            return Err(LayoutError::TooMany {
                path: path.into(),
                limit: VERSIONS_PER_MODEL_MAX,
                what: "versions",
            });
        }
    }
    if versions.is_empty() {
        return Err(LayoutError::NoVersions { path: path.into() });
    }
    Ok(ModelSource {
        name: name.into(),
        origin: Origin::Directory(path.into()),
        versions,
        config: config.map(Arc::new),
        notes,
    })
}

/// The number that a version's directory is named after: plain decimal, from 1.
fn version_of(name: &str) -> Option<u64> {
    let plain = name.bytes().all(|byte| byte.is_ascii_digit()) && !name.starts_with('0');
    name.parse().ok().filter(|_| plain)
}

fn read_config(dir: &Path, name: &str, notes: &mut Vec<String>) -> Result<Option<ModelConfig>, LayoutError> {
    let path = dir.join(CONFIG_NAME);
    if !path.exists() {
        return Ok(None);
    }
    let text = manifest::read_file(&path, CONFIG_BYTES_MAX as u64)?;
    parse_config(&text, name, &path, notes).map(Some)
}

/// Reads a configuration, which may name no other model than `name`.
pub fn parse_config(
    text: &[u8],
    name: &str,
    path: &Path,
    notes: &mut Vec<String>,
) -> Result<ModelConfig, LayoutError> {
    let failed = |source| LayoutError::Config { path: path.into(), source };
    let (config, found) = ModelConfig::parse(text).map_err(failed)?;
    notes.extend(found.iter().map(|note| format!("{}:{}: {}", path.display(), note.pos, note.message)));
    match &config.name {
        Some((given, pos)) if **given != *name => {
            let given = given.escape_debug();
            let message =
                format!("the name is `{given}` here and the model is called `{name}`; leave it out");
            Err(failed(ConfigError { pos: *pos, message }))
        }
        _ => Ok(config),
    }
}

/// Which of a version's files to begin with.
pub fn entry_of(
    names: &[&str],
    config: Option<&ModelConfig>,
    extensions: &[&str],
    dir: &Path,
) -> Result<String, LayoutError> {
    let missing = |wanted: String| {
        let mut found: Vec<String> =
            names.iter().take(8).map(|name| format!("`{}`", name.escape_debug())).collect();
        if found.is_empty() {
            found.push("no files".to_owned());
        }
        LayoutError::NoEntry { path: dir.into(), wanted, found: found.join(", ") }
    };
    if let Some(wanted) = config.and_then(|config| config.default_model_filename.as_deref()) {
        return names
            .iter()
            .find(|name| **name == wanted)
            .map(|name| (*name).to_owned())
            .ok_or_else(|| missing(wanted.into()));
    }
    let of_format = |extension: &&str| format!("model.{extension}");
    extensions
        .iter()
        .map(of_format)
        .find(|wanted| names.contains(&wanted.as_str()))
        .ok_or_else(|| missing(extensions.iter().map(of_format).collect::<Vec<_>>().join("` or `")))
}

#[cfg(test)]
#[path = "layout_tests.rs"]
mod tests;
