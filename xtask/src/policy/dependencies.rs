// SPDX-License-Identifier: Apache-2.0
//! Every crate that the workspace names as a dependency has its reason in docs/dependencies.md.

use std::collections::BTreeSet;
use std::{fs, io};

use cargo_metadata::Metadata;

/// Direct dependencies, of whatever kind, that the document does not name in backticks.
pub(super) fn documented(metadata: &Metadata) -> io::Result<Vec<String>> {
    let members = metadata.workspace_packages();
    let own: BTreeSet<&str> = members.iter().map(|member| member.name.as_str()).collect();
    let used: BTreeSet<&str> = members
        .iter()
        .flat_map(|member| &member.dependencies)
        .map(|dependency| dependency.name.as_str())
        .filter(|name| !own.contains(name))
        .collect();
    match fs::read_to_string(crate::root().join("docs/dependencies.md")) {
        Ok(text) => Ok(missing(&used, &text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Ok(vec!["docs/dependencies.md does not exist".into()])
        }
        Err(error) => Err(error),
    }
}

fn missing(used: &BTreeSet<&str>, text: &str) -> Vec<String> {
    used.iter()
        .filter(|name| !text.contains(&format!("`{name}`")))
        .map(|name| {
            format!("`{name}` is not in docs/dependencies.md: say why it is needed and what it weighs")
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_counts_only_whole() {
        let used = BTreeSet::from(["prost", "prost-types"]);
        let problems = missing(&used, "We use `prost-types` for timestamps.");
        assert_eq!(problems.len(), 1);
        assert!(problems[0].starts_with("`prost` "), "{}", problems[0]);
    }
}
