// SPDX-License-Identifier: Apache-2.0
//! Who asks on one connection: whoever the transport proves, or whoever's token comes with the request.
//!
//! A proxy may send requests of several tenants over one connection, so each token has a session of its own here, and a
//! connection has only so many of them. So has each tenant that a bridge speaks for (`tenants.NAME.acts_for`), which says so in
//! the header [`TENANT`].

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::http::header::AUTHORIZATION;
use axum::http::{HeaderMap, HeaderName, HeaderValue};

use diolkos_types::{Status, TenantId};

use super::peer::Peer;
use super::table::ConnPlace;
use crate::app::App;
use crate::identity::bearer;
use crate::limits;
use crate::sessions::{ClientSession, ConnectionContext, SessionLease, SessionPool};

/// Whom a request is for, where whoever sends it may speak for others.
pub(super) const TENANT: HeaderName = HeaderName::from_static("x-diolkos-tenant");

/// The sessions that a connection's requests belong to.
pub(super) struct Callers {
    pub(super) app: Arc<App>,
    pub(super) sessions: Arc<SessionPool>,
    pub(super) peer: Peer,
    pub(super) place: ConnPlace,
    /// Of the tenant that the transport proved when the connection came.
    pub(super) by_transport: Option<SessionLease>,
    pub(super) by_token: Mutex<Sessions>,
    /// Of those who are spoken for, the one that was asked for last comes last.
    pub(super) spoken_for: Mutex<Sessions>,
}

/// Why a request is nobody's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Unknown {
    /// It has no token, and the transport proves nothing.
    NoToken,
    /// It has something that is no token, or nobody's.
    WrongToken,
    /// It is for somebody whom its sender may not speak for.
    NotForOthers,
    /// Whose it is is known, and no session is left.
    NoSession(Status),
}

type Sessions = Vec<(TenantId, SessionLease)>;

fn lock(sessions: &Mutex<Sessions>) -> MutexGuard<'_, Sessions> {
    // Nothing panics while it holds one.
    sessions.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Callers {
    /// Ends the session of a tenant that is no longer served, if one of its tokens came here.
    pub(super) fn forget(&self, tenant: &TenantId) {
        for sessions in [&self.by_token, &self.spoken_for] {
            let mut sessions = lock(sessions);
            let ended: Vec<_> = sessions.extract_if(.., |(known, _)| known == tenant).collect();
            // Outside of the lock: ending a session cancels what it has in flight.
            drop(sessions);
            drop(ended);
        }
    }

    /// Whose a request with these headers is.
    pub(super) fn context(&self, headers: &HeaderMap) -> Result<ConnectionContext, Unknown> {
        let sender = self.session(headers.get(AUTHORIZATION).map(HeaderValue::as_bytes))?;
        let peer = self.peer.clone();
        match headers.get(TENANT) {
            None => Ok(ConnectionContext { session: sender, peer, spoken_for: false }),
            Some(name) => {
                let name = name.to_str().map_err(|_| Unknown::NotForOthers)?;
                Ok(ConnectionContext { session: self.session_for(&sender, name)?, peer, spoken_for: true })
            }
        }
    }

    /// The session of somebody whom `sender` speaks for.
    fn session_for(&self, sender: &ClientSession, name: &str) -> Result<Arc<ClientSession>, Unknown> {
        let tenant = self.app.directory().spoken_for(sender.tenant(), name);
        let tenant = tenant.ok_or(Unknown::NotForOthers)?;
        let mut spoken_for = lock(&self.spoken_for);
        let known = spoken_for.iter().position(|(known, _)| *known == tenant);
        let lease = match known.map(|at| spoken_for.remove(at)) {
            Some((_, lease)) => lease,
            None => self.sessions.lease(&self.app, &self.peer, &tenant).map_err(Unknown::NoSession)?,
        };
        let session = lease.session().clone();
        spoken_for.push((tenant, lease));
        // Of a bridge for many, those who were not asked for lately make room; what they have in flight keeps their sessions.
        let surplus = spoken_for.len().saturating_sub(limits::SPOKEN_FOR_MAX);
        let ended: Vec<_> = spoken_for.drain(..surplus).collect();
        drop(spoken_for);
        drop(ended);
        Ok(session)
    }

    fn session(&self, authorization: Option<&[u8]>) -> Result<Arc<ClientSession>, Unknown> {
        let by_transport = self.by_transport.as_ref().map(SessionLease::session);
        let directory = self.app.directory();
        // Where tokens count for nothing, the header is somebody else's business, a proxy's say.
        let Some(header) = authorization.filter(|_| directory.takes_tokens(&self.peer)) else {
            return by_transport.cloned().ok_or(Unknown::NoToken);
        };
        let tenant = bearer(header).and_then(|token| directory.of_token(&self.peer, token));
        let tenant = tenant.ok_or(Unknown::WrongToken)?;
        let mut by_token = lock(&self.by_token);
        if let Some((_, lease)) = by_token.iter().find(|(known, _)| *known == tenant) {
            return Ok(lease.session().clone());
        }
        if by_token.len() >= limits::TENANTS_OF_CONNECTION_MAX {
            let text = "this connection serves as many tenants as it may; use another one";
            return Err(Unknown::NoSession(Status::busy(text, limits::REFUSE_RETRY)));
        }
        let lease = self.sessions.lease(&self.app, &self.peer, &tenant).map_err(Unknown::NoSession)?;
        if self.place.belongs_to(&tenant, directory.rights(&tenant).connections_max).is_err() {
            let text = "your tenant has as many connections as it may (`connections_max`), and all are busy";
            return Err(Unknown::NoSession(Status::busy(text, limits::REFUSE_RETRY)));
        }
        let session = lease.session().clone();
        by_token.push((tenant, lease));
        Ok(session)
    }
}
