// SPDX-License-Identifier: Apache-2.0
//! What the compiler can't check: which crate may use which, that each dependency has its sentence of
//! justification, licence lines, where unsafe code may be, that the documents exist and their links lead
//! somewhere. Each check returns sentences that say what is wrong and what to do.

mod dependencies;
mod documents;
mod floors;
mod sources;

use cargo_metadata::{Metadata, MetadataCommand};

use crate::tally::{Stop, Tally};

type Check = (&'static str, fn(&Metadata) -> Result<Vec<String>, std::io::Error>);

const CHECKS: &[Check] = &[
    ("a crate uses only lower floors", |metadata| Ok(floors::floors(metadata))),
    ("the core names no socket, codec or async runtime", |metadata| Ok(floors::core(metadata))),
    ("every dependency is justified in docs/dependencies.md", dependencies::documented),
    ("every source file opens with its licence", |_| sources::licence_lines()),
    ("unsafe code only where DESIGN.md puts it", sources::unsafe_addresses),
    ("the project's documents exist and their links lead somewhere", |_| documents::check()),
];

/// Runs all checks over the workspace.
pub(crate) fn step() -> Result<Tally, Stop> {
    let metadata = MetadataCommand::new()
        .manifest_path(crate::root().join("Cargo.toml"))
        .exec()
        .map_err(|error| Stop::failed(format!("cargo metadata: {error}")))?;
    let mut tally = Tally::default();
    for (what, check) in CHECKS {
        let problems = check(&metadata).map_err(|error| Stop::failed(format!("{what}: {error}")))?;
        if problems.is_empty() {
            println!("ok   {what}");
            tally.passed += 1;
        } else {
            println!("FAIL {what}");
            tally.failed += 1;
        }
        for problem in problems {
            println!("     {problem}");
        }
    }
    if tally.failed == 0 { Ok(tally) } else { Err(Stop::Failed(tally, "see above".into())) }
}
