// SPDX-License-Identifier: Apache-2.0
//! The targets of the channel. Pure.

use super::super::judge::{Bound, Judged, measured};
use super::super::report::Spread;
use super::cases::{Bare, Case, Way, Work};
use super::peer::WORK;
use super::results::{Measured, Results, Round};

fn of(round: &Round, case: Case) -> Option<Measured> {
    round.measured.get(&case.name()).copied()
}

fn p50(round: &Round, case: Case) -> Option<f64> {
    of(round, case).map(|measured| measured.p50_ns)
}

fn rate(round: &Round, case: Case) -> Option<f64> {
    of(round, case).map(|measured| measured.rate)
}

/// What a way adds to the call in this process, relative to an allowance.
fn added(round: &Round, work: Work, way: Way, allowance: Option<f64>) -> Option<f64> {
    let added = p50(round, Case::Work(work, way))? - p50(round, Case::Work(work, Way::Inproc))?;
    Some(added / allowance?)
}

/// Judges everything.
pub(super) fn judge(results: &Results) -> Vec<Judged> {
    use Bound::{AtLeast, AtMost};
    let judge = |what: &str, bound, unit, number: &dyn Fn(&Round) -> Option<f64>| {
        measured(what, bound, unit, results.each(number))
    };
    let sum = |round: &Round, one, two| Some(p50(round, one)? + p50(round, two)?);
    let mut all = vec![
        judge("empty call, blocking, to an eventfd ping-pong", AtMost(1.3), "", &|round| {
            Some(p50(round, Case::Empty(Way::Blocking))? / p50(round, Case::Ping(Bare::Event))?)
        }),
        judge("empty call, blocking, to a futex ping-pong", AtMost(1.3), "", &|round| {
            Some(p50(round, Case::Empty(Way::Blocking))? / p50(round, Case::Ping(Bare::Futex))?)
        }),
        judge("empty call, adaptive", AtMost(3.0), " µs", &|round| {
            Some(p50(round, Case::Empty(Way::Adaptive))? / 1000.0)
        }),
        judge("empty call, polled", AtMost(3.0), " µs", &|round| {
            Some(p50(round, Case::Empty(Way::Polled))? / 1000.0)
        }),
        judge(
            "602 kB in, 4 kB out, adaptive: what is added, to a memcpy and an empty call",
            AtMost(1.3),
            "",
            &|round| {
                let allowance = sum(round, Case::MemcpyImage, Case::Empty(Way::Adaptive));
                added(round, Work::Image, Way::Adaptive, allowance)
            },
        ),
        judge("602 kB in, 4 kB out, blocking: the same", AtMost(1.3), "", &|round| {
            let allowance = sum(round, Case::MemcpyImage, Case::Empty(Way::Blocking));
            added(round, Work::Image, Way::Blocking, allowance)
        }),
        judge("echo of 64 MiB: bandwidth of its two copies, to a memcpy's", AtLeast(0.8), "", &|round| {
            Some(2.0 * p50(round, Case::MemcpyLarge)? / p50(round, Case::Echo)?)
        }),
        judge("echo of 64 MiB: the daemon's CPU time, to a memcpy", AtMost(2.4), "", &|round| {
            Some(of(round, Case::Echo)?.daemon_cpu_ns? / p50(round, Case::MemcpyLarge)?)
        }),
        judge("empty calls per second of 1 client, to gRPC over unix", AtLeast(5.0), "", &|round| {
            Some(rate(round, Case::Empty(Way::Adaptive))? / rate(round, Case::Empty(Way::Grpc))?)
        }),
        judge("empty calls per second of 32 clients, to gRPC over unix", AtLeast(5.0), "", &|round| {
            Some(rate(round, Case::EmptyMany(Way::Adaptive))? / rate(round, Case::EmptyMany(Way::Grpc))?)
        }),
        judge("a model of 1 ms, adaptive, to the call in process", AtMost(1.05), "", &|round| {
            Some(
                p50(round, Case::Work(Work::Short, Way::Adaptive))?
                    / p50(round, Case::Work(Work::Short, Way::Inproc))?,
            )
        }),
        judge(
            "a model of 1 ms, blocking: what is added, to a ping-pong and a memcpy",
            AtMost(1.3),
            "",
            &|round| {
                let allowance = sum(round, Case::Ping(Bare::Event), Case::MemcpyBatch);
                added(round, Work::Short, Way::Blocking, allowance)
            },
        ),
        judge(
            "a model of 1 ms, blocking: the same, to a ping-pong with 1 ms of work in between",
            AtMost(1.3),
            "",
            &|round| {
                let woken = p50(round, Case::Ping(Bare::Busy))? - WORK.as_nanos() as f64;
                added(round, Work::Short, Way::Blocking, Some(woken + p50(round, Case::MemcpyBatch)?))
            },
        ),
        judge("MobileNet, adaptive, to the call in process", AtMost(1.01), "", &|round| {
            Some(
                p50(round, Case::Work(Work::Long, Way::Adaptive))?
                    / p50(round, Case::Work(Work::Long, Way::Inproc))?,
            )
        }),
        judge("MobileNet, blocking, to the call in process", AtMost(1.01), "", &|round| {
            Some(
                p50(round, Case::Work(Work::Long, Way::Blocking))?
                    / p50(round, Case::Work(Work::Long, Way::Inproc))?,
            )
        }),
    ];
    if let Some(fresh) = &results.fresh {
        let warm = Spread::of(fresh.inference_ns.iter().copied()).map_or(0.0, |spread| spread.median);
        let over = fresh.channel_ns.iter().map(|took| (took - warm) / 1e6).collect();
        all.push(measured(
            "MobileNet, first answer of a fresh process, over a warm inference in process",
            AtMost(10.0),
            " ms",
            over,
        ));
        let memory = fresh.memory_bytes.iter().map(|bytes| bytes / 1e6).collect();
        all.push(measured("memory of that process, without its tensors", AtMost(8.0), " MB", memory));
    }
    all
}
