// SPDX-License-Identifier: Apache-2.0
//! Regions by name.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use diolkos_types::{Code, Status};
use rustix::process::{Resource, getrlimit};

use super::file::{self, Opened};
use super::limits::{NAME_BYTES_MAX, REGIONS_PER_TABLE_MAX};
use super::owner::Owner;
use super::region::Region;
use super::{Listed, Registration, shown};
use crate::limits::REFUSE_RETRY_SECONDS;

/// The regions of one client process, or of those that can't be told apart.
#[derive(Debug)]
pub(super) struct Table {
    regions: Mutex<BTreeMap<Box<str>, Arc<Region>>>,
    owner: Arc<Owner>,
}

impl Table {
    pub(super) fn new(owner: Arc<Owner>) -> Table {
        Table { regions: Mutex::default(), owner }
    }

    #[cfg(test)]
    pub(super) fn owner(&self) -> &Arc<Owner> {
        &self.owner
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Box<str>, Arc<Region>>> {
        // Nothing here panics while it holds the lock.
        self.regions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens shared memory of the user `uid` in `directory` and keeps it. Looks at files: not for an I/O thread.
    pub(super) fn register(&self, directory: &Path, uid: u32, wanted: &Registration) -> Result<(), Status> {
        let Registration { name, key, offset, bytes } = wanted;
        let file_name = check(wanted)?;
        self.has_room_for(&self.lock(), name)?;
        let Opened { file, bytes: there, number } =
            file::open(directory, file_name, uid).map_err(|error| file::refusal(error, name, key))?;
        let end = offset.checked_add(*bytes).filter(|&end| end <= there);
        let Some(end) = end else {
            return Err(Status::invalid(format!(
                "region `{}`: {bytes} bytes from byte {offset} on do not lie in `{}`, which has {there} bytes",
                shown(name),
                shown(key)
            )));
        };
        // Writing behind this limit would be a signal that ends the daemon (SIGXFSZ).
        if getrlimit(Resource::Fsize).current.is_some_and(|limit| limit < end) {
            return Err(Status::new(
                Code::TooLarge,
                format!("region `{}` ends at byte {end}, behind where this daemon may write", shown(name)),
            ));
        }
        let held = self.owner.hold(number, file, (*offset, end))?;
        let region = Region {
            name: name.as_str().into(),
            key: key.as_str().into(),
            offset: *offset,
            bytes: *bytes,
            held,
        };
        let mut regions = self.lock();
        // Another request may have been faster.
        self.has_room_for(&regions, name)?;
        regions.insert(name.as_str().into(), Arc::new(region));
        Ok(())
    }

    fn has_room_for(&self, regions: &BTreeMap<Box<str>, Arc<Region>>, name: &str) -> Result<(), Status> {
        if regions.contains_key(name) {
            // Clients look for these words.
            return Err(Status::invalid(format!(
                "shared memory region '{}' already in manager; unregister it first",
                shown(name)
            )));
        }
        if regions.len() >= REGIONS_PER_TABLE_MAX {
            return Err(Status::busy(
                format!("{} regions are registered, as many as are possible; unregister some", regions.len()),
                Duration::from_secs(REFUSE_RETRY_SECONDS),
            ));
        }
        Ok(())
    }

    /// Forgets a region; requests that use it end undisturbed. One that is not there is forgotten already.
    pub(super) fn unregister(&self, name: &str) {
        let removed = self.lock().remove(name);
        // Outside of the lock: it closes a file.
        drop(removed);
    }

    /// Forgets every region.
    pub(super) fn unregister_all(&self) {
        let removed = std::mem::take(&mut *self.lock());
        drop(removed);
    }

    /// The region with this name.
    pub(super) fn find(&self, name: &str) -> Option<Arc<Region>> {
        self.lock().get(name).cloned()
    }

    /// All regions, by name.
    pub(super) fn list(&self) -> Vec<Listed> {
        self.lock().values().map(|region| Listed::of(region)).collect()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.lock().is_empty()
    }
}

/// What can be said without looking at any file; the file's name.
fn check(wanted: &Registration) -> Result<&str, Status> {
    let Registration { name, key, offset, bytes } = wanted;
    if name.is_empty() || name.len() > NAME_BYTES_MAX {
        return Err(Status::invalid(format!(
            "the region's name has {} bytes, and 1 to {NAME_BYTES_MAX} are possible",
            name.len()
        )));
    }
    let file_name = file::file_name(key)
        .map_err(|error| Status::invalid(format!("region `{}`: {}", shown(name), error.message())))?;
    if *bytes == 0 {
        return Err(Status::invalid(format!("region `{}`: `byte_size` is 0", shown(name))));
    }
    if offset.checked_add(*bytes).is_none() {
        return Err(Status::invalid(format!(
            "region `{}`: `offset` {offset} and `byte_size` {bytes} are more than any file has",
            shown(name)
        )));
    }
    Ok(file_name)
}
