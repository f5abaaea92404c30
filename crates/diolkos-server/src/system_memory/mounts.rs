// SPDX-License-Identifier: Apache-2.0
//! Whether a peer has our shared memory at all.
//!
//! Root in one container is the same uid as root in another, and on the host. With the uid alone, a peer with
//! nothing but a socket could register shared memory that it can't open itself. So a process that the transport
//! names must have the directory among its mounts: the same file system, from there or further up
//! (proc_pid_mountinfo(5)). The list is text that the kernel makes; no file system of the peer's is asked.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _};
use std::path::{Path, PathBuf};

use rustix::fs::{major, minor, stat};

use super::limits::MOUNTS_BYTES_MAX;

/// Whether the process has `directory` in its mount namespace. Reads files of `/proc`: not for an I/O thread.
pub(super) fn sees(pid: i32, directory: &Path) -> bool {
    let Ok(directory) = std::fs::canonicalize(directory) else { return false };
    let Ok(found) = stat(&directory) else { return false };
    let device = format!("{}:{}", major(found.st_dev), minor(found.st_dev));
    let Some(ours) = mounts_of("self", &device) else { return false };
    let Some(theirs) = mounts_of(&pid.to_string(), &device) else { return false };
    let Some(inside) = path_inside(&ours, &escaped(&directory)) else { return false };
    theirs.iter().any(|mount| inside.starts_with(&mount.root))
}

/// A mount: which part of its file system is where.
#[derive(Debug, PartialEq, Eq)]
struct Mount {
    root: PathBuf,
    point: PathBuf,
}

/// The mounts of a file system that a process has.
fn mounts_of(process: &str, device: &str) -> Option<Vec<Mount>> {
    let list = File::open(format!("/proc/{process}/mountinfo")).ok()?;
    let lines = BufReader::new(list.take(MOUNTS_BYTES_MAX)).lines();
    Some(lines.map_while(Result::ok).filter_map(|line| mount_in(&line, device)).collect())
}

/// The mount in a line, if it is of this file system.
fn mount_in(line: &str, device: &str) -> Option<Mount> {
    // Id, parent, device, root, mount point; then what does not matter here.
    let mut fields = line.split(' ').skip(2);
    if fields.next()? != device {
        return None;
    }
    Some(Mount { root: fields.next()?.into(), point: fields.next()?.into() })
}

/// Where a directory is within its file system.
fn path_inside(mounts: &[Mount], directory: &Path) -> Option<PathBuf> {
    let over = mounts.iter().filter(|mount| directory.starts_with(&mount.point));
    let mount = over.max_by_key(|mount| mount.point.as_os_str().len())?;
    Some(mount.root.join(directory.strip_prefix(&mount.point).ok()?))
}

/// A path as the list writes it. What is no UTF-8 is not found: its lines are read as text.
fn escaped(path: &Path) -> PathBuf {
    let escape = |character: char| match character {
        ' ' | '\t' | '\n' | '\\' | '#' => format!("\\{:03o}", u32::from(character)),
        other => other.to_string(),
    };
    path.to_string_lossy().chars().map(escape).collect::<String>().into()
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::process::{Command, Stdio};

    use super::*;

    const SHM: &str = "40 22 0:35 / /dev/shm rw,nosuid,nodev shared:4 - tmpfs tmpfs rw";
    const BOUND: &str = "90 22 0:35 /tenants/a /srv/a\\040b rw - tmpfs tmpfs rw";

    #[test]
    fn lines_and_paths() {
        let mount = |root: &str, point: &str| Mount { root: root.into(), point: point.into() };
        let mounts = [mount_in(SHM, "0:35").unwrap(), mount_in(BOUND, "0:35").unwrap()];
        assert_eq!(mounts, [mount("/", "/dev/shm"), mount("/tenants/a", "/srv/a\\040b")]);
        for other in ["", "40 22", "40 22 0:35", "40 22 0:35 /", "40 22 0:36 / /dev/shm rw"] {
            assert_eq!(mount_in(other, "0:35"), None, "{other}");
        }
        let inside = |path: &str| path_inside(&mounts, &escaped(Path::new(path)));
        assert_eq!(inside("/dev/shm"), Some("/".into()));
        assert_eq!(inside("/dev/shm/x"), Some("/x".into()));
        assert_eq!(inside("/srv/a b"), Some("/tenants/a".into()));
        assert_eq!(inside("/dev/shmx"), None);
    }

    #[test]
    fn we_see_ours_and_nobody_sees_through_a_dead_process() {
        let us = rustix::process::getpid().as_raw_nonzero().get();
        let dir = tempfile::tempdir_in("/dev/shm").unwrap();
        assert!(sees(us, Path::new("/dev/shm")) && sees(us, dir.path()));
        assert!(!sees(us, Path::new("/nonexistent")) && !sees(i32::MAX, dir.path()));
    }

    /// What a container without the host's `/dev/shm` is.
    #[test]
    fn a_process_without_the_directory_does_not_see_it() {
        let mut unshare = Command::new("unshare");
        unshare.args(["--mount", "sh", "-c", "umount -l /dev/shm && echo gone && read line"]);
        unshare.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let Ok(mut child) = unshare.spawn() else {
            eprintln!("SKIP: there is no unshare(1)");
            return;
        };
        let mut said = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut said).unwrap();
        // `unshare` becomes the shell, so its id is that of the process without the directory.
        let pid = i32::try_from(child.id()).unwrap();
        if said == "gone\n" {
            assert!(!sees(pid, Path::new("/dev/shm")));
        } else {
            eprintln!("SKIP: this user may not make mount namespaces");
        }
        let _ = child.stdin.take().unwrap().write_all(b"\n");
        child.wait().unwrap();
    }
}
