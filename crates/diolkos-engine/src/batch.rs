// SPDX-License-Identifier: Apache-2.0
//! Runs that several requests share: which may, and how their rows go in and come out.
//!
//! ```text
//! jobs ──prepare each──> rows one behind the other ──one run──> outputs ──rows apart──> an answer for each
//!                │                                      │
//!                └ its own mistake is its own           └ fails: each half, and so on; who fails alone pays, and is apart for a while
//! ```
//!
//! Inputs are not copied for it: a payload may lie in pieces. Outputs are: an answer that somebody does not take must not hold
//! the memory of all the others.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use diolkos_backend::{Buffer, CancelFlag, RunError, Tensor, Work};
use diolkos_types::{Dim, Params, Shape, Signature};

use crate::account::saturating_ns;
use crate::admission::Admitted;
use crate::job::{Begun, Job, Ran, run_caught};
use crate::limits;
use crate::sched::{BatchKey, Batching, Nanos, TenantKey};
use crate::store::{self, BatchGain, LoadedVersion};
use crate::used::{Running, Used};

/// How requests to a version may share runs.
#[derive(Debug)]
pub(crate) struct Together {
    /// Different for everything that was ever loaded.
    id: u64,
    rows_max: u32,
    row_bytes: u64,
    /// A client gave the model, so nobody knows what it does with the rows of others.
    own_only: bool,
    /// Runs that failed although each of their requests succeeded alone.
    failures: AtomicU64,
    /// It turned out to be no batch.
    broken: AtomicBool,
}

impl Together {
    /// What a trial found, within what the signature allows; `None` where nothing is gained.
    pub(crate) fn new(gain: Option<BatchGain>, signature: &Signature, own_only: bool) -> Option<Together> {
        static LOADED: AtomicU64 = AtomicU64::new(0);
        let gain = gain.filter(|_| store::has_batch(signature))?;
        let allowed = signature.inputs.iter().chain(&signature.outputs).filter_map(|spec| {
            match spec.dims.as_deref()?.first()? {
                Dim::Variable { max } => Some(*max),
                Dim::Fixed(_) => None,
            }
        });
        let allowed = allowed.min().unwrap_or(1);
        let row_bytes = store::row_bytes(&signature.inputs)?.max(1);
        let both = row_bytes.saturating_add(store::row_bytes(&signature.outputs)?);
        // Two points of a straight line: what a row takes, and what a run takes whatever its rows.
        let row_ns = (gain.all_ns.saturating_sub(gain.one_ns) / (gain.rows - 1).max(1)).max(1);
        let fixed_ns = gain.one_ns.saturating_sub(row_ns);
        let of_time = saturating_ns(limits::BATCH_TIME_MAX).saturating_sub(fixed_ns) / row_ns;
        let rows = gain.rows.min(allowed).min(limits::BATCH_BYTES_MAX / both).min(of_time);
        let rows_max = u32::try_from(rows).ok().filter(|&rows| rows > 1)?;
        let id = LOADED.fetch_add(1, Ordering::Relaxed);
        Some(Together {
            id,
            rows_max,
            row_bytes,
            own_only,
            failures: AtomicU64::new(0),
            broken: AtomicBool::new(false),
        })
    }
}

impl LoadedVersion {
    /// Rows that a run of several requests has at most, and what was found when it was loaded; `None` where each runs alone.
    #[must_use]
    pub fn batching(&self) -> Option<(u32, BatchGain)> {
        let together = self.together.as_ref().filter(|together| !together.broken.load(Ordering::Relaxed))?;
        Some((together.rows_max, self.verdict.batch?))
    }
}

/// What a request may share a run with.
pub(crate) fn batching(
    admitted: &Admitted,
    tenant: TenantKey,
    with_others: bool,
    alone: Nanos,
) -> Option<Batching> {
    let version = &admitted.version;
    let together = version.together.as_ref().filter(|together| !together.broken.load(Ordering::Relaxed))?;
    let rows =
        u32::try_from(rows_of(&admitted.work)?).ok().filter(|&rows| rows > 0 && rows < together.rows_max)?;
    // What parameters mean is the backend's business; and what nobody can tell the memory of takes as much as one request may
    // have, while it runs.
    if !admitted.work.params().is_empty() || admitted.reserve_at_start > 0 {
        return None;
    }
    let full = version.stats.predict(together.row_bytes * u64::from(together.rows_max), 0);
    // Two points of a straight line: this request alone, and a full run.
    let per_row = full.saturating_sub(alone) / u64::from(together.rows_max - rows);
    let fixed = alone.saturating_sub(per_row * u64::from(rows));
    let own_only = together.own_only || !with_others;
    let key = BatchKey { operation: together.id, tenant: own_only.then_some(tenant) };
    Some(Batching { key, rows, rows_max: together.rows_max, fixed, per_row })
}

/// The rows of a request, if all its inputs have as many.
fn rows_of(work: &Work) -> Option<u64> {
    let mut inputs = work.inputs().map(|input| input?.shape.dims().first().copied());
    let rows = inputs.next()??;
    inputs.all(|other| other == Some(rows)).then_some(rows)
}

/// Runs jobs of one version, the one that holds the slot first. Their answers are in the same order.
pub(crate) fn run(jobs: impl Iterator<Item = Job>) -> Vec<Ran> {
    let began = Instant::now();
    let mut runs = Runs::default();
    let (mut ready, mut apart) = (Vec::new(), Vec::new());
    for (place, job) in jobs.enumerate() {
        match job.begin(began) {
            Err(ran) => runs.done.push((place, *ran)),
            // Somebody may have been set apart, or have gone away, since the run was put together.
            Ok(begun) if begun.is_cancelled() || begun.is_apart() => apart.push((place, begun)),
            Ok(begun) => ready.push((place, begun)),
        }
    }
    runs.settle(ready, false);
    for (place, begun) in apart {
        runs.done.push((place, begun.run(Running::begin(Instant::now(), false))));
    }
    runs.finish()
}

/// Runs of the same jobs, until each of them has ended.
#[derive(Default)]
struct Runs {
    /// Ended, and which of all jobs they are.
    done: Vec<(usize, Ran)>,
    /// Device time of runs of several that failed.
    wasted: Duration,
}

impl Runs {
    /// Runs them together; if that fails, each half of them. So one that is bad costs the others a few runs, and not as many as
    /// they are.
    fn settle(&mut self, mut jobs: Vec<(usize, Begun)>, halved: bool) {
        if jobs.len() <= 1 {
            for (place, begun) in jobs {
                let (version, account) = (begun.version().clone(), begun.account());
                let ran = begun.run(Running::begin(Instant::now(), false));
                if halved && ran.failed() {
                    version.stats.of(account).keep_apart(limits::BATCH_APART);
                }
                self.done.push((place, ran));
            }
            return;
        }
        let running = Running::begin(Instant::now(), false);
        let mut ready: Vec<&mut Begun> = jobs.iter_mut().map(|(_, begun)| begun).collect();
        let outcomes = run_ready(&mut ready);
        let Used { ended, wall, device } = running.end();
        let Some(outcomes) = outcomes else {
            self.wasted += device;
            let rest = jobs.split_off(jobs.len() / 2);
            self.settle(jobs, true);
            return self.settle(rest, true);
        };
        let stats = &ready[0].version().stats;
        stats.executed_together(ready.iter().map(|begun| begun.account()), wall);
        stats.learn(ready.iter().map(|begun| begun.input_bytes()).sum(), device);
        let rows = ready.iter().map(|begun| begun.rows()).sum::<u64>().max(1) as f64;
        for ((place, begun), outcome) in jobs.into_iter().zip(outcomes) {
            let part = device.mul_f64(begun.rows() as f64 / rows);
            self.done.push((place, begun.end(outcome, ended, part)));
        }
    }

    /// In the order of the jobs. What runs took that failed is charged to those who failed alone, so that nobody can make others
    /// pay; to all, if none did.
    fn finish(mut self) -> Vec<Ran> {
        self.done.sort_by_key(|(place, _)| *place);
        let mut ran: Vec<Ran> = self.done.into_iter().map(|(_, ran)| ran).collect();
        if self.wasted > Duration::ZERO {
            let failed = ran.iter().filter(|ran| ran.failed()).count();
            if failed == 0
                && let Some(ran) = ran.first()
            {
                ran.version().fails_together();
            }
            let pay = if failed > 0 { failed } else { ran.len() };
            let part = self.wasted / u32::try_from(pay).unwrap_or(u32::MAX).max(1);
            ran.iter_mut().filter(|ran| failed == 0 || ran.failed()).for_each(|ran| ran.charge(part));
        }
        ran
    }
}

impl LoadedVersion {
    /// A run of several failed, and each of them succeeded alone.
    fn fails_together(&self) {
        let Some(together) = &self.together else { return };
        if together.failures.fetch_add(1, Ordering::Relaxed) + 1 >= limits::BATCH_FAILURES_MAX {
            self.runs_alone("runs of several requests fail where each succeeds alone");
        }
    }

    /// Requests run alone from now on.
    fn runs_alone(&self, why: &str) {
        if self.together.as_ref().is_some_and(|together| !together.broken.swap(true, Ordering::Relaxed)) {
            tracing::warn!(model = %self.name, version = self.version, "{why}: its requests run alone from now on");
        }
    }
}

/// One run of all of them. How each one's part came out, or `None` if there was nothing to part.
fn run_ready(ready: &mut [&mut Begun]) -> Option<Vec<Result<(), RunError>>> {
    let version = ready[0].version().clone();
    let rows = ready.iter().map(|begun| begun.rows()).sum();
    let mut whole = join(&version, ready, rows)?;
    run_caught(&version, &mut whole).ok()?;
    let together = u32::try_from(ready.len()).unwrap_or(u32::MAX);
    for begun in &mut *ready {
        begun.work.was_part_of(&whole);
        begun.together = together;
    }
    let outcomes = part(&version, ready, whole, rows);
    if outcomes.is_none() {
        version.runs_alone("what came out of a run of several requests has another number of rows");
    }
    outcomes
}

/// The work of a run of all: inputs one behind the other, and the outputs that anybody wants.
fn join(version: &LoadedVersion, ready: &[&mut Begun], rows: u64) -> Option<Work> {
    let input = |index: usize| {
        let first = ready[0].work.input(index)?;
        let parts: Option<Vec<Buffer>> =
            ready.iter().map(|begun| Some(begun.work.input(index)?.data.clone())).collect();
        let shape = with_rows(&first.shape, rows)?;
        Some(Some(Tensor { data_type: first.data_type, shape, data: Buffer::concat(&parts?)? }))
    };
    let inputs = (0..version.signature.inputs.len()).map(input).collect::<Option<Vec<_>>>()?;
    let outputs = 0..version.signature.outputs.len();
    let wanted = outputs.map(|index| ready.iter().any(|begun| begun.work.wants(index))).collect();
    let bytes_max = ready.iter().map(|begun| begun.work.output_bytes_left()).fold(0, u64::saturating_add);
    Some(Work::new(inputs, Some(wanted), Params::new(), bytes_max, CancelFlag::new()))
}

/// Gives each its rows of the outputs. `None` if these have another number of rows than the inputs.
fn part(
    version: &LoadedVersion,
    ready: &mut [&mut Begun],
    whole: Work,
    rows: u64,
) -> Option<Vec<Result<(), RunError>>> {
    let outputs: Vec<Option<(Tensor, Bytes)>> = whole
        .into_outputs()
        .into_iter()
        .map(|tensor| {
            tensor.map(|tensor| (tensor.data.to_private(), tensor)).map(|(data, tensor)| (tensor, data))
        })
        .collect();
    if outputs.iter().flatten().any(|(tensor, _)| tensor.shape.dims().first() != Some(&rows)) {
        return None;
    }
    let mut before = 0;
    let mut outcomes = Vec::with_capacity(ready.len());
    for begun in ready {
        let own = begun.rows();
        outcomes.push(give(version, &mut begun.work, &outputs, before, own, rows));
        before += own;
    }
    Some(outcomes)
}

/// Gives one request its rows, copied.
fn give(
    version: &LoadedVersion,
    work: &mut Work,
    outputs: &[Option<(Tensor, Bytes)>],
    before: u64,
    own: u64,
    rows: u64,
) -> Result<(), RunError> {
    for (index, output) in outputs.iter().enumerate() {
        let Some((tensor, data)) = output.as_ref().filter(|_| work.wants(index)) else { continue };
        let row = data.len() as u64 / rows;
        let range = (before * row) as usize..((before + own) * row) as usize;
        let shape = with_rows(&tensor.shape, own).expect("fewer rows than it had");
        let slot = work.output(&version.signature, index, tensor.data_type, shape, range.len())?;
        slot.copy_from(&data[range]);
    }
    Ok(())
}

fn with_rows(shape: &Shape, rows: u64) -> Option<Shape> {
    let rest = shape.dims().get(1..)?.iter().copied();
    Shape::new(&[rows].into_iter().chain(rest).collect::<Vec<u64>>()).ok()
}
