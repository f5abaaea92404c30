// SPDX-License-Identifier: Apache-2.0
//! What goes wrong in the store, and what a client may learn of it.

use std::io;
use std::path::{Path, PathBuf};

use diolkos_backend::LoadError;
use diolkos_types::{Code, Status};
use rustix::io::Errno;

use super::blob::BlobError;
use super::config::ConfigError;
use super::layout::LayoutError;
use super::limits::LOAD_RETRY_HINT;
use super::manifest::ReadError;
use super::rehearse::RehearsalError;

/// Why the store did not do something.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// No model of this name.
    #[error("unknown model `{name}`")]
    UnknownModel {
        /// The name.
        name: Box<str>,
    },
    /// Two sources for one name.
    #[error("the name `{name}` is taken by {by}; choose another")]
    NameTaken {
        /// The name.
        name: Box<str>,
        /// What has it.
        by: &'static str,
    },
    /// A built-in operation can't be loaded or unloaded.
    #[error("`{name}` is a built-in operation, which is always ready")]
    Builtin {
        /// The name.
        name: Box<str>,
    },
    /// Only what a client loaded can be removed.
    #[error(
        "the operator installed `{name}`, so only the operator can remove it, on disk; unload it instead"
    )]
    NotRemovable {
        /// The name.
        name: Box<str>,
    },
    /// Clients may not send contents.
    #[error("loading a model from a request is off; the operator turns it on with models.client_load = true")]
    ClientLoadOff,
    /// There is no place for contents that clients send.
    #[error("loading a model from a request needs a place to keep it; the operator sets models.store_dir")]
    NoContentStore,
    /// What a client sent is no model.
    #[error("the files for `{name}` are refused: {problem}")]
    ClientFiles {
        /// The model's name.
        name: Box<str>,
        /// What is wrong.
        problem: String,
    },
    /// What is on disk is no model.
    #[error("model `{name}`: {source}")]
    Layout {
        /// The model's name.
        name: Box<str>,
        /// What is wrong.
        #[source]
        source: LayoutError,
    },
    /// The version policy selects nothing that is there.
    #[error("model `{name}`: its version policy selects none of the versions {present:?}")]
    NothingSelected {
        /// The model's name.
        name: Box<str>,
        /// What is there.
        present: Vec<u64>,
    },
    /// A version could not be loaded.
    #[error("model `{name}` version {version}: {source}{still}")]
    Version {
        /// The model's name.
        name: Box<str>,
        /// The version.
        version: u64,
        /// Why.
        #[source]
        source: Box<VersionError>,
        /// What serves instead, as the end of the sentence.
        still: &'static str,
    },
    /// A repository or file can't be looked at.
    #[error("{}", of_root(path, source))]
    Root {
        /// The path.
        path: PathBuf,
        /// Why.
        #[source]
        source: LayoutError,
    },
    /// The content store failed.
    #[error(transparent)]
    Blob(#[from] BlobError),
}

/// Why one version could not be loaded.
#[derive(Debug, thiserror::Error)]
pub enum VersionError {
    /// Its files can't be read.
    #[error("{0}")]
    Read(#[from] ReadError),
    /// Its files are not laid out as they should be.
    #[error("{0}")]
    Layout(#[from] LayoutError),
    /// Its contents are not in the content store as they should be.
    #[error("{0}")]
    Blob(#[from] BlobError),
    /// Its format is none that a backend loads.
    #[error("`{file}` is in no format that this build loads; it loads {known}")]
    UnknownFormat {
        /// The file.
        file: String,
        /// The known extensions.
        known: String,
    },
    /// It did not pass its rehearsal.
    #[error("{0}")]
    Rehearsal(#[from] RehearsalError),
    /// It passed its rehearsal and the daemon could not load it.
    #[error("{0}")]
    Load(LoadError),
    /// The backend panicked in the daemon.
    #[error("the {backend} backend panicked: {message}")]
    Panicked {
        /// Name of the backend.
        backend: &'static str,
        /// What it said.
        message: String,
    },
    /// The configuration contradicts the file.
    #[error("{file}:{source}")]
    Config {
        /// Name of the configuration.
        file: String,
        /// What contradicts.
        #[source]
        source: ConfigError,
    },
    /// A file of labels is not as it should be.
    #[error("the labels in `{file}` {problem}")]
    Labels {
        /// The file.
        file: String,
        /// What is wrong, as the end of the sentence.
        problem: &'static str,
    },
    /// It does not fit into memory beside models that are in use.
    #[error(
        "it needs {needed} bytes, and {used} of {limit} are held by models in use; unload one or raise models.memory_max"
    )]
    Memory {
        /// Bytes that it needs.
        needed: u64,
        /// Bytes that can't be freed.
        used: u64,
        /// The limit.
        limit: u64,
    },
    /// It does not fit into what may be loaded for the tenant that asked.
    #[error(
        "it needs {needed} bytes, and {used} of {limit} that may be loaded for your tenant (`models_memory_max`) are models in use"
    )]
    Share {
        /// Bytes that it needs.
        needed: u64,
        /// Bytes that can't be freed.
        used: u64,
        /// The limit.
        limit: u64,
    },
}

impl StoreError {
    /// Whether it is only about the tenant that asked.
    #[must_use]
    pub fn is_share(&self) -> bool {
        matches!(self, StoreError::Version { source, .. } if matches!(**source, VersionError::Share { .. }))
    }

    /// Whether it may pass by itself, so that the next request for the model tries again.
    #[must_use]
    pub fn is_passing(&self) -> bool {
        match self {
            StoreError::Version { source, .. } => source.is_passing(),
            StoreError::Layout { source, .. } | StoreError::Root { source, .. } => layout_passes(source),
            StoreError::Blob(error) => blob_passes(error),
            StoreError::UnknownModel { .. }
            | StoreError::NameTaken { .. }
            | StoreError::Builtin { .. }
            | StoreError::NotRemovable { .. }
            | StoreError::ClientLoadOff
            | StoreError::NoContentStore
            | StoreError::ClientFiles { .. }
            | StoreError::NothingSelected { .. } => false,
        }
    }

    /// What a client learns. Paths on the host, and what the system said about them, are the operator's business.
    #[must_use]
    pub fn to_status(&self) -> Status {
        let full = || self.to_string();
        match self {
            StoreError::UnknownModel { .. } => Status::new(Code::NotFound, full()),
            StoreError::NameTaken { .. }
            | StoreError::Builtin { .. }
            | StoreError::NotRemovable { .. }
            | StoreError::ClientFiles { .. } => Status::invalid(full()),
            StoreError::ClientLoadOff | StoreError::NoContentStore => {
                Status::new(Code::PermissionDenied, full())
            }
            StoreError::Layout { name, source } => {
                Status::invalid(format!("model `{name}`: {}", of_layout(source)))
            }
            StoreError::NothingSelected { .. } => Status::invalid(full()),
            StoreError::Version { name, version, source, still } => {
                let (code, text) = of_version(source);
                let text = format!("model `{name}` version {version}: {text}{still}");
                match code {
                    Code::Busy => Status::busy(text, LOAD_RETRY_HINT),
                    code => Status::new(code, text),
                }
            }
            StoreError::Root { .. } => Status::new(Code::Internal, HOST_FILES),
            StoreError::Blob(error) => {
                let (code, text) = of_blob(error);
                Status::new(code, text)
            }
        }
    }
}

impl VersionError {
    /// Whether it may pass by itself. What only bigger limits, other files or another build would change does not.
    #[must_use]
    pub fn is_passing(&self) -> bool {
        match self {
            // One that is larger than all of the memory never fits.
            VersionError::Memory { needed, limit, .. } => needed <= limit,
            // Another tenant may have room for it.
            VersionError::Share { .. } => true,
            VersionError::Rehearsal(error) => matches!(error, RehearsalError::Io { .. }),
            VersionError::Read(error) => read_passes(error),
            VersionError::Layout(error) => layout_passes(error),
            VersionError::Blob(error) => blob_passes(error),
            VersionError::UnknownFormat { .. }
            | VersionError::Load(_)
            | VersionError::Panicked { .. }
            | VersionError::Config { .. }
            | VersionError::Labels { .. } => false,
        }
    }
}

/// Whether the system lacked something that comes back.
fn io_passes(error: &io::Error) -> bool {
    matches!(
        Errno::from_io_error(error),
        Some(Errno::MFILE | Errno::NFILE | Errno::NOMEM | Errno::NOBUFS | Errno::AGAIN | Errno::INTR)
    )
}

fn read_passes(error: &ReadError) -> bool {
    matches!(error, ReadError::Io { source, .. } if io_passes(source))
}

fn layout_passes(error: &LayoutError) -> bool {
    match error {
        LayoutError::Io { source, .. } => io_passes(source),
        LayoutError::Read(error) => read_passes(error),
        _ => false,
    }
}

fn blob_passes(error: &BlobError) -> bool {
    match error {
        BlobError::Io { source, .. } => io_passes(source),
        BlobError::Read(error) => read_passes(error),
        _ => false,
    }
}

/// Only a bad name says nothing about where it was found.
fn of_root(path: &Path, source: &LayoutError) -> String {
    match source {
        LayoutError::BadName { .. } => format!("can't use `{}`: {source}", path.display()),
        _ => source.to_string(),
    }
}

const HOST_FILES: &str = "its files can't be used as they are; the daemon's log says why";

fn of_layout(error: &LayoutError) -> String {
    match error {
        LayoutError::BadName { .. } => error.to_string(),
        LayoutError::Config { source, .. } => format!("config.pbtxt:{source}"),
        LayoutError::NoEntry { wanted, found, .. } => format!("there is no `{wanted}`; there is {found}"),
        LayoutError::NoVersions { .. } => "it has no version directory".to_owned(),
        LayoutError::Io { .. }
        | LayoutError::UnknownFormat { .. }
        | LayoutError::TooMany { .. }
        | LayoutError::Duplicate { .. }
        | LayoutError::Read(_) => HOST_FILES.to_owned(),
    }
}

fn of_version(error: &VersionError) -> (Code, String) {
    let full = || error.to_string();
    match error {
        VersionError::Read(ReadError::TooLarge { limit, .. }) => {
            (Code::TooLarge, format!("its files are larger than {limit} bytes, which is the limit"))
        }
        VersionError::Read(_) => (Code::Internal, HOST_FILES.to_owned()),
        VersionError::Layout(error) => (Code::InvalidArgument, of_layout(error)),
        VersionError::Blob(error) => of_blob(error),
        VersionError::UnknownFormat { .. } | VersionError::Config { .. } | VersionError::Labels { .. } => {
            (Code::InvalidArgument, full())
        }
        VersionError::Rehearsal(error) => of_rehearsal(error),
        VersionError::Load(error) => (of_load(error), full()),
        VersionError::Panicked { .. } => (Code::Internal, full()),
        VersionError::Memory { .. } if error.is_passing() => (Code::Busy, full()),
        VersionError::Memory { .. } => (Code::TooLarge, full()),
        VersionError::Share { needed, limit, .. } if needed <= limit => (Code::Busy, full()),
        VersionError::Share { .. } => (Code::TooLarge, full()),
    }
}

fn of_load(error: &LoadError) -> Code {
    match error {
        LoadError::Invalid { .. } | LoadError::MissingFile { .. } => Code::InvalidArgument,
        LoadError::Unsupported { .. } => Code::Unsupported,
        LoadError::TooLarge { .. } => Code::TooLarge,
    }
}

fn of_rehearsal(error: &RehearsalError) -> (Code, String) {
    let code = match error {
        RehearsalError::Io { .. }
        | RehearsalError::NoVerdict { .. }
        | RehearsalError::UnknownBackend { .. } => Code::Internal,
        RehearsalError::Memory { .. } | RehearsalError::Cpu { .. } | RehearsalError::Time { .. } => {
            Code::TooLarge
        }
        RehearsalError::StackOverflow { .. }
        | RehearsalError::Signal { .. }
        | RehearsalError::Panic { .. } => Code::InvalidArgument,
        RehearsalError::Load(error) => of_load(error),
    };
    (code, error.to_string())
}

fn of_blob(error: &BlobError) -> (Code, String) {
    match error {
        BlobError::Quota { .. } | BlobError::TooManyReferences => (Code::TooLarge, error.to_string()),
        BlobError::Damaged { .. } | BlobError::Missing { .. } => (Code::Unavailable, error.to_string()),
        BlobError::Io { .. } | BlobError::InUse { .. } | BlobError::Reference { .. } | BlobError::Read(_) => {
            (Code::Internal, HOST_FILES.to_owned())
        }
    }
}
