// SPDX-License-Identifier: Apache-2.0
//! A unix socket in the file system.
//!
//! ```text
//! lock PATH.lock ──taken──> error: served by another daemon
//!       │ ours
//! PATH there? ──answers──> error, naming it     ──is no socket──> error
//!       │ no, or stale (refuses connections): unlink
//! bind with the final mode ──> listen ──> drop: unlink PATH if it is still ours, unlink the lock
//! ```
//!
//! The lock makes "look, unlink, bind" one step for daemons that start at the same moment. A lock file
//! is removed while it is held, so a locker checks that the file it locked is still the one at the path.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, Mode, OFlags, fchmod, flock};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use super::listener::ListenError;
use crate::limits;

/// How often the lock is tried again because its file was removed by a daemon that was just ending.
const LOCK_TRIES: usize = 16;

/// The socket file and its lock; removes both when dropped.
#[derive(Debug)]
pub(super) struct SocketFile {
    path: PathBuf,
    lock_path: PathBuf,
    /// Device and inode of the socket we made.
    identity: (u64, u64),
    /// Held until the files are gone.
    _lock: File,
}

/// Makes a listening socket at `path`.
pub(super) fn bind(path: &Path, mode: u32) -> Result<(OwnedFd, SocketFile), ListenError> {
    let fail = |source: io::Error| ListenError::Bind { address: format!("unix:{}", path.display()), source };
    let lock_path = lock_path(path);
    let lock = lock(&lock_path).map_err(fail)?.ok_or_else(|| ListenError::Taken { path: path.into() })?;
    clear_stale(path)?;
    let address = SocketAddrUnix::new(path).map_err(|errno| fail(errno.into()))?;
    let socket =
        new_socket(SocketFlags::CLOEXEC | SocketFlags::NONBLOCK).map_err(|errno| fail(errno.into()))?;
    // Before bind, the mode of the descriptor is the mode that the file is made with (less the umask): at
    // no moment can somebody connect who may not.
    fchmod(&socket, Mode::from_raw_mode(mode)).map_err(|errno| fail(errno.into()))?;
    rustix::net::bind(&socket, &address).map_err(|errno| fail(errno.into()))?;
    // From here on the file is there, so a failure must take it away again.
    let made = std::fs::symlink_metadata(path).map_err(fail)?;
    let file = SocketFile { path: path.into(), lock_path, identity: (made.dev(), made.ino()), _lock: lock };
    std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).map_err(fail)?;
    rustix::net::listen(&socket, limits::LISTEN_BACKLOG).map_err(|errno| fail(errno.into()))?;
    Ok((socket, file))
}

fn lock_path(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".lock");
    name.into()
}

fn new_socket(flags: SocketFlags) -> Result<OwnedFd, Errno> {
    rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)
}

/// The locked file, or `None` if somebody else holds it.
fn lock(path: &Path) -> io::Result<Option<File>> {
    for _ in 0..LOCK_TRIES {
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            // A link here could make us create or lock a file of somebody else's choice.
            .custom_flags(i32::try_from(OFlags::NOFOLLOW.bits()).unwrap_or(0))
            .open(path)?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => return Ok(None),
            Err(errno) => return Err(errno.into()),
        }
        let locked = file.metadata()?;
        match std::fs::symlink_metadata(path) {
            Ok(there) if (there.dev(), there.ino()) == (locked.dev(), locked.ino()) => return Ok(Some(file)),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(None)
}

/// Removes the socket of a daemon that died; leaves everything else alone and says so.
fn clear_stale(path: &Path) -> Result<(), ListenError> {
    let fail = |source: io::Error| ListenError::Bind { address: format!("unix:{}", path.display()), source };
    let there = match std::fs::symlink_metadata(path) {
        Ok(there) => there,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(fail(error)),
    };
    if !there.file_type().is_socket() {
        return Err(ListenError::NoSocket { path: path.into() });
    }
    let address = SocketAddrUnix::new(path).map_err(|errno| fail(errno.into()))?;
    // Non-blocking: with a full backlog, connecting would wait for somebody to accept.
    let probe =
        new_socket(SocketFlags::CLOEXEC | SocketFlags::NONBLOCK).map_err(|errno| fail(errno.into()))?;
    match rustix::net::connect(&probe, &address) {
        Err(Errno::CONNREFUSED) => std::fs::remove_file(path).map_err(fail),
        Ok(()) | Err(Errno::AGAIN) => Err(ListenError::Taken { path: path.into() }),
        Err(errno) => Err(fail(errno.into())),
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let ours = std::fs::symlink_metadata(&self.path)
            .is_ok_and(|there| (there.dev(), there.ino()) == self.identity);
        if ours && let Err(error) = std::fs::remove_file(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "the socket file could not be removed");
        }
        // Held to the end of this function, so nobody else locks the file that goes away.
        if let Err(error) = std::fs::remove_file(&self.lock_path) {
            tracing::warn!(path = %self.lock_path.display(), %error, "the lock file could not be removed");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::{UnixListener, UnixStream};

    use super::*;

    fn names(dir: &Path) -> usize {
        std::fs::read_dir(dir).unwrap().count()
    }

    #[test]
    fn has_its_mode_and_goes_away() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("d.sock");
        let (socket, file) = bind(&path, 0o600).unwrap();
        assert_eq!(path.metadata().unwrap().mode() & 0o777, 0o600);
        UnixStream::connect(&path).unwrap();
        drop(socket);
        drop(file);
        assert_eq!(names(dir.path()), 0);
        let (_socket, _file) = bind(&path, 0o666).unwrap();
        assert_eq!(path.metadata().unwrap().mode() & 0o777, 0o666);
    }

    #[test]
    fn a_stale_socket_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("d.sock");
        drop(UnixListener::bind(&path).unwrap());
        assert!(path.exists() && UnixStream::connect(&path).is_err());
        let (_socket, _file) = bind(&path, 0o600).unwrap();
        UnixStream::connect(&path).unwrap();
    }

    #[test]
    fn a_live_socket_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("d.sock");
        let (_socket, _file) = bind(&path, 0o600).unwrap();
        let error = bind(&path, 0o600).unwrap_err();
        assert!(error.to_string().contains(&format!("`{}`", path.display())), "{error}");
        assert!(matches!(error, ListenError::Taken { .. }), "{error}");
        // One that holds no lock of ours is recognised because it answers.
        let other = dir.path().join("other.sock");
        let _listener = UnixListener::bind(&other).unwrap();
        assert!(matches!(bind(&other, 0o600), Err(ListenError::Taken { .. })));
        UnixStream::connect(&other).unwrap();
    }

    #[test]
    fn a_file_that_is_no_socket_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("precious");
        std::fs::write(&path, "data").unwrap();
        assert!(matches!(bind(&path, 0o600), Err(ListenError::NoSocket { .. })));
        assert_eq!(std::fs::read(&path).unwrap(), b"data");
    }

    #[test]
    fn a_link_for_a_lock_is_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("d.sock");
        std::os::unix::fs::symlink(dir.path().join("elsewhere"), lock_path(&path)).unwrap();
        assert!(matches!(bind(&path, 0o600), Err(ListenError::Bind { .. })));
        assert!(!dir.path().join("elsewhere").exists());
    }
}
