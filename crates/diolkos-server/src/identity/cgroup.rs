// SPDX-License-Identifier: Apache-2.0
//! Patterns of control groups: a group and all below it, because a process that may make groups makes them below its own.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A path from the root of the hierarchy, such as `/machine.slice/web-*.scope`; `*` and `?` stay within one level.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct CgroupPattern(String);

/// Text is no such path.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is no control group: write a path from the root such as \"/machine.slice/web-*.scope\"; the root alone would be everybody"
)]
pub struct NoCgroup(String);

impl CgroupPattern {
    /// How many levels it names; the more, the more it says.
    pub(crate) fn levels(&self) -> usize {
        self.parts().count()
    }

    fn parts(&self) -> impl Iterator<Item = &str> {
        self.0[1..].split('/')
    }

    /// Whether a process in the group `path` is meant.
    pub(crate) fn contains(&self, path: &str) -> bool {
        let Some(path) = path.strip_prefix('/') else { return false };
        let mut levels = path.split('/').filter(|level| !level.is_empty());
        self.parts().all(|pattern| levels.next().is_some_and(|level| diolkos_engine::matches(pattern, level)))
    }
}

impl FromStr for CgroupPattern {
    type Err = NoCgroup;

    fn from_str(text: &str) -> Result<CgroupPattern, NoCgroup> {
        let bad = || NoCgroup(text.chars().take(100).collect());
        let path = text.strip_prefix('/').ok_or_else(bad)?;
        let path = path.strip_suffix('/').unwrap_or(path);
        if path.split('/').any(|part| matches!(part, "" | "." | "..")) {
            return Err(bad());
        }
        Ok(CgroupPattern(format!("/{path}")))
    }
}

impl TryFrom<String> for CgroupPattern {
    type Error = NoCgroup;

    fn try_from(text: String) -> Result<CgroupPattern, NoCgroup> {
        text.parse()
    }
}

impl From<CgroupPattern> for String {
    fn from(pattern: CgroupPattern) -> String {
        pattern.0
    }
}

impl fmt::Display for CgroupPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_and_what_is_below_it() {
        for (pattern, path, expected) in [
            ("/a", "/a", true),
            ("/a/", "/a", true),
            ("/a", "/a/b/c", true),
            ("/a", "/ab", false),
            ("/a/b", "/a", false),
            ("/a*", "/ab/c", true),
            ("/a*/c", "/ab/c", true),
            ("/a*c", "/ab/c", false),
            ("/*/c", "/a/c/d", true),
            ("/*", "/", false),
            ("/a", "", false),
            ("/a", "a", false),
        ] {
            assert_eq!(
                pattern.parse::<CgroupPattern>().unwrap().contains(path),
                expected,
                "{pattern} {path}"
            );
        }
        for wrong in ["", "/", "a", "/a/../b", "/a//b", "/./a", "//"] {
            assert!(wrong.parse::<CgroupPattern>().is_err(), "{wrong}");
        }
    }
}
