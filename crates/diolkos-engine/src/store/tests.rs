// SPDX-License-Identifier: Apache-2.0
//! Tests of the store as a whole: names, versions, reload, memory, contents from clients.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use bytes::Bytes;
use diolkos_backend::null::NullBackend;
use diolkos_backend::{Backend, Format, LoadError, LoadOptions, ModelFiles, Operation};

use super::*;

const MODEL: &str = "input x FP32 [batch,3]\noutput y FP32 [batch,2]\n";

/// The null backend, counting its loads. Its models may also need a file beside them.
#[derive(Default)]
struct Counting {
    loads: AtomicUsize,
}

impl Backend for Counting {
    fn name(&self) -> &'static str {
        "null"
    }

    fn formats(&self) -> &[Format] {
        &[Format { extension: "null", platform: "null" }]
    }

    fn load(&self, files: &ModelFiles, options: &LoadOptions) -> Result<Arc<dyn Operation>, LoadError> {
        let text = String::from_utf8_lossy(files.entry_contents()?).into_owned();
        if let Some(name) = text.lines().find_map(|line| line.strip_prefix("# needs ")) {
            files.get(name)?;
        }
        let operation = NullBackend.load(files, options)?;
        self.loads.fetch_add(1, Ordering::Relaxed);
        Ok(operation)
    }
}

struct Fixture {
    dir: tempfile::TempDir,
    backend: Arc<Counting>,
    store: Store,
}

impl Fixture {
    fn with(config: StoreConfig) -> Fixture {
        Fixture::rehearsing(config, Box::new(NoRehearsal))
    }

    fn rehearsing(config: StoreConfig, rehearser: Box<dyn Rehearser>) -> Fixture {
        let backend = Arc::new(Counting::default());
        let store = Store::new(config, vec![backend.clone()], rehearser).unwrap();
        Fixture { dir: tempfile::tempdir().unwrap(), backend, store }
    }

    fn new() -> Fixture {
        Fixture::with(StoreConfig::default())
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.dir.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        // Replaced in one go, as an operator should.
        let temporary = self.dir.path().join(".tmp");
        std::fs::write(&temporary, text).unwrap();
        std::fs::rename(temporary, path).unwrap();
    }

    fn repository(&self) -> ScanReport {
        self.store.add_repository(self.dir.path()).unwrap()
    }

    fn loads(&self) -> usize {
        self.backend.loads.load(Ordering::Relaxed)
    }

    fn bind(&self, name: &str, version: Option<u64>) -> Result<Arc<LoadedVersion>, BindError> {
        self.store.find(name).unwrap().bind(version)
    }

    fn index(&self) -> Vec<String> {
        let show = |row: IndexRow| {
            let version = row.version.map_or("-".to_owned(), |version| version.to_string());
            format!("{} {version} {} {}", row.name, row.state.name(), row.reason).trim_end().to_owned()
        };
        self.store.index().into_iter().map(show).collect()
    }
}

fn variant(number: usize) -> String {
    format!("{MODEL}# variant {number}\n")
}

#[test]
fn the_same_bytes_are_loaded_once_whatever_they_are_called() {
    let fixture = Fixture::new();
    fixture.write("a/1/model.null", MODEL);
    fixture.write("b/7/model.null", MODEL);
    fixture.write("c.null", MODEL);
    fixture.write("d.null", &variant(1));
    assert_eq!(fixture.repository().models.len(), 4);
    for name in ["a", "b", "c", "d"] {
        let outcome = fixture.store.load(name).unwrap().versions[0].outcome;
        assert_eq!(
            outcome,
            if matches!(name, "a" | "d") { Outcome::Loaded } else { Outcome::Shared },
            "{name}"
        );
    }
    assert_eq!(fixture.loads(), 2);
    let (a, c) = (fixture.bind("a", None).unwrap(), fixture.bind("c", Some(1)).unwrap());
    assert!(Arc::ptr_eq(&a.operation, &c.operation));
    assert_eq!(a.digest, c.digest);
    assert_eq!((a.backend, a.platform), ("null", "null"));
}

#[test]
fn policies_choose_what_serves() {
    let fixture = Fixture::new();
    for version in [1, 2, 5] {
        fixture.write(&format!("m/{version}/model.null"), &variant(version));
    }
    fixture.repository();
    let versions = |report: LoadReport| report.versions.iter().map(|v| v.version).collect::<Vec<_>>();
    assert_eq!(versions(fixture.store.load("m").unwrap()), [5]);
    assert!(matches!(
        fixture.bind("m", Some(1)),
        Err(BindError::NoSuchVersion { version: 1, available }) if available == [5]
    ));
    fixture.write("m/config.pbtxt", "version_policy { all {} }");
    assert_eq!(versions(fixture.store.load("m").unwrap()), [1, 2, 5]);
    assert_eq!(fixture.bind("m", None).unwrap().version, 5);
    assert_eq!(fixture.bind("m", Some(2)).unwrap().version, 2);
    fixture.write("m/config.pbtxt", "version_policy { specific { versions: [2] } }");
    let report = fixture.store.load("m").unwrap();
    assert_eq!(report.retired, [1, 5]);
    assert_eq!(fixture.bind("m", None).unwrap().version, 2);
    assert_eq!(fixture.store.find("m").unwrap().versions(), [2]);
    fixture.write("m/config.pbtxt", "version_policy { specific { versions: [3] } }");
    let error = fixture.store.load("m").unwrap_err();
    assert!(matches!(error, StoreError::NothingSelected { .. }), "{error}");
    assert_eq!(fixture.bind("m", None).unwrap().version, 2);
}

#[test]
fn a_bad_file_leaves_the_old_one_serving_and_says_why() {
    let fixture = Fixture::new();
    fixture.write("m/1/model.null", MODEL);
    fixture.repository();
    fixture.store.load("m").unwrap();
    let before = fixture.bind("m", None).unwrap();
    // In place, as a new version, by a configuration, by a directory without a model.
    for (name, text, reason) in [
        ("m/1/model.null", "nonsense", "model `m` version 1: not a valid model"),
        ("m/2/model.null", "nonsense", "model `m` version 2: not a valid model"),
        ("m/2/readme", "x", "model `m` version 2: there is no `model.null`"),
        ("m/config.pbtxt", "max_batchsize: 1", "model `m`: config.pbtxt:1:1: `max_batchsize` is no field"),
        (
            "m/config.pbtxt",
            "input { name: 'z' }",
            "model `m` version 1: config.pbtxt:1:7: the model file has no input `z`; it has `x`",
        ),
    ] {
        fixture.write(name, text);
        let error = fixture.store.load("m").unwrap_err().to_status();
        assert!(error.message().starts_with(reason), "{name}: {error}");
        assert!(Arc::ptr_eq(&fixture.bind("m", None).unwrap(), &before), "{name}");
        let row = fixture.index().into_iter().find(|row| row.starts_with("m 1")).unwrap();
        assert!(row.starts_with("m 1 READY"), "{row}");
        match name {
            "m/1/model.null" => fixture.write(name, MODEL),
            "m/config.pbtxt" => std::fs::remove_file(fixture.dir.path().join(name)).unwrap(),
            _ => std::fs::remove_dir_all(fixture.dir.path().join("m/2")).unwrap(),
        }
    }
    assert_eq!(fixture.store.load("m").unwrap().versions[0].outcome, Outcome::Unchanged);
    assert_eq!(fixture.index(), ["m 1 READY"]);
    assert!(Arc::ptr_eq(&fixture.bind("m", None).unwrap(), &before));
}

#[test]
fn a_reload_drains_the_old_version_and_keeps_its_statistics() {
    let fixture = Fixture::new();
    fixture.write("m.null", MODEL);
    fixture.repository();
    fixture.store.load("m").unwrap();
    let job = fixture.bind("m", None).unwrap();
    let weights: Weak<dyn Operation> = Arc::downgrade(&job.operation);
    fixture.write("m.null", &variant(1));
    let changes = fixture.store.rescan();
    assert_eq!(changes, [Change { name: "m".into(), kind: ChangeKind::Changed }]);
    fixture.store.take_up(&changes[0]).unwrap();
    let new = fixture.bind("m", None).unwrap();
    assert_ne!(new.digest, job.digest);
    assert!(Arc::ptr_eq(&new.stats, &job.stats));
    assert!(weights.upgrade().is_some());
    drop(job);
    assert!(weights.upgrade().is_none(), "the old weights went with their last job");
}

#[test]
fn unloading_drops_the_weights_once_jobs_ended_and_holds() {
    let fixture = Fixture::new();
    fixture.write("m.null", MODEL);
    fixture.repository();
    fixture.store.load("m").unwrap();
    let job = fixture.bind("m", None).unwrap();
    let weights = Arc::downgrade(&job.operation);
    fixture.store.unload("m").unwrap();
    assert!(
        matches!(fixture.bind("m", None), Err(BindError::Unavailable { reason }) if reason.contains("unloaded"))
    );
    assert_eq!(fixture.index(), ["m 1 UNLOADING"]);
    assert!(weights.upgrade().is_some());
    drop(job);
    assert!(weights.upgrade().is_none());
    assert_eq!(fixture.index(), ["m 1 UNAVAILABLE it was unloaded; load it to use it again"]);
    fixture.write("m.null", &variant(1));
    assert_eq!(fixture.store.rescan(), [], "it stays unloaded until somebody loads it");
    fixture.store.load("m").unwrap();
    assert!(fixture.bind("m", None).is_ok());
}

#[test]
fn files_that_come_and_go() {
    let fixture = Fixture::new();
    fixture.repository();
    fixture.write("m.null", MODEL);
    fixture.write("bad/model.null", MODEL);
    let changes = fixture.store.rescan();
    assert_eq!(changes, [Change { name: "m".into(), kind: ChangeKind::Appeared }]);
    changes.iter().for_each(|change| fixture.store.take_up(change).unwrap());
    assert_eq!(fixture.index(), ["bad - UNAVAILABLE model `bad`: it has no version directory", "m 1 READY"]);
    let entry = fixture.store.find("m").unwrap();
    std::fs::remove_file(fixture.dir.path().join("m.null")).unwrap();
    let changes = fixture.store.rescan();
    assert_eq!(changes, [Change { name: "m".into(), kind: ChangeKind::Vanished }]);
    changes.iter().for_each(|change| fixture.store.take_up(change).unwrap());
    assert!(fixture.store.find("m").is_none());
    assert!(matches!(fixture.store.load("m"), Err(StoreError::UnknownModel { .. })));
    assert!(matches!(entry.bind(None), Err(BindError::Unavailable { reason }) if reason.contains("gone")));
    fixture.write("m.null", MODEL);
    let changes = fixture.store.rescan();
    assert_eq!(changes, [Change { name: "m".into(), kind: ChangeKind::Appeared }]);
    changes.iter().for_each(|change| fixture.store.take_up(change).unwrap());
    assert!(entry.bind(None).is_ok(), "a handle from before finds the model again");
}

#[test]
fn names_are_not_taken_over() {
    let fixture = Fixture::new();
    let operation =
        NullBackend.load(&ModelFiles::single("m.null", MODEL), &StoreConfig::default().load).unwrap();
    fixture.store.add_builtin("noop", "does nothing", operation.clone()).unwrap();
    assert!(matches!(
        fixture.store.add_builtin("noop", "again", operation),
        Err(StoreError::NameTaken { .. })
    ));
    fixture.write("noop.null", MODEL);
    fixture.write("m.null", MODEL);
    fixture.write("other/m.null", MODEL);
    let report = fixture.repository();
    assert!(matches!(&report.errors[..], [(_, StoreError::NameTaken { .. }), _]), "{:?}", report.errors);
    let again = fixture.store.add_file(&fixture.dir.path().join("m.null"));
    assert!(again.is_ok(), "the same path is the same model");
    let other = fixture.store.add_file(&fixture.dir.path().join("other/m.null"));
    assert!(matches!(other, Err(StoreError::NameTaken { .. })));
    assert_eq!(fixture.bind("noop", None).unwrap().platform, "diolkos_builtin");
    assert!(matches!(fixture.store.unload("noop"), Err(StoreError::Builtin { .. })));
    assert_eq!(fixture.store.load("noop").unwrap().versions[0].outcome, Outcome::Unchanged);
}

fn sized(number: usize, bytes: u64) -> String {
    format!("{}resident {bytes}\n", variant(number))
}

/// Knows what a model needs, as a child process would.
struct Exact;

impl Rehearser for Exact {
    fn rehearse(&self, model: &Rehearsal<'_>) -> Result<Verdict, RehearsalError> {
        let operation = NullBackend.load(model.files, model.options)?;
        Ok(Verdict { resident_bytes: operation.resident_bytes(), ..Verdict::default() })
    }
}

#[test]
fn what_was_used_least_recently_makes_room() {
    let config = StoreConfig { memory_max: 250, ..StoreConfig::default() };
    let fixture = Fixture::rehearsing(config, Box::new(Exact));
    for (number, name) in ["a", "b", "c"].into_iter().enumerate() {
        fixture.write(&format!("{name}.null"), &sized(number, 100));
    }
    // The same bytes as `a` count once, and go together.
    fixture.write("a2.null", &sized(0, 100));
    fixture.repository();
    let ready = |name: &str| fixture.bind(name, None).is_ok();
    for name in ["a", "a2", "b"] {
        fixture.store.load(name).unwrap();
    }
    assert_eq!(fixture.store.memory_used(), 200);
    let later = Instant::now() + Duration::from_secs(1);
    fixture.bind("a", None).unwrap().usage.touch(later);
    fixture.store.load("c").unwrap();
    assert!(ready("a") && ready("a2") && !ready("b") && ready("c"));
    assert!(matches!(fixture.bind("b", None), Err(BindError::Cold)), "a request brings it back");
    let in_use = fixture.bind("c", None).unwrap();
    fixture.store.load("b").unwrap();
    assert!(!ready("a") && !ready("a2") && ready("b") && ready("c"));
    let both = (in_use, fixture.bind("b", None).unwrap());
    let error = fixture.store.load("a").unwrap_err();
    let status = error.to_status();
    assert_eq!(status.code(), diolkos_types::Code::Busy);
    assert!(status.retry_after().is_some() && error.is_passing());
    assert!(matches!(fixture.bind("a", None), Err(BindError::Cold)), "the next request tries again");
    assert!(error.to_string().contains("200 of 250 are held by models in use"), "{error}");
    drop(both);
    fixture.store.load("a").unwrap();
    assert!(ready("a"));
    // One that can never fit drives out nobody.
    fixture.write("huge.null", &sized(9, 1000));
    assert!(fixture.store.rescan().iter().any(|change| change.kind == ChangeKind::Appeared));
    let used = fixture.store.memory_used();
    let error = fixture.store.load("huge").unwrap_err();
    assert!(!error.is_passing(), "it never fits: {error}");
    assert!(matches!(fixture.bind("huge", None), Err(BindError::Unavailable { .. })));
    assert_eq!(fixture.store.memory_used(), used);
    // What was taken out stays out when its files change, until somebody asks for it.
    fixture.write("c.null", &sized(7, 100));
    let change = Change { name: "c".into(), kind: ChangeKind::Changed };
    fixture.store.unload("b").unwrap();
    fixture.store.take_up(&change).unwrap();
    assert!(matches!(fixture.bind("c", None), Err(BindError::Cold)));
    fixture.store.load("c").unwrap();
}

#[test]
fn whoever_has_a_share_makes_room_with_its_own() {
    let config = StoreConfig { memory_max: 1000, ..StoreConfig::default() };
    let fixture = Fixture::rehearsing(config, Box::new(Exact));
    for (number, name) in ["everybodys", "b", "c", "d"].into_iter().enumerate() {
        fixture.write(&format!("{name}.null"), &sized(number, 100));
    }
    fixture.write("huge.null", &sized(9, 300));
    fixture.repository();
    let ready = |name: &str| fixture.bind(name, None).is_ok();
    let share = |memory_max| Behalf { loaded: Arc::default(), memory_max };
    let (web, batch) = (share(250), share(500));
    fixture.store.load("everybodys").unwrap();
    for name in ["b", "c", "d"] {
        fixture.store.load_for(name, Some(&web)).unwrap();
    }
    assert!(
        ready("everybodys") && !ready("b") && ready("c") && ready("d"),
        "its own least recently used one went"
    );
    assert_eq!((web.loaded.bytes(), fixture.store.memory_used()), (200, 300));
    // What is there already is nobody else's to pay for.
    fixture.store.load_for("c", Some(&batch)).unwrap();
    assert_eq!(batch.loaded.bytes(), 0);
    let in_use = (fixture.bind("c", None).unwrap(), fixture.bind("d", None).unwrap());
    let error = fixture.store.load_for("b", Some(&web)).unwrap_err();
    assert!(error.is_share() && error.is_passing(), "{error}");
    assert_eq!(error.to_status().code(), diolkos_types::Code::Busy);
    assert!(error.to_string().contains("200 of 250 that may be loaded for your tenant"), "{error}");
    let told = fixture.index().join(" ");
    assert!(told.contains("not loaded for whoever asked") && !told.contains("250"), "{told}");
    assert!(matches!(fixture.bind("b", None), Err(BindError::Cold)), "others may still ask for it");
    fixture.store.load_for("b", Some(&batch)).unwrap();
    assert_eq!((web.loaded.bytes(), batch.loaded.bytes()), (200, 100));
    // Never for this tenant, and that changes nothing for others.
    let error = fixture.store.load_for("huge", Some(&web)).unwrap_err();
    assert_eq!(error.to_status().code(), diolkos_types::Code::TooLarge);
    assert!(matches!(fixture.bind("huge", None), Err(BindError::Cold)));
    drop(in_use);
    fixture.store.load_for("huge", Some(&batch)).unwrap();
    assert_eq!((web.loaded.bytes(), batch.loaded.bytes()), (200, 400));
    // What is unloaded is paid for no more.
    fixture.store.unload("c").unwrap();
    fixture.store.load_for("c", Some(&batch)).unwrap();
    assert_eq!((web.loaded.bytes(), batch.loaded.bytes()), (100, 500));
}

#[test]
fn a_reload_never_drives_out_its_own_old_version() {
    let fixture = Fixture::with(StoreConfig { memory_max: 150, ..StoreConfig::default() });
    fixture.write("a.null", &sized(0, 100));
    fixture.repository();
    fixture.store.load("a").unwrap();
    fixture.write("a.null", &sized(1, 100));
    assert!(fixture.store.load("a").is_err());
    assert!(fixture.bind("a", None).is_ok());
}

#[test]
fn lazy_models_wait_for_their_first_request() {
    let fixture = Fixture::with(StoreConfig { lazy: true, ..StoreConfig::default() });
    fixture.write("m.null", MODEL);
    fixture.repository();
    assert!(matches!(fixture.bind("m", None), Err(BindError::Cold)));
    assert!(matches!(fixture.bind("m", Some(1)), Err(BindError::Cold)));
    fixture.write("m.null", "nonsense");
    for change in fixture.store.rescan() {
        fixture.store.take_up(&change).unwrap();
    }
    assert_eq!(fixture.loads(), 0);
    assert!(fixture.store.load("m").is_err());
    assert!(
        matches!(fixture.bind("m", None), Err(BindError::Unavailable { .. })),
        "it is not tried again and again"
    );
    fixture.write("m.null", MODEL);
    for change in fixture.store.rescan() {
        fixture.store.take_up(&change).unwrap();
    }
    assert!(fixture.bind("m", None).is_ok());
}

#[test]
fn before_the_first_load_a_model_is_loading() {
    let fixture = Fixture::new();
    fixture.write("m.null", MODEL);
    fixture.repository();
    assert!(matches!(fixture.bind("m", None), Err(BindError::Loading)));
    assert!(matches!(fixture.bind("m", Some(9)), Err(BindError::NoSuchVersion { version: 9, .. })));
}

#[test]
fn a_configuration_narrows_and_brings_labels() {
    let fixture = Fixture::new();
    fixture.write("m/1/model.null", MODEL);
    fixture.write("m/labels.txt", "cat\r\ndog\n");
    fixture.write(
        "m/config.pbtxt",
        "max_batch_size: 4 output { name: 'y' label_filename: 'labels.txt' } runtime: ''",
    );
    fixture.repository();
    let report = fixture.store.load("m").unwrap();
    assert_eq!(report.notes.len(), 1);
    let version = fixture.bind("m", None).unwrap();
    let too_many = diolkos_types::Shape::new(&[5, 3]).unwrap();
    assert!(version.signature.inputs[0].check_shape(&too_many).is_err());
    assert!(version.operation.signature().inputs[0].check_shape(&too_many).is_ok());
    assert_eq!(version.labels[0].as_deref(), Some(&["cat".to_owned(), "dog".to_owned()][..]));
    // Labels alone are a new version of the same weights.
    fixture.write("m/labels.txt", "cat\nowl\n");
    assert_eq!(fixture.store.load("m").unwrap().versions[0].outcome, Outcome::Shared);
    assert_eq!(fixture.bind("m", None).unwrap().labels[0].as_ref().unwrap()[1], "owl");
    assert_eq!(fixture.loads(), 1);
    std::fs::remove_file(fixture.dir.path().join("m/labels.txt")).unwrap();
    assert!(fixture.store.load("m").is_err());
}

#[test]
fn files_beside_a_single_file_are_found_and_watched() {
    let fixture = Fixture::new();
    fixture.write("m.null", &format!("# needs w.bin\n{MODEL}"));
    fixture.write("evil.null", &format!("# needs ../secret\n{MODEL}"));
    fixture.repository();
    let error = fixture.store.load("m").unwrap_err();
    assert!(error.to_string().contains("refers to the file `w.bin`"), "{error}");
    assert!(fixture.store.load("evil").unwrap_err().to_string().contains("../secret"));
    fixture.write("w.bin", "1");
    fixture.store.load("m").unwrap();
    let before = fixture.bind("m", None).unwrap().digest;
    fixture.write("w.bin", "2");
    for change in fixture.store.rescan().iter().filter(|change| &*change.name == "m") {
        fixture.store.take_up(change).unwrap();
    }
    assert_ne!(fixture.bind("m", None).unwrap().digest, before);
}

/// Refuses what it is told to.
struct Refusing;

impl Rehearser for Refusing {
    fn rehearse(&self, model: &Rehearsal<'_>) -> Result<Verdict, RehearsalError> {
        if model.files.entry_contents()?.ends_with(b"# bomb\n") {
            return Err(RehearsalError::Memory { limit: 7 });
        }
        NoRehearsal.rehearse(model)
    }
}

#[test]
fn what_fails_its_rehearsal_never_reaches_the_daemon() {
    let fixture = Fixture::rehearsing(StoreConfig::default(), Box::new(Refusing));
    fixture.write("m.null", &format!("{MODEL}# bomb\n"));
    fixture.repository();
    let error = fixture.store.load("m").unwrap_err();
    assert!(error.to_string().contains("raise models.rehearsal_memory_max"), "{error}");
    assert_eq!(fixture.loads(), 0);
    fixture.write("m.null", MODEL);
    fixture.store.load("m").unwrap();
    assert_eq!(fixture.loads(), 1);
}

#[test]
fn a_hundred_reloads_never_leave_a_moment_without_a_model() {
    let fixture = Fixture::new();
    fixture.write("m.null", &variant(0));
    fixture.repository();
    fixture.store.load("m").unwrap();
    let entry = fixture.store.find("m").unwrap();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let binders: Vec<_> = (0..2)
            .map(|_| {
                scope.spawn(|| {
                    let mut binds = 0u64;
                    while !done.load(Ordering::Relaxed) {
                        let bound =
                            entry.bind(None).unwrap_or_else(|error| panic!("after {binds} binds: {error}"));
                        assert_eq!(entry.bind(Some(1)).map(|version| version.version), Ok(1));
                        drop(bound);
                        binds += 1;
                    }
                    binds
                })
            })
            .collect();
        for number in 1..=100 {
            fixture.write("m.null", &variant(number));
            let report = fixture.store.load("m").unwrap();
            assert_eq!(report.versions[0].outcome, Outcome::Loaded);
        }
        done.store(true, Ordering::Relaxed);
        for binder in binders {
            assert!(binder.join().unwrap() > 0);
        }
    });
    assert_eq!(fixture.loads(), 101);
    let resident = entry.bind(None).unwrap().resident_bytes;
    assert_eq!(fixture.store.memory_used(), resident);
    assert_eq!(fixture.store.control_memory_used(), resident, "the weights of all hundred are gone");
}

fn client_config(dir: &Path) -> StoreConfig {
    StoreConfig {
        client_load: true,
        blob_dir: Some(dir.into()),
        blob_quota: 10_000,
        ..StoreConfig::default()
    }
}

fn client_files(files: &[(u64, &str, &str)], config: Option<&str>) -> ClientFiles {
    let file = |&(version, name, text): &(u64, &str, &str)| {
        ((version, name.to_owned()), Bytes::from(text.to_owned()))
    };
    let files: BTreeMap<_, _> = files.iter().map(file).collect();
    ClientFiles { files, config: config.map(|text| Bytes::from(text.to_owned())) }
}

#[test]
fn clients_load_only_where_the_operator_says_so() {
    let files = || client_files(&[(1, "model.null", MODEL)], None);
    assert!(matches!(Fixture::new().store.load_files("m", files()), Err(StoreError::ClientLoadOff)));
    let nowhere = Fixture::with(StoreConfig { client_load: true, ..StoreConfig::default() });
    assert!(matches!(nowhere.store.load_files("m", files()), Err(StoreError::NoContentStore)));
}

#[test]
fn contents_from_a_client_serve_persist_and_are_replaced_whole() {
    let blobs = tempfile::tempdir().unwrap();
    let fixture = Fixture::with(client_config(blobs.path()));
    let policy = r#"{"version_policy": {"all": {}}}"#;
    let both = client_files(&[(1, "model.null", MODEL), (3, "model.null", &variant(1))], Some(policy));
    let report = fixture.store.load_files("m", both).unwrap();
    assert_eq!(report.versions.iter().map(|version| version.version).collect::<Vec<_>>(), [1, 3]);
    // Version 1 is fine and 3 is not, so nothing changes.
    let half = client_files(&[(1, "model.null", &variant(5)), (3, "model.null", "nonsense")], Some(policy));
    let before = fixture.bind("m", Some(1)).unwrap();
    assert!(fixture.store.load_files("m", half).is_err());
    assert!(Arc::ptr_eq(&fixture.bind("m", Some(1)).unwrap(), &before));
    assert_eq!(fixture.index(), ["m 1 READY", "m 3 READY"]);
    assert!(fixture.store.load_files("new", client_files(&[(1, "model.null", "nonsense")], None)).is_err());
    assert!(fixture.store.find("new").is_none(), "what is refused leaves no name behind");
    drop(before);
    drop(fixture);

    let again = Fixture::with(client_config(blobs.path()));
    assert!(matches!(again.bind("m", None), Err(BindError::Loading)));
    again.store.load("m").unwrap();
    assert_eq!(again.bind("m", None).unwrap().version, 3);
    assert_eq!(again.store.load("m").unwrap().versions[1].outcome, Outcome::Unchanged);
    again.store.load_files("m", client_files(&[(2, "model.null", &variant(7))], None)).unwrap();
    assert_eq!(again.store.find("m").unwrap().versions(), [2]);
    again.store.unload("m").unwrap();
    again.store.load("m").unwrap();
    again.store.remove("m").unwrap();
    assert!(again.store.find("m").is_none());
}

#[test]
fn what_clients_send_is_checked() {
    let blobs = tempfile::tempdir().unwrap();
    let fixture = Fixture::with(StoreConfig { file_bytes_max: 2000, ..client_config(blobs.path()) });
    fixture.write("mine.null", MODEL);
    fixture.repository();
    let model = |name| client_files(&[(1, name, MODEL)], None);
    let huge = "x".repeat(3000);
    for (name, files, part) in [
        ("m", model("../model.null"), "is no file of a version"),
        ("m", model("a\nb"), "is no file of a version"),
        ("m", client_files(&[(0, "model.null", MODEL)], None), "is no file of a version"),
        ("m", client_files(&[], None), "there must be some files"),
        ("m", client_files(&[(1, "model.null", &huge)], None), "the limit is 2000"),
        ("m", model("model.onnx"), "there is no `model.null`"),
        ("../m", model("model.null"), "contains a slash"),
        ("mine", model("model.null"), "is taken by what the operator installed"),
        ("m", client_files(&[(1, "model.null", MODEL)], Some("nome: 'm'")), "did you mean `name`?"),
        ("m", client_files(&[(1, "model.null", MODEL)], Some("name: 'x'")), "the model is called `m`"),
    ] {
        let status = fixture.store.load_files(name, files).unwrap_err().to_status();
        assert!(status.message().contains(part), "{part}: {status}");
    }
}

#[test]
fn clients_learn_no_paths_of_the_host() {
    let fixture = Fixture::with(StoreConfig { file_bytes_max: 10, ..StoreConfig::default() });
    fixture.write("m.null", MODEL);
    fixture.write("dir/1/other", "x");
    fixture.write("flat/model.null", "x");
    fixture.write("conf/1/model.null", "x");
    fixture.write("conf/config.pbtxt", "x: 1");
    fixture.repository();
    let host = fixture.dir.path().to_str().unwrap().to_owned();
    for name in ["m", "dir", "flat", "conf"] {
        let error = fixture.store.load(name).unwrap_err();
        assert!(!error.to_status().message().contains(&host), "{name}: {}", error.to_status());
    }
    assert!(!fixture.index().join("\n").contains(&host));
}

/// Can't start its process until somebody says so.
struct Starved(Arc<AtomicBool>);

impl Rehearser for Starved {
    fn rehearse(&self, model: &Rehearsal<'_>) -> Result<Verdict, RehearsalError> {
        if self.0.load(Ordering::Relaxed) {
            return Exact.rehearse(model);
        }
        let source = std::io::Error::other("no more processes");
        Err(RehearsalError::Io { action: "start its process", source })
    }
}

#[test]
fn a_rehearsal_that_could_not_begin_is_tried_again() {
    let can = Arc::new(AtomicBool::new(false));
    for lazy in [true, false] {
        can.store(false, Ordering::Relaxed);
        let config = StoreConfig { lazy, ..StoreConfig::default() };
        let fixture = Fixture::rehearsing(config, Box::new(Starved(can.clone())));
        fixture.write("m.null", MODEL);
        fixture.repository();
        assert!(fixture.store.load("m").unwrap_err().is_passing());
        assert!(matches!(fixture.bind("m", None), Err(BindError::Cold)));
        assert!(fixture.index()[0].contains("can't start its process"), "{:?}", fixture.index());
        can.store(true, Ordering::Relaxed);
        fixture.store.load("m").unwrap();
        assert_eq!(fixture.index(), ["m 1 READY"]);
    }
}

#[test]
fn a_refused_load_from_a_client_leaves_an_unloaded_model_unloaded() {
    let blobs = tempfile::tempdir().unwrap();
    let fixture = Fixture::with(client_config(blobs.path()));
    fixture.store.load_files("m", client_files(&[(1, "model.null", MODEL)], None)).unwrap();
    fixture.store.unload("m").unwrap();
    let before = fixture.index();
    for version in [1, 2] {
        let garbage = client_files(&[(version, "model.null", "nonsense")], None);
        fixture.store.load_files("m", garbage).unwrap_err();
        assert_eq!(fixture.index(), before);
        let Err(BindError::Unavailable { reason }) = fixture.bind("m", None) else {
            panic!("it is unloaded")
        };
        assert!(reason.contains("it was unloaded"), "{reason}");
    }
}

#[test]
fn unloading_what_a_client_loaded_outlives_a_restart() {
    let blobs = tempfile::tempdir().unwrap();
    let start = || Fixture::with(client_config(blobs.path()));
    let fixture = start();
    fixture.store.load_files("m", client_files(&[(1, "model.null", MODEL)], None)).unwrap();
    fixture.store.unload("m").unwrap();
    drop(fixture);
    let fixture = start();
    assert!(fixture.store.find("m").unwrap().is_unloaded());
    assert!(matches!(fixture.bind("m", None), Err(BindError::Unavailable { .. })));
    fixture.store.load("m").unwrap();
    drop(fixture);
    assert!(!start().store.find("m").unwrap().is_unloaded());
}

#[test]
fn only_what_a_client_loaded_is_removed_and_its_place_is_free() {
    let blobs = tempfile::tempdir().unwrap();
    let fixture = Fixture::with(client_config(blobs.path()));
    fixture.write("mine.null", MODEL);
    fixture.repository();
    let operation = NullBackend.load(&ModelFiles::single("b.null", MODEL), &StoreConfig::default().load);
    fixture.store.add_builtin("builtin", "it does nothing", operation.unwrap()).unwrap();
    assert!(matches!(fixture.store.remove("mine"), Err(StoreError::NotRemovable { .. })));
    assert!(matches!(fixture.store.remove("builtin"), Err(StoreError::Builtin { .. })));
    assert!(matches!(fixture.store.remove("none"), Err(StoreError::UnknownModel { .. })));
    fixture.store.load_files("m", client_files(&[(1, "model.null", MODEL)], None)).unwrap();
    fixture.store.remove("m").unwrap();
    assert!(fixture.store.find("m").is_none());
    assert_eq!(std::fs::read_dir(blobs.path().join("blobs")).unwrap().count(), 0);
    assert_eq!(std::fs::read_dir(blobs.path().join("refs")).unwrap().count(), 0);
}

#[test]
fn an_unusable_file_is_named_once() {
    let fixture = Fixture::new();
    fixture.write("m.odd", "x");
    let path = fixture.dir.path().join("m.odd");
    let error = fixture.store.add_file(&path).unwrap_err().to_string();
    assert_eq!(error.matches(path.to_str().unwrap()).count(), 1, "{error}");
    assert!(error.contains("is in no format"), "{error}");
}
