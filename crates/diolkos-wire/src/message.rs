// SPDX-License-Identifier: Apache-2.0
//! Every message, and its body.

use alloc::vec::Vec;

use crate::channel::{ChannelOpened, CloseRegion, CommitRegion, OpenChannel, RegisterRegion};
use crate::cursor::{Reader, Wire, Writer};
use crate::error::{DecodeError, EncodeError};
use crate::failed::Failed;
use crate::hello::{Hello, Welcome};
use crate::infer::{Infer, Inferred};
use crate::kind::Kind;
use crate::model::{CloseModel, Load, ModelOpened, Models, OpenModel, Unload};
use crate::stats::{HealthReply, Stats, StatsReply};

/// A message. Each variant is the [`Kind`] of the same name.
#[derive(Clone, Debug, PartialEq)]
pub enum Message {
    /// The client's first message.
    Hello(Hello),
    /// The sender ends the connection in good order.
    Goodbye,
    /// Is the daemon there, and ready?
    Health,
    /// Nobody waits for the request with this id any more.
    Cancel,
    /// Make rings.
    OpenChannel(OpenChannel),
    /// Map a region.
    RegisterRegion(RegisterRegion),
    /// Give a region back.
    CloseRegion(CloseRegion),
    /// A region is complete: lend it.
    CommitRegion(CommitRegion),
    /// Open a model or a built-in operation.
    OpenModel(OpenModel),
    /// Close a handle.
    CloseModel(CloseModel),
    /// Run an operation.
    Infer(Infer),
    /// Load a model.
    Load(Load),
    /// Unload a model.
    Unload(Unload),
    /// Which models are there?
    List,
    /// What was done so far?
    Stats(Stats),
    /// Answers `Hello`.
    Welcome(Welcome),
    /// Answers `Health`.
    HealthReply(HealthReply),
    /// Answers `OpenChannel`.
    ChannelOpened(ChannelOpened),
    /// Answers `OpenModel`.
    ModelOpened(ModelOpened),
    /// Answers `Infer`.
    Inferred(Inferred),
    /// Answers `List`.
    Models(Models),
    /// Answers `Stats`.
    StatsReply(StatsReply),
    /// Done, and there is nothing to tell.
    Done,
    /// Answers any request that got no result.
    Failed(Failed),
}

impl Message {
    /// Its kind.
    #[must_use]
    pub fn kind(&self) -> Kind {
        match self {
            Message::Hello(_) => Kind::Hello,
            Message::Goodbye => Kind::Goodbye,
            Message::Health => Kind::Health,
            Message::Cancel => Kind::Cancel,
            Message::OpenChannel(_) => Kind::OpenChannel,
            Message::RegisterRegion(_) => Kind::RegisterRegion,
            Message::CloseRegion(_) => Kind::CloseRegion,
            Message::CommitRegion(_) => Kind::CommitRegion,
            Message::OpenModel(_) => Kind::OpenModel,
            Message::CloseModel(_) => Kind::CloseModel,
            Message::Infer(_) => Kind::Infer,
            Message::Load(_) => Kind::Load,
            Message::Unload(_) => Kind::Unload,
            Message::List => Kind::List,
            Message::Stats(_) => Kind::Stats,
            Message::Welcome(_) => Kind::Welcome,
            Message::HealthReply(_) => Kind::HealthReply,
            Message::ChannelOpened(_) => Kind::ChannelOpened,
            Message::ModelOpened(_) => Kind::ModelOpened,
            Message::Inferred(_) => Kind::Inferred,
            Message::Models(_) => Kind::Models,
            Message::StatsReply(_) => Kind::StatsReply,
            Message::Done => Kind::Done,
            Message::Failed(_) => Kind::Failed,
        }
    }

    /// Payload that its tensors take on a stream; `None` where 64 bits can't hold it.
    #[must_use]
    pub fn stream_bytes(&self) -> Option<u64> {
        match self {
            Message::Infer(infer) => infer.stream_bytes(),
            Message::Inferred(inferred) => inferred.stream_bytes(),
            _ => Some(0),
        }
    }

    /// Its body.
    pub fn encode(&self) -> Result<Vec<u8>, EncodeError> {
        let mut out = Vec::new();
        self.append_to(&mut out)?;
        Ok(out)
    }

    /// Appends its body. On an error `out` is as before.
    pub fn append_to(&self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        let mut to = Writer::new(out);
        match self {
            Message::Goodbye | Message::Health | Message::Cancel | Message::List | Message::Done => {}
            Message::Hello(body) => body.write(&mut to),
            Message::OpenChannel(body) => body.write(&mut to),
            Message::RegisterRegion(body) => body.write(&mut to),
            Message::CloseRegion(body) => body.write(&mut to),
            Message::CommitRegion(body) => body.write(&mut to),
            Message::OpenModel(body) => body.write(&mut to),
            Message::CloseModel(body) => body.write(&mut to),
            Message::Infer(body) => body.write(&mut to),
            Message::Load(body) => body.write(&mut to),
            Message::Unload(body) => body.write(&mut to),
            Message::Stats(body) => body.write(&mut to),
            Message::Welcome(body) => body.write(&mut to),
            Message::HealthReply(body) => body.write(&mut to),
            Message::ChannelOpened(body) => body.write(&mut to),
            Message::ModelOpened(body) => body.write(&mut to),
            Message::Inferred(body) => body.write(&mut to),
            Message::Models(body) => body.write(&mut to),
            Message::StatsReply(body) => body.write(&mut to),
            Message::Failed(body) => body.write(&mut to),
        }
        to.finish()
    }

    /// Reads the body of a message of this kind, behind which `payload` bytes come: 0 over rings.
    pub fn decode(kind: u16, body: &[u8], payload: u64) -> Result<Message, DecodeError> {
        let kind = Kind::from_number(kind).ok_or(DecodeError::UnknownKind { given: kind })?;
        let mut from = Reader::new(body);
        let message = Message::read(kind, &mut from)?;
        from.end()?;
        match message.stream_bytes() {
            Some(expected) if expected == payload => Ok(message),
            Some(expected) => Err(DecodeError::Payload { expected, given: payload }),
            None => Err(DecodeError::PayloadOverflow),
        }
    }

    fn read(kind: Kind, from: &mut Reader<'_>) -> Result<Message, DecodeError> {
        Ok(match kind {
            Kind::Hello => Message::Hello(Hello::read(from)?),
            Kind::Goodbye => Message::Goodbye,
            Kind::Health => Message::Health,
            Kind::Cancel => Message::Cancel,
            Kind::OpenChannel => Message::OpenChannel(OpenChannel::read(from)?),
            Kind::RegisterRegion => Message::RegisterRegion(RegisterRegion::read(from)?),
            Kind::CloseRegion => Message::CloseRegion(CloseRegion::read(from)?),
            Kind::CommitRegion => Message::CommitRegion(CommitRegion::read(from)?),
            Kind::OpenModel => Message::OpenModel(OpenModel::read(from)?),
            Kind::CloseModel => Message::CloseModel(CloseModel::read(from)?),
            Kind::Infer => Message::Infer(Infer::read(from)?),
            Kind::Load => Message::Load(Load::read(from)?),
            Kind::Unload => Message::Unload(Unload::read(from)?),
            Kind::List => Message::List,
            Kind::Stats => Message::Stats(Stats::read(from)?),
            Kind::Welcome => Message::Welcome(Welcome::read(from)?),
            Kind::HealthReply => Message::HealthReply(HealthReply::read(from)?),
            Kind::ChannelOpened => Message::ChannelOpened(ChannelOpened::read(from)?),
            Kind::ModelOpened => Message::ModelOpened(ModelOpened::read(from)?),
            Kind::Inferred => Message::Inferred(Inferred::read(from)?),
            Kind::Models => Message::Models(Models::read(from)?),
            Kind::StatsReply => Message::StatsReply(StatsReply::read(from)?),
            Kind::Done => Message::Done,
            Kind::Failed => Message::Failed(Failed::read(from)?),
        })
    }
}
