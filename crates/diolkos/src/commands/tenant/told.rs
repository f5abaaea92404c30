// SPDX-License-Identifier: Apache-2.0
//! What a daemon says about tenants, for people.

use std::fmt::Write as _;
use std::time::Duration;

use diolkos_engine::PoolConfig;
use diolkos_server::settings::{LeaseSettings, TenantSettings};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::exit::Failure;
use crate::term::{Lean, Paint, Style, Table, bytes, time};

/// A tenant.
#[derive(Debug, Deserialize)]
pub(super) struct Tenant {
    pub(super) name: String,
    origin: String,
    pub(super) settings: TenantSettings,
    usage: Usage,
}

/// What it has and used.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Usage {
    connections: u64,
    sessions: u64,
    in_flight: u64,
    requests: u64,
    requests_memory_bytes: u64,
    regions_memory_bytes: u64,
    device_ns: u64,
}

/// A lease, and whose it is.
#[derive(Debug, Deserialize, Serialize)]
pub(super) struct Lease {
    pub(super) tenant: String,
    pub(super) name: String,
    pub(super) settings: LeaseSettings,
}

fn read<T: DeserializeOwned>(told: Value) -> Result<T, Failure> {
    serde_json::from_value(told)
        .map_err(|error| Failure::failed("the daemon's answer can't be read").because(&error))
}

impl Tenant {
    pub(super) fn read(told: Value) -> Result<Tenant, Failure> {
        read(told)
    }

    pub(super) fn read_all(told: Value) -> Result<Vec<Tenant>, Failure> {
        read(told)
    }

    /// Its settings, as a file would have them, with what it has and used as comments.
    pub(super) fn details(&self) -> String {
        let Usage { connections, sessions, in_flight, requests, .. } = self.usage;
        let mut text = format!("# {}\n", origin(&self.origin));
        // Writing to a String can't fail.
        let _ =
            writeln!(text, "# {connections} connections, {sessions} sessions, {in_flight} jobs in flight");
        let _ = writeln!(
            text,
            "# {requests} requests ended; {} on devices",
            time(Duration::from_nanos(self.usage.device_ns))
        );
        let _ = writeln!(
            text,
            "# memory: {} of requests, {} of regions\n",
            bytes(self.usage.requests_memory_bytes),
            bytes(self.usage.regions_memory_bytes)
        );
        text + &self.settings.to_toml(&self.name)
    }

    pub(super) fn leases(self) -> impl Iterator<Item = Lease> {
        let tenant = self.name;
        self.settings.leases.into_iter().map(move |(name, settings)| Lease {
            tenant: tenant.clone(),
            name,
            settings,
        })
    }
}

fn origin(origin: &str) -> &str {
    match origin {
        "settings" => "in the settings file",
        "added" => "added while the daemon ran",
        "default" => "the daemon's own user, because the settings name no tenants",
        other => other,
    }
}

impl Lease {
    pub(super) fn read(told: Value) -> Result<Lease, Failure> {
        read(told)
    }
}

/// A table of tenants.
pub(super) fn tenants(tenants: &[Tenant], paint: Paint) -> Vec<u8> {
    let mut table = Table::new(&[
        ("TENANT", Lean::Left),
        ("FROM", Lean::Left),
        ("CONNECTIONS", Lean::Right),
        ("SESSIONS", Lean::Right),
        ("JOBS", Lean::Right),
        ("REQUESTS", Lean::Right),
        ("MEMORY", Lean::Right),
        ("DEVICE TIME", Lean::Right),
    ]);
    for Tenant { name, origin, usage, .. } in tenants {
        let memory = usage.requests_memory_bytes.saturating_add(usage.regions_memory_bytes);
        let cells = vec![
            name.clone(),
            origin.clone(),
            usage.connections.to_string(),
            usage.sessions.to_string(),
            usage.in_flight.to_string(),
            usage.requests.to_string(),
            bytes(memory),
            time(Duration::from_nanos(usage.device_ns)),
        ];
        table.row(cells, (usage.connections == 0).then_some(Style::Dim));
    }
    written(&table, paint)
}

/// A table of leases.
pub(super) fn leases(leases: &[Lease], paint: Paint) -> Vec<u8> {
    let mut table = Table::new(&[
        ("TENANT", Lean::Left),
        ("LEASE", Lean::Left),
        ("KIND", Lean::Left),
        ("RESOURCE", Lean::Left),
        ("POOL", Lean::Left),
        ("CLASS", Lean::Left),
        ("WEIGHT", Lean::Right),
        ("RUN", Lean::Right),
        ("WAIT", Lean::Right),
        ("MODELS", Lean::Left),
        ("OPERATIONS", Lean::Left),
    ]);
    for Lease { tenant, name, settings } in leases {
        let limit = |limit: Option<usize>| limit.map_or("-".to_owned(), |limit| limit.to_string());
        let word = |value: &Value| value.as_str().unwrap_or("-").to_owned();
        let json = serde_json::to_value(settings).expect("settings are plain data with text keys");
        table.row(
            vec![
                tenant.clone(),
                name.clone(),
                word(&json["kind"]),
                settings.resource.clone().unwrap_or_else(|| "all".to_owned()),
                settings.pool.clone().unwrap_or_else(|| PoolConfig::DEFAULT.to_owned()),
                word(&json["class"]),
                settings.weight.unwrap_or(1).to_string(),
                limit(settings.concurrency_max),
                limit(settings.queue_max),
                settings.models.join(" "),
                settings.operations.join(" "),
            ],
            None,
        );
    }
    written(&table, paint)
}

fn written(table: &Table, paint: Paint) -> Vec<u8> {
    let mut out = Vec::new();
    table.write(&mut out, paint).expect("writing to memory does not fail");
    out
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn web() -> Tenant {
        let settings = json!({
            "rate": "100/s", "burst": null,
            "leases": {"cpu": {"kind": "compute", "models": ["m*", "d"], "concurrency_max": 2}},
        });
        let usage =
            json!({ "connections": 3, "requests": 7, "regions_memory_bytes": 1000, "device_ns": 1500 });
        Tenant::read(json!({"name": "web", "origin": "added", "settings": settings, "usage": usage})).unwrap()
    }

    #[test]
    fn tables() {
        let text = String::from_utf8(tenants(&[web()], Paint::PLAIN)).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "TENANT  FROM   CONNECTIONS  SESSIONS  JOBS  REQUESTS  MEMORY  DEVICE TIME");
        assert_eq!(lines[1], "web     added            3         0     0         7  1.0 kB       1.5 µs");
        let all: Vec<Lease> = web().leases().collect();
        let text = String::from_utf8(leases(&all, Paint::PLAIN)).unwrap();
        assert_eq!(
            text.lines().nth(1).unwrap(),
            "web     cpu    compute  all       default  interactive       1    2     -  m* d"
        );
    }

    #[test]
    fn details_are_what_a_file_would_have() {
        let text = web().details();
        assert!(text.starts_with("# added while the daemon ran\n# 3 connections,"), "{text}");
        assert!(text.contains("\n[tenants.web]\nrate = \"100/s\"\n"), "{text}");
        assert!(!text.contains("burst"), "{text}");
    }
}
