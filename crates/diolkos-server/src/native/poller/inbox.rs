// SPDX-License-Identifier: Apache-2.0
//! What other threads ask of the one that leads.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::event::{EventfdFlags, eventfd};

use super::Channel;

/// Something to be done.
pub(super) enum Command {
    /// Serve this channel from now on.
    Add(u64, Box<dyn Channel>),
    /// Drop it.
    Remove(u64),
    /// End.
    Stop,
}

/// Commands that were not carried out yet.
pub(super) struct Inbox {
    commands: Mutex<Vec<Command>>,
    any: AtomicBool,
    /// Watched edge-triggered and never read.
    pub(super) bell: OwnedFd,
}

impl Inbox {
    pub(super) fn new() -> io::Result<Inbox> {
        let bell = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Inbox { commands: Mutex::default(), any: AtomicBool::new(false), bell })
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Command>> {
        // Nothing below panics while it holds the lock.
        self.commands.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn send(&self, command: Command) {
        self.lock().push(command);
        self.any.store(true, Ordering::Release);
        self.ring();
    }

    /// Wakes whoever leads, or, if nobody does, somebody who will.
    pub(super) fn ring(&self) {
        // Full means that it was rung often enough.
        let _ = rustix::io::write(&self.bell, &1u64.to_ne_bytes());
    }

    /// Takes what there is. Costs one atomic load if there is nothing.
    pub(super) fn take(&self) -> Vec<Command> {
        if !self.any.load(Ordering::Relaxed) || !self.any.swap(false, Ordering::Acquire) {
            return Vec::new();
        }
        std::mem::take(&mut *self.lock())
    }
}
