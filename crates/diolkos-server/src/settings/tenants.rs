// SPDX-License-Identifier: Apache-2.0
//! Tenants and their leases, as an operator writes them.

use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;

use diolkos_engine::{ByteRate, Class, Lease, Patterns, Policy, Rate, Share};
use serde::{Deserialize, Serialize};

use super::units::{BytesRate, Interval, Mode, RequestRate, Size};
use crate::identity::{CertificateName, CgroupPattern, Cid, TokenHash};
use crate::listen::Address;

/// Who it is, what it may have together, and its leases.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TenantSettings {
    /// Unix sockets of its own: whoever connects there is this tenant. Default none.
    pub sockets: Vec<Address>,
    /// Permissions of these, octal. Default `socket_mode`.
    pub socket_mode: Option<Mode>,
    /// Processes in these control groups (version 2) and below. Default none.
    pub cgroups: Vec<CgroupPattern>,
    /// Processes of these users, on unix sockets and on TCP within this host. Default none.
    pub uids: Vec<u32>,
    /// Virtual machines with these context ids, on vsock. Default none.
    pub cids: Vec<Cid>,
    /// Whoever shows one of these tokens on TCP. Default none.
    pub tokens: Vec<TokenHash>,
    /// Whoever shows a certificate of one of these names on TLS: `"dns:NAME"`, `"uri:URI"` or `"sha256:FINGERPRINT"`. Default none.
    pub certificates: Vec<CertificateName>,
    /// Requests, such as `"100/s"`. Default: as many as it sends.
    pub rate: Option<RequestRate>,
    /// Requests at once after a pause, where there is a rate. Default: a second's, at least 1.
    pub burst: Option<u32>,
    /// Bytes of its requests, such as `"64MiB/s"`; those of a second may come at once. Default: as many as it sends.
    pub bytes_rate: Option<BytesRate>,
    /// Connections. Default: as many as there may be.
    pub connections_max: Option<u64>,
    /// New connections, such as `"50/s"`; as many at once after a pause as in a second, at least 16. Default: as often as it
    /// likes.
    pub connection_rate: Option<RequestRate>,
    /// Sessions. Default: as many as there may be.
    pub sessions_max: Option<u64>,
    /// Memory that its requests in flight may need, and once more for bodies that are received and sent. Default: all.
    pub requests_memory_max: Option<Size>,
    /// Memory of the regions that it registers over native channels, and of its rings there. Default: only each connection has a
    /// bound.
    pub regions_memory_max: Option<Size>,
    /// Memory of the models that are loaded because it asks for them. Default: `models.memory_max` is everybody's.
    pub models_memory_max: Option<Size>,
    /// A request that has not begun by then never does. Default: none but its own.
    pub deadline_max: Option<Interval>,
    /// Its requests share runs of a model only with each other. Default `false`: with those of others too, where that is faster.
    pub batch_alone: bool,
    /// May load and unload installed models, if `models.client_load` allows that at all. Default `false`.
    pub load: bool,
    /// May read `/metrics`, which tell about everybody. Default `false`.
    pub metrics: bool,
    /// Tenants that it may send requests for, a bridge say; `*` stands for any text and `?` for one character. Default none.
    pub acts_for: Vec<String>,
    /// May add, change and remove tenants while the daemon runs, from unix sockets. Default `false`.
    pub admin: bool,
    /// What it may use. Default nothing.
    pub leases: BTreeMap<String, LeaseSettings>,
}

/// A share of something.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LeaseSettings {
    /// Of what kind: `"compute"`. Has to be given.
    pub kind: Option<LeaseKind>,
    /// Which device. Default: every device that no other lease of the tenant names.
    pub resource: Option<String>,
    /// Which pool of its slots, of `engine.pools`. Default `default`.
    pub pool: Option<String>,
    /// Models that may be run; `*` stands for any text and `?` for one character. Default none.
    pub models: Vec<String>,
    /// Built-in operations that may be run, alike. Default none.
    pub operations: Vec<String>,
    /// The most urgent class of its jobs: `"interactive"`, `"standard"` or `"batch"`. Default `"interactive"`.
    pub class: ClassName,
    /// Its part of the device time beside other tenants of the same class: twice the weight, twice the time. Default 1.
    pub weight: Option<u32>,
    /// Jobs that may run at once. Default: as many as the device has slots.
    pub concurrency_max: Option<usize>,
    /// Jobs that may wait. Default: half of its pool's queue.
    pub queue_max: Option<usize>,
}

/// What a lease is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LeaseKind {
    /// Time on a device that computes.
    Compute,
}

/// [`Class`], as it is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ClassName {
    /// Somebody waits for the answer.
    #[default]
    Interactive,
    /// Nothing was said.
    Standard,
    /// Throughput counts and latency does not.
    Batch,
}

impl From<ClassName> for Class {
    fn from(name: ClassName) -> Class {
        match name {
            ClassName::Interactive => Class::Interactive,
            ClassName::Standard => Class::Standard,
            ClassName::Batch => Class::Batch,
        }
    }
}

impl TenantSettings {
    /// The one tenant that there is where the settings name none: this user, who may have everything.
    #[must_use]
    pub fn only(uid: u32) -> TenantSettings {
        let everything = || vec!["*".to_owned()];
        let all = LeaseSettings {
            kind: Some(LeaseKind::Compute),
            models: everything(),
            operations: everything(),
            ..LeaseSettings::default()
        };
        TenantSettings {
            uids: vec![uid],
            load: true,
            metrics: true,
            admin: true,
            leases: BTreeMap::from([("all".to_owned(), all)]),
            ..TenantSettings::default()
        }
    }

    /// How often it may connect.
    pub(crate) fn connection_rate(&self) -> Option<Rate> {
        self.connection_rate
            .map(|rate| Rate::new(rate.interval(), rate.per_second().max(CONNECTIONS_AT_ONCE)))
    }

    /// For the engine.
    #[must_use]
    pub fn policy(&self) -> Policy {
        let rate = self.rate.map(|rate| Rate::new(rate.interval(), self.burst.unwrap_or(rate.per_second())));
        let size = |size: Option<Size>| size.map_or(u64::MAX, Size::get);
        // A lease that names its device comes before one that is for all others.
        let (named, others): (Vec<_>, Vec<_>) =
            self.leases.values().partition(|lease| lease.resource.is_some());
        Policy {
            rate,
            bytes_rate: self.bytes_rate.map(|rate| ByteRate::new(rate.get())),
            sessions_max: self.sessions_max.unwrap_or(u64::MAX),
            requests_memory_max: size(self.requests_memory_max),
            regions_memory_max: size(self.regions_memory_max),
            models_memory_max: size(self.models_memory_max),
            deadline_max: self.deadline_max.map(Interval::get),
            batch_with_others: !self.batch_alone,
            may_load: self.load,
            leases: named.into_iter().chain(others).map(LeaseSettings::lease).collect(),
        }
    }
}

impl LeaseSettings {
    fn lease(&self) -> Lease {
        Lease {
            device: self.resource.as_deref().map(Into::into),
            pool: self.pool.as_deref().map(Into::into),
            models: Patterns::new(self.models.iter().map(String::as_str)),
            operations: Patterns::new(self.operations.iter().map(String::as_str)),
            class: self.class.into(),
            share: Share {
                running_max: self.concurrency_max.unwrap_or(usize::MAX),
                waiting_max: self.queue_max.unwrap_or(usize::MAX),
                weight: self.weight.unwrap_or(1),
            },
        }
    }
}

/// What is wrong with tenants beyond types, each with the key that it is about.
pub(super) fn broken_rules(
    tenants: &BTreeMap<String, TenantSettings>,
    mut broken: impl FnMut(String, String),
) {
    let mut uids = HashMap::new();
    let mut cids = HashMap::new();
    let mut cgroups = HashMap::new();
    let mut tokens = HashMap::new();
    let mut certificates = HashMap::new();
    for (name, tenant) in tenants {
        let key = |key: &str| format!("tenants.{name}.{key}");
        if !is_name(name) {
            broken(format!("tenants.{name}"), format!("`{}` {NAME_RULE}", shown(name)));
        }
        for socket in &tenant.sockets {
            if !matches!(socket, Address::Unix(_)) {
                let text = format!(
                    "`{socket}` is no unix socket; an address on TCP or vsock stands in `listen`, with its `tenant`"
                );
                broken(key("sockets"), text);
            }
        }
        for uid in &tenant.uids {
            once(&mut uids, *uid, name, |other| {
                broken(key("uids"), format!("uid {uid} is tenant `{other}` already"));
            });
        }
        for cid in &tenant.cids {
            once(&mut cids, *cid, name, |other| {
                broken(key("cids"), format!("CID {} is tenant `{other}` already", cid.get()));
            });
        }
        for cgroup in &tenant.cgroups {
            once(&mut cgroups, cgroup.to_string(), name, |other| {
                broken(key("cgroups"), format!("`{cgroup}` is tenant `{other}` already"));
            });
        }
        for token in &tenant.tokens {
            once(&mut tokens, token.to_string(), name, |other| {
                broken(key("tokens"), format!("this token is tenant `{other}` already"));
            });
        }
        for certificate in &tenant.certificates {
            once(&mut certificates, certificate.clone(), name, |other| {
                broken(key("certificates"), format!("`{certificate}` is tenant `{other}` already"));
            });
        }
        for (limit, value) in [
            ("connections_max", tenant.connections_max),
            ("sessions_max", tenant.sessions_max),
            ("requests_memory_max", tenant.requests_memory_max.map(Size::get)),
            ("models_memory_max", tenant.models_memory_max.map(Size::get)),
            ("burst", tenant.burst.map(u64::from)),
        ] {
            if value == Some(0) {
                broken(key(limit), format!("{} is 0, which allows nothing", key(limit)));
            }
        }
        if tenant.burst.is_some() && tenant.rate.is_none() {
            broken(key("burst"), format!("{} says nothing without {}", key("burst"), key("rate")));
        }
        let mut devices = BTreeMap::new();
        for (lease_name, lease) in &tenant.leases {
            let key = |key: &str| format!("tenants.{name}.leases.{lease_name}.{key}");
            if lease.kind.is_none() {
                let text =
                    format!("lease `{lease_name}` needs a kind; `kind = \"compute\"` is the one there is");
                broken(format!("tenants.{name}.leases.{lease_name}"), text);
            }
            if lease.concurrency_max == Some(0) {
                broken(
                    key("concurrency_max"),
                    format!("{} is 0, which allows nothing", key("concurrency_max")),
                );
            }
            if lease.weight.is_some_and(|weight| !(1..=WEIGHT_MAX).contains(&weight)) {
                let key = key("weight");
                broken(key.clone(), format!("{key} has to be between 1 and {WEIGHT_MAX}"));
            }
            let device = lease.resource.clone();
            if let Some(other) = devices.insert(device, lease_name) {
                let what = lease.resource.as_deref().map_or("all devices".into(), |name| format!("`{name}`"));
                broken(
                    format!("tenants.{name}.leases.{lease_name}"),
                    format!("the leases `{other}` and `{lease_name}` are both for {what}; make one of them"),
                );
            }
        }
    }
}

/// A client process opens a pool of connections when it starts, whatever its rate.
const CONNECTIONS_AT_ONCE: u32 = 16;

/// Largest weight: virtual time is kept in thousandths.
const WEIGHT_MAX: u32 = 1000;

/// Notes whose `what` is; complains if it is somebody else's.
fn once<'a, K: Eq + Hash>(
    owners: &mut HashMap<K, &'a str>,
    what: K,
    tenant: &'a str,
    complain: impl FnOnce(&str),
) {
    if let Some(other) = owners.insert(what, tenant)
        && other != tenant
    {
        complain(other);
    }
}

/// What a name is.
pub(super) const NAME_RULE: &str = "is no name: letters, digits, `.`, `_` and `-` are possible, 64 of them, and a letter or digit comes first";

/// Names stand in metrics, logs and commands, so they are plain.
pub(super) fn is_name(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    (1..=64).contains(&name.len())
        && name.chars().all(plain)
        && name.starts_with(|c: char| c.is_ascii_alphanumeric())
}

pub(super) fn shown(name: &str) -> String {
    name.chars().take(60).flat_map(char::escape_default).collect()
}
