// SPDX-License-Identifier: Apache-2.0
//! A request that was sent, and what came of it.

use std::fmt;
use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::{Duration, Instant};

use diolkos_types::{Params, Signature};
use diolkos_wire::{Class, Inferred, Message, Place, Timing};

use crate::client::Core;
use crate::connection::{Answered, Connection, Sent, unexpected};
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
    pub(crate) model: Model,
    /// Positions in the inputs, and values.
    pub(crate) inputs: Vec<(u16, AnyTensor)>,
    /// Positions of the wanted outputs.
    pub(crate) outputs: Option<Vec<u16>>,
    pub(crate) options: RequestOptions,
    /// Room for the outputs.
    pub(crate) room: Option<Storage>,
}

/// A request that was sent. Dropping it cancels the request; its tensors are used again once the daemon is done
/// with them.
#[must_use = "dropping it cancels the request"]
pub struct Pending {
    core: Arc<Core>,
    under_way: Option<UnderWay>,
}

struct UnderWay {
    connection: Arc<Connection>,
    opened: Arc<Opened>,
    sent: Sent,
    asked: Asked,
}

impl Pending {
    pub(crate) fn send(core: Arc<Core>, asked: Asked) -> Result<Pending, Error> {
        let under_way = send_surely(&core, asked)?;
        Ok(Pending { core, under_way: Some(under_way) })
    }

    /// Waits for the reply.
    pub fn wait(self) -> Result<Reply, Error> {
        self.wait_until(None)
    }

    /// Waits for the reply for so long. After that the request is cancelled: [`Error::Timeout`].
    pub fn wait_for(self, time: Duration) -> Result<Reply, Error> {
        self.wait_until(Instant::now().checked_add(time))
    }

    fn wait_until(mut self, until: Option<Instant>) -> Result<Reply, Error> {
        loop {
            let Some(under_way) = &self.under_way else {
                return Err(Error::lost("the request was never sent"));
            };
            let answered = under_way.connection.wait(under_way.sent, until);
            match answered {
                Ok(Some(answered)) => {
                    let under_way = self.under_way.take().expect("it was just looked at");
                    match under_way.finish(answered)? {
                        Finished::Reply(reply) => return Ok(*reply),
                        Finished::MoreRoom(asked) => {
                            self.under_way = Some(send_surely(&self.core, *asked)?);
                        }
                    }
                }
                // Dropping `self` cancels.
                Ok(None) => return Err(Error::Timeout),
                Err(error) => {
                    let under_way = self.under_way.take().expect("it was just looked at");
                    if under_way.asked.options.once || !matches!(error, Error::Lost { .. }) {
                        return Err(error);
                    }
                    self.under_way = Some(send_surely(&self.core, under_way.asked)?);
                }
            }
        }
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        if let Some(UnderWay { connection, sent, asked, .. }) = self.under_way.take() {
            connection.cancel(sent, Box::new((asked.inputs, asked.room)));
        }
    }
}

impl fmt::Debug for Pending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pending({:?})", self.under_way.as_ref().map(|under_way| under_way.sent))
    }
}

/// Sends a request over the connection that there is, or over a new one.
fn send_surely(core: &Arc<Core>, asked: Asked) -> Result<UnderWay, Error> {
    let mut asked = Some(asked);
    core.surely(|connection| {
        let mine = asked.as_mut().expect("it is taken when it was sent");
        let opened = mine.model.opened_on(connection)?;
        let sent = send(core, connection, &opened, mine)?;
        let asked = asked.take().expect("it was just looked at");
        Ok(UnderWay { connection: connection.clone(), opened, sent, asked })
    })
}

fn send(
    core: &Core,
    connection: &Arc<Connection>,
    opened: &Opened,
    asked: &mut Asked,
) -> Result<Sent, Error> {
    let shared = connection.shares_memory();
    if shared && asked.room.is_none() {
        let bytes = asked.model.room_bytes(&opened.signature, &asked.inputs, asked.outputs.as_deref());
        if bytes > 0 {
            asked.room = Some(core.storage(connection, bytes)?);
        }
    }
    let infer = Model::infer_message(opened, asked, shared);
    let payload: Vec<&[u8]> = asked
        .inputs
        .iter()
        .filter(|(_, tensor)| !shared || tensor.storage.extent().is_none())
        .map(|(_, tensor)| tensor.bytes())
        .collect();
    connection.infer(&Message::Infer(infer), &payload)
}

enum Finished {
    Reply(Box<Reply>),
    /// The outputs need more room than they were given.
    MoreRoom(Box<Asked>),
}

impl UnderWay {
    fn finish(self, answered: Answered) -> Result<Finished, Error> {
        let UnderWay { opened, mut asked, .. } = self;
        let Answered { message, payload } = answered;
        match message {
            Message::Inferred(inferred) => {
                let reply = reply(&opened.signature, inferred, &mut asked, payload)?;
                Ok(Finished::Reply(Box::new(reply)))
            }
            Message::Failed(failed) => match failed.needed {
                // It ran, and its outputs were dropped. The next time there will be room at once.
                Some(needed) if asked.room_is_less_than(needed) && !asked.options.once => {
                    asked.model.needs(needed.get());
                    asked.room = None;
                    Ok(Finished::MoreRoom(Box::new(asked)))
                }
                _ => Err(Error::Refused(failed.into())),
            },
            other => Err(unexpected(&other)),
        }
    }
}

impl Asked {
    fn room_is_less_than(&self, needed: NonZeroU64) -> bool {
        self.room.as_ref().map_or(0, |room| room.bytes().len() as u64) < needed.get()
    }
}

fn reply(
    signature: &Signature,
    inferred: Inferred,
    asked: &mut Asked,
    payload: Option<Storage>,
) -> Result<Reply, Error> {
    let Inferred { version, timing, outputs } = inferred;
    let nonsense = || Error::lost("the daemon put outputs where there is no place for them");
    let room = asked.room.take();
    let room_offset = room.as_ref().and_then(Storage::extent).map_or(0, |extent| extent.offset);
    let room = room.map(Arc::new);
    let payload = payload.map(Arc::new);
    let mut at = 0usize;
    let mut named = Vec::with_capacity(outputs.len());
    for output in outputs {
        let (results, range) = match output.place {
            Place::Stream { length } => {
                let payload = payload.as_ref().ok_or_else(nonsense)?;
                let start = at;
                at = usize::try_from(length)
                    .ok()
                    .and_then(|length| start.checked_add(length))
                    .ok_or_else(nonsense)?;
                (payload.clone(), start..at)
            }
            Place::Region(extent) => {
                let room = room.as_ref().ok_or_else(nonsense)?;
                let start = extent.offset.checked_sub(room_offset).ok_or_else(nonsense)? as usize;
                (room.clone(), start..start.saturating_add(extent.length as usize))
            }
        };
        if range.end > results.bytes().len() {
            return Err(nonsense());
        }
        let spec = signature.outputs.get(usize::from(output.index)).ok_or_else(nonsense)?;
        named.push(Output {
            name: spec.name.as_ref().into(),
            data_type: output.data_type,
            shape: output.shape,
            results,
            range,
        });
    }
    let inputs = std::mem::take(&mut asked.inputs).into_iter().map(|(_, tensor)| tensor).collect();
    Ok(Reply { version, timing, outputs: named, inputs })
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
