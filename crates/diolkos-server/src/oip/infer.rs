// SPDX-License-Identifier: Apache-2.0
//! One inference, from decoded request to outputs.
//!
//! ```text
//! fetch ──> open ──> submit ──> close ──await──> reply ──> classify ──> store ──> InferReply
//!                                        │
//!                                dropped ┴──> the job is cancelled; if it waits it never runs
//! ```
//!
//! `fetch` and `store` are about tensors in regions; see [`places`].

use std::time::{Duration, Instant};

use diolkos_backend::Buffer;
use diolkos_engine::{NamedTensor, Outputs, Reply, Request, Scheduled, Ticket, Timing};
use diolkos_types::{Code, DataType, Params, Shape, Status};
use tokio::sync::oneshot;

use super::places::Outward;
use super::schedule::Told;
use super::{classification, offload, params, places};
use crate::sessions::ClientSession;
use crate::system_memory::Place;

/// What a front asks for.
#[derive(Debug)]
pub(crate) struct InferCall {
    /// Name of the model or built-in operation.
    pub(crate) model: String,
    /// Which version; `None` = the one that the version policy serves.
    pub(crate) version: Option<u64>,
    /// The caller's own id, given back with the reply.
    pub(crate) id: String,
    /// Parameters for the model.
    pub(crate) params: Params,
    /// Schedule policy: 0 = not said, 1 = most urgent; see [`params::class_of`].
    pub(crate) priority: u64,
    /// Schedule policy: a request that did not begin within so many microseconds never runs.
    pub(crate) timeout_us: Option<u64>,
    /// The inputs, in any order.
    pub(crate) inputs: Vec<NamedTensor>,
    /// Which of the inputs, empty until then, lie in regions, and where.
    pub(crate) in_regions: Vec<(usize, Place)>,
    /// The wanted outputs in the wanted order; `None` or none at all means every one.
    pub(crate) outputs: Option<Vec<OutputWish>>,
}

/// One wanted output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct OutputWish {
    /// Its name.
    pub(crate) name: Box<str>,
    /// Not the values but the best so many of them; see [`classification`].
    pub(crate) classification: Option<usize>,
    /// Not with the reply but into a region.
    pub(crate) place: Option<Place>,
}

/// One output.
#[derive(Debug)]
pub(crate) struct ReplyTensor {
    /// Its name.
    pub(crate) name: Box<str>,
    /// Element type.
    pub(crate) data_type: DataType,
    /// Dimensions.
    pub(crate) shape: Shape,
    /// Row-major, little-endian elements.
    pub(crate) data: Buffer,
    /// Where the elements are if they went into a region, with the size that they have; `data` is empty then.
    pub(crate) place: Option<Place>,
}

/// What came out.
#[derive(Debug)]
pub(crate) struct InferReply {
    /// Name of the model.
    pub(crate) model: String,
    /// The version that ran.
    pub(crate) version: u64,
    /// The caller's id.
    pub(crate) id: String,
    /// Outputs in the wanted order.
    pub(crate) outputs: Vec<ReplyTensor>,
    /// Where the time went.
    pub(crate) timing: Timing,
    /// Which job this was, and what the scheduler did with it.
    pub(crate) told: Told,
}

/// An inference that failed.
#[derive(Debug)]
pub(crate) struct Failed {
    /// Why.
    pub(crate) status: Status,
    /// If it became a job: which, and what the scheduler did with it.
    pub(crate) told: Option<Told>,
}

impl From<Status> for Failed {
    fn from(status: Status) -> Failed {
        Failed { status, told: None }
    }
}

/// Cancels the job unless it ended: whoever waited for it went away.
struct CancelUnlessEnded(Option<Ticket>);

impl Drop for CancelUnlessEnded {
    fn drop(&mut self) {
        if let Some(ticket) = self.0.take() {
            ticket.cancel();
        }
    }
}

/// Runs one inference. Dropping the future cancels it.
pub(crate) async fn infer(session: &ClientSession, call: InferCall) -> Result<InferReply, Failed> {
    let InferCall { model, version, id, params, priority, timeout_us, mut inputs, in_regions, outputs } =
        call;
    // A timeout past the end of the clock is none.
    let deadline = timeout_us.and_then(|timeout| Instant::now().checked_add(Duration::from_micros(timeout)));
    let wishes = outputs.filter(|wishes| !wishes.is_empty());
    let outward = Outward::find(session, wishes.as_deref()).await?;
    // Held until there is an answer, as the memory of a body is.
    let _charge = places::fetch(session, &mut inputs, in_regions).await?;
    let handle = session.open(&model, version)?;
    let request = Request {
        params,
        inputs,
        outputs: wishes.as_ref().map(|wishes| wishes.iter().map(|wish| wish.name.clone()).collect()),
        class: params::class_of(priority),
        deadline,
        ..Request::new(handle)
    };
    let (send, receive) = oneshot::channel();
    let sink = move |reply: Reply| {
        // The receiver is gone if the caller is.
        let _ = send.send(reply);
    };
    let ticket = session.submit(request, Box::new(sink));
    let mut guard = CancelUnlessEnded(Some(ticket));
    // The job is bound, so the handle has served its purpose; waiting jobs must not use up the table.
    session.close(handle)?;
    let reply = receive.await;
    guard.0 = None;
    let Reply { job, result, timing, scheduled } = reply.map_err(|_| {
        Status::new(Code::Aborted, "the daemon dropped this job; it is safe to send it again")
    })?;
    let told = scheduled.map(|scheduled| (job, scheduled));
    let failed = |status: Status| Failed { status, told };
    let outputs = result.map_err(failed)?;
    let version = outputs.version.version;
    let mut outputs = finish(&session.turn, outputs, wishes).await.map_err(failed)?;
    if let Some(outward) = outward {
        outward.store(session, &mut outputs).await.map_err(failed)?;
    }
    // What has outputs was a job.
    let told = told.unwrap_or((job, Scheduled::default()));
    Ok(InferReply { model, version, id, outputs, timing, told })
}

/// The outputs as bytes that the front can send, classified where that was asked for.
async fn finish(
    turn: &offload::OwnTurn,
    outputs: Outputs,
    wishes: Option<Vec<OutputWish>>,
) -> Result<Vec<ReplyTensor>, Status> {
    let mut tensors: Vec<ReplyTensor> = outputs
        .named()
        .map(|(name, tensor)| ReplyTensor {
            name: name.into(),
            data_type: tensor.data_type,
            shape: tensor.shape,
            data: tensor.data.clone(),
            place: None,
        })
        .collect();
    let Some(wishes) = wishes else { return Ok(tensors) };
    if wishes.iter().all(|wish| wish.classification.is_none()) {
        return Ok(tensors);
    }
    let bytes = tensors.iter().map(|tensor| tensor.data.len()).sum();
    offload::run(turn, bytes, move || {
        // The engine gives outputs in the order of the wishes.
        for (tensor, wish) in tensors.iter_mut().zip(&wishes) {
            if let Some(count) = wish.classification {
                classification::classify(tensor, count, &outputs.version)?;
            }
        }
        Ok(tensors)
    })
    .await
}

/// A version as protocols carry it: text, empty for none.
pub(crate) fn parse_version(text: &str) -> Result<Option<u64>, Status> {
    if text.is_empty() {
        return Ok(None);
    }
    // `parse` would take a sign.
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|_| digits).map(Some).ok_or_else(|| {
        let shown: String = text.chars().take(40).collect();
        Status::invalid(format!(
            "version `{}` is no whole number; versions look like `1`",
            shown.escape_debug()
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_digits() {
        assert_eq!(parse_version(""), Ok(None));
        assert_eq!(parse_version("12"), Ok(Some(12)));
        for wrong in ["+1", "-1", "1.0", "one", " 1", "99999999999999999999999"] {
            assert!(parse_version(wrong).unwrap_err().message().contains(wrong), "{wrong}");
        }
    }
}
