// SPDX-License-Identifier: Apache-2.0
//! What is left of regions that the daemon wrote into.
//!
//! The kernel counts a page of a tmpfs to whoever made it, until it is gone, and pages of outputs are made by the daemon: stock clients
//! leave them to it. A client that unregisters a region and keeps the file would so fill the memory that is counted to
//! us. Therefore such a region goes on counting to its user until its pages are gone:
//!
//! ```text
//! unregistered ──> left ──name removed, and nobody has the file──> emptied, closed
//!                   │ ├──its client emptied it──────────────────> closed
//!                   │ └──registered again───────────────────────> a region
//!                   └─ looked at when its user registers something, and once a second
//! ```

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use diolkos_shm::alone::Alone;
use diolkos_types::Status;
use rustix::fd::{AsFd as _, OwnedFd};
use rustix::fs::{fstat, ftruncate};

use super::owner::{Owner, Slot};

/// How long memory may stay that nobody has any more.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// A part of a file, whatever the file is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Span {
    /// Device and number of the file.
    pub(super) file: (u64, u64),
    /// Where it begins.
    pub(super) start: u64,
    /// Where it ends.
    pub(super) end: u64,
}

impl Span {
    fn covers(&self, other: &Span) -> bool {
        self.file == other.file && self.start <= other.start && other.end <= self.end
    }
}

/// The file of a region, and the room that it takes among those of its user.
#[derive(Debug)]
pub(super) struct Held {
    /// `None` while it is dropped.
    left: Option<Left>,
    written: AtomicBool,
}

/// A file that is kept, because pages may be in it that the daemon made.
#[derive(Debug)]
pub(super) struct Left {
    file: OwnedFd,
    slot: Slot,
    span: Span,
}

impl Held {
    /// `written`: it was, in an earlier region.
    fn new(file: OwnedFd, slot: Slot, span: Span, written: bool) -> Held {
        Held { left: Some(Left { file, slot, span }), written: AtomicBool::new(written) }
    }

    pub(super) fn file(&self) -> &OwnedFd {
        &self.left.as_ref().expect("it is there until it is dropped").file
    }

    /// To be called before the first byte is written.
    pub(super) fn will_be_written(&self) {
        // Relaxed: whoever drops it has seen what everybody did who used it.
        self.written.store(true, Ordering::Relaxed);
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Some(left) = self.left.take()
            && *self.written.get_mut()
        {
            let owner = left.slot.owner().clone();
            owner.leave(left);
        }
    }
}

impl Left {
    /// Whether nothing of it is counted to us any more, or will be when it is closed.
    fn is_gone(&self) -> bool {
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
            // It can't be told, to a daemon that is neither root nor its client's user. Who removed the name is believed.
            Err(_) => true,
        }
    }
}

/// What is left of a user's regions.
#[derive(Debug, Default)]
pub(super) struct Leavings {
    all: Vec<Left>,
    /// Somebody looks at them from time to time.
    watched: bool,
}

impl Leavings {
    /// How many there are, and their size.
    pub(super) fn sum(&self) -> (usize, u64) {
        (self.all.len(), self.all.iter().map(|left| left.span.end - left.span.start).sum())
    }
}

impl Owner {
    /// Keeps what is left of a region.
    fn leave(self: &Arc<Self>, left: Left) {
        // On a thread without a runtime it is kept as well, and looked at with the next one.
        let runtime = tokio::runtime::Handle::try_current().ok();
        let mut leavings = self.leavings();
        leavings.all.push(left);
        if let Some(runtime) = runtime
            && !std::mem::replace(&mut leavings.watched, true)
        {
            runtime.spawn(watch(self.clone()));
        }
    }

    /// Closes the files that are gone.
    pub(super) fn close_gone(&self) {
        // Not under the lock: closing gives room back.
        let all = std::mem::take(&mut self.leavings().all);
        let (_gone, there): (Vec<Left>, Vec<Left>) = all.into_iter().partition(Left::is_gone);
        self.leavings().all.extend(there);
    }

    /// Room for a region. It takes the place of what is left of earlier ones there.
    pub(super) fn hold(self: &Arc<Self>, file: OwnedFd, span: Span) -> Result<Held, Status> {
        self.close_gone();
        let bytes = span.end - span.start;
        let mut earlier: Vec<Left> =
            self.leavings().all.extract_if(.., |left| span.covers(&left.span)).collect();
        let Some(mut last) = earlier.pop() else {
            return Ok(Held::new(file, self.reserve(bytes)?, span, false));
        };
        if let Err(status) = last.slot.resize(bytes) {
            earlier.push(last);
            earlier.into_iter().for_each(|left| self.leave(left));
            return Err(status);
        }
        Ok(Held::new(file, last.slot, span, true))
    }

    /// Closes all of them, whatever is in them.
    pub(super) fn forget(&self) {
        let all = std::mem::take(&mut self.leavings().all);
        drop(all);
    }
}

/// Looks at what a user left, for as long as there is something.
async fn watch(owner: Arc<Owner>) {
    loop {
        tokio::time::sleep(LOOK_INTERVAL).await;
        let looking = owner.clone();
        // Emptying a file of gigabytes takes a while.
        let _ = tokio::task::spawn_blocking(move || looking.close_gone()).await;
        let mut leavings = owner.leavings();
        if leavings.all.is_empty() {
            leavings.watched = false;
            return;
        }
    }
}
