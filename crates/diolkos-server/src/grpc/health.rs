// SPDX-License-Identifier: Apache-2.0
//! `grpc.health.v1`: the state of the daemon as load balancers and probes ask for it.
//!
//! `Check` looks at the daemon; nothing is remembered that could be out of date. `Watch` looks again every
//! [`WATCH_INTERVAL`], sends what changed, and ends when the daemon drains.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_server::Health;
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};

use super::limits::HEALTH_WATCHERS_MAX;
use super::pb::grpc_inference_service_server::SERVICE_NAME;
use crate::app::App;
use crate::listen::Stop;

/// How late a watcher may learn of a change. Draining is told at once.
const WATCH_INTERVAL: Duration = Duration::from_millis(500);

/// Answers for the whole daemon (the empty name) and for the inference service.
#[derive(Clone)]
pub(crate) struct HealthService {
    app: Arc<App>,
    stop: watch::Receiver<Stop>,
    watchers: Arc<AtomicUsize>,
}

impl HealthService {
    pub(crate) fn new(app: Arc<App>, stop: watch::Receiver<Stop>) -> HealthService {
        HealthService { app, stop, watchers: Arc::default() }
    }

    fn is_known(service: &str) -> bool {
        service.is_empty() || service == SERVICE_NAME
    }

    fn status(&self) -> ServingStatus {
        let serves = self.app.is_ready() && *self.stop.borrow() == Stop::No;
        if serves { ServingStatus::Serving } else { ServingStatus::NotServing }
    }
}

fn answer(status: ServingStatus) -> HealthCheckResponse {
    HealthCheckResponse { status: status.into() }
}

/// One watcher's place among those allowed.
struct Place(Arc<AtomicUsize>);

impl Place {
    fn take(watchers: &Arc<AtomicUsize>) -> Option<Place> {
        // Relaxed: the count orders nothing else.
        let taken = watchers.fetch_add(1, Ordering::Relaxed);
        let place = Place(watchers.clone());
        (taken < HEALTH_WATCHERS_MAX).then_some(place)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[tonic::async_trait]
impl Health for HealthService {
    async fn check(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, Status> {
        let service = &request.get_ref().service;
        if !HealthService::is_known(service) {
            let shown: String = service.chars().take(80).collect();
            return Err(Status::not_found(format!(
                "no service `{}`; `{SERVICE_NAME}` and the empty name are known",
                shown.escape_debug()
            )));
        }
        Ok(Response::new(answer(self.status())))
    }

    type WatchStream = Pin<Box<dyn Stream<Item = Result<HealthCheckResponse, Status>> + Send>>;

    async fn watch(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let place = Place::take(&self.watchers).ok_or_else(|| {
            Status::resource_exhausted(format!("{HEALTH_WATCHERS_MAX} watchers is the limit; use Check"))
        })?;
        let known = HealthService::is_known(&request.get_ref().service);
        let (send, receive) = mpsc::channel(1);
        tokio::spawn(watch_status(self.clone(), known, send, place));
        Ok(Response::new(Box::pin(ReceiverStream::new(receive))))
    }
}

async fn watch_status(
    mut health: HealthService,
    known: bool,
    send: mpsc::Sender<Result<HealthCheckResponse, Status>>,
    _place: Place,
) {
    let mut last = None;
    loop {
        // The protocol's answer for a service that is not there, yet.
        let status = if known { health.status() } else { ServingStatus::ServiceUnknown };
        if last != Some(status) {
            last = Some(status);
            if send.send(Ok(answer(status))).await.is_err() {
                return;
            }
        }
        if *health.stop.borrow() != Stop::No {
            return;
        }
        tokio::select! {
            () = send.closed() => return,
            _ = health.stop.changed() => {}
            () = tokio::time::sleep(WATCH_INTERVAL) => {}
        }
    }
}
