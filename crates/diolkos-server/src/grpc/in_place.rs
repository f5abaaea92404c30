// SPDX-License-Identifier: Apache-2.0
//! Work that has to happen inside a `poll` and takes longer than an I/O thread may be away.
//!
//! tonic inflates, deflates and decodes where it polls. Most messages are raw tensors, whose decoding is a
//! memcpy; the others — compressed ones, long lists of typed values — go through here, where the thread
//! first hands its other tasks to a fresh one (`tokio::task::block_in_place`).

use std::pin::Pin;
use std::task::{Context, Poll};

use hyper::body::{Body, Frame, SizeHint};
use tokio::runtime::{Handle, RuntimeFlavor};

/// Runs `work` without holding up the tasks that share the thread.
pub(crate) fn run<T>(work: impl FnOnce() -> T) -> T {
    match Handle::try_current() {
        Ok(handle) if handle.runtime_flavor() == RuntimeFlavor::MultiThread => {
            tokio::task::block_in_place(work)
        }
        // A runtime with one thread has nobody to hand over to.
        _ => work(),
    }
}

/// A future or body every poll of which may take long.
pub(crate) struct InPlace<T>(pub(crate) Pin<Box<T>>);

impl<F: Future> Future for InPlace<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        run(|| self.0.as_mut().poll(context))
    }
}

impl<B: Body> Body for InPlace<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        run(|| self.0.as_mut().poll_frame(context))
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.0.size_hint()
    }
}
