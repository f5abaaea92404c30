// SPDX-License-Identifier: Apache-2.0
//! Which connections there are, and which of them makes room for a newcomer.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio::sync::Notify;

use super::activity::Activity;
use crate::limits;

/// A connection, as others see it.
#[derive(Debug)]
pub(super) struct ConnState {
    activity: Mutex<Activity>,
    evicted: AtomicBool,
    evict: Notify,
}

impl ConnState {
    fn new() -> ConnState {
        ConnState {
            activity: Mutex::new(Activity::new(Instant::now())),
            evicted: AtomicBool::new(false),
            evict: Notify::new(),
        }
    }

    /// What it is doing. A leaf: nothing else is locked while this is.
    pub(super) fn activity(&self) -> MutexGuard<'_, Activity> {
        self.activity.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns once somebody chose this connection to make room.
    pub(super) async fn evicted(&self) {
        self.evict.notified().await;
    }
}

/// All connections.
#[derive(Debug, Default)]
pub(crate) struct Table {
    state: Mutex<State>,
    emptied: Notify,
}

#[derive(Debug, Default)]
struct State {
    connections: HashMap<u64, Arc<ConnState>>,
    evicting: usize,
    next: u64,
}

/// Every connection is busy, or enough of the idle ones are just making room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Full;

impl Table {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Enters a connection. Past `limit` the longest idle one is told to make room, which takes a moment:
    /// there may be `limit` + [`limits::EVICTING_MAX`] at once. Says whether one was.
    pub(super) fn enter(self: &Arc<Self>, limit: usize) -> Result<(Entry, bool), Full> {
        let mut state = self.lock();
        let evicts = state.connections.len() - state.evicting >= limit;
        if evicts {
            state.evict_longest_idle()?;
        }
        let number = state.next;
        state.next += 1;
        let connection = Arc::new(ConnState::new());
        state.connections.insert(number, connection.clone());
        drop(state);
        Ok((Entry { table: self.clone(), number, connection }, evicts))
    }

    /// Tells the longest idle connection to close, because descriptors ran out. Says whether there was one.
    pub(super) fn make_room(&self) -> bool {
        self.lock().evict_longest_idle().is_ok()
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
    /// Looks at every connection: this happens only past the limit, and a look takes tens of nanoseconds.
    fn evict_longest_idle(&mut self) -> Result<(), Full> {
        if self.evicting >= limits::EVICTING_MAX {
            return Err(Full);
        }
        let candidates = self.connections.values().filter(|other| !other.evicted.load(Ordering::Relaxed));
        let idle = candidates.filter_map(|other| Some((other.activity().idle_since()?, other)));
        let (_, longest) = idle.min_by_key(|(since, _)| *since).ok_or(Full)?;
        // Only this function sets it, under the table's lock.
        longest.evicted.store(true, Ordering::Relaxed);
        longest.evict.notify_one();
        self.evicting += 1;
        Ok(())
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
}

impl Drop for Entry {
    fn drop(&mut self) {
        let mut state = self.table.lock();
        state.connections.remove(&self.number);
        if self.connection.evicted.load(Ordering::Relaxed) {
            state.evicting -= 1;
        }
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
        let (first, _) = table.enter(2).unwrap();
        let (second, evicted) = table.enter(2).unwrap();
        assert!(!evicted);
        let later = Instant::now() + Duration::from_secs(1);
        first.connection().activity().request_began(0);
        first.connection().activity().request_ended(later, 0);
        let (third, evicted) = table.enter(2).unwrap();
        assert!(evicted);
        second.connection().evicted().await;
        // The one that is being evicted no longer counts, and is not chosen again.
        third.connection().activity().request_began(0);
        let (fourth, _) = table.enter(2).unwrap();
        first.connection().evicted().await;
        fourth.connection().activity().request_began(0);
        assert_eq!(table.enter(2).unwrap_err(), Full, "two busy ones and two that are closing");
        drop((first, second));
        assert_eq!(table.len(), 2);
        assert_eq!(table.enter(2).unwrap_err(), Full);
        drop((third, fourth));
        table.wait_empty().await;
        assert!(!table.make_room());
    }

    #[test]
    fn a_burst_goes_past_the_limit_only_so_far() {
        let table = Arc::new(Table::default());
        let entries: Vec<_> = (0..).map_while(|_| table.enter(3).ok()).take(1000).collect();
        assert_eq!(entries.len(), 3 + limits::EVICTING_MAX);
    }
}
