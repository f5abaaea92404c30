// SPDX-License-Identifier: Apache-2.0
//! Model files as an attacker or a broken disk would have them.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::conformance::runs::no_panic;
use crate::conformance::{Check, OPTIONS, Report, with_contents};
use crate::seeded::Seeded;
use crate::{Backend, LoadError, ModelFiles};

/// Truncated and flipped copies of every file, and files that are missing: loading may fail, never panic.
pub(super) fn damaged(
    report: &mut Report,
    label: &str,
    backend: &dyn Backend,
    files: &ModelFiles,
    seed: u64,
    loads_max: usize,
) {
    let mut loads = 0;
    let mut try_load = |damaged: &ModelFiles, what: String| {
        loads += 1;
        match no_panic(|| backend.load(damaged, &OPTIONS).map(|loaded| loaded.signature().clone())) {
            Ok(_) => Ok(()),
            Err(text) => Err(format!("{what}: {text}")),
        }
    };
    let mut check = || {
        try_load(files, "undamaged".into())?;
        try_load(&ModelFiles::default(), "no files at all".into())?;
        let each = (loads_max / files.files.len().max(1)).max(8);
        for (name, contents) in &files.files {
            let mut without = files.clone();
            without.files.remove(name);
            try_load(&without, format!("without `{name}`"))?;
            for length in cuts(contents.len(), each / 3) {
                let cut = with_contents(files, name, contents[..length].to_vec());
                try_load(&cut, format!("`{name}` cut off after {length} bytes"))?;
            }
            let mut random = Seeded::new(seed);
            for number in 0..each / 3 * 2 {
                let (changed, what) = damage(contents, number, &mut random);
                try_load(&with_contents(files, name, changed), format!("`{name}` with {what}"))?;
            }
        }
        Ok(())
    };
    let result = check();
    report.judge(label, Check::LoadNeverPanics, result.map(|()| format!("{loads} damaged copies")));
}

/// The first and last few lengths, and others evenly between.
fn cuts(length: usize, count: usize) -> Vec<usize> {
    let near = count / 4;
    let mut cuts: Vec<usize> = (0..near).chain((1..=near).map(|back| length.saturating_sub(back))).collect();
    let rest = (count - 2 * near).max(1);
    cuts.extend((0..rest).map(|step| (length as u128 * step as u128 / rest as u128) as usize));
    cuts.retain(|&cut| cut < length);
    cuts.sort_unstable();
    cuts.dedup();
    cuts
}

/// By turns: a flipped bit, a byte with an extreme value, a run of noise, a piece doubled.
fn damage(contents: &[u8], number: usize, random: &mut Seeded) -> (Vec<u8>, String) {
    let mut changed = contents.to_vec();
    let at = random.below(contents.len());
    if contents.is_empty() {
        return (random.bytes(4), "four bytes where there were none".into());
    }
    let what = match number % 4 {
        0 => {
            let bit = random.below(8);
            changed[at] ^= 1 << bit;
            format!("bit {bit} of byte {at} flipped")
        }
        1 => {
            changed[at] = [0, 0x7f, 0x80, 0xff][random.below(4)];
            format!("byte {at} set to {}", changed[at])
        }
        2 => {
            let end = (at + 1 + random.below(16)).min(contents.len());
            let noise = random.bytes(end - at);
            changed[at..end].copy_from_slice(&noise);
            format!("noise in bytes {at} to {end}")
        }
        _ => {
            let end = (at + 1 + random.below(64)).min(contents.len());
            changed.splice(at..at, contents[at..end].iter().copied());
            format!("bytes {at} to {end} doubled")
        }
    };
    (changed, what)
}

/// Files that are no model at all are `Invalid`, whatever their length.
pub(super) fn noise(report: &mut Report, label: &str, backend: &dyn Backend, files: &ModelFiles, seed: u64) {
    let mut random = Seeded::new(seed);
    // Long enough that no format takes noise for a model by chance.
    let result = [64, 100, 1000, 4096, 65536].into_iter().try_for_each(|length| {
        let noise = with_contents(files, &files.entry, random.bytes(length));
        match no_panic(|| backend.load(&noise, &OPTIONS).map(drop)) {
            Ok(Err(LoadError::Invalid { .. })) => Ok(()),
            // Not this check's to judge: the file may be refused before it is looked at.
            Ok(Err(LoadError::TooLarge { .. })) | Err(_) => Ok(()),
            Ok(Err(error)) => Err(format!("{length} random bytes gave `{error}`")),
            Ok(Ok(())) => Err(format!("{length} random bytes were loaded")),
        }
    });
    report.judge(label, Check::LoadRefusesNoise, result.map(|()| "5 files of random bytes".into()));
}

/// The entry's name is the path of a real file, and [`ModelFiles`] does not have it.
pub(super) fn decoy(report: &mut Report, label: &str, backend: &dyn Backend, files: &ModelFiles) {
    let check = Check::LoadOnlyItsFiles;
    let Ok(contents) = files.entry_contents() else {
        return report.skip(label, check, "the sample's own entry is not among its files");
    };
    let decoy = match Decoy::new(&files.entry, contents) {
        Ok(decoy) => decoy,
        Err(error) => return report.skip(label, check, format!("no temporary file could be made: {error}")),
    };
    let mut outside = files.clone();
    outside.files.remove(&files.entry);
    outside.entry = decoy.path.to_string_lossy().into_owned();
    let result = match no_panic(|| backend.load(&outside, &OPTIONS).map(drop)) {
        Ok(Ok(())) => Err("it loaded a file from disk that was not given to it".into()),
        Ok(Err(_)) | Err(_) => Ok("a file beside them was left alone".into()),
    };
    report.judge(label, check, result);
}

/// A file in a directory of its own; both go away with it.
struct Decoy {
    directory: PathBuf,
    path: PathBuf,
}

impl Decoy {
    fn new(entry: &str, contents: &[u8]) -> io::Result<Decoy> {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let directory = std::env::temp_dir().join(format!("diolkos-decoy-{}-{number}", process::id()));
        fs::create_dir(&directory)?;
        let name = Path::new(entry).file_name().unwrap_or("model".as_ref());
        let decoy = Decoy { path: directory.join(name), directory };
        File::create_new(&decoy.path)?.write_all(contents)?;
        Ok(decoy)
    }
}

impl Drop for Decoy {
    fn drop(&mut self) {
        // Nothing depends on it; a directory left behind in /tmp is small and has a telling name.
        let _ = fs::remove_dir_all(&self.directory);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn damage_changes_the_file_and_replays() {
        let contents: Vec<u8> = (0..=255).collect();
        for number in 0..4 {
            let (one, _) = damage(&contents, number, &mut Seeded::new(9));
            let (again, _) = damage(&contents, number, &mut Seeded::new(9));
            assert_eq!(one, again);
            assert_ne!(one, contents);
        }
        assert_eq!(damage(&[], 0, &mut Seeded::new(1)).0.len(), 4);
    }

    #[test]
    fn cuts_reach_both_ends() {
        let cuts = cuts(1000, 60);
        assert!(cuts.len() > 50 && cuts.contains(&0) && cuts.contains(&14) && cuts.contains(&999));
        assert!(super::cuts(0, 60).is_empty());
        assert_eq!(super::cuts(2, 60), [0, 1]);
    }
}
