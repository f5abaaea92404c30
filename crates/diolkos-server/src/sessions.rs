// SPDX-License-Identifier: Apache-2.0
//! Which session serves a connection.
//!
//! Stock clients pool connections, so a session belongs to a client *process* where the transport proves
//! one (unix sockets: `SO_PEERCRED` and the process's start time, because process ids are reused), and
//! ends `linger` after the last of its connections closed. TCP proves no process: one session each.
//!
//! ```text
//! connect ──> (tenant, process) known? ──yes──> its session
//!                      │no                        │
//!                      └──> Engine::open_session ─┴──> held by connections
//! last disconnect ──linger──> nobody came back ──> dropped: cancels what waits, closes what is open
//! ```

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use diolkos_engine::Session;
use diolkos_types::{SessionId, Status, TenantId};

use crate::app::App;
use crate::listen::{Budget, Peer};
use crate::oip::offload::OwnTurn;
use crate::system_memory::{Holder, SessionMemory};

/// A client's session, and what the rim keeps for it.
#[derive(Debug)]
pub(crate) struct ClientSession {
    engine: Session,
    /// Its turn at what takes long.
    pub(crate) turn: OwnTurn,
    /// Memory for bodies that come in and go out.
    pub(crate) bodies: Arc<Budget>,
    /// Its regions of system shared memory.
    pub(crate) memory: SessionMemory,
}

impl ClientSession {
    /// Opens one for a tenant, without regions of system shared memory.
    pub(crate) fn open(app: &App, tenant: &TenantId) -> Result<Arc<ClientSession>, Status> {
        ClientSession::open_with(app, tenant, |_| SessionMemory::none())
    }

    /// Opens one for a tenant and a peer; `is_process` says whether all connections of its process share it.
    fn open_for(
        app: &App,
        tenant: &TenantId,
        peer: &Peer,
        is_process: bool,
    ) -> Result<Arc<ClientSession>, Status> {
        ClientSession::open_with(app, tenant, |budget| {
            let holder = Holder {
                tenant: tenant.clone(),
                uid: peer.uid,
                pid: peer.pid,
                is_process,
                linger: app.settings().linger.get(),
                budget,
            };
            SessionMemory::new(app.system_memory.clone(), holder)
        })
    }

    /// Opens one for a tenant with regions that are charged to its budget.
    pub(crate) fn open_with(
        app: &App,
        tenant: &TenantId,
        memory: impl FnOnce(Arc<Budget>) -> SessionMemory,
    ) -> Result<Arc<ClientSession>, Status> {
        // First, because it fails for a tenant that is gone, for whom nothing is to be kept.
        let engine = app.engine.open_session(tenant)?;
        let bodies = app.bodies_of(tenant);
        let memory = memory(bodies.clone());
        Ok(Arc::new(ClientSession { engine, turn: OwnTurn::default(), bodies, memory }))
    }
}

impl std::ops::Deref for ClientSession {
    type Target = Session;

    fn deref(&self) -> &Session {
        &self.engine
    }
}

/// What every request carries in its extensions: whose it is.
#[derive(Clone, Debug)]
pub(crate) struct ConnectionContext {
    /// The session that the connection belongs to.
    pub(crate) session: Arc<ClientSession>,
    /// What the transport proved about the other side.
    pub(crate) peer: Peer,
    /// The other side is somebody who speaks for the tenant.
    pub(crate) spoken_for: bool,
}

/// A client process; the start time tells it from a later one with the same id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Process {
    uid: u32,
    pid: i32,
    start_ticks: u64,
}

impl Process {
    fn of(peer: &Peer) -> Option<Process> {
        let (uid, pid) = (peer.uid?, peer.pid?);
        Some(Process { uid, pid, start_ticks: start_ticks(pid)? })
    }
}

/// When a process began, in clock ticks since boot: field 22 of `/proc/PID/stat` (proc_pid_stat(5)).
fn start_ticks(pid: i32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field is the command in parentheses and may hold anything, so count from its end.
    let after_command = stat.rsplit_once(") ")?.1;
    after_command.split(' ').nth(19)?.parse().ok()
}

type Key = (TenantId, Process);

/// Shared sessions by tenant and process.
#[derive(Debug, Default)]
pub(crate) struct SessionPool {
    shared: Mutex<HashMap<Key, Entry>>,
}

#[derive(Debug)]
struct Entry {
    session: Arc<ClientSession>,
    connections: usize,
    /// Counts how often the last connection closed, so that an old linger does not end a newer one early.
    closings: u64,
}

impl SessionPool {
    fn lock(&self) -> MutexGuard<'_, HashMap<Key, Entry>> {
        // Nothing below panics while it holds the lock.
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The session for a new connection of `peer`, which is `tenant`. It is given back when the lease is dropped.
    pub(crate) fn lease(
        self: &Arc<Self>,
        app: &App,
        peer: &Peer,
        tenant: &TenantId,
    ) -> Result<SessionLease, Status> {
        let Some(process) = Process::of(peer) else {
            let session = ClientSession::open_for(app, tenant, peer, false)?;
            return Ok(SessionLease { session, shared: None });
        };
        let key = (tenant.clone(), process);
        let mut shared = self.lock();
        let session = match shared.get_mut(&key) {
            Some(entry) => {
                entry.connections += 1;
                entry.session.clone()
            }
            None => {
                let session = ClientSession::open_for(app, tenant, peer, true)?;
                shared.insert(key.clone(), Entry { session: session.clone(), connections: 1, closings: 0 });
                session
            }
        };
        drop(shared);
        let linger = app.settings().linger.get();
        let shared = Some(Shared { pool: Arc::downgrade(self), key, session: session.id(), linger });
        Ok(SessionLease { session, shared })
    }

    /// Drops the sessions of a tenant that is no longer served. They end with their connections, if those still have them.
    pub(crate) fn forget(&self, tenant: &TenantId) {
        let mut shared = self.lock();
        let ended: Vec<Entry> =
            shared.extract_if(|(known, _), _| known == tenant).map(|(_, entry)| entry).collect();
        drop(shared);
        // Outside of the lock, as below.
        drop(ended);
    }

    /// Takes one connection off; if it was the last one, says which closing this was.
    fn give_back(&self, key: &Key, session: SessionId) -> Option<u64> {
        let mut shared = self.lock();
        let entry = shared.get_mut(key).filter(|entry| entry.session.id() == session)?;
        entry.connections -= 1;
        if entry.connections > 0 {
            return None;
        }
        entry.closings += 1;
        Some(entry.closings)
    }

    /// Whether no connection has left this session yet.
    fn is_fresh(&self, key: &Key) -> bool {
        self.lock().get(key).is_some_and(|entry| entry.closings == 0)
    }

    /// Ends a session that nobody came back to since its closing number `closing`.
    fn end(&self, key: &Key, session: SessionId, closing: u64) {
        let mut shared = self.lock();
        let is_it = |entry: &&Entry| {
            entry.session.id() == session && entry.connections == 0 && entry.closings == closing
        };
        let ended = shared.get(key).filter(is_it).is_some().then(|| shared.remove(key));
        drop(shared);
        // Outside of the lock: dropping a session cancels what it has in flight.
        drop(ended);
    }

    /// Sessions that belong to a process, lingering ones included.
    #[cfg(test)]
    fn len(&self) -> usize {
        self.lock().len()
    }
}

/// A connection's hold on its session.
#[derive(Debug)]
pub(crate) struct SessionLease {
    session: Arc<ClientSession>,
    shared: Option<Shared>,
}

#[derive(Debug)]
struct Shared {
    pool: Weak<SessionPool>,
    key: Key,
    /// Which session: a tenant may have gone and come back under the same name.
    session: SessionId,
    linger: Duration,
}

impl SessionLease {
    /// The session.
    pub(crate) fn session(&self) -> &Arc<ClientSession> {
        &self.session
    }

    /// Gives it back unused: nobody will come back to a session that no connection ever used.
    pub(crate) fn discard(mut self) {
        if let Some(shared) = &mut self.shared
            && shared.pool.upgrade().is_some_and(|pool| pool.is_fresh(&shared.key))
        {
            shared.linger = Duration::ZERO;
        }
    }
}

impl Drop for SessionLease {
    fn drop(&mut self) {
        let Some(Shared { pool, key, session, linger }) = self.shared.take() else { return };
        let Some(pool) = pool.upgrade() else { return };
        let Some(closing) = pool.give_back(&key, session) else { return };
        // Without a runtime there is no timer and nobody left who could come back.
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) if !linger.is_zero() => {
                // Weak: a session that lingers must not hold the daemon's end up.
                let pool = Arc::downgrade(&pool);
                runtime.spawn(async move {
                    tokio::time::sleep(linger).await;
                    if let Some(pool) = pool.upgrade() {
                        pool.end(&key, session, closing);
                    }
                });
            }
            _ => pool.end(&key, session, closing),
        }
    }
}

#[cfg(test)]
mod tests {
    use diolkos_engine::store::{NoRehearsal, Store, StoreConfig};
    use diolkos_engine::{Engine, EngineConfig};

    use super::*;
    use crate::audit::Audit;
    use crate::settings::{Interval, Settings};

    fn app(linger: Interval) -> App {
        let store = Store::new(StoreConfig::default(), Vec::new(), Box::new(NoRehearsal)).unwrap();
        let engine = Engine::start(&EngineConfig::cpu(1), store).unwrap();
        App::new(engine, Settings { linger, ..Settings::default() }, Audit::open(None).unwrap())
    }

    /// This very process.
    fn us() -> Peer {
        let pid = rustix::process::getpid().as_raw_nonzero().get();
        Peer::unix(rustix::process::getuid().as_raw(), Some(pid))
    }

    #[test]
    fn a_process_has_a_start_time_and_a_dead_one_has_none() {
        let pid = us().pid.unwrap();
        assert!(start_ticks(pid).unwrap() > 0);
        assert_eq!(start_ticks(i32::MAX), None);
    }

    #[test]
    fn connections_of_a_process_share_and_others_do_not() {
        let app = app(Interval::seconds(0));
        let pool = Arc::new(SessionPool::default());
        let lease = |peer| pool.lease(&app, &peer, &TenantId::default()).unwrap();
        let (first, second) = (lease(us()), lease(us()));
        assert_eq!(first.session().id(), second.session().id());
        let (third, fourth) = (lease(Peer::tcp()), lease(Peer::tcp()));
        assert_ne!(third.session().id(), fourth.session().id());
        assert_ne!(third.session().id(), first.session().id());
        // A process that can't be looked at proves nothing.
        let unseen = lease(Peer::unix(us().uid.unwrap(), Some(i32::MAX)));
        assert_ne!(unseen.session().id(), first.session().id());
        assert_eq!((pool.len(), app.engine.sessions()), (1, 4));
        drop(first);
        assert_eq!(pool.len(), 1);
        drop((second, third, fourth, unseen));
        assert_eq!((pool.len(), app.engine.sessions()), (0, 0));
    }

    #[tokio::test]
    async fn a_session_outlives_its_last_connection_for_a_while() {
        let app = app(Interval::millis(50));
        let pool = Arc::new(SessionPool::default());
        let first = pool.lease(&app, &us(), &TenantId::default()).unwrap();
        let id = first.session().id();
        drop(first);
        let second = pool.lease(&app, &us(), &TenantId::default()).unwrap();
        assert_eq!(second.session().id(), id);
        drop(second);
        while pool.len() > 0 {
            tokio::task::yield_now().await;
        }
        assert_eq!(app.engine.sessions(), 0);
    }

    #[tokio::test]
    async fn a_lease_that_is_not_used_leaves_nothing_behind() {
        let app = app(Interval::seconds(3600));
        let pool = Arc::new(SessionPool::default());
        pool.lease(&app, &us(), &TenantId::default()).unwrap().discard();
        assert_eq!((pool.len(), app.engine.sessions()), (0, 0));
        drop(pool.lease(&app, &us(), &TenantId::default()).unwrap());
        pool.lease(&app, &us(), &TenantId::default()).unwrap().discard();
        assert_eq!(pool.len(), 1, "somebody used it before, and may come back");
    }

    #[tokio::test]
    async fn an_old_linger_does_not_end_a_newer_one() {
        let app = app(Interval::seconds(3600));
        let pool = Arc::new(SessionPool::default());
        let first = pool.lease(&app, &us(), &TenantId::default()).unwrap();
        let (key, id) = (first.shared.as_ref().unwrap().key.clone(), first.session().id());
        drop(first);
        drop(pool.lease(&app, &us(), &TenantId::default()).unwrap());
        pool.end(&key, id, 1);
        assert_eq!(pool.len(), 1, "the first linger passed, and the second goes on");
        pool.end(&key, id, 2);
        assert_eq!(pool.len(), 0);
    }

    #[test]
    fn a_tenant_that_comes_back_has_a_session_of_its_own() {
        let app = app(Interval::seconds(0));
        let pool = Arc::new(SessionPool::default());
        let lease = || pool.lease(&app, &us(), &TenantId::default()).unwrap();
        let old = lease();
        pool.forget(&TenantId::default());
        assert_eq!((pool.len(), app.engine.sessions()), (0, 1), "the connection has it until it ends");
        let new = lease();
        assert_ne!(old.session().id(), new.session().id());
        drop(old);
        assert_eq!((pool.len(), app.engine.sessions()), (1, 1), "the new one is not taken off");
        drop(new);
        assert_eq!((pool.len(), app.engine.sessions()), (0, 0));
    }
}
