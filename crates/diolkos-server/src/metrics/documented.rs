// SPDX-License-Identifier: Apache-2.0
//! The list of every metric. `docs/metrics.md` has the same list, with the same words; a test compares.

/// What a metric does over time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only grows while the daemon runs.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Counts by size, with their sum.
    Histogram,
}

impl Kind {
    /// As Prometheus writes it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        }
    }
}

/// One metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Metric {
    /// Its name.
    pub name: &'static str,
    /// What it does over time.
    pub kind: Kind,
    /// Names of its labels.
    pub labels: &'static [&'static str],
    /// What it says.
    pub help: &'static str,
}

const fn counter(name: &'static str, labels: &'static [&'static str], help: &'static str) -> Metric {
    Metric { name, kind: Kind::Counter, labels, help }
}

const fn gauge(name: &'static str, labels: &'static [&'static str], help: &'static str) -> Metric {
    Metric { name, kind: Kind::Gauge, labels, help }
}

const MODEL: &[&str] = &["model", "version"];

/// Every metric that `/metrics` may export, in the order of the export.
#[rustfmt::skip]
pub const DOCUMENTED: &[Metric] = &[
    gauge("diolkos_build_info", &["version"], "Always 1; says which version runs."),
    gauge("diolkos_uptime_seconds", &[], "Seconds since start."),
    gauge("diolkos_ready", &[], "1 when v2/health/ready answers yes."),
    gauge("process_resident_memory_bytes", &[], "Resident memory of the daemon in bytes."),
    counter("diolkos_connections_total", &["transport"], "Connections let in."),
    gauge("diolkos_connections_open", &["transport"], "Connections open now."),
    counter("diolkos_connections_refused_total", &["reason"], "Connections turned away: connections (limit reached, all busy), rate (its tenant connects too often), sessions (engine full), handshake (TLS was not agreed on, or a certificate that is no good), forbidden (nobody whom the settings name)."),
    counter("diolkos_connections_evicted_total", &[], "Idle connections closed to make room for a newcomer."),
    counter("diolkos_connections_expired_total", &["reason"], "Connections closed by a timeout: idle, header, reply (the client did not take it)."),
    counter("diolkos_http_replies_total", &["front", "status"], "Replies by front (rest, grpc, metrics) and HTTP status."),
    gauge("diolkos_body_memory_bytes", &[], "Memory held by bodies being received or sent, in bytes."),
    counter("diolkos_channel_copied_bytes_total", &["direction"], "Bytes of tensors copied from regions of native clients (in) and to them (out)."),
    gauge("diolkos_sessions_open", &[], "Sessions open now, lingering ones included."),
    gauge("diolkos_request_memory_bytes", &[], "Memory reserved for the tensors of requests in flight, in bytes."),
    counter("diolkos_settings_reloads_total", &["result"], "Reloads of the settings: ok, failed."),
    counter("diolkos_log_lines_suppressed_total", &[], "Log lines not written because their call site wrote too many."),
    counter("diolkos_requests_total", &["model", "version", "code"], "Requests that reached a model, by outcome: ok, or the status code."),
    Metric { name: "diolkos_request_seconds", kind: Kind::Histogram, labels: MODEL, help: "Seconds from submission to reply of requests that succeeded." },
    counter("diolkos_queue_seconds_total", MODEL, "Seconds that successful requests waited for a slot."),
    counter("diolkos_copy_in_seconds_total", MODEL, "Seconds of bringing inputs in."),
    counter("diolkos_compute_seconds_total", MODEL, "Seconds of computing."),
    counter("diolkos_copy_out_seconds_total", MODEL, "Seconds of handing outputs over."),
    counter("diolkos_inferences_total", MODEL, "Rows inferred: a request counts as many as its batch has."),
    counter("diolkos_executions_total", MODEL, "Runs of the operation."),
    gauge("diolkos_requests_pending", MODEL, "Requests admitted and not yet running."),
    gauge("diolkos_model_resident_bytes", MODEL, "Memory that a loaded version keeps, in bytes."),
    counter("diolkos_model_loads_total", &["result"], "Loads of models at start and on rescans: ok, failed."),
    gauge("diolkos_device_slots", &["device"], "Jobs that may run at once."),
    gauge("diolkos_device_running", &["device"], "Jobs that run."),
    gauge("diolkos_device_waiting", &["device"], "Jobs that wait."),
    counter("diolkos_device_jobs_total", &["device"], "Jobs taken in, refused ones included."),
    counter("diolkos_device_jobs_run_here_total", &["device"], "Jobs that ran on the thread that brought them."),
    counter("diolkos_device_runs_total", &["device"], "Runs of operations that ended; fewer than jobs, where several share one."),
    counter("diolkos_device_busy_seconds_total", &["device"], "Seconds that slots were busy with jobs that ended."),
    counter("diolkos_device_predicted_seconds_total", &["device"], "Seconds that these jobs were predicted to take."),
    counter("diolkos_device_prediction_error_seconds_total", &["device"], "Seconds by which predictions were wrong, too much and too little alike."),
    gauge("diolkos_pool_slots", &["device", "pool"], "Slots that the pool has."),
    gauge("diolkos_pool_slots_lent", &["device", "pool"], "Those that other pools use."),
    gauge("diolkos_pool_running", &["device", "pool"], "Jobs of the pool that run, on whatever slots."),
    gauge("diolkos_pool_waiting", &["device", "pool"], "Jobs of the pool that wait."),
    counter("diolkos_pool_loans_total", &["device", "pool"], "Runs of other pools that began on slots of this one."),
    counter("diolkos_pool_busy_seconds_total", &["device", "pool"], "Seconds that jobs of the pool kept slots busy, of those that ended."),
    counter("diolkos_tenant_requests_total", &["tenant"], "Requests that ended, however they ended."),
    counter("diolkos_tenant_failures_total", &["tenant", "code"], "Requests that failed, by status code."),
    gauge("diolkos_tenant_jobs", &["tenant"], "Jobs admitted and not ended."),
    gauge("diolkos_tenant_sessions", &["tenant"], "Open sessions."),
    counter("diolkos_tenant_device_seconds_total", &["tenant"], "Seconds of device time charged."),
    counter("nv_inference_request_success", MODEL, "Alias for dashboards made for Triton: requests that succeeded."),
    counter("nv_inference_request_failure", &["model", "version", "reason"], "Alias: requests that failed; reason is REJECTED, CANCELED, BACKEND or OTHER."),
    counter("nv_inference_count", MODEL, "Alias: rows inferred."),
    counter("nv_inference_exec_count", MODEL, "Alias: runs of the operation."),
    gauge("nv_inference_pending_request_count", MODEL, "Alias: requests admitted and not yet running."),
    counter("nv_inference_request_duration_us", MODEL, "Alias: microseconds from submission to reply, successful requests."),
    counter("nv_inference_queue_duration_us", MODEL, "Alias: microseconds waiting for a slot."),
    counter("nv_inference_compute_input_duration_us", MODEL, "Alias: microseconds of bringing inputs in."),
    counter("nv_inference_compute_infer_duration_us", MODEL, "Alias: microseconds of computing."),
    counter("nv_inference_compute_output_duration_us", MODEL, "Alias: microseconds of handing outputs over."),
];
