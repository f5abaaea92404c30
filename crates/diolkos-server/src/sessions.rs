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

use diolkos_engine::{Engine, Session};
use diolkos_types::{Status, TenantId};

use crate::listen::Peer;
use crate::oip::offload::OwnTurn;
use crate::settings::Settings;
use crate::system_memory::{Holder, SessionMemory, SystemMemory};

/// A client's session, and what the rim keeps for it.
#[derive(Debug)]
pub(crate) struct ClientSession {
    engine: Session,
    /// Its turn at what takes long.
    pub(crate) turn: OwnTurn,
    /// Its regions of system shared memory.
    pub(crate) memory: SessionMemory,
}

impl ClientSession {
    /// Around a session of the engine, without regions of system shared memory.
    pub(crate) fn new(engine: Session) -> Arc<ClientSession> {
        ClientSession::with_memory(engine, SessionMemory::none())
    }

    /// Around a session of the engine.
    pub(crate) fn with_memory(engine: Session, memory: SessionMemory) -> Arc<ClientSession> {
        Arc::new(ClientSession { engine, turn: OwnTurn::default(), memory })
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
}

/// The tenant that a peer is served as. Everybody is `default` until the settings can name others; every
/// caller goes through here so that this stays the one place that decides.
pub(crate) fn tenant_of(_peer: &Peer, _settings: &Settings) -> TenantId {
    TenantId::default()
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
#[derive(Debug)]
pub(crate) struct SessionPool {
    memory: Arc<SystemMemory>,
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
    /// None yet; what they register is kept in `memory`.
    pub(crate) fn new(memory: SystemMemory) -> SessionPool {
        SessionPool { memory: Arc::new(memory), shared: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Key, Entry>> {
        // Nothing below panics while it holds the lock.
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The session for a new connection of `peer`. It is given back when the lease is dropped.
    pub(crate) fn lease(
        self: &Arc<Self>,
        engine: &Engine,
        peer: &Peer,
        settings: &Settings,
    ) -> Result<SessionLease, Status> {
        let tenant = tenant_of(peer, settings);
        let open = |tenant: &TenantId, is_process| {
            let linger = settings.linger.get();
            let holder = Holder { tenant: tenant.clone(), peer: *peer, is_process, linger };
            let memory = SessionMemory::new(self.memory.clone(), holder);
            engine.open_session(tenant).map(|session| ClientSession::with_memory(session, memory))
        };
        let Some(process) = Process::of(peer) else {
            let session = open(&tenant, false)?;
            return Ok(SessionLease { session, shared: None });
        };
        let key = (tenant, process);
        let mut shared = self.lock();
        let session = match shared.get_mut(&key) {
            Some(entry) => {
                entry.connections += 1;
                entry.session.clone()
            }
            None => {
                let session = open(&key.0, true)?;
                shared.insert(key.clone(), Entry { session: session.clone(), connections: 1, closings: 0 });
                session
            }
        };
        drop(shared);
        let shared = Some(Shared { pool: Arc::downgrade(self), key, linger: settings.linger.get() });
        Ok(SessionLease { session, shared })
    }

    /// Takes one connection off; if it was the last one, says which closing this was.
    fn give_back(&self, key: &Key) -> Option<u64> {
        let mut shared = self.lock();
        let entry = shared.get_mut(key)?;
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
    fn end(&self, key: &Key, closing: u64) {
        let mut shared = self.lock();
        let ended = match shared.get(key) {
            Some(entry) if entry.connections == 0 && entry.closings == closing => shared.remove(key),
            _ => None,
        };
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
        let Some(Shared { pool, key, linger }) = self.shared.take() else { return };
        let Some(pool) = pool.upgrade() else { return };
        let Some(closing) = pool.give_back(&key) else { return };
        // Without a runtime there is no timer and nobody left who could come back.
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) if !linger.is_zero() => {
                // Weak: a session that lingers must not hold the daemon's end up.
                let pool = Arc::downgrade(&pool);
                runtime.spawn(async move {
                    tokio::time::sleep(linger).await;
                    if let Some(pool) = pool.upgrade() {
                        pool.end(&key, closing);
                    }
                });
            }
            _ => pool.end(&key, closing),
        }
    }
}

#[cfg(test)]
mod tests {
    use diolkos_engine::EngineConfig;
    use diolkos_engine::store::{NoRehearsal, Store, StoreConfig};

    use super::*;
    use crate::listen::Budget;
    use crate::settings::Interval;

    fn engine() -> Engine {
        let store = Store::new(StoreConfig::default(), Vec::new(), Box::new(NoRehearsal)).unwrap();
        Engine::start(&EngineConfig::cpu(1), store).unwrap()
    }

    /// This very process.
    fn us() -> Peer {
        let pid = rustix::process::getpid().as_raw_nonzero().get();
        Peer::unix(rustix::process::getuid().as_raw(), Some(pid))
    }

    fn pool(settings: &Settings) -> Arc<SessionPool> {
        Arc::new(SessionPool::new(SystemMemory::new(settings, Budget::new(u64::MAX))))
    }

    fn lingering(linger: Interval) -> Settings {
        Settings { linger, ..Settings::default() }
    }

    #[test]
    fn a_process_has_a_start_time_and_a_dead_one_has_none() {
        let pid = us().pid.unwrap();
        assert!(start_ticks(pid).unwrap() > 0);
        assert_eq!(start_ticks(i32::MAX), None);
    }

    #[test]
    fn connections_of_a_process_share_and_others_do_not() {
        let (engine, settings) = (engine(), lingering(Interval::seconds(0)));
        let pool = pool(&settings);
        let lease = |peer| pool.lease(&engine, &peer, &settings).unwrap();
        let (first, second) = (lease(us()), lease(us()));
        assert_eq!(first.session().id(), second.session().id());
        let (third, fourth) = (lease(Peer::tcp(None)), lease(Peer::tcp(None)));
        assert_ne!(third.session().id(), fourth.session().id());
        assert_ne!(third.session().id(), first.session().id());
        // A process that can't be looked at proves nothing.
        let unseen = lease(Peer::unix(us().uid.unwrap(), Some(i32::MAX)));
        assert_ne!(unseen.session().id(), first.session().id());
        assert_eq!((pool.len(), engine.sessions()), (1, 4));
        drop(first);
        assert_eq!(pool.len(), 1);
        drop((second, third, fourth, unseen));
        assert_eq!((pool.len(), engine.sessions()), (0, 0));
    }

    #[tokio::test]
    async fn a_session_outlives_its_last_connection_for_a_while() {
        let (engine, settings) = (engine(), lingering(Interval::millis(50)));
        let pool = pool(&settings);
        let first = pool.lease(&engine, &us(), &settings).unwrap();
        let id = first.session().id();
        drop(first);
        let second = pool.lease(&engine, &us(), &settings).unwrap();
        assert_eq!(second.session().id(), id);
        drop(second);
        while pool.len() > 0 {
            tokio::task::yield_now().await;
        }
        assert_eq!(engine.sessions(), 0);
    }

    #[tokio::test]
    async fn a_lease_that_is_not_used_leaves_nothing_behind() {
        let (engine, settings) = (engine(), lingering(Interval::seconds(3600)));
        let pool = pool(&settings);
        pool.lease(&engine, &us(), &settings).unwrap().discard();
        assert_eq!((pool.len(), engine.sessions()), (0, 0));
        drop(pool.lease(&engine, &us(), &settings).unwrap());
        pool.lease(&engine, &us(), &settings).unwrap().discard();
        assert_eq!(pool.len(), 1, "somebody used it before, and may come back");
    }

    #[tokio::test]
    async fn an_old_linger_does_not_end_a_newer_one() {
        let (engine, settings) = (engine(), lingering(Interval::seconds(3600)));
        let pool = pool(&settings);
        let first = pool.lease(&engine, &us(), &settings).unwrap();
        let key = first.shared.as_ref().unwrap().key.clone();
        drop(first);
        drop(pool.lease(&engine, &us(), &settings).unwrap());
        pool.end(&key, 1);
        assert_eq!(pool.len(), 1, "the first linger passed, and the second goes on");
        pool.end(&key, 2);
        assert_eq!(pool.len(), 0);
    }
}
