// SPDX-License-Identifier: Apache-2.0
//! What this machine lets tests be: other users, another machine.

use diolkos_shm::vsock::{self, VsockAddr};
use rustix::process::{Uid, geteuid};
use rustix::thread::set_thread_res_uid;

use crate::doors::Door;
use crate::http::Http;
use crate::rest::Victim;
use crate::world::{NOBODY, SECRET, Who, world};

fn become_user(uid: u32) -> rustix::io::Result<()> {
    let uid = Uid::from_raw(uid);
    set_thread_res_uid(uid, uid, uid)
}

/// Does it as a user of the system. In Linux credentials are a thread's, and what it creates and connects is its user's.
pub(crate) fn as_user<T: Send + 'static>(uid: u32, work: impl FnOnce() -> T + Send + 'static) -> T {
    let works = move || {
        become_user(uid).unwrap();
        work()
    };
    std::thread::spawn(works).join().unwrap()
}

/// Whether both users can be played here: by root, where its namespace knows them.
pub(crate) fn available() -> bool {
    let plays = |who: Who| std::thread::spawn(move || become_user(who.uid()).is_ok()).join().unwrap();
    let available = geteuid().is_root() && plays(Who::Victim) && plays(Who::Hostile);
    if !available {
        eprintln!("skipped in part: this process can't act as two other users");
    }
    available
}

/// Whether there is somebody who could connect to a vsock address; see `rim/vsock.rs`.
pub(crate) fn vsock_available() -> bool {
    let found = vsock::listen(VsockAddr { cid: vsock::LOCAL, port: 0 }, 1);
    if let Err(error) = &found {
        assert!(std::env::var_os("DIOLKOS_TEST_VSOCK").is_none(), "no loopback device: {error}");
        eprintln!("skipped in part: this kernel has no loopback device for vsock ({error})");
    }
    found.is_ok()
}

#[tokio::test]
async fn memory_of_another_user_is_nothing_by_any_name() {
    let world = world(false).await;
    if !world.has_users {
        return world.daemon.shutdown().await;
    }
    for door in [Door::UnixUser, Door::TcpUser] {
        let victim = Victim::settle(door, &world).await;
        let mut hostile = Http::connect(door, &world, Who::Hostile).await;
        let directory = world.memory("");
        let make = move || {
            let at = |name: &str| directory.join(name);
            for (name, to) in
                [("to-it", at(SECRET)), ("to-proc", "/proc/self/mem".into()), ("to-dir", at(""))]
            {
                let _ = std::os::unix::fs::symlink(to, at(name));
            }
            let _ = std::fs::create_dir(at("dir"));
            // Where the kernel protects hard links this fails, and there is nothing by that name.
            let _ = std::fs::hard_link(at(SECRET), at("hard"));
            std::fs::write(at("own"), b"my own..").unwrap();
        };
        as_user(Who::Hostile.uid(), make);
        let mut register = async |key: &str| {
            let body = format!(r#"{{"key":"{key}","offset":0,"byte_size":8}}"#);
            hostile.ask("POST", "/v2/systemsharedmemory/region/r/register", &body).await
        };
        let nothing = register(NOBODY).await;
        assert_eq!(nothing.status, 400, "{nothing:?}");
        for key in [SECRET, "to-it", "to-proc", "to-dir", "dir", "hard"] {
            let told = register(key).await;
            let same = told.status == nothing.status && told.body.replace(key, NOBODY) == nothing.body;
            assert!(same, "{door:?} {key}: {told:?}");
        }
        assert_eq!(register("own").await.status, 200, "{door:?}");
        hostile.ask("POST", "/v2/systemsharedmemory/unregister", "").await;
        victim.uses_and_leaves().await;
    }
    world.daemon.shutdown().await;
}
