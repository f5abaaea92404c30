// SPDX-License-Identifier: Apache-2.0
//! What goes into the engine and what comes out.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use diolkos_backend::Tensor;
use diolkos_types::{HandleId, JobId, Params, Status};

use crate::sched::Class;
use crate::store::LoadedVersion;

/// A tensor and the name it goes by.
#[derive(Clone, Debug)]
pub struct NamedTensor {
    /// Name in the operation's signature.
    pub name: Box<str>,
    /// The value.
    pub tensor: Tensor,
}

/// What a front asks for, after decoding and before any check of it.
#[derive(Clone, Debug)]
pub struct Request {
    /// What to run, from [`crate::Session::open`].
    pub handle: HandleId,
    /// Parameters for the operation.
    pub params: Params,
    /// Inputs, in any order.
    pub inputs: Vec<NamedTensor>,
    /// Names of the wanted outputs in the wanted order; `None` means all.
    pub outputs: Option<Vec<Box<str>>>,
    /// Which of the tenant's own requests go first.
    pub class: Class,
    /// A job that has not begun by then never runs.
    pub deadline: Option<Instant>,
}

impl Request {
    /// A request without inputs, parameters or deadline, for all outputs.
    #[must_use]
    pub fn new(handle: HandleId) -> Request {
        Request {
            handle,
            params: Params::new(),
            inputs: Vec::new(),
            outputs: None,
            class: Class::default(),
            deadline: None,
        }
    }
}

/// Where the time of one job went.
#[derive(Clone, Copy, Debug, Default)]
pub struct Timing {
    /// From admission until a slot took the job.
    pub queue: Duration,
    /// Bringing inputs to where the backend reads them.
    pub copy_in: Duration,
    /// Computing.
    pub compute: Duration,
    /// Handing outputs over.
    pub copy_out: Duration,
}

impl Timing {
    /// All of it.
    #[must_use]
    pub fn total(&self) -> Duration {
        self.queue + self.copy_in + self.compute + self.copy_out
    }
}

/// The outputs of a job that succeeded.
#[derive(Clone)]
pub struct Outputs {
    /// What ran; its signature names the outputs.
    pub version: Arc<LoadedVersion>,
    /// Index in the signature's outputs, and the value, in the wanted order.
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
