// SPDX-License-Identifier: Apache-2.0
//! A trace: who sends what, and when, as somebody writes it down or records it.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use diolkos_engine::sched::sim::{Load, Predicted, Sender, Stuck, Takes};
use diolkos_engine::sched::{BatchKey, Batching, Class, Nanos, Share, TenantKey};
use diolkos_engine::{PoolConfig, limits};
use diolkos_server::settings::{ClassName, Interval, PoolSettings, Settings};
use serde::Deserialize;

use crate::exit::Failure;

/// Senders of one trace; each takes some memory for every job that it sends.
const SENDERS_MAX: usize = 10_000;

/// What the file says.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Trace {
    /// How long to simulate. Default 60.
    pub(super) seconds: Option<f64>,
    /// Slots of the device; else those of the settings, else one for each core.
    pub(super) slots: Option<usize>,
    /// Which random numbers.
    pub(super) seed: Option<u64>,
    /// Pools of these, instead of those of the settings.
    #[serde(default)]
    pools: BTreeMap<String, PoolSettings>,
    /// Slots that hang.
    #[serde(default)]
    stuck: Vec<StuckSlot>,
    /// Who sends.
    send: Vec<Send>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct StuckSlot {
    at: Interval,
    lasts: Interval,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Send {
    tenant: String,
    class: Option<ClassName>,
    pool: Option<String>,
    weight: Option<u32>,
    concurrency_max: Option<usize>,
    queue_max: Option<usize>,
    takes: Option<Interval>,
    /// More or less by so many percent.
    #[serde(default)]
    spread: u64,
    #[serde(default)]
    heavy_tail: bool,
    outstanding: Option<usize>,
    every: Option<Interval>,
    burst: Option<usize>,
    recorded: Option<PathBuf>,
    deadline: Option<Interval>,
    /// So many of a hundred are cancelled.
    #[serde(default)]
    cancelled: f64,
    /// What it asks for: jobs for the same may share runs. Default: something of its own.
    model: Option<String>,
    /// Rows of a shared run.
    rows_max: Option<u32>,
    /// What each gains in a full one.
    gain: Option<f64>,
}

/// A line of a recording.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Recorded {
    at_ms: f64,
    takes_ms: f64,
}

/// A sender, and whose it is.
#[derive(Debug)]
pub(super) struct Named {
    pub(super) tenant: String,
    pub(super) sender: Sender,
}

fn nanos(interval: Interval) -> Nanos {
    u64::try_from(interval.get().as_nanos()).unwrap_or(u64::MAX)
}

fn of_ms(ms: f64) -> Option<Nanos> {
    let time = Duration::try_from_secs_f64(ms / 1e3).ok()?;
    u64::try_from(time.as_nanos()).ok()
}

impl Trace {
    pub(super) fn read(path: &Path) -> Result<Trace, Failure> {
        let wrong = |error: &dyn std::error::Error| {
            Failure::usage(format!("{} is no trace", path.display())).because(error)
        };
        let text = fs::read_to_string(path).map_err(|error| wrong(&error))?;
        toml::from_str(&text).map_err(|error| wrong(&error))
    }

    pub(super) fn stuck(&self) -> Vec<Stuck> {
        self.stuck.iter().map(|stuck| Stuck { at: nanos(stuck.at), lasts: nanos(stuck.lasts) }).collect()
    }

    /// The settings, with what the trace says instead.
    pub(super) fn settings(&self, origin: &Path, mut settings: Settings) -> Result<Settings, Failure> {
        if let Some(slots) = self.slots {
            settings.engine.slots = slots.clamp(1, limits::DEVICE_SLOTS_MAX);
        }
        if !self.pools.is_empty() {
            settings.engine.pools = self.pools.clone();
        }
        // Leases of tenants may name pools of the settings that the trace replaces.
        let alone = Settings { engine: settings.engine.clone(), ..Settings::default() };
        match &alone.broken_rules()[..] {
            [] => Ok(settings),
            broken => Err(Failure::usage(format!("{}: {}", origin.display(), broken.join("; ")))),
        }
    }

    /// The senders. What a tenant may have is what the settings say, unless the trace does.
    pub(super) fn senders(&self, origin: &Path, settings: &Settings) -> Result<Vec<Named>, Failure> {
        if self.send.is_empty() || self.send.len() > SENDERS_MAX {
            return Err(Failure::usage(format!("a trace has between 1 and {SENDERS_MAX} `[[send]]`")));
        }
        let mut tenants: Vec<&str> = Vec::new();
        let models: Vec<_> = self.send.iter().map(|send| send.model.as_deref()).collect();
        let mut named = Vec::with_capacity(self.send.len());
        for (index, send) in self.send.iter().enumerate() {
            let key = tenants.iter().position(|tenant| *tenant == send.tenant).unwrap_or_else(|| {
                tenants.push(&send.tenant);
                tenants.len() - 1
            });
            // The first one that asks for the same.
            let first = models.iter().position(|model| model.is_some() && *model == send.model.as_deref());
            let sender = send
                .sender(first.unwrap_or(index), TenantKey(key as u64), origin, settings)
                .map_err(|why| {
                    Failure::usage(format!(
                        "[[send]] number {} (of tenant `{}`) {why}",
                        index + 1,
                        send.tenant
                    ))
                })?;
            named.push(Named { tenant: send.tenant.clone(), sender });
        }
        Ok(named)
    }
}

impl Send {
    fn sender(
        &self,
        model: usize,
        tenant: TenantKey,
        origin: &Path,
        settings: &Settings,
    ) -> Result<Sender, String> {
        let lease = settings.tenants.get(&self.tenant).map(|tenant| tenant.policy());
        let lease = lease.and_then(|policy| policy.leases.into_iter().next());
        let pool = self.pool.as_deref().or(lease.as_ref().and_then(|lease| lease.pool.as_deref()));
        let pool = pool.unwrap_or(PoolConfig::DEFAULT);
        let pools = settings.pools();
        let pool = pools.iter().position(|other| other.name == pool).ok_or_else(|| {
            let names: Vec<&str> = pools.iter().map(|pool| pool.name.as_str()).collect();
            format!("is in pool `{pool}`, which is none of: {}", names.join(", "))
        })?;
        let share = lease.as_ref().map_or(Share::ALL, |lease| lease.share);
        let share = Share {
            weight: self.weight.unwrap_or(share.weight),
            running_max: self.concurrency_max.unwrap_or(share.running_max),
            waiting_max: self.queue_max.unwrap_or(share.waiting_max),
        };
        let asked = self.class.map_or(Class::Standard, Class::from);
        let class = lease.map_or(asked, |lease| asked.max(lease.class));
        let load = self.load(origin)?;
        let takes = match (&load, self.takes.map(nanos)) {
            (_, Some(mean)) if mean > 0 && self.heavy_tail => Takes::HeavyTailed(mean),
            (_, Some(mean)) if mean > 0 && self.spread > 0 => Takes::About(mean, self.spread.min(100)),
            (_, Some(mean)) if mean > 0 => Takes::Fixed(mean),
            (Load::Recorded(jobs), None) => {
                let sum: u128 = jobs.iter().map(|(_, takes)| u128::from(*takes)).sum();
                Takes::Fixed(u64::try_from(sum / jobs.len().max(1) as u128).unwrap_or(u64::MAX))
            }
            _ => return Err("has to say what a job `takes`, such as \"5ms\"".into()),
        };
        Ok(Sender {
            tenant,
            pool,
            class,
            share,
            takes,
            predicted: Predicted::Learned,
            deadline: self.deadline.map(nanos),
            cancelled: (self.cancelled.clamp(0.0, 100.0) * 10.0) as u64,
            batch: self.batch(model, takes.mean())?,
            load,
        })
    }

    fn load(&self, origin: &Path) -> Result<Load, String> {
        match (self.outstanding, self.every.map(nanos), self.burst, &self.recorded) {
            (Some(count), None, None, None) if count > 0 => Ok(Load::Outstanding(count)),
            (None, Some(mean), None, None) if mean > 0 => Ok(Load::Poisson(mean)),
            (None, Some(every), Some(count), None) if every > 0 && count > 0 => {
                Ok(Load::Bursts(count, every))
            }
            (None, None, None, Some(file)) => {
                let file = origin.parent().unwrap_or(Path::new("")).join(file);
                recorded(&file).map(Load::Recorded)
            }
            _ => Err("has to say when: `outstanding = N`, `every = \"TIME\"`, `burst = N` with `every`, or \
                      `recorded = \"FILE\"`"
                .into()),
        }
    }

    /// Runs that several jobs share: one job takes what it takes, and each of a full run so much less.
    fn batch(&self, model: usize, alone: Nanos) -> Result<Option<Batching>, String> {
        let (rows_max, gain) = match (self.rows_max, self.gain) {
            (None, None) => return Ok(None),
            (Some(rows_max), Some(gain)) if rows_max > 1 && (1.0..=f64::from(rows_max)).contains(&gain) => {
                (rows_max, gain)
            }
            _ => return Err("needs `rows_max` of 2 or more, and a `gain` between 1 and that".into()),
        };
        let full = alone as f64 * f64::from(rows_max) / gain;
        let per_row = ((full - alone as f64) / f64::from(rows_max - 1)).max(0.0) as Nanos;
        let key = BatchKey { operation: model as u64, tenant: None };
        Ok(Some(Batching { key, rows: 1, rows_max, fixed: alone.saturating_sub(per_row), per_row }))
    }
}

/// Lines of JSON.
fn recorded(file: &Path) -> Result<Vec<(Nanos, Nanos)>, String> {
    let text = fs::read_to_string(file).map_err(|error| format!("names {}: {error}", file.display()))?;
    let mut jobs = Vec::new();
    for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let at = || format!("names {}, line {}", file.display(), number + 1);
        let Recorded { at_ms, takes_ms } =
            serde_json::from_str(line).map_err(|error| format!("{}: {error}", at()))?;
        let times = of_ms(at_ms).zip(of_ms(takes_ms).filter(|takes| *takes > 0));
        jobs.push(times.ok_or_else(|| format!("{}: a time is out of range", at()))?);
    }
    Ok(jobs)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn senders(text: &str) -> Result<Vec<Named>, String> {
        let trace: Trace = toml::from_str(text).map_err(|error| error.to_string())?;
        trace.senders(Path::new("t.toml"), &Settings::default()).map_err(|failure| format!("{failure:?}"))
    }

    #[test]
    fn what_is_missing_or_wrong_is_said() {
        for (text, why) in [
            ("send = []", "between 1 and"),
            ("[[send]]\ntenant = \"a\"\ntakes = \"1ms\"", "has to say when"),
            ("[[send]]\ntenant = \"a\"\noutstanding = 1", "has to say what a job `takes`"),
            (
                "[[send]]\ntenant = \"a\"\noutstanding = 1\ntakes = \"1ms\"\nrows_max = 4",
                "between 1 and that",
            ),
            ("[[send]]\ntenant = \"a\"\nrecorded = \"/none\"", "number 1 (of tenant `a`) names /none"),
            ("[[send]]\ntenant = \"a\"\ntake = \"1ms\"", "unknown field `take`"),
        ] {
            let said = senders(text).expect_err(text);
            assert!(said.contains(why), "{said}");
        }
    }

    #[test]
    fn settings_say_what_a_tenant_may_have() {
        let settings = "[tenants.a.leases.main]\nkind = \"compute\"\nweight = 3\nclass = \"batch\"\n";
        let settings = Settings::parse(settings, Path::new("d.toml")).expect("they are right");
        let text = "[[send]]\ntenant = \"a\"\nclass = \"interactive\"\ntakes = \"4ms\"\nevery = \"1s\"\nrows_max = 4\ngain = 2.0\n\
                    [[send]]\ntenant = \"b\"\ntakes = \"1ms\"\noutstanding = 2\n[[send]]\ntenant = \"a\"\ntakes = \"1ms\"\noutstanding = 2";
        let trace: Trace = toml::from_str(text).expect("it is right");
        let senders = trace.senders(Path::new("t.toml"), &settings).expect("it is right");
        let sender = &senders[0].sender;
        assert_eq!(
            (sender.share.weight, sender.class),
            (3, Class::Batch),
            "never more urgent than the lease"
        );
        let batch = sender.batch.expect("it says so");
        assert_eq!(batch.fixed + batch.per_row, 4_000_000);
        assert!((batch.fixed + 4 * batch.per_row).abs_diff(8_000_000) < 10);
        assert_eq!((senders[1].sender.share.weight, senders[1].sender.class), (1, Class::Standard));
        assert_eq!(senders[2].sender.tenant, sender.tenant);
        assert_ne!(senders[1].sender.tenant, sender.tenant);
    }
}
