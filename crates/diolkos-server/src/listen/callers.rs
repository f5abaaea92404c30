// SPDX-License-Identifier: Apache-2.0
//! Who asks on one connection: whoever the transport proves, or whoever's token comes with the request.
//!
//! A proxy may send requests of several tenants over one connection, so each token has a session of its own here, and a
//! connection has only so many of them.

use std::sync::{Arc, Mutex, PoisonError};

use diolkos_types::{Status, TenantId};

use super::peer::Peer;
use super::table::ConnPlace;
use crate::app::App;
use crate::identity::bearer;
use crate::limits;
use crate::sessions::{ClientSession, ConnectionContext, SessionLease, SessionPool};

/// The sessions that a connection's requests belong to.
pub(super) struct Callers {
    pub(super) app: Arc<App>,
    pub(super) sessions: Arc<SessionPool>,
    pub(super) peer: Peer,
    pub(super) place: ConnPlace,
    /// Of the tenant that the transport proved when the connection came.
    pub(super) by_transport: Option<SessionLease>,
    pub(super) by_token: Mutex<Vec<(TenantId, SessionLease)>>,
}

/// Why a request is nobody's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Unknown {
    /// It has no token, and the transport proves nothing.
    NoToken,
    /// It has something that is no token, or nobody's.
    WrongToken,
    /// Whose it is is known, and no session is left.
    NoSession(Status),
}

impl Callers {
    /// Ends the session of a tenant that is no longer served, if one of its tokens came here.
    pub(super) fn forget(&self, tenant: &TenantId) {
        let mut by_token = self.by_token.lock().unwrap_or_else(PoisonError::into_inner);
        let ended: Vec<_> = by_token.extract_if(.., |(known, _)| known == tenant).collect();
        // Outside of the lock: ending a session cancels what it has in flight.
        drop(by_token);
        drop(ended);
    }

    /// Whose a request with this `authorization` is.
    pub(super) fn context(&self, authorization: Option<&[u8]>) -> Result<ConnectionContext, Unknown> {
        let session = self.session(authorization)?;
        Ok(ConnectionContext { session, peer: self.peer.clone() })
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
        let mut by_token = self.by_token.lock().unwrap_or_else(PoisonError::into_inner);
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
