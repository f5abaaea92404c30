// SPDX-License-Identifier: Apache-2.0
//! The Open Inference Protocol over HTTP, with Triton's extensions. `docs/rest.md` describes it for clients.
//!
//! ```text
//! request ──> body (bounded, unpacked) ──> decode ──> oip::infer ──> encode ──> reply (packed, chunks)
//! ```
//!
//! | module | its one job |
//! |---|---|
//! | `error` | `Status` → HTTP, in one table |
//! | `extract` | model, version and session of a request |
//! | `body`, `rope` | a body in, without copying what need not be |
//! | `decode` | body → `InferCall` |
//! | `encode`, `reply` | `InferReply` → response |
//! | `infer` | the inference endpoint |
//! | `models` | metadata, configuration, readiness, statistics |
//! | `repository` | index, load, unload |
//! | `shared_memory` | regions: status, register, unregister |
//! | `tenants` | tenants, for whoever may change them |
//! | `diolkos` | our own routes and the timing header |
//! | `explain` | why a request took as long as it did |
//!
//! Invariants: every answer is JSON (or JSON with tensors behind it), errors are `{"error": "..."}`; nothing
//! that takes long runs on an I/O thread; dropping a handler's future cancels its job.

mod base64;
mod body;
pub(crate) mod decode;
mod diolkos;
mod encode;
pub(crate) mod error;
mod explain;
mod extract;
mod infer;
mod models;
pub(crate) mod reply;
mod repository;
pub(crate) mod rope;
mod shared_memory;
mod tenants;

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{Response, StatusCode};
use axum::middleware::{self, Next};
use axum::routing::{get, post};
use serde_json::json;

use self::error::HttpError;
use self::extract::Caller;
use crate::app::App;
use crate::oip::extensions::{SERVER_NAME, SERVER_VERSION, extensions};
use crate::trace::{TRACEPARENT, TraceContext};

/// For `fuzz`: a registration of shared memory, and what file its key names.
pub(crate) fn fuzz_registration(bytes: &[u8]) {
    if let Ok(wanted) = shared_memory::registration("r".to_owned(), bytes)
        && let Ok(name) = crate::system_memory::file_name(&wanted.key)
    {
        assert!(!name.is_empty() && name != ".." && !name.contains('/'), "{name} leads somewhere else");
    }
}

/// What a client that lost its way is told.
const ENDPOINTS: &str = "GET v2, v2/health/live, v2/health/ready, v2/models/stats, \
    v2/models/MODEL[/versions/VERSION][/ready|/config|/stats]; \
    POST v2/models/MODEL[/versions/VERSION]/infer, v2/repository/index, v2/repository/models/MODEL/load, \
    v2/repository/models/MODEL/unload; \
    GET v2/systemsharedmemory[/region/NAME]/status; POST v2/systemsharedmemory/region/NAME/register, \
    v2/systemsharedmemory[/region/NAME]/unregister";

/// The routes.
pub(crate) fn router(app: Arc<App>) -> Router {
    let both = |router: Router<Arc<App>>, suffix: &str, handler: axum::routing::MethodRouter<Arc<App>>| {
        router
            .route(&format!("/v2/models/{{model}}{suffix}"), handler.clone())
            .route(&format!("/v2/models/{{model}}/versions/{{version}}{suffix}"), handler)
    };
    let mut router = Router::new()
        .route("/v2", get(server_metadata))
        .route("/v2/", get(server_metadata))
        .route("/v2/health/live", get(live))
        .route("/v2/health/ready", get(ready))
        .route("/v2/models/stats", get(models::all_statistics))
        .route("/v2/repository/index", post(repository::index))
        .route("/v2/repository/models/{model}/load", post(repository::load))
        .route("/v2/repository/models/{model}/unload", post(repository::unload));
    router = both(router, "", get(models::metadata));
    router = both(router, "/ready", get(models::ready));
    router = both(router, "/config", get(models::config));
    router = both(router, "/stats", get(models::statistics));
    router = both(router, "/infer", post(infer::infer));
    router
        .merge(shared_memory::routes())
        .merge(diolkos::routes())
        .merge(explain::routes())
        .merge(tenants::routes())
        .fallback(unknown)
        .method_not_allowed_fallback(wrong_method)
        .layer(middleware::from_fn(pass_trace_on))
        .with_state(app)
}

/// Gives `traceparent` back with the reply.
async fn pass_trace_on(request: Request, next: Next) -> Response<Body> {
    let trace = TraceContext::from_headers(request.headers());
    let mut response = next.run(request).await;
    if let Some(trace) = trace {
        response.headers_mut().entry(TRACEPARENT).or_insert_with(|| trace.to_header());
    }
    response
}

/// Answers with what a handler found, or with the error that it gave up with.
fn answer(result: Result<Response<Body>, HttpError>) -> Response<Body> {
    result.unwrap_or_else(reply::error)
}

fn ok(value: &serde_json::Value) -> Response<Body> {
    reply::json(StatusCode::OK, value.to_string().into_bytes())
}

async fn server_metadata(Caller(session): Caller) -> Response<Body> {
    let extensions = extensions(&session);
    ok(&json!({ "name": SERVER_NAME, "version": SERVER_VERSION, "extensions": extensions }))
}

async fn live() -> Response<Body> {
    ok(&json!({ "live": true }))
}

async fn ready(State(app): State<Arc<App>>) -> Response<Body> {
    let ready = app.is_ready();
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    reply::json(status, json!({ "ready": ready }).to_string().into_bytes())
}

async fn unknown(request: Request) -> Response<Body> {
    let path: String = request.uri().path().chars().take(200).collect();
    let message = format!("there is no `{}`; there is {ENDPOINTS}", path.escape_debug());
    reply::error(HttpError::new(StatusCode::NOT_FOUND, message))
}

async fn wrong_method(request: Request) -> Response<Body> {
    let path: String = request.uri().path().chars().take(200).collect();
    let message = format!(
        "`{}` does not take {}; there is {ENDPOINTS}",
        path.escape_debug(),
        request.method().as_str()
    );
    reply::error(HttpError::new(StatusCode::METHOD_NOT_ALLOWED, message))
}

#[cfg(test)]
mod tests;
