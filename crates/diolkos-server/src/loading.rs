// SPDX-License-Identifier: Apache-2.0
//! Models at start, on a reload, and, if asked for, now and then: asks the engine, logs and counts what
//! came of it.
//!
//! Models are loaded one after the other, each as a request of its own to the engine's control thread, so
//! that clients' loads and unloads come in between.

use std::sync::{Arc, Weak};
use std::time::Duration;

use diolkos_engine::store::{ChangeKind, IndexState};
use diolkos_engine::{ControlReply, ControlRequest, Engine};
use diolkos_types::Status;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;

use crate::app::{App, Phase};

/// Loads models in the background.
#[derive(Debug)]
pub(crate) struct Loading {
    tried: watch::Receiver<bool>,
    tasks: Vec<JoinHandle<()>>,
}

impl Loading {
    /// Begins to load whatever the store knows and does not load lazily.
    pub(crate) fn start(app: &Arc<App>) -> Loading {
        let (tell, tried) = watch::channel(false);
        let settings = app.settings();
        let lazy = settings.models.lazy;
        let mut tasks = vec![tokio::spawn(at_start(Arc::downgrade(app), lazy, tell))];
        let interval = settings.models.watch_interval.get();
        if !interval.is_zero() {
            tasks.push(tokio::spawn(now_and_then(Arc::downgrade(app), interval, tried.clone())));
        }
        Loading { tried, tasks }
    }

    /// Returns once every model named at start was tried, with `true`, or once that was given up.
    pub(crate) fn tried(&self) -> impl Future<Output = bool> + Send + use<> {
        let mut tried = self.tried.clone();
        async move { tried.wait_for(|tried| *tried).await.is_ok() }
    }

    /// Begins no further load.
    pub(crate) fn stop(&self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

impl Drop for Loading {
    fn drop(&mut self) {
        self.stop();
    }
}

async fn at_start(app: Weak<App>, lazy: bool, tell: watch::Sender<bool>) {
    let Some(strong) = app.upgrade() else { return };
    let entries = if lazy { Vec::new() } else { strong.engine.store().entries() };
    let names = entries
        .iter()
        .filter(|entry| !entry.is_builtin() && !entry.is_unloaded())
        .map(|entry| entry.name().to_owned());
    let names: Vec<String> = names.collect();
    // Held only while a load is asked for: waiting must not keep the daemon's state alive.
    drop((entries, strong));
    for name in names {
        let Some(strong) = app.upgrade() else { return };
        let loaded = control(&strong.engine, ControlRequest::Load { name: name.clone() });
        drop(strong);
        let result = loaded.await;
        let Some(strong) = app.upgrade() else { return };
        log_load(&strong, &name, &result.map(|_| ()));
    }
    let Some(strong) = app.upgrade() else { return };
    strong.advance(Phase::Ready);
    let index = strong.engine.store().index();
    let ready = index.iter().filter(|row| row.state == IndexState::Ready).count();
    tracing::info!(ready, of = index.len(), after_ms = strong.uptime().as_millis(), "ready");
    tell.send_replace(true);
}

async fn now_and_then(app: Weak<App>, interval: Duration, mut tried: watch::Receiver<bool>) {
    if tried.wait_for(|tried| *tried).await.is_err() {
        return;
    }
    while app.strong_count() > 0 {
        tokio::time::sleep(interval).await;
        rescan(&app).await;
    }
}

/// Looks for models that came, changed or went.
pub(crate) async fn rescan(app: &Weak<App>) {
    let Some(strong) = app.upgrade() else { return };
    let rescanned = control(&strong.engine, ControlRequest::Rescan);
    // As above.
    drop(strong);
    let result = rescanned.await;
    let Some(app) = app.upgrade() else { return };
    match result {
        Ok(ControlReply::Rescanned(changes)) => {
            for (change, result) in changes {
                match change.kind {
                    ChangeKind::Appeared | ChangeKind::Changed => log_load(&app, &change.name, &result),
                    ChangeKind::Vanished => tracing::info!(model = %change.name, "gone, and unloaded"),
                }
            }
        }
        Ok(other) => debug_assert!(false, "a rescan was answered with {other:?}"),
        Err(error) => tracing::warn!(%error, "the models could not be looked at again"),
    }
}

fn log_load(app: &App, name: &str, result: &Result<(), Status>) {
    app.counters.loaded(result.is_ok());
    match result {
        Ok(()) => tracing::info!(model = name, "loaded"),
        Err(error) => tracing::error!(model = name, %error, "not loaded"),
    }
}

/// Asks the control thread, which answers every request, and at the latest when it stops.
fn control(
    engine: &Engine,
    request: ControlRequest,
) -> impl Future<Output = Result<ControlReply, Status>> + Send + use<> {
    let (send, receive) = oneshot::channel();
    engine.control(request, move |result| {
        // Whoever asked may have been told to stop meanwhile.
        let _ = send.send(result);
    });
    async move {
        let gone = || Status::new(diolkos_types::Code::Aborted, "the engine stopped");
        receive.await.unwrap_or_else(|_| Err(gone()))
    }
}
