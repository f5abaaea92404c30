// SPDX-License-Identifier: Apache-2.0
//! An endpoint in this process. Its tensors are handed over as they are: nothing is copied on the way.

use std::collections::HashMap;
use std::num::NonZeroU64;
use std::sync::mpsc::{self, RecvTimeoutError, TryRecvError};
use std::sync::{Arc, Mutex, MutexGuard, Once, PoisonError};
use std::task::{Context, Poll};
use std::time::Instant;

use bytes::Bytes;
use diolkos_backend::endpoint::{self, Cancel, Class, Endpoint, ModelRow, NamedTensor, Request, StatsRow};
use diolkos_backend::{Buffer, Tensor};
use diolkos_types::{BuildSpread, Code, Status};
use diolkos_wire::{
    Failed, HealthReply, Inferred, Message, ModelEntry, ModelOpened, ModelState, Models, Place, StatsEntry,
    StatsReply, TensorRef, Timing,
};

use crate::board::{Board, Kept, Source};
use crate::connection::{Answered, Payload, Sent};
use crate::error::Error;
use crate::memory::Storage;
use crate::pending::Asked;
use crate::stream::Answer;

/// An endpoint, and the requests that it has.
pub(crate) struct Local {
    endpoint: Arc<dyn Endpoint>,
    answers: Arc<Board<Answered>>,
    arrivals: Arc<Arrivals>,
    send: mpsc::Sender<(u64, Answered)>,
    under_way: Mutex<UnderWay>,
    /// A thread that receives for tasks, once there is one.
    receiver: Once,
}

#[derive(Default)]
struct UnderWay {
    last: u64,
    cancels: HashMap<u64, Box<dyn Cancel>, BuildSpread>,
}

/// Where the endpoint's threads put answers.
struct Arrivals(Mutex<mpsc::Receiver<(u64, Answered)>>);

impl Source<Answered> for Arrivals {
    fn receive(&self, until: Option<Instant>) -> Result<Option<(u64, Answered)>, Error> {
        let arrivals = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let over = || Error::lost("the endpoint in this process has ended");
        let Some(until) = until else { return arrivals.recv().map(Some).map_err(|_| over()) };
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return match arrivals.try_recv() {
                Ok(answer) => Ok(Some(answer)),
                Err(TryRecvError::Empty) => Ok(None),
                Err(TryRecvError::Disconnected) => Err(over()),
            };
        }
        match arrivals.recv_timeout(left) {
            Ok(answer) => Ok(Some(answer)),
            Err(RecvTimeoutError::Timeout) => Ok(None),
            Err(RecvTimeoutError::Disconnected) => Err(over()),
        }
    }
}

impl Local {
    pub(crate) fn new(endpoint: Arc<dyn Endpoint>) -> Local {
        let (send, receive) = mpsc::channel();
        Local {
            endpoint,
            answers: Arc::default(),
            arrivals: Arc::new(Arrivals(Mutex::new(receive))),
            send,
            under_way: Mutex::default(),
            receiver: Once::new(),
        }
    }

    fn under_way(&self) -> MutexGuard<'_, UnderWay> {
        // Nothing below panics while it holds the lock.
        self.under_way.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn ended(&self) -> Option<Error> {
        self.answers.ended()
    }

    pub(crate) fn close(&self, error: &Error) {
        self.answers.end(error);
        let cancels = std::mem::take(&mut self.under_way().cancels);
        cancels.into_values().for_each(|cancel| cancel.cancel());
    }

    /// Asks what is no inference.
    pub(crate) fn call(&self, message: &Message) -> Answer {
        let answer = self.answer(message).unwrap_or_else(|status| Message::Failed(Failed::from(&status)));
        Answer { parts: vec![answer], payload: Storage::private(0), descriptors: Vec::new() }
    }

    fn answer(&self, message: &Message) -> Result<Message, Status> {
        let endpoint = &self.endpoint;
        match message {
            Message::OpenModel(open) => {
                let opened = endpoint.open(&open.name, open.version.map(NonZeroU64::get))?;
                let endpoint::Opened { handle, version, signature } = opened;
                Ok(Message::ModelOpened(ModelOpened { handle, version, signature: (*signature).clone() }))
            }
            Message::CloseModel(close) => {
                endpoint.close(close.handle);
                Ok(Message::Done)
            }
            Message::List => {
                let models = endpoint.models()?.into_iter().map(model_entry).collect();
                Ok(Message::Models(Models { models }))
            }
            Message::Stats(stats) => {
                let name = Some(&*stats.name).filter(|name| !name.is_empty());
                let models = endpoint.stats(name)?.into_iter().map(stats_entry).collect();
                Ok(Message::StatsReply(StatsReply { models }))
            }
            Message::Load(load) => endpoint.load(&load.name).map(|()| Message::Done),
            Message::Unload(unload) => endpoint.unload(&unload.name).map(|()| Message::Done),
            Message::Health => {
                Ok(Message::HealthReply(HealthReply { live: true, ready: endpoint.is_ready() }))
            }
            other => Err(Status::new(
                Code::Unsupported,
                format!("`{:?}` means nothing to an endpoint in this process", other.kind()),
            )),
        }
    }

    pub(crate) fn tell(&self, message: &Message) {
        let _ = self.call(message);
    }

    /// Hands a request over. Its inputs are lent: they come back with the answer.
    pub(crate) fn infer(&self, asked: &mut Asked) -> Result<Sent, Error> {
        // Answers that nobody waited for would stay where they are.
        self.reap();
        let id = {
            let mut under_way = self.under_way();
            under_way.last += 1;
            under_way.last
        };
        let request = request(asked);
        self.answers.enter(id)?;
        let (send, signature) = (self.send.clone(), asked.opened.signature.clone());
        let done = move |result: Result<endpoint::Inferred, Status>| {
            // The receiver is gone if the client is.
            let _ = send.send((id, answered(result, &signature)));
        };
        let cancel = self.endpoint.submit(request, Box::new(done));
        self.under_way().cancels.insert(id, cancel);
        Ok(Sent::Stream(id))
    }

    pub(crate) fn wait(&self, sent: Sent, until: Option<Instant>) -> Result<Option<Answered>, Error> {
        let id = number(sent);
        let answered = self.answers.wait(id, until, &*self.arrivals)?;
        if answered.is_some() {
            self.under_way().cancels.remove(&id);
        }
        Ok(answered)
    }

    pub(crate) fn poll(&self, sent: Sent, context: &mut Context<'_>) -> Poll<Result<Answered, Error>> {
        self.receiver.call_once(|| {
            let (answers, arrivals) = (self.answers.clone(), self.arrivals.clone());
            let thread = std::thread::Builder::new().name("diolkos-receiver".into());
            // It ends when the last sender is gone: this connection's, and those of requests under way.
            if let Err(error) = thread.spawn(move || answers.serve(&*arrivals)) {
                self.answers.end(&Error::lost(format!("no thread to receive on: {error}")));
            }
        });
        let id = number(sent);
        let answered = std::task::ready!(self.answers.poll(id, context));
        self.under_way().cancels.remove(&id);
        Poll::Ready(answered)
    }

    pub(crate) fn cancel(&self, sent: Sent, kept: Kept) {
        let id = number(sent);
        self.answers.abandon(id, kept);
        let cancel = self.under_way().cancels.remove(&id);
        // Outside of the lock: it may answer at once, and on this thread.
        if let Some(cancel) = cancel {
            cancel.cancel();
        }
    }

    pub(crate) fn reap(&self) {
        self.answers.reap(&*self.arrivals);
    }
}

fn number(sent: Sent) -> u64 {
    match sent {
        Sent::Stream(id) | Sent::Ring(id) => id,
    }
}

/// The endpoint's request. The inputs' bytes are read by both sides from now on.
fn request(asked: &mut Asked) -> Request {
    let opened = &asked.opened;
    let inputs = asked.inputs.iter_mut().map(|(index, tensor)| {
        let lent = tensor.storage.lend();
        NamedTensor {
            // A position that does not exist was refused before.
            name: opened.signature.inputs[usize::from(*index)].name.clone(),
            tensor: Tensor {
                data_type: tensor.data_type,
                shape: tensor.shape,
                data: Buffer::from(Bytes::from_owner(lent)),
            },
        }
    });
    let outputs = asked.outputs.as_ref().map(|outputs| {
        let name = |&index: &u16| opened.signature.outputs[usize::from(index)].name.clone();
        outputs.iter().map(name).collect()
    });
    Request {
        params: asked.options.params.clone(),
        inputs: inputs.collect(),
        outputs,
        class: match asked.options.class {
            diolkos_wire::Class::Interactive => Class::Interactive,
            diolkos_wire::Class::Standard => Class::Standard,
            diolkos_wire::Class::Batch => Class::Batch,
        },
        // A timeout past the end of the clock is none.
        deadline: asked.options.timeout.and_then(|timeout| Instant::now().checked_add(timeout)),
        ..Request::new(opened.handle)
    }
}

fn answered(result: Result<endpoint::Inferred, Status>, signature: &diolkos_types::Signature) -> Answered {
    let inferred = match result {
        Ok(inferred) => inferred,
        Err(status) => return Answered::of_ring(Message::Failed(Failed::from(&status))),
    };
    let mut payload = Vec::with_capacity(inferred.outputs.len());
    let outputs = inferred.outputs.into_iter().filter_map(|NamedTensor { name, tensor }| {
        // A model that was replaced meanwhile may give what this one did not.
        let index = signature.outputs.iter().position(|spec| spec.name == name)?;
        let place = Place::Stream { length: tensor.data.len() as u64 };
        payload.push(Storage::Given(tensor.data.to_private()));
        let index = u16::try_from(index).ok()?;
        Some(TensorRef { index, data_type: tensor.data_type, shape: tensor.shape, place })
    });
    let outputs = outputs.collect();
    let inferred = Inferred { version: inferred.version, timing: timing(&inferred.timing), outputs };
    Answered { message: Message::Inferred(inferred), payload: Payload::Each(payload) }
}

fn timing(timing: &endpoint::Timing) -> Timing {
    let ns = |time: std::time::Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
    Timing {
        queue_ns: ns(timing.queue),
        copy_in_ns: ns(timing.copy_in),
        compute_ns: ns(timing.compute),
        copy_out_ns: ns(timing.copy_out),
    }
}

fn model_entry(row: ModelRow) -> ModelEntry {
    ModelEntry {
        name: row.name,
        version: row.version.and_then(NonZeroU64::new),
        state: match row.state {
            endpoint::ModelState::Ready => ModelState::Ready,
            endpoint::ModelState::Loading => ModelState::Loading,
            endpoint::ModelState::Unavailable => ModelState::Unavailable,
            endpoint::ModelState::Failed => ModelState::Failed,
        },
        reason: row.reason.into(),
    }
}

fn stats_entry(row: StatsRow) -> StatsEntry {
    StatsEntry {
        name: row.name,
        version: row.version,
        succeeded: row.succeeded,
        failed: row.failed,
        executions: row.executions,
        timing: timing(&row.timing),
    }
}
