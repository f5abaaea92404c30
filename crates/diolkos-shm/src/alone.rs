// SPDX-License-Identifier: Apache-2.0
//! Whether anybody else has a file.
//!
//! A write lease (fcntl(2), `F_SETLEASE`) is granted to a process that is alone in having the file open or mapped. While it
//! lasts, whoever opens the file waits, or is told to come back. A descriptor that stands for the path only (`O_PATH`) does
//! not count: whoever has one can open the file again later, even if it has no name any more.

use std::io;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd};

/// `F_SETSIG` of asm-generic/fcntl.h: which signal tells that somebody waits.
const F_SETSIG: libc::c_int = 10;

/// Nobody else has the file open, and nobody can open it until this is dropped.
#[derive(Debug)]
pub struct Alone<'a>(BorrowedFd<'a>);

impl Alone<'_> {
    /// `None`: somebody else has it. An error: it can't be told, because this process neither owns the file nor may take
    /// leases of others', or because the file system has none.
    pub fn with(file: BorrowedFd<'_>) -> io::Result<Option<Alone<'_>>> {
        // The usual signal ends a process that is not prepared for it. This one does nothing then.
        control(file, F_SETSIG, libc::SIGURG)?;
        match control(file, libc::F_SETLEASE, libc::F_WRLCK) {
            Ok(()) => Ok(Some(Alone(file))),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error),
        }
    }
}

impl Drop for Alone<'_> {
    fn drop(&mut self) {
        // Closing the file would end it as well.
        let _ = control(self.0, libc::F_SETLEASE, libc::F_UNLCK);
    }
}

fn control(file: impl AsFd, command: libc::c_int, argument: libc::c_int) -> io::Result<()> {
    // SAFETY: the descriptor is open during the call, as it is borrowed; these commands take a number.
    let result = unsafe { libc::fcntl(file.as_fd().as_raw_fd(), command, argument) };
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use std::fs::{File, OpenOptions};
    use std::os::unix::fs::OpenOptionsExt as _;
    use std::path::PathBuf;

    use super::*;
    use crate::mapping::Mapping;

    fn path(name: &str) -> PathBuf {
        let name = std::format!("diolkos-alone-{name}-{}", std::process::id());
        std::path::Path::new("/dev/shm").join(name)
    }

    fn open(path: &std::path::Path) -> io::Result<File> {
        OpenOptions::new().read(true).write(true).custom_flags(libc::O_NONBLOCK).open(path)
    }

    #[test]
    fn whoever_has_a_file_open_or_mapped_is_not_alone() {
        let path = path("mapped");
        let ours = File::create_new(&path).unwrap();
        ours.set_len(4096).unwrap();
        let theirs = open(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        assert!(Alone::with(ours.as_fd()).unwrap().is_none());
        let mapping = Mapping::new(&theirs, 4096).unwrap();
        drop(theirs);
        assert!(Alone::with(ours.as_fd()).unwrap().is_none());
        drop(mapping);
        assert!(Alone::with(ours.as_fd()).unwrap().is_some());
    }

    #[test]
    fn nobody_comes_in_meanwhile() {
        let path = path("opened");
        let ours = File::create_new(&path).unwrap();
        let alone = Alone::with(ours.as_fd()).unwrap().unwrap();
        // And this process goes on.
        let error = open(&path).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock, "{error}");
        drop(alone);
        open(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
    }
}
