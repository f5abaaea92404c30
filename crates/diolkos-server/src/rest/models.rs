// SPDX-License-Identifier: Apache-2.0
//! What clients read about models: metadata, readiness, configuration, statistics. Shapes as Triton has them.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::http::{Response, StatusCode};
use diolkos_engine::store::config::VersionPolicy;
use serde_json::{Value, json};

use super::error::HttpError;
use super::extract::{Caller, Target};
use super::{answer, ok, reply};
use crate::app::App;
use crate::oip::metadata::{self, ConfigTensor, ModelConfigView, TensorMetadata, config_type_name};
use crate::oip::statistics::{self, DurationStat, VersionStatistics};

pub(super) async fn metadata(target: Target) -> Response<Body> {
    let Target { model, version, session } = target;
    let found = metadata::model_metadata(&session, &model, version).await;
    answer(found.map_err(HttpError::from).map(|found| {
        let tensors = |tensors: &[TensorMetadata]| -> Vec<Value> {
            let tensor = |t: &TensorMetadata| json!({"name": t.name, "datatype": t.data_type.name(), "shape": t.shape});
            tensors.iter().map(tensor).collect()
        };
        let versions: Vec<String> = found.versions.iter().map(u64::to_string).collect();
        ok(&json!({
            "name": found.name,
            "versions": versions,
            "platform": found.platform,
            "inputs": tensors(&found.inputs),
            "outputs": tensors(&found.outputs),
        }))
    }))
}

pub(super) async fn ready(target: Target) -> Response<Body> {
    let Target { model, version, session } = target;
    let found = metadata::is_ready(&session, &model, version);
    answer(found.map_err(HttpError::from).map(|ready| {
        let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
        reply::json(status, json!({ "name": model, "ready": ready }).to_string().into_bytes())
    }))
}

pub(super) async fn config(target: Target) -> Response<Body> {
    let Target { model, version, session } = target;
    let found = metadata::model_config(&session, &model, version).await;
    answer(found.map_err(HttpError::from).map(|found| ok(&config_json(&found))))
}

fn config_json(config: &ModelConfigView) -> Value {
    let policy = match &config.version_policy {
        VersionPolicy::Latest(count) => json!({"latest": {"num_versions": count}}),
        VersionPolicy::All => json!({"all": {}}),
        VersionPolicy::Specific(versions) => json!({"specific": {"versions": versions}}),
    };
    let input = |t: &ConfigTensor| {
        json!({"name": t.name, "data_type": config_type_name(t.data_type), "format": "FORMAT_NONE",
            "dims": t.dims, "is_shape_tensor": false, "allow_ragged_batch": false, "optional": t.optional})
    };
    let output = |t: &ConfigTensor| {
        json!({"name": t.name, "data_type": config_type_name(t.data_type), "dims": t.dims,
            "label_filename": t.label_filename.as_deref().unwrap_or(""), "is_shape_tensor": false})
    };
    json!({
        "name": config.name,
        "platform": config.platform,
        "backend": config.backend,
        "version_policy": policy,
        "max_batch_size": config.max_batch_size,
        "input": config.inputs.iter().map(input).collect::<Vec<Value>>(),
        "output": config.outputs.iter().map(output).collect::<Vec<Value>>(),
        "default_model_filename": config.default_model_filename.as_deref().unwrap_or(""),
        "model_transaction_policy": {"decoupled": false},
    })
}

pub(super) async fn statistics(State(app): State<Arc<App>>, target: Target) -> Response<Body> {
    let Target { model, version, session } = target;
    let found = statistics::statistics(&app, &session, Some(&model), version);
    answer(found.map_err(HttpError::from).map(|found| ok(&statistics_json(&found))))
}

pub(super) async fn all_statistics(State(app): State<Arc<App>>, Caller(session): Caller) -> Response<Body> {
    let found = statistics::statistics(&app, &session, None, None);
    answer(found.map_err(HttpError::from).map(|found| ok(&statistics_json(&found))))
}

fn statistics_json(versions: &[VersionStatistics]) -> Value {
    let duration = |stat: DurationStat| json!({"count": stat.count, "ns": stat.ns});
    let never = duration(DurationStat::default());
    let version = |s: &VersionStatistics| {
        json!({
            "name": s.name,
            "version": s.version.to_string(),
            "last_inference": s.last_inference_ms,
            "inference_count": s.inference_count,
            "execution_count": s.execution_count,
            "inference_stats": {
                "success": duration(s.success),
                "fail": duration(s.fail),
                "queue": duration(s.queue),
                "compute_input": duration(s.compute_input),
                "compute_infer": duration(s.compute_infer),
                "compute_output": duration(s.compute_output),
                "cache_hit": never,
                "cache_miss": never,
            },
            "batch_stats": [],
            "memory_usage": [],
            "response_stats": {},
        })
    };
    json!({ "model_stats": versions.iter().map(version).collect::<Vec<Value>>() })
}
