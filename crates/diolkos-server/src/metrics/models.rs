// SPDX-License-Identifier: Apache-2.0
//! What the engine counted for each version of each model, under our names and under Triton's.

use diolkos_engine::account::{BUCKETS_NS, ModelStats};
use diolkos_engine::store::Store;
use diolkos_types::Code;

use super::collect::{Page, seconds};

/// Reasons as Triton's dashboards know them.
const REASONS: [&str; 4] = ["REJECTED", "CANCELED", "BACKEND", "OTHER"];

/// Triton's word for why a request failed: an index of [`REASONS`].
fn reason(code: Code) -> usize {
    match code {
        Code::Busy | Code::DeadlineExceeded => 0,
        Code::Cancelled => 1,
        Code::Internal | Code::Aborted | Code::Unavailable => 2,
        _ => 3,
    }
}

/// Adds every version that serves. One that was unloaded is left out until it serves again, and goes on
/// counting then.
pub(super) fn collect(page: &mut Page, store: &Store) {
    for version in store.entries().iter().flat_map(|entry| entry.ready()) {
        let number = version.version.to_string();
        page.add("diolkos_model_resident_bytes", &[&version.name, &number], version.resident_bytes as f64);
        of_version(page, &version.name, &number, &version.stats.everybody());
    }
}

/// Adds what happened to one version.
fn of_version(page: &mut Page, model: &str, version: &str, stats: &ModelStats) {
    let labels = &[model, version];
    page.add("diolkos_requests_total", &[model, version, "ok"], stats.success.count() as f64);
    let mut failures = [0u64; REASONS.len()];
    for code in Code::ALL {
        let count = stats.failures.get(code);
        failures[reason(code)] += count;
        if count > 0 {
            page.add("diolkos_requests_total", &[model, version, code.name()], count as f64);
        }
    }
    let bounds = BUCKETS_NS.map(seconds);
    let sum = seconds(stats.latency.sum_ns());
    page.add_histogram("diolkos_request_seconds", labels, &bounds, &stats.latency.counts(), sum);
    for (name, triton, total) in [
        ("diolkos_queue_seconds_total", "nv_inference_queue_duration_us", &stats.queue),
        ("diolkos_copy_in_seconds_total", "nv_inference_compute_input_duration_us", &stats.compute_input),
        ("diolkos_compute_seconds_total", "nv_inference_compute_infer_duration_us", &stats.compute_infer),
        ("diolkos_copy_out_seconds_total", "nv_inference_compute_output_duration_us", &stats.compute_output),
    ] {
        page.add(name, labels, seconds(total.nanoseconds()));
        page.add(triton, labels, microseconds(total.nanoseconds()));
    }
    let inferences = stats.inferences.load(std::sync::atomic::Ordering::Relaxed) as f64;
    let executions = stats.executions.load(std::sync::atomic::Ordering::Relaxed) as f64;
    let pending = stats.pending.get() as f64;
    page.add("diolkos_inferences_total", labels, inferences);
    page.add("diolkos_executions_total", labels, executions);
    page.add("diolkos_requests_pending", labels, pending);
    page.add("nv_inference_request_success", labels, stats.success.count() as f64);
    for (reason, count) in REASONS.into_iter().zip(failures) {
        page.add("nv_inference_request_failure", &[model, version, reason], count as f64);
    }
    page.add("nv_inference_count", labels, inferences);
    page.add("nv_inference_exec_count", labels, executions);
    page.add("nv_inference_pending_request_count", labels, pending);
    let latency = microseconds(stats.success.nanoseconds());
    page.add("nv_inference_request_duration_us", labels, latency);
}

/// Triton counts whole microseconds.
fn microseconds(nanoseconds: u64) -> f64 {
    (nanoseconds / 1000) as f64
}
