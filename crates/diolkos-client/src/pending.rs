// SPDX-License-Identifier: Apache-2.0
//! A request that was sent, and what came of it.

use std::fmt;
use std::num::NonZeroU64;
use std::ops::Range;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use diolkos_types::{Code, Params};
use diolkos_wire::{Class, Inferred, Message, Place, Timing};

use crate::board::Keep;
use crate::connection::{Answered, Connection, Payload, Sent, unexpected};
use crate::error::Error;
use crate::memory::Storage;
use crate::model::{Model, Opened};
use crate::tensor::{AnyTensor, Output};

/// What a request can say besides its inputs.
#[derive(Clone, Debug, Default)]
pub struct RequestOptions {
    /// Which of the tenant's own requests go first.
    pub class: Class,
    /// A request that has not begun in this time never runs.
    pub timeout: Option<Duration>,
    /// Parameters for the operation.
    pub params: Params,
    /// Names of the wanted outputs in the wanted order. Default: all.
    pub outputs: Option<Vec<String>>,
    /// Running it twice is not the same as running it once, so it is not sent again when the connection is lost.
    pub once: bool,
}

/// What is kept while a request is under way, to be used for its answer or for sending it again.
pub(crate) struct Asked {
    /// The model on the connection over which it is sent.
    pub(crate) opened: Arc<Opened>,
    /// Positions in the inputs, and values.
    pub(crate) inputs: Vec<(u16, AnyTensor)>,
    /// Positions of the wanted outputs.
    pub(crate) outputs: Option<Vec<u16>>,
    pub(crate) options: RequestOptions,
    /// Room for the outputs.
    pub(crate) room: Option<Storage>,
}

/// A request that got no reply, with its tensors in the order in which they were given.
#[derive(Debug, thiserror::Error)]
#[error("{error}")]
pub struct Unanswered {
    /// Why.
    pub error: Error,
    /// To be sent again, or used for something else.
    pub inputs: Vec<AnyTensor>,
}

impl From<Unanswered> for Error {
    fn from(unanswered: Unanswered) -> Error {
        unanswered.error
    }
}

/// A request that was sent. Dropping it cancels the request; its tensors are used again once the daemon is done
/// with them.
#[must_use = "dropping it cancels the request"]
pub struct Pending {
    model: Model,
    under_way: Option<UnderWay>,
}

/// Dropping it cancels the request.
struct UnderWay {
    connection: Arc<Connection>,
    sent: Sent,
    /// `None` once it was answered, or will never be.
    asked: Option<Asked>,
}

impl UnderWay {
    /// It is under way no more.
    fn end(&mut self) -> Asked {
        self.asked.take().expect("it ends once")
    }
}

impl Pending {
    pub(crate) fn send(model: Model, asked: Asked) -> Result<Pending, Unanswered> {
        let under_way = send_surely(&model, asked)?;
        Ok(Pending { model, under_way: Some(under_way) })
    }

    /// Waits for the reply.
    pub fn wait(mut self) -> Result<Reply, Error> {
        self.wait_until(None)?.ok_or(Error::Timeout)
    }

    /// Waits for the reply for so long. After that the request is cancelled: [`Error::Timeout`].
    pub fn wait_for(mut self, time: Duration) -> Result<Reply, Error> {
        // Dropping `self` cancels.
        self.try_wait(time)?.ok_or(Error::Timeout)
    }

    /// Waits for the reply for so long; [`Duration::MAX`] means for ever. `None`: it did not come, and can be waited for
    /// again. A failure gives the tensors back. After that, or after the reply, there is nothing to wait for.
    pub fn try_wait(&mut self, time: Duration) -> Result<Option<Reply>, Unanswered> {
        self.wait_until(Instant::now().checked_add(time))
    }

    fn wait_until(&mut self, until: Option<Instant>) -> Result<Option<Reply>, Unanswered> {
        loop {
            let Some(under_way) = &self.under_way else {
                let error = Error::invalid("the request was answered already");
                return Err(Unanswered { error, inputs: Vec::new() });
            };
            let answered = under_way.connection.wait(under_way.sent, until);
            match answered {
                Ok(Some(answered)) => {
                    let under_way = self.under_way.take().expect("it was just looked at");
                    match under_way.finish(&self.model, answered)? {
                        Finished::Reply(reply) => return Ok(Some(*reply)),
                        Finished::Again(asked) => {
                            self.under_way = Some(send_surely(&self.model, *asked)?);
                        }
                    }
                }
                Ok(None) => return Ok(None),
                Err(error) => {
                    let mut asked = self.under_way.take().expect("it was just looked at").end();
                    asked.give_up_room();
                    if asked.options.once || !matches!(error, Error::Lost { .. }) {
                        return Err(asked.unanswered(error));
                    }
                    self.under_way = Some(send_surely(&self.model, asked)?);
                }
            }
        }
    }
}

/// A request under way, for a task: see [`Pending::into_future`].
#[must_use = "dropping it cancels the request"]
pub struct Answer {
    pending: Pending,
    /// The request is being sent again on a thread of its own, because connecting waits.
    again: Option<Arc<Again>>,
}

/// What became of it, once that is known, and whom to wake then.
type Outcome = (Option<Result<UnderWay, Unanswered>>, Option<Waker>);

#[derive(Default)]
struct Again {
    state: Mutex<Outcome>,
}

/// A task waits for the reply by `pending.await`. It needs no particular runtime: a thread of the client receives and
/// wakes it.
impl IntoFuture for Pending {
    type Output = Result<Reply, Error>;
    type IntoFuture = Answer;

    fn into_future(self) -> Answer {
        Answer { pending: self, again: None }
    }
}

impl Future for Answer {
    type Output = Result<Reply, Error>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<Reply, Error>> {
        loop {
            if let Some(again) = &self.again {
                let mut state = again.state.lock().unwrap_or_else(PoisonError::into_inner);
                let Some(sent) = state.0.take() else {
                    state.1 = Some(context.waker().clone());
                    return Poll::Pending;
                };
                drop(state);
                self.again = None;
                self.pending.under_way = Some(sent?);
            }
            let Some(under_way) = &self.pending.under_way else {
                return Poll::Ready(Err(Error::lost("the answer was taken already")));
            };
            let answered = std::task::ready!(under_way.connection.poll(under_way.sent, context));
            let mut under_way = self.pending.under_way.take().expect("it was just looked at");
            let asked = match answered {
                Ok(answered) => match under_way.finish(&self.pending.model, answered)? {
                    Finished::Reply(reply) => return Poll::Ready(Ok(*reply)),
                    Finished::Again(asked) => *asked,
                },
                Err(error) => {
                    let mut asked = under_way.end();
                    asked.give_up_room();
                    if asked.options.once || !matches!(error, Error::Lost { .. }) {
                        return Poll::Ready(Err(error));
                    }
                    asked
                }
            };
            self.again = Some(send_again(self.pending.model.clone(), asked));
        }
    }
}

fn send_again(model: Model, asked: Asked) -> Arc<Again> {
    let again = Arc::<Again>::default();
    let there = again.clone();
    std::thread::spawn(move || {
        let sent = send_surely(&model, asked);
        let task = {
            let mut state = there.state.lock().unwrap_or_else(PoisonError::into_inner);
            state.0 = Some(sent);
            state.1.take()
        };
        task.into_iter().for_each(Waker::wake);
    });
    again
}

impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.pending.fmt(f)
    }
}

/// What a request uses until its answer comes.
struct Used {
    /// The daemon only reads these: used again too early, they spoil an answer that nobody waits for.
    _inputs: Vec<(u16, AnyTensor)>,
    room: Option<Storage>,
}

impl Keep for Used {
    fn give_up(self: Box<Self>) {
        if let Some(room) = self.room {
            room.give_up();
        }
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        if let Some(asked) = self.asked.take() {
            self.connection.cancel(self.sent, Box::new(Used { _inputs: asked.inputs, room: asked.room }));
        }
    }
}

impl fmt::Debug for Pending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pending({:?})", self.under_way.as_ref().map(|under_way| under_way.sent))
    }
}

/// Sends a request over the connection that there is, or over a new one.
fn send_surely(model: &Model, asked: Asked) -> Result<UnderWay, Unanswered> {
    let mut asked = Some(asked);
    let sent = model.core().surely(|connection| {
        let mine = asked.as_mut().expect("it is taken when it was sent");
        if mine.opened.generation != connection.generation {
            mine.opened = model.opened_on(connection)?;
        }
        let sent = send(model, connection, mine)?;
        let asked = asked.take().expect("it was just looked at");
        Ok(UnderWay { connection: connection.clone(), sent, asked: Some(asked) })
    });
    sent.map_err(|error| asked.expect("it was not sent").unanswered(error))
}

fn send(model: &Model, connection: &Arc<Connection>, asked: &mut Asked) -> Result<Sent, Error> {
    let (core, shared) = (model.core(), connection.shares_memory());
    // What is in a region of an earlier connection means nothing here.
    if asked.room.as_ref().is_some_and(|room| core.extent(room, connection.generation).is_none()) {
        asked.give_up_room();
    }
    if shared {
        asked.inputs.iter_mut().try_for_each(|(_, tensor)| core.bring(connection, tensor))?;
    }
    if shared && asked.room.is_none() {
        let bytes = model.room_bytes(&asked.opened.signature, &asked.inputs, asked.outputs.as_deref());
        if bytes > 0 {
            asked.room = Some(core.storage(connection, bytes)?);
        }
    }
    connection.infer(model, asked)
}

enum Finished {
    Reply(Box<Reply>),
    /// To be asked again: with more room for its outputs, or of the daemon that comes after this one.
    Again(Box<Asked>),
}

impl UnderWay {
    fn finish(mut self, model: &Model, answered: Answered) -> Result<Finished, Unanswered> {
        let mut asked = self.end();
        let connection = &self.connection;
        let Answered { message, payload } = answered;
        match message {
            Message::Inferred(inferred) => match reply(inferred, &mut asked, payload) {
                Ok(reply) => Ok(Finished::Reply(Box::new(reply))),
                Err(error) => Err(asked.unanswered(error)),
            },
            Message::Failed(failed) => match failed.needed {
                // It ran, and its outputs were dropped. The next time there will be room at once.
                Some(needed) if asked.room_is_less_than(needed) && !asked.options.once => {
                    model.needs(needed.get());
                    asked.room = None;
                    Ok(Finished::Again(Box::new(asked)))
                }
                // It never ran: that is what the daemon says of requests that come while it goes away.
                _ if failed.code == Code::Unavailable && connection.is_leaving() => {
                    Ok(Finished::Again(Box::new(asked)))
                }
                _ => Err(asked.unanswered(Error::Refused(failed.into()))),
            },
            other => Err(asked.unanswered(unexpected(&other))),
        }
    }
}

impl Asked {
    /// Never uses the place for the outputs again: the connection is lost, but the daemon may be there, and a job of
    /// that request may still write its outputs. It is memory for one request, and connections are rarely lost.
    fn give_up_room(&mut self) {
        if let Some(room) = self.room.take() {
            room.give_up();
        }
    }

    fn take_inputs(&mut self) -> Vec<AnyTensor> {
        let inputs = std::mem::take(&mut self.inputs).into_iter();
        #[cfg(feature = "local")]
        let inputs = inputs.map(|(index, tensor)| {
            let storage = tensor.storage.take_back();
            (index, AnyTensor { storage, ..tensor })
        });
        inputs.map(|(_, tensor)| tensor).collect()
    }

    pub(crate) fn unanswered(mut self, error: Error) -> Unanswered {
        Unanswered { error, inputs: self.take_inputs() }
    }

    fn room_is_less_than(&self, needed: NonZeroU64) -> bool {
        self.room.as_ref().map_or(0, |room| room.bytes().len() as u64) < needed.get()
    }
}

fn reply(inferred: Inferred, asked: &mut Asked, payload: Payload) -> Result<Reply, Error> {
    let Inferred { version, timing, outputs } = inferred;
    let nonsense = || Error::lost("the daemon put outputs where there is no place for them");
    let room = asked.room.take();
    let room_offset = room.as_ref().and_then(Storage::extent).map_or(0, |extent| extent.offset);
    let room = room.map(Arc::new);
    let mut payload = Behind::new(payload);
    let mut named = Vec::with_capacity(outputs.len());
    for output in outputs {
        let (results, range) = match output.place {
            Place::Stream { length } => payload.next(length).ok_or_else(nonsense)?,
            Place::Region(extent) => {
                let room = room.as_ref().ok_or_else(nonsense)?;
                let start = extent.offset.checked_sub(room_offset).ok_or_else(nonsense)? as usize;
                (room.clone(), start..start.saturating_add(extent.length as usize))
            }
        };
        if range.end > results.bytes().len() {
            return Err(nonsense());
        }
        let spec = asked.opened.signature.outputs.get(usize::from(output.index)).ok_or_else(nonsense)?;
        named.push(Output {
            name: spec.name.as_ref().into(),
            data_type: output.data_type,
            shape: output.shape,
            results,
            range,
        });
    }
    let inputs = asked.take_inputs();
    Ok(Reply { version, timing, outputs: named, inputs })
}

/// Outputs that came behind the answer, in their order.
enum Behind {
    None,
    /// In one piece, of which so many bytes were taken.
    Whole(Arc<Storage>, usize),
    #[cfg(feature = "local")]
    Each(std::vec::IntoIter<Storage>),
}

impl Behind {
    fn new(payload: Payload) -> Behind {
        match payload {
            Payload::None => Behind::None,
            Payload::Whole(storage) => Behind::Whole(Arc::new(storage), 0),
            #[cfg(feature = "local")]
            Payload::Each(storages) => Behind::Each(storages.into_iter()),
        }
    }

    /// The next one, of so many bytes.
    fn next(&mut self, length: u64) -> Option<(Arc<Storage>, Range<usize>)> {
        let length = usize::try_from(length).ok()?;
        match self {
            Behind::None => None,
            Behind::Whole(storage, at) => {
                let start = *at;
                *at = start.checked_add(length)?;
                Some((storage.clone(), start..*at))
            }
            #[cfg(feature = "local")]
            Behind::Each(storages) => Some((Arc::new(storages.next()?), 0..length)),
        }
    }
}

/// What came of a request.
#[derive(Debug)]
pub struct Reply {
    /// Version of the model that ran.
    pub version: u64,
    /// Where the time went in the daemon.
    pub timing: Timing,
    outputs: Vec<Output>,
    inputs: Vec<AnyTensor>,
}

impl Reply {
    /// The outputs, in the order that was asked for, or that of the model.
    #[must_use]
    pub fn outputs(&self) -> &[Output] {
        &self.outputs
    }

    /// One output by its place.
    pub fn output(&self, index: usize) -> Result<&Output, Error> {
        self.outputs.get(index).ok_or_else(|| {
            Error::invalid(format!("there is no output {index}: the reply has {}", self.outputs.len()))
        })
    }

    /// One output by its name.
    pub fn named(&self, name: &str) -> Result<&Output, Error> {
        self.outputs.iter().find(|output| output.name() == name).ok_or_else(|| {
            let known: Vec<_> = self.outputs.iter().map(|output| format!("`{}`", output.name())).collect();
            Error::invalid(format!("there is no output `{name}`: the reply has {}", known.join(", ")))
        })
    }

    /// The inputs of the request, in the order in which they were given, to be filled and sent again.
    #[must_use]
    pub fn into_inputs(self) -> Vec<AnyTensor> {
        self.inputs
    }

    /// The outputs alone.
    #[must_use]
    pub fn into_outputs(self) -> Vec<Output> {
        self.outputs
    }
}
