// SPDX-License-Identifier: Apache-2.0
//! What fronts, connections and the daemon share: the engine, the settings in force, and the phase.
//!
//! ```text
//! Starting ──models named at start are loaded or failed──> Ready ──signal──> Draining
//! ```
//!
//! Invariant: the phase only moves to the right.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use diolkos_engine::Engine;
use diolkos_types::TenantId;

use crate::audit::{Action, Audit};
use crate::identity::{self, Directory};
use crate::listen::Budget;
use crate::metrics::Counters;
use crate::settings::Settings;
use crate::system_memory::SystemMemory;
use crate::tenancy::Tenancy;

/// Where in its life the daemon is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(crate) enum Phase {
    /// Listening; the models named at start are still being loaded.
    Starting = 0,
    /// Every model named at start was loaded or failed to.
    Ready = 1,
    /// No new connection and no new request; what is in flight ends.
    Draining = 2,
}

/// Shared state; one per daemon, in an [`Arc`].
pub(crate) struct App {
    /// The waist.
    pub(crate) engine: Engine,
    /// Who did what.
    pub(crate) audit: Arc<Audit>,
    /// Regions of the extension `system_shared_memory`.
    pub(crate) system_memory: Arc<SystemMemory>,
    /// Changes of tenants go through here.
    pub(crate) tenancy: Tenancy,
    /// What connections and fronts count; see `metrics`.
    pub(crate) counters: Counters,
    settings: RwLock<Arc<Settings>>,
    directory: RwLock<Arc<Directory>>,
    own_uid: u32,
    /// Of tenants that are served, and came.
    bodies: Mutex<HashMap<TenantId, Arc<Budget>>>,
    phase: AtomicU8,
    started: Instant,
}

impl App {
    /// State of a daemon that is about to load its models.
    pub(crate) fn new(engine: Engine, settings: Settings, audit: Audit) -> App {
        let own_uid = rustix::process::geteuid().as_raw();
        identity::tell_engine(&engine, None, &settings, own_uid);
        let audit = Arc::new(audit);
        let refusals = audit.clone();
        engine.watch_refusals(move |tenant, status| {
            refusals.refused(Some(tenant), None, Action::Infer, status.code(), status.message());
        });
        App {
            engine,
            audit,
            system_memory: Arc::new(SystemMemory::new(&settings)),
            tenancy: Tenancy::new(),
            counters: Counters::default(),
            directory: RwLock::new(Arc::new(Directory::new(&settings, own_uid))),
            settings: RwLock::new(Arc::new(settings)),
            own_uid,
            bodies: Mutex::default(),
            phase: AtomicU8::new(Phase::Starting as u8),
            started: Instant::now(),
        }
    }

    /// The settings in force now. Take them once per request: a reload may come in between.
    pub(crate) fn settings(&self) -> Arc<Settings> {
        self.settings.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Memory for the bodies of a tenant, a part of everybody's.
    pub(crate) fn bodies_of(&self, tenant: &TenantId) -> Arc<Budget> {
        let max = self.directory().rights(tenant).bodies_memory_max;
        let mut bodies = self.bodies.lock().unwrap_or_else(PoisonError::into_inner);
        let whole = self.counters.budget(self.settings().limits.requests_memory_max.get());
        let part = bodies.entry(tenant.clone()).or_insert_with(|| whole.part(max)).clone();
        part.limit(max);
        part
    }

    /// The user that the daemon runs as.
    pub(crate) fn own_uid(&self) -> u32 {
        self.own_uid
    }

    /// Who is who, now.
    pub(crate) fn directory(&self) -> Arc<Directory> {
        self.directory.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Puts new settings in force, and says which tenants are gone. Only [`crate::tenancy`] does this.
    pub(crate) fn put_in_force(&self, settings: Settings) -> Vec<TenantId> {
        let before = self.settings();
        let directory = Arc::new(Directory::new(&settings, self.own_uid));
        // The directory first: from here on nobody comes in as a tenant that the engine is about to forget.
        *self.directory.write().unwrap_or_else(PoisonError::into_inner) = directory;
        let gone = identity::tell_engine(&self.engine, Some(&before), &settings, self.own_uid);
        *self.settings.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(settings);
        gone
    }

    /// Drops what is kept for a tenant that is gone.
    pub(crate) fn forget(&self, tenant: &TenantId) {
        self.bodies.lock().unwrap_or_else(PoisonError::into_inner).remove(tenant);
        self.audit.forget(tenant);
    }

    /// Where in its life the daemon is.
    pub(crate) fn phase(&self) -> Phase {
        match self.phase.load(Ordering::Acquire) {
            0 => Phase::Starting,
            1 => Phase::Ready,
            _ => Phase::Draining,
        }
    }

    /// Moves on to `phase`; moving back is ignored.
    pub(crate) fn advance(&self, phase: Phase) {
        self.phase.fetch_max(phase as u8, Ordering::AcqRel);
    }

    /// What `v2/health/ready` answers. (`v2/health/live` is true whenever anybody can ask.)
    pub(crate) fn is_ready(&self) -> bool {
        self.phase() == Phase::Ready && !self.engine.is_draining()
    }

    /// Time since start.
    pub(crate) fn uptime(&self) -> Duration {
        self.started.elapsed()
    }

    /// What `/metrics` answers.
    pub(crate) fn metrics_text(&self) -> String {
        crate::metrics::render(self)
    }
}

impl fmt::Debug for App {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("App")
            .field("engine", &self.engine)
            .field("phase", &self.phase())
            .finish_non_exhaustive()
    }
}
