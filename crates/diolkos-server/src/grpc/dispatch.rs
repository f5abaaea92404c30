// SPDX-License-Identifier: Apache-2.0
//! Which service a call goes to, how long it may take, and whether its messages are compressed.
//!
//! Stock clients say in every call that they take compressed answers. Compressing tensors for them would
//! cost far more than it saves on a socket of this host, so an answer is compressed only where the request
//! was: that client paid for it knowingly.

use std::sync::Arc;
use std::time::Instant;

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Request, Response};
use tokio::sync::watch;
use tonic::codec::CompressionEncoding::{Deflate, Gzip};
use tonic::{Code, Status};
use tonic_health::pb::health_server::{HealthServer, SERVICE_NAME as HEALTH};
use tower::{Service, ServiceExt as _};

use super::deadline::{self, CallDeadline, parse_timeout};
use super::health::HealthService;
use super::in_place::InPlace;
use super::pb::grpc_inference_service_server::{GrpcInferenceServiceServer, SERVICE_NAME as INFERENCE};
use super::service::InferenceService;
use super::unary;
use crate::app::App;
use crate::listen::Stop;

const TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");
const ENCODING: HeaderName = HeaderName::from_static("grpc-encoding");
pub(super) const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");

/// Messages of the health service: a service's name.
const HEALTH_MESSAGE_BYTES_MAX: usize = 4096;

/// Calls of the protocol that are not offered, and why.
const NOT_OFFERED: [(&str, &str); 3] = [
    ("CudaSharedMemoryRegister", CUDA_SHARED_MEMORY),
    (
        "TraceSetting",
        "the trace extension is not offered here; send a `traceparent` header to find a request in the logs",
    ),
    ("LogSettings", "the logging extension is not offered here; the operator sets the log level"),
];
const CUDA_SHARED_MEMORY: &str = "the cuda_shared_memory extension is not offered here; send tensors in \
    `raw_input_contents`, or register system shared memory";

/// Everything that answers gRPC, as one router. Streams end when `stop` says so.
pub(crate) fn routes(app: Arc<App>, stop: watch::Receiver<Stop>) -> Router {
    let health = HealthServer::new(HealthService::new(app.clone(), stop.clone()))
        .max_decoding_message_size(HEALTH_MESSAGE_BYTES_MAX);
    let inference = Arc::new(InferenceService::new(app.clone(), stop));
    let dispatch = Arc::new(Dispatch { app, inference, health });
    Router::new().fallback(move |request: Request<Body>| dispatch.clone().call(request))
}

struct Dispatch {
    app: Arc<App>,
    inference: Arc<InferenceService>,
    health: HealthServer<HealthService>,
}

/// What a call goes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Target {
    Inference,
    Health,
    Unknown,
}

fn target_of(path: &str) -> Target {
    match split(path) {
        Some((INFERENCE, _)) => Target::Inference,
        Some((HEALTH, _)) => Target::Health,
        _ => Target::Unknown,
    }
}

/// `/service/method`
fn split(path: &str) -> Option<(&str, &str)> {
    path.strip_prefix('/')?.split_once('/')
}

impl Dispatch {
    async fn call(self: Arc<Self>, mut request: Request<Body>) -> Response<Body> {
        let deadline = match request.headers().get(TIMEOUT).map(|value| parse_timeout(value.as_bytes())) {
            None => None,
            // A timeout past the end of the clock is none.
            Some(Ok(timeout)) => Instant::now().checked_add(timeout).map(CallDeadline),
            Some(Err(status)) => return status.into_http(),
        };
        let Some(deadline) = deadline else { return self.answer(request).await };
        request.extensions_mut().insert(deadline);
        // Dropping the call cancels its job.
        let until = tokio::time::Instant::from_std(deadline.0);
        let answer = tokio::time::timeout_at(until, self.answer(request)).await;
        answer.unwrap_or_else(|_| deadline::exceeded().into_http())
    }

    async fn answer(&self, request: Request<Body>) -> Response<Body> {
        let target = target_of(request.uri().path());
        if target == Target::Unknown {
            return not_offered(request.uri().path()).into_http();
        }
        if target == Target::Health {
            return run(self.health.clone(), request).await;
        }
        // A method's name is short where it is known, and nothing is kept of it where it is not.
        let path = request.uri().clone();
        let limit = usize::try_from(self.app.settings().limits.body_bytes_max.get()).unwrap_or(usize::MAX);
        if path.path() == unary::PATH && !is_compressed(request.headers()) {
            return told_clearly(unary::model_infer(request, limit).await, path.path());
        }
        let service = GrpcInferenceServiceServer::from_arc(self.inference.clone())
            .max_decoding_message_size(limit)
            .accept_compressed(Gzip)
            .accept_compressed(Deflate);
        let response = if is_compressed(request.headers()) {
            let service = service.send_compressed(Gzip).send_compressed(Deflate);
            let response = InPlace(Box::pin(run(service, request))).await;
            response.map(|body| Body::new(InPlace(Box::pin(body))))
        } else {
            run(service, request).await
        };
        told_clearly(response, path.path())
    }
}

async fn run<S, B>(service: S, request: Request<Body>) -> Response<Body>
where
    S: Service<Request<Body>, Response = Response<B>, Error = std::convert::Infallible>,
    B: hyper::body::Body<Data = bytes::Bytes> + Send + 'static,
    B::Error: Into<axum::BoxError>,
{
    match service.oneshot(request).await {
        Ok(response) => response.map(Body::new),
        Err(never) => match never {},
    }
}

fn is_compressed(headers: &HeaderMap) -> bool {
    headers.get(ENCODING).is_some_and(|encoding| encoding != "identity")
}

/// Two answers that the generated code gives before ours is asked get the code and words of this front.
fn told_clearly(mut response: Response<Body>, path: &str) -> Response<Body> {
    let Some(status) = response.headers().get(GRPC_STATUS) else { return response };
    match Code::from_bytes(status.as_bytes()) {
        Code::Unimplemented if !response.headers().contains_key(GRPC_MESSAGE) => {
            not_offered(path).into_http()
        }
        // See `error::of_receiving`.
        Code::OutOfRange => {
            let code = HeaderValue::from(Code::ResourceExhausted as i32);
            response.headers_mut().insert(GRPC_STATUS, code);
            response
        }
        _ => response,
    }
}

fn not_offered(path: &str) -> Status {
    let shown: String = path.chars().take(120).collect();
    let message = match split(path) {
        Some((INFERENCE, method)) => match NOT_OFFERED.iter().find(|(name, _)| *name == method) {
            Some((_, why)) => (*why).to_owned(),
            None => format!(
                "`{shown}` is no call of this service; ServerMetadata lists the extensions that are offered"
            ),
        },
        _ => format!("`{shown}` is not served here; `{INFERENCE}` and `{HEALTH}` are"),
    };
    Status::unimplemented(message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_name_service_and_method() {
        assert_eq!(target_of("/inference.GRPCInferenceService/ModelInfer"), Target::Inference);
        assert_eq!(target_of("/grpc.health.v1.Health/Check"), Target::Health);
        for unknown in
            ["/", "", "/inference.GRPCInferenceService", "/x/y", "inference.GRPCInferenceService/ModelInfer"]
        {
            assert_eq!(target_of(unknown), Target::Unknown, "{unknown}");
        }
    }

    #[test]
    fn what_is_not_offered_is_named() {
        assert!(
            not_offered("/inference.GRPCInferenceService/TraceSetting").message().contains("trace extension")
        );
        let unknown = not_offered("/inference.GRPCInferenceService/Frobnicate");
        assert!(unknown.message().contains("Frobnicate"));
        assert!(not_offered("/a.B/C").message().contains("not served here"));
    }
}
