// SPDX-License-Identifier: Apache-2.0
//! Tells cheaply whether files may have changed: by their stamps, without reading them.
//!
//! A fingerprint that was taken right after a change proves nothing, because a second change may carry the
//! same stamp. Such a fingerprint says that it has not settled, and whoever asks reads the files again.

use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::limits::STAMP_SETTLES;
use super::manifest::{ReadError, list_directory};

/// What a file's metadata says about its contents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

/// The stamps of some files at some moment.
#[derive(Clone, Debug)]
pub(super) struct Fingerprint {
    stamps: Vec<(PathBuf, Option<Stamp>)>,
    taken: SystemTime,
}

impl Fingerprint {
    /// Of nothing.
    #[must_use]
    pub(super) fn new() -> Fingerprint {
        Fingerprint { stamps: Vec::new(), taken: SystemTime::now() }
    }

    /// Adds one file. That it is missing is a fact like any other.
    pub(super) fn add(&mut self, path: &Path) -> Result<(), ReadError> {
        let stamp = match std::fs::metadata(path) {
            Ok(metadata) => Some(Stamp {
                device: metadata.dev(),
                inode: metadata.ino(),
                size: metadata.size(),
                modified: (metadata.mtime(), metadata.mtime_nsec()),
                changed: (metadata.ctime(), metadata.ctime_nsec()),
            }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(source) => return Err(ReadError::Io { path: path.into(), source }),
        };
        self.stamps.push((path.into(), stamp));
        Ok(())
    }

    /// Adds every file below a directory.
    pub(super) fn add_directory(&mut self, dir: &Path) -> Result<(), ReadError> {
        list_directory(dir)?.iter().try_for_each(|name| self.add(&dir.join(name)))
    }

    /// Whether the files are as they were, as far as stamps can tell.
    #[must_use]
    pub(super) fn same_as(&self, before: &Fingerprint) -> bool {
        before.settled() && self.stamps == before.stamps
    }

    fn settled(&self) -> bool {
        self.stamps.iter().filter_map(|(_, stamp)| *stamp).all(|stamp| {
            let (seconds, nanos) = stamp.modified.max(stamp.changed);
            let (Ok(seconds), Ok(nanos)) = (u64::try_from(seconds), u32::try_from(nanos)) else {
                return true;
            };
            let settles = SystemTime::UNIX_EPOCH
                .checked_add(Duration::new(seconds, nanos.min(999_999_999)))
                .and_then(|changed| changed.checked_add(STAMP_SETTLES));
            settles.is_some_and(|settles| settles <= self.taken)
        })
    }
}

impl Default for Fingerprint {
    fn default() -> Fingerprint {
        Fingerprint::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken_later(paths: &[&Path]) -> Fingerprint {
        let mut print = Fingerprint::new();
        paths.iter().for_each(|path| print.add(path).unwrap());
        print.taken += Duration::from_secs(10);
        print
    }

    #[test]
    fn sees_change_replacement_and_absence() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        std::fs::write(&path, "1").unwrap();
        let before = taken_later(&[&path]);
        assert!(taken_later(&[&path]).same_as(&before));
        std::fs::write(dir.path().join("b"), "2").unwrap();
        std::fs::rename(dir.path().join("b"), &path).unwrap();
        assert!(!taken_later(&[&path]).same_as(&before));
        let before = taken_later(&[&path]);
        std::fs::remove_file(&path).unwrap();
        assert!(!taken_later(&[&path]).same_as(&before));
        assert!(taken_later(&[&path]).same_as(&taken_later(&[&path])));
    }

    #[test]
    fn what_is_fresh_proves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        std::fs::write(&path, "1").unwrap();
        let mut before = Fingerprint::new();
        before.add_directory(dir.path()).unwrap();
        assert!(!taken_later(&[&path]).same_as(&before));
    }
}
