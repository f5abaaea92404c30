// SPDX-License-Identifier: Apache-2.0
//! The settings, turned into something to look peers up in. Made anew on each reload.

use std::collections::{HashMap, HashSet};

use diolkos_engine::{Engine, Patterns, Policy, Rate};
use diolkos_types::TenantId;

use super::{Certificate, CertificateName, CgroupPattern, TokenHash};
use crate::listen::{Peer, Transport};
use crate::settings::{Settings, TenantSettings};

/// Who a peer is, as far as can be told when it connects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Claim {
    /// This tenant.
    Tenant(TenantId),
    /// Nobody yet: it has to show a token.
    Token,
    /// Nobody, and it can't become anybody.
    Nobody,
}

impl Claim {
    /// The tenant, if it is one.
    pub(crate) fn tenant(&self) -> Option<&TenantId> {
        match self {
            Claim::Tenant(tenant) => Some(tenant),
            Claim::Token | Claim::Nobody => None,
        }
    }
}

/// What a tenant may beside what the engine looks after.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rights {
    /// Connections.
    pub(crate) connections_max: u64,
    /// How often it may connect.
    pub(crate) connection_rate: Option<Rate>,
    /// Memory of bodies that are received and sent.
    pub(crate) bodies_memory_max: u64,
    /// May read the metrics, and with them what happened to everybody's requests.
    pub(crate) metrics: bool,
    /// May add, change and remove tenants.
    pub(crate) admin: bool,
}

impl Rights {
    const ALL: Rights = Rights {
        connections_max: u64::MAX,
        connection_rate: None,
        bodies_memory_max: u64::MAX,
        metrics: true,
        admin: true,
    };
    const NONE: Rights = Rights {
        connections_max: 0,
        connection_rate: None,
        bodies_memory_max: 0,
        metrics: false,
        admin: false,
    };
}

/// What is said to whoever speaks for somebody whom it may not speak for, or for nobody.
pub(crate) const NOT_FOR_OTHERS: &str =
    "there is no tenant of that name that yours may speak for (x-diolkos-tenant, tenants.NAME.acts_for)";

/// A certificate has names of two tenants.
#[derive(Debug)]
struct TwoTenants;

/// Tenants, and how they are known.
#[derive(Debug)]
pub(crate) struct Directory {
    rights: HashMap<TenantId, Rights>,
    /// Those that name more levels come first.
    cgroups: Vec<(CgroupPattern, TenantId)>,
    uids: HashMap<u32, TenantId>,
    cids: HashMap<u32, TenantId>,
    tokens: HashMap<TokenHash, TenantId>,
    certificates: HashMap<CertificateName, TenantId>,
    /// Whom a tenant may speak for.
    acts_for: HashMap<TenantId, Patterns>,
    anonymous: Option<TenantId>,
}

impl Directory {
    /// Without tenants in the settings there is one, `default`, who may have everything and is the daemon's own user.
    pub(crate) fn new(settings: &Settings, own_uid: u32) -> Directory {
        let mut directory = Directory {
            rights: HashMap::new(),
            cgroups: Vec::new(),
            uids: HashMap::new(),
            cids: HashMap::new(),
            tokens: HashMap::new(),
            certificates: HashMap::new(),
            acts_for: HashMap::new(),
            anonymous: settings.anonymous.as_deref().map(TenantId::new),
        };
        if settings.tenants.is_empty() {
            directory.rights.insert(TenantId::default(), Rights::ALL);
            directory.uids.insert(own_uid, TenantId::default());
        }
        for (name, tenant) in &settings.tenants {
            let id = TenantId::new(name);
            let rights = Rights {
                connections_max: tenant.connections_max.unwrap_or(u64::MAX),
                connection_rate: tenant.connection_rate(),
                bodies_memory_max: tenant.requests_memory_max.map_or(u64::MAX, |size| size.get()),
                metrics: tenant.metrics,
                admin: tenant.admin,
            };
            directory.rights.insert(id.clone(), rights);
            if !tenant.acts_for.is_empty() {
                let patterns = Patterns::new(tenant.acts_for.iter().map(String::as_str));
                directory.acts_for.insert(id.clone(), patterns);
            }
            directory.uids.extend(tenant.uids.iter().map(|&uid| (uid, id.clone())));
            directory.cids.extend(tenant.cids.iter().map(|&cid| (cid.get(), id.clone())));
            directory.tokens.extend(tenant.tokens.iter().map(|&token| (token, id.clone())));
            directory.certificates.extend(tenant.certificates.iter().map(|name| (name.clone(), id.clone())));
            directory.cgroups.extend(tenant.cgroups.iter().map(|cgroup| (cgroup.clone(), id.clone())));
        }
        directory.cgroups.sort_by_key(|(cgroup, _)| std::cmp::Reverse(cgroup.levels()));
        directory
    }

    pub(crate) fn knows_cgroups(&self) -> bool {
        !self.cgroups.is_empty()
    }

    /// Whether a token of this peer would count: not where the transport says who is there (a unix socket, vsock), and not on
    /// an address that is one tenant's own.
    pub(crate) fn takes_tokens(&self, peer: &Peer) -> bool {
        matches!(peer.transport, Transport::Tcp | Transport::Tls)
            && peer.of_listener.is_none()
            && !self.tokens.is_empty()
    }

    pub(crate) fn knows_uids(&self) -> bool {
        !self.uids.is_empty()
    }

    /// Who a peer is.
    pub(crate) fn claim(&self, peer: &Peer) -> Claim {
        if let Some(tenant) = &peer.of_listener {
            // The listener may have outlived its tenant in the settings.
            return if self.rights.contains_key(tenant) {
                Claim::Tenant(tenant.clone())
            } else {
                Claim::Nobody
            };
        }
        let in_cgroup = |path: &str| self.cgroups.iter().find(|(pattern, _)| pattern.contains(path));
        let by_certificate = match peer.certificate.as_ref().map(|shown| self.of_certificate(shown)) {
            Some(Err(TwoTenants)) => return Claim::Nobody,
            Some(Ok(tenant)) => tenant,
            None => None,
        };
        let by_cgroup = peer.cgroup.as_deref().and_then(in_cgroup).map(|(_, tenant)| tenant);
        let by_uid = || peer.uid.and_then(|uid| self.uids.get(&uid));
        let by_cid = || peer.cid.and_then(|cid| self.cids.get(&cid));
        match by_certificate.or(by_cgroup).or_else(by_uid).or_else(by_cid).or(self.anonymous.as_ref()) {
            Some(tenant) => Claim::Tenant(tenant.clone()),
            None if self.takes_tokens(peer) => Claim::Token,
            None => Claim::Nobody,
        }
    }

    /// Whose certificate this is, if anybody's.
    fn of_certificate(&self, shown: &Certificate) -> Result<Option<&TenantId>, TwoTenants> {
        let mut tenants = shown.names().iter().filter_map(|name| self.certificates.get(name));
        let first = tenants.next();
        // Which of them it is would hang on the order of names, which the CA chose without a thought of it.
        if tenants.any(|other| Some(other) != first) { Err(TwoTenants) } else { Ok(first) }
    }

    /// Whose token this is, where tokens count.
    pub(crate) fn of_token(&self, peer: &Peer, token: &str) -> Option<TenantId> {
        self.takes_tokens(peer).then(|| self.tokens.get(&TokenHash::of(token)).cloned()).flatten()
    }

    /// The tenant of this name, if there is one and `bridge` may send requests for it.
    pub(crate) fn spoken_for(&self, bridge: &TenantId, name: &str) -> Option<TenantId> {
        let id = TenantId::new(name);
        let may = self.acts_for.get(bridge).is_some_and(|patterns| patterns.match_any(name));
        (may && self.rights.contains_key(&id)).then_some(id)
    }

    /// What a tenant may; nothing if it is not in the settings any more.
    pub(crate) fn rights(&self, tenant: &TenantId) -> Rights {
        self.rights.get(tenant).copied().unwrap_or(Rights::NONE)
    }

    /// Whether anybody could be served who comes from a virtual machine.
    pub(crate) fn serves_vsock(&self) -> bool {
        self.anonymous.is_some() || !self.cids.is_empty()
    }

    /// Whether anybody could be served who comes over TCP, from this host or another one, and may show a certificate.
    pub(crate) fn serves_tcp(&self, from_elsewhere: bool, takes_certificates: bool) -> bool {
        self.anonymous.is_some()
            || !self.tokens.is_empty()
            || (takes_certificates && !self.certificates.is_empty())
            || (!from_elsewhere && !self.uids.is_empty())
    }
}

/// Tells the engine what tenants may. Those that the settings of before had and these do not are forgotten, and returned.
pub(crate) fn tell_engine(
    engine: &Engine,
    before: Option<&Settings>,
    settings: &Settings,
    own_uid: u32,
) -> Vec<TenantId> {
    let wanted = policies(settings);
    let names: HashSet<&TenantId> = wanted.iter().map(|(id, _)| id).collect();
    // Who runs the daemon is somebody else than a tenant that happens to be called `default`.
    let is_own = |settings: &Settings| {
        let default = settings.tenants.get(TenantId::default().name());
        settings.tenants.is_empty() || default.is_some_and(|tenant| *tenant == TenantSettings::only(own_uid))
    };
    let other_default = before.is_some_and(|before| is_own(before) != is_own(settings));
    let before = before.map(policies).unwrap_or_default().into_iter().map(|(id, _)| id);
    let is_gone = |id: &TenantId| !names.contains(id) || (other_default && *id == TenantId::default());
    let gone: Vec<TenantId> = before.filter(is_gone).collect();
    gone.iter().for_each(|gone| engine.forget(gone));
    for (id, policy) in wanted {
        engine.set_policy(&id, policy);
    }
    gone
}

fn policies(settings: &Settings) -> Vec<(TenantId, Policy)> {
    if settings.tenants.is_empty() {
        return vec![(TenantId::default(), Policy::everything())];
    }
    settings.tenants.iter().map(|(name, tenant)| (TenantId::new(name), tenant.policy())).collect()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn directory(text: &str) -> Directory {
        Directory::new(&Settings::parse(text, Path::new("d.toml")).unwrap(), 1000)
    }

    fn unix(uid: u32, cgroup: Option<&str>) -> Peer {
        Peer { cgroup: cgroup.map(Into::into), ..Peer::unix(uid, Some(1)) }
    }

    fn tenant(name: &str) -> Claim {
        Claim::Tenant(TenantId::new(name))
    }

    #[test]
    fn without_settings_it_serves_its_own_user() {
        let directory = directory("");
        assert_eq!(directory.claim(&unix(1000, None)), tenant("default"));
        assert_eq!(directory.claim(&unix(0, None)), Claim::Nobody, "not even root");
        assert_eq!(directory.claim(&Peer { uid: Some(1000), ..Peer::tcp() }), tenant("default"));
        assert_eq!(directory.claim(&Peer::tcp()), Claim::Nobody);
        assert!(directory.rights(&TenantId::default()).metrics);
        assert!(directory.serves_tcp(false, false) && !directory.serves_tcp(true, true));
    }

    #[test]
    fn path_then_group_then_user_then_anonymous() {
        let directory = directory(
            "anonymous = \"guest\"\n[tenants.guest]\n[tenants.path]\n\
             [tenants.wide]\ncgroups = [\"/m\"]\n[tenants.narrow]\ncgroups = [\"/m/web-*\"]\n\
             [tenants.user]\nuids = [0]\nmetrics = true\nconnections_max = 3\nrequests_memory_max = \"1MiB\"\n",
        );
        let mut peer = unix(0, Some("/m/web-1/x"));
        assert_eq!(directory.claim(&peer), tenant("narrow"));
        peer.cgroup = Some("/m/db".into());
        assert_eq!(directory.claim(&peer), tenant("wide"));
        peer.cgroup = Some("/elsewhere".into());
        assert_eq!(directory.claim(&peer), tenant("user"));
        peer.uid = Some(7);
        assert_eq!(directory.claim(&peer), tenant("guest"));
        peer.of_listener = Some(TenantId::new("path"));
        assert_eq!(directory.claim(&peer), tenant("path"));
        peer.of_listener = Some(TenantId::new("gone"));
        assert_eq!(directory.claim(&peer), Claim::Nobody, "even though anybody else would be a guest");
        let rights = directory.rights(&TenantId::new("user"));
        assert_eq!(
            rights,
            Rights { connections_max: 3, bodies_memory_max: 1 << 20, metrics: true, ..Rights::NONE }
        );
        assert_eq!(directory.rights(&TenantId::new("gone")), Rights::NONE);
    }

    #[test]
    fn a_machine_is_known_by_its_cid() {
        let directory = directory(&format!(
            "[tenants.one]\ncids = [3, 4]\n[tenants.two]\ncids = [5]\nuids = [3]\ntokens = [\"{}\"]\n",
            TokenHash::of("secret")
        ));
        assert_eq!(directory.claim(&Peer::vsock(4)), tenant("one"));
        assert_eq!(directory.claim(&Peer::vsock(5)), tenant("two"));
        assert_eq!(directory.claim(&unix(5, None)), Claim::Nobody, "a user is no machine");
        assert_eq!(directory.claim(&unix(3, None)), tenant("two"));
        assert_eq!(directory.claim(&Peer::vsock(6)), Claim::Nobody, "and no token would help");
        assert_eq!(directory.of_token(&Peer::vsock(6), "secret"), None);
        assert!(directory.serves_vsock() && !self::directory("[tenants.a]\nuids = [3]\n").serves_vsock());
    }

    #[test]
    fn a_bridge_speaks_for_those_it_may() {
        let directory = directory("[tenants.bridge]\nacts_for = [\"w*\"]\n[tenants.web]\n[tenants.batch]\n");
        let bridge = TenantId::new("bridge");
        assert_eq!(directory.spoken_for(&bridge, "web"), Some(TenantId::new("web")));
        assert_eq!(directory.spoken_for(&bridge, "batch"), None);
        assert_eq!(directory.spoken_for(&bridge, "wide"), None, "there is none of that name");
        assert_eq!(directory.spoken_for(&TenantId::new("web"), "web"), None);
    }

    #[test]
    fn tokens_count_on_tcp_only() {
        let hash = TokenHash::of("secret");
        let directory = directory(&format!("[tenants.a]\ntokens = [\"{hash}\"]\n"));
        assert_eq!(directory.claim(&Peer::tcp()), Claim::Token);
        assert_eq!(directory.claim(&unix(0, None)), Claim::Nobody);
        assert_eq!(directory.of_token(&Peer::tcp(), "secret"), Some(TenantId::new("a")));
        assert_eq!(directory.of_token(&Peer::tcp(), "Secret"), None);
        assert_eq!(directory.of_token(&unix(0, None), "secret"), None);
        let pinned = Peer { of_listener: Some(TenantId::new("a")), ..Peer::tcp() };
        assert_eq!(directory.of_token(&pinned, "secret"), None);
        assert!(directory.serves_tcp(true, false));
    }
}
