// SPDX-License-Identifier: Apache-2.0
//! What the Open Inference Protocol has no place for, under a path of our own:
//!
//! * `GET v2/diolkos/status`: the daemon and its devices, and the caller's own tenant.
//! * `GET v2/diolkos/models/MODEL[/versions/VERSION]`: what a version is, what its rehearsal measured, how it
//!   does for the caller, and its class names.
//! * the reply header `x-diolkos-timing`, on every inference: where the time went, in nanoseconds.
//!
//! Invariant: a caller learns nothing of other tenants but how busy the devices are.

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderName, HeaderValue, Response};
use axum::routing::get;
use diolkos_engine::account::{ModelStats, Total, saturating_ns};
use diolkos_engine::store::LoadedVersion;
use diolkos_engine::{PoolSnapshot, Timing};
use serde_json::{Value, json};

use super::error::HttpError;
use super::extract::{Caller, Target};
use super::{answer, ok};
use crate::app::{App, Phase};
use crate::oip::extensions::{SERVER_NAME, SERVER_VERSION};
use crate::oip::metadata;
use crate::oip::statistics::of_version;

/// Where the daemon spent the time of an inference.
const TIMING: HeaderName = HeaderName::from_static("x-diolkos-timing");

/// The routes, for [`super::router`] to merge.
pub(super) fn routes() -> Router<Arc<App>> {
    Router::new()
        .route("/v2/diolkos/status", get(status))
        .route("/v2/diolkos/models/{model}", get(model))
        .route("/v2/diolkos/models/{model}/versions/{version}", get(model))
}

/// Tells a reply where the time of its job went.
pub(super) fn tell_timing(reply: &mut Response<Body>, timing: &Timing) {
    let [queue, copy_in, compute, copy_out] =
        [timing.queue, timing.copy_in, timing.compute, timing.copy_out].map(saturating_ns);
    let text = format!("queue={queue};copy_in={copy_in};compute={compute};copy_out={copy_out}");
    if let Ok(value) = HeaderValue::try_from(text) {
        reply.headers_mut().insert(TIMING, value);
    }
}

/// A pool of a device. Which there are besides one's own is not for everybody.
fn of_pool(pool: &PoolSnapshot) -> Value {
    let cpus = pool.cpus.as_ref().map(ToString::to_string);
    json!({
        "name": pool.name,
        "policy": pool.policy.name(),
        "slots": pool.slots,
        "cpus": cpus,
        "lent": pool.lent,
        "running": pool.running,
        "waiting": pool.waiting,
        "loans": pool.loans,
        "busy_ns": pool.busy_ns,
    })
}

async fn status(State(app): State<Arc<App>>, Caller(session): Caller) -> Response<Body> {
    let engine = &app.engine;
    // What the others do shows in these numbers.
    let sees_all = app.directory().rights(session.tenant()).metrics;
    let device = |device: diolkos_engine::DeviceSnapshot| {
        let mut told = json!({ "name": device.name, "slots": device.slots });
        if sees_all {
            told["running"] = device.running.into();
            told["waiting"] = device.waiting.into();
            told["runs"] = device.runs.into();
            told["busy_ns"] = device.busy_ns.into();
            told["pools"] = device.pools.iter().map(of_pool).collect();
        }
        told
    };
    let tenant = engine.tenants().into_iter().find(|tenant| tenant.id == *session.tenant()).map(|tenant| {
        json!({
            "name": tenant.id.name(),
            "requests": tenant.requests,
            "in_flight": tenant.in_flight,
            "sessions": tenant.sessions,
            "requests_memory_bytes": tenant.requests_memory,
            "regions_memory_bytes": tenant.regions_memory,
            "models_memory_bytes": tenant.models_memory,
            "device_ns": tenant.device_ns,
        })
    });
    let phase = match app.phase() {
        Phase::Starting => "starting",
        Phase::Ready => "ready",
        Phase::Draining => "draining",
    };
    ok(&json!({
        "name": SERVER_NAME,
        "version": SERVER_VERSION,
        "pid": std::process::id(),
        "uptime_ns": saturating_ns(app.uptime()),
        "phase": phase,
        "devices": engine.devices().into_iter().map(device).collect::<Vec<Value>>(),
        "models_memory_bytes": sees_all.then(|| engine.store().memory_used()),
        "tenant": tenant,
    }))
}

async fn model(State(app): State<Arc<App>>, target: Target) -> Response<Body> {
    let Target { model, version, session } = target;
    let bound = metadata::bound(&session, &model, version).await;
    let told = bound.map(|version| {
        let stats = of_version(&app, &session, &version);
        ok(&details(&version, &stats))
    });
    answer(told.map_err(HttpError::from))
}

fn details(version: &LoadedVersion, stats: &ModelStats) -> Value {
    // A built-in operation has no files, and nobody rehearsed it.
    let rehearsal = version.digest.map(|_| {
        let verdict = &version.verdict;
        json!({
            "load_ns": verdict.load_ns,
            "peak_bytes": verdict.peak_bytes,
            "run_ns": (verdict.median_ns > 0).then_some(verdict.median_ns),
            "note": verdict.note,
        })
    });
    let batching = version.batching().map(
        |(rows_max, gain)| json!({ "rows_max": rows_max, "gain": gain.factor(), "gain_rows": gain.rows }),
    );
    let outputs = version.signature.outputs.iter().zip(&version.labels);
    let labels: serde_json::Map<String, Value> = outputs
        .filter_map(|(spec, labels)| Some((spec.name.to_string(), labels.as_deref()?.into())))
        .collect();
    json!({
        "name": version.name,
        "version": version.version,
        "digest": version.digest.map(|digest| format!("sha256:{digest}")),
        "backend": version.backend,
        "platform": version.platform,
        "resident_bytes": version.resident_bytes,
        "rehearsal": rehearsal,
        "batching": batching,
        "statistics": statistics(stats),
        "labels": labels,
    })
}

fn statistics(stats: &ModelStats) -> Value {
    let mean = |total: &Total| total.nanoseconds().checked_div(total.count()).unwrap_or(0);
    let bound = |quantile| stats.latency.quantile_bound(quantile).map(saturating_ns);
    json!({
        "success": stats.success.count(),
        "fail": stats.fail.count(),
        "mean": {
            "queue_ns": mean(&stats.queue),
            "copy_in_ns": mean(&stats.compute_input),
            "compute_ns": mean(&stats.compute_infer),
            "copy_out_ns": mean(&stats.compute_output),
        },
        "p50_bound_ns": bound(0.5),
        "p99_bound_ns": bound(0.99),
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn timing_is_told_in_nanoseconds() {
        let timing = Timing {
            queue: Duration::from_nanos(1),
            copy_in: Duration::from_micros(2),
            compute: Duration::from_millis(3),
            copy_out: Duration::ZERO,
        };
        let mut reply = Response::new(Body::empty());
        tell_timing(&mut reply, &timing);
        assert_eq!(reply.headers()[TIMING], "queue=1;copy_in=2000;compute=3000000;copy_out=0");
    }

    #[test]
    fn means_and_bounds() {
        let stats = ModelStats::default();
        assert_eq!(statistics(&stats)["mean"]["compute_ns"], 0);
        assert_eq!(statistics(&stats)["p99_bound_ns"], Value::Null);
        for _ in 0..2 {
            stats.success.add(Duration::from_nanos(1500));
            stats.latency.add(Duration::from_nanos(1500));
            stats.compute_infer.add(Duration::from_nanos(10));
        }
        let told = statistics(&stats);
        assert_eq!((&told["success"], &told["mean"]["compute_ns"]), (&json!(2), &json!(10)));
        assert_eq!(told["p50_bound_ns"], 2048);
    }
}
