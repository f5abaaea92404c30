// SPDX-License-Identifier: Apache-2.0
//! The control device: one thread that loads and unloads models, so that no request path ever does.
//!
//! Requests for a model that is not loaded yet park here, and so does whoever only wants to know what the
//! model is. The first of them queues one load; when that ended, all of them go on (or are told why they can't).

use std::collections::{HashMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::thread::JoinHandle;
use std::time::Instant;

use diolkos_types::{JobId, Status, TenantId};

use crate::engine::EngineInner;
use crate::job::{Obligation, panic_text};
use crate::limits;
use crate::memory::Reservation;
use crate::request::Request;
use crate::session::Opened;
use crate::status;
use crate::store::{Change, ClientFiles, LoadReport, StoreError};
use crate::tenant::Tenant;
use crate::timer::Alarm;

/// A change of the store.
#[derive(Debug)]
pub enum ControlRequest {
    /// Load a model that the operator installed, or load it anew if its files changed.
    Load {
        /// Which.
        name: String,
    },
    /// The same for a tenant, whose share of memory it takes.
    LoadFor {
        /// Which.
        name: String,
        /// Whose.
        tenant: TenantId,
    },
    /// Load a model from contents that a client sent.
    LoadFiles {
        /// Under which name.
        name: String,
        /// What it sent.
        files: ClientFiles,
    },
    /// Unload a model.
    Unload {
        /// Which.
        name: String,
    },
    /// Forget a model that a client loaded, and let the space it takes on disk be reclaimed.
    Remove {
        /// Which.
        name: String,
    },
    /// Look at the repositories again and load what changed.
    Rescan,
}

/// How a change of the store ended.
#[derive(Debug)]
pub enum ControlReply {
    /// Loaded.
    Loaded(LoadReport),
    /// Unloaded; jobs that were admitted before go on.
    Unloaded,
    /// Forgotten.
    Removed,
    /// What changed on disk, and for each change whether it could be taken up.
    Rescanned(Vec<(Change, Result<(), Status>)>),
}

type Done = Box<dyn FnOnce(Result<ControlReply, Status>) + Send>;

type Warmed = Box<dyn FnOnce(Result<(), Status>) + Send>;

/// A request that waits for its model to be loaded.
pub(crate) struct Parked {
    pub(crate) opened: Opened,
    pub(crate) request: Request,
    pub(crate) obligation: Obligation,
    /// Pays for the payload while it waits.
    pub(crate) memory: Reservation,
    /// Its tenant's.
    pub(crate) place: ParkingPlace,
}

/// One of the places that a tenant has for requests that wait for a model; given back when dropped.
pub(crate) struct ParkingPlace(Arc<Tenant>);

impl ParkingPlace {
    /// One of them, if the tenant has any left.
    pub(crate) fn take(tenant: &Arc<Tenant>) -> Option<ParkingPlace> {
        tenant.parked.increment_below(limits::TENANT_PARKED_MAX as u64).then(|| ParkingPlace(tenant.clone()))
    }
}

impl Drop for ParkingPlace {
    fn drop(&mut self) {
        self.0.parked.decrement();
    }
}

/// Who waits for a model to be loaded.
enum Waiting {
    /// A request that runs on it.
    Request(Box<Parked>),
    /// Somebody who wants to be told.
    Call(Warmed, Arc<Tenant>),
}

impl Waiting {
    fn request(&self) -> Option<&Parked> {
        match self {
            Waiting::Request(parked) => Some(parked),
            Waiting::Call(..) => None,
        }
    }

    fn tenant(&self) -> &Arc<Tenant> {
        match self {
            Waiting::Request(parked) => &parked.obligation.tenant,
            Waiting::Call(_, tenant) => tenant,
        }
    }

    fn refuse(self, status: Status) {
        match self {
            Waiting::Request(parked) => {
                let Parked { request, obligation, memory, place, .. } = *parked;
                // Given back before the answer is out: whoever gets it finds it so.
                drop((request, memory, place));
                obligation.refuse(status);
            }
            Waiting::Call(warmed, _) => warmed(Err(status)),
        }
    }
}

enum Task {
    Change(ControlRequest, Done),
    /// Load a model that somebody asked for.
    Warm(String),
}

/// The thread and its queue.
pub(crate) struct Control {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

struct Shared {
    /// Set once, right after the engine exists.
    engine: OnceLock<Weak<EngineInner>>,
    state: Mutex<State>,
    changed: Condvar,
    /// Goes off at the first deadline of a parked request.
    alarm: Alarm,
}

#[derive(Default)]
struct State {
    queue: VecDeque<Task>,
    parked: HashMap<String, Vec<Waiting>>,
    parked_count: usize,
    stopping: bool,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing below panics while it holds the lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Takes out the parked requests that `which` picks. A model that nobody waits for any more stays in
    /// the table, because its load is queued.
    fn take_parked(&mut self, which: impl Fn(&Parked) -> bool) -> Vec<Waiting> {
        let mut taken = Vec::new();
        for waiting in self.parked.values_mut() {
            taken.extend(waiting.extract_if(.., |waiting| waiting.request().is_some_and(&which)));
        }
        self.parked_count -= taken.len();
        taken
    }

    fn first_deadline(&self) -> Option<Instant> {
        let requests = self.parked.values().flatten().filter_map(Waiting::request);
        requests.filter_map(|parked| parked.request.deadline).min()
    }
}

impl Control {
    pub(crate) fn start(alarm: Alarm) -> std::io::Result<Control> {
        let (state, changed) = (Mutex::default(), Condvar::new());
        let shared = Arc::new(Shared { engine: OnceLock::new(), state, changed, alarm });
        let for_thread = shared.clone();
        let thread =
            std::thread::Builder::new().name("dk-control".into()).spawn(move || serve(&for_thread))?;
        Ok(Control { shared, thread: Mutex::new(Some(thread)) })
    }

    pub(crate) fn attach(&self, engine: Weak<EngineInner>) {
        self.shared.engine.set(engine).expect("an engine attaches itself once");
    }

    pub(crate) fn submit(&self, request: ControlRequest, done: Done) {
        let mut state = self.shared.lock();
        if state.stopping {
            drop(state);
            return done(Err(status::shutting_down()));
        }
        if state.queue.len() >= limits::CONTROL_QUEUE_MAX {
            drop(state);
            return done(Err(status::control_queue_full()));
        }
        state.queue.push_back(Task::Change(request, done));
        drop(state);
        self.shared.changed.notify_one();
    }

    /// Holds a request until its model is loaded.
    pub(crate) fn park(&self, parked: Parked) {
        let name = parked.opened.entry.name().to_owned();
        self.wait_for(name, Waiting::Request(Box::new(parked)));
    }

    /// Tells when a model is loaded, or that it can't be.
    pub(crate) fn warm(&self, name: String, tenant: Arc<Tenant>, warmed: Warmed) {
        self.wait_for(name, Waiting::Call(warmed, tenant));
    }

    fn wait_for(&self, name: String, waiting: Waiting) {
        let mut state = self.shared.lock();
        if state.stopping {
            drop(state);
            return waiting.refuse(status::shutting_down());
        }
        let first = !state.parked.contains_key(&name);
        if state.parked_count >= limits::PARKED_MAX
            || (first && state.queue.len() >= limits::CONTROL_QUEUE_MAX)
        {
            drop(state);
            return waiting.refuse(status::too_many_parked(&name));
        }
        if first {
            state.queue.push_back(Task::Warm(name.clone()));
        }
        state.parked_count += 1;
        state.parked.entry(name).or_default().push(waiting);
        if let Some(at) = state.first_deadline() {
            self.shared.alarm.set(at);
        }
        drop(state);
        self.shared.changed.notify_one();
    }

    /// Answers a request that is parked and that nobody wants any more. Others are left alone.
    pub(crate) fn cancel(&self, job: JobId) {
        let mut state = self.shared.lock();
        if state.parked_count == 0 {
            return;
        }
        let cancelled = state.take_parked(|parked| parked.obligation.job == job);
        drop(state);
        for parked in cancelled {
            parked.refuse(status::cancelled_while_waiting());
        }
    }

    /// Answers the parked requests whose deadline passed.
    pub(crate) fn tick(&self) {
        let now = Instant::now();
        let mut state = self.shared.lock();
        let late = state.take_parked(|parked| parked.request.deadline.is_some_and(|at| at <= now));
        if let Some(at) = state.first_deadline() {
            self.shared.alarm.set(at);
        }
        drop(state);
        for parked in late {
            parked.refuse(status::late_while_waiting());
        }
    }

    pub(crate) fn stop(&self) {
        self.shared.lock().stopping = true;
        self.shared.changed.notify_all();
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread
            && thread.thread().id() != std::thread::current().id()
            && thread.join().is_err()
        {
            tracing::error!("the control thread panicked");
        }
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        self.stop();
    }
}

fn serve(shared: &Shared) {
    loop {
        let mut state = shared.lock();
        while state.queue.is_empty() && !state.stopping {
            state = shared.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        if state.stopping {
            return refuse_all(std::mem::take(&mut *state), state);
        }
        let task = state.queue.pop_front().expect("the loop above ended because there is one");
        drop(state);
        match shared.engine.get().and_then(Weak::upgrade) {
            Some(engine) => {
                // A panic costs this task: the thread goes on for the next.
                let carry_out = AssertUnwindSafe(|| carry_out(shared, &engine, task));
                if let Err(panic) = catch_unwind(carry_out) {
                    tracing::error!(reason = panic_text(&*panic), "a panic on the control thread");
                }
            }
            None => refuse(task),
        }
    }
}

fn refuse_all(rest: State, guard: MutexGuard<'_, State>) {
    let mut guard = guard;
    guard.stopping = true;
    drop(guard);
    rest.queue.into_iter().for_each(refuse);
    for waiting in rest.parked.into_values().flatten() {
        waiting.refuse(status::shutting_down());
    }
}

fn refuse(task: Task) {
    match task {
        Task::Change(_, done) => done(Err(status::shutting_down())),
        // Those who wait are in `parked`, and answered with all others there.
        Task::Warm(_) => {}
    }
}

fn carry_out(shared: &Shared, engine: &EngineInner, task: Task) {
    match task {
        Task::Change(request, done) => {
            let result = guarded(|| change(engine, request));
            done(result);
        }
        Task::Warm(name) => warm(shared, engine, name),
    }
}

/// Loads a model for those who wait for it.
fn warm(shared: &Shared, engine: &EngineInner, name: String) {
    let ended = load_on_demand(shared, engine, &name);
    let mut state = shared.lock();
    let all = state.parked.remove(&name).unwrap_or_default();
    let (answered, left): (Vec<_>, Vec<_>) = match &ended {
        OnDemand::Settled(_) => (all, Vec::new()),
        // Those who came meanwhile, or were too many, have shares of their own, which were not tried.
        OnDemand::NoRoom(told) => all.into_iter().partition(|waiting| of_share(told, waiting).is_some()),
    };
    state.parked_count -= answered.len();
    if !left.is_empty() {
        state.parked.insert(name.clone(), left);
        state.queue.push_back(Task::Warm(name.clone()));
    }
    drop(state);
    for waiting in answered {
        let failure = match &ended {
            OnDemand::Settled(loaded) => loaded.as_ref().err(),
            OnDemand::NoRoom(told) => of_share(told, &waiting),
        };
        match waiting {
            Waiting::Request(parked) => engine.submit_parked(*parked, failure),
            Waiting::Call(warmed, _) => warmed(failure.map_or(Ok(()), |failure| Err(failure.clone()))),
        }
    }
}

/// How a load on first use ended.
enum OnDemand {
    /// In the same way for everybody who waits.
    Settled(Result<LoadReport, Status>),
    /// There is no room for the model in these tenants' shares; with what each is told.
    NoRoom(Vec<(Arc<Tenant>, Status)>),
}

fn of_share<'a>(told: &'a [(Arc<Tenant>, Status)], waiting: &Waiting) -> Option<&'a Status> {
    told.iter().find(|(tenant, _)| Arc::ptr_eq(tenant, waiting.tenant())).map(|(_, status)| status)
}

/// Loads a model for one of those who wait for it: the first in whose share there is room. The others have it as well then, and a
/// failure is everybody's, unless it is about shares.
fn load_on_demand(shared: &Shared, engine: &EngineInner, name: &str) -> OnDemand {
    let mut askers: Vec<Arc<Tenant>> = Vec::new();
    for waiting in shared.lock().parked.get(name).into_iter().flatten() {
        let tenant = waiting.tenant();
        if askers.len() < limits::ASKERS_MAX && !askers.iter().any(|asker| Arc::ptr_eq(asker, tenant)) {
            askers.push(tenant.clone());
        }
    }
    let mut no_room = Vec::new();
    for asker in askers {
        let mut is_share = false;
        let loaded = guarded(|| {
            engine.store.load_for(name, Some(&asker.behalf())).map_err(|error| {
                is_share = error.is_share();
                status::of_store(&error)
            })
        });
        match loaded {
            Err(status) if is_share => no_room.push((asker, status)),
            loaded => {
                if let Err(error) = &loaded {
                    tracing::warn!(model = name, %error, "loading on first use failed");
                }
                return OnDemand::Settled(loaded);
            }
        }
    }
    // With nobody left who waits, nothing was loaded.
    OnDemand::NoRoom(no_room)
}

/// A panic while loading costs that load, and the control thread goes on.
fn guarded<T>(work: impl FnOnce() -> Result<T, Status>) -> Result<T, Status> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        let reason = panic_text(&*panic);
        tracing::error!(reason, "a control request panicked");
        Err(status::control_panicked(reason))
    })
}

fn change(engine: &EngineInner, request: ControlRequest) -> Result<ControlReply, Status> {
    let store = &engine.store;
    let of_store = |error: StoreError| status::of_store(&error);
    match request {
        ControlRequest::Load { name } => store.load(&name).map(ControlReply::Loaded).map_err(of_store),
        ControlRequest::LoadFor { name, tenant } => {
            let behalf = engine.known(&tenant).map(|tenant| tenant.behalf());
            store.load_for(&name, behalf.as_ref()).map(ControlReply::Loaded).map_err(of_store)
        }
        ControlRequest::LoadFiles { name, files } => {
            store.load_files(&name, files).map(ControlReply::Loaded).map_err(of_store)
        }
        ControlRequest::Unload { name } => {
            store.unload(&name).map(|()| ControlReply::Unloaded).map_err(of_store)
        }
        ControlRequest::Remove { name } => {
            store.remove(&name).map(|()| ControlReply::Removed).map_err(of_store)
        }
        ControlRequest::Rescan => {
            let changes = store.rescan().into_iter().map(|change| {
                let taken_up = store.take_up(&change).map_err(of_store);
                (change, taken_up)
            });
            Ok(ControlReply::Rescanned(changes.collect()))
        }
    }
}
