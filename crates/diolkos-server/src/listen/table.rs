// SPDX-License-Identifier: Apache-2.0
//! Which connections there are, and which of them makes room for a newcomer.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::Instant;

use diolkos_types::TenantId;
use tokio::sync::Notify;

use super::activity::Activity;
use super::callers::Callers;
use super::pace::Paces;
use crate::limits;

/// A connection, as others see it.
#[derive(Debug)]
pub(super) struct ConnState {
    /// Whose it is; `None` until somebody shows a token. Changed under the table's lock only.
    tenant: Mutex<Option<TenantId>>,
    /// Whom a native client speaks for on it, if it is a bridge.
    spoken_for: OnceLock<TenantId>,
    activity: Mutex<Activity>,
    evicted: AtomicBool,
    evict: Notify,
    /// Whose requests come over it, once it is clear that it is HTTP.
    callers: OnceLock<Weak<Callers>>,
}

impl ConnState {
    fn new(tenant: Option<TenantId>) -> ConnState {
        ConnState {
            tenant: Mutex::new(tenant),
            spoken_for: OnceLock::new(),
            activity: Mutex::new(Activity::new(Instant::now())),
            evicted: AtomicBool::new(false),
            evict: Notify::new(),
            callers: OnceLock::new(),
        }
    }

    fn tenant(&self) -> Option<TenantId> {
        self.tenant.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What it is doing. A leaf: nothing else is locked while this is.
    pub(super) fn activity(&self) -> MutexGuard<'_, Activity> {
        self.activity.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says whose requests come over it.
    pub(super) fn serves(&self, callers: &Arc<Callers>) {
        // A connection is asked once what it speaks.
        let _ = self.callers.set(Arc::downgrade(callers));
    }

    /// Returns once somebody chose this connection to make room, or its tenant is no longer served.
    pub(super) async fn evicted(&self) {
        self.evict.notified().await;
    }
}

/// All connections.
#[derive(Debug, Default)]
pub(crate) struct Table {
    state: Mutex<State>,
    paces: Paces,
    emptied: Notify,
}

#[derive(Debug, Default)]
struct State {
    connections: HashMap<u64, Arc<ConnState>>,
    /// Connections of each tenant, and how many of them are making room.
    counts: HashMap<Option<TenantId>, Counts>,
    evicting: usize,
    next: u64,
}

#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    all: u64,
    evicting: u64,
}

/// Every connection is busy, or enough of the idle ones are just making room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Full;

impl Table {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Enters a connection of a tenant. Past `limit`, or past `own_limit` of the tenant's own, the longest idle one is
    /// told to make room, which takes a moment: there may be `limit` + [`limits::EVICTING_MAX`] at once. Past its own limit
    /// a tenant makes room itself; past everybody's, the one that has most does. Says whether one was told.
    pub(super) fn enter(
        self: &Arc<Self>,
        tenant: Option<TenantId>,
        limit: usize,
        own_limit: u64,
    ) -> Result<(Entry, bool), Full> {
        let mut state = self.lock();
        let own = state.counts.get(&tenant).copied().unwrap_or_default();
        let evicts = if own.all - own.evicting >= own_limit {
            state.evict_longest_idle_of(Some(&tenant))?;
            true
        } else if state.connections.len() - state.evicting >= limit {
            state.evict_longest_idle()?;
            true
        } else {
            false
        };
        let number = state.next;
        state.next += 1;
        state.counts.entry(tenant.clone()).or_default().all += 1;
        let connection = Arc::new(ConnState::new(tenant));
        state.connections.insert(number, connection.clone());
        drop(state);
        Ok((Entry { table: self.clone(), number, connection }, evicts))
    }

    /// Tells the longest idle connection to close, because descriptors ran out. Says whether there was one.
    pub(super) fn make_room(&self) -> bool {
        self.lock().evict_longest_idle().is_ok()
    }

    /// Ends the connections of a tenant, busy or not, and its sessions on those that it shares with others.
    pub(super) fn end_tenant(&self, tenant: &TenantId) {
        self.paces.forget(tenant);
        let mut state = self.lock();
        let own = Some(tenant.clone());
        let (its, others): (Vec<_>, Vec<_>) = state.connections.values().cloned().partition(|connection| {
            connection.tenant() == own || connection.spoken_for.get() == Some(tenant)
        });
        for connection in its {
            state.evict(&connection);
        }
        drop(state);
        // Outside of the lock: ending a session cancels what it has in flight.
        for callers in others.iter().filter_map(|connection| connection.callers.get()?.upgrade()) {
            callers.forget(tenant);
        }
    }

    /// How often tenants connect.
    pub(super) fn paces(&self) -> &Paces {
        &self.paces
    }

    /// Connections of a tenant.
    pub(crate) fn of_tenant(&self, tenant: &TenantId) -> u64 {
        self.lock().counts.get(&Some(tenant.clone())).map_or(0, |counts| counts.all)
    }

    /// Connections there are.
    pub(crate) fn len(&self) -> usize {
        self.lock().connections.len()
    }

    /// Returns once there is no connection.
    pub(crate) async fn wait_empty(&self) {
        loop {
            let emptied = self.emptied.notified();
            if self.len() == 0 {
                return;
            }
            emptied.await;
        }
    }
}

impl State {
    fn uncount(&mut self, tenant: &Option<TenantId>, evicted: bool) {
        if let Some(counts) = self.counts.get_mut(tenant) {
            counts.all -= 1;
            counts.evicting -= u64::from(evicted);
            if counts.all == 0 {
                self.counts.remove(tenant);
            }
        }
    }

    /// Of the tenant that has most, if one of its is idle, so that whoever opens many does not push others out; else of
    /// anybody.
    fn evict_longest_idle(&mut self) -> Result<(), Full> {
        let most = self.counts.iter().max_by_key(|(_, counts)| counts.all - counts.evicting);
        let most = most.map(|(tenant, _)| tenant.clone());
        self.evict_longest_idle_of(most.as_ref()).or_else(|Full| self.evict_longest_idle_of(None))
    }

    /// Looks at every connection: this happens only past the limit, and a look takes tens of nanoseconds.
    fn evict_longest_idle_of(&mut self, tenant: Option<&Option<TenantId>>) -> Result<(), Full> {
        if self.evicting >= limits::EVICTING_MAX {
            return Err(Full);
        }
        let candidates = self.connections.values().filter(|other| {
            !other.evicted.load(Ordering::Relaxed) && tenant.is_none_or(|tenant| *tenant == other.tenant())
        });
        let idle = candidates.filter_map(|other| Some((other.activity().idle_since()?, other)));
        let (_, longest) = idle.min_by_key(|(since, _)| *since).ok_or(Full)?;
        let longest = longest.clone();
        self.evict(&longest);
        Ok(())
    }

    /// Tells a connection of this table to close.
    fn evict(&mut self, connection: &ConnState) {
        // Only this function sets it, under the table's lock.
        if !connection.evicted.swap(true, Ordering::Relaxed) {
            connection.evict.notify_one();
            self.counts.entry(connection.tenant()).or_default().evicting += 1;
            self.evicting += 1;
        }
    }
}

/// A connection's place in the table.
#[derive(Debug)]
pub(super) struct Entry {
    table: Arc<Table>,
    number: u64,
    connection: Arc<ConnState>,
}

impl Entry {
    /// The connection.
    pub(super) fn connection(&self) -> &Arc<ConnState> {
        &self.connection
    }

    /// For whoever finds out later whose it is.
    pub(super) fn place(&self) -> ConnPlace {
        ConnPlace { table: self.table.clone(), number: self.number }
    }
}

/// A connection, by its place in the table.
#[derive(Clone, Debug)]
pub(crate) struct ConnPlace {
    table: Arc<Table>,
    number: u64,
}

impl ConnPlace {
    /// All requests of the connection will be this tenant's, for whom its own one speaks. It ends when either is gone.
    pub(crate) fn speaks_for(&self, tenant: &TenantId) {
        if let Some(connection) = self.table.lock().connections.get(&self.number) {
            // A connection says once whom it is for.
            let _ = connection.spoken_for.set(tenant.clone());
        }
    }

    /// The connection is this tenant's, if it was nobody's so far: somebody showed a token on it. Past the tenant's own
    /// limit its longest idle one makes room, as when it had connected as that tenant.
    pub(crate) fn belongs_to(&self, tenant: &TenantId, own_limit: u64) -> Result<(), Full> {
        let mut state = self.table.lock();
        let Some(connection) = state.connections.get(&self.number).cloned() else { return Ok(()) };
        if connection.tenant().is_some() {
            return Ok(());
        }
        let tenant = Some(tenant.clone());
        let own = state.counts.get(&tenant).copied().unwrap_or_default();
        if own.all - own.evicting >= own_limit {
            state.evict_longest_idle_of(Some(&tenant))?;
        }
        let evicted = connection.evicted.load(Ordering::Relaxed);
        state.uncount(&None, evicted);
        let counts = state.counts.entry(tenant.clone()).or_default();
        counts.all += 1;
        counts.evicting += u64::from(evicted);
        *connection.tenant.lock().unwrap_or_else(PoisonError::into_inner) = tenant;
        Ok(())
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        let mut state = self.table.lock();
        state.connections.remove(&self.number);
        let evicted = self.connection.evicted.load(Ordering::Relaxed);
        state.evicting -= usize::from(evicted);
        state.uncount(&self.connection.tenant(), evicted);
        let empty = state.connections.is_empty();
        drop(state);
        if empty {
            self.table.emptied.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn the_longest_idle_makes_room() {
        let table = Arc::new(Table::default());
        let (first, _) = table.enter(None, 2, u64::MAX).unwrap();
        let (second, evicted) = table.enter(None, 2, u64::MAX).unwrap();
        assert!(!evicted);
        let later = Instant::now() + Duration::from_secs(1);
        first.connection().activity().request_began(0);
        first.connection().activity().request_ended(later, 0);
        let (third, evicted) = table.enter(None, 2, u64::MAX).unwrap();
        assert!(evicted);
        second.connection().evicted().await;
        // The one that is being evicted no longer counts, and is not chosen again.
        third.connection().activity().request_began(0);
        let (fourth, _) = table.enter(None, 2, u64::MAX).unwrap();
        first.connection().evicted().await;
        fourth.connection().activity().request_began(0);
        assert_eq!(
            table.enter(None, 2, u64::MAX).unwrap_err(),
            Full,
            "two busy ones and two that are closing"
        );
        drop((first, second));
        assert_eq!(table.len(), 2);
        assert_eq!(table.enter(None, 2, u64::MAX).unwrap_err(), Full);
        drop((third, fourth));
        table.wait_empty().await;
        assert!(!table.make_room());
    }

    #[tokio::test]
    async fn whoever_has_most_makes_room() {
        let table = Arc::new(Table::default());
        let id = |name: &str| Some(TenantId::new(name));
        let (first, _) = table.enter(id("quiet"), 4, 9).unwrap();
        let flood: Vec<_> = (0..3).map(|_| table.enter(id("flood"), 4, 9).unwrap().0).collect();
        // The quiet one's is idle for longest, and stays.
        let (_more, evicted) = table.enter(id("flood"), 4, 9).unwrap();
        assert!(evicted && !first.connection().evicted.load(Ordering::Relaxed));
        flood[0].connection().evicted().await;
        // At its own limit a tenant makes room itself, or has none.
        let (_last, evicted) = table.enter(id("flood"), 100, 3).unwrap();
        assert!(evicted);
        flood[1].connection().evicted().await;
        flood[2].connection().activity().request_began(0);
        for busy in [&_more, &_last] {
            busy.connection().activity().request_began(0);
        }
        assert_eq!(table.enter(id("flood"), 100, 3).unwrap_err(), Full);
        // When all that it has are busy, anybody's idle one goes.
        let (_other, evicted) = table.enter(id("other"), 4, 9).unwrap();
        assert!(evicted);
        first.connection().evicted().await;
        drop(flood);
        assert_eq!(table.lock().counts[&id("flood")].all, 2);
    }

    #[tokio::test]
    async fn a_token_makes_a_connection_its_tenants() {
        let table = Arc::new(Table::default());
        let a = TenantId::new("a");
        let count = |tenant: Option<&TenantId>| {
            table.lock().counts.get(&tenant.cloned()).map_or(0, |counts| counts.all)
        };
        let (first, _) = table.enter(None, 9, 9).unwrap();
        first.place().belongs_to(&a, 1).unwrap();
        assert_eq!((count(None), count(Some(&a))), (0, 1));
        // A second token on the same connection changes nothing.
        first.place().belongs_to(&TenantId::new("b"), 1).unwrap();
        assert_eq!(count(Some(&a)), 1);
        let (second, _) = table.enter(None, 9, 9).unwrap();
        second.place().belongs_to(&a, 1).unwrap();
        first.connection().evicted().await;
        let (third, _) = table.enter(None, 9, 9).unwrap();
        second.connection().activity().request_began(0);
        assert_eq!(third.place().belongs_to(&a, 1).unwrap_err(), Full);
        let gone = second.place();
        drop((first, second, third));
        gone.belongs_to(&a, 1).unwrap();
        assert!(table.lock().counts.is_empty());
    }

    #[tokio::test]
    async fn a_tenant_that_is_gone_loses_its_connections_busy_or_not() {
        let table = Arc::new(Table::default());
        let id = |name: &str| Some(TenantId::new(name));
        let (idle, _) = table.enter(id("gone"), 9, 9).unwrap();
        let (busy, _) = table.enter(id("gone"), 9, 9).unwrap();
        busy.connection().activity().request_began(0);
        let (other, _) = table.enter(id("other"), 9, 9).unwrap();
        table.end_tenant(&TenantId::new("gone"));
        table.end_tenant(&TenantId::new("gone"));
        idle.connection().evicted().await;
        busy.connection().evicted().await;
        assert!(!other.connection().evicted.load(Ordering::Relaxed));
        assert_eq!((table.of_tenant(&TenantId::new("gone")), table.lock().evicting), (2, 2));
        drop((idle, busy));
        assert_eq!((table.of_tenant(&TenantId::new("gone")), table.lock().evicting), (0, 0));
    }

    #[test]
    fn a_burst_goes_past_the_limit_only_so_far() {
        let table = Arc::new(Table::default());
        let entries: Vec<_> = (0..).map_while(|_| table.enter(None, 3, u64::MAX).ok()).take(1000).collect();
        assert_eq!(entries.len(), 3 + limits::EVICTING_MAX);
    }
}
