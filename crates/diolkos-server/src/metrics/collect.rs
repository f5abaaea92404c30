// SPDX-License-Identifier: Apache-2.0
//! From counters to Prometheus text. One [`Page`] per request for `/metrics`.

use std::collections::HashMap;

use diolkos_engine::{DeviceSnapshot, TenantSnapshot};
use prometheus::proto::{self, MetricType};
use prometheus::{Encoder as _, TextEncoder};

use super::documented::{DOCUMENTED, Kind, Metric};
use super::models;
use crate::app::App;
use crate::logging;

const NANOSECONDS: f64 = 1e9;

/// Seconds of a number of nanoseconds.
pub(super) fn seconds(nanoseconds: u64) -> f64 {
    nanoseconds as f64 / NANOSECONDS
}

/// What `/metrics` answers.
pub(crate) fn render(app: &App) -> String {
    let mut page = Page::default();
    daemon(&mut page, app);
    rim(&mut page, app);
    models::collect(&mut page, app.engine.store());
    app.engine.devices().iter().for_each(|device| of_device(&mut page, device));
    app.engine.tenants().iter().for_each(|tenant| of_tenant(&mut page, tenant));
    page.into_text()
}

fn daemon(page: &mut Page, app: &App) {
    page.add("diolkos_build_info", &[env!("CARGO_PKG_VERSION")], 1.0);
    page.add("diolkos_uptime_seconds", &[], app.uptime().as_secs_f64());
    page.add("diolkos_ready", &[], f64::from(u8::from(app.is_ready())));
    if let Some(bytes) = resident_bytes() {
        page.add("process_resident_memory_bytes", &[], bytes as f64);
    }
    page.add("diolkos_sessions_open", &[], app.engine.sessions() as f64);
    page.add("diolkos_request_memory_bytes", &[], app.engine.request_memory_used() as f64);
    page.add("diolkos_log_lines_suppressed_total", &[], logging::suppressed_lines() as f64);
}

fn rim(page: &mut Page, app: &App) {
    let counters = &app.counters;
    for (transport, total, open) in counters.connections() {
        page.add("diolkos_connections_total", &[transport], total as f64);
        page.add("diolkos_connections_open", &[transport], open as f64);
    }
    for (reason, count) in counters.refusals() {
        page.add("diolkos_connections_refused_total", &[reason], count as f64);
    }
    page.add("diolkos_connections_evicted_total", &[], counters.evictions() as f64);
    for (reason, count) in counters.expiries() {
        page.add("diolkos_connections_expired_total", &[reason], count as f64);
    }
    for (front, status, count) in counters.replies() {
        page.add("diolkos_http_replies_total", &[front, &status.to_string()], count as f64);
    }
    for (result, count) in counters.reloads() {
        page.add("diolkos_settings_reloads_total", &[result], count as f64);
    }
    for (result, count) in counters.loads() {
        page.add("diolkos_model_loads_total", &[result], count as f64);
    }
    page.add("diolkos_body_memory_bytes", &[], counters.body_memory() as f64);
    for (direction, bytes) in counters.copies() {
        page.add("diolkos_channel_copied_bytes_total", &[direction], bytes as f64);
    }
}

fn of_device(page: &mut Page, device: &DeviceSnapshot) {
    let name = &[device.name.as_str()];
    page.add("diolkos_device_slots", name, device.slots as f64);
    page.add("diolkos_device_running", name, device.running as f64);
    page.add("diolkos_device_waiting", name, device.waiting as f64);
    page.add("diolkos_device_jobs_total", name, device.arrived as f64);
    page.add("diolkos_device_jobs_run_here_total", name, device.ran_here as f64);
    page.add("diolkos_device_runs_total", name, device.runs as f64);
    page.add("diolkos_device_busy_seconds_total", name, seconds(device.busy_ns));
    page.add("diolkos_device_predicted_seconds_total", name, seconds(device.predicted_ns));
    page.add("diolkos_device_prediction_error_seconds_total", name, seconds(device.error_ns));
    for pool in &device.pools {
        let labels = &[device.name.as_str(), pool.name.as_str()];
        page.add("diolkos_pool_slots", labels, pool.slots as f64);
        page.add("diolkos_pool_slots_lent", labels, pool.lent as f64);
        page.add("diolkos_pool_running", labels, pool.running as f64);
        page.add("diolkos_pool_waiting", labels, pool.waiting as f64);
        page.add("diolkos_pool_loans_total", labels, pool.loans as f64);
        page.add("diolkos_pool_busy_seconds_total", labels, seconds(pool.busy_ns));
    }
}

fn of_tenant(page: &mut Page, tenant: &TenantSnapshot) {
    let name = tenant.id.name();
    page.add("diolkos_tenant_requests_total", &[name], tenant.requests as f64);
    for (code, count) in &tenant.failures {
        page.add("diolkos_tenant_failures_total", &[name, code.name()], *count as f64);
    }
    page.add("diolkos_tenant_jobs", &[name], tenant.in_flight as f64);
    page.add("diolkos_tenant_sessions", &[name], tenant.sessions as f64);
    page.add("diolkos_tenant_device_seconds_total", &[name], seconds(tenant.device_ns));
}

/// Memory that this process has now; `None` if the system does not say.
#[must_use]
pub fn resident_bytes() -> Option<u64> {
    // The second number is the resident pages (proc_pid_statm(5)).
    let statm = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = statm.split(' ').nth(1)?.parse().ok()?;
    pages.checked_mul(rustix::param::page_size() as u64)
}

/// The metrics of one scrape.
#[derive(Default)]
pub(super) struct Page {
    samples: HashMap<&'static str, Vec<proto::Metric>>,
}

impl Page {
    /// Adds one sample of a documented counter or gauge.
    pub(super) fn add(&mut self, name: &'static str, labels: &[&str], value: f64) {
        let Some((metric, mut sample)) = sample(name, labels) else { return };
        match metric.kind {
            Kind::Counter => {
                let mut counter = proto::Counter::default();
                counter.set_value(value);
                sample.set_counter(counter);
            }
            Kind::Gauge => {
                let mut gauge = proto::Gauge::default();
                gauge.set_value(value);
                sample.set_gauge(gauge);
            }
            Kind::Histogram => {
                debug_assert!(false, "`{name}` is a histogram, and a number is no sample of one");
                return;
            }
        }
        self.samples.entry(name).or_default().push(sample);
    }

    /// Adds one histogram: `counts` per bucket, one more than `bounds`.
    pub(super) fn add_histogram(
        &mut self,
        name: &'static str,
        labels: &[&str],
        bounds: &[f64],
        counts: &[u64],
        sum: f64,
    ) {
        let Some((_, mut sample)) = sample(name, labels) else { return };
        let mut cumulative = 0;
        let mut buckets = Vec::with_capacity(bounds.len());
        for (bound, count) in bounds.iter().zip(counts) {
            cumulative += count;
            let mut bucket = proto::Bucket::default();
            bucket.set_upper_bound(*bound);
            bucket.set_cumulative_count(cumulative);
            buckets.push(bucket);
        }
        let mut histogram = proto::Histogram::default();
        histogram.set_bucket(buckets);
        histogram.set_sample_count(counts.iter().sum());
        histogram.set_sample_sum(sum);
        sample.set_histogram(histogram);
        self.samples.entry(name).or_default().push(sample);
    }

    fn into_text(mut self) -> String {
        let families: Vec<proto::MetricFamily> = DOCUMENTED
            .iter()
            .filter_map(|metric| Some((metric, self.samples.remove(metric.name)?)))
            .map(|(metric, samples)| family(metric, samples))
            .collect();
        let mut text = Vec::new();
        if let Err(error) = TextEncoder::new().encode(&families, &mut text) {
            tracing::error!(%error, "the metrics could not be written");
        }
        String::from_utf8_lossy(&text).into_owned()
    }
}

fn family(metric: &Metric, samples: Vec<proto::Metric>) -> proto::MetricFamily {
    let mut family = proto::MetricFamily::default();
    family.set_name(metric.name.into());
    family.set_help(metric.help.into());
    family.set_field_type(match metric.kind {
        Kind::Counter => MetricType::COUNTER,
        Kind::Gauge => MetricType::GAUGE,
        Kind::Histogram => MetricType::HISTOGRAM,
    });
    family.set_metric(samples);
    family
}

/// An empty sample with its labels. A metric that is not documented is our mistake, and is not exported.
fn sample(name: &str, values: &[&str]) -> Option<(&'static Metric, proto::Metric)> {
    let metric = DOCUMENTED.iter().find(|metric| metric.name == name);
    debug_assert!(
        metric.is_some_and(|metric| metric.labels.len() == values.len()),
        "`{name}` is documented otherwise"
    );
    let metric = metric?;
    let labels = metric.labels.iter().zip(values).map(|(label, value)| {
        let mut pair = proto::LabelPair::default();
        pair.set_name((*label).into());
        pair.set_value((*value).into());
        pair
    });
    Some((metric, proto::Metric::from_label(labels.collect())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_prometheus_text() {
        let mut page = Page::default();
        page.add("diolkos_device_slots", &["cpu"], 2.0);
        page.add("diolkos_tenant_failures_total", &["a\"b", "busy"], 3.0);
        page.add_histogram("diolkos_request_seconds", &["m", "1"], &[0.5, 1.0], &[1, 2, 3], 9.5);
        let text = page.into_text();
        for line in [
            "# TYPE diolkos_device_slots gauge",
            "diolkos_device_slots{device=\"cpu\"} 2",
            "diolkos_tenant_failures_total{tenant=\"a\\\"b\",code=\"busy\"} 3",
            "diolkos_request_seconds_bucket{model=\"m\",version=\"1\",le=\"0.5\"} 1",
            "diolkos_request_seconds_bucket{model=\"m\",version=\"1\",le=\"1\"} 3",
            "diolkos_request_seconds_bucket{model=\"m\",version=\"1\",le=\"+Inf\"} 6",
            "diolkos_request_seconds_sum{model=\"m\",version=\"1\"} 9.5",
            "diolkos_request_seconds_count{model=\"m\",version=\"1\"} 6",
        ] {
            assert!(text.lines().any(|other| other == line), "`{line}` is not in\n{text}");
        }
    }

    #[test]
    fn names_are_unique_and_follow_the_conventions() {
        for (index, metric) in DOCUMENTED.iter().enumerate() {
            assert!(DOCUMENTED[..index].iter().all(|other| other.name != metric.name), "{}", metric.name);
            let own = metric.name.starts_with("diolkos_");
            assert!(
                !own || metric.kind != Kind::Counter || metric.name.ends_with("_total"),
                "{}",
                metric.name
            );
        }
    }

    #[test]
    fn we_are_resident() {
        assert!(resident_bytes().unwrap() > 1 << 20);
    }
}
