// SPDX-License-Identifier: Apache-2.0
//! A daemon elsewhere as an [`Endpoint`]: for a program that is written for whatever runs its requests.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Instant;

use bytes::Bytes;
use diolkos_backend::endpoint::{
    self, Cancel, Done, Endpoint, Inferred, ModelRow, NamedTensor, Opened, Request, StatsRow, Timing,
};
use diolkos_backend::{Buffer, Tensor};
use diolkos_types::{BuildSpread, Code, HandleId, Signature, Status};
use diolkos_wire::{Class, ModelState};

use crate::client::Client;
use crate::error::Error;
use crate::model::Model;
use crate::pending::{Answer, Pending, Reply, RequestOptions};
use crate::tensor::{AnyTensor, Output};

/// A [`Client`] as an endpoint, with handles of its own.
pub struct RemoteEndpoint {
    client: Client,
    opened: Mutex<Table>,
}

#[derive(Default)]
struct Table {
    next: u32,
    models: HashMap<HandleId, Model, BuildSpread>,
}

impl Client {
    /// This client as an endpoint. Inputs are copied once, to where the daemon reads them; outputs stay where it put them.
    #[must_use]
    pub fn endpoint(&self) -> RemoteEndpoint {
        RemoteEndpoint { client: self.clone(), opened: Mutex::default() }
    }
}

impl RemoteEndpoint {
    fn table(&self) -> MutexGuard<'_, Table> {
        // Nothing below panics while it holds the lock.
        self.opened.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn send(&self, request: Request) -> Result<Pending, Status> {
        // Outputs come in memory of the connection, wherever they may go.
        let Request { handle, params, inputs, outputs, destination: _, class, deadline } = request;
        let model = self.table().models.get(&handle).cloned();
        let model = model.ok_or_else(|| Status::new(Code::NotFound, "the handle is not open"))?;
        if self.client.is_full() {
            let retry = std::time::Duration::from_millis(10);
            return Err(Status::busy("as many requests are under way as the channel has room for", retry));
        }
        let timeout = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        if timeout.is_some_and(|timeout| timeout.is_zero()) {
            return Err(Status::new(Code::DeadlineExceeded, "the deadline had passed before it was sent"));
        }
        let tensors = inputs.into_iter().map(|NamedTensor { name, tensor }| {
            let mut sent = self.client.tensor_of(tensor.data_type, tensor.shape.dims(), tensor.data.len())?;
            tensor.data.copy_to(sent.bytes_mut());
            Ok((name, sent))
        });
        let tensors = tensors.collect::<Result<Vec<(Box<str>, AnyTensor)>, Error>>().map_err(status)?;
        let options = RequestOptions {
            class: match class {
                endpoint::Class::Interactive => Class::Interactive,
                endpoint::Class::Standard => Class::Standard,
                endpoint::Class::Batch => Class::Batch,
            },
            timeout,
            params,
            outputs: outputs.map(|names| names.into_iter().map(String::from).collect()),
            once: false,
        };
        model.submit_with(tensors, options).map_err(status)
    }
}

impl Endpoint for RemoteEndpoint {
    fn open(&self, name: &str, version: Option<u64>) -> Result<Opened, Status> {
        let opened = match version {
            None => self.client.open(name),
            Some(version) => self.client.open_version(name, version),
        };
        let model = opened.map_err(status)?;
        let signature = Signature { inputs: model.inputs().into(), outputs: model.outputs().into() };
        let version = model.version();
        let mut table = self.table();
        let handle = HandleId { slot: table.next, generation: 0 };
        table.next = table.next.checked_add(1).ok_or_else(|| {
            Status::new(Code::Internal, "this endpoint has given all the handles there are; make another one")
        })?;
        table.models.insert(handle, model);
        Ok(Opened { handle, version, signature: Arc::new(signature) })
    }

    fn close(&self, handle: HandleId) {
        let closed = self.table().models.remove(&handle);
        // Outside of the lock: it tells the daemon.
        drop(closed);
    }

    fn submit(&self, request: Request, done: Done) -> Box<dyn Cancel> {
        let task = Arc::new(Task(Mutex::new(None)));
        match self.send(request) {
            Ok(pending) => {
                *task.lock() = Some((pending.into_future(), done));
                task.clone().wake();
            }
            Err(status) => done(Err(status)),
        }
        Box::new(CancelTask(task))
    }

    fn models(&self) -> Result<Vec<ModelRow>, Status> {
        let rows = self.client.models().map_err(status)?.into_iter().map(|model| ModelRow {
            name: model.name.into(),
            version: model.version,
            state: match model.state {
                ModelState::Ready => endpoint::ModelState::Ready,
                ModelState::Loading => endpoint::ModelState::Loading,
                ModelState::Unavailable => endpoint::ModelState::Unavailable,
                ModelState::Failed => endpoint::ModelState::Failed,
            },
            reason: model.reason,
        });
        Ok(rows.collect())
    }

    fn stats(&self, name: Option<&str>) -> Result<Vec<StatsRow>, Status> {
        let rows = self.client.stats(name).map_err(status)?.into_iter().map(|stats| StatsRow {
            name: stats.name.into(),
            version: stats.version,
            succeeded: stats.succeeded,
            failed: stats.failed,
            executions: stats.executions,
            timing: timing(stats.timing),
        });
        Ok(rows.collect())
    }

    fn load(&self, name: &str) -> Result<(), Status> {
        self.client.load(name).map_err(status)
    }

    fn unload(&self, name: &str) -> Result<(), Status> {
        self.client.unload(name).map_err(status)
    }

    fn is_ready(&self) -> bool {
        self.client.health().is_ok_and(|health| health.ready)
    }
}

impl fmt::Debug for RemoteEndpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RemoteEndpoint({:?})", self.client)
    }
}

/// A request under way, polled by whoever receives its answer. Empty once it was answered.
struct Task(Mutex<Option<(Answer, Done)>>);

impl Task {
    fn lock(&self) -> MutexGuard<'_, Option<(Answer, Done)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Wake for Task {
    fn wake(self: Arc<Self>) {
        let waker = Waker::from(self.clone());
        let mut state = self.lock();
        let Some((mut answer, done)) = state.take() else { return };
        match std::pin::Pin::new(&mut answer).poll(&mut Context::from_waker(&waker)) {
            Poll::Pending => *state = Some((answer, done)),
            Poll::Ready(result) => {
                drop(state);
                done(result.map(inferred).map_err(status));
            }
        }
    }
}

struct CancelTask(Arc<Task>);

impl Cancel for CancelTask {
    fn cancel(&self) {
        let under_way = self.0.lock().take();
        if let Some((answer, done)) = under_way {
            // Dropping it tells the daemon.
            drop(answer);
            done(Err(Status::new(Code::Cancelled, "the caller cancelled it")));
        }
    }
}

fn inferred(reply: Reply) -> Inferred {
    let (version, timing) = (reply.version, timing(reply.timing));
    let outputs = reply.into_outputs().into_iter().map(|output| {
        let (name, data_type, shape) = (output.name().into(), output.data_type(), output.shape);
        let data = Buffer::from(Bytes::from_owner(Owner(output)));
        NamedTensor { name, tensor: Tensor { data_type, shape, data } }
    });
    Inferred { version, timing, outputs: outputs.collect() }
}

/// An output where it lies.
struct Owner(Output);

impl AsRef<[u8]> for Owner {
    fn as_ref(&self) -> &[u8] {
        self.0.bytes()
    }
}

fn timing(timing: diolkos_wire::Timing) -> Timing {
    let ns = std::time::Duration::from_nanos;
    Timing {
        queue: ns(timing.queue_ns),
        copy_in: ns(timing.copy_in_ns),
        compute: ns(timing.compute_ns),
        copy_out: ns(timing.copy_out_ns),
    }
}

/// What went wrong on this side, in the words of the other.
fn status(error: Error) -> Status {
    match error {
        Error::Refused(status) => status,
        Error::Address(_) | Error::Invalid(_) => Status::invalid(error.to_string()),
        Error::Connect { .. } | Error::Lost { .. } => Status::new(Code::Unavailable, error.to_string()),
        Error::Timeout => Status::new(Code::DeadlineExceeded, error.to_string()),
        Error::Memory { .. } => Status::new(Code::Busy, error.to_string()),
        Error::Changed { .. } => Status::new(Code::Aborted, error.to_string()),
    }
}
