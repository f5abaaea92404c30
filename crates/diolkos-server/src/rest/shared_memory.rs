// SPDX-License-Identifier: Apache-2.0
//! The shared memory extensions: status, register, unregister.
//!
//! There is no CUDA shared memory. Stock clients unregister all of it before they begin, so unregistering is
//! answered and nothing is listed.

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::Response;
use axum::routing::{get, post};
use diolkos_types::Status;
use serde_json::{Value, json};

use super::decode::envelope::{self, RegisterBody};
use super::error::HttpError;
use super::extract::OfRegion;
use super::repository::whole_body;
use super::{answer, ok};
use crate::app::App;
use crate::oip::extensions::{no_cuda, no_such_cuda_region};
use crate::system_memory::{Listed, Registration};

pub(super) fn routes() -> Router<Arc<App>> {
    Router::new()
        .route("/v2/systemsharedmemory/status", get(status))
        .route("/v2/systemsharedmemory/region/{region}/status", get(status))
        .route("/v2/systemsharedmemory/region/{region}/register", post(register))
        .route("/v2/systemsharedmemory/unregister", post(unregister))
        .route("/v2/systemsharedmemory/region/{region}/unregister", post(unregister))
        .route("/v2/cudasharedmemory/status", get(cuda_status))
        .route("/v2/cudasharedmemory/region/{region}/status", get(cuda_status))
        .route("/v2/cudasharedmemory/region/{region}/register", post(cuda_register))
        .route("/v2/cudasharedmemory/unregister", post(cuda_unregister))
        .route("/v2/cudasharedmemory/region/{region}/unregister", post(cuda_unregister))
}

async fn status(OfRegion { name, session }: OfRegion) -> Response<Body> {
    let listed = session.memory.list(name.as_deref()).await;
    answer(listed.map(|regions| ok(&regions.iter().map(as_json).collect())).map_err(HttpError::from))
}

fn as_json(region: &Listed) -> Value {
    let Listed { name, key, offset, bytes } = region;
    json!({ "name": name, "key": key, "offset": offset, "byte_size": bytes })
}

async fn register(
    State(app): State<Arc<App>>,
    OfRegion { name, session }: OfRegion,
    request: Request,
) -> Response<Body> {
    let registered = async {
        let json = whole_body(&app, &session.turn, request).await?;
        let wanted = registration(name.unwrap_or_default(), &json)?;
        session.memory.register(wanted).await?;
        Ok(ok(&json!({})))
    };
    answer(registered.await)
}

/// What a body asks for.
pub(crate) fn registration(name: String, json: &[u8]) -> Result<Registration, Status> {
    let RegisterBody { key, offset, byte_size } = envelope::parse(json)?;
    Ok(Registration { name, key: key.into_owned(), offset, bytes: byte_size })
}

async fn unregister(OfRegion { name, session }: OfRegion) -> Response<Body> {
    let unregistered = session.memory.unregister(name.as_deref()).await;
    answer(unregistered.map(|()| ok(&json!({}))).map_err(HttpError::from))
}

async fn cuda_status(OfRegion { name, .. }: OfRegion) -> Response<Body> {
    match name {
        Some(name) => answer(Err(no_such_cuda_region(&name).into())),
        None => ok(&json!([])),
    }
}

async fn cuda_register(_: OfRegion) -> Response<Body> {
    answer(Err(no_cuda().into()))
}

async fn cuda_unregister(_: OfRegion) -> Response<Body> {
    ok(&json!({}))
}
