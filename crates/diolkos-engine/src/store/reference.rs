// SPDX-License-Identifier: Apache-2.0
//! The file that says which blobs make a model: one line per file, and a digest over all lines before it.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;

use diolkos_types::Digest;

use super::limits::{FILES_PER_VERSION_MAX, REFERENCE_BYTES_MAX, VERSIONS_PER_MODEL_MAX};
use super::manifest::{digest_of, is_plain_relative};

const HEAD: &str = "diolkos reference 1";
const UNLOADED: &str = "unloaded";

/// One file of a version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlobFile {
    /// Its name in the version.
    pub name: Box<str>,
    /// Its contents.
    pub digest: Digest,
}

/// What a model is made of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reference {
    /// The files of each version.
    pub versions: BTreeMap<u64, Arc<[BlobFile]>>,
    /// The configuration.
    pub config: Option<Digest>,
    /// Somebody unloaded the model, so it does not come back with the next start.
    pub unloaded: bool,
}

/// Why a file is no reference.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReferenceError {
    /// The digest at its end is not that of the lines before.
    #[error("it is damaged")]
    Damaged,
    /// A line is not what it should be.
    #[error("line {line} is not understood")]
    Line {
        /// Which, from 1.
        line: usize,
    },
    /// More versions, files or bytes than there may be.
    #[error("it names too much")]
    TooLarge,
}

impl Reference {
    /// Every digest that it names; some may come twice.
    pub fn digests(&self) -> impl Iterator<Item = Digest> {
        let files = self.versions.values().flat_map(|files| files.iter().map(|file| file.digest));
        files.chain(self.config)
    }

    /// The text of the file.
    #[must_use]
    pub fn print(&self) -> String {
        let mut text = format!("{HEAD}\n");
        // Writing to a String can't fail.
        if let Some(config) = self.config {
            let _ = writeln!(text, "config {config}");
        }
        if self.unloaded {
            let _ = writeln!(text, "{UNLOADED}");
        }
        for (version, files) in &self.versions {
            for file in &**files {
                let _ = writeln!(text, "file {version} {} {}", file.digest, file.name);
            }
        }
        let digest = digest_of(text.as_bytes());
        let _ = writeln!(text, "end {digest}");
        text
    }

    /// Reads the text of the file.
    pub fn parse(text: &[u8]) -> Result<Reference, ReferenceError> {
        if text.len() > REFERENCE_BYTES_MAX {
            return Err(ReferenceError::TooLarge);
        }
        let text = std::str::from_utf8(text).map_err(|_| ReferenceError::Damaged)?;
        let (lines, end) = text.rsplit_once("end ").ok_or(ReferenceError::Damaged)?;
        let digest = end.strip_suffix('\n').and_then(|end| end.parse::<Digest>().ok());
        if digest != Some(digest_of(lines.as_bytes())) {
            return Err(ReferenceError::Damaged);
        }
        let mut config = None;
        let mut unloaded = false;
        let mut versions: BTreeMap<u64, Vec<BlobFile>> = BTreeMap::new();
        for (index, line) in lines.lines().enumerate() {
            if index == 0 && line == HEAD {
                continue;
            }
            if index > 0 && line == UNLOADED {
                unloaded = true;
                continue;
            }
            let bad = || ReferenceError::Line { line: index + 1 };
            match line.split_once(' ').ok_or_else(bad)? {
                ("config", digest) => config = Some(digest.parse().map_err(|_| bad())?),
                ("file", rest) if index > 0 => {
                    let (version, file) = file_line(rest).ok_or_else(bad)?;
                    let files = versions.entry(version).or_default();
                    files.push(file);
                    if files.len() > FILES_PER_VERSION_MAX {
                        return Err(ReferenceError::TooLarge);
                    }
                }
                _ => return Err(bad()),
            }
        }
        if versions.len() > VERSIONS_PER_MODEL_MAX {
            return Err(ReferenceError::TooLarge);
        }
        let versions = versions.into_iter().map(|(version, files)| (version, files.into())).collect();
        Ok(Reference { versions, config, unloaded })
    }
}

fn file_line(rest: &str) -> Option<(u64, BlobFile)> {
    let (version, rest) = rest.split_once(' ')?;
    let (digest, name) = rest.split_once(' ')?;
    let plain = is_plain_relative(name) && !name.chars().any(char::is_control);
    let file = BlobFile { name: name.into(), digest: digest.parse().ok()? };
    Some((version.parse().ok()?, file)).filter(|_| plain)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn example() -> Reference {
        let file = |name: &str| BlobFile { name: name.into(), digest: digest_of(name.as_bytes()) };
        Reference {
            versions: [(1, [file("model.onnx")].into()), (7, [file("end x/y z"), file("b")].into())].into(),
            config: Some(digest_of(b"c")),
            unloaded: true,
        }
    }

    #[test]
    fn round_trip() {
        assert_eq!(Reference::parse(example().print().as_bytes()), Ok(example()));
        let loaded = Reference { unloaded: false, ..example() };
        assert_eq!(Reference::parse(loaded.print().as_bytes()), Ok(loaded));
        assert_eq!(Reference::parse(Reference::default().print().as_bytes()), Ok(Reference::default()));
    }

    #[test]
    fn refuses_names_that_leave() {
        let mut bad = Reference { unloaded: false, ..example() };
        let file = BlobFile { name: "../x".into(), digest: digest_of(b"") };
        bad.versions.insert(9, [file].into());
        assert_eq!(Reference::parse(bad.print().as_bytes()), Err(ReferenceError::Line { line: 6 }));
    }

    proptest! {
        #[test]
        fn every_flipped_byte_is_seen(at in 0usize..300, flip in 1u8..) {
            let mut text = example().print().into_bytes();
            let at = at % text.len();
            text[at] ^= flip;
            prop_assert!(Reference::parse(&text).is_err());
        }

        #[test]
        fn every_truncation_is_seen(cut in 0usize..300) {
            let text = example().print();
            prop_assert!(Reference::parse(&text.as_bytes()[..cut % text.len()]).is_err());
        }
    }
}
