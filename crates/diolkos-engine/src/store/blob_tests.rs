// SPDX-License-Identifier: Apache-2.0
//! Tests of the content store: quota, collection, damage, and a crash at every step.

use std::sync::{Arc, Mutex};

use super::*;

const QUOTA: u64 = 1 << 20;

fn open(dir: &Path) -> BlobStore {
    BlobStore::open(dir, QUOTA).unwrap().0
}

fn reference(store: &mut BlobStore, text: &str) -> Reference {
    let digest = store.put(text.as_bytes()).unwrap();
    Reference {
        versions: [(1, [BlobFile { name: "m".into(), digest }].into())].into(),
        config: None,
        unloaded: false,
    }
}

#[test]
fn keeps_contents_once_and_over_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = open(dir.path());
    let digest = store.put(b"weights").unwrap();
    assert_eq!(store.put(b"weights").unwrap(), digest);
    assert_eq!(store.used_bytes(), 7);
    let one = reference(&mut store, "weights");
    store.set_reference("m", one.clone()).unwrap();
    drop(store);
    let mut store = open(dir.path());
    assert_eq!(store.get(&digest).unwrap(), "weights");
    assert_eq!(store.references().collect::<Vec<_>>(), [("m", &one)]);
    assert!(store.remove_reference("m").unwrap());
    assert!(!store.remove_reference("m").unwrap());
}

#[test]
fn one_process_at_a_time() {
    let dir = tempfile::tempdir().unwrap();
    let first = open(dir.path());
    assert!(matches!(BlobStore::open(dir.path(), QUOTA), Err(BlobError::InUse { .. })));
    drop(first);
    open(dir.path());
}

#[test]
fn damage_is_moved_away_and_said() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = open(dir.path());
    for damage in ["weightz", "weight", "weights and more"] {
        let digest = store.put(b"weights").unwrap();
        std::fs::write(store.blob_path(&digest), damage).unwrap();
        assert!(matches!(store.get(&digest), Err(BlobError::Damaged { .. })), "{damage}");
        assert!(matches!(store.get(&digest), Err(BlobError::Missing { .. })), "{damage}");
        assert_eq!(store.used_bytes(), damage.len() as u64, "what is in quarantine counts");
        assert!(dir.path().join("quarantine").join(digest.to_string()).exists());
    }
    let one = reference(&mut store, "weights");
    store.set_reference("m", one).unwrap();
    std::fs::write(store.reference_path("m"), "nonsense").unwrap();
    drop(store);
    let (store, report) = BlobStore::open(dir.path(), QUOTA).unwrap();
    assert_eq!(report.damaged_references, ["m"]);
    assert_eq!(store.references().count(), 0);
}

#[test]
fn quota_and_collection() {
    let dir = tempfile::tempdir().unwrap();
    let (mut store, _) = BlobStore::open(dir.path(), 10).unwrap();
    let kept = reference(&mut store, "12345");
    store.set_reference("m", kept).unwrap();
    let loose = store.put(b"abcd").unwrap();
    let error = store.put(b"xyz").unwrap_err();
    assert!(matches!(error, BlobError::Quota { needed: 3, used: 9, quota: 10 }), "{error}");
    // The loose one is young: its reference may be on its way.
    let now = SystemTime::now();
    assert_eq!(store.collect(now, BLOB_GRACE).unwrap(), Collected::default());
    store.blobs.get_mut(&loose).unwrap().put = now - 2 * BLOB_GRACE;
    // A put makes the room itself.
    store.put(b"xyz").unwrap();
    assert!(!store.contains(&loose));
    assert_eq!(store.used_bytes(), 8);
    store.remove_reference("m").unwrap();
    let all = store.collect(now + 2 * BLOB_GRACE, BLOB_GRACE).unwrap();
    assert_eq!(all, Collected { blobs: 2, bytes: 8 });
}

#[test]
fn quarantine_counts_over_a_restart_and_is_collected() {
    let dir = tempfile::tempdir().unwrap();
    let (mut store, _) = BlobStore::open(dir.path(), 10).unwrap();
    let digest = store.put(b"weights").unwrap();
    std::fs::write(store.blob_path(&digest), "weightz").unwrap();
    assert!(store.get(&digest).is_err());
    drop(store);
    let (mut store, _) = BlobStore::open(dir.path(), 10).unwrap();
    assert_eq!(store.used_bytes(), 7);
    assert!(matches!(store.put(b"12345"), Err(BlobError::Quota { used: 7, .. })));
    let later = SystemTime::now() + 2 * BLOB_GRACE;
    assert_eq!(store.collect(later, BLOB_GRACE).unwrap(), Collected { blobs: 1, bytes: 7 });
    assert_eq!(list(&dir.path().join("quarantine")).unwrap().len(), 0);
    store.put(b"12345").unwrap();
}

#[test]
fn a_reference_needs_its_blobs() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = open(dir.path());
    let file = BlobFile { name: "m".into(), digest: digest_of(b"not there") };
    let dangling = Reference { versions: [(1, [file].into())].into(), config: None, unloaded: false };
    assert!(matches!(store.set_reference("m", dangling), Err(BlobError::Missing { .. })));
}

/// A machine that loses power after so many operations, and with it whatever was not synced, if it is unkind.
#[derive(Default)]
struct Machine {
    steps_left: usize,
    unkind: bool,
    unsynced_files: Vec<PathBuf>,
    /// From, to, and what was at `to` before.
    unsynced_names: Vec<(PathBuf, PathBuf, Option<Vec<u8>>)>,
}

#[derive(Clone, Default)]
struct Faulty(Arc<Mutex<Machine>>);

impl Faulty {
    fn step(&self) -> io::Result<std::sync::MutexGuard<'_, Machine>> {
        let mut machine = self.0.lock().unwrap();
        if machine.steps_left == 0 {
            return Err(io::Error::other("the power is gone"));
        }
        machine.steps_left -= 1;
        Ok(machine)
    }

    fn lose_power(&self) {
        let mut machine = self.0.lock().unwrap();
        if !machine.unkind {
            return;
        }
        for (from, to, before) in std::mem::take(&mut machine.unsynced_names).into_iter().rev() {
            std::fs::rename(&to, &from).unwrap();
            if let Some(before) = before {
                std::fs::write(&to, before).unwrap();
            }
        }
        for path in std::mem::take(&mut machine.unsynced_files) {
            // Renamed or not, the contents never reached the disk.
            if path.exists() {
                std::fs::write(&path, b"").unwrap();
            }
        }
    }
}

impl FileOps for Faulty {
    fn write(&self, path: &Path, contents: &[u8]) -> io::Result<()> {
        // Power may go in the middle of a write, so a write is two steps.
        drop(self.step()?);
        std::fs::write(path, &contents[..contents.len() / 2])?;
        self.step()?.unsynced_files.push(path.into());
        std::fs::write(path, contents)
    }

    fn sync_file(&self, path: &Path) -> io::Result<()> {
        self.step()?.unsynced_files.retain(|other| other != path);
        Ok(())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let before = std::fs::read(to).ok();
        let mut machine = self.step()?;
        for path in &mut machine.unsynced_files {
            if path == from {
                *path = to.into();
            }
        }
        machine.unsynced_names.push((from.into(), to.into(), before));
        std::fs::rename(from, to)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.step()?.unsynced_names.retain(|(_, to, _)| to.parent() != Some(dir));
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let _machine = self.step()?;
        std::fs::remove_file(path)
    }
}

/// Replaces a model's contents and collects the old ones; says which puts and references were acknowledged.
fn replace_model(store: &mut BlobStore, acknowledged: &mut Vec<&'static str>) -> Result<(), BlobError> {
    for text in ["old weights", "new weights, longer"] {
        let digest = store.put(text.as_bytes())?;
        let file = BlobFile { name: "m".into(), digest };
        store.set_reference(
            "m",
            Reference { versions: [(1, [file].into())].into(), config: None, unloaded: false },
        )?;
        acknowledged.push(text);
    }
    store.collect(SystemTime::now(), Duration::ZERO)?;
    Ok(())
}

#[test]
fn a_crash_at_any_step_leaves_a_whole_store() {
    for unkind in [false, true] {
        let mut finished = false;
        for steps in 0.. {
            let dir = tempfile::tempdir().unwrap();
            let faulty = Faulty::default();
            *faulty.0.lock().unwrap() = Machine { steps_left: steps, unkind, ..Machine::default() };
            let (mut store, _) = BlobStore::open_with(dir.path(), QUOTA, Box::new(faulty.clone())).unwrap();
            let mut acknowledged = Vec::new();
            let outcome = replace_model(&mut store, &mut acknowledged);
            drop(store);
            faulty.lose_power();

            let (mut store, report) = BlobStore::open(dir.path(), QUOTA).unwrap();
            assert_eq!(report.damaged_references, [""; 0], "after {steps} steps");
            assert!(report.leftovers <= 1, "after {steps} steps");
            assert_eq!(list(&dir.path().join("tmp")).unwrap().len(), 0);
            let blobs: Vec<Digest> = store.blobs.keys().copied().collect();
            for digest in blobs {
                store.get(&digest).unwrap_or_else(|error| panic!("after {steps} steps: {error}"));
            }
            let current = store.reference("m").cloned();
            for digest in current.iter().flat_map(Reference::digests) {
                store.get(&digest).unwrap_or_else(|error| panic!("after {steps} steps: {error}"));
            }
            // What was acknowledged is there, or something newer.
            if let Some(last) = acknowledged.last() {
                let digest = current.expect("an acknowledged model is there").digests().next().unwrap();
                let now = store.get(&digest).unwrap();
                assert!(now == last || now == "new weights, longer", "after {steps} steps: {now:?}");
            }
            if outcome.is_ok() {
                assert_eq!(store.blobs.len(), 1);
                finished = true;
                break;
            }
        }
        assert!(finished);
    }
}
