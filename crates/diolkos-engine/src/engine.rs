// SPDX-License-Identifier: Apache-2.0
//! The waist: owns the store, the devices and the tenants, and takes every request in.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, PoisonError, RwLock, Weak};
use std::time::{Duration, Instant};

use diolkos_backend::CancelFlag;
use diolkos_types::{JobId, SessionId, Status, TenantId};

use crate::account::Seats;
use crate::admission;
use crate::control::{Control, ControlReply, ControlRequest, Parked, ParkingPlace};
use crate::cpus::CpuSet;
use crate::device::{Device, DeviceConfig, DeviceSnapshot, Here, Offer};
use crate::explain::{Explained, Past};
use crate::job::{Job, Obligation, RunTogether};
use crate::lease::Policy;
use crate::limits;
use crate::memory::Memory;
use crate::request::Request;
use crate::sched::TenantKey;
use crate::session::{Opened, Session};
use crate::status;
use crate::store::{BindError, LoadedVersion, Store};
use crate::tenant::{Refusals, Tenant, TenantSnapshot};
use crate::timer::Timer;

/// How to make an engine.
#[derive(Clone, Debug)]
pub struct EngineConfig {
    /// Devices; an operation runs on the first one that names its backend, or else on the first one.
    pub devices: Vec<DeviceConfig>,
    /// Memory that all requests together may need, in bytes.
    pub requests_memory_max: u64,
    /// Memory that one request may need, in bytes.
    pub request_memory_max: u64,
    /// Whether requests may share runs where that was measured to pay.
    pub batching: bool,
    /// What a tenant is that [`Engine::set_policy`] never named, or [`Engine::forget`] forgot.
    pub strangers: Strangers,
}

/// What a tenant is that nobody named.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strangers {
    /// One that may have everything: whoever opens sessions has the engine in its own process, and names whom it likes.
    Welcome,
    /// Nobody: a session is refused.
    Refused,
}

impl EngineConfig {
    /// One device named `cpu` with this many slots, for all backends.
    #[must_use]
    pub fn cpu(slots: usize) -> EngineConfig {
        EngineConfig {
            devices: vec![DeviceConfig::cpu(slots)],
            requests_memory_max: limits::REQUEST_MEMORY_MAX,
            request_memory_max: limits::ONE_REQUEST_MEMORY_MAX,
            batching: true,
            strangers: Strangers::Welcome,
        }
    }
}

/// Why an engine did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// There must be at least one device, and not too many.
    #[error("{count} devices are configured; between 1 and {max} are possible", max = limits::DEVICES_MAX)]
    Devices {
        /// How many were given.
        count: usize,
    },
    /// Each pool of a device must have at least one slot, and all together not too many.
    #[error("device `{name}` has {slots} slots; between 1 for each pool and {max} are possible", max = limits::DEVICE_SLOTS_MAX)]
    Slots {
        /// Which device.
        name: String,
        /// How many were given.
        slots: usize,
    },
    /// There must be at least one pool, and not too many, each with another name.
    #[error("device `{name}` has {count} pools; between 1 and {max} are possible, each with another name", max = limits::POOLS_MAX)]
    Pools {
        /// Which device.
        name: String,
        /// How many were given.
        count: usize,
    },
    /// The operating system lets no thread run there.
    #[error("pinning the threads of pool `{pool}` to the CPUs {cpus}; this process may use {may}")]
    Pin {
        /// Which pool.
        pool: String,
        /// Where its threads should run.
        cpus: CpuSet,
        /// Where they may run.
        may: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// The operating system gave no thread.
    #[error("starting a thread for {what}")]
    Thread {
        /// What the thread was for.
        what: String,
        /// What the system said.
        source: std::io::Error,
    },
}

/// The engine. Cheap to clone; stops when the last clone and the last session are gone.
#[derive(Clone)]
pub struct Engine {
    inner: Arc<EngineInner>,
}

pub(crate) struct EngineInner {
    pub(crate) store: Store,
    devices: Vec<Device>,
    device_of_backend: HashMap<&'static str, usize>,
    timer: Timer,
    pub(crate) control: Control,
    memory: Arc<Memory>,
    batching: bool,
    refusals: Arc<OnceLock<Refusals>>,
    tenants: RwLock<HashMap<TenantId, Arc<Tenant>>>,
    strangers: Strangers,
    seats: Arc<Seats>,
    next_tenant: AtomicU64,
    next_job: AtomicU64,
    next_session: AtomicU64,
    sessions: AtomicU64,
    draining: AtomicBool,
}

impl Engine {
    /// Starts the threads of an engine.
    pub fn start(config: &EngineConfig, store: Store) -> Result<Engine, StartError> {
        check(config)?;
        let weak: Arc<OnceLock<Weak<EngineInner>>> = Arc::default();
        let for_timer = weak.clone();
        let wake = move |index: usize| {
            if let Some(engine) = for_timer.get().and_then(Weak::upgrade) {
                // The alarm after those of the devices is the control device's.
                match engine.devices.get(index) {
                    Some(device) => device.tick(),
                    None => engine.control.tick(),
                }
            }
        };
        let (timer, mut alarms) = Timer::start(config.devices.len() + 1, wake)
            .map_err(|source| StartError::Thread { what: "the timer".into(), source })?;
        let control_alarm = alarms.pop().expect("there is one more alarm than devices");
        let started = config.devices.iter().zip(alarms).map(|(device, alarm)| Device::start(device, alarm));
        let devices = started.collect::<Result<Vec<Device>, StartError>>()?;
        let control = Control::start(control_alarm)
            .map_err(|source| StartError::Thread { what: "control".into(), source })?;
        let inner = Arc::new(EngineInner {
            store,
            device_of_backend: devices_by_backend(config),
            devices,
            timer,
            control,
            memory: Memory::new(config.requests_memory_max, config.request_memory_max),
            batching: config.batching,
            refusals: Arc::default(),
            tenants: RwLock::default(),
            strangers: config.strangers,
            seats: Arc::default(),
            next_tenant: AtomicU64::new(0),
            next_job: AtomicU64::new(1),
            next_session: AtomicU64::new(1),
            sessions: AtomicU64::new(0),
            draining: AtomicBool::new(false),
        });
        inner.control.attach(Arc::downgrade(&inner));
        weak.set(Arc::downgrade(&inner)).expect("set once, here");
        Ok(Engine { inner })
    }

    /// Opens a session for a tenant. What one is that nobody named, [`EngineConfig::strangers`] says.
    pub fn open_session(&self, tenant: &TenantId) -> Result<Session, Status> {
        let inner = &self.inner;
        if inner.sessions.fetch_add(1, Ordering::Relaxed) >= limits::SESSIONS_MAX as u64 {
            inner.session_closed();
            return Err(status::too_many_sessions());
        }
        let Some(tenant) = inner.served(tenant) else {
            inner.session_closed();
            return Err(status::tenant_is_gone());
        };
        let sessions_max = tenant.policy().sessions_max;
        if !tenant.sessions.increment_below(sessions_max) {
            inner.session_closed();
            return Err(status::too_many_sessions_of_tenant(sessions_max));
        }
        let id = SessionId(inner.next_session.fetch_add(1, Ordering::Relaxed));
        Ok(Session::open_in(inner.clone(), id, tenant))
    }

    /// Has `watch` told whenever a request ends because its tenant ran into a limit or lacks a permission. It is called on
    /// the threads that answer, so it must be quick. The first one stays.
    pub fn watch_refusals(&self, watch: impl Fn(&TenantId, &Status) + Send + Sync + 'static) {
        // One that comes later is not told.
        let _ = self.inner.refusals.set(Box::new(watch));
    }

    /// Says what a tenant may have from now on. What it has open or in flight stays, and models that it may not use any
    /// more are gone for it.
    pub fn set_policy(&self, tenant: &TenantId, policy: Policy) {
        self.inner.tenant(tenant, Policy::nothing).set_policy(policy);
    }

    /// A tenant is no longer served: its sessions may do nothing from now on, jobs that run end, and once the last session
    /// is gone so is everything about it. One of the same name later is another one.
    pub fn forget(&self, tenant: &TenantId) {
        let gone = self.inner.tenants.write().unwrap_or_else(PoisonError::into_inner).remove(tenant);
        if let Some(gone) = gone {
            gone.set_policy(Policy::nothing());
        }
    }

    /// The model store, for looking things up. Changes go through [`Engine::control`].
    #[must_use]
    pub fn store(&self) -> &Store {
        &self.inner.store
    }

    /// Queues a change of the store. `done` is called once, from the control thread or, when the queue is
    /// full, from this one.
    pub fn control(
        &self,
        request: ControlRequest,
        done: impl FnOnce(Result<ControlReply, Status>) + Send + 'static,
    ) {
        self.inner.control.submit(request, Box::new(done));
    }

    /// [`Engine::control`], waiting for the end. Not for async tasks.
    pub fn control_and_wait(&self, request: ControlRequest) -> Result<ControlReply, Status> {
        let (send, receive) = std::sync::mpsc::sync_channel(1);
        self.control(request, move |result| {
            // The receiver outlives the call, below.
            let _ = send.send(result);
        });
        receive.recv().expect("every control request is answered")
    }

    /// The devices at this moment.
    #[must_use]
    pub fn devices(&self) -> Vec<DeviceSnapshot> {
        self.inner.devices.iter().map(Device::snapshot).collect()
    }

    /// The tenants at this moment, by name.
    #[must_use]
    pub fn tenants(&self) -> Vec<TenantSnapshot> {
        let tenants = self.inner.tenants.read().unwrap_or_else(PoisonError::into_inner);
        let mut snapshots: Vec<_> = tenants.values().map(|tenant| tenant.snapshot()).collect();
        snapshots.sort_by(|a, b| a.id.cmp(&b.id));
        snapshots
    }

    /// The last jobs of a tenant that ended, the oldest first; `None` if there is no such tenant.
    #[must_use]
    pub fn recent_jobs(&self, tenant: &TenantId) -> Option<Vec<Past>> {
        self.inner.known(tenant).map(|tenant| tenant.history.all())
    }

    /// Memory reserved for requests in flight, in bytes.
    #[must_use]
    pub fn request_memory_used(&self) -> u64 {
        self.inner.memory.used()
    }

    /// Open sessions.
    #[must_use]
    pub fn sessions(&self) -> u64 {
        self.inner.sessions.load(Ordering::Relaxed)
    }

    /// From now on every new request is answered `Unavailable`.
    pub fn begin_drain(&self) {
        self.inner.draining.store(true, Ordering::Release);
    }

    /// Whether [`Engine::begin_drain`] was called.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.inner.draining.load(Ordering::Acquire)
    }

    /// Jobs that wait or run.
    #[must_use]
    pub fn jobs(&self) -> usize {
        self.devices().iter().map(|device| device.running + device.waiting).sum()
    }

    /// Waits until no job waits or runs, `limit` at most. Returns how many are left.
    #[must_use]
    pub fn wait_idle(&self, limit: Duration) -> usize {
        let until = Instant::now() + limit;
        // Draining happens once in a daemon's life, so looking now and then beats a condition variable on
        // the path of every job.
        loop {
            let left = self.jobs();
            if left == 0 || Instant::now() >= until {
                return left;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Engine({} devices, {} sessions)", self.inner.devices.len(), self.sessions())
    }
}

impl EngineInner {
    pub(crate) fn next_job(&self) -> JobId {
        JobId(self.next_job.fetch_add(1, Ordering::Relaxed))
    }

    pub(crate) fn session_closed(&self) {
        self.sessions.fetch_sub(1, Ordering::Relaxed);
    }

    pub(crate) fn known(&self, id: &TenantId) -> Option<Arc<Tenant>> {
        self.tenants.read().unwrap_or_else(PoisonError::into_inner).get(id).cloned()
    }

    /// A tenant that may have sessions.
    fn served(&self, id: &TenantId) -> Option<Arc<Tenant>> {
        match self.strangers {
            Strangers::Welcome => Some(self.tenant(id, Policy::everything)),
            Strangers::Refused => self.known(id),
        }
    }

    fn tenant(&self, id: &TenantId, policy: impl Fn() -> Policy) -> Arc<Tenant> {
        self.known(id).unwrap_or_else(|| {
            let mut tenants = self.tenants.write().unwrap_or_else(PoisonError::into_inner);
            let new = || {
                let key = TenantKey(self.next_tenant.fetch_add(1, Ordering::Relaxed));
                Arc::new(Tenant::new(
                    id.clone(),
                    self.seats.take(key),
                    policy(),
                    &self.memory,
                    &self.refusals,
                ))
            };
            tenants.entry(id.clone()).or_insert_with(new).clone()
        })
    }

    /// Takes a request on its way: bind, admit, queue. A model that is not loaded yet is loaded first.
    pub(crate) fn submit(
        &self,
        opened: Opened,
        mut request: Request,
        obligation: Obligation,
        offer: Offer,
    ) -> Option<Here> {
        if self.draining.load(Ordering::Acquire) {
            obligation.refuse(status::shutting_down());
            return None;
        }
        let policy = obligation.tenant.policy();
        if let Err(wait) = obligation.tenant.meter(&policy, obligation.submitted) {
            obligation.refuse(status::over_rate(wait));
            return None;
        }
        if let Some(limit) = policy.deadline_max.and_then(|max| obligation.submitted.checked_add(max)) {
            request.deadline = Some(request.deadline.map_or(limit, |deadline| deadline.min(limit)));
        }
        match opened.entry.bind(opened.version) {
            Ok(version) => {
                let queued = obligation.submitted;
                return self.admit(&policy, &opened, version, request, obligation, queued, offer);
            }
            Err(BindError::Cold) => self.park(opened, request, obligation),
            Err(error) => obligation.refuse(status::of_bind(opened.entry.name(), &error)),
        }
        None
    }

    fn park(&self, opened: Opened, request: Request, obligation: Obligation) {
        let payload = admission::payload_bytes(request.inputs.iter().map(|input| &input.tensor));
        let Some(place) = ParkingPlace::take(&obligation.tenant) else {
            obligation.refuse(status::too_many_parked(opened.entry.name()));
            return;
        };
        let kept = payload.saturating_add(request.params.bytes() as u64);
        match admission::reserve(&obligation.tenant.memory, kept) {
            Ok(memory) => self.control.park(Parked { opened, request, obligation, memory, place }),
            Err(error) => obligation.refuse(status::of_admission(&error)),
        }
    }

    /// Takes a request that waited for its model. Loading had its chance, so a model that is still cold is
    /// an error now: the one that loading it ended with.
    pub(crate) fn submit_parked(&self, parked: Parked, failure: Option<&Status>) {
        let Parked { opened, request, obligation, memory, place } = parked;
        // Admission reserves anew, and more.
        drop((memory, place));
        match (opened.entry.bind(opened.version), failure) {
            (Ok(version), _) => {
                // Asked anew: it may have changed while the model was loaded.
                let policy = obligation.tenant.policy();
                let now = Instant::now();
                let here = self.admit(&policy, &opened, version, request, obligation, now, Offer::Nothing);
                debug_assert!(here.is_none(), "nothing was offered");
            }
            (Err(BindError::Cold), Some(failure)) => obligation.refuse(failure.clone()),
            (Err(error), _) => obligation.refuse(status::of_bind(opened.entry.name(), &error)),
        }
    }

    #[allow(clippy::too_many_arguments, reason = "they are what a request is, on its way")]
    fn admit(
        &self,
        policy: &Policy,
        opened: &Opened,
        version: Arc<LoadedVersion>,
        request: Request,
        obligation: Obligation,
        queued: Instant,
        offer: Offer,
    ) -> Option<Here> {
        let device = &self.devices[self.device_of_backend.get(version.backend).copied().unwrap_or(0)];
        // Looked up for each request: the handle may be older than the policy.
        let Some(lease) = policy.lease_on(device.name()).filter(|lease| lease.allows(&opened.entry)) else {
            obligation.refuse(status::no_such_model(opened.entry.name()));
            return None;
        };
        match admission::admit(request, version, obligation.cancel.clone(), &obligation.tenant.memory, lease)
        {
            Ok(admitted) => {
                let together = match (self.batching, policy.batch_with_others) {
                    (false, _) => RunTogether::Never,
                    (true, false) => RunTogether::Own,
                    (true, true) => RunTogether::WithOthers,
                };
                let pool = device.pool(lease.pool.as_deref());
                device.submit(Job::new(admitted, obligation, queued, together), pool, offer)
            }
            Err((error, version)) => {
                let status = status::of_admission(&error);
                version
                    .stats
                    .of(obligation.tenant.account())
                    .failed(status.code(), obligation.submitted.elapsed());
                obligation.refuse(status);
                None
            }
        }
    }

    /// What becomes of a job of this tenant, if any device has it.
    pub(crate) fn explain(&self, job: JobId, tenant: TenantKey) -> Option<Explained> {
        self.devices.iter().find_map(|device| device.explain(job, tenant))
    }

    pub(crate) fn cancel(&self, job: JobId, flag: &CancelFlag) {
        flag.cancel();
        self.control.cancel(job);
        for device in &self.devices {
            device.cancel(job);
        }
    }
}

impl Drop for EngineInner {
    fn drop(&mut self) {
        // Control first: it may still submit parked requests to the devices.
        self.control.stop();
        self.timer.stop();
        for device in &self.devices {
            device.stop();
        }
    }
}

fn check(config: &EngineConfig) -> Result<(), StartError> {
    let count = config.devices.len();
    if !(1..=limits::DEVICES_MAX).contains(&count) {
        return Err(StartError::Devices { count });
    }
    for device in &config.devices {
        let (name, count) = (device.name.clone(), device.pools.len());
        let names: HashSet<&str> = device.pools.iter().map(|pool| pool.name.as_str()).collect();
        if !(1..=limits::POOLS_MAX).contains(&count) || names.len() < count {
            return Err(StartError::Pools { name, count });
        }
        let slots = device.pools.iter().map(|pool| pool.slots).fold(0, usize::saturating_add);
        if slots > limits::DEVICE_SLOTS_MAX || device.pools.iter().any(|pool| pool.slots == 0) {
            return Err(StartError::Slots { name, slots });
        }
    }
    Ok(())
}

fn devices_by_backend(config: &EngineConfig) -> HashMap<&'static str, usize> {
    let mut devices = HashMap::new();
    for (index, device) in config.devices.iter().enumerate() {
        for backend in &device.backends {
            devices.entry(*backend).or_insert(index);
        }
    }
    devices
}
