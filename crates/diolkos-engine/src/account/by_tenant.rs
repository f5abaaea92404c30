// SPDX-License-Identifier: Apache-2.0
//! A value for each tenant that needs one, found without a lock.
//!
//! Seats of tenants ([`super::seat`]) count up from 0, so the table is an array that grows by rows, each twice as long as the one before.
//! A row is made when the first of its tenants needs a value, and a value when its tenant does; neither moves or goes
//! before the table does. So a value that is there costs two loads, and a tenant that needs none costs a pointer at most.

use std::sync::OnceLock;

/// Row `n` has places for `2^n` seats, and together they have one for every seat.
const ROWS: usize = u32::BITS as usize + 1;

type Row<T> = Box<[OnceLock<Box<T>>]>;

#[derive(Debug)]
pub(super) struct ByTenant<T> {
    rows: [OnceLock<Row<T>>; ROWS],
}

impl<T> Default for ByTenant<T> {
    fn default() -> ByTenant<T> {
        ByTenant { rows: [const { OnceLock::new() }; ROWS] }
    }
}

/// Row and place of a seat.
fn place(seat: u32) -> (usize, usize) {
    let nth = u64::from(seat) + 1;
    let row = nth.ilog2();
    (row as usize, (nth - (1 << row)) as usize)
}

impl<T: Default> ByTenant<T> {
    /// The value of a seat, which is made if this is the first time. Of several threads for which it is, one makes it
    /// and the others wait for that.
    pub(super) fn of(&self, seat: u32) -> &T {
        let (row, at) = place(seat);
        let row = self.rows[row].get_or_init(|| (0..1usize << row).map(|_| OnceLock::new()).collect());
        row[at].get_or_init(Box::default)
    }

    /// The value of a seat, if it ever needed one.
    pub(super) fn find(&self, seat: u32) -> Option<&T> {
        let (row, at) = place(seat);
        self.rows[row].get()?[at].get().map(|value| &**value)
    }

    /// All values that there are.
    pub(super) fn all(&self) -> impl Iterator<Item = &T> {
        let rows = self.rows.iter().filter_map(OnceLock::get);
        rows.flat_map(|row| row.iter()).filter_map(OnceLock::get).map(|value| &**value)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    #[test]
    fn every_seat_has_a_place_of_its_own() {
        let places: Vec<(usize, usize)> = (0..7).map(place).collect();
        assert_eq!(places, [(0, 0), (1, 0), (1, 1), (2, 0), (2, 1), (2, 2), (2, 3)]);
        assert_eq!(place(u32::MAX), (ROWS - 1, 0));
        assert_eq!(place(u32::MAX - 1), (ROWS - 2, (1 << (ROWS - 2)) - 1));
    }

    #[test]
    fn values_are_made_for_those_who_need_them() {
        let table = ByTenant::<AtomicU64>::default();
        assert!(table.find(5).is_none() && table.all().next().is_none());
        table.of(5).store(7, Ordering::Relaxed);
        assert!(table.find(4).is_none() && table.find(6).is_none());
        assert_eq!(table.find(5).unwrap().load(Ordering::Relaxed), 7);
        assert_eq!(table.all().count(), 1);
    }

    #[test]
    fn threads_that_come_first_together_get_the_same_value() {
        let table = ByTenant::<AtomicU64>::default();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for key in 0..200 {
                        table.of(key).fetch_add(1, Ordering::Relaxed);
                    }
                });
            }
        });
        assert_eq!(table.all().count(), 200);
        assert!(table.all().all(|value| value.load(Ordering::Relaxed) == 4));
    }
}
