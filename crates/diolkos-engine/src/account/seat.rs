// SPDX-License-Identifier: Apache-2.0
//! Where a tenant's accounts stand. Tenants come and go, and their accounts lie in tables, so a place is given on to a later
//! tenant; whose it is now is said by the tenant's key, which is nobody else's ever.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::sched::TenantKey;

/// Where accounts are looked up, and whose they have to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct AccountKey {
    seat: u32,
    owner: TenantKey,
}

impl AccountKey {
    /// A place, and whose it has to be.
    pub(super) const fn new(seat: u32, owner: TenantKey) -> AccountKey {
        AccountKey { seat, owner }
    }

    /// Its place in every table.
    pub(super) const fn seat(self) -> u32 {
        self.seat
    }

    /// Whose.
    pub(crate) const fn owner(self) -> TenantKey {
        self.owner
    }
}

/// Places in the tables of accounts.
#[derive(Debug, Default)]
pub(crate) struct Seats(Mutex<Free>);

#[derive(Debug, Default)]
struct Free {
    /// Every place from here on was never taken.
    untouched: u32,
    given_back: BTreeSet<u32>,
}

impl Seats {
    fn lock(&self) -> MutexGuard<'_, Free> {
        // Nothing panics while it holds the lock.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The lowest place that is free, so that tables stay as long as tenants there are.
    pub(crate) fn take(self: &Arc<Self>, owner: TenantKey) -> Seat {
        let mut free = self.lock();
        let seat = free.given_back.pop_first().unwrap_or_else(|| {
            free.untouched += 1;
            free.untouched - 1
        });
        drop(free);
        Seat { seats: self.clone(), key: AccountKey::new(seat, owner) }
    }
}

/// A tenant's place; free again when it is dropped.
#[derive(Debug)]
pub(crate) struct Seat {
    seats: Arc<Seats>,
    key: AccountKey,
}

impl Seat {
    /// What to look its accounts up with.
    pub(crate) fn key(&self) -> AccountKey {
        self.key
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.seats.lock().given_back.insert(self.key.seat);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lowest_free_place_is_given() {
        let seats = Arc::new(Seats::default());
        let mut taken: Vec<Seat> = (0..4).map(|owner| seats.take(TenantKey(owner))).collect();
        assert_eq!(taken.iter().map(|seat| seat.key().seat).collect::<Vec<_>>(), [0, 1, 2, 3]);
        drop((taken.remove(2), taken.remove(1)));
        let places: Vec<Seat> = (10..13).map(|owner| seats.take(TenantKey(owner))).collect();
        assert_eq!(places.iter().map(|seat| seat.key().seat).collect::<Vec<_>>(), [1, 2, 4]);
        assert_eq!(places[0].key().owner, TenantKey(10));
    }
}
