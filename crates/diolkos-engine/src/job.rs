// SPDX-License-Identifier: Apache-2.0
//! A job: one admitted request and the obligation to answer it, exactly once.
//!
//! [`Job::complete`] consumes the job. Dropping one that was not completed answers `Aborted`, so that no
//! caller waits forever for a defect of ours.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use diolkos_backend::{Buffer, CancelFlag, RunError, Work};
use diolkos_types::{Code, JobId, Status};

use crate::account::AccountKey;
use crate::admission::{self, AdmissionError, Admitted};
use crate::batch;
use crate::explain::{Past, Scheduled, Waited};
use crate::memory::Reservation;
use crate::request::{Outputs, Reply, ReplySink, Timing};
use crate::sched::{Batching, Class, Nanos};
use crate::session::InFlight;
use crate::status;
use crate::store::LoadedVersion;
use crate::tenant::Tenant;
use crate::used::Running;

/// The obligation to answer somebody.
pub(crate) struct Obligation {
    pub(crate) job: JobId,
    pub(crate) tenant: Arc<Tenant>,
    pub(crate) submitted: Instant,
    pub(crate) cancel: CancelFlag,
    sink: Option<Box<dyn ReplySink>>,
    /// Takes the job off its session's list when the obligation ends.
    in_flight: Option<InFlight>,
}

impl Obligation {
    pub(crate) fn new(
        job: JobId,
        tenant: Arc<Tenant>,
        cancel: CancelFlag,
        sink: Box<dyn ReplySink>,
        in_flight: InFlight,
    ) -> Obligation {
        tenant.in_flight.increment();
        let submitted = Instant::now();
        Obligation { job, tenant, submitted, cancel, sink: Some(sink), in_flight: Some(in_flight) }
    }

    /// Answers before there was a job, so no model is charged.
    pub(crate) fn refuse(mut self, status: Status) {
        let latency = self.submitted.elapsed();
        self.send(Err(status), Timing::default(), None, latency);
    }

    fn send(
        &mut self,
        result: Result<Outputs, Status>,
        timing: Timing,
        scheduled: Option<Scheduled>,
        latency: Duration,
    ) {
        let Some(sink) = self.sink.take() else { return };
        // Off the list before the answer is out: whoever sends the next request on its arrival must find room.
        self.in_flight = None;
        self.tenant.in_flight.decrement();
        self.tenant.requests.add(latency);
        if let Err(status) = &result {
            self.tenant.failures.add(status.code());
            if matches!(status.code(), Code::Busy | Code::PermissionDenied) {
                self.tenant.refused(status);
            }
        }
        sink.complete(Reply { job: self.job, result, timing, scheduled });
    }
}

impl Drop for Obligation {
    fn drop(&mut self) {
        if self.sink.is_some() {
            self.send(
                Err(Status::new(Code::Aborted, "the daemon dropped this job; it is safe to send it again")),
                Timing::default(),
                None,
                self.submitted.elapsed(),
            );
            debug_assert!(std::thread::panicking(), "a job was dropped without an answer");
        }
    }
}

/// Whose requests may be in a run together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RunTogether {
    /// Everybody's.
    WithOthers,
    /// One tenant's own.
    Own,
    /// Nobody's.
    Never,
}

/// An admitted request on its way through a device. It changes hands often, so what it has lies in a box.
pub(crate) struct Job(Box<Inner>);

struct Inner {
    admitted: Admitted,
    obligation: Obligation,
    queued: Instant,
    /// Which one of its device.
    pool: usize,
    predicted: Nanos,
    batching: Option<Batching>,
    ahead: u32,
    waited_for: Waited,
}

/// A job whose operation ran, successfully or not, and whose answer is still owed.
pub(crate) struct Ran {
    job: Obligation,
    version: Arc<LoadedVersion>,
    rows: u64,
    class: Class,
    result: Result<Outputs, Status>,
    timing: Timing,
    scheduled: Scheduled,
    /// Time on the device, for the scheduler and the tenant's account.
    pub(crate) service: Duration,
    pub(crate) ended: Instant,
}

impl Job {
    /// `queued` is when its admission began, and `together` says whose rows may be in a run with its own.
    pub(crate) fn new(
        admitted: Admitted,
        obligation: Obligation,
        queued: Instant,
        together: RunTogether,
    ) -> Job {
        let version = &admitted.version;
        let account = version.stats.of(obligation.tenant.account());
        account.pending.increment();
        let predicted = version.stats.predict(admitted.input_bytes, version.verdict.median_ns);
        let apart = together == RunTogether::Never || version.together.is_none() || account.is_kept_apart();
        let batching = if apart {
            None
        } else {
            let with_others = together == RunTogether::WithOthers;
            batch::batching(&admitted, obligation.tenant.key(), with_others, predicted)
        };
        let (pool, ahead, waited_for) = (0, 0, Waited::Nothing);
        Job(Box::new(Inner { admitted, obligation, queued, pool, predicted, batching, ahead, waited_for }))
    }

    /// It is in this pool of its device from now on.
    pub(crate) fn enters(&mut self, pool: usize) {
        self.0.pool = pool;
    }

    /// In which pool of its device it is.
    pub(crate) fn pool(&self) -> usize {
        self.0.pool
    }

    /// It came when so many of its tenant's waited.
    pub(crate) fn comes(&mut self, ahead: usize) {
        self.0.ahead = u32::try_from(ahead).unwrap_or(u32::MAX);
    }

    /// It has to wait.
    pub(crate) fn waits(&mut self, waited_for: Waited) {
        self.0.waited_for = waited_for;
    }

    /// What it waits for.
    pub(crate) fn waited_for(&self) -> Waited {
        self.0.waited_for
    }

    pub(crate) fn id(&self) -> JobId {
        self.0.obligation.job
    }

    pub(crate) fn admitted(&self) -> &Admitted {
        &self.0.admitted
    }

    /// What it may share a run with.
    pub(crate) fn batching(&self) -> Option<Batching> {
        self.0.batching
    }

    /// Device time that it will take alone, as far as one can tell.
    pub(crate) fn predicted(&self) -> Nanos {
        self.0.predicted
    }

    pub(crate) fn tenant(&self) -> &Arc<Tenant> {
        &self.0.obligation.tenant
    }

    /// When it was admitted.
    pub(crate) fn queued(&self) -> Instant {
        self.0.queued
    }

    /// Answers without having run.
    pub(crate) fn refuse(self, status: Status) {
        let Inner { admitted, mut obligation, predicted, ahead, waited_for, .. } = *self.0;
        let stats = admitted.version.stats.clone();
        let latency = obligation.submitted.elapsed();
        let predicted = Duration::from_nanos(predicted);
        let scheduled = Scheduled { ahead, waited_for, predicted, ..Scheduled::default() };
        let timing = Timing { queue: latency, ..Timing::default() };
        let failed = Some(status.code());
        let Admitted { version, class, .. } = &admitted;
        remember(&obligation, version, *class, scheduled, timing, latency, failed);
        // Its memory is given back before the answer is out: whoever gets it finds it so.
        drop(admitted);
        let account = stats.of(obligation.tenant.account());
        account.pending.decrement();
        account.failed(status.code(), latency);
        obligation.send(Err(status), timing, Some(scheduled), latency);
    }

    /// Runs the operation on this thread. A panic of the backend is a failure of this job only.
    pub(crate) fn run(self) -> Ran {
        let began = Instant::now();
        // Before what is left to check, which is as long as the payload where that is text, and paid for like all the rest.
        let running = Running::begin(began, self.0.admitted.version.stats.is_short());
        self.begin(began).map_or_else(|ran| *ran, |begun| begun.run(running))
    }

    /// What can be said before it runs: it is over, if what is left to check is wrong.
    pub(crate) fn begin(self, began: Instant) -> Result<Begun, Box<Ran>> {
        let Inner { admitted, obligation, queued, predicted, ahead, waited_for, .. } = *self.0;
        let Admitted {
            version,
            mut work,
            output_order,
            rows,
            class,
            memory,
            reserve_at_start,
            input_bytes,
            ..
        } = admitted;
        version.stats.of(obligation.tenant.account()).pending.decrement();
        version.usage.touch(began);
        let prepared = prepare(&version, &mut work, &memory, reserve_at_start);
        let begun = |scratch| Begun {
            obligation,
            version,
            work,
            together: 1,
            class,
            ahead,
            waited_for,
            output_order,
            rows,
            memory,
            scratch,
            input_bytes,
            queued,
            began,
            predicted,
        };
        match prepared {
            Ok(scratch) => Ok(begun(scratch)),
            Err(status) => Err(Box::new(begun(None).refuse(status))),
        }
    }
}

/// A job that runs.
pub(crate) struct Begun {
    obligation: Obligation,
    version: Arc<LoadedVersion>,
    pub(crate) work: Work,
    /// Jobs whose work was done in the same run, itself included.
    pub(crate) together: u32,
    class: Class,
    ahead: u32,
    waited_for: Waited,
    output_order: Option<Vec<usize>>,
    rows: u64,
    memory: Reservation,
    /// Memory for the run alone.
    scratch: Option<Reservation>,
    input_bytes: u64,
    queued: Instant,
    began: Instant,
    predicted: Nanos,
}

impl Begun {
    pub(crate) fn version(&self) -> &Arc<LoadedVersion> {
        &self.version
    }

    pub(crate) fn account(&self) -> AccountKey {
        self.obligation.tenant.account()
    }

    pub(crate) fn rows(&self) -> u64 {
        self.rows
    }

    pub(crate) fn input_bytes(&self) -> u64 {
        self.input_bytes
    }

    pub(crate) fn is_cancelled(&self) -> bool {
        self.obligation.cancel.is_cancelled()
    }

    /// Whether it has to run alone by now.
    pub(crate) fn is_apart(&self) -> bool {
        self.version.stats.of(self.account()).is_apart()
    }

    /// Runs it alone.
    pub(crate) fn run(mut self, running: Running) -> Ran {
        self.together = 1;
        let outcome = run_caught(&self.version, &mut self.work);
        let used = running.end();
        self.version.stats.executed(self.account(), used.wall);
        // What fails early says nothing about what others take, and what fails late must not be cheap.
        let longer = used.device > Duration::from_nanos(self.predicted);
        if outcome.is_ok() || longer {
            self.version.stats.learn(self.input_bytes, used.device);
        }
        self.end(outcome, used.ended, used.device)
    }

    /// It ended after so much device time.
    pub(crate) fn end(mut self, outcome: Result<(), RunError>, ended: Instant, service: Duration) -> Ran {
        let scratch = self.scratch.take();
        self.obligation.tenant.charge(service);
        let timing = timing(self.queued, self.began, ended, &self.work);
        let scheduled = self.scheduled(service);
        let outcome =
            if self.together > 1 && self.is_cancelled() { Err(RunError::Cancelled) } else { outcome };
        let Begun { obligation: job, version, work, output_order, rows, class, mut memory, .. } = self;
        // Outputs may be larger than what was reserved before it ran.
        if let Some(scratch) = scratch {
            memory.absorb(scratch);
        }
        let outcome = outcome.map_err(|error| status::of_run(&version, &error));
        let result = outcome.and_then(|()| collect(&version, work, output_order, memory));
        Ran { job, version, rows, class, result, timing, scheduled, service, ended }
    }

    fn scheduled(&self, device: Duration) -> Scheduled {
        let Begun { together, ahead, waited_for, .. } = *self;
        Scheduled { ahead, waited_for, predicted: Duration::from_nanos(self.predicted), device, together }
    }

    /// It ended before it ran.
    fn refuse(self, status: Status) -> Ran {
        let ended = Instant::now();
        let timing = timing(self.queued, self.began, ended, &self.work);
        let (service, result) = (ended - self.began, Err(status));
        self.obligation.tenant.charge(service);
        let scheduled = Scheduled { together: 0, ..self.scheduled(service) };
        let Begun { obligation: job, version, rows, class, .. } = self;
        Ran { job, version, rows, class, result, timing, scheduled, service, ended }
    }
}

/// What is left to check and to reserve when a job begins. Nothing is reserved for most.
fn prepare(
    version: &LoadedVersion,
    work: &mut Work,
    memory: &Reservation,
    reserve_at_start: u64,
) -> Result<Option<Reservation>, Status> {
    let refused = |refused| AdmissionError::Memory { needed: reserve_at_start, refused };
    let scratch = (reserve_at_start > 0).then(|| memory.another(reserve_at_start)).transpose();
    let scratch = scratch.map_err(|error| status::of_admission(&refused(error)))?;
    admission::take_text(&version.signature.inputs, work).map_err(|error| status::of_admission(&error))?;
    Ok(scratch)
}

impl Ran {
    pub(crate) fn id(&self) -> JobId {
        self.job.job
    }

    pub(crate) fn version(&self) -> &LoadedVersion {
        &self.version
    }

    /// Charges more device time.
    pub(crate) fn charge(&mut self, more: Duration) {
        self.job.tenant.charge(more);
        self.service += more;
        self.scheduled.device += more;
    }

    pub(crate) fn failed(&self) -> bool {
        self.result.as_ref().is_err_and(|status| status.code() != Code::Cancelled)
    }

    /// Sends the answer, now.
    pub(crate) fn complete(mut self, now: Instant) {
        let latency = now - self.job.submitted;
        let account = self.version.stats.of(self.job.tenant.account());
        match &self.result {
            Ok(_) => account.succeeded(&self.timing, now, latency, self.rows),
            Err(status) => account.failed(status.code(), latency),
        }
        if !self.version.stats.is_short() {
            let failed = self.result.as_ref().err().map(Status::code);
            let Ran { job, version, class, scheduled, timing, .. } = &self;
            remember(job, version, *class, *scheduled, *timing, latency, failed);
        }
        self.job.send(self.result, self.timing, Some(self.scheduled), latency);
    }
}

/// Leaves a note of a job that ends, for whoever asks its tenant.
fn remember(
    job: &Obligation,
    version: &LoadedVersion,
    class: Class,
    scheduled: Scheduled,
    timing: Timing,
    latency: Duration,
    failed: Option<Code>,
) {
    let (model, version) = (version.name.clone(), version.version);
    job.tenant.history.remember(Past {
        job: job.job,
        model,
        version,
        class,
        scheduled,
        timing,
        latency,
        failed,
    });
}

pub(crate) fn run_caught(version: &LoadedVersion, work: &mut Work) -> Result<(), RunError> {
    work.check_cancelled()?;
    let operation = &version.operation;
    // After a panic nothing of `work` is read but its phases, and the operation's contract is that `run`
    // may be called again at any time, so no broken invariant can be seen.
    let unwound = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| operation.run(work)));
    unwound.unwrap_or_else(|panic| {
        let reason = panic_text(&*panic);
        tracing::error!(model = %version.name, backend = version.backend, reason, "the backend panicked");
        Err(RunError::Failed { backend: version.backend, reason: format!("it panicked: {reason}") })
    })
}

/// The text of a panic, as far as it has one.
pub(crate) fn panic_text(panic: &(dyn std::any::Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no reason given")
}

fn timing(queued: Instant, began: Instant, ended: Instant, work: &Work) -> Timing {
    let phases = work.phases();
    let compute_began = phases.compute_began.unwrap_or(began);
    let compute_ended = phases.compute_ended.unwrap_or(ended);
    Timing {
        queue: began.saturating_duration_since(queued),
        copy_in: compute_began.saturating_duration_since(began),
        compute: compute_ended.saturating_duration_since(compute_began),
        copy_out: ended.saturating_duration_since(compute_ended),
    }
}

/// The wanted outputs in the wanted order. A missing or misshapen one is the backend's fault.
///
/// What is left of the job's memory stays reserved until the last byte of its outputs is dropped, wherever
/// they are by then: a client that does not take its answers is charged for them. Those that lie in its own memory already
/// take none of ours.
fn collect(
    version: &Arc<LoadedVersion>,
    work: Work,
    order: Option<Vec<usize>>,
    mut memory: Reservation,
) -> Result<Outputs, Status> {
    let mut outputs = work.into_outputs();
    let specs = &version.signature.outputs;
    let mut take = |index: usize| {
        let spec = &specs[index];
        let tensor = outputs.get_mut(index).and_then(Option::take);
        let tensor = tensor.ok_or_else(|| status::output_missing(version, &spec.name))?;
        if !spec.takes_type(tensor.data_type) {
            return Err(status::output_of_wrong_type(version, spec, tensor.data_type));
        }
        Ok((index, tensor))
    };
    let mut tensors = match order {
        Some(order) => order.into_iter().map(&mut take).collect::<Result<Vec<_>, _>>()?,
        None => (0..specs.len()).map(&mut take).collect::<Result<Vec<_>, _>>()?,
    };
    drop(outputs);
    let ours = tensors.iter().map(|(_, tensor)| tensor).filter(|tensor| tensor.data.is_private());
    let bytes = admission::payload_bytes(ours);
    memory.shrink_to(bytes);
    if bytes > 0 {
        let memory = Arc::new(memory);
        for (_, tensor) in tensors.iter_mut().filter(|(_, tensor)| tensor.data.is_private()) {
            tensor.data = Charged::wrap(&tensor.data, &memory);
        }
    }
    Ok(Outputs { version: version.clone(), tensors })
}

/// A payload and the reservation that pays for it.
struct Charged {
    payload: Bytes,
    _memory: Arc<Reservation>,
}

impl AsRef<[u8]> for Charged {
    fn as_ref(&self) -> &[u8] {
        &self.payload
    }
}

impl Charged {
    fn wrap(data: &Buffer, memory: &Arc<Reservation>) -> Buffer {
        let pieces = data.to_private_pieces();
        pieces.map(|payload| Bytes::from_owner(Charged { payload, _memory: memory.clone() })).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::sync::mpsc;

    use diolkos_types::TenantId;

    use super::*;
    use crate::account::Seats;
    use crate::lease::Policy;
    use crate::memory::Memory;
    use crate::sched::TenantKey;

    #[test]
    #[cfg_attr(debug_assertions, should_panic(expected = "dropped without an answer"))]
    fn dropping_an_obligation_answers_aborted_and_trips_an_assertion() {
        let (send, receive) = mpsc::channel();
        let memory = Memory::new(1, 1);
        let tenant = Arc::new(Tenant::new(
            TenantId::default(),
            Arc::new(Seats::default()).take(TenantKey(0)),
            Policy::everything(),
            &memory,
            &Arc::default(),
        ));
        let sink = Box::new(move |reply| send.send(reply).unwrap());
        let dropped = Obligation::new(JobId(1), tenant.clone(), CancelFlag::new(), sink, InFlight::none());
        let receive = Mutex::new(receive);
        let unwound = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| drop(dropped)));
        let reply: Reply = receive.lock().unwrap().recv().unwrap();
        assert_eq!(reply.result.unwrap_err().code(), Code::Aborted);
        assert_eq!(tenant.in_flight.get(), 0);
        unwound.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    }
}
