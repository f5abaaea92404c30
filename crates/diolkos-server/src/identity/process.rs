// SPDX-License-Identifier: Apache-2.0
//! The control group of the process at the other end of a unix socket.
//!
//! A process number may be another process's by the time that it is looked up. So the number comes from a pidfd that
//! means the process which connected, and after its group was read, that process must still be alive: then the number was
//! its own all the time.

use std::io;
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open};

/// Path of the control group (version 2) of the process that connected, from the root of the daemon's own view.
/// `None`: there is none that could be trusted.
pub(super) fn cgroup_of_peer(socket: impl AsFd, pid: Option<i32>) -> Option<String> {
    let pidfd = match diolkos_shm::peer::process(&socket) {
        Ok(pidfd) => pidfd,
        // Before Linux 6.5 there is no better way than the number of the time of connecting.
        Err(error) if error.raw_os_error() == Some(Errno::NOPROTOOPT.raw_os_error()) => {
            pidfd_open(Pid::from_raw(pid?)?, PidfdFlags::empty()).ok()?
        }
        Err(_) => return None,
    };
    cgroup_of(&pidfd).ok().flatten()
}

fn cgroup_of(pidfd: &OwnedFd) -> io::Result<Option<String>> {
    let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", pidfd.as_raw_fd()))?;
    let number =
        info.lines().find_map(|line| line.strip_prefix("Pid:")).and_then(|rest| rest.trim().parse().ok());
    // -1 when the process is gone, 0 when it can't be seen from here.
    let Some(number) = number.filter(|&number: &i32| number > 0) else { return Ok(None) };
    let groups = std::fs::read_to_string(format!("/proc/{number}/cgroup"))?;
    Ok(if is_alive(pidfd)? { unified(&groups).map(str::to_owned) } else { None })
}

/// A pidfd becomes readable when its process ends.
fn is_alive(pidfd: &OwnedFd) -> io::Result<bool> {
    let mut fds = [PollFd::new(pidfd, PollFlags::IN)];
    let ready = poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }))?;
    Ok(ready == 0)
}

/// The line of the unified hierarchy (cgroups(7)), if it says where the group is.
fn unified(groups: &str) -> Option<&str> {
    let path = groups.lines().find_map(|line| line.strip_prefix("0::"))?;
    // A group that was removed, or one outside of what the daemon sees, could pass for another one of that name.
    let is_plain =
        path.starts_with('/') && !path.split('/').any(|part| part == "..") && !path.ends_with(" (deleted)");
    is_plain.then_some(path)
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn the_unified_line_counts() {
        assert_eq!(unified("12:cpu:/a\n1:name=systemd:/b\n0::/c/d\n"), Some("/c/d"));
        assert_eq!(unified("0::/\n"), Some("/"));
        for text in ["", "1:name=systemd:/b\n", "0::/../x\n", "0::/a/../x\n", "0::/a (deleted)\n", "0::a\n"] {
            assert_eq!(unified(text), None, "{text}");
        }
    }

    #[test]
    fn our_own_group_is_found() {
        let groups = std::fs::read_to_string("/proc/self/cgroup").unwrap();
        let (one, _other) = UnixStream::pair().unwrap();
        let found = cgroup_of_peer(&one, Some(rustix::process::getpid().as_raw_nonzero().get()));
        assert_eq!(found.as_deref(), unified(&groups));
    }

    #[test]
    fn a_process_that_is_gone_has_none() {
        let mut child = std::process::Command::new("/bin/true").spawn().unwrap();
        let pid = Pid::from_child(&child);
        let pidfd = pidfd_open(pid, PidfdFlags::empty()).unwrap();
        child.wait().unwrap();
        assert!(!is_alive(&pidfd).unwrap());
        assert!(!matches!(cgroup_of(&pidfd), Ok(Some(_))));
    }
}
