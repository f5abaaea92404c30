// SPDX-License-Identifier: Apache-2.0
//! The two traits: [`Backend`] loads, [`Operation`] runs.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use diolkos_types::{Shape, Signature};

use crate::{LoadError, RunError, Work};

/// A file format that a backend loads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Format {
    /// File name extension without the dot, such as `onnx`.
    pub extension: &'static str,
    /// What fronts report as the model's platform, such as `onnx_tract`.
    pub platform: &'static str,
}

/// The files of one model version, read once. What was hashed is what is loaded.
#[derive(Clone, Debug, Default)]
pub struct ModelFiles {
    /// Name of the file to begin with, a key of `files`.
    pub entry: String,
    /// Name relative to the version's directory → contents.
    pub files: BTreeMap<String, Bytes>,
}

impl ModelFiles {
    /// A model that is one file.
    #[must_use]
    pub fn single(name: &str, contents: impl Into<Bytes>) -> ModelFiles {
        ModelFiles { entry: name.into(), files: [(name.into(), contents.into())].into() }
    }

    /// The contents of the file to begin with.
    pub fn entry_contents(&self) -> Result<&Bytes, LoadError> {
        self.get(&self.entry)
    }

    /// The contents of a file that the model refers to.
    pub fn get(&self, name: &str) -> Result<&Bytes, LoadError> {
        self.files.get(name).ok_or_else(|| LoadError::MissingFile { name: name.into() })
    }

    /// All bytes together.
    #[must_use]
    pub fn total_bytes(&self) -> u64 {
        self.files.values().map(|contents| contents.len() as u64).sum()
    }
}

/// What the daemon wants of a load.
#[derive(Clone, Debug)]
pub struct LoadOptions {
    /// Longest length of a dimension that the model leaves open. Goes into the signature.
    pub variable_dim_max: u64,
    /// Most bytes that the loaded model may keep resident.
    pub resident_bytes_max: u64,
}

/// Loads models of some formats.
///
/// Contract, each item tested by [`crate::conformance`]:
///
/// * `load` never panics, whatever the bytes are; damaged files are [`LoadError::Invalid`].
/// * `load` touches no file system and no network: all it may read is in [`ModelFiles`].
/// * Loading the same files twice gives operations with equal signatures and equal answers.
pub trait Backend: Send + Sync {
    /// Short name, used in metrics and messages.
    fn name(&self) -> &'static str;

    /// What it loads.
    fn formats(&self) -> &[Format];

    /// Loads a model.
    fn load(&self, files: &ModelFiles, options: &LoadOptions) -> Result<Arc<dyn Operation>, LoadError>;
}

/// A function from named tensors to named tensors.
///
/// Contract, each item tested by [`crate::conformance`]:
///
/// * `signature` never changes, and names are unique among inputs and among outputs.
/// * `run` may be called from several threads at once.
/// * The engine has checked types, shapes and byte counts against the signature; values are unchecked.
///   `run` never panics for any value.
/// * Inputs may lie in memory that is not a slice ([`crate::Buffer::as_slice`] is `None`), in several
///   extents, and at any alignment.
/// * On `Ok`, every wanted output was given once, with the declared type and a shape that fits.
/// * Work that is cancelled before it runs gives [`RunError::Cancelled`] or a full answer, nothing between.
/// * `run` marks where computing begins and ends.
/// * The same inputs give the same outputs.
pub trait Operation: Send + Sync {
    /// Which tensors it takes and gives.
    fn signature(&self) -> &Signature;

    /// Bytes that it keeps while loaded: weights, plans, caches.
    fn resident_bytes(&self) -> u64;

    /// Most bytes that a run needs on top of its inputs, outputs included. `shapes` are the inputs' in the
    /// order of the signature, and `input_bytes` is the size of all their payloads together. `None` when it
    /// can't be told; the engine then assumes the worst it allows, which is a whole request's limit.
    fn peak_bytes(&self, shapes: &[Option<Shape>], input_bytes: u64) -> Option<u64>;

    /// Whether a run costs about as much for each row of an open first dimension, whichever number of rows the last runs had. Not
    /// where something is made ready for each shape anew; then the engine never runs several requests together.
    fn takes_any_rows(&self) -> bool {
        true
    }

    /// Runs.
    fn run(&self, work: &mut Work) -> Result<(), RunError>;
}
