// SPDX-License-Identifier: Apache-2.0
//! Sessions with regions: who sees which, what is copied, and what happens when files change.

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use super::*;
use crate::listen::Peer;

/// The tmpfs directory of a daemon without a daemon.
struct Fixture {
    dir: tempfile::TempDir,
    budget: Arc<Budget>,
    memory: Arc<SystemMemory>,
}

impl Fixture {
    fn new() -> Fixture {
        Fixture::with(1 << 20, 1 << 20)
    }

    fn with(bytes_max: u64, budget: u64) -> Fixture {
        let dir = tempfile::tempdir_in("/dev/shm").expect("tests need a tmpfs at /dev/shm");
        let mut settings = Settings::default();
        settings.shared_memory.directory = dir.path().into();
        settings.shared_memory.bytes_max = crate::settings::Size::new(bytes_max);
        settings.limits.request_memory_max = crate::settings::Size::new(1 << 20);
        let budget = Budget::new(budget);
        let memory = Arc::new(SystemMemory::new(&settings));
        Fixture { dir, budget, memory }
    }

    fn file(&self, name: &str, bytes: &[u8]) {
        fs::write(self.path(name), bytes).unwrap();
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.dir.path().join(name)
    }

    fn session(&self, peer: Peer, is_process: bool, linger: Duration) -> SessionMemory {
        let Peer { uid, pid, .. } = peer;
        let budget = self.budget.clone();
        let holder = Holder { tenant: TenantId::default(), uid, pid, is_process, linger, budget };
        SessionMemory::new(self.memory.clone(), holder)
    }

    fn ours(&self) -> SessionMemory {
        self.session(Peer::unix(us(), None), true, Duration::ZERO)
    }
}

fn us() -> u32 {
    rustix::process::geteuid().as_raw()
}

fn wanted(name: &str, key: &str, offset: u64, bytes: u64) -> Registration {
    Registration { name: name.into(), key: key.into(), offset, bytes }
}

fn at(region: &str, offset: u64, bytes: u64) -> (String, Place) {
    ("input `x`".into(), Place { region: region.into(), offset, bytes })
}

async fn read(session: &SessionMemory, place: (String, Place)) -> Result<Bytes, Status> {
    let (mut data, _charge) = session.fetch(&OwnTurn::default(), &[place]).await?;
    Ok(data.remove(0))
}

async fn write(session: &SessionMemory, place: (String, Place), data: &[u8]) -> Result<(), Status> {
    let targets = session.targets(&[place]).await?;
    session.store(targets, vec![("y".into(), data.to_vec().into())]).await
}

fn message<T: std::fmt::Debug>(result: Result<T, Status>) -> String {
    result.unwrap_err().message().to_owned()
}

#[tokio::test]
async fn bytes_go_in_and_out_at_their_places() {
    let fixture = Fixture::new();
    fixture.file("k", b"0123456789");
    let session = fixture.ours();
    assert!(session.is_offered());
    session.register(wanted("r", "/k", 2, 6)).await.unwrap();
    assert_eq!(read(&session, at("r", 0, 6)).await.unwrap(), "234567");
    assert_eq!(read(&session, at("r", 4, 2)).await.unwrap(), "67");
    assert_eq!(read(&session, at("r", 6, 0)).await.unwrap(), "");
    write(&session, at("r", 1, 3), b"AB").await.unwrap();
    assert_eq!(fs::read(fixture.path("k")).unwrap(), b"012AB56789");
    let listed = Listed { name: "r".into(), key: "/k".into(), offset: 2, bytes: 6 };
    assert_eq!(session.list(None).await.unwrap(), std::slice::from_ref(&listed));
    assert_eq!(session.list(Some("r")).await.unwrap(), [listed]);
    assert_eq!(fixture.budget.used(), 0);
}

#[tokio::test]
async fn what_is_wrong_is_named() {
    let fixture = Fixture::new();
    fixture.file("k", &[0; 100]);
    let session = fixture.ours();
    let refused = async |wanted| message(session.register(wanted).await);
    assert!(refused(wanted("", "/k", 0, 1)).await.contains("0 bytes"));
    assert!(refused(wanted(&"n".repeat(256), "/k", 0, 1)).await.contains("256 bytes, and 1 to 255"));
    assert!(refused(wanted("r", "/a/b", 0, 1)).await.contains("region `r`: key `/a/b`"));
    assert!(refused(wanted("r", "/k", 0, 0)).await.contains("`byte_size` is 0"));
    assert!(
        refused(wanted("r", "/k", 0, 101))
            .await
            .contains("101 bytes from byte 0 on do not lie in `/k`, which has 100")
    );
    assert!(refused(wanted("r", "/k", 100, 1)).await.contains("1 bytes from byte 100"));
    for (offset, bytes) in [(u64::MAX, 1), (1, u64::MAX), (u64::MAX, u64::MAX), (u64::MAX - 5, 10)] {
        let message = refused(wanted("r", "/k", offset, bytes)).await;
        assert!(message.contains("more than any file has"), "{message}");
    }
    assert!(refused(wanted("r", "/k", i64::MAX as u64, 1)).await.contains("do not lie in"));
    assert!(refused(wanted("r", "/none", 0, 1)).await.contains("no shared memory with key `/none`"));
    assert_eq!(session.list(None).await.unwrap(), []);
    session.register(wanted("r", "/k", 10, 50)).await.unwrap();
    let twice = refused(wanted("r", "k", 0, 1)).await;
    assert!(twice.contains("shared memory region 'r' already in manager"), "{twice}");
    for (offset, bytes) in [(0, 51), (50, 1), (u64::MAX, 1), (1, u64::MAX), (u64::MAX, u64::MAX)] {
        for result in [
            read(&session, at("r", offset, bytes)).await.map(drop),
            write(&session, at("r", offset, bytes), b"").await,
        ] {
            let message = message(result);
            assert!(message.contains(&format!("input `x`: {bytes} bytes from byte {offset}")), "{message}");
            assert!(message.contains("region `r`, which has 50 bytes"), "{message}");
        }
    }
    let small = message(write(&session, at("r", 0, 3), b"1234").await);
    assert_eq!(
        small,
        "output `y` has 4 bytes, and its place in region `r` has 3 (`shared_memory_byte_size`)"
    );
    let unknown = read(&session, at("s", 0, 1)).await.unwrap_err();
    assert_eq!(unknown.code(), Code::NotFound);
    assert!(unknown.message().starts_with("input `x`: there is no shared memory region 's'"));
}

#[tokio::test]
async fn unregistering_forgets_and_forgives() {
    let fixture = Fixture::new();
    fixture.file("k", &[1; 100]);
    let session = fixture.ours();
    session.unregister(Some("r")).await.unwrap();
    for name in ["a", "b", "c"] {
        session.register(wanted(name, "k", 0, 100)).await.unwrap();
    }
    session.unregister(Some("b")).await.unwrap();
    let names: Vec<_> = session.list(None).await.unwrap().into_iter().map(|region| region.name).collect();
    assert_eq!(names, ["a".into(), "c".into()]);
    // Who holds a piece keeps it.
    let targets = session.targets(&[at("a", 0, 100)]).await.unwrap();
    session.unregister(None).await.unwrap();
    assert_eq!(session.list(None).await.unwrap(), []);
    assert_eq!(session.list(Some("a")).await.unwrap_err().code(), Code::NotFound);
    session.store(targets, vec![("y".into(), vec![9; 100].into())]).await.unwrap();
    assert_eq!(fs::read(fixture.path("k")).unwrap(), [9; 100]);
    session.register(wanted("a", "k", 0, 100)).await.unwrap();
}

#[tokio::test]
async fn descriptors_are_closed_with_their_regions() {
    let fixture = Fixture::new();
    fixture.file("k", &[1; 100]);
    let path = fs::canonicalize(fixture.path("k")).unwrap();
    let open = || {
        let files = fs::read_dir("/proc/self/fd").unwrap();
        files.flatten().filter(|file| fs::read_link(file.path()).is_ok_and(|to| to == path)).count()
    };
    let session = fixture.ours();
    session.register(wanted("a", "k", 0, 100)).await.unwrap();
    session.register(wanted("b", "k", 0, 100)).await.unwrap();
    // One for a file, however many regions are in it.
    assert_eq!(open(), 1);
    session.register(wanted("a", "k", 0, 100)).await.unwrap_err();
    session.register(wanted("c", "k", 0, 101)).await.unwrap_err();
    assert_eq!(open(), 1);
    session.unregister(Some("a")).await.unwrap();
    assert_eq!(open(), 1);
    drop(session);
    assert_eq!(open(), 0);
}

#[tokio::test]
async fn a_file_that_shrank_is_an_error_and_one_that_is_gone_is_not() {
    let fixture = Fixture::new();
    fixture.file("k", &[5; 100]);
    let session = fixture.ours();
    session.register(wanted("r", "/k", 10, 90)).await.unwrap();
    let file = fs::OpenOptions::new().write(true).open(fixture.path("k")).unwrap();
    file.set_len(50).unwrap();
    assert_eq!(read(&session, at("r", 0, 40)).await.unwrap(), [5; 40][..]);
    for result in
        [read(&session, at("r", 0, 90)).await.map(drop), write(&session, at("r", 0, 90), &[6; 90]).await]
    {
        let refused = result.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument);
        let expected =
            "region `r` has shrunk: it goes from byte 10 to byte 100 of `/k`, which has 50 bytes now";
        assert!(refused.message().starts_with(expected), "{refused:?}");
    }
    assert_eq!(file.metadata().unwrap().len(), 50, "writing made it grow");
    write(&session, at("r", 0, 90), &[6; 40]).await.unwrap();
    fs::remove_file(fixture.path("k")).unwrap();
    assert_eq!(read(&session, at("r", 0, 40)).await.unwrap(), [6; 40][..]);
    assert_eq!(fixture.budget.used(), 0);
}

#[test]
fn a_file_may_change_its_size_all_the_time() {
    let fixture = Fixture::new();
    let bytes = 1 << 19;
    fixture.file("k", &vec![5; bytes]);
    let file = fs::OpenOptions::new().write(true).open(fixture.path("k")).unwrap();
    let ended = AtomicBool::new(false);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let session = fixture.ours();
    let (mut whole, mut shrunk) = (0, 0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !ended.load(Ordering::Relaxed) {
                file.set_len(100).unwrap();
                file.set_len(bytes as u64).unwrap();
            }
        });
        runtime.block_on(async {
            while session.register(wanted("r", "k", 0, bytes as u64)).await.is_err() {}
            for _ in 0..300 {
                let place = || at("r", 0, bytes as u64);
                let written = write(&session, place(), &vec![6; bytes]).await;
                for result in
                    [read(&session, place()).await.map(|data| assert_eq!(data.len(), bytes)), written]
                {
                    match result {
                        Ok(()) => whole += 1,
                        Err(status) if status.message().contains("has shrunk") => shrunk += 1,
                        Err(status) => panic!("{status:?}"),
                    }
                }
            }
        });
        ended.store(true, Ordering::Relaxed);
    });
    assert_eq!(whole + shrunk, 600);
    assert_eq!(fixture.budget.used(), 0);
}

#[tokio::test]
async fn what_is_copied_is_charged_and_bounded() {
    let fixture = Fixture::with(4 << 20, 1000);
    fixture.file("k", &vec![0; 2 << 20]);
    let session = fixture.ours();
    session.register(wanted("r", "k", 0, 2 << 20)).await.unwrap();
    let (_, charge) = session.fetch(&OwnTurn::default(), &[at("r", 0, 600)]).await.unwrap();
    assert_eq!(fixture.budget.used(), 600);
    let full = read(&session, at("r", 0, 401)).await.unwrap_err();
    assert_eq!(full.code(), Code::Busy);
    assert_eq!(write(&session, at("r", 0, 401), &[0; 401]).await.unwrap_err().code(), Code::Busy);
    drop(charge);
    read(&session, at("r", 0, 401)).await.unwrap();
    assert_eq!(fixture.budget.used(), 0);
    // More than a request may have is never copied; the sum counts.
    let half = || at("r", 0, (1 << 19) + 1);
    let large = session.fetch(&OwnTurn::default(), &[half(), half()]).await.unwrap_err();
    assert_eq!(large.code(), Code::TooLarge);
    assert!(large.message().contains("1048578 bytes, and a request may have 1048576"), "{large:?}");
}

#[tokio::test]
async fn tables_are_bounded() {
    let fixture = Fixture::with(1000, 1000);
    fixture.file("k", &[0; 2000]);
    let session = fixture.ours();
    let large = session.register(wanted("r", "k", 0, 1001)).await.unwrap_err();
    assert_eq!(large.code(), Code::TooLarge);
    for index in 0..limits::REGIONS_PER_TABLE_MAX {
        session.register(wanted(&index.to_string(), "k", 0, 10)).await.unwrap();
    }
    let full = session.register(wanted("r", "k", 0, 10)).await.unwrap_err();
    assert_eq!(full.code(), Code::Busy);
    assert!(full.message().starts_with("64 regions"), "{full:?}");
    let other = fixture.ours();
    let full = other.register(wanted("r", "k", 0, 500)).await.unwrap_err();
    assert!(full.message().contains("640 bytes, 500 more are wanted, and 1000"), "{full:?}");
    session.unregister(None).await.unwrap();
    other.register(wanted("r", "k", 0, 1000)).await.unwrap();
}

/// The same code and words for what others have as for what nobody has.
#[tokio::test]
async fn strangers_can_not_tell_ours_from_nothing() {
    let fixture = Fixture::new();
    fixture.file("ours", &[0; 100]);
    let ours = fixture.ours();
    ours.register(wanted("r", "/ours", 0, 100)).await.unwrap();
    let stranger = fixture.session(Peer::unix(us() + 1, None), false, Duration::ZERO);
    let other_process = fixture.ours();
    for other in [&stranger, &other_process] {
        assert_eq!(other.list(None).await.unwrap(), []);
        let renamed = |status: Status| (status.code(), status.message().replace("'q'", "'r'"));
        let known = renamed(read(other, at("r", 0, 1)).await.unwrap_err());
        assert_eq!(known, renamed(read(other, at("q", 0, 1)).await.unwrap_err()));
        let known = renamed(other.list(Some("r")).await.unwrap_err());
        assert_eq!(known, renamed(other.list(Some("q")).await.unwrap_err()));
        other.unregister(Some("r")).await.unwrap();
        other.unregister(None).await.unwrap();
    }
    let theirs = stranger.register(wanted("s", "/ours", 0, 100)).await.unwrap_err();
    let nobodys = stranger.register(wanted("s", "/none", 0, 100)).await.unwrap_err();
    assert_eq!(theirs.code(), nobodys.code());
    assert_eq!(theirs.message(), nobodys.message().replace("/none", "/ours"));
    assert_eq!(ours.list(None).await.unwrap().len(), 1);
    // A name that others use is free.
    other_process.register(wanted("r", "/ours", 0, 1)).await.unwrap();
}

#[tokio::test]
async fn whoever_is_not_known_is_refused() {
    let fixture = Fixture::new();
    fixture.file("k", &[0; 100]);
    for peer in [Peer::tcp(), Peer::unix(OVERFLOW_UID, None)] {
        let session = fixture.session(peer, false, Duration::ZERO);
        assert!(!session.is_offered());
        let refused = session.register(wanted("r", "k", 0, 100)).await.unwrap_err();
        assert_eq!(refused.code(), Code::PermissionDenied);
        assert_eq!(session.list(None).await.unwrap_err().code(), Code::PermissionDenied);
    }
    let none = SessionMemory::none();
    assert!(!none.is_offered());
    let refused = read(&none, at("r", 0, 1)).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unsupported);
    assert!(refused.message().contains("system_shared_memory extension is not offered"));
}

/// Root elsewhere is the same uid, and has no such directory.
#[tokio::test]
async fn a_process_that_does_not_have_the_directory_finds_nothing() {
    let fixture = Fixture::new();
    fixture.file("k", &[0; 100]);
    let us_here = rustix::process::getpid().as_raw_nonzero().get();
    let ours = fixture.session(Peer::unix(us(), Some(us_here)), true, Duration::ZERO);
    ours.register(wanted("r", "/k", 0, 100)).await.unwrap();
    let elsewhere = fixture.session(Peer::unix(us(), Some(i32::MAX)), true, Duration::ZERO);
    let refused = elsewhere.register(wanted("r", "/k", 0, 100)).await.unwrap_err();
    let nothing = ours.register(wanted("s", "/none", 0, 100)).await.unwrap_err();
    assert_eq!(refused.code(), nothing.code());
    let renamed = nothing.message().replace("/none", "/k").replace("`s`", "`r`");
    assert_eq!(refused.message(), renamed);
}

#[tokio::test]
async fn an_empty_directory_turns_it_off() {
    let mut settings = Settings::default();
    settings.shared_memory.directory = Path::new("").into();
    let memory = Arc::new(SystemMemory::new(&settings));
    let peer = Peer::unix(us(), None);
    let (uid, budget, linger) = (peer.uid, Budget::new(1), Duration::ZERO);
    let holder = Holder { tenant: TenantId::default(), uid, pid: None, is_process: true, linger, budget };
    let session = SessionMemory::new(memory, holder);
    assert!(!session.is_offered());
    assert_eq!(session.list(None).await.unwrap_err().code(), Code::Unsupported);
}

/// The sessions of TCP connections, which are not told apart but by their user.
#[tokio::test]
async fn connections_of_a_user_share_a_table_that_stays_for_a_while() {
    let fixture = Fixture::new();
    fixture.file("k", &[0; 100]);
    let connect = |linger| fixture.session(Peer { uid: Some(us()), ..Peer::tcp() }, false, linger);
    let (first, second) = (connect(Duration::from_millis(50)), connect(Duration::from_millis(50)));
    assert!(first.is_offered());
    first.register(wanted("r", "k", 0, 100)).await.unwrap();
    assert_eq!(second.list(None).await.unwrap().len(), 1);
    drop(first);
    assert_eq!(read(&second, at("r", 0, 100)).await.unwrap().len(), 100);
    drop(second);
    let third = connect(Duration::ZERO);
    assert_eq!(third.list(Some("r")).await.unwrap().len(), 1, "gone before its linger");
    drop(third);
    while fixture.memory.owners.len() > 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let fourth = connect(Duration::ZERO);
    assert_eq!(fourth.list(None).await.unwrap(), []);
    fourth.register(wanted("r", "k", 0, 100)).await.unwrap();
    drop(fourth);
    assert_eq!(fixture.memory.owners.len(), 0, "without a linger it ends at once");
}

/// Waits for what is looked at from time to time.
async fn eventually(what: &str, is_so: impl Fn() -> bool) {
    for _ in 0..1000 {
        if is_so() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{what} did not come about");
}

#[tokio::test]
async fn what_outputs_were_written_to_counts_until_it_is_gone() {
    let fixture = Fixture::with(8192, 1 << 20);
    fixture.file("read", &[0; 8192]);
    fixture.file("k", &[0; 8192]);
    let session = fixture.ours();
    // What is only read is done with when it is unregistered.
    session.register(wanted("r", "/read", 0, 8192)).await.unwrap();
    read(&session, at("r", 0, 1)).await.unwrap();
    session.unregister(None).await.unwrap();
    session.register(wanted("r", "/k", 0, 8192)).await.unwrap();
    write(&session, at("r", 0, 100), b"y").await.unwrap();
    session.unregister(None).await.unwrap();
    let refused = async || message(session.register(wanted("other", "/read", 0, 1)).await);
    let told = refused().await;
    assert!(
        told.contains("8192 bytes, 1 more") && told.contains("8192 bytes in 1 files are not registered"),
        "{told}"
    );
    // The same again takes its place, a part of it as well, and too large a one leaves it where it is.
    for (offset, bytes) in [(0, 8192), (4096, 1)] {
        session.register(wanted("same", "/k", offset, bytes)).await.unwrap();
        session.unregister(None).await.unwrap();
        assert!(refused().await.contains("8192 bytes in 1 files"));
    }
    fs::write(fixture.path("k"), vec![1; 8193]).unwrap();
    assert!(message(session.register(wanted("same", "/k", 0, 8193)).await).contains("8193 bytes, and 8192"));
    assert!(refused().await.contains("8192 bytes in 1 files"));
    // Its name is not all.
    let theirs = fs::File::open(fixture.path("k")).unwrap();
    fs::remove_file(fixture.path("k")).unwrap();
    assert!(refused().await.contains("8192 bytes in 1 files"));
    drop(theirs);
    session.register(wanted("other", "/read", 0, 1)).await.unwrap();
}

#[tokio::test]
async fn parts_of_one_file_do_not_keep_each_other() {
    let fixture = Fixture::with(3 * 4096, 1 << 20);
    fixture.file("k", &[0; 3 * 4096]);
    fixture.file("other", &[0; 3 * 4096]);
    let (session, another) = (fixture.ours(), fixture.ours());
    for (who, name, offset) in [(&session, "a", 0), (&session, "b", 8192), (&another, "a", 4096)] {
        who.register(wanted(name, "/k", offset, 4096)).await.unwrap();
        write(who, at(name, 0, 100), b"y").await.unwrap();
    }
    // Again and again, and it is never more than it was.
    for _ in 0..3 {
        session.unregister(None).await.unwrap();
        session.register(wanted("b", "/k", 8192, 4096)).await.unwrap();
        session.register(wanted("a", "/k", 0, 4096)).await.unwrap();
    }
    session.unregister(None).await.unwrap();
    // As much as it was, and of one file.
    let told = message(session.register(wanted("other", "/other", 0, 1)).await);
    assert!(told.contains("12288 bytes, 1 more") && told.contains("; 8192 bytes in 1 files"), "{told}");
    fs::remove_file(fixture.path("k")).unwrap();
    tokio::time::sleep(Duration::from_millis(1500)).await;
    // It is in use.
    assert_eq!(read(&another, at("a", 0, 1)).await.unwrap(), "y");
    another.unregister(None).await.unwrap();
    session.register(wanted("other", "/other", 0, 3 * 4096)).await.unwrap();
    drop((session, another));
    eventually("the end of its owner", || fixture.memory.owners.len() == 0).await;
}

#[tokio::test]
async fn what_is_left_goes_without_being_asked_for_and_is_emptied() {
    let fixture = Fixture::new();
    fixture.file("k", &[7; 8192]);
    let session = fixture.ours();
    session.register(wanted("r", "/k", 0, 8192)).await.unwrap();
    write(&session, at("r", 0, 100), b"y").await.unwrap();
    // Whoever has its path only could open it again, and keep what we wrote.
    let flags = rustix::fs::OFlags::PATH;
    let path = rustix::fs::open(fixture.path("k"), flags, rustix::fs::Mode::empty()).unwrap();
    fs::remove_file(fixture.path("k")).unwrap();
    drop(session);
    let size = || rustix::fs::fstat(&path).unwrap().st_size;
    assert_eq!(size(), 8192);
    eventually("an empty file", || size() == 0).await;
    eventually("the end of its owner", || fixture.memory.owners.len() == 0).await;
}

#[tokio::test]
async fn a_file_that_its_client_emptied_is_done_with() {
    let fixture = Fixture::with(8192, 1 << 20);
    fixture.file("k", &[7; 8192]);
    let session = fixture.ours();
    session.register(wanted("r", "/k", 0, 8192)).await.unwrap();
    write(&session, at("r", 0, 100), b"y").await.unwrap();
    session.unregister(None).await.unwrap();
    fixture.file("k", b"");
    fixture.file("other", &[7; 8192]);
    session.register(wanted("r", "/other", 0, 8192)).await.unwrap();
}

#[tokio::test]
async fn a_byte_that_was_written_counts_as_a_page() {
    let fixture = Fixture::with(3 * 4096, 1 << 20);
    fixture.file("k", &[0; 8192]);
    let session = fixture.ours();
    for offset in [1, 4097] {
        session.register(wanted("r", "/k", offset, 1)).await.unwrap();
        write(&session, at("r", 0, 1), b"y").await.unwrap();
        session.unregister(None).await.unwrap();
    }
    let told = message(session.register(wanted("r", "/k", 0, 3 * 4096)).await);
    assert!(told.contains("do not lie in"), "{told}");
    fixture.file("other", &[0; 8192]);
    let told = message(session.register(wanted("r", "/other", 0, 4097)).await);
    assert!(told.contains("8192 bytes in 1 files"), "{told}");
    session.register(wanted("r", "/other", 0, 4096)).await.unwrap();
}
