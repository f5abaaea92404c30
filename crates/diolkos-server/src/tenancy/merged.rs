// SPDX-License-Identifier: Apache-2.0
//! Settings of the file and added tenants, as one.

use std::collections::BTreeMap;

use crate::settings::{Settings, TenantSettings};

/// The name of the tenant that there is where nobody named any.
pub(super) const DEFAULT: &str = "default";

/// Settings in which added tenants stand next to those of the file; or what is wrong with that. A tenant of the file hides an
/// added one of the same name.
pub(super) fn merged(
    file: &Settings,
    added: &BTreeMap<String, TenantSettings>,
    own_uid: u32,
) -> Result<Settings, Vec<String>> {
    let mut merged = file.clone();
    if file.tenants.is_empty() && !added.is_empty() {
        // Who runs the daemon keeps what was its own before anybody was added.
        merged.tenants.insert(DEFAULT.to_owned(), TenantSettings::only(own_uid));
    }
    for (name, tenant) in added {
        merged.tenants.entry(name.clone()).or_insert_with(|| tenant.clone());
    }
    let broken = merged.broken_rules();
    if broken.is_empty() { Ok(merged) } else { Err(broken) }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn settings(text: &str) -> Settings {
        Settings::parse(text, Path::new("d.toml")).unwrap()
    }

    #[test]
    fn the_file_comes_first_and_rules_hold_for_all() {
        let file = settings("[tenants.a]\nuids = [1]\n");
        let added = settings("[tenants.a]\nuids = [2]\n[tenants.b]\nuids = [3]\n").tenants;
        let both = merged(&file, &added, 0).unwrap();
        assert_eq!((both.tenants["a"].uids[0], both.tenants["b"].uids[0]), (1, 3));
        let wrong = merged(&file, &settings("[tenants.c]\nuids = [1]\n").tenants, 0).unwrap_err();
        assert_eq!(wrong, ["uid 1 is tenant `a` already"]);
    }

    #[test]
    fn who_runs_the_daemon_stays_its_tenant() {
        let added = settings("[tenants.b]\n").tenants;
        let both = merged(&Settings::default(), &added, 7).unwrap();
        assert_eq!(both.tenants[DEFAULT], TenantSettings::only(7));
        assert_eq!(merged(&Settings::default(), &BTreeMap::new(), 7), Ok(Settings::default()));
        let taken = settings("[tenants.b]\nuids = [7]\n").tenants;
        assert_eq!(merged(&Settings::default(), &taken, 7).unwrap_err(), ["uid 7 is tenant `b` already"]);
    }
}
