// SPDX-License-Identifier: Apache-2.0
//! The on-disk content store, for models whose contents a client or an operator's command gave.
//!
//! ```text
//! <dir>/lock                one daemon at a time
//! <dir>/blobs/<sha256>      contents, named by what they are
//! <dir>/refs/<model>.ref    which blobs make a model
//! <dir>/tmp/…               being written; emptied at start
//! <dir>/quarantine/…        found damaged; never served, kept for a while for whoever wants to know why
//! ```
//!
//! Invariants:
//!
//! * A name under `blobs/` or `refs/` appears only by a rename of a file whose contents were synced before,
//!   and the directory is synced after. So at any crash each name holds all of its contents or is absent.
//! * A reference is written after every blob that it names, so no reference ever dangles by a crash.
//! * What is read is hashed again; a blob that does not match its name is moved away and reported.
//! * `used` never exceeds the quota by a put. What is in quarantine counts, and goes with a collection.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use diolkos_types::Digest;
use rustix::fs::FlockOperation;

use super::file_ops::{FileOps, RealFiles};
use super::limits::{BLOB_GRACE, REFERENCE_BYTES_MAX, REFERENCES_MAX};
use super::manifest::{ReadError, digest_of, read_file};
use super::reference::{Reference, ReferenceError};

pub use super::reference::BlobFile;

/// Why the content store could not do something.
#[derive(Debug, thiserror::Error)]
pub enum BlobError {
    /// The system refused.
    #[error("the content store can't {action} `{}`", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// With which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Another process has the store open.
    #[error("the content store `{}` is in use by another process; give each daemon its own models.store_dir", path.display())]
    InUse {
        /// The store's directory.
        path: PathBuf,
    },
    /// The contents do not fit.
    #[error(
        "{needed} bytes do not fit the content store: {used} of {quota} are in use; remove models or raise models.store_quota"
    )]
    Quota {
        /// Bytes to add.
        needed: u64,
        /// Bytes that are there.
        used: u64,
        /// Bytes that may be there.
        quota: u64,
    },
    /// No such contents.
    #[error("the content store has no blob {digest}")]
    Missing {
        /// Which.
        digest: Digest,
    },
    /// The contents are not what they were.
    #[error(
        "the blob {digest} is damaged and was moved to quarantine; load the model again with its contents"
    )]
    Damaged {
        /// Which.
        digest: Digest,
    },
    /// More models than there may be.
    #[error("the content store has {REFERENCES_MAX} models, which is the limit; remove some")]
    TooManyReferences,
    /// A reference names contents that are not there.
    #[error("the reference of `{name}` is no reference")]
    Reference {
        /// The model.
        name: Box<str>,
        /// What is wrong.
        source: ReferenceError,
    },
    /// A file can't be read.
    #[error(transparent)]
    Read(#[from] ReadError),
}

/// What was found, and put right, when the store was opened.
#[derive(Debug, Default)]
pub struct OpenReport {
    /// Leftovers of a crash that were removed.
    pub leftovers: usize,
    /// References that could not be read, now in quarantine.
    pub damaged_references: Vec<String>,
}

/// What a collection removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Collected {
    /// How many blobs, those in quarantine included.
    pub blobs: usize,
    /// How many bytes.
    pub bytes: u64,
}

#[derive(Debug)]
struct Entry {
    bytes: u64,
    /// When it was put last; blobs younger than the grace period wait for their reference.
    put: SystemTime,
}

/// The store. One owner; every method may touch the disk.
pub struct BlobStore {
    dir: PathBuf,
    quota: u64,
    ops: Box<dyn FileOps>,
    blobs: HashMap<Digest, Entry>,
    /// When what is there was moved to quarantine.
    quarantined: HashMap<PathBuf, Entry>,
    references: BTreeMap<Box<str>, Reference>,
    used: u64,
    temporary: u64,
    /// Held for the lock on it.
    _lock: File,
}

impl BlobStore {
    /// Opens the store in `dir`, making it where it is missing.
    pub fn open(dir: &Path, quota: u64) -> Result<(BlobStore, OpenReport), BlobError> {
        BlobStore::open_with(dir, quota, Box::new(RealFiles))
    }

    /// The same over other file operations.
    pub fn open_with(
        dir: &Path,
        quota: u64,
        ops: Box<dyn FileOps>,
    ) -> Result<(BlobStore, OpenReport), BlobError> {
        for part in ["", "blobs", "refs", "tmp", "quarantine"] {
            let path = dir.join(part);
            make_private_dir(&path).map_err(io_error("make", &path))?;
        }
        let lock = lock(dir)?;
        let mut store = BlobStore {
            dir: dir.into(),
            quota,
            ops,
            blobs: HashMap::new(),
            quarantined: HashMap::new(),
            references: BTreeMap::new(),
            used: 0,
            temporary: 0,
            _lock: lock,
        };
        let mut report = OpenReport::default();
        for path in list(&dir.join("tmp"))? {
            store.ops.remove(&path).map_err(io_error("remove", &path))?;
            report.leftovers += 1;
        }
        for path in list(&dir.join("quarantine"))? {
            store.count_quarantined(path)?;
        }
        store.index_blobs()?;
        store.index_references(&mut report)?;
        Ok((store, report))
    }

    fn index_blobs(&mut self) -> Result<(), BlobError> {
        for path in list(&self.dir.join("blobs"))? {
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            // A stranger's file is not ours to remove, and no digest will ever name it.
            let Ok(digest) = name.parse::<Digest>() else { continue };
            let metadata = std::fs::symlink_metadata(&path).map_err(io_error("look at", &path))?;
            let put = metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH);
            self.used = self.used.saturating_add(metadata.len());
            self.blobs.insert(digest, Entry { bytes: metadata.len(), put });
        }
        Ok(())
    }

    fn index_references(&mut self, report: &mut OpenReport) -> Result<(), BlobError> {
        for path in list(&self.dir.join("refs"))? {
            let file = path.file_name().and_then(|name| name.to_str()).unwrap_or_default().to_owned();
            let Some(name) = file.strip_suffix(".ref") else { continue };
            let read = read_file(&path, REFERENCE_BYTES_MAX as u64)
                .ok()
                .and_then(|text| Reference::parse(&text).ok())
                .filter(|_| self.references.len() < REFERENCES_MAX);
            match read {
                Some(reference) => {
                    self.references.insert(name.into(), reference);
                }
                None => {
                    self.quarantine(&path)?;
                    report.damaged_references.push(name.to_owned());
                }
            }
        }
        Ok(())
    }

    /// What is at `path` in quarantine counts from now on. Directories are none of ours.
    fn count_quarantined(&mut self, path: PathBuf) -> Result<(), BlobError> {
        let metadata = std::fs::symlink_metadata(&path).map_err(io_error("look at", &path))?;
        if metadata.is_dir() {
            return Ok(());
        }
        // Moving a file leaves its contents' time alone and changes that of the file.
        let seconds = u64::try_from(metadata.ctime()).unwrap_or(0);
        let entry =
            Entry { bytes: metadata.len(), put: SystemTime::UNIX_EPOCH + Duration::from_secs(seconds) };
        self.used = self.used.saturating_add(entry.bytes);
        if let Some(replaced) = self.quarantined.insert(path, entry) {
            self.used = self.used.saturating_sub(replaced.bytes);
        }
        Ok(())
    }

    /// Bytes of all blobs, and of what is in quarantine.
    #[must_use]
    pub fn used_bytes(&self) -> u64 {
        self.used
    }

    /// Whether these contents are there.
    #[must_use]
    pub fn contains(&self, digest: &Digest) -> bool {
        self.blobs.contains_key(digest)
    }

    /// The models that have a reference.
    pub fn references(&self) -> impl Iterator<Item = (&str, &Reference)> {
        self.references.iter().map(|(name, reference)| (&**name, reference))
    }

    /// Stores contents; after `Ok` they survive a crash.
    pub fn put(&mut self, contents: &[u8]) -> Result<Digest, BlobError> {
        let digest = digest_of(contents);
        let bytes = contents.len() as u64;
        if let Some(entry) = self.blobs.get_mut(&digest) {
            entry.put = SystemTime::now();
            return Ok(digest);
        }
        if self.used.saturating_add(bytes) > self.quota {
            self.collect(SystemTime::now(), BLOB_GRACE)?;
        }
        if self.used.saturating_add(bytes) > self.quota {
            return Err(BlobError::Quota { needed: bytes, used: self.used, quota: self.quota });
        }
        let path = self.blob_path(&digest);
        self.write(&path, contents)?;
        self.used += bytes;
        self.blobs.insert(digest, Entry { bytes, put: SystemTime::now() });
        Ok(digest)
    }

    /// Contents, checked against their digest.
    pub fn get(&mut self, digest: &Digest) -> Result<Bytes, BlobError> {
        let entry = self.blobs.get(digest).ok_or(BlobError::Missing { digest: *digest })?;
        let path = self.blob_path(digest);
        // More bytes than were put is damage as well, and need not be read.
        let whole = match read_file(&path, entry.bytes) {
            Ok(contents) => Some(contents).filter(|contents| digest_of(contents) == *digest),
            Err(ReadError::TooLarge { .. } | ReadError::NotAFile { .. }) => None,
            Err(error) => return Err(error.into()),
        };
        if let Some(contents) = whole {
            return Ok(contents);
        }
        self.quarantine(&path)?;
        self.forget(digest);
        Err(BlobError::Damaged { digest: *digest })
    }

    /// Makes `reference` what the model is, replacing what it was; after `Ok` it survives a crash.
    pub fn set_reference(&mut self, name: &str, reference: Reference) -> Result<(), BlobError> {
        if let Some(missing) = reference.digests().find(|digest| !self.contains(digest)) {
            return Err(BlobError::Missing { digest: missing });
        }
        if self.references.len() >= REFERENCES_MAX && !self.references.contains_key(name) {
            return Err(BlobError::TooManyReferences);
        }
        let text = reference.print();
        if let Err(source) = Reference::parse(text.as_bytes()) {
            return Err(BlobError::Reference { name: name.into(), source });
        }
        let path = self.reference_path(name);
        self.write(&path, text.as_bytes())?;
        if let Some(old) = self.references.insert(name.into(), reference) {
            self.age(&old);
        }
        Ok(())
    }

    /// Notes in the model's reference that somebody unloaded it, or loaded it again; does nothing without one.
    ///
    /// The contents need not be whole for that.
    pub fn set_unloaded(&mut self, name: &str, unloaded: bool) -> Result<(), BlobError> {
        let Some(mut reference) = self.references.get(name).cloned() else { return Ok(()) };
        if reference.unloaded == unloaded {
            return Ok(());
        }
        reference.unloaded = unloaded;
        let path = self.reference_path(name);
        self.write(&path, reference.print().as_bytes())?;
        self.references.insert(name.into(), reference);
        Ok(())
    }

    /// What this reference named waits for no other, so the next collection may take it at once.
    fn age(&mut self, old: &Reference) {
        for digest in old.digests() {
            if let Some(entry) = self.blobs.get_mut(&digest) {
                entry.put = SystemTime::UNIX_EPOCH;
            }
        }
    }

    /// What the model is.
    #[must_use]
    pub fn reference(&self, name: &str) -> Option<&Reference> {
        self.references.get(name)
    }

    /// Forgets the model; its blobs go with the next collection, unless others name them.
    pub fn remove_reference(&mut self, name: &str) -> Result<bool, BlobError> {
        if !self.references.contains_key(name) {
            return Ok(false);
        }
        let path = self.reference_path(name);
        self.ops.remove(&path).map_err(io_error("remove", &path))?;
        if let Some(old) = self.references.remove(name) {
            self.age(&old);
        }
        self.sync_dir(&self.dir.join("refs"))?;
        Ok(true)
    }

    /// Removes blobs that no reference names, and what is in quarantine, if they are older than `grace`.
    pub fn collect(&mut self, now: SystemTime, grace: Duration) -> Result<Collected, BlobError> {
        let named: HashSet<Digest> = self.references.values().flat_map(Reference::digests).collect();
        let old = |entry: &Entry| now.duration_since(entry.put).is_ok_and(|age| age >= grace);
        let unused: Vec<(Digest, u64)> = self
            .blobs
            .iter()
            .filter(|(digest, entry)| !named.contains(*digest) && old(entry))
            .map(|(digest, entry)| (*digest, entry.bytes))
            .collect();
        let mut collected = Collected::default();
        for (digest, bytes) in unused {
            let path = self.blob_path(&digest);
            self.ops.remove(&path).map_err(io_error("remove", &path))?;
            self.forget(&digest);
            collected.blobs += 1;
            collected.bytes += bytes;
        }
        let waiting = self.quarantined.iter().filter(|(_, entry)| old(entry));
        let waiting: Vec<(PathBuf, u64)> = waiting.map(|(path, entry)| (path.clone(), entry.bytes)).collect();
        for (path, bytes) in waiting {
            match self.ops.remove(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(io_error("remove", &path)(error));
                }
                // Whoever wanted to know why may have taken it along.
                Ok(()) | Err(_) => {}
            }
            self.quarantined.remove(&path);
            self.used = self.used.saturating_sub(bytes);
            collected.blobs += 1;
            collected.bytes += bytes;
        }
        Ok(collected)
    }

    fn forget(&mut self, digest: &Digest) {
        if let Some(entry) = self.blobs.remove(digest) {
            self.used = self.used.saturating_sub(entry.bytes);
        }
    }

    fn blob_path(&self, digest: &Digest) -> PathBuf {
        self.dir.join("blobs").join(digest.to_string())
    }

    fn reference_path(&self, name: &str) -> PathBuf {
        self.dir.join("refs").join(format!("{name}.ref"))
    }

    /// Writes a whole file under its final name, in the order that survives a crash.
    fn write(&mut self, path: &Path, contents: &[u8]) -> Result<(), BlobError> {
        self.temporary += 1;
        let temporary = self.dir.join("tmp").join(self.temporary.to_string());
        let written = self
            .ops
            .write(&temporary, contents)
            .map_err(io_error("write", &temporary))
            .and_then(|()| self.ops.sync_file(&temporary).map_err(io_error("sync", &temporary)))
            .and_then(|()| self.ops.rename(&temporary, path).map_err(io_error("rename to", path)));
        if let Err(error) = written {
            // Best effort: what stays behind is removed at the next start.
            let _ = self.ops.remove(&temporary);
            return Err(error);
        }
        self.sync_dir(path.parent().unwrap_or(&self.dir))
    }

    fn sync_dir(&self, dir: &Path) -> Result<(), BlobError> {
        self.ops.sync_dir(dir).map_err(io_error("sync", dir))
    }

    fn quarantine(&mut self, path: &Path) -> Result<(), BlobError> {
        let to = self.dir.join("quarantine").join(path.file_name().unwrap_or_default());
        self.ops.rename(path, &to).map_err(io_error("move to quarantine", path))?;
        self.count_quarantined(to)
    }
}

fn io_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> BlobError {
    let path = path.into();
    move |source| BlobError::Io { action, path, source }
}

fn make_private_dir(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt as _;
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}

fn lock(dir: &Path) -> Result<File, BlobError> {
    let path = dir.join("lock");
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .map_err(io_error("open", &path))?;
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(BlobError::InUse { path: dir.into() }),
        Err(errno) => Err(io_error("lock", &path)(errno.into())),
    }
}

fn list(dir: &Path) -> Result<Vec<PathBuf>, BlobError> {
    let entries = std::fs::read_dir(dir).map_err(io_error("list", dir))?;
    let paths: io::Result<Vec<PathBuf>> = entries.map(|entry| Ok(entry?.path())).collect();
    paths.map_err(io_error("list", dir))
}

#[cfg(test)]
#[path = "blob_tests.rs"]
mod tests;
