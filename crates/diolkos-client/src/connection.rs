// SPDX-License-Identifier: Apache-2.0
//! What requests go over: a connection to a daemon, or, with the feature `local`, an endpoint in this process.

#[cfg(feature = "local")]
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use diolkos_shm::arena::Arena;
use diolkos_wire::{Limits, Message};

use crate::address::Address;
use crate::board::Kept;
use crate::error::Error;
#[cfg(feature = "local")]
use crate::local::Local;
use crate::memory::Storage;
use crate::model::Model;
use crate::options::Options;
use crate::pending::Asked;
use crate::remote::Remote;
use crate::stream::Answer;

/// Where requests are to go.
pub(crate) enum Target {
    Remote(Address),
    #[cfg(feature = "local")]
    Local(Arc<dyn diolkos_backend::endpoint::Endpoint>),
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Target::Remote(address) => address.fmt(f),
            #[cfg(feature = "local")]
            Target::Local(_) => f.write_str("in this process"),
        }
    }
}

/// One connection.
pub(crate) struct Connection {
    link: Link,
    /// Tells it from those before and after it.
    pub(crate) generation: u64,
}

enum Link {
    Remote(Box<Remote>),
    #[cfg(feature = "local")]
    Local(Local),
}

/// Calls the same method of whichever it is.
macro_rules! either {
    ($self:expr, $link:ident => $call:expr) => {
        match &$self.link {
            Link::Remote($link) => $call,
            #[cfg(feature = "local")]
            Link::Local($link) => $call,
        }
    };
}

/// A request that was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sent {
    /// Through the ring.
    Ring(u64),
    /// With its payload behind it.
    Stream(u64),
}

/// What came of a request.
pub(crate) struct Answered {
    pub(crate) message: Message,
    pub(crate) payload: Payload,
}

/// Outputs that did not come in a region.
pub(crate) enum Payload {
    None,
    /// All of them, one behind the other.
    Whole(Storage),
    /// Each by itself.
    #[cfg(feature = "local")]
    Each(Vec<Storage>),
}

impl Answered {
    pub(crate) fn of_ring(message: Message) -> Answered {
        Answered { message, payload: Payload::None }
    }

    pub(crate) fn of_stream(mut answer: Answer) -> Result<Answered, Error> {
        let message = answer.parts.pop().ok_or_else(|| Error::lost("the daemon sent an empty answer"))?;
        Ok(Answered { message, payload: Payload::Whole(answer.payload) })
    }
}

impl Connection {
    /// Connects, and says hello.
    pub(crate) fn open(target: &Target, options: &Options, generation: u64) -> Result<Connection, Error> {
        let link = match target {
            Target::Remote(address) => Link::Remote(Box::new(Remote::open(address, options)?)),
            #[cfg(feature = "local")]
            Target::Local(endpoint) => Link::Local(Local::new(endpoint.clone())),
        };
        Ok(Connection { link, generation })
    }

    /// What the daemon grants.
    pub(crate) fn limits(&self) -> Limits {
        match &self.link {
            Link::Remote(remote) => remote.limits,
            #[cfg(feature = "local")]
            Link::Local(_) => Limits::default(),
        }
    }

    /// Whether tensors lie in regions.
    pub(crate) fn shares_memory(&self) -> bool {
        match &self.link {
            Link::Remote(remote) => remote.shares_memory(),
            #[cfg(feature = "local")]
            Link::Local(_) => false,
        }
    }

    /// Why it is of no use any more, if it is so.
    pub(crate) fn ended(&self) -> Option<Error> {
        either!(self, link => link.ended())
    }

    /// Whether the daemon said good-bye.
    pub(crate) fn is_leaving(&self) -> bool {
        match &self.link {
            Link::Remote(remote) => remote.is_leaving(),
            #[cfg(feature = "local")]
            Link::Local(_) => false,
        }
    }

    /// Whether a request would have to wait before it can be sent.
    pub(crate) fn is_full(&self) -> bool {
        match &self.link {
            Link::Remote(remote) => remote.is_full(),
            #[cfg(feature = "local")]
            Link::Local(_) => false,
        }
    }

    /// Tells the daemon of a region.
    pub(crate) fn register(&self, number: u16, arena: &Arena) -> Result<(), Error> {
        match &self.link {
            Link::Remote(remote) => remote.register(number, arena),
            #[cfg(feature = "local")]
            Link::Local(_) => Ok(()),
        }
    }

    /// Sends a message and waits for its answer.
    pub(crate) fn call(&self, message: &Message) -> Result<Answer, Error> {
        match &self.link {
            Link::Remote(remote) => remote.call(message, &[]),
            #[cfg(feature = "local")]
            Link::Local(local) => Ok(local.call(message)),
        }
    }

    /// Sends a message. What is answered interests nobody.
    pub(crate) fn tell(&self, message: &Message) {
        either!(self, link => link.tell(message));
    }

    /// Ends it on this side: all who wait are told, whatever they wait in.
    pub(crate) fn close(&self, error: &Error) {
        either!(self, link => link.close(error));
    }

    /// Sends a request.
    pub(crate) fn infer(&self, model: &Model, asked: &mut Asked) -> Result<Sent, Error> {
        match &self.link {
            Link::Remote(remote) => {
                let shared = remote.shares_memory();
                let infer = model.infer_message(asked, shared);
                let payload: Vec<&[u8]> = asked
                    .inputs
                    .iter()
                    .filter(|(_, tensor)| !shared || model.extent(tensor, &asked.opened).is_none())
                    .map(|(_, tensor)| tensor.bytes())
                    .collect();
                remote.infer(&Message::Infer(infer), &payload)
            }
            #[cfg(feature = "local")]
            Link::Local(local) => local.infer(asked),
        }
    }

    /// Waits for what came of a request. `None`: not until `until`.
    pub(crate) fn wait(&self, sent: Sent, until: Option<Instant>) -> Result<Option<Answered>, Error> {
        either!(self, link => link.wait(sent, until))
    }

    /// What came of a request, for a task.
    pub(crate) fn poll(&self, sent: Sent, context: &mut Context<'_>) -> Poll<Result<Answered, Error>> {
        either!(self, link => link.poll(sent, context))
    }

    /// Nobody waits for a request any more. What it uses is kept until its answer comes.
    pub(crate) fn cancel(&self, sent: Sent, kept: Kept) {
        either!(self, link => link.cancel(sent, kept));
    }

    /// Takes in answers that nobody waits for, so that what they keep can be used again.
    pub(crate) fn reap(&self) {
        either!(self, link => link.reap());
    }
}

/// Anything but what answers a call is a defect of the daemon.
pub(crate) fn unexpected(message: &Message) -> Error {
    match message {
        Message::Failed(failed) => Error::Refused(failed.clone().into()),
        other => Error::lost(format!("the daemon answered with `{:?}`", other.kind())),
    }
}
