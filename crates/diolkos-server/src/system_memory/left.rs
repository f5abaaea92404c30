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
//! has the file, to the other. What is left of it is one part, from the first byte to the last that was in a region.

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

use super::owner::{Owner, Slot};
use crate::logging::limited;

/// How long memory may stay that nobody has any more.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

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
type Span = (u64, u64);

fn hull(one: Span, other: Span) -> Span {
    (one.0.min(other.0), one.1.max(other.1))
}

/// The file of a region, and the room that it takes among those of its tenant.
#[derive(Debug)]
pub(super) struct Held {
    file: Arc<Shared>,
    /// `None` while it is dropped.
    slot: Option<Slot>,
    /// The region, and what was left of others when it was registered.
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
            owner.leave(Left::new(self.file.clone(), slot, self.span));
        }
    }
}

/// What is left of the regions in one file.
#[derive(Debug)]
struct Left {
    file: Arc<Shared>,
    slot: Slot,
    span: Span,
    /// Tells it from what was left of the same file before.
    number: u64,
}

impl Left {
    fn new(file: Arc<Shared>, slot: Slot, span: Span) -> Left {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        // Relaxed: it only has to be another one each time.
        Left { file, slot, span, number: NEXT.fetch_add(1, Ordering::Relaxed) }
    }
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
    fn leave(self: &Arc<Self>, mut left: Left) {
        // On a thread without a runtime it is kept as well, and looked at with the next one.
        let runtime = tokio::runtime::Handle::try_current().ok();
        let mut leavings = self.leavings();
        let other = leavings.files.remove(&left.file.id);
        if let Some(other) = &other {
            left.span = hull(left.span, other.span);
            left.slot.take_over(&other.slot, left.span.1 - left.span.0);
        }
        leavings.files.insert(left.file.id, left);
        if let Some(runtime) = runtime
            && !std::mem::replace(&mut leavings.watched, true)
        {
            runtime.spawn(watch(self.clone()));
        }
        drop(leavings);
        drop(other);
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

    /// Room for a region. What is left of others in the same file becomes a part of it.
    pub(super) fn hold(
        self: &Arc<Self>,
        files: &Files,
        id: FileId,
        file: OwnedFd,
        span: Span,
    ) -> Result<Held, Status> {
        self.close_gone();
        let earlier = self.leavings().files.remove(&id);
        let Some(mut earlier) = earlier else {
            let slot = Some(self.reserve(span.1 - span.0)?);
            return Ok(Held { file: files.share(id, file), slot, span, written: AtomicBool::new(false) });
        };
        let whole = hull(span, earlier.span);
        if let Err(status) = earlier.slot.grow(whole.1 - whole.0) {
            self.leave(earlier);
            return Err(status);
        }
        let Left { slot, .. } = earlier;
        let written = AtomicBool::new(true);
        Ok(Held { file: files.share(id, file), slot: Some(slot), span: whole, written })
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
