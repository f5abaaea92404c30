// SPDX-License-Identifier: Apache-2.0
//! Why a request took as long as it did, for whoever sent it:
//!
//! * `GET v2/diolkos/jobs/JOB`: a job of the caller's tenant that waits, runs or is among the last that ended.
//! * `GET v2/diolkos/jobs[?tenant=NAME]`: the last that ended; those of another tenant for whoever may read metrics.
//! * the header `x-diolkos-schedule` of an inference's reply is `oip/schedule.rs`.
//!
//! Invariant: another tenant's job is answered like one that never was.

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, RawQuery, State};
use axum::http::Response;
use axum::routing::get;
use diolkos_engine::account::saturating_ns;
use diolkos_engine::{Explained, Past, Standing};
use diolkos_types::{Code, JobId, Status, TenantId};
use serde_json::{Value, json};

use super::error::HttpError;
use super::extract::Caller;
use super::{answer, ok};
use crate::app::App;
use crate::oip::schedule::waited_name;

/// The routes, for [`super::router`] to merge.
pub(super) fn routes() -> Router<Arc<App>> {
    Router::new().route("/v2/diolkos/jobs", get(jobs)).route("/v2/diolkos/jobs/{job}", get(job))
}

async fn job(Caller(session): Caller, Path(job): Path<String>) -> Response<Body> {
    let unknown = || {
        Status::new(
            Code::NotFound,
            "there is no such job of yours, or it ended some time ago, or was too short to be remembered",
        )
    };
    let found = job.parse().ok().and_then(|job| Some((job, session.explain(JobId(job))?)));
    answer(found.map(|(job, explained)| ok(&told(job, &explained))).ok_or_else(|| unknown().into()))
}

fn told(job: u64, explained: &Explained) -> Value {
    match explained {
        Explained::Waits(standing) => {
            let Standing { class, since, own_before, wait, predicted, waits_for } = *standing;
            json!({
                "job": job,
                "state": "waits",
                "class": class.name(),
                "since_ns": saturating_ns(since),
                "own_before": own_before,
                "wait_ns": saturating_ns(wait),
                "predicted_ns": saturating_ns(predicted),
                "waits_for": waited_name(waits_for),
            })
        }
        Explained::Runs(predicted) => {
            json!({ "job": job, "state": "runs", "predicted_ns": saturating_ns(*predicted) })
        }
        Explained::Ended(past) => ended(past),
    }
}

fn ended(past: &Past) -> Value {
    let Past { job, model, version, class, scheduled, timing, latency, failed } = past;
    json!({
        "job": job.0,
        "state": "ended",
        "model": model,
        "version": version,
        "class": class.name(),
        "ahead": scheduled.ahead,
        "waited_for": waited_name(scheduled.waited_for),
        "predicted_ns": saturating_ns(scheduled.predicted),
        "device_ns": saturating_ns(scheduled.device),
        "together": scheduled.together,
        "queue_ns": saturating_ns(timing.queue),
        "compute_ns": saturating_ns(timing.compute),
        "latency_ns": saturating_ns(*latency),
        "failed": failed.map(Code::name),
    })
}

async fn jobs(
    State(app): State<Arc<App>>,
    Caller(session): Caller,
    RawQuery(query): RawQuery,
) -> Response<Body> {
    let asked = query.as_deref().and_then(|query| query.strip_prefix("tenant="));
    let past = match asked.filter(|name| *name != session.tenant().name()) {
        None => Ok(session.recent()),
        Some(name) => of_other(&app, session.tenant(), name),
    };
    let told = past.map(|past| ok(&json!({ "jobs": past.iter().map(ended).collect::<Vec<Value>>() })));
    answer(told.map_err(HttpError::from))
}

/// Whoever may not ask hears the same about all tenants, whether there are any of the name or not.
fn of_other(app: &App, asks: &TenantId, name: &str) -> Result<Vec<Past>, Status> {
    if !app.directory().rights(asks).metrics {
        return Err(Status::new(
            Code::PermissionDenied,
            "the jobs of other tenants are for tenants that may read metrics (`tenants.NAME.metrics`)",
        ));
    }
    let none = || Status::new(Code::NotFound, "there is no such tenant, or it has sent nothing yet");
    app.engine.recent_jobs(&TenantId::new(name)).ok_or_else(none)
}
