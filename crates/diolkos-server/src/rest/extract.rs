// SPDX-License-Identifier: Apache-2.0
//! Which model and version a request names, and whose it is.

use std::sync::Arc;

use axum::extract::{FromRequestParts, RawPathParams};
use axum::http::request::Parts;
use axum::response::IntoResponse;
use diolkos_types::{Code, Status};

use super::error::HttpError;
use super::reply;
use crate::oip;
use crate::sessions::{ClientSession, ConnectionContext};

/// The model in the path, its version if that names one, and the session of the connection.
#[derive(Debug)]
pub(super) struct Target {
    pub(super) model: String,
    pub(super) version: Option<u64>,
    pub(super) session: Arc<ClientSession>,
}

/// A request that no handler gets to see.
pub(super) struct Rejected(HttpError);

impl From<HttpError> for Rejected {
    fn from(error: HttpError) -> Rejected {
        Rejected(error)
    }
}

impl IntoResponse for Rejected {
    fn into_response(self) -> axum::response::Response {
        reply::error(self.0)
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Target {
    type Rejection = Rejected;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Target, Rejected> {
        let params = RawPathParams::from_request_parts(parts, state)
            .await
            .map_err(|error| Rejected(Status::invalid(format!("the path can't be read: {error}")).into()))?;
        let mut model = String::new();
        let mut version = None;
        for (name, value) in &params {
            match name {
                "model" => model = value.to_owned(),
                _ => version = oip::parse_version(value).map_err(|status| Rejected(status.into()))?,
            }
        }
        Ok(Target { model, version, session: session_of(parts)? })
    }
}

/// The region in the path, if it names one, and the session of the connection.
#[derive(Debug)]
pub(super) struct OfRegion {
    pub(super) name: Option<String>,
    pub(super) session: Arc<ClientSession>,
}

impl<S: Send + Sync> FromRequestParts<S> for OfRegion {
    type Rejection = Rejected;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<OfRegion, Rejected> {
        let params = RawPathParams::from_request_parts(parts, state)
            .await
            .map_err(|error| Rejected(Status::invalid(format!("the path can't be read: {error}")).into()))?;
        let name = params.iter().next().map(|(_, name)| name.to_owned());
        Ok(OfRegion { name, session: session_of(parts)? })
    }
}

/// Whose a request is.
pub(super) struct Caller(pub(super) Arc<ClientSession>);

impl<S: Send + Sync> FromRequestParts<S> for Caller {
    type Rejection = Rejected;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Caller, Rejected> {
        session_of(parts).map(Caller)
    }
}

fn session_of(parts: &Parts) -> Result<Arc<ClientSession>, Rejected> {
    context_of(parts).map(|context| context.session)
}

/// Whose a request is, and how it came.
pub(super) fn context_of(parts: &Parts) -> Result<ConnectionContext, Rejected> {
    parts.extensions.get::<ConnectionContext>().cloned().ok_or_else(|| {
        // Our mistake: `listen` puts it into every request.
        tracing::error!("a request without a session reached the REST front");
        Rejected(Status::new(Code::Internal, "the request belongs to no session").into())
    })
}
