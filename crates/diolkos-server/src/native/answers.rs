// SPDX-License-Identifier: Apache-2.0
//! Answers on a stream: room for each before its request begins, and the memory of those that wait to be taken.
//!
//! A client that takes none of its answers must not fill the daemon with them. Outputs stay charged to the memory of requests
//! until they are written; whatever else is more than a few words is charged to the memory of bodies, and an answer for
//! which there is none becomes a refusal.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use diolkos_engine::{Reply, ReplySink, Ticket};
use diolkos_types::{Signature, Status};
use diolkos_wire::{Failed, Inferred, Message, Place, TensorRef};
use tokio::sync::mpsc;

use super::frames::{Held, Outgoing};
use super::limits;
use super::session::{Results, place_outputs, positions, timing_of};
use crate::listen::Budget;

/// Room in the queue for the answer to one request.
pub(super) struct Room {
    id: u64,
    permit: mpsc::OwnedPermit<Outgoing>,
    /// What pays for an answer that is long.
    held: Held,
}

impl Room {
    pub(super) fn new(id: u64, permit: mpsc::OwnedPermit<Outgoing>, budget: &Arc<Budget>) -> Room {
        Room { id, permit, held: Held::nothing(budget) }
    }

    /// Sets memory aside for an answer of so many bytes, without payload: what a job has come to must not be lost for want of it.
    pub(super) fn hold(&mut self, bytes: usize) -> Result<(), Status> {
        let held = self.held.covers(limits::ANSWER_UNCHARGED_BYTES, bytes);
        held.then_some(()).ok_or_else(no_memory_for_answer)
    }

    /// The answer, in as many parts as it has; `false` if it was too long for the memory that there is, and became a refusal.
    pub(super) fn send(self, parts: &[Message]) -> bool {
        let outgoing = Outgoing::parts(self.id, parts);
        self.put(outgoing)
    }

    /// With descriptors beside it.
    pub(super) fn send_with_descriptors(self, message: &Message, descriptors: Vec<OwnedFd>) {
        // It is short.
        let outgoing = Outgoing::new(self.id, message).with_descriptors(descriptors);
        let _ = self.put(outgoing);
    }

    pub(super) fn refuse(self, status: &Status) {
        self.permit.send(refusal(self.id, status));
    }

    fn put(self, outgoing: Outgoing) -> bool {
        let Room { id, permit, mut held } = self;
        let is_paid = held.covers(limits::ANSWER_UNCHARGED_BYTES, outgoing.frame_bytes());
        permit.send(if is_paid { outgoing.paid_by(held) } else { refusal(id, &no_memory_for_answer()) });
        is_paid
    }
}

/// It is short, see [`limits::ANSWER_UNCHARGED_BYTES`].
fn refusal(id: u64, status: &Status) -> Outgoing {
    Outgoing::new(id, &Message::Failed(Failed::from(status)))
}

/// How long to wait for memory that others use.
const MEMORY_RETRY: Duration = Duration::from_millis(100);

pub(super) fn no_memory_for_body() -> Status {
    Status::busy(
        "the memory for bodies of requests (limits.requests_memory_max) is in use; try again",
        MEMORY_RETRY,
    )
}

fn no_memory_for_answer() -> Status {
    Status::busy(
        "the memory for answers that wait to be taken (limits.requests_memory_max) is in use; take those that are there, and try again",
        MEMORY_RETRY,
    )
}

/// Requests over one stream that were not answered yet; `None` for the moment until the engine has taken one.
#[derive(Default)]
pub(super) struct Flights(Mutex<HashMap<u64, Option<Ticket>>>);

impl Flights {
    fn lock(&self) -> MutexGuard<'_, HashMap<u64, Option<Ticket>>> {
        // Nothing below panics while it holds the lock.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn check_free(&self, id: u64) -> Result<(), Status> {
        if self.lock().contains_key(&id) {
            return Err(Status::invalid(format!("request {id} is in flight; take another number")));
        }
        Ok(())
    }

    pub(super) fn begin(&self, id: u64) {
        self.lock().insert(id, None);
    }

    /// The engine has it. It may have answered it already.
    pub(super) fn took(&self, id: u64, ticket: Ticket) {
        if let Some(flight) = self.lock().get_mut(&id) {
            *flight = Some(ticket);
        }
    }

    pub(super) fn take_ticket(&self, id: u64) -> Option<Ticket> {
        self.lock().get_mut(&id).and_then(Option::take)
    }

    fn end(&self, id: u64) {
        self.lock().remove(&id);
    }
}

/// Answers one inference over the stream.
pub(super) struct StreamAnswer {
    pub(super) room: Room,
    /// The signature that the client knows.
    pub(super) opened: Arc<Signature>,
    /// Where the outputs go, if not behind the answer.
    pub(super) results: Option<Results>,
    pub(super) flights: Arc<Flights>,
}

impl StreamAnswer {
    fn outgoing(&self, reply: &Reply) -> Result<Outgoing, Failed> {
        let outputs = reply.result.as_ref().map_err(Failed::from)?;
        let mut payload = Vec::new();
        let placed = match &self.results {
            Some((region, room)) => place_outputs(outputs, &self.opened, *region, room)?,
            None => positions(outputs, &self.opened)
                .map(|output| {
                    let (index, tensor) = output.map_err(|status| Failed::from(&status))?;
                    payload.extend(tensor.data.to_private_pieces());
                    let place = Place::Stream { length: tensor.data.len() as u64 };
                    Ok(TensorRef { index, data_type: tensor.data_type, shape: tensor.shape, place })
                })
                .collect::<Result<_, Failed>>()?,
        };
        let inferred =
            Inferred { version: outputs.version.version, timing: timing_of(&reply.timing), outputs: placed };
        Ok(Outgoing::new(self.room.id, &Message::Inferred(inferred)).with_payload(payload))
    }
}

impl ReplySink for StreamAnswer {
    fn complete(self: Box<Self>, reply: Reply) {
        let id = self.room.id;
        let outgoing =
            self.outgoing(&reply).unwrap_or_else(|failed| Outgoing::new(id, &Message::Failed(failed)));
        // Before the answer is out: a client that is quick may use the number at once.
        self.flights.end(id);
        self.room.put(outgoing);
    }
}

#[cfg(test)]
mod tests {
    use diolkos_wire::{ModelEntry, ModelState, Models};

    use super::*;

    /// A list of as many models as make the answer so long.
    fn put(budget: &Arc<Budget>, queue: &mpsc::Sender<Outgoing>, models: usize) {
        let entry = ModelEntry {
            name: "x".repeat(200).into(),
            version: None,
            state: ModelState::Ready,
            reason: "".into(),
        };
        let permit = queue.clone().try_reserve_owned().unwrap();
        Room::new(7, permit, budget).send(&[Message::Models(Models { models: vec![entry; models] })]);
    }

    #[tokio::test]
    async fn answers_that_nobody_takes_are_charged_and_then_refused() {
        let budget = Budget::new(100_000);
        let (queue, mut waiting) = mpsc::channel(8);
        for models in [300, 300, 2, 150] {
            put(&budget, &queue, models);
        }
        assert!((90_000..100_000).contains(&budget.used()), "{}", budget.used());
        let mut lengths = Vec::new();
        while let Ok(outgoing) = waiting.try_recv() {
            lengths.push(outgoing.frame_bytes());
        }
        assert!(lengths[0] > 60_000 && lengths[2] > 400 && lengths[3] > 30_000, "{lengths:?}");
        assert!(lengths[1] <= limits::ANSWER_UNCHARGED_BYTES, "a refusal: {lengths:?}");
        assert_eq!(budget.used(), 0, "what was taken is charged to nobody");
    }

    #[tokio::test]
    async fn what_was_set_aside_pays_for_the_answer_until_it_is_taken() {
        let budget = Budget::new(10_000);
        let (queue, mut waiting) = mpsc::channel(8);
        let room = || Room::new(7, queue.clone().try_reserve_owned().unwrap(), &budget);
        let (mut first, mut short, mut second) = (room(), room(), room());
        first.hold(8000).unwrap();
        short.hold(limits::ANSWER_UNCHARGED_BYTES).unwrap();
        assert_eq!(second.hold(8000).unwrap_err().code(), diolkos_types::Code::Busy);
        assert_eq!(budget.used(), 8000);
        let answer = Outgoing::new(7, &Message::Failed(Failed::from(&Status::invalid("x".repeat(1000)))));
        assert!(first.put(answer));
        assert_eq!(budget.used(), 8000, "until it is written");
        drop(waiting.try_recv().unwrap());
        assert_eq!(budget.used(), 0);
        second.hold(8000).unwrap();
        drop(second);
        assert_eq!(budget.used(), 0, "a request that is never answered keeps nothing");
    }

    #[test]
    fn a_refusal_is_never_charged() {
        let longest = Status::invalid("x".repeat(10_000));
        assert!(refusal(u64::MAX, &longest).frame_bytes() <= limits::ANSWER_UNCHARGED_BYTES);
    }
}
