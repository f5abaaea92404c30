// SPDX-License-Identifier: Apache-2.0
//! Runs that several requests share: which may, and how their rows go in and come out.
//!
//! ```text
//! jobs ──prepare each──> rows one behind the other ──one run──> outputs ──rows apart──> an answer for each
//!                │                                      │
//!                └ its own mistake is its own           └ fails: each runs alone, and who failed alone is apart for a while
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
    /// A run came out in a way that no batch comes out.
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
        let of_time = saturating_ns(limits::BATCH_TIME_MAX).saturating_mul(gain.rows) / gain.all_ns.max(1);
        let rows = gain.rows.min(allowed).min(limits::BATCH_BYTES_MAX / both).min(of_time.max(1));
        let rows_max = u32::try_from(rows).ok().filter(|&rows| rows > 1)?;
        let id = LOADED.fetch_add(1, Ordering::Relaxed);
        Some(Together { id, rows_max, row_bytes, own_only, broken: AtomicBool::new(false) })
    }
}

impl LoadedVersion {
    /// Rows that a run of several requests has at most, and how much faster than alone they were when it was loaded; `None` where
    /// each runs alone.
    #[must_use]
    pub fn batching(&self) -> Option<(u32, f64)> {
        let together = self.together.as_ref().filter(|together| !together.broken.load(Ordering::Relaxed))?;
        Some((together.rows_max, self.verdict.batch?.factor()))
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
    // What parameters mean is the backend's business.
    if !admitted.work.params().is_empty() {
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
    let running = Running::begin(began, false);
    let mut begun: Vec<Result<Begun, Box<Ran>>> = jobs.map(|job| job.begin(began)).collect();
    let mut ready: Vec<&mut Begun> =
        begun.iter_mut().flatten().filter(|begun| !begun.is_cancelled()).collect();
    let together = if ready.len() > 1 { run_ready(&mut ready) } else { None };
    let Used { ended, wall, device } = running.end();
    let (service, rows) = (device, ready.iter().map(|begun| begun.rows()).sum::<u64>());
    let part = |begun: &Begun| service.mul_f64(begun.rows() as f64 / rows.max(1) as f64);
    let Some(outcomes) = together else {
        return begun
            .into_iter()
            .map(|begun| begun.map_or_else(|ran| *ran, |begun| run_apart(begun, part)))
            .collect();
    };
    let version = ready[0].version().clone();
    version.stats.executed_together(ready.iter().map(|begun| begun.account()), wall);
    version.stats.learn(ready.iter().map(|begun| begun.input_bytes()).sum(), service);
    let mut outcomes = outcomes.into_iter();
    let mut end = |begun: Begun| {
        if begun.together == 1 {
            return begun.run(Instant::now(), Duration::ZERO);
        }
        let outcome = outcomes.next().expect("there is one for each that took part");
        let took = part(&begun);
        begun.end(outcome, ended, took)
    };
    begun.into_iter().map(|begun| begun.map_or_else(|ran| *ran, &mut end)).collect()
}

/// What goes wrong together is one's own alone. What it took together is each one's part; who fails alone as well is kept
/// apart for a while, so that nobody can make others pay for it again and again.
fn run_apart(begun: Begun, part: impl Fn(&Begun) -> Duration) -> Ran {
    let took = if begun.is_cancelled() { Duration::ZERO } else { part(&begun) };
    let (version, account) = (begun.version().clone(), begun.account());
    let ran = begun.run(Instant::now(), took);
    if ran.failed() {
        version.stats.of(account).keep_apart(limits::BATCH_APART);
    }
    ran
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
        let broken = version.together.as_ref().map(|together| &together.broken);
        if broken.is_some_and(|broken| !broken.swap(true, Ordering::Relaxed)) {
            tracing::warn!(model = %version.name, version = version.version,
                "what came out of a run of several requests has another number of rows: its requests run alone from now on");
        }
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
