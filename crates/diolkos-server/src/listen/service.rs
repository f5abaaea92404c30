// SPDX-License-Identifier: Apache-2.0
//! One request: who asks goes in, the right front answers, and what went wrong with the body is told in
//! the front's place.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use axum::body::Body;
use axum::http::header::{CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderValue, Method, Request, Response, StatusCode};
use diolkos_types::{Code, Status};
use http_body_util::BodyExt as _;
use hyper::body::{Body as _, Incoming};
use tower::ServiceExt as _;
use tracing::Instrument as _;

use super::body::Budget;
use super::body::{Fault, Messages, Meter, Payer, RequestBody};
use super::callers::{Callers, Unknown};
use super::reply::{InFlight, ReplyBody};
use super::table::ConnState;
use crate::app::App;
use crate::audit::Action;
use crate::identity::NOT_FOR_OTHERS;
use crate::logging::limited;
use crate::metrics::Front;
use crate::rest::error::HttpError;
use crate::trace::{TRACEPARENT, TraceContext};
use crate::{grpc, limits, rest};

/// The type of what `/metrics` answers: Prometheus' text format.
const METRICS_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The fronts, made once and shared by every connection.
#[derive(Clone)]
pub(super) struct Fronts {
    pub(super) rest: axum::Router,
    pub(super) grpc: axum::Router,
}

/// Answers the requests of one connection.
pub(super) struct ConnService {
    pub(super) app: Arc<App>,
    pub(super) fronts: Fronts,
    pub(super) callers: Arc<Callers>,
    pub(super) connection: Arc<ConnState>,
    pub(super) requests: AtomicU64,
}

type Reply = Pin<Box<dyn Future<Output = Result<Response<ReplyBody>, Infallible>> + Send>>;

impl hyper::service::Service<Request<Incoming>> for ConnService {
    type Response = Response<ReplyBody>;
    type Error = Infallible;
    type Future = Reply;

    fn call(&self, request: Request<Incoming>) -> Reply {
        let number = self.requests.fetch_add(1, Ordering::Relaxed);
        let in_flight = InFlight::begin(self.connection.clone(), number);
        let front = front_of(&request);
        let trace = TraceContext::from_headers(request.headers());
        let context = match self.callers.context(request.headers()) {
            Ok(context) => context,
            Err(unknown) => {
                limited!(warn, peer = %self.callers.peer, ?unknown, "refused a request");
                let (code, reason) = match &unknown {
                    Unknown::NoToken => (Code::PermissionDenied, "no token"),
                    Unknown::WrongToken => (Code::PermissionDenied, "a token of nobody"),
                    Unknown::NotForOthers => (Code::PermissionDenied, "for another tenant"),
                    Unknown::NoSession(status) => (status.code(), status.message()),
                };
                self.app.audit.refused(None, Some(&self.callers.peer), Action::Request, code, reason);
                return self.turn_away(front, unknown_caller(front, unknown), in_flight);
            }
        };
        tracing::debug!(peer = %context.peer, tenant = %context.session.tenant(), method = %request.method(), path = request.uri().path(), "request");
        let session = context.session.clone();
        // Before anything is read or decoded: whoever sends a hundred times too much should cost as little as possible.
        let infers = infers(front, request.uri().path());
        let length = request.body().size_hint().upper();
        let is_large = length.is_none_or(|bytes| bytes >= limits::UNREAD_BODY_BYTES_MIN);
        if infers && let Some(status) = session.refuse_over_rate() {
            let reply = refusal(front, status);
            if is_large {
                return self.turn_away(front, reply, in_flight);
            }
            return self.pass_over(request.into_body(), front, reply, in_flight);
        }
        // One that is too large for anybody is told so by its front.
        let fits = |bytes: &u64| *bytes <= self.app.settings().limits.body_bytes_max.get();
        if infers && is_large && length.filter(fits).is_some_and(|bytes| !session.bodies.has_room(bytes)) {
            session.charge_refusal(&no_room());
            return self.turn_away(front, body_fault(front, Fault::Memory), in_flight);
        }
        let metrics_denied =
            front == Front::Metrics && !self.app.directory().rights(session.tenant()).metrics;
        if metrics_denied {
            let (tenant, reason) = (session.tenant(), "its tenant may not read metrics");
            self.app.audit.refused(
                Some(tenant),
                Some(&self.callers.peer),
                Action::Metrics,
                Code::PermissionDenied,
                reason,
            );
        }
        // What was announced is charged at once, or many would be let in while the first is read.
        // Of other calls and of streams, which may announce anything, what comes is charged, and they wait where these are refused.
        let announced = request.body().size_hint().exact().filter(|_| infers);
        if let Some(bytes) = announced {
            session.received(bytes.min(self.app.settings().limits.body_bytes_max.get()));
        }
        let payer = announced.is_none().then(|| Payer { session: session.clone(), waits: !infers });
        let budget = session.bodies.clone();
        let meter = Meter::new(budget.clone());
        let timeout = self.app.settings().limits.body_timeout.get();
        let messages = (front == Front::Grpc).then(|| Messages::new(self.connection.clone(), number));
        let mut request =
            request.map(|body| Body::new(RequestBody::new(body, meter.clone(), messages, payer, timeout)));
        request.extensions_mut().insert(context);
        let (app, fronts) = (self.app.clone(), self.fronts.clone());
        let span = trace.map_or_else(tracing::Span::none, TraceContext::span);
        let answer = async move {
            let reply = route(&app, fronts, front, metrics_denied, request).await;
            let mut reply = match meter.reply_begins() {
                None => reply,
                Some(fault) => {
                    if infers && fault == Fault::Memory {
                        session.charge_refusal(&no_room());
                    }
                    body_fault(front, fault)
                }
            };
            if let Some(trace) = trace {
                reply.headers_mut().insert(TRACEPARENT, trace.to_header());
            }
            app.counters.answered(front, reply.status());
            Ok(reply.map(|body| ReplyBody::new(body, in_flight, budget, front == Front::Grpc)))
        };
        Box::pin(answer.instrument(span))
    }
}

impl ConnService {
    /// An answer that needs nothing of the request but its end: an HTTP/1.1 client that is still sending when the answer
    /// comes may miss it. What comes is dropped.
    fn pass_over(
        &self,
        mut body: Incoming,
        front: Front,
        reply: Response<Body>,
        in_flight: InFlight,
    ) -> Reply {
        if body.is_end_stream() {
            return self.turn_away(front, reply, in_flight);
        }
        let (app, timeout) = (self.app.clone(), self.app.settings().limits.body_timeout.get());
        Box::pin(async move {
            let passed =
                tokio::time::timeout(timeout, async { while let Some(Ok(_)) = body.frame().await {} });
            let reply = match passed.await {
                Ok(()) => reply,
                Err(_) => body_fault(front, Fault::Slow),
            };
            app.counters.answered(front, reply.status());
            Ok(reply.map(|body| ReplyBody::new(body, in_flight, free(), front == Front::Grpc)))
        })
    }

    /// An answer that needs nothing of the request.
    fn turn_away(&self, front: Front, reply: Response<Body>, in_flight: InFlight) -> Reply {
        self.app.counters.answered(front, reply.status());
        let reply = reply.map(|body| ReplyBody::new(body, in_flight, free(), front == Front::Grpc));
        Box::pin(std::future::ready(Ok(reply)))
    }
}

/// A budget for answers that are short and made of constants, which are charged to nobody.
fn free() -> Arc<Budget> {
    Budget::new(u64::MAX)
}

/// Whether a request is one that a tenant's rate counts. What comes on a stream is counted message by message, by the engine.
fn infers(front: Front, path: &str) -> bool {
    match front {
        Front::Rest => path.ends_with("/infer"),
        Front::Grpc => path.ends_with("/ModelInfer"),
        Front::Metrics => false,
    }
}

/// What [`Fault::Memory`] counts as.
fn no_room() -> Status {
    Status::busy("no memory for the request's body", limits::REFUSE_RETRY)
}

/// A status in the words of a front.
fn refusal(front: Front, status: Status) -> Response<Body> {
    if front == Front::Grpc {
        return grpc::error::of_status(&status).into_http();
    }
    rest::reply::error(HttpError::from(status))
}

/// What a request is told that is nobody's.
fn unknown_caller(front: Front, unknown: Unknown) -> Response<Body> {
    let message = match unknown {
        Unknown::NoSession(status) => return refusal(front, status),
        Unknown::NotForOthers => {
            return refusal(front, Status::new(Code::PermissionDenied, NOT_FOR_OTHERS));
        }
        Unknown::NoToken => "this address serves those who show a token: send `authorization: Bearer TOKEN`",
        Unknown::WrongToken => "this is no token of anybody here",
    };
    if front == Front::Grpc {
        return tonic::Status::unauthenticated(message).into_http();
    }
    let error = HttpError::new(StatusCode::UNAUTHORIZED, message);
    rest::reply::error(error.with_header(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer")))
}

fn front_of<B>(request: &Request<B>) -> Front {
    let content_type = request.headers().get(CONTENT_TYPE).map(HeaderValue::as_bytes);
    if content_type.is_some_and(|value| value.starts_with(b"application/grpc")) {
        Front::Grpc
    } else if request.uri().path() == "/metrics" {
        Front::Metrics
    } else {
        Front::Rest
    }
}

async fn route(
    app: &App,
    fronts: Fronts,
    front: Front,
    metrics_denied: bool,
    request: Request<Body>,
) -> Response<Body> {
    let router = match front {
        Front::Metrics if metrics_denied => {
            return error(
                StatusCode::FORBIDDEN,
                "metrics tell about all tenants, and yours may not read them (tenants.NAME.metrics)",
            );
        }
        Front::Metrics => return metrics(app, request.method()),
        Front::Rest => fronts.rest,
        Front::Grpc => fronts.grpc,
    };
    match router.oneshot(request).await {
        Ok(reply) => reply,
        Err(never) => match never {},
    }
}

fn metrics(app: &App, method: &Method) -> Response<Body> {
    if method != Method::GET && method != Method::HEAD {
        let mut reply = error(StatusCode::METHOD_NOT_ALLOWED, "metrics are read with GET");
        reply.headers_mut().insert(axum::http::header::ALLOW, HeaderValue::from_static("GET, HEAD"));
        return reply;
    }
    let mut reply = Response::new(Body::from(app.metrics_text()));
    reply.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(METRICS_TYPE));
    reply
}

/// `message` must be free of quotes, percent signs and control characters.
fn error(status: StatusCode, message: &'static str) -> Response<Body> {
    let mut reply = Response::new(Body::from(format!("{{\"error\":\"{message}\"}}")));
    *reply.status_mut() = status;
    reply.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    reply
}

/// What a client is told whose body came in badly. The front saw a body that broke off and knows no more.
fn body_fault(front: Front, fault: Fault) -> Response<Body> {
    let slow = "the request body came too slowly: limits.body_timeout passed without 64 KiB of it or its end";
    let memory = "no memory for the request body now; try again";
    // gRPC: DEADLINE_EXCEEDED and RESOURCE_EXHAUSTED.
    let (status, grpc_status, message) = match fault {
        Fault::Slow => (StatusCode::REQUEST_TIMEOUT, "4", slow),
        Fault::Memory => (StatusCode::SERVICE_UNAVAILABLE, "8", memory),
    };
    if front == Front::Grpc {
        let mut reply = Response::new(Body::empty());
        let headers = reply.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        headers.insert("grpc-status", HeaderValue::from_static(grpc_status));
        headers.insert("grpc-message", HeaderValue::from_static(message));
        return reply;
    }
    let mut reply = error(status, message);
    if fault == Fault::Memory {
        reply.headers_mut().insert(RETRY_AFTER, HeaderValue::from(limits::REFUSE_RETRY_SECONDS));
    }
    reply
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_content_type_chooses_the_front() {
        let request = |path: &str, content_type: &str| {
            Request::builder().uri(path).header(CONTENT_TYPE, content_type).body(()).unwrap()
        };
        assert_eq!(front_of(&request("/metrics", "text/plain")), Front::Metrics);
        assert_eq!(front_of(&request("/v2", "application/json")), Front::Rest);
        assert_eq!(
            front_of(&request("/inference.GRPCInferenceService/ModelInfer", "application/grpc+proto")),
            Front::Grpc
        );
    }

    #[test]
    fn a_slow_body_is_told_in_the_words_of_the_front() {
        assert_eq!(body_fault(Front::Rest, Fault::Slow).status(), 408);
        let memory = body_fault(Front::Rest, Fault::Memory);
        assert_eq!((memory.status().as_u16(), &memory.headers()[RETRY_AFTER]), (503, &HeaderValue::from(1)));
        let grpc = body_fault(Front::Grpc, Fault::Slow);
        assert_eq!((grpc.status().as_u16(), grpc.headers()["grpc-status"].as_bytes()), (200, &b"4"[..]));
    }
}
