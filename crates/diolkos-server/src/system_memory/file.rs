// SPDX-License-Identifier: Apache-2.0
//! From a key to an open file that may be used: POSIX shared memory by its name.
//!
//! The daemon may open more than its peer may, so what it opened is looked at through the descriptor: a regular
//! file, on tmpfs, the peer's own, with one name. Whatever else there is looks as if there were nothing,
//! because a peer must not learn what others have.

use std::path::Path;

use diolkos_types::{Code, Status};
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags, Stat, fstat, fstatfs, openat, openat2};
use rustix::io::Errno;

use super::limits::KEY_BYTES_MAX;
use super::shown;
use crate::limits::REFUSE_RETRY_SECONDS;
use crate::logging::limited;

/// `TMPFS_MAGIC`. Other file systems may block, or be a FUSE file system of the peer's, which never answers.
const TMPFS: u64 = 0x0102_1994;

/// A file that may be used, and its size when it was opened.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) file: OwnedFd,
    pub(super) bytes: u64,
    /// Device and number: what it is, whatever it is called.
    pub(super) number: (u64, u64),
}

/// Why there is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum OpenError {
    /// No such file, or one that this peer may not use. It must not matter which.
    #[error("there is no such file that may be used")]
    NotThere,
    /// No descriptor or memory is free.
    #[error("no descriptor or memory is free")]
    Full(#[source] Errno),
    /// The directory is not there, or no tmpfs.
    #[error("the directory is no tmpfs")]
    Directory,
    /// The kernel is older than Linux 5.6, or a filter keeps the daemon from the call.
    #[error("the kernel has no openat2")]
    Kernel,
}

/// The file's name in a key: that without its slash, if it is nothing but a name.
pub(crate) fn file_name(key: &str) -> Result<&str, Status> {
    let name = key.strip_prefix('/').unwrap_or(key);
    if name.len() > KEY_BYTES_MAX {
        return Err(Status::invalid(format!(
            "the key has {} bytes behind its slash, and {KEY_BYTES_MAX} are possible",
            name.len()
        )));
    }
    if name.is_empty() || name == "." || name == ".." || name.contains(['/', '\0']) {
        return Err(Status::invalid(format!(
            "key `{}` is no name of shared memory: that is one name, such as `/name`, without a further slash",
            shown(key)
        )));
    }
    Ok(name)
}

/// Opens the shared memory `name` in `directory` for the user `uid`.
pub(super) fn open(directory: &Path, name: &str, uid: u32) -> Result<Opened, OpenError> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory = openat(CWD, directory, flags, Mode::empty()).map_err(|errno| match errno {
        Errno::MFILE | Errno::NFILE | Errno::NOMEM => OpenError::Full(errno),
        _ => OpenError::Directory,
    })?;
    if !is_tmpfs(&directory) {
        return Err(OpenError::Directory);
    }
    // Not to wait: for the other end of a pipe, or until somebody gives up his lease of the file.
    let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOCTTY;
    let resolve = ResolveFlags::BENEATH
        | ResolveFlags::NO_SYMLINKS
        | ResolveFlags::NO_MAGICLINKS
        | ResolveFlags::NO_XDEV;
    let file = openat2(&directory, name, flags, Mode::empty(), resolve).map_err(|errno| match errno {
        Errno::MFILE | Errno::NFILE | Errno::NOMEM => OpenError::Full(errno),
        Errno::NOSYS => OpenError::Kernel,
        _ => OpenError::NotThere,
    })?;
    let stat = fstat(&file).map_err(|_| OpenError::NotThere)?;
    if !may_be_used(&stat, uid) || !is_tmpfs(&file) {
        return Err(OpenError::NotThere);
    }
    let bytes = u64::try_from(stat.st_size).map_err(|_| OpenError::NotThere)?;
    Ok(Opened { file, bytes, number: (stat.st_dev, stat.st_ino) })
}

/// With a second name, or with none, it is not what its key says.
fn may_be_used(stat: &Stat, uid: u32) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile && stat.st_uid == uid && stat.st_nlink == 1
}

fn is_tmpfs(file: impl AsFd) -> bool {
    // The field's type differs between architectures; the number is positive and small in all of them.
    fstatfs(file).is_ok_and(|stat| stat.f_type as u64 == TMPFS)
}

/// What the peer is told.
pub(super) fn refusal(error: OpenError, region: &str, key: &str) -> Status {
    match error {
        OpenError::NotThere => Status::invalid(format!(
            "region `{}`: there is no shared memory with key `{}` that you may use; it has to be a regular file \
             that your own user made (shm_open) where this daemon looks, with no other name",
            shown(region),
            shown(key)
        )),
        OpenError::Full(errno) => {
            limited!(warn, %errno, "shared memory can't be opened");
            let hint = std::time::Duration::from_secs(REFUSE_RETRY_SECONDS);
            Status::busy("the daemon can open no more files now; try again", hint)
        }
        OpenError::Directory => {
            limited!(warn, "`shared_memory.directory` is no tmpfs; clients' shared memory can't be opened");
            Status::new(
                Code::Unavailable,
                "this daemon finds no shared memory on its host; send the data itself",
            )
        }
        OpenError::Kernel => {
            limited!(warn, "this kernel has no openat2; clients' shared memory can't be opened");
            Status::new(
                Code::Unavailable,
                "this daemon can't open shared memory safely; send the data itself",
            )
        }
    }
}

#[cfg(test)]
#[path = "file_tests.rs"]
mod tests;
