// SPDX-License-Identifier: Apache-2.0
//! What every source file must show: its licence on the first line, and no unsafe code outside the few
//! modules that DESIGN.md and STYLE.md give it.

use std::path::{Path, PathBuf};
use std::{fs, io};

use cargo_metadata::{Metadata, TargetKind};

const LICENCE: &str = "SPDX-License-Identifier: Apache-2.0";
const FOLDERS: &[&str] =
    &["crates", "backends", "bindings", "xtask", "tests", "examples", "fuzz", ".ci", ".cargo"];

/// Modules that may be unsafe. Their crates deny it, and allow it in the line above `mod`.
const MAY_BE_UNSAFE: &[&str] = &[
    "backends/builtin/src/ffi.rs",
    "bindings/python/src/memory.rs",
    "crates/diolkos/main/allocator.rs",
    "crates/libdiolkos/src/ffi.rs",
    "crates/diolkos-shm/src/alone.rs",
    "crates/diolkos-shm/src/arena.rs",
    "crates/diolkos-shm/src/heap.rs",
    "crates/diolkos-shm/src/mapping.rs",
    "crates/diolkos-shm/src/peer.rs",
    "crates/diolkos-shm/src/presence.rs",
    "crates/diolkos-shm/src/segment.rs",
    "crates/diolkos-shm/src/vsock.rs",
];

/// Source files whose first line (the second after `#!`) is not the licence.
pub(super) fn licence_lines() -> io::Result<Vec<String>> {
    let mut problems = Vec::new();
    for extension in ["rs", "py", "sh", "proto", "c", "h"] {
        for file in files(FOLDERS, extension)? {
            let text = fs::read_to_string(&file)?;
            if !opens_with_licence(&text) {
                problems.push(format!("{} must open with `{LICENCE}` in a comment", shown(&file)));
            }
        }
    }
    Ok(problems)
}

fn opens_with_licence(text: &str) -> bool {
    let mut lines = text.lines();
    let first = lines.next().unwrap_or_default();
    let first = if first.starts_with("#!/") { lines.next().unwrap_or_default() } else { first };
    first.trim_start_matches(['/', '#', '*', ' ']).trim_end_matches(['*', '/', ' ']) == LICENCE
}

/// Crate roots that don't forbid unsafe code, and files outside the list that allow it. The compiler
/// does the rest: `forbid` can't be undone further down, and `deny` only by an `allow` that we see.
pub(super) fn unsafe_addresses(metadata: &Metadata) -> io::Result<Vec<String>> {
    let mut problems = Vec::new();
    for member in metadata.workspace_packages() {
        for target in &member.targets {
            let of_product = [TargetKind::Lib, TargetKind::Bin, TargetKind::Example, TargetKind::CustomBuild];
            if !target.kind.iter().any(|kind| of_product.contains(kind)) {
                continue;
            }
            let text = fs::read_to_string(&target.src_path)?;
            let folder = Path::new(target.src_path.as_str()).parent().unwrap_or(Path::new(""));
            let denies = MAY_BE_UNSAFE.iter().any(|file| crate::root().join(file).starts_with(folder));
            let wanted = if denies { "#![deny(unsafe_code)]" } else { "#![forbid(unsafe_code)]" };
            if !text.lines().any(|line| line.trim() == wanted) {
                problems.push(format!("{} must say `{wanted}`", shown(Path::new(target.src_path.as_str()))));
            }
        }
    }
    for file in files(&["crates", "backends", "bindings", "xtask", "examples"], "rs")? {
        let folder = file.parent().unwrap_or(Path::new(""));
        for module in allowed_unsafe(&fs::read_to_string(&file)?) {
            let module = module.map(|name| shown(&folder.join(format!("{name}.rs"))));
            if !module.as_deref().is_some_and(|module| MAY_BE_UNSAFE.contains(&module)) {
                let what = module.unwrap_or_else(|| "something other than a module".into());
                problems.push(format!(
                    "{} allows unsafe code in {what}, which is not in xtask/src/policy/sources.rs",
                    shown(&file)
                ));
            }
        }
    }
    Ok(problems)
}

/// What each `allow(unsafe_code)` of a file stands above: a module's name, or none if it is anything else.
fn allowed_unsafe(text: &str) -> Vec<Option<&str>> {
    let levels = ["allow", "expect", "warn"].map(|level| format!("{level}(unsafe{}", "_code"));
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    let allowing = (0..lines.len())
        .filter(|&at| lines[at].starts_with('#') && levels.iter().any(|level| lines[at].contains(level)));
    allowing.map(|at| module_named_by(lines.get(at + 1)?)).collect()
}

fn module_named_by(line: &str) -> Option<&str> {
    line.trim_start_matches("pub ").trim_start_matches("pub(crate) ").strip_prefix("mod ")?.strip_suffix(';')
}

/// Files with an extension below folders of the workspace, leaving out what builds put there.
pub(super) fn files(folders: &[&str], extension: &str) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut open: Vec<PathBuf> =
        folders.iter().map(|folder| crate::root().join(folder)).filter(|folder| folder.is_dir()).collect();
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(&folder)? {
            let (entry, kind) = entry.and_then(|entry| entry.file_type().map(|kind| (entry, kind)))?;
            let name = entry.file_name();
            if kind.is_dir()
                && !["target", "corpus", "artifacts", "__pycache__"].iter().any(|made| name == *made)
            {
                open.push(entry.path());
            } else if kind.is_file() && entry.path().extension().is_some_and(|found| found == extension) {
                found.push(entry.path());
            }
        }
    }
    found.sort();
    Ok(found)
}

fn shown(path: &Path) -> String {
    path.strip_prefix(crate::root()).unwrap_or(path).display().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_licence_is_the_first_line_or_follows_the_interpreter() {
        assert!(opens_with_licence("// SPDX-License-Identifier: Apache-2.0\n//! Docs.\n"));
        assert!(opens_with_licence("#!/bin/sh\n# SPDX-License-Identifier: Apache-2.0\n"));
        assert!(opens_with_licence("/* SPDX-License-Identifier: Apache-2.0 */\n"));
        assert!(!opens_with_licence("//! Docs.\n// SPDX-License-Identifier: Apache-2.0\n"));
        assert!(!opens_with_licence("// SPDX-License-Identifier: MIT\n"));
        assert!(!opens_with_licence(""));
    }

    #[test]
    fn an_exception_to_the_rule_about_unsafe_is_seen() {
        let exception = |what: &str| format!("mod a;\n#[allow(unsafe{}\n{what}\n", "_code)]");
        assert_eq!(allowed_unsafe(&exception("mod ffi;")), [Some("ffi")]);
        assert_eq!(allowed_unsafe(&exception("fn f() {}")), [None]);
        assert_eq!(allowed_unsafe(&exception("")), [None]);
        assert!(allowed_unsafe("#![forbid(unsafe_code)]").is_empty());
    }
}
