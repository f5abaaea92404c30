// SPDX-License-Identifier: Apache-2.0
//! Pools of slots, as an operator writes them.

use std::collections::BTreeMap;

use diolkos_engine::limits as engine_limits;
use diolkos_engine::{CpuSet, PoolConfig, PoolPolicy};
use serde::{Deserialize, Serialize};

use super::{Settings, suggest, tenants};

/// Slots of the device that the leases have which name this pool.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PoolSettings {
    /// What its slots are for: `"latency"`, `"fair"` or `"throughput"`. Default `"fair"`.
    pub policy: PolicyName,
    /// Jobs that run at once, each on a thread of its own. Default: one for each of `cpus`. Pool `default` has what the others
    /// leave of `engine.slots`.
    pub slots: Option<usize>,
    /// CPUs that these threads run on, such as `"0-3,8"`. Default: all.
    pub cpus: Option<Cpus>,
    /// Other pools may use slots that are idle, for a run at a time. Default: only with policy `"throughput"`.
    pub lends: Option<bool>,
}

/// [`PoolPolicy`], as it is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PolicyName {
    /// Answers as soon as possible.
    Latency,
    /// Both.
    #[default]
    Fair,
    /// As much work as possible.
    Throughput,
}

/// [`CpuSet`], as it is written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Cpus(CpuSet);

impl TryFrom<String> for Cpus {
    type Error = String;

    fn try_from(text: String) -> Result<Cpus, String> {
        let shown: String = text.chars().take(60).collect();
        text.parse().map(Cpus).map_err(|error: diolkos_engine::CpuSetError| format!("`{shown}` {error}"))
    }
}

impl From<Cpus> for String {
    fn from(cpus: Cpus) -> String {
        cpus.0.to_string()
    }
}

impl PoolSettings {
    fn pool(&self, name: &str, slots: usize) -> PoolConfig {
        let policy = match self.policy {
            PolicyName::Latency => PoolPolicy::Latency,
            PolicyName::Fair => PoolPolicy::Fair,
            PolicyName::Throughput => PoolPolicy::Throughput,
        };
        let lends = self.lends.unwrap_or(policy == PoolPolicy::Throughput);
        let cpus = self.cpus.as_ref().map(|cpus| cpus.0.clone());
        PoolConfig { name: name.to_owned(), slots, policy, lends, cpus }
    }

    /// Slots of a pool that is not `default`.
    fn own_slots(&self) -> usize {
        self.slots.or(self.cpus.as_ref().map(|cpus| cpus.0.len())).unwrap_or(0)
    }
}

/// Slots that the pools take which are not `default`.
fn named_slots(pools: &BTreeMap<String, PoolSettings>) -> usize {
    let named = pools.iter().filter(|(name, _)| *name != PoolConfig::DEFAULT);
    named.map(|(_, pool)| pool.own_slots()).fold(0, usize::saturating_add)
}

impl Settings {
    /// The pools of the device. The first is `default`, with what the others leave of its slots; where nobody said how many these
    /// are, at least one.
    #[must_use]
    pub fn pools(&self) -> Vec<PoolConfig> {
        let pools = &self.engine.pools;
        let left = self.slots().saturating_sub(named_slots(pools)).max(1);
        let default = pools.get(PoolConfig::DEFAULT).cloned().unwrap_or_default();
        let named = pools.iter().filter(|(name, _)| *name != PoolConfig::DEFAULT);
        let named = named.map(|(name, pool)| pool.pool(name, pool.own_slots().max(1)));
        [default.pool(PoolConfig::DEFAULT, left)].into_iter().chain(named).collect()
    }
}

/// What is wrong with pools beyond types, each with the key that it is about.
pub(super) fn broken_rules(settings: &Settings, mut broken: impl FnMut(String, String)) {
    let pools = &settings.engine.pools;
    for (name, pool) in pools {
        let (whole, key) = (format!("engine.pools.{name}"), |key: &str| format!("engine.pools.{name}.{key}"));
        if !tenants::is_name(name) {
            broken(whole.clone(), format!("`{}` {}", tenants::shown(name), tenants::NAME_RULE));
        }
        let default = name == PoolConfig::DEFAULT;
        match pool.slots {
            Some(_) if default => broken(
                key("slots"),
                "pool `default` has what the others leave of engine.slots; say there how many there are together".into(),
            ),
            Some(0) => broken(key("slots"), format!("{} is 0, so nothing could run there", key("slots"))),
            None if !default && pool.cpus.is_none() => {
                broken(whole, format!("pool `{name}` needs `slots`, or `cpus` with a slot for each"));
            }
            _ => {}
        }
    }
    let (named, all) = (named_slots(pools), settings.engine.slots);
    if all > 0 && named >= all {
        let text = format!(
            "is {all} and the pools take {named}; pool `default` needs one at least, so make it {} or more",
            named.saturating_add(1)
        );
        broken("engine.slots".into(), format!("engine.slots {text}"));
    }
    if named >= engine_limits::DEVICE_SLOTS_MAX {
        let text = format!(
            "the pools take {named} slots; fewer than {} are possible",
            engine_limits::DEVICE_SLOTS_MAX
        );
        broken("engine.pools".into(), text);
    }
    let count = pools.len() + usize::from(!pools.contains_key(PoolConfig::DEFAULT));
    if count > engine_limits::POOLS_MAX {
        let text = format!(
            "there are {count} pools, `default` among them; at most {} are possible",
            engine_limits::POOLS_MAX
        );
        broken("engine.pools".into(), text);
    }
}

/// CPUs that this process may not use, each with the key that names them.
pub(super) fn missing_cpus(settings: &Settings) -> Vec<(String, String)> {
    let Some(may) = CpuSet::of_this_thread() else { return Vec::new() };
    let pools = settings.engine.pools.iter();
    let sets = pools.filter_map(|(name, pool)| Some((name, &pool.cpus.as_ref()?.0)));
    let missing = sets.filter(|(_, cpus)| !cpus.is_within(&may));
    let told = missing.map(|(name, cpus)| {
        let key = format!("engine.pools.{name}.cpus");
        let text = format!("{key}: `{cpus}` are not all there; this process may use {may}");
        (key, text)
    });
    told.collect()
}

/// Leases whose pool is not there.
pub(super) fn broken_leases(settings: &Settings, mut broken: impl FnMut(String, String)) {
    let pools = &settings.engine.pools;
    for (tenant, lease_name, lease) in settings
        .tenants
        .iter()
        .flat_map(|(tenant, of)| of.leases.iter().map(move |(name, lease)| (tenant, name, lease)))
    {
        let Some(pool) = lease.pool.as_deref() else { continue };
        if pool != PoolConfig::DEFAULT && !pools.contains_key(pool) {
            let nearest = suggest::nearest(pool, pools.keys().map(String::as_str));
            let hint = nearest.map(|nearest| format!("; did you mean `{nearest}`?")).unwrap_or_default();
            let pool = tenants::shown(pool);
            let text = format!(
                "lease `{lease_name}` of tenant `{tenant}` names the pool `{pool}`, which is not in engine.pools{hint}"
            );
            broken(format!("tenants.{tenant}.leases.{lease_name}.pool"), text);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn parsed(text: &str) -> Result<Settings, String> {
        Settings::parse(text, Path::new("d.toml")).map_err(|error| error.to_string())
    }

    #[test]
    fn what_the_pools_leave_is_the_default_one() {
        let settings = parsed(
            "[engine]\nslots = 8\n[engine.pools.chat]\npolicy = \"latency\"\nslots = 2\n\
             [engine.pools.reports]\npolicy = \"throughput\"\ncpus = \"4-6\"\nlends = false\n",
        );
        let pools = settings.unwrap().pools();
        let told: Vec<_> =
            pools.iter().map(|pool| (pool.name.as_str(), pool.slots, pool.policy, pool.lends)).collect();
        assert_eq!(
            told,
            [
                ("default", 3, PoolPolicy::Fair, false),
                ("chat", 2, PoolPolicy::Latency, false),
                ("reports", 3, PoolPolicy::Throughput, false)
            ]
        );
        assert_eq!(pools[2].cpus.as_ref().map(ToString::to_string), Some("4-6".into()));
        let [only] = &Settings::default().pools()[..] else { panic!("one pool") };
        assert_eq!((only.name.as_str(), only.slots), ("default", Settings::default().slots()));
        // Where the number of slots is that of the cores, there is always one left.
        let many = parsed("[engine.pools.a]\nslots = 1000\n").unwrap();
        assert_eq!(many.pools()[0].slots, 1);
        let tuned = parsed("engine.slots = 2\nengine.pools.default.policy = \"throughput\"\n").unwrap();
        assert_eq!((tuned.pools().len(), tuned.pools()[0].policy), (1, PoolPolicy::Throughput));
    }

    #[test]
    fn cpus_that_are_not_there_are_found_by_a_check() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("d.toml");
        std::fs::write(&file, format!("[engine.pools.far]\ncpus = \"{}\"\n", CpuSet::LAST)).unwrap();
        let error = Settings::check(&file).unwrap_err().to_string();
        let place = format!("{}:2:8: engine.pools.far.cpus: `1023` are not all there", file.display());
        assert!(error.starts_with(&place), "{error}");
        assert!(Settings::load(&file).is_ok(), "another machine may have it");
    }

    #[test]
    fn each_mistake_is_told_with_its_place() {
        for (text, expected) in [
            (
                "[engine.pools.a]\npolicy = \"fast\"",
                "d.toml:2:10: unknown variant `fast`, expected one of `latency`, `fair`, `throughput`",
            ),
            ("[engine.pools.a]\ncpus = \"3-1\"", "d.toml:2:8: `3-1` has a range that ends before it begins"),
            (
                "[engine.pools.a]\nslot = 1",
                "d.toml:2:1: unknown key `engine.pools.a.slot`; did you mean `engine.pools.a.slots`?",
            ),
            ("[engine.pools.a]\n", "d.toml:1:1: pool `a` needs `slots`, or `cpus` with a slot for each"),
            (
                "[engine.pools.a]\nslots = 0",
                "d.toml:2:9: engine.pools.a.slots is 0, so nothing could run there",
            ),
            (
                "[engine.pools.default]\nslots = 2",
                "d.toml:2:9: pool `default` has what the others leave of engine.slots; say there how many there are together",
            ),
            (
                "[engine]\nslots = 4\n[engine.pools.a]\nslots = 4",
                "d.toml:2:9: engine.slots is 4 and the pools take 4; pool `default` needs one at least, so make it 5 or more",
            ),
            (
                "[engine.pools.chat]\nslots = 1\n[tenants.t.leases.l]\nkind = \"compute\"\npool = \"chats\"",
                "d.toml:5:8: lease `l` of tenant `t` names the pool `chats`, which is not in engine.pools; did you mean `chat`?",
            ),
        ] {
            assert_eq!(parsed(text).unwrap_err(), expected, "for\n{text}");
        }
    }
}
