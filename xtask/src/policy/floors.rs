// SPDX-License-Identifier: Apache-2.0
//! The floors of DESIGN.md's crate table over `cargo metadata`.
//!
//! A crate's ordinary and build dependencies lie on lower floors; its tests may also use its own floor.

use std::collections::{BTreeMap, BTreeSet};

use cargo_metadata::{DependencyKind, Metadata, Package, PackageId};

/// DESIGN.md, "Crates". What lies in `backends/` is on one floor whatever it is called.
const FLOORS: &[(&str, u8)] = &[
    ("diolkos-types", 0),
    ("diolkos-shm", 0),
    ("diolkos-wire", 1),
    ("diolkos-backend", 1),
    ("diolkos-engine", 2),
    ("diolkos-client", 3),
    ("diolkos-server", 3),
    ("libvaccel", 4),
    ("libdiolkos", 4),
    ("diolkos", 5),
    // Not part of the product: it may look at everything and nothing may use it.
    ("xtask", u8::MAX),
];
const BACKEND_FLOOR: u8 = 2;

/// Crates that name no transport, codec or async runtime, not even through a dependency.
const CORE: &[&str] = &["diolkos-types", "diolkos-backend", "diolkos-engine"];
const NOT_IN_CORE: &[&str] = &[
    "tokio",
    "mio",
    "async-std",
    "smol",
    "futures-util",
    "hyper",
    "h2",
    "http",
    "axum",
    "tonic",
    "tower",
    "prost",
    "serde_json",
    "toml",
    "prometheus",
    "clap",
];

/// A dependency between two members, as the rule sees it.
#[derive(Clone, Debug)]
struct Edge {
    from: String,
    to: String,
    in_tests_only: bool,
}

/// Members that use a crate which is not below them, and members without a floor.
pub(super) fn floors(metadata: &Metadata) -> Vec<String> {
    let members = metadata.workspace_packages();
    let mut floors = BTreeMap::new();
    let mut problems = Vec::new();
    for member in &members {
        match floor_of(member) {
            Some(floor) => {
                floors.insert(member.name.to_string(), floor);
            }
            None => problems.push(format!(
                "crate '{}' has no floor: give it one in DESIGN.md and in xtask/src/policy/floors.rs",
                member.name
            )),
        }
    }
    let edges = members.iter().flat_map(|member| {
        member.dependencies.iter().map(|dependency| Edge {
            from: member.name.to_string(),
            to: dependency.name.clone(),
            in_tests_only: dependency.kind == DependencyKind::Development,
        })
    });
    problems.extend(edges.filter_map(|edge| judge(&floors, &edge)));
    problems
}

fn judge(floors: &BTreeMap<String, u8>, edge: &Edge) -> Option<String> {
    let (own, used) = (*floors.get(&edge.from)?, *floors.get(&edge.to)?);
    let allowed = used < own || (edge.in_tests_only && used == own);
    (!allowed).then(|| {
        let rule = if edge.in_tests_only { "no higher" } else { "lower" };
        format!(
            "'{}' (floor {own}) uses '{}' (floor {used}); it may only use {rule} floors",
            edge.from, edge.to
        )
    })
}

fn floor_of(member: &Package) -> Option<u8> {
    if member.manifest_path.strip_prefix(crate::root().join("backends")).is_ok() {
        return Some(BACKEND_FLOOR);
    }
    FLOORS.iter().find(|(name, _)| *name == member.name.as_str()).map(|(_, floor)| *floor)
}

/// Core crates that reach a transport, codec or runtime, with the way there.
pub(super) fn core(metadata: &Metadata) -> Vec<String> {
    let Some(resolve) = &metadata.resolve else {
        return vec!["cargo metadata gave no dependency graph".into()];
    };
    let names: BTreeMap<&PackageId, &str> =
        metadata.packages.iter().map(|package| (&package.id, package.name.as_str())).collect();
    let uses: BTreeMap<&str, Vec<&str>> = resolve
        .nodes
        .iter()
        .map(|node| {
            let ordinary = node.deps.iter().filter(|dependency| {
                dependency.dep_kinds.iter().any(|kind| kind.kind == DependencyKind::Normal)
            });
            (names[&node.id], ordinary.map(|dependency| names[&dependency.pkg]).collect())
        })
        .collect();
    CORE.iter().flat_map(|member| forbidden_ways(&uses, member)).collect()
}

fn forbidden_ways(uses: &BTreeMap<&str, Vec<&str>>, member: &str) -> Vec<String> {
    let mut problems = Vec::new();
    let mut seen = BTreeSet::new();
    let mut ways = vec![vec![member]];
    while let Some(way) = ways.pop() {
        let last = way[way.len() - 1];
        if NOT_IN_CORE.contains(&last) {
            problems.push(format!("{}: the core must not know '{last}'", way.join(" -> ")));
            continue;
        }
        for next in uses.get(last).into_iter().flatten() {
            if seen.insert(*next) {
                ways.push(way.iter().copied().chain([*next]).collect());
            }
        }
    }
    problems
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(from: &str, to: &str, in_tests_only: bool) -> Option<String> {
        let floors = FLOORS.iter().map(|(name, floor)| ((*name).to_owned(), *floor)).collect();
        judge(&floors, &Edge { from: from.into(), to: to.into(), in_tests_only })
    }

    #[test]
    fn a_crate_uses_only_lower_floors() {
        assert_eq!(verdict("diolkos-server", "diolkos-engine", false), None);
        assert_eq!(verdict("diolkos-engine", "serde", false), None);
        assert!(verdict("diolkos-engine", "diolkos-server", false).is_some());
        assert!(verdict("diolkos-server", "diolkos-client", false).is_some());
    }

    #[test]
    fn tests_may_use_their_own_floor_but_no_higher() {
        assert_eq!(verdict("diolkos-server", "diolkos-client", true), None);
        let problem = verdict("diolkos-engine", "diolkos", true).expect("an upward edge");
        assert!(problem.contains("floor 2") && problem.contains("floor 5"), "{problem}");
    }

    #[test]
    fn a_runtime_is_found_through_other_crates() {
        let uses = BTreeMap::from([
            ("diolkos-engine", vec!["sha2", "innocent"]),
            ("innocent", vec!["tokio"]),
            ("tokio", vec!["mio"]),
        ]);
        let problems = forbidden_ways(&uses, "diolkos-engine");
        assert_eq!(problems.len(), 1);
        assert!(problems[0].starts_with("diolkos-engine -> innocent -> tokio"), "{}", problems[0]);
    }
}
