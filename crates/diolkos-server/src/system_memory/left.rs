// SPDX-License-Identifier: Apache-2.0
//! What is left of regions that the daemon wrote into.
//!
//! The kernel counts a page of a tmpfs to whoever made it, until it is gone, and pages of outputs are made by the daemon: stock clients
//! leave them to it. A client that unregisters a region and keeps the file would so fill the memory that is counted to
//! us. Therefore such a region goes on counting to its tenant until its pages are gone:
//!
//! ```text
//! unregistered ──> left ──name removed, and nobody has the file──> emptied, closed
//!                   │ ├──its client emptied it──────────────────> closed
//!                   │ └──registered again───────────────────────> a region
//!                   └─ looked at when its tenant registers something, and once a second
//! ```
//!
//! Of a file that lies in several regions there is one [`Shared`], and so one descriptor: with two of them each would be somebody who
//! has the file, to the other.

use std::collections::HashMap;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use diolkos_shm::alone::Alone;
use diolkos_types::Status;
use rustix::fd::{AsFd as _, OwnedFd};
use rustix::fs::{fstat, ftruncate};
use rustix::io::Errno;
use rustix::param::page_size;

use super::limits::REGIONS_PER_TABLE_MAX;
use super::owner::{Owner, Slot};
use crate::logging::limited;

/// How long memory may stay that nobody has any more.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// Parts of a file that are told apart: as many as a client may have regions. With more of them all between the first and the
/// last counts.
const PARTS_MAX: usize = REGIONS_PER_TABLE_MAX;

/// Device and number: what a file is, whatever it is called.
pub(super) type FileId = (u64, u64);

/// The files that are in use, of everybody.
#[derive(Debug, Default)]
pub(super) struct Files(Mutex<HashMap<FileId, Weak<Shared>>>);

/// One of them.
#[derive(Debug)]
pub(super) struct Shared {
    id: FileId,
    file: OwnedFd,
    /// Regions that it is in.
    regions: AtomicUsize,
}

impl Files {
    /// The file, as it is known or as it was just opened.
    fn share(&self, id: FileId, file: OwnedFd) -> Arc<Shared> {
        // Nothing below panics while it holds the lock.
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(shared) = known.get(&id).and_then(Weak::upgrade) {
            shared.regions.fetch_add(1, Ordering::Relaxed);
            return shared;
        }
        // There are no more of them than regions, and registering one is rare.
        known.retain(|_, shared| shared.strong_count() > 0);
        let shared = Arc::new(Shared { id, file, regions: AtomicUsize::new(1) });
        known.insert(id, Arc::downgrade(&shared));
        shared
    }
}

impl Shared {
    /// Whether nothing of it is counted to us any more, or will be when it is closed.
    fn is_gone(&self) -> bool {
        // Relaxed: there will be none when there is none and it has no name.
        if self.regions.load(Ordering::Relaxed) > 0 {
            return false;
        }
        let Ok(stat) = fstat(&self.file) else { return true };
        if stat.st_blocks == 0 {
            return true;
        }
        if stat.st_nlink > 0 {
            return false;
        }
        match Alone::with(self.file.as_fd()) {
            // Somebody may have its path still (`O_PATH`), and open it again. Then there is nothing in it.
            Ok(Some(_alone)) => ftruncate(&self.file, 0).is_ok(),
            Ok(None) => false,
            Err(error) if cannot_tell(&error) => {
                limited!(
                    warn,
                    %error,
                    "who has a client's shared memory can't be told, so it counts as gone when its name is; the capability \
                     CAP_LEASE helps"
                );
                true
            }
            Err(_) => false,
        }
    }
}

/// The daemon is neither its client's user nor has the capability for others' files, or leases are turned off.
fn cannot_tell(error: &io::Error) -> bool {
    [Errno::ACCESS, Errno::PERM, Errno::INVAL, Errno::NOSYS, Errno::OPNOTSUPP]
        .iter()
        .any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}

/// A part of a file, by where it begins and ends.
pub(super) type Span = (u64, u64);

/// Parts of a file: none touches another, in rising order.
#[derive(Clone, Debug, Default)]
struct Spans(Vec<Span>);

impl Spans {
    fn bytes(&self) -> u64 {
        self.0.iter().map(|(start, end)| end - start).sum()
    }

    fn add(&mut self, mut new: Span) {
        self.0.retain(|&(start, end)| {
            let apart = end < new.0 || new.1 < start;
            if !apart {
                new = (new.0.min(start), new.1.max(end));
            }
            apart
        });
        self.0.push(new);
        self.0.sort_unstable();
        if let ([(start, _), .., (_, end)], true) = (&self.0[..], self.0.len() > PARTS_MAX) {
            self.0 = vec![(*start, *end)];
        }
    }

    fn cut(&mut self, gone: Span) {
        let parts = self.0.iter().flat_map(|&(start, end)| {
            [(start, end.min(gone.0)), (start.max(gone.1), end)]
                .into_iter()
                .filter(|(start, end)| start < end)
        });
        self.0 = parts.collect();
    }
}

/// The file of a region, and the room that it takes among those of its tenant.
#[derive(Debug)]
pub(super) struct Held {
    file: Arc<Shared>,
    /// `None` while it is dropped.
    slot: Option<Slot>,
    span: Span,
    written: AtomicBool,
}

impl Held {
    pub(super) fn file(&self) -> &OwnedFd {
        &self.file.file
    }

    /// To be called before the first byte is written.
    pub(super) fn will_be_written(&self) {
        // Relaxed: whoever drops it has seen what everybody did who used it.
        self.written.store(true, Ordering::Relaxed);
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.file.regions.fetch_sub(1, Ordering::Relaxed);
        if let Some(slot) = self.slot.take()
            && *self.written.get_mut()
        {
            let owner = slot.owner().clone();
            owner.leave(&self.file, slot, self.span);
        }
    }
}

/// What is left of the regions in one file.
#[derive(Debug)]
struct Left {
    file: Arc<Shared>,
    /// As large as the parts together.
    slot: Slot,
    parts: Spans,
    /// Changes with what was left last.
    number: u64,
}

fn next_number() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    // Relaxed: it only has to be another one each time.
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// What is left of a tenant's regions.
#[derive(Debug, Default)]
pub(super) struct Leavings {
    files: HashMap<FileId, Left>,
    /// Somebody looks at them from time to time.
    watched: bool,
}

impl Leavings {
    /// How many files there are, and what counts for them.
    pub(super) fn sum(&self) -> (usize, u64) {
        (self.files.len(), self.files.values().map(|left| left.slot.bytes()).sum())
    }
}

impl Owner {
    /// Keeps what is left of a region.
    fn leave(self: &Arc<Self>, file: &Arc<Shared>, mut slot: Slot, span: Span) {
        // Whoever writes a byte makes a page.
        let page = page_size() as u64;
        let span = (span.0 / page * page, span.1.next_multiple_of(page));
        // On a thread without a runtime it is kept as well, and looked at with the next one.
        let runtime = tokio::runtime::Handle::try_current().ok();
        let mut leavings = self.leavings();
        let surplus = match leavings.files.get_mut(&file.id) {
            Some(left) => {
                left.parts.add(span);
                left.slot.set(left.parts.bytes());
                left.number = next_number();
                Some(slot)
            }
            None => {
                slot.set(span.1 - span.0);
                let left = Left { file: file.clone(), slot, parts: Spans(vec![span]), number: next_number() };
                leavings.files.insert(file.id, left);
                None
            }
        };
        if let Some(runtime) = runtime
            && !std::mem::replace(&mut leavings.watched, true)
        {
            runtime.spawn(watch(self.clone()));
        }
        drop(leavings);
        drop(surplus);
    }

    /// Closes the files that are gone.
    pub(super) fn close_gone(&self) {
        let files: Vec<(u64, Arc<Shared>)> =
            self.leavings().files.values().map(|left| (left.number, left.file.clone())).collect();
        // Not under the lock: emptying a file of gigabytes takes a while.
        for (number, file) in files.iter().filter(|(_, file)| file.is_gone()) {
            let mut leavings = self.leavings();
            // Meanwhile it may have been registered again, written to, and left again.
            let is_same = leavings.files.get(&file.id).is_some_and(|left| left.number == *number);
            let left = if is_same { leavings.files.remove(&file.id) } else { None };
            drop(leavings);
            drop(left);
        }
    }

    /// Room for a region. What is left of others where it lies becomes a part of it, and counts for it.
    pub(super) fn hold(self: &Arc<Self>, id: FileId, file: OwnedFd, span: Span) -> Result<Held, Status> {
        self.close_gone();
        let mut leavings = self.leavings();
        let mut written = false;
        let mut before = None;
        if let Some(left) = leavings.files.get_mut(&id) {
            let all = left.parts.clone();
            left.parts.cut(span);
            left.slot.set(left.parts.bytes());
            written = all.bytes() > left.parts.bytes();
            before = Some(all);
        }
        // It is all or nothing: nobody else changes what is left meanwhile.
        let reserved = self.reserve(span.1 - span.0, leavings.sum());
        let spent = match (&reserved, leavings.files.get_mut(&id), before) {
            (Err(_), Some(left), Some(before)) => {
                left.slot.set(before.bytes());
                left.parts = before;
                None
            }
            (Ok(_), Some(left), _) if left.parts.0.is_empty() => leavings.files.remove(&id),
            _ => None,
        };
        let held = reserved.map(|slot| Held {
            file: self.files().share(id, file),
            slot: Some(slot),
            span,
            written: AtomicBool::new(written),
        });
        drop(leavings);
        drop(spent);
        held
    }

    /// Closes all of them, whatever is in them.
    pub(super) fn forget(&self) {
        let all = std::mem::take(&mut self.leavings().files);
        drop(all);
    }
}

/// Looks at what a tenant left, for as long as there is something.
async fn watch(owner: Arc<Owner>) {
    loop {
        tokio::time::sleep(LOOK_INTERVAL).await;
        let looking = owner.clone();
        let _ = tokio::task::spawn_blocking(move || looking.close_gone()).await;
        let mut leavings = owner.leavings();
        if leavings.files.is_empty() {
            leavings.watched = false;
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn many_parts_become_one() {
        let mut spans = Spans::default();
        (0..PARTS_MAX as u64).for_each(|at| spans.add((2 * at, 2 * at + 1)));
        assert_eq!(spans.bytes(), PARTS_MAX as u64);
        spans.add((1000, 1001));
        assert_eq!(spans.0, [(0, 1001)]);
    }

    proptest! {
        #[test]
        fn parts_are_as_a_set_of_bytes_is(steps in proptest::collection::vec((any::<bool>(), 0u64..40, 1u64..20), 0..20)) {
            let mut spans = Spans::default();
            let mut bytes = std::collections::BTreeSet::new();
            for (adds, start, length) in steps {
                let span = (start, start + length);
                if adds {
                    spans.add(span);
                    bytes.extend(span.0..span.1);
                } else {
                    spans.cut(span);
                    bytes.retain(|byte| !(span.0..span.1).contains(byte));
                }
                let all: Vec<u64> = spans.0.iter().flat_map(|&(start, end)| start..end).collect();
                prop_assert!(all.iter().eq(bytes.iter()), "{spans:?}");
                prop_assert_eq!(spans.bytes(), bytes.len() as u64);
            }
        }
    }
}
