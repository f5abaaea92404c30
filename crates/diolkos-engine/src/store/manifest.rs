// SPDX-License-Identifier: Apache-2.0
//! Reads the files of a model version, once, and gives the model its id.
//!
//! Each file is opened once; what was read is what is hashed, rehearsed and loaded, so nobody can swap a file
//! between the check and the use. The id is the SHA-256 of a canonical manifest: the backend, and for each
//! file its name, size and SHA-256. The file to begin with is named `entry` there, because what a model is
//! called must not change what it is; other files keep their names, because the model refers to them.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use diolkos_backend::ModelFiles;
use diolkos_types::Digest;
use rustix::fs::{FileType, Mode, OFlags};
use sha2::Digest as _;

use super::limits::{FILE_NAME_BYTES_MAX, FILES_PER_VERSION_MAX, VERSION_DEPTH_MAX};

/// Why files could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The system refused.
    #[error("`{}` can't be read", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A pipe, device or socket where a file should be.
    #[error("`{}` is no regular file", path.display())]
    NotAFile {
        /// What it is called.
        path: PathBuf,
    },
    /// More bytes than a model may have.
    #[error("`{}` makes the model larger than {limit} bytes, which is the limit", path.display())]
    TooLarge {
        /// The file that crossed the limit.
        path: PathBuf,
        /// The limit.
        limit: u64,
    },
    /// More files or directories than a version may have.
    #[error("`{}` has more than {FILES_PER_VERSION_MAX} files or is deeper than {VERSION_DEPTH_MAX} directories", path.display())]
    TooMany {
        /// The version's directory.
        path: PathBuf,
    },
    /// A name that can't be one of a model's files.
    #[error("`{}` has a name that is too long, is not UTF-8 or leaves its directory", path.display())]
    BadName {
        /// The file.
        path: PathBuf,
    },
}

/// Whether a name stays below the directory it is relative to, and is spelled the one plain way.
#[must_use]
pub fn is_plain_relative(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= FILE_NAME_BYTES_MAX
        && !name.contains('\0')
        && name.split('/').all(|part| !matches!(part, "" | "." | ".."))
}

/// The SHA-256 of some bytes.
#[must_use]
pub fn digest_of(bytes: &[u8]) -> Digest {
    Digest(sha2::Sha256::digest(bytes).into())
}

/// The id of a model: what it is, whatever it is called.
#[must_use]
pub fn model_digest(backend: &str, files: &ModelFiles) -> Digest {
    let line = |(name, contents): (&String, &Bytes)| {
        let (size, digest) = (contents.len(), digest_of(contents));
        // Lengths go before names, so that no name can imitate another line.
        if *name == files.entry {
            format!("entry {size} {digest}\n")
        } else {
            format!("file {}:{name} {size} {digest}\n", name.len())
        }
    };
    let mut lines: Vec<String> = files.files.iter().map(line).collect();
    // The entry's name decides where it stands in the map, and must not count.
    lines.sort_unstable();
    let head = format!("diolkos model 1\nbackend {}:{backend}\n", backend.len());
    digest_of([head, lines.concat()].concat().as_bytes())
}

/// Reads one regular file of at most `limit` bytes.
///
/// It is opened without waiting (a named pipe would block), and its type is checked on what was opened.
pub fn read_file(path: &Path, limit: u64) -> Result<Bytes, ReadError> {
    let failed = |source: io::Error| ReadError::Io { path: path.into(), source };
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let fd = rustix::fs::open(path, flags, Mode::empty()).map_err(|errno| failed(errno.into()))?;
    let stat = rustix::fs::fstat(&fd).map_err(|errno| failed(errno.into()))?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(ReadError::NotAFile { path: path.into() });
    }
    let claimed = u64::try_from(stat.st_size).unwrap_or(0);
    if claimed > limit {
        return Err(ReadError::TooLarge { path: path.into(), limit });
    }
    // The file may grow while it is read, so the claimed size only sizes the buffer.
    let mut contents = Vec::with_capacity(usize::try_from(claimed).unwrap_or(0).saturating_add(1));
    File::from(fd).take(limit.saturating_add(1)).read_to_end(&mut contents).map_err(failed)?;
    if contents.len() as u64 > limit {
        return Err(ReadError::TooLarge { path: path.into(), limit });
    }
    Ok(contents.into())
}

/// Reads every file below a version's directory, except hidden ones.
pub fn read_directory(dir: &Path, limit: u64) -> Result<BTreeMap<String, Bytes>, ReadError> {
    let mut files = BTreeMap::new();
    let mut left = limit;
    for name in list_directory(dir)? {
        let path = dir.join(&name);
        let contents = read_file(&path, left).map_err(|error| match error {
            ReadError::TooLarge { path, .. } => ReadError::TooLarge { path, limit },
            other => other,
        })?;
        left -= contents.len() as u64;
        files.insert(name, contents);
    }
    Ok(files)
}

/// The names of the files below a directory, relative to it and sorted; hidden ones left out.
pub fn list_directory(dir: &Path) -> Result<Vec<String>, ReadError> {
    let mut names = Vec::new();
    let mut pending = vec![(String::new(), 0)];
    while let Some((prefix, depth)) = pending.pop() {
        let path = dir.join(&prefix);
        let failed = |source: io::Error| ReadError::Io { path: path.clone(), source };
        for entry in std::fs::read_dir(&path).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let name = entry.file_name();
            if name.as_encoded_bytes().starts_with(b".") {
                continue;
            }
            let bad = || ReadError::BadName { path: entry.path() };
            let name = name.to_str().ok_or_else(bad)?;
            let relative = if prefix.is_empty() { name.to_owned() } else { format!("{prefix}/{name}") };
            if !is_plain_relative(&relative) {
                return Err(bad());
            }
            // Follows links: an operator may keep weights elsewhere and link them here.
            let kind = std::fs::metadata(entry.path()).map_err(failed)?;
            if names.len() + pending.len() >= FILES_PER_VERSION_MAX
                || (kind.is_dir() && depth >= VERSION_DEPTH_MAX)
            {
                return Err(ReadError::TooMany { path: dir.into() });
            }
            if kind.is_dir() {
                pending.push((relative, depth + 1));
            } else {
                names.push(relative);
            }
        }
    }
    names.sort_unstable();
    Ok(names)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn files(entry: &str, files: &[(&str, &str)]) -> ModelFiles {
        let files = files.iter().map(|&(name, text)| (name.into(), Bytes::copy_from_slice(text.as_bytes())));
        ModelFiles { entry: entry.into(), files: files.collect() }
    }

    #[test]
    fn known_digest() {
        let empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(digest_of(b"").to_string(), empty);
    }

    #[test]
    fn the_name_of_the_entry_does_not_count_and_everything_else_does() {
        let base = model_digest("b", &files("m.x", &[("m.x", "1"), ("n", "2")]));
        assert_eq!(base, model_digest("b", &files("zz", &[("zz", "1"), ("n", "2")])));
        for other in [
            model_digest("c", &files("m.x", &[("m.x", "1"), ("n", "2")])),
            model_digest("b", &files("m.x", &[("m.x", "9"), ("n", "2")])),
            model_digest("b", &files("m.x", &[("m.x", "1"), ("o", "2")])),
            model_digest("b", &files("m.x", &[("m.x", "1")])),
            model_digest("b", &files("n", &[("m.x", "1"), ("n", "2")])),
        ] {
            assert_ne!(base, other);
        }
    }

    #[test]
    fn reads_only_regular_files_within_the_limit() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        std::fs::write(&path, "12345").unwrap();
        assert_eq!(read_file(&path, 5).unwrap(), "12345");
        assert!(matches!(read_file(&path, 4), Err(ReadError::TooLarge { limit: 4, .. })));
        assert!(matches!(read_file(dir.path(), 9), Err(ReadError::NotAFile { .. })));
        assert!(matches!(read_file(Path::new("/dev/zero"), 9), Err(ReadError::NotAFile { .. })));
        assert!(matches!(read_file(&dir.path().join("b"), 9), Err(ReadError::Io { .. })));
        let pipe = dir.path().join("pipe");
        rustix::fs::mkfifoat(rustix::fs::CWD, &pipe, Mode::RUSR | Mode::WUSR).unwrap();
        assert!(matches!(read_file(&pipe, 9), Err(ReadError::NotAFile { .. })));
    }

    #[test]
    fn reads_directories_without_what_is_hidden() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("sub/deep")).unwrap();
        std::fs::create_dir_all(dir.path().join(".git")).unwrap();
        for (name, text) in
            [("m.onnx", "1"), ("sub/w", "22"), ("sub/deep/v", "333"), (".git/x", "no"), (".y", "no")]
        {
            std::fs::write(dir.path().join(name), text).unwrap();
        }
        std::os::unix::fs::symlink(dir.path().join("m.onnx"), dir.path().join("link")).unwrap();
        let read = read_directory(dir.path(), 7).unwrap();
        let names: Vec<&str> = read.keys().map(String::as_str).collect();
        assert_eq!(names, ["link", "m.onnx", "sub/deep/v", "sub/w"]);
        let error = read_directory(dir.path(), 6).unwrap_err();
        assert!(matches!(error, ReadError::TooLarge { limit: 6, .. }), "{error}");
        std::os::unix::fs::symlink(dir.path(), dir.path().join("sub/loop")).unwrap();
        assert!(matches!(read_directory(dir.path(), 99), Err(ReadError::TooMany { .. })));
    }

    #[test]
    fn plain_names() {
        for name in ["a", "a/b", "..a", "a.b/c..", "variables/variables.index"] {
            assert!(is_plain_relative(name), "{name}");
        }
        for name in
            ["", "/", "/a", "a/", "a//b", ".", "..", "../a", "a/../b", "a/./b", "a\0b", &"x".repeat(513)]
        {
            assert!(!is_plain_relative(name), "{name}");
        }
    }

    proptest! {
        #[test]
        fn a_plain_name_never_leaves(name in "[a./]{0,12}") {
            if is_plain_relative(&name) {
                let mut depth = 0i32;
                for component in Path::new(&name).components() {
                    prop_assert!(matches!(component, std::path::Component::Normal(_)));
                    depth += 1;
                }
                prop_assert!(depth > 0);
            }
        }
    }
}
