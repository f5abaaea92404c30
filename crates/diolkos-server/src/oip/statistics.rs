// SPDX-License-Identifier: Apache-2.0
//! The counters of a model, as clients of the statistics extension read them.
//!
//! Invariant: a tenant is told of its own requests only, unless it may read metrics, which tell about everybody's.
//!
//! There is no response cache, so `cache_hit` and `cache_miss` stay 0; and batches are not listed by size, so
//! `batch_stats` is empty. Both are there because clients look for them.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use diolkos_engine::Session;
use diolkos_engine::account::{ModelStats, Total, Whose};
use diolkos_engine::store::LoadedVersion;
use diolkos_types::Status;

use crate::app::App;

/// How often, and how long in all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct DurationStat {
    /// How often.
    pub(crate) count: u64,
    /// How long in all, in nanoseconds.
    pub(crate) ns: u64,
}

impl From<&Total> for DurationStat {
    fn from(total: &Total) -> DurationStat {
        DurationStat { count: total.count(), ns: total.nanoseconds() }
    }
}

/// The counters of one version of one model.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct VersionStatistics {
    /// The model.
    pub(crate) name: String,
    /// The version.
    pub(crate) version: u64,
    /// Time of the last success, in milliseconds since 1970; 0 = never.
    pub(crate) last_inference_ms: u64,
    /// Rows inferred.
    pub(crate) inference_count: u64,
    /// Runs of the operation.
    pub(crate) execution_count: u64,
    /// Requests that succeeded.
    pub(crate) success: DurationStat,
    /// Requests that did not.
    pub(crate) fail: DurationStat,
    /// Waiting for a slot.
    pub(crate) queue: DurationStat,
    /// Bringing inputs in.
    pub(crate) compute_input: DurationStat,
    /// Computing.
    pub(crate) compute_infer: DurationStat,
    /// Handing outputs over.
    pub(crate) compute_output: DurationStat,
}

impl VersionStatistics {
    fn of(version: &LoadedVersion, stats: &ModelStats) -> VersionStatistics {
        VersionStatistics {
            name: version.name.to_string(),
            version: version.version,
            last_inference_ms: stats.last_inference_ms(),
            inference_count: stats.inferences.load(Ordering::Relaxed),
            execution_count: stats.executions.load(Ordering::Relaxed),
            success: (&stats.success).into(),
            fail: (&stats.fail).into(),
            queue: (&stats.queue).into(),
            compute_input: (&stats.compute_input).into(),
            compute_infer: (&stats.compute_infer).into(),
            compute_output: (&stats.compute_output).into(),
        }
    }
}

/// The counters of a version, as far as they are the caller's to know.
pub(crate) fn of_version(app: &App, session: &Session, version: &LoadedVersion) -> ModelStats {
    let sees_all = app.directory().rights(session.tenant()).metrics;
    session.stats(version, if sees_all { Whose::Everybody } else { Whose::Own })
}

/// The counters of a model's versions that serve, of one of them, or of everything that serves.
pub(crate) fn statistics(
    app: &App,
    session: &Session,
    name: Option<&str>,
    version: Option<u64>,
) -> Result<Vec<VersionStatistics>, Status> {
    let told =
        |loaded: Arc<LoadedVersion>| VersionStatistics::of(&loaded, &of_version(app, session, &loaded));
    let Some(name) = name else {
        let all = session.entries();
        return Ok(all.iter().flat_map(|entry| entry.ready()).map(told).collect());
    };
    // Opening says what is unknown, in the words that inference has for it.
    session.close(session.open(name, version)?)?;
    let mut ready = session.find(name)?.ready();
    ready.retain(|loaded| version.is_none_or(|version| loaded.version == version));
    Ok(ready.into_iter().map(told).collect())
}
