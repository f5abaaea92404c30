// SPDX-License-Identifier: Apache-2.0
//! Where a server spent the time of its requests, by its own account: the statistics of a model, before and
//! after.

use serde::{Deserialize, Serialize};

use crate::client::{Address, Client};

/// Means per request, in nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Split {
    /// Waiting for a slot.
    pub(crate) queue_ns: f64,
    /// Bringing inputs in.
    pub(crate) copy_in_ns: f64,
    /// Computing.
    pub(crate) compute_ns: f64,
    /// Handing outputs over.
    pub(crate) copy_out_ns: f64,
}

/// What a server has counted since it started.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Counted {
    requests: f64,
    queue_ns: f64,
    copy_in_ns: f64,
    compute_ns: f64,
    copy_out_ns: f64,
}

impl Counted {
    /// Asks the server; `None` if it is one that does not say.
    pub(crate) async fn ask(address: &Address, model: &str) -> Option<Counted> {
        let mut client = Client::connect(address).await.ok()?;
        let answer: Answer = client.get(&format!("/v2/models/{model}/stats")).await.ok()?;
        let mut all = Counted::default();
        for stats in answer.model_stats {
            let parts = stats.inference_stats;
            all.requests += parts.queue.count as f64;
            all.queue_ns += parts.queue.ns as f64;
            all.copy_in_ns += parts.compute_input.ns as f64;
            all.compute_ns += parts.compute_infer.ns as f64;
            all.copy_out_ns += parts.compute_output.ns as f64;
        }
        Some(all)
    }

    /// Means over the requests between two looks; `None` if there was none.
    pub(crate) fn since(&self, before: &Counted) -> Option<Split> {
        let requests = self.requests - before.requests;
        let mean = |now: f64, then: f64| (now - then) / requests;
        (requests > 0.0).then(|| Split {
            queue_ns: mean(self.queue_ns, before.queue_ns),
            copy_in_ns: mean(self.copy_in_ns, before.copy_in_ns),
            compute_ns: mean(self.compute_ns, before.compute_ns),
            copy_out_ns: mean(self.copy_out_ns, before.copy_out_ns),
        })
    }
}

#[derive(Deserialize)]
struct Answer {
    model_stats: Vec<ModelStats>,
}

#[derive(Deserialize)]
struct ModelStats {
    inference_stats: InferenceStats,
}

#[derive(Deserialize)]
struct InferenceStats {
    queue: Duration,
    compute_input: Duration,
    compute_infer: Duration,
    compute_output: Duration,
}

#[derive(Deserialize)]
struct Duration {
    count: u64,
    ns: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn means_are_over_what_came_in_between() {
        let before = Counted { requests: 10.0, queue_ns: 100.0, ..Counted::default() };
        let after = Counted { requests: 14.0, queue_ns: 500.0, compute_ns: 8.0, ..Counted::default() };
        let split = after.since(&before).unwrap();
        assert_eq!((split.queue_ns, split.compute_ns, split.copy_in_ns), (100.0, 2.0, 0.0));
        assert_eq!(before.since(&before), None);
    }
}
