// SPDX-License-Identifier: Apache-2.0
//! The file operations that decide whether a crash loses data, behind a seam, so that tests can crash between
//! any two of them.

use std::fs::File;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

/// What the content store does to the disk.
pub trait FileOps: Send + Sync {
    /// Makes a new file with these contents; they may still be lost.
    fn write(&self, path: &Path, contents: &[u8]) -> io::Result<()>;
    /// After this the file's contents survive a crash.
    fn sync_file(&self, path: &Path) -> io::Result<()>;
    /// Gives a file another name; the change of names may still be lost.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// After this the names in the directory survive a crash.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;
    /// Removes a file.
    fn remove(&self, path: &Path) -> io::Result<()>;
}

/// The real ones.
#[derive(Clone, Copy, Debug, Default)]
pub struct RealFiles;

impl FileOps for RealFiles {
    fn write(&self, path: &Path, contents: &[u8]) -> io::Result<()> {
        File::options().write(true).create_new(true).mode(0o600).open(path)?.write_all(contents)
    }

    fn sync_file(&self, path: &Path) -> io::Result<()> {
        File::open(path)?.sync_all()
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        std::fs::rename(from, to)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        File::open(dir)?.sync_all()
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        std::fs::remove_file(path)
    }
}
