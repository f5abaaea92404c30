// SPDX-License-Identifier: Apache-2.0
//! Tells an event loop that answers came: a list of tokens, and a descriptor that can be read while it is not empty.

use std::os::fd::{AsRawFd as _, OwnedFd, RawFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Wake, Waker};

use pyo3::prelude::*;
use rustix::event::{EventfdFlags, eventfd};

/// Which requests are worth polling.
#[pyclass(frozen, module = "diolkos._native")]
pub(crate) struct Arrivals {
    queue: Arc<Queue>,
}

struct Queue {
    tokens: Mutex<Vec<u64>>,
    /// Counts up when the list was empty.
    event: OwnedFd,
}

impl Queue {
    fn tokens(&self) -> MutexGuard<'_, Vec<u64>> {
        // Nothing below panics while it holds the lock.
        self.tokens.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One request's.
struct Notice {
    queue: Arc<Queue>,
    token: u64,
}

impl Wake for Notice {
    // On a thread that receives answers: it takes no lock but that of the list.
    fn wake(self: Arc<Self>) {
        let mut tokens = self.queue.tokens();
        let was_empty = tokens.is_empty();
        tokens.push(self.token);
        drop(tokens);
        if was_empty {
            // A counter at its end can be read as well.
            let _ = rustix::io::write(&self.queue.event, &1u64.to_ne_bytes());
        }
    }
}

impl Arrivals {
    /// Wakes by putting `token` on the list.
    pub(crate) fn waker(&self, token: u64) -> Waker {
        Waker::from(Arc::new(Notice { queue: self.queue.clone(), token }))
    }
}

#[pymethods]
impl Arrivals {
    #[new]
    fn new() -> PyResult<Arrivals> {
        let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .map_err(|error| PyErr::from(std::io::Error::from(error)))?;
        Ok(Arrivals { queue: Arc::new(Queue { tokens: Mutex::default(), event }) })
    }

    /// The descriptor.
    fn fileno(&self) -> RawFd {
        self.queue.event.as_raw_fd()
    }

    /// The list, which is empty then.
    fn take(&self) -> Vec<u64> {
        // Before the list: whoever finds it empty afterwards writes again. Nothing to read is no harm.
        let _ = rustix::io::read(&self.queue.event, &mut [0; 8]);
        std::mem::take(&mut *self.queue.tokens())
    }
}
