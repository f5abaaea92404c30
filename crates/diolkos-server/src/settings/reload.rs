// SPDX-License-Identifier: Apache-2.0
//! What a reload (SIGHUP) changes at run time, and what waits for a restart.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{Limits, Settings, parse};

/// Keys, or whole sections ending with a dot, that take effect on reload. All others need a restart,
/// because a thread, a socket or the store was made from them.
pub const LIVE: &[&str] = &[
    "linger",
    "anonymous",
    "tenants.",
    "limits.connections_max",
    "limits.body_bytes_max",
    "limits.header_timeout",
    "limits.idle_timeout",
    "limits.body_timeout",
    "log.level",
    "shutdown.",
];

/// Whether a key takes effect on reload.
#[must_use]
pub fn is_live(key: &str) -> bool {
    LIVE.iter().any(|live| if live.ends_with('.') { key.starts_with(live) } else { key == *live })
}

/// Every key with its default, in alphabetical order; keys that are unset by default have `null`.
#[must_use]
pub fn keys() -> Vec<(String, Value)> {
    flatten(parse::known_keys())
}

/// What differs between two settings.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Keys that take effect now.
    pub live: Vec<String>,
    /// Keys that take effect after a restart.
    pub restart: Vec<String>,
}

/// What differs between two settings.
#[must_use]
pub fn changes(old: &Settings, new: &Settings) -> Changes {
    let mut changed = Vec::new();
    for name in old.tenants.keys().chain(new.tenants.keys()).collect::<BTreeSet<_>>() {
        if old.tenants.get(name) != new.tenants.get(name) {
            changed.push(format!("tenants.{name}"));
        }
    }
    for name in old.engine.pools.keys().chain(new.engine.pools.keys()).collect::<BTreeSet<_>>() {
        if old.engine.pools.get(name) != new.engine.pools.get(name) {
            changed.push(format!("engine.pools.{name}"));
        }
    }
    // Both have the same keys without those that operators name.
    let without_names = |settings: &Settings| {
        let mut settings = settings.clone();
        settings.tenants.clear();
        settings.engine.pools.clear();
        flatten(parse::tree(&settings))
    };
    let (old, new) = (without_names(old), without_names(new));
    changed.extend(old.into_iter().zip(new).filter(|(old, new)| old.1 != new.1).map(|(old, _)| old.0));
    changed.sort();
    let changed = changed.into_iter();
    let (live, restart) = changed.partition(|key| is_live(key));
    Changes { live, restart }
}

/// The settings in force after a reload: those that take effect now from `new`, all others from `old`.
#[must_use]
pub(crate) fn merge(old: &Settings, new: Settings) -> Settings {
    let Settings { linger, anonymous, tenants, limits, log, shutdown, .. } = new;
    let mut merged = old.clone();
    merged.linger = linger;
    merged.anonymous = anonymous;
    merged.tenants = tenants;
    merged.limits = Limits {
        request_memory_max: old.limits.request_memory_max,
        requests_memory_max: old.limits.requests_memory_max,
        ..limits
    };
    merged.log.level = log.level;
    merged.shutdown = shutdown;
    merged
}

fn flatten(tree: Value) -> Vec<(String, Value)> {
    let mut keys = Vec::new();
    collect("", tree, &mut keys);
    keys.sort_by(|a, b| a.0.cmp(&b.0));
    keys
}

fn collect(prefix: &str, value: Value, keys: &mut Vec<(String, Value)>) {
    match value {
        Value::Object(table) => {
            let section = if prefix.is_empty() { String::new() } else { format!("{prefix}.") };
            for (key, value) in table {
                collect(&format!("{section}{key}"), value, keys);
            }
        }
        value => keys.push((prefix.into(), value)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::{Interval, Size, TenantSettings};

    #[test]
    fn tells_live_from_restart() {
        let old = Settings::default();
        let mut new = old.clone();
        assert_eq!(changes(&old, &new), Changes::default());
        new.linger = Interval::seconds(9);
        new.tenants.insert("a".into(), TenantSettings::default());
        new.engine.slots = 3;
        new.limits.requests_memory_max = Size::gibibytes(9);
        new.models.store_dir = Some("/x".into());
        let changes = changes(&old, &new);
        assert_eq!(changes.live, ["linger", "tenants.a"]);
        assert_eq!(changes.restart, ["engine.slots", "limits.requests_memory_max", "models.store_dir"]);
    }

    #[test]
    fn what_is_merged_is_what_is_live() {
        // A file in which every value differs from its default.
        let new = Settings::parse(
            "listen = [\"unix:/s\"]\nsocket_mode = \"0660\"\nlinger = \"1s\"\nanonymous = \"t\"\ntenants_file = \"/t\"\ntenants.t = {}\nengine = { slots = 2, standard_floor = 1, batch_floor = 1, batching = false, pools = { p = { slots = 1 } } }\nchannel.spin = \"0s\"\n\
             log = { level = \"debug\", format = \"json\" }\nshutdown.drain_timeout = \"1s\"\naudit.file = \"/a\"\n\
             [models]\nrepositories = [\"/r\"]\nfiles = [\"/f\"]\nmemory_max = \"1B\"\nfile_bytes_max = \"1B\"\nlazy = true\n\
             watch_interval = \"1s\"\nclient_load = true\nvariable_dim_max = 1\nstore_dir = \"/d\"\n\
             store_quota = \"1B\"\nrehearsal_memory_max = \"1B\"\nrehearsal_cpu = \"1s\"\nrehearsal_timeout = \"1s\"\n\
             [limits]\nconnections_max = 1\nbody_bytes_max = \"1B\"\nheader_timeout = \"1s\"\nidle_timeout = \"1s\"\n\
             body_timeout = \"1s\"\nrequest_memory_max = \"1B\"\nrequests_memory_max = \"1B\"\n\
             [shared_memory]\ndirectory = \"/m\"\nbytes_max = \"1B\"\n",
            std::path::Path::new("d.toml"),
        )
        .unwrap();
        let old = Settings::default();
        let all = changes(&old, &new);
        // Those of tenants count as one, and those of pools.
        let named = |key: &str| key.starts_with("tenants.") || key.starts_with("engine.pools.");
        let keys = keys().into_iter().filter(|(key, _)| !named(key)).count() + 2;
        assert_eq!(all.live.len() + all.restart.len(), keys, "a value is the default: {all:?}");
        let merged = merge(&old, new);
        assert_eq!(changes(&old, &merged), Changes { live: all.live, restart: Vec::new() });
    }

    #[test]
    fn every_live_key_exists() {
        let keys = keys();
        for live in LIVE {
            assert!(
                keys.iter().any(|(key, _)| key == live || (live.ends_with('.') && key.starts_with(live))),
                "{live}"
            );
        }
    }
}
