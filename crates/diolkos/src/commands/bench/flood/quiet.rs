// SPDX-License-Identifier: Apache-2.0
//! The tenant whose latencies count: empty calls by REST over its own unix socket, in an open loop.
//!
//! * REST, because it shares threads, connection table and admission with the flood; a native client has threads of
//!   its own in the daemon, and would see less of it.
//! * An empty call, because whatever the flood adds is all the more of a short one.
//! * An open loop, because a closed one would ask less often just while it is held up.

use std::time::Duration;

use super::super::caller::{Caller, Route};
use super::super::children::Server;
use super::super::schedule::{Arrivals, Schedule};
use super::super::{open, payload};
use super::results::Quiet;
use crate::exit::Failure;

/// Requests per second: a few thousand in each side of a round, so that a p99 has tens above it, and a small part of what
/// a core can do.
pub(super) const RATE: f64 = 1000.0;

/// Clients, each with a connection of its own: enough that one slow answer does not hold up the next request.
pub(super) const CLIENTS: usize = 8;

/// How long it may go on after its last request is due.
const GRACE: Duration = Duration::from_secs(10);

/// Its clients.
pub(super) struct QuietTenant {
    route: Route,
    callers: Vec<Caller>,
}

impl QuietTenant {
    pub(super) async fn connect(server: &Server) -> Result<QuietTenant, Failure> {
        let route = Route::Rest(server.unix.clone());
        let callers = Caller::open_many(&route, &payload::noop(), CLIENTS).await?;
        Ok(QuietTenant { route, callers })
    }

    /// Asks for so long, after a time that is not counted. The same seed gives the same times.
    pub(super) async fn ask(
        &mut self,
        warmup: Duration,
        length: Duration,
        seed: u64,
    ) -> Result<Quiet, Failure> {
        let all = warmup + length;
        let schedule = Schedule::new(Arrivals::Poisson, RATE, all, seed);
        let callers = std::mem::take(&mut self.callers);
        let (back, tally) = open::run(callers, schedule, warmup, all, GRACE).await;
        self.callers = back;
        if self.callers.len() < CLIENTS {
            // Some hung, which was counted.
            self.callers = Caller::open_many(&self.route, &payload::noop(), CLIENTS).await?;
        }
        let summary = tally.all.latencies().summary();
        Ok(Quiet {
            count: summary.count,
            failed: tally.all.failed(),
            p50_ns: summary.p50_ns as f64,
            p99_ns: summary.p99_ns as f64,
            max_ns: summary.max_ns as f64,
        })
    }
}
