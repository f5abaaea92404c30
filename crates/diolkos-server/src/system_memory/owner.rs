// SPDX-License-Identifier: Apache-2.0
//! Whose tables there are, and how much they hold.
//!
//! ```text
//! tenant ──> owner: regions and bytes in all its tables ──uid──> the table that its connections share
//!            └── lives as long as one of its tables, and a table as long as a session or a linger;
//!                and as long as something is left of its regions
//! ```

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use diolkos_types::{Code, Status, TenantId};
use rustix::process::{Resource, getrlimit};

use super::left::{Files, Leavings};
use super::limits::{FILES_SHARE, REGIONS_MAX, REGIONS_PER_OWNER_MAX};
use super::table::Table;
use crate::limits::REFUSE_RETRY_SECONDS;

/// Regions and their bytes.
#[derive(Debug, Default)]
struct Sum {
    regions: usize,
    bytes: u64,
}

/// A tenant. Its users share what it has: whoever is root in a sandbox is any user that it likes.
#[derive(Debug)]
pub(super) struct Owner {
    sum: Mutex<Sum>,
    leavings: Mutex<Leavings>,
    bytes_max: u64,
    all: Arc<All>,
}

/// Regions of everybody.
#[derive(Debug)]
struct All {
    regions: Mutex<usize>,
    regions_max: usize,
    files: Files,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing here panics while it holds a lock.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Room for one region; given back when it is dropped.
#[derive(Debug)]
pub(super) struct Slot {
    owner: Arc<Owner>,
    bytes: u64,
}

impl Owner {
    pub(super) fn leavings(&self) -> MutexGuard<'_, Leavings> {
        lock(&self.leavings)
    }

    /// The files that are in use, of everybody.
    pub(super) fn files(&self) -> &Files {
        &self.all.files
    }

    /// Room for a region of so many bytes. `left`: of how many files something is left, and how much, for messages.
    pub(super) fn reserve(self: &Arc<Self>, bytes: u64, left: (usize, u64)) -> Result<Slot, Status> {
        let hint = hint(left);
        let mut sum = lock(&self.sum);
        if sum.regions >= self.regions_max() {
            return Err(full(format!(
                "your tenant has {} regions, as many as are possible; unregister some{hint}",
                sum.regions
            )));
        }
        let together = self.together(sum.bytes, bytes, &hint)?;
        {
            let mut all = lock(&self.all.regions);
            if *all >= self.all.regions_max {
                return Err(full("there is no room for another region now".into()));
            }
            *all += 1;
        }
        *sum = Sum { regions: sum.regions + 1, bytes: together };
        Ok(Slot { owner: self.clone(), bytes })
    }

    /// What all regions have with one more.
    fn together(&self, others: u64, bytes: u64, hint: &str) -> Result<u64, Status> {
        if bytes > self.bytes_max {
            return Err(Status::new(
                Code::TooLarge,
                format!(
                    "the region has {bytes} bytes, and {} are possible (`shared_memory.bytes_max`)",
                    self.bytes_max
                ),
            ));
        }
        others.checked_add(bytes).filter(|&together| together <= self.bytes_max).ok_or_else(|| {
            full(format!(
                "your tenant's regions have {others} bytes, {bytes} more are wanted, and {} are possible \
                 (`shared_memory.bytes_max`); unregister some{hint}",
                self.bytes_max
            ))
        })
    }

    /// No tenant has more than a quarter of what there is for everybody.
    fn regions_max(&self) -> usize {
        REGIONS_PER_OWNER_MAX.min(self.all.regions_max / 4).max(1)
    }
}

/// What counts beside the regions that there are.
fn hint(left: (usize, u64)) -> String {
    match left {
        (0, _) => String::new(),
        (files, bytes) => format!(
            "; {bytes} bytes in {files} files are not registered any more, but outputs were written to them, and they are still \
             there: remove them (shm_unlink)"
        ),
    }
}

fn full(message: String) -> Status {
    Status::busy(message, Duration::from_secs(REFUSE_RETRY_SECONDS))
}

impl Slot {
    pub(super) fn owner(&self) -> &Arc<Owner> {
        &self.owner
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Makes it smaller or larger, whatever there is room for: what is left of regions is there.
    pub(super) fn set(&mut self, bytes: u64) {
        let mut sum = lock(&self.owner.sum);
        sum.bytes = sum.bytes - self.bytes + bytes;
        self.bytes = bytes;
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        *lock(&self.owner.all.regions) -= 1;
        let mut sum = lock(&self.owner.sum);
        sum.regions -= 1;
        sum.bytes -= self.bytes;
    }
}

/// Every owner that there is.
#[derive(Debug)]
pub(super) struct Owners {
    known: Mutex<HashMap<TenantId, Known>>,
    bytes_max: u64,
    all: Arc<All>,
}

#[derive(Debug, Default)]
struct Known {
    owner: Weak<Owner>,
    /// Of each user.
    shared: HashMap<u32, Weak<Table>>,
}

impl Owners {
    /// None yet; each may register so many bytes.
    pub(super) fn new(bytes_max: u64) -> Owners {
        let files = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX) / FILES_SHARE;
        let regions_max = usize::try_from(files).unwrap_or(usize::MAX).min(REGIONS_MAX);
        let all = Arc::new(All { regions: Mutex::new(0), regions_max, files: Files::default() });
        Owners { known: Mutex::default(), bytes_max, all }
    }

    /// A table for this user: one of its own, or the one that all who can't be told apart share.
    pub(super) fn table(&self, tenant: &TenantId, uid: u32, own: bool) -> Arc<Table> {
        let mut known = lock(&self.known);
        // The number of entries is that of owners with a session, and this is done once for a session.
        known.retain(|_, known| known.owner.strong_count() > 0);
        let entry = known.entry(tenant.clone()).or_default();
        if !own && let Some(table) = entry.shared.get(&uid).and_then(Weak::upgrade) {
            return table;
        }
        let owner = entry.owner.upgrade().unwrap_or_else(|| {
            Arc::new(Owner {
                sum: Mutex::default(),
                leavings: Mutex::default(),
                bytes_max: self.bytes_max,
                all: self.all.clone(),
            })
        });
        entry.owner = Arc::downgrade(&owner);
        let table = Arc::new(Table::new(owner));
        if !own {
            entry.shared.retain(|_, table| table.strong_count() > 0);
            entry.shared.insert(uid, Arc::downgrade(&table));
        }
        table
    }

    /// Tenants who have a table, or left something.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        lock(&self.known).values().filter(|known| known.owner.strong_count() > 0).count()
    }
}

impl Drop for Owners {
    fn drop(&mut self) {
        // What is left of an owner's regions keeps it.
        let owners: Vec<_> = lock(&self.known).values().filter_map(|known| known.owner.upgrade()).collect();
        owners.iter().for_each(|owner| owner.forget());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Owner {
        fn reserve_alone(self: &Arc<Self>, bytes: u64) -> Result<Slot, Status> {
            self.reserve(bytes, (0, 0))
        }
    }

    fn tenant(number: u32) -> TenantId {
        TenantId::new(&format!("tenant-{number}"))
    }

    fn owner(owners: &Owners, number: u32) -> Arc<Owner> {
        owners.table(&tenant(number), 0, true).owner().clone()
    }

    #[test]
    fn sizes_and_numbers_are_bounded_and_given_back() {
        let owners = Owners::new(1000);
        let first = owner(&owners, 1);
        assert_eq!(first.reserve_alone(1001).unwrap_err().code(), Code::TooLarge);
        assert_eq!(first.reserve_alone(u64::MAX).unwrap_err().code(), Code::TooLarge);
        let slot = first.reserve_alone(600).unwrap();
        let refused = first.reserve_alone(401).unwrap_err();
        assert_eq!(refused.code(), Code::Busy);
        assert!(refused.message().contains("600 bytes, 401 more are wanted, and 1000"), "{refused:?}");
        // Nobody uses up what is another's.
        let second = owner(&owners, 2);
        drop(second.reserve_alone(1000).unwrap());
        drop(slot);
        let slots: Vec<Slot> = (0..REGIONS_PER_OWNER_MAX).map(|_| first.reserve_alone(1).unwrap()).collect();
        assert!(first.reserve_alone(1).unwrap_err().message().contains("256 regions"));
        drop(slots);
        first.reserve_alone(1000).unwrap();
    }

    #[test]
    fn everybody_together_is_bounded_too() {
        let owners = Owners::new(1000);
        let mut slots = Vec::new();
        let mut refused = None;
        for number in 0..10 {
            let owner = owner(&owners, number);
            for _ in 0..REGIONS_PER_OWNER_MAX {
                match owner.reserve_alone(1) {
                    Ok(slot) => slots.push(slot),
                    Err(status) => refused = Some(status),
                }
            }
        }
        assert_eq!(slots.len(), owners.all.regions_max);
        assert!(refused.unwrap().message().contains("no room for another region"));
        drop(slots);
        assert_eq!(*lock(&owners.all.regions), 0);
    }

    #[test]
    fn tables_are_shared_by_user_and_tenant_or_ones_own() {
        let owners = Owners::new(1000);
        let tenant = TenantId::default();
        let (one, same) = (owners.table(&tenant, 1, false), owners.table(&tenant, 1, false));
        assert!(Arc::ptr_eq(&one, &same));
        let own = owners.table(&tenant, 1, true);
        assert!(!Arc::ptr_eq(&one, &own) && Arc::ptr_eq(one.owner(), own.owner()));
        let other = owners.table(&tenant, 2, false);
        assert!(!Arc::ptr_eq(&one, &other) && Arc::ptr_eq(one.owner(), other.owner()));
        let another = owners.table(&self::tenant(1), 1, false);
        assert!(!Arc::ptr_eq(&one, &another) && !Arc::ptr_eq(one.owner(), another.owner()));
        assert_eq!(owners.len(), 2);
        drop(another);
        drop((one, same, own, other));
        assert_eq!(owners.len(), 0);
        // Dead entries go when the next one comes.
        let _table = owners.table(&tenant, 3, false);
        assert_eq!(lock(&owners.known).len(), 1);
    }
}
