// SPDX-License-Identifier: Apache-2.0
//! What goes into the engine and what comes out.

use std::fmt;
use std::sync::Arc;

use diolkos_backend::Tensor;
pub use diolkos_backend::endpoint::{NamedTensor, Request, Timing};
use diolkos_types::{JobId, Status};

use crate::explain::Scheduled;
use crate::store::LoadedVersion;

/// The outputs of a job that succeeded.
#[derive(Clone)]
pub struct Outputs {
    /// What ran; its signature names the outputs.
    pub version: Arc<LoadedVersion>,
    /// Index in the signature's outputs, and the value, in the wanted order; those that could be are at the request's destination.
    pub tensors: Vec<(usize, Tensor)>,
}

impl Outputs {
    /// Names and values.
    pub fn named(&self) -> impl Iterator<Item = (&str, &Tensor)> {
        let specs = &self.version.signature.outputs;
        self.tensors.iter().map(move |(index, tensor)| (&*specs[*index].name, tensor))
    }
}

impl fmt::Debug for Outputs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.named()).finish()
    }
}

/// The one end of a request.
#[derive(Debug)]
pub struct Reply {
    /// Which job this was.
    pub job: JobId,
    /// Outputs, or why there are none.
    pub result: Result<Outputs, Status>,
    /// Where the time went; zero where it never got to.
    pub timing: Timing,
    /// What the scheduler did with it; `None` = it was refused before it became a job.
    pub scheduled: Option<Scheduled>,
}

/// Takes the reply. Called exactly once, from any thread; must not block.
pub trait ReplySink: Send {
    /// Takes the reply.
    fn complete(self: Box<Self>, reply: Reply);
}

impl<F: FnOnce(Reply) + Send> ReplySink for F {
    fn complete(self: Box<Self>, reply: Reply) {
        self(reply);
    }
}
