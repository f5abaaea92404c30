// SPDX-License-Identifier: Apache-2.0
//! Keys that are no names, and files that may not be used.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chown, symlink};

use rustix::fs::{Mode, mknodat};

use super::*;

/// A directory on the tmpfs that clients' shared memory lies on.
fn shm() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").expect("tests need a tmpfs at /dev/shm")
}

fn us() -> u32 {
    rustix::process::geteuid().as_raw()
}

fn not_there(directory: &Path, name: &str, uid: u32) {
    assert_eq!(open(directory, name, uid).unwrap_err(), OpenError::NotThere, "{name}");
}

#[test]
fn a_key_is_a_name_with_or_without_a_slash() {
    let longest = "x".repeat(KEY_BYTES_MAX);
    for (key, name) in [("/a", "a"), ("a", "a"), ("/a b.c", "a b.c"), ("...", "..."), (&longest, &longest)] {
        assert_eq!(file_name(key).unwrap(), name);
    }
    for wrong in ["", "/", "//a", "a/b", "/a/", ".", "/.", "..", "/..", "../a", "/../etc/passwd", "a\0b"] {
        let message = file_name(wrong).unwrap_err().message().to_owned();
        assert!(message.contains(&wrong.escape_debug().to_string()), "{message}");
    }
    let message = file_name(&format!("/x{longest}")).unwrap_err().message().to_owned();
    assert!(message.contains("256 bytes") && message.contains("255 are possible"), "{message}");
}

#[test]
fn ones_own_regular_file_is_opened() {
    let dir = shm();
    fs::write(dir.path().join("mine"), [7; 100]).unwrap();
    let opened = open(dir.path(), "mine", us()).unwrap();
    assert_eq!(opened.bytes, 100);
    let flags = rustix::io::fcntl_getfd(&opened.file).unwrap();
    assert!(flags.contains(rustix::io::FdFlags::CLOEXEC));
}

#[test]
fn whatever_else_there_is_looks_as_if_there_were_nothing() {
    let (dir, outside) = (shm(), shm());
    let path = |name: &str| dir.path().join(name);
    fs::write(path("mine"), "x").unwrap();
    fs::write(outside.path().join("secret"), "x").unwrap();
    not_there(dir.path(), "nothing", us());
    // Another's.
    not_there(dir.path(), "mine", us() + 1);
    // Links, wherever they go, and what the kernel makes of numbers of descriptors.
    symlink("mine", path("near")).unwrap();
    symlink(outside.path().join("secret"), path("far")).unwrap();
    symlink("/etc/passwd", path("passwd")).unwrap();
    let kept = fs::File::open(path("mine")).unwrap();
    let number = std::os::fd::AsRawFd::as_raw_fd(&kept);
    symlink(format!("/proc/self/fd/{number}"), path("fd")).unwrap();
    symlink("/proc/self/mem", path("mem")).unwrap();
    symlink("loop", path("loop")).unwrap();
    for link in ["near", "far", "passwd", "fd", "mem", "loop"] {
        not_there(dir.path(), link, us());
    }
    // `file_name` lets no such thing through; the kernel does not either.
    for way_out in ["..", "../x", "/etc/passwd", "."] {
        not_there(dir.path(), way_out, us());
    }
    // A directory; a pipe, which must not be waited for; a socket.
    fs::create_dir(path("dir")).unwrap();
    mknodat(CWD, path("pipe"), FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(path("socket")).unwrap();
    for other in ["dir", "pipe", "socket"] {
        not_there(dir.path(), other, us());
    }
    // A second name.
    fs::hard_link(path("mine"), path("twin")).unwrap();
    for twin in ["mine", "twin"] {
        not_there(dir.path(), twin, us());
    }
    fs::remove_file(path("twin")).unwrap();
    open(dir.path(), "mine", us()).unwrap();
}

#[test]
fn a_file_of_another_user_is_not_ours_though_we_may_open_it() {
    if us() != 0 {
        eprintln!("SKIP: only root can give files away");
        return;
    }
    let dir = shm();
    let path = dir.path().join("theirs");
    fs::write(&path, "x").unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).unwrap();
    chown(&path, Some(4242), None).unwrap();
    not_there(dir.path(), "theirs", 0);
    open(dir.path(), "theirs", 4242).unwrap();
}

#[test]
fn only_a_tmpfs_will_do() {
    let missing = Path::new("/nonexistent/shm");
    assert_eq!(open(missing, "x", us()).unwrap_err(), OpenError::Directory);
    assert_eq!(open(Path::new("/proc/self"), "mem", us()).unwrap_err(), OpenError::Directory);
    let dir = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
    fs::write(dir.path().join("x"), "x").unwrap();
    if is_tmpfs(fs::File::open(dir.path()).unwrap()) {
        eprintln!("SKIP: the sources lie on a tmpfs");
        return;
    }
    assert_eq!(open(dir.path(), "x", us()).unwrap_err(), OpenError::Directory);
}

#[test]
fn what_is_refused_says_the_same_whatever_it_is() {
    let texts = [Errno::MFILE, Errno::NFILE].map(|errno| refusal(OpenError::Full(errno), "r", "/k").code());
    assert_eq!(texts, [Code::Busy, Code::Busy]);
    let refused = refusal(OpenError::NotThere, "r", "/k");
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert!(refused.message().contains("region `r`") && refused.message().contains("key `/k`"));
    assert_eq!(refusal(OpenError::Directory, "r", "/k").code(), Code::Unavailable);
}
