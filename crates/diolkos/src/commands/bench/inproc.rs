// SPDX-License-Identifier: Apache-2.0
//! The engine in this process: the same store, admission, scheduler and devices as in the daemon, entered by
//! the same call, without a socket.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use diolkos_backend::{Buffer, Tensor};
use diolkos_engine::store::{RehearsalLimits, Store, StoreConfig};
use diolkos_engine::{ControlRequest, Engine, EngineConfig, NamedTensor, Reply, Request, Session};
use diolkos_types::TenantId;
use tokio::sync::oneshot;

use super::caller::{CallBlocking, Outcome, Question, check_echo};
use super::latencies::Latencies;
use super::tally::Tally;
use crate::backends;
use crate::exit::Failure;
use crate::input::Wanted;
use crate::tensor::Value;

/// An engine with the built-in operations and at most one model; its session keeps it running, so it stops
/// with the last clone.
#[derive(Clone, Debug)]
pub(crate) struct Local {
    session: Arc<Session>,
}

impl Local {
    /// Starts it, and loads a model file if one is named. Gives the model's name.
    pub(crate) fn start(file: Option<&Path>) -> Result<(Local, Option<String>), Failure> {
        let failed = |error: &dyn std::error::Error| {
            Failure::failed("the engine in this process can't be started").because(error)
        };
        let rehearser = Box::new(backends::rehearser(RehearsalLimits::default()));
        let store =
            Store::new(StoreConfig::default(), backends::all(), rehearser).map_err(|error| failed(&error))?;
        for builtin in backends::builtins() {
            let added = store.add_builtin(&builtin.name, &builtin.summary, builtin.operation);
            added.map_err(|error| failed(&error))?;
        }
        let name = match file {
            Some(path) => Some(add_file(&store, path)?),
            None => None,
        };
        let slots = std::thread::available_parallelism().map_or(1, usize::from);
        let engine = Engine::start(&EngineConfig::cpu(slots), store).map_err(|error| failed(&error))?;
        if let Some(name) = &name {
            let loaded = engine.control_and_wait(ControlRequest::Load { name: name.clone() });
            loaded.map_err(|error| failed(&error))?;
        }
        let session = engine.open_session(&TenantId::default()).map_err(|error| failed(&error))?;
        Ok((Local { session: Arc::new(session) }, name))
    }

    /// What a model takes.
    pub(crate) fn wanted(&self, model: &str) -> Result<Vec<Wanted>, Failure> {
        let failed = |error: diolkos_types::Status| Failure::failed(error.message());
        let handle = self.session.open(model, None).map_err(failed)?;
        let bound = self.session.bound_version(handle).map_err(failed)?;
        self.session.close(handle).map_err(failed)?;
        let inputs = bound.signature.inputs.iter().map(|spec| Wanted {
            name: spec.name.to_string(),
            data_type: spec.data_type,
            dims: spec.signed_dims(),
        });
        Ok(inputs.collect())
    }
}

fn add_file(store: &Store, path: &Path) -> Result<String, Failure> {
    let before: Vec<String> = store.entries().iter().map(|entry| entry.name().to_owned()).collect();
    let failed = |error: &dyn std::error::Error| {
        Failure::failed(format!("{} can't be loaded", path.display())).because(error)
    };
    store.add_file(path).map_err(|error| failed(&error))?;
    let added = store.entries().into_iter().find(|entry| before.iter().all(|name| *name != entry.name()));
    added
        .map(|entry| entry.name().to_owned())
        .ok_or_else(|| Failure::usage(format!("{} has the name of a built-in operation", path.display())))
}

/// A client of the engine in this process.
pub(crate) struct InprocCaller {
    session: Arc<Session>,
    request: Request,
    /// Length of a good answer's first output.
    answer_bytes: Option<usize>,
}

impl InprocCaller {
    /// Opens the model.
    pub(crate) fn open(local: &Local, question: &Question) -> Result<InprocCaller, Failure> {
        let opened = local.session.open(&question.model, None);
        let mut request = Request::new(opened.map_err(|status| Failure::failed(status.message()))?);
        request.inputs = question.inputs.iter().map(named).collect();
        let echoed = question.inputs.first().filter(|_| question.echoes).map(|input| input.data.len());
        Ok(InprocCaller { session: local.session.clone(), request, answer_bytes: echoed })
    }

    /// One call from an async task: queued, and answered through a channel.
    pub(crate) async fn call(&mut self) -> Outcome {
        let (send, receive) = oneshot::channel();
        let sink = move |reply: Reply| {
            // A receiver that is gone stopped waiting.
            let _ = send.send(reply);
        };
        let ticket = self.session.submit(self.request.clone(), Box::new(sink)).cancel_on_drop();
        let reply = receive.await;
        drop(ticket);
        match reply {
            Ok(reply) => self.outcome(reply),
            Err(_) => Outcome::failed("no reply"),
        }
    }

    fn outcome(&self, reply: Reply) -> Outcome {
        match reply.result {
            Ok(outputs) => {
                let first = outputs.tensors.first().map(|(_, tensor)| tensor.data.len());
                if self.answer_bytes.is_some() && first != self.answer_bytes {
                    Outcome::failed("short answer")
                } else {
                    Outcome::Ok
                }
            }
            Err(status) => Outcome::Failed(status.code().name().into()),
        }
    }
}

impl CallBlocking for InprocCaller {
    /// A short job may run on this very thread.
    fn call_blocking(&mut self) -> Outcome {
        let reply = self.session.call(self.request.clone());
        self.outcome(reply)
    }

    fn checked_call(&mut self, question: &Question) -> Result<(), String> {
        let outputs =
            self.session.call(self.request.clone()).result.map_err(|status| status.message().to_owned())?;
        let first = outputs.tensors.first().map(|(_, tensor)| tensor.data.to_private());
        check_echo(question, first.as_deref().unwrap_or(&[]))
    }
}

fn named(value: &Value) -> NamedTensor {
    let data = Buffer::from(value.data.clone());
    NamedTensor {
        name: value.name.as_str().into(),
        tensor: Tensor { data_type: value.data_type, shape: value.shape, data },
    }
}

/// Calls per reading of the clock in [`batches`].
pub(crate) const BATCH: u32 = 64;

/// One client for `length`, with the clock read once per [`BATCH`] calls: the mean of each batch, counted for
/// each of its calls. What the clock costs is spread thin, and so is what differs within a batch.
pub(crate) fn batches(caller: &mut InprocCaller, length: Duration) -> Tally {
    let end = Instant::now() + length;
    let mut tally = Tally::new();
    loop {
        let began = Instant::now();
        if began >= end {
            return tally;
        }
        let mut failed = None;
        for _ in 0..BATCH {
            let outcome = caller.call_blocking();
            if outcome != Outcome::Ok {
                failed = Some(outcome);
            }
        }
        let mean = began.elapsed() / BATCH;
        for _ in 1..BATCH {
            tally.count(&Outcome::Ok, mean);
        }
        tally.count(&failed.unwrap_or(Outcome::Ok), mean);
    }
}

/// What timing an empty piece of code gives: the part of every single latency that is the clock's own.
pub(crate) fn clock() -> Latencies {
    let mut readings = Latencies::new();
    for _ in 0..100_000 {
        let before = Instant::now();
        let after = Instant::now();
        readings.record(after - before);
    }
    readings
}

#[cfg(test)]
mod tests {
    use super::super::caller::{Caller, Route};
    use super::super::{closed, payload};
    use super::*;

    #[tokio::test]
    async fn the_engine_in_this_process_answers_every_way() {
        let (local, none) = Local::start(None).unwrap();
        assert!(none.is_none() && local.wanted("noop").unwrap().is_empty());
        let echo = payload::echo_bytes(1000);
        let noop = payload::noop();
        for question in [&echo, &noop] {
            let route = Route::Inproc(local.clone());
            let Caller::Inproc(mut caller) = Caller::open(&route, question).await.unwrap() else {
                panic!("another caller")
            };
            assert_eq!(caller.call().await, Outcome::Ok);
            assert_eq!(caller.call_blocking(), Outcome::Ok);
        }
        let mut callers: Vec<_> = (0..2).map(|_| InprocCaller::open(&local, &noop).unwrap()).collect();
        let closed = closed::in_threads(&mut callers, Duration::ZERO, Duration::from_millis(20));
        assert!(closed.tally.ok() > 0 && closed.tally.failed() == 0);
        let tally = batches(&mut callers[0], Duration::from_millis(20));
        assert!(
            tally.ok() >= u64::from(BATCH) && tally.ok().is_multiple_of(BATCH.into()) && tally.failed() == 0
        );
    }

    #[tokio::test]
    async fn what_is_refused_counts_by_its_code() {
        let (local, _) = Local::start(None).unwrap();
        let mut wrong = payload::echo_bytes(8);
        wrong.model = "no such".into();
        assert!(InprocCaller::open(&local, &wrong).is_err());
        wrong.model = "echo".into();
        wrong.inputs[0].name = "other".into();
        let mut caller = InprocCaller::open(&local, &wrong).unwrap();
        assert_eq!(caller.call_blocking(), Outcome::failed("invalid_argument"));
        assert_eq!(caller.call().await, Outcome::failed("invalid_argument"));
    }
}
