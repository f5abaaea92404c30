// SPDX-License-Identifier: Apache-2.0
//! What the rim counts itself. All orderings are relaxed: each number is a sum of its own.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use axum::http::StatusCode;
use diolkos_engine::account::Gauge;

use crate::listen::{Budget, Expired, Refusal, Transport, Unproven};

/// Who answers a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Front {
    /// The REST front.
    Rest,
    /// The gRPC front.
    Grpc,
    /// This module.
    Metrics,
}

impl Front {
    const ALL: [Front; 3] = [Front::Rest, Front::Grpc, Front::Metrics];

    /// Label in metrics.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Front::Rest => "rest",
            Front::Grpc => "grpc",
            Front::Metrics => "metrics",
        }
    }
}

/// Status codes of HTTP, 100 to 599.
const STATUSES: usize = 500;

/// What the rim counts.
#[derive(Debug)]
pub(crate) struct Counters {
    connections: [AtomicU64; TRANSPORTS.len()],
    open: [Arc<Gauge>; TRANSPORTS.len()],
    refused: [AtomicU64; REFUSALS.len()],
    evicted: AtomicU64,
    expired: [AtomicU64; 3],
    replies: [Box<[AtomicU64]>; 3],
    reloads: [AtomicU64; 2],
    loads: [AtomicU64; 2],
    budget: OnceLock<Arc<Budget>>,
    copied: Arc<Copied>,
}

/// Bytes copied between regions of native clients and the daemon.
#[derive(Debug, Default)]
pub(crate) struct Copied {
    inward: AtomicU64,
    outward: AtomicU64,
}

impl Copied {
    /// To where the client can't write.
    pub(crate) fn inward(&self, bytes: usize) {
        self.inward.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// To where the client reads them.
    pub(crate) fn outward(&self, bytes: usize) {
        self.outward.fetch_add(bytes as u64, Ordering::Relaxed);
    }
}

impl Default for Counters {
    fn default() -> Counters {
        Counters {
            connections: Default::default(),
            open: Default::default(),
            refused: Default::default(),
            evicted: AtomicU64::new(0),
            expired: Default::default(),
            replies: Front::ALL.map(|_| (0..STATUSES).map(|_| AtomicU64::new(0)).collect()),
            reloads: Default::default(),
            loads: Default::default(),
            budget: OnceLock::new(),
            copied: Arc::default(),
        }
    }
}

/// A connection that is open; counts as such until dropped.
#[derive(Debug)]
pub(crate) struct OpenConnection(Arc<Gauge>);

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.0.decrement();
    }
}

fn add(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

fn get(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

fn transport(transport: Transport) -> usize {
    match transport {
        Transport::Unix => 0,
        Transport::Tcp => 1,
        Transport::Tls => 2,
        Transport::Vsock => 3,
    }
}

const TRANSPORTS: [Transport; 4] = [Transport::Unix, Transport::Tcp, Transport::Tls, Transport::Vsock];
const REFUSALS: [Refusal; 5] = [
    Refusal::Full,
    Refusal::Sessions,
    Refusal::Forbidden(Unproven::Nothing),
    Refusal::Handshake,
    Refusal::Rate,
];
const EXPIRED: [(Expired, &str); 3] =
    [(Expired::Idle, "idle"), (Expired::Header, "header"), (Expired::Reply, "reply")];

/// Labels of a two-way outcome.
const RESULTS: [&str; 2] = ["ok", "failed"];

impl Counters {
    /// The budget of bodies, made when first asked for.
    pub(crate) fn budget(&self, max: u64) -> Arc<Budget> {
        self.budget.get_or_init(|| Budget::new(max)).clone()
    }

    /// Bytes of bodies held now.
    pub(crate) fn body_memory(&self) -> u64 {
        self.budget.get().map_or(0, |budget| budget.used())
    }

    /// Where native connections count what they copy.
    pub(crate) fn copied(&self) -> Arc<Copied> {
        self.copied.clone()
    }

    /// Bytes copied from and to regions, by direction.
    pub(super) fn copies(&self) -> [(&'static str, u64); 2] {
        [("in", get(&self.copied.inward)), ("out", get(&self.copied.outward))]
    }

    /// A connection was let in.
    pub(crate) fn connection_opened(&self, by: Transport) -> OpenConnection {
        add(&self.connections[transport(by)]);
        let open = &self.open[transport(by)];
        open.increment();
        OpenConnection(open.clone())
    }

    /// A connection was not let in.
    pub(crate) fn refused(&self, refusal: Refusal) {
        let index = match refusal {
            Refusal::Full => 0,
            Refusal::Sessions => 1,
            Refusal::Forbidden(_) => 2,
            Refusal::Handshake => 3,
            Refusal::Rate => 4,
        };
        add(&self.refused[index]);
    }

    /// An idle connection had to make room.
    pub(crate) fn evicted(&self) {
        add(&self.evicted);
    }

    /// A connection took too long.
    pub(crate) fn expired(&self, expired: Expired) {
        let index = match expired {
            Expired::Idle => 0,
            Expired::Header => 1,
            Expired::Reply => 2,
        };
        add(&self.expired[index]);
    }

    /// A request was answered.
    pub(crate) fn answered(&self, front: Front, status: StatusCode) {
        let index = match front {
            Front::Rest => 0,
            Front::Grpc => 1,
            Front::Metrics => 2,
        };
        if let Some(counter) = self.replies[index].get(usize::from(status.as_u16()).wrapping_sub(100)) {
            add(counter);
        }
    }

    /// Settings were read again.
    pub(crate) fn reloaded(&self, ok: bool) {
        add(&self.reloads[usize::from(!ok)]);
    }

    /// A model was loaded, or failed to be, at start or on a rescan.
    pub(crate) fn loaded(&self, ok: bool) {
        add(&self.loads[usize::from(!ok)]);
    }

    /// Connections let in, and open now, by transport.
    pub(super) fn connections(&self) -> impl Iterator<Item = (&'static str, u64, u64)> {
        TRANSPORTS.into_iter().map(|by| {
            let index = transport(by);
            (by.name(), get(&self.connections[index]), self.open[index].get())
        })
    }

    /// Connections not let in, by reason.
    pub(super) fn refusals(&self) -> impl Iterator<Item = (&'static str, u64)> {
        REFUSALS.into_iter().zip(&self.refused).map(|(refusal, count)| (refusal.name(), get(count)))
    }

    /// Connections that made room.
    pub(super) fn evictions(&self) -> u64 {
        get(&self.evicted)
    }

    /// Connections that took too long, by what took too long.
    pub(super) fn expiries(&self) -> impl Iterator<Item = (&'static str, u64)> {
        EXPIRED.into_iter().zip(&self.expired).map(|((_, name), count)| (name, get(count)))
    }

    /// Replies by front and HTTP status; those that never were are left out.
    pub(super) fn replies(&self) -> impl Iterator<Item = (&'static str, usize, u64)> {
        Front::ALL.into_iter().zip(&self.replies).flat_map(|(front, counts)| {
            let counts = counts.iter().enumerate().map(|(index, count)| (index + 100, get(count)));
            counts.filter(|&(_, count)| count > 0).map(move |(status, count)| (front.name(), status, count))
        })
    }

    /// Reloads of the settings, by result.
    pub(super) fn reloads(&self) -> impl Iterator<Item = (&'static str, u64)> {
        RESULTS.into_iter().zip(&self.reloads).map(|(result, count)| (result, get(count)))
    }

    /// Loads of models at start and on rescans, by result.
    pub(super) fn loads(&self) -> impl Iterator<Item = (&'static str, u64)> {
        RESULTS.into_iter().zip(&self.loads).map(|(result, count)| (result, get(count)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_and_counts_belong_together() {
        let counters = Counters::default();
        counters.refused(Refusal::Forbidden(Unproven::Uid(7)));
        counters.expired(Expired::Header);
        counters.answered(Front::Grpc, StatusCode::OK);
        counters.answered(Front::Rest, StatusCode::from_u16(999).unwrap());
        counters.reloaded(false);
        let open = counters.connection_opened(Transport::Tcp);
        let all = |list: Vec<(&'static str, u64)>| {
            list.into_iter().filter(|&(_, count)| count > 0).collect::<Vec<_>>()
        };
        assert_eq!(all(counters.refusals().collect()), [("forbidden", 1)]);
        assert_eq!(all(counters.expiries().collect()), [("header", 1)]);
        assert_eq!(all(counters.reloads().collect()), [("failed", 1)]);
        assert_eq!(counters.replies().collect::<Vec<_>>(), [("grpc", 200, 1)]);
        assert_eq!(counters.connections().nth(1), Some(("tcp", 1, 1)));
        drop(open);
        assert_eq!(counters.connections().nth(1), Some(("tcp", 1, 0)));
    }
}
