// SPDX-License-Identifier: Apache-2.0
//! A session: one tenant's handle table, and what it has in flight. Everything in it dies with it.
//!
//! ```text
//! open ──> handles ──submit──> in flight ──reply──> (gone)
//!                                   │
//! drop ─────────────────────────────┴──> every job that waits is cancelled, every handle closed
//! ```

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::time::{Duration, Instant};

use diolkos_backend::CancelFlag;
use diolkos_types::{BuildSpread, HandleId, JobId, SessionId, Status, TenantId};

use crate::account::{ModelStats, Whose};
use crate::device::{Here, Offer};
use crate::engine::EngineInner;
use crate::explain::{Explained, Past};
use crate::job::Obligation;
use crate::limits;
use crate::memory::Reservation;
use crate::request::{Reply, ReplySink, Request};
use crate::status;
use crate::store::{IndexRow, LoadedVersion, ModelEntry};
use crate::tenant::Tenant;

/// One tenant's view of the engine. Dropping it cancels what waits and closes what is open.
pub struct Session {
    inner: Arc<SessionInner>,
}

pub(crate) struct SessionInner {
    id: SessionId,
    tenant: Arc<Tenant>,
    engine: Arc<EngineInner>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    handles: Vec<Slot>,
    free: Vec<u32>,
    in_flight: HashMap<JobId, CancelFlag, BuildSpread>,
}

#[derive(Default)]
struct Slot {
    generation: u32,
    opened: Option<Opened>,
}

/// What a handle means.
#[derive(Clone)]
pub(crate) struct Opened {
    pub(crate) entry: Arc<ModelEntry>,
    /// `None` = whichever version is current when a request is admitted.
    pub(crate) version: Option<u64>,
}

impl SessionInner {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing below panics while it holds the lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn get(&self, handle: HandleId) -> Option<&Opened> {
        let slot = self.handles.get(handle.slot as usize)?;
        slot.opened.as_ref().filter(|_| slot.generation == handle.generation)
    }
}

impl Session {
    /// What can be said of a job of this session's tenant: it waits, runs, or is among the last that ended.
    #[must_use]
    pub fn explain(&self, job: JobId) -> Option<Explained> {
        let SessionInner { engine, tenant, .. } = &*self.inner;
        engine.explain(job, tenant.key()).or_else(|| tenant.history.find(job).map(Explained::Ended))
    }

    /// The last jobs of its tenant that ended, the oldest first. Those that are known to be short are not among them.
    #[must_use]
    pub fn recent(&self) -> Vec<Past> {
        self.inner.tenant.history.all()
    }

    /// The tenant's count of sessions has this one already.
    pub(crate) fn open_in(engine: Arc<EngineInner>, id: SessionId, tenant: Arc<Tenant>) -> Session {
        Session { inner: Arc::new(SessionInner { id, tenant, engine, state: Mutex::default() }) }
    }

    /// Number of this session, for logs.
    #[must_use]
    pub fn id(&self) -> SessionId {
        self.inner.id
    }

    /// Whose it is.
    #[must_use]
    pub fn tenant(&self) -> &TenantId {
        &self.inner.tenant.id
    }

    /// A model or built-in operation by name. One that no lease of the tenant allows is as unknown as one that nobody
    /// ever heard of.
    pub fn find(&self, name: &str) -> Result<Arc<ModelEntry>, Status> {
        let found =
            self.inner.engine.store.find(name).filter(|entry| self.inner.tenant.policy().shows(entry));
        found.ok_or_else(|| status::no_such_model(name))
    }

    /// All models and operations that its tenant may use, by name.
    #[must_use]
    pub fn entries(&self) -> Vec<Arc<ModelEntry>> {
        let policy = self.inner.tenant.policy();
        let mut entries = self.inner.engine.store.entries();
        entries.retain(|entry| policy.shows(entry));
        entries
    }

    /// All versions of all models that its tenant may use, and what they do.
    #[must_use]
    pub fn index(&self) -> Vec<IndexRow> {
        let policy = self.inner.tenant.policy();
        self.inner.engine.store.index_where(|entry| policy.shows(entry))
    }

    /// Whether its tenant may load and unload models at all.
    #[must_use]
    pub fn may_load(&self) -> bool {
        self.inner.tenant.policy().may_load
    }

    /// Says of a model that its tenant may not load, or may not even know of, that there is none.
    pub fn check_may_load(&self, name: &str) -> Result<(), Status> {
        let policy = self.inner.tenant.policy();
        let allowed = policy.may_load && policy.leases.iter().any(|lease| lease.models.match_any(name));
        if allowed { Ok(()) } else { Err(status::no_such_model(name)) }
    }

    /// What a request is answered now whatever it asks for, because its tenant sends too many: so that a front need not
    /// read and decode it first. It counts as a request that was refused, and must not be submitted then; one that may
    /// come is charged when it is submitted.
    #[must_use]
    pub fn refuse_over_rate(&self) -> Option<Status> {
        let refused = self.inner.tenant.over_rate(Instant::now()).map(status::over_rate);
        let Some(refused) = refused else { return self.refuse_over_bytes() };
        self.inner.tenant.count_refusal(&refused);
        Some(refused)
    }

    /// The same for bytes alone: for requests whose rate is looked at when they are submitted.
    #[must_use]
    pub fn refuse_over_bytes(&self) -> Option<Status> {
        let refused = status::over_bytes(self.over_bytes()?);
        self.inner.tenant.count_refusal(&refused);
        Some(refused)
    }

    /// How long until its tenant may send more bytes, if not now.
    #[must_use]
    pub fn over_bytes(&self) -> Option<Duration> {
        self.inner.tenant.over_bytes()
    }

    /// Charges its tenant for bytes of requests that came, or were announced and are going to be read.
    pub fn received(&self, bytes: u64) {
        self.inner.tenant.received(bytes);
    }

    /// Counts a request that a front had no room for, and charges it to the rate as if it had been submitted: what is
    /// refused for other reasons must not come for free.
    pub fn charge_refusal(&self, refused: &Status) {
        let tenant = &self.inner.tenant;
        // Whoever is over its rate already is not charged more.
        let _ = tenant.meter(&tenant.policy(), Instant::now());
        tenant.count_refusal(refused);
    }

    /// Charges its tenant for a region of so many bytes, until what comes back is dropped.
    pub fn charge_region(&self, bytes: u64) -> Result<RegionCharge, Status> {
        let charged = self.inner.tenant.regions.reserve(bytes);
        charged.map(|held| RegionCharge { _held: held }).map_err(status::too_many_regions_of_tenant)
    }

    /// Loads an installed model that is not loaded, for its tenant. However many ask, and however many requests wait for it,
    /// it is loaded once. `done` is called once, from the control thread or, when too many wait, from this one.
    pub fn warm(&self, name: &str, done: impl FnOnce(Result<(), Status>) + Send + 'static) {
        let SessionInner { engine, tenant, .. } = &*self.inner;
        engine.control.warm(name.to_owned(), tenant.clone(), Box::new(done));
    }

    /// Opens a model or built-in operation by name; `version` pins one of its versions.
    pub fn open(&self, name: &str, version: Option<u64>) -> Result<HandleId, Status> {
        let entry = self.find(name)?;
        if let Some(version) = version
            && !entry.versions().contains(&version)
        {
            return Err(status::no_such_version(name, version, &entry.versions()));
        }
        let mut state = self.inner.lock();
        let opened = Some(Opened { entry, version });
        if let Some(slot) = state.free.pop() {
            let index = slot as usize;
            state.handles[index].opened = opened;
            return Ok(HandleId { slot, generation: state.handles[index].generation });
        }
        if state.handles.len() >= limits::SESSION_HANDLES_MAX {
            return Err(status::too_many_handles());
        }
        let slot = u32::try_from(state.handles.len()).expect("the limit of handles is far below u32::MAX");
        state.handles.push(Slot { generation: 0, opened });
        Ok(HandleId { slot, generation: 0 })
    }

    /// Closes a handle. Jobs that it admitted go on.
    pub fn close(&self, handle: HandleId) -> Result<(), Status> {
        let mut state = self.inner.lock();
        if state.get(handle).is_none() {
            return Err(status::no_such_handle());
        }
        let slot = &mut state.handles[handle.slot as usize];
        slot.opened = None;
        // A slot whose generations are used up is retired, because a stale handle must never come to life.
        if let Some(next) = slot.generation.checked_add(1) {
            slot.generation = next;
            state.free.push(handle.slot);
        }
        Ok(())
    }

    /// The version that a request on this handle would be bound to now.
    pub fn bound_version(&self, handle: HandleId) -> Result<Arc<LoadedVersion>, Status> {
        let opened = self.opened(handle)?;
        opened.entry.bind(opened.version).map_err(|error| status::of_bind(opened.entry.name(), &error))
    }

    /// What happened to requests to a version until now, its tenant's own or everybody's. Who may see everybody's is the
    /// caller's to decide.
    #[must_use]
    pub fn stats(&self, version: &LoadedVersion, whose: Whose) -> ModelStats {
        match whose {
            Whose::Own => version.stats.own(self.inner.tenant.account()),
            Whose::Everybody => version.stats.everybody(),
        }
    }

    fn opened(&self, handle: HandleId) -> Result<Opened, Status> {
        self.inner.lock().get(handle).cloned().ok_or_else(status::no_such_handle)
    }

    /// Submits a request and returns at once. `sink` gets exactly one reply, possibly before this returns.
    pub fn submit(&self, request: Request, sink: Box<dyn ReplySink>) -> Ticket {
        let (ticket, here) = self.submit_offering(request, sink, Offer::Nothing);
        debug_assert!(here.is_none(), "nothing was offered");
        ticket
    }

    /// [`Session::submit`], from a thread that offers to run jobs itself. If the scheduler accepts, the job comes
    /// back, and is to be run at once.
    pub fn submit_offering(
        &self,
        request: Request,
        sink: Box<dyn ReplySink>,
        offer: Offer,
    ) -> (Ticket, Option<Here>) {
        let engine = &self.inner.engine;
        let job = engine.next_job();
        let cancel = CancelFlag::new();
        let ticket = Ticket { job, cancel: cancel.clone(), engine: engine.clone() };
        let (in_flight, opened) = self.begin(job, &cancel, request.handle);
        let tenant = self.inner.tenant.clone();
        let obligation = Obligation::new(job, tenant, cancel, sink, in_flight);
        let here = match opened {
            Ok(opened) => engine.submit(opened, request, obligation, offer),
            Err(status) => {
                obligation.refuse(status);
                None
            }
        };
        (ticket, here)
    }

    /// Runs a request and waits for the reply. For in-process callers, never for an async task: a short
    /// job may run on this very thread, if the scheduler says so.
    #[must_use]
    pub fn call(&self, request: Request) -> Reply {
        let (send, receive) = mpsc::sync_channel(1);
        let sink = move |reply| {
            // The receiver outlives the call, below.
            let _ = send.send(reply);
        };
        let (_answered_by_the_sink, here) = self.submit_offering(request, Box::new(sink), Offer::Short);
        if let Some(here) = here {
            here.run();
        }
        receive.recv().expect("every submitted request is answered")
    }

    /// Enters the job in the session's list and looks the handle up, under one lock.
    fn begin(&self, job: JobId, cancel: &CancelFlag, handle: HandleId) -> (InFlight, Result<Opened, Status>) {
        let mut state = self.inner.lock();
        if state.in_flight.len() >= limits::SESSION_JOBS_MAX {
            return (InFlight::none(), Err(status::too_many_jobs()));
        }
        let Some(opened) = state.get(handle).cloned() else {
            return (InFlight::none(), Err(status::no_such_handle()));
        };
        state.in_flight.insert(job, cancel.clone());
        (InFlight(Some((self.inner.clone(), job))), Ok(opened))
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let in_flight = {
            let mut state = self.inner.lock();
            state.handles.clear();
            state.free.clear();
            std::mem::take(&mut state.in_flight)
        };
        for (job, cancel) in in_flight {
            self.inner.engine.cancel(job, &cancel);
        }
        self.inner.tenant.sessions.decrement();
        self.inner.engine.session_closed();
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Session({}, tenant {})", self.inner.id.0, self.inner.tenant.id)
    }
}

/// What a tenant is charged for a region; given back when dropped.
#[derive(Debug)]
pub struct RegionCharge {
    _held: Reservation,
}

/// Takes a job off its session's list when dropped.
pub(crate) struct InFlight(Option<(Arc<SessionInner>, JobId)>);

impl InFlight {
    /// For a job that no session lists.
    pub(crate) fn none() -> InFlight {
        InFlight(None)
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        if let Some((session, job)) = &self.0 {
            session.lock().in_flight.remove(job);
        }
    }
}

/// A request that was submitted. Dropping the ticket changes nothing; see [`Ticket::cancel_on_drop`].
#[must_use]
pub struct Ticket {
    job: JobId,
    cancel: CancelFlag,
    engine: Arc<EngineInner>,
}

impl Ticket {
    /// Which job this is.
    #[must_use]
    pub fn job(&self) -> JobId {
        self.job
    }

    /// Says that nobody wants the answer any more. A job that waits is answered `Cancelled` at
    /// once; one that runs ends when its operation looks at the flag, or by itself.
    pub fn cancel(&self) {
        self.engine.cancel(self.job, &self.cancel);
    }

    /// A guard that cancels the job when it is dropped, for callers that may go away.
    #[must_use]
    pub fn cancel_on_drop(self) -> CancelOnDrop {
        CancelOnDrop(self)
    }
}

impl fmt::Debug for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Ticket({})", self.job)
    }
}

/// Cancels a job when dropped. Cancelling one that has ended does nothing.
#[derive(Debug)]
pub struct CancelOnDrop(Ticket);

impl CancelOnDrop {
    /// Which job this is.
    #[must_use]
    pub fn job(&self) -> JobId {
        self.0.job
    }
}

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.cancel();
    }
}
