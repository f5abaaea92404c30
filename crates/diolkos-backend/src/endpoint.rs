// SPDX-License-Identifier: Apache-2.0
//! Where requests can be sent: the engine in this process, or a daemon elsewhere. Both are an [`Endpoint`], so what
//! is written for one runs with the other.
//!
//! ```text
//! diolkos-client ──┐                   ┌──> engine in this process (`Engine::endpoint`)
//! a bridge       ──┼──> dyn Endpoint ──┤
//! a program      ──┘                   └──> daemon elsewhere (`diolkos_client::Client`)
//! ```

use std::sync::Arc;
use std::time::{Duration, Instant};

use diolkos_types::{HandleId, Params, Signature, Status};

use crate::Destination;
use crate::work::Tensor;

/// Which of a tenant's own jobs go first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Class {
    /// Somebody waits for the answer.
    Interactive,
    /// Nothing was said.
    #[default]
    Standard,
    /// Throughput counts and latency does not.
    Batch,
}

impl Class {
    /// As it is written everywhere.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Class::Interactive => "interactive",
            Class::Standard => "standard",
            Class::Batch => "batch",
        }
    }
}

/// A tensor and the name it goes by.
#[derive(Clone, Debug)]
pub struct NamedTensor {
    /// Name in the operation's signature.
    pub name: Box<str>,
    /// The value.
    pub tensor: Tensor,
}

/// What is asked for, before any check of it.
#[derive(Clone, Debug)]
pub struct Request {
    /// What to run, from [`Endpoint::open`].
    pub handle: HandleId,
    /// Parameters for the operation.
    pub params: Params,
    /// Inputs, in any order.
    pub inputs: Vec<NamedTensor>,
    /// Names of the wanted outputs in the wanted order; `None` means all.
    pub outputs: Option<Vec<Box<str>>>,
    /// Where the outputs may be written to as they are made, in that order; `None` = they come in memory of their own. No input
    /// may lie there.
    pub destination: Option<Destination>,
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
            destination: None,
            class: Class::default(),
            deadline: None,
        }
    }

    /// Size of the inputs together.
    #[must_use]
    pub fn input_bytes(&self) -> u64 {
        self.inputs.iter().map(|input| input.tensor.data.len() as u64).sum()
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

/// What came of a request that succeeded.
#[derive(Clone, Debug)]
pub struct Inferred {
    /// Version of the model that ran.
    pub version: u64,
    /// Where the time went.
    pub timing: Timing,
    /// The outputs, in the wanted order; those that could be are at their destination.
    pub outputs: Vec<NamedTensor>,
}

/// A model that was opened.
#[derive(Clone, Debug)]
pub struct Opened {
    /// What to name it by from now on, at this endpoint.
    pub handle: HandleId,
    /// The version that was current then.
    pub version: u64,
    /// What it takes and gives.
    pub signature: Arc<Signature>,
}

/// What a model does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ModelState {
    /// It serves.
    Ready,
    /// It is being loaded.
    Loading,
    /// It does not serve.
    Unavailable,
    /// It does not serve because loading it failed.
    Failed,
}

/// A model that there is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelRow {
    /// Its name.
    pub name: Box<str>,
    /// A version of it; `None` for one without any.
    pub version: Option<u64>,
    /// What it does.
    pub state: ModelState,
    /// Why it does not serve, if it does not.
    pub reason: String,
}

/// What a version of a model did so far.
#[derive(Clone, Debug)]
pub struct StatsRow {
    /// Its name.
    pub name: Box<str>,
    /// Which version.
    pub version: u64,
    /// Requests that succeeded.
    pub succeeded: u64,
    /// Requests that did not.
    pub failed: u64,
    /// Runs.
    pub executions: u64,
    /// Where the time of all of them went.
    pub timing: Timing,
}

/// Takes what came of a request. Called exactly once, from any thread; must not block.
pub type Done = Box<dyn FnOnce(Result<Inferred, Status>) + Send>;

/// Cancels a request that was submitted.
pub trait Cancel: Send + Sync {
    /// Says that nobody wants the answer any more. It comes all the same, if only to say that it was cancelled. For a
    /// request that was answered this does nothing.
    fn cancel(&self);
}

/// Somewhere that runs requests.
///
/// Contract for implementors:
///
/// * `submit` does not wait for the request to run (a client may have to connect again first), and every request is answered exactly once, however it ends: with
///   what it gave, or with a [`Status`] that says what was wrong.
/// * A handle means something only at the endpoint that gave it, until it is closed.
/// * The other calls may wait, for a model to be loaded for instance.
pub trait Endpoint: Send + Sync {
    /// Opens a model or a built-in operation; `version` pins one of its versions.
    fn open(&self, name: &str, version: Option<u64>) -> Result<Opened, Status>;

    /// Closes a handle. Requests that it admitted go on.
    fn close(&self, handle: HandleId);

    /// Takes a request on its way.
    fn submit(&self, request: Request, done: Done) -> Box<dyn Cancel>;

    /// The models that there are.
    fn models(&self) -> Result<Vec<ModelRow>, Status>;

    /// What a model did so far, or all of them.
    fn stats(&self, name: Option<&str>) -> Result<Vec<StatsRow>, Status>;

    /// Loads a model that is installed.
    fn load(&self, name: &str) -> Result<(), Status>;

    /// Unloads a model.
    fn unload(&self, name: &str) -> Result<(), Status>;

    /// Whether it would take requests now.
    fn is_ready(&self) -> bool;
}
