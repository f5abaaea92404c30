// SPDX-License-Identifier: Apache-2.0
//! Which process is at the other end of a unix socket: not its number, which another process may have by now, but a
//! descriptor that goes on meaning the one that connected (unix(7), `SO_PEERPIDFD`, since Linux 6.5).

use std::io;
use std::os::fd::{AsFd, AsRawFd as _, FromRawFd as _, OwnedFd};

/// `SO_PEERPIDFD` of asm-generic/socket.h, which x86-64, aarch64 and riscv64 use.
const SO_PEERPIDFD: libc::c_int = 77;

/// A pidfd of the process that connected. Older kernels do not know the question (`ENOPROTOOPT`), and a process that is
/// gone may have none.
pub fn process(socket: impl AsFd) -> io::Result<OwnedFd> {
    let mut pidfd: libc::c_int = -1;
    let mut length = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: the socket is open during the call, as it is borrowed; `pidfd` and `length` are local variables of the
    // types that the option takes, and `length` says how large `pidfd` is.
    let result = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            SO_PEERPIDFD,
            (&raw mut pidfd).cast(),
            &raw mut length,
        )
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    if pidfd < 0 {
        return Err(io::Error::from(io::ErrorKind::NotFound));
    }
    // SAFETY: the kernel has just made this descriptor for us, and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(pidfd) })
}

#[cfg(test)]
mod tests {
    use std::format;
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn our_own_end_is_ours() {
        let (one, _other) = UnixStream::pair().unwrap();
        let pidfd = match process(&one) {
            Ok(pidfd) => pidfd,
            // An older kernel.
            Err(error) if error.raw_os_error() == Some(libc::ENOPROTOOPT) => return,
            Err(error) => panic!("{error}"),
        };
        let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", pidfd.as_raw_fd())).unwrap();
        assert!(info.contains(&format!("Pid:\t{}\n", std::process::id())), "{info}");
    }

    #[test]
    fn what_is_no_socket_has_no_other_end() {
        let file = std::fs::File::open("/proc/self/exe").unwrap();
        assert_eq!(process(file).unwrap_err().raw_os_error(), Some(libc::ENOTSOCK));
    }
}
