// SPDX-License-Identifier: Apache-2.0
//! What SIGHUP asks for: the settings again, then the models again.
//!
//! ```text
//! nothing ──ask──> running ──ask──> running, and once more
//!    └──────ended────┘ └───────────────ended──┘
//! ```
//!
//! Invariant: one reload runs at a time, and nobody waits for it but those who want to: rehearsing a
//! changed model may take minutes.

use std::sync::{Arc, Weak};

use diolkos_types::Status;
use tokio::task::JoinSet;

use crate::app::App;
use crate::audit::Action;
use crate::daemon::ReadSettings;
use crate::listen::Tls;
use crate::settings::Settings;
use crate::{loading, logging};

/// Reloads, now or in the background.
pub(crate) struct Reloading {
    what: Arc<What>,
    running: JoinSet<()>,
    again: bool,
}

struct What {
    app: Weak<App>,
    certificates: Vec<Arc<Tls>>,
    read: Option<ReadSettings>,
}

impl Reloading {
    /// Certificates are read again; with `read`, settings are read again, too.
    pub(crate) fn new(app: &Arc<App>, certificates: Vec<Arc<Tls>>, read: Option<ReadSettings>) -> Reloading {
        let what = Arc::new(What { app: Arc::downgrade(app), certificates, read });
        Reloading { what, running: JoinSet::new(), again: false }
    }

    /// Reloads now.
    pub(crate) async fn once(&self) {
        self.what.reload().await;
    }

    /// Begins to reload; while a reload runs, remembers to do it once more: the running one may have read
    /// what changed since.
    pub(crate) fn ask(&mut self) {
        if self.running.is_empty() {
            self.begin();
        } else {
            self.again = true;
        }
    }

    /// Returns once what was asked for is done; never, if nothing was. Nothing is lost when it is dropped.
    pub(crate) async fn ended(&mut self) {
        while let Some(result) = self.running.join_next().await {
            if let Err(error) = result {
                tracing::error!(%error, "a reload ended early");
            }
            if !std::mem::take(&mut self.again) {
                return;
            }
            self.begin();
        }
        std::future::pending().await
    }

    fn begin(&mut self) {
        let what = self.what.clone();
        self.running.spawn(async move { what.reload().await });
    }
}

impl What {
    /// A bad file changes nothing.
    async fn reload(&self) {
        if let Some(read) = &self.read
            && let Some(app) = self.app.upgrade()
        {
            match read() {
                Ok(settings) => take_up(&app, settings).await,
                Err(error) => refused(&app, &error),
            }
        }
        self.reload_certificates();
        loading::rescan(&self.app).await;
    }

    /// Each address keeps its certificate if the new one is bad.
    fn reload_certificates(&self) {
        let Some(app) = self.app.upgrade() else { return };
        for tls in &self.certificates {
            let failure = tls.reload().err();
            let status = failure.as_ref().map(|error| Status::invalid(error.to_string()));
            let file = tls.certificate().display().to_string();
            app.audit.changed(None, None, Action::Certificate, &file, status.as_ref());
            if let Some(error) = failure {
                tracing::error!(%error, "a certificate stays as it was, because the new one is wrong");
            }
        }
    }
}

fn refused(app: &App, error: &(dyn std::error::Error + 'static)) {
    app.counters.reloaded(false);
    let status = Status::invalid(error.to_string());
    app.audit.changed(None, None, Action::Settings, "", Some(&status));
    tracing::error!(error, "the settings stay as they were, because the new ones are wrong");
}

async fn take_up(app: &App, new: Settings) {
    let level = new.log.level;
    let changes = match app.tenancy.take_up(new).await {
        Ok(changes) => changes,
        Err(error) => return refused(app, &error),
    };
    logging::set_level(level);
    app.counters.reloaded(true);
    app.audit.reopen();
    app.audit.changed(None, None, Action::Settings, &changes.live.join(" "), None);
    tracing::info!(in_force = ?changes.live, "the settings were reloaded");
    if !changes.restart.is_empty() {
        tracing::warn!(keys = ?changes.restart, "these settings changed and need a restart");
    }
}
