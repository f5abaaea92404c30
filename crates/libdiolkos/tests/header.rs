// SPDX-License-Identifier: Apache-2.0
//! The header that is checked in is that of the sources, and declares just what the library exports.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use support::{built_library, here, skip};

/// In the order in which the header has them.
const SOURCES: &[&str] = &["numbers", "options", "views", "handles", "ffi"];

fn rendered() -> String {
    let config = cbindgen::Config::from_file(here("cbindgen.toml")).unwrap();
    let mut builder = cbindgen::Builder::new().with_config(config);
    for source in SOURCES {
        builder = builder.with_src(here(&format!("src/{source}.rs")));
    }
    let mut header = Vec::new();
    builder.generate().unwrap().write(&mut header);
    String::from_utf8(header).unwrap()
}

fn header_path() -> PathBuf {
    here("include/diolkos.h")
}

#[test]
fn the_header_is_that_of_the_sources() {
    let rendered = rendered();
    if std::env::var_os("DIOLKOS_BLESS").is_some() {
        fs::write(header_path(), rendered).unwrap();
        return;
    }
    let checked_in = fs::read_to_string(header_path()).unwrap_or_default();
    let differs = rendered.lines().zip(checked_in.lines()).position(|(made, is)| made != is);
    let differs = differs.unwrap_or(rendered.lines().count().min(checked_in.lines().count()));
    assert!(
        rendered == checked_in,
        "include/diolkos.h differs from the sources from line {} on: DIOLKOS_BLESS=1 writes it anew",
        differs + 1
    );
}

/// Names that are followed by a parenthesis, outside of comments: the functions, since there are no macros with any.
fn declared(header: &str) -> BTreeSet<String> {
    let mut code = String::new();
    let mut rest = header;
    while let Some((before, comment)) = rest.split_once("/*") {
        code.push_str(before);
        rest = comment.split_once("*/").map_or("", |(_, after)| after);
    }
    code.push_str(rest);
    let code: Vec<&str> = code.lines().filter_map(|line| line.split("//").next()).collect();
    let code = code.join("\n");
    code.match_indices('(')
        .filter_map(|(at, _)| code[..at].rsplit(|c: char| !c.is_ascii_alphanumeric() && c != '_').next())
        .filter(|name| name.starts_with("diolkos_"))
        .map(str::to_owned)
        .collect()
}

fn exported(library: &Path) -> Result<BTreeSet<String>, String> {
    let listed = Command::new("nm").args(["-D", "--defined-only"]).arg(library).output();
    let listed = listed.map_err(|error| format!("nm does not run: {error}"))?;
    assert!(listed.status.success(), "{}", String::from_utf8_lossy(&listed.stderr));
    let text = String::from_utf8(listed.stdout).unwrap();
    Ok(text.lines().filter_map(|line| line.split_whitespace().last()).map(str::to_owned).collect())
}

#[test]
fn the_header_declares_what_the_library_exports() {
    let declared = declared(&rendered());
    assert!(declared.len() > 30 && declared.contains("diolkos_infer"), "{declared:?}");
    let exported = match built_library("libdiolkos.so").and_then(|library| exported(&library)) {
        Ok(exported) => exported,
        Err(reason) => return skip(&reason),
    };
    assert_eq!(declared, exported);
}

#[test]
fn comments_hide_nothing_and_add_nothing() {
    let header =
        "/* diolkos_a() */ int diolkos_b(struct diolkos_c *d);\nint\ndiolkos_e(void); /* ( */ // diolkos_f()";
    assert_eq!(declared(header).into_iter().collect::<Vec<_>>(), ["diolkos_b", "diolkos_e"]);
}
