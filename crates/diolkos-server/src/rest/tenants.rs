// SPDX-License-Identifier: Apache-2.0
//! Tenants, for whoever may add and remove them (`tenants.NAME.admin`), from unix sockets only:
//!
//! * `GET v2/diolkos/tenants[/TENANT[/leases/LEASE]]`
//! * `POST` makes one that is not there, `PUT` makes or replaces one, `DELETE` removes one: of
//!   `v2/diolkos/tenants/TENANT` and `v2/diolkos/tenants/TENANT/leases/LEASE`.
//!
//! Bodies are JSON with the keys of `[tenants.NAME]` and `[tenants.NAME.leases.NAME]` in the settings.

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{FromRequestParts, RawPathParams, Request, State};
use axum::http::request::Parts;
use axum::http::{Method, Response, StatusCode};
use axum::routing::get;
use diolkos_engine::TenantSnapshot;
use diolkos_types::{Code, Status};
use serde_json::{Value, json};

use super::error::HttpError;
use super::extract::Rejected;
use super::repository::whole_body;
use super::{answer, ok, reply};
use crate::app::App;
use crate::audit::Action;
use crate::listen::Transport;
use crate::sessions::ConnectionContext;
use crate::tenancy::{Change, ChangeError, Done, IfThere, TenantView};

pub(super) fn routes() -> Router<Arc<App>> {
    let one = get(show).post(put).put(put).delete(remove);
    Router::new()
        .route("/v2/diolkos/tenants", get(list))
        .route("/v2/diolkos/tenants/{tenant}", one.clone())
        .route("/v2/diolkos/tenants/{tenant}/leases/{lease}", one)
}

/// Somebody who may change tenants, and what it is about.
struct Admin {
    context: ConnectionContext,
    tenant: String,
    lease: Option<String>,
}

impl FromRequestParts<Arc<App>> for Admin {
    type Rejection = Rejected;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Admin, Rejected> {
        let context = super::extract::context_of(parts)?;
        if let Err(status) = check_admin(app, &context) {
            let (tenant, peer) = (Some(context.session.tenant()), Some(&context.peer));
            app.audit.refused(tenant, peer, Action::Tenant, status.code(), status.message());
            return Err(Rejected::from(HttpError::from(status)));
        }
        let params = RawPathParams::from_request_parts(parts, app).await;
        let params = params.map_err(|error| {
            Rejected::from(HttpError::from(Status::invalid(format!("the path can't be read: {error}"))))
        })?;
        let param = |wanted: &str| params.iter().find(|(name, _)| *name == wanted);
        let text = |wanted: &str| param(wanted).map(|(_, value)| value.to_owned());
        let (tenant, lease) = (text("tenant").unwrap_or_default(), text("lease"));
        Ok(Admin { context, tenant, lease })
    }
}

fn check_admin(app: &App, context: &ConnectionContext) -> Result<(), Status> {
    let denied = |text: &str| Err(Status::new(Code::PermissionDenied, text));
    // Whoever speaks for an administrator is none.
    if context.spoken_for || !app.directory().rights(context.session.tenant()).admin {
        return denied("your tenant may not look after tenants (tenants.NAME.admin)");
    }
    if context.peer.transport != Transport::Unix {
        return denied("tenants are looked after from unix sockets only");
    }
    Ok(())
}

async fn list(State(app): State<Arc<App>>, _: Admin) -> Response<Body> {
    let looked = app.tenancy.look().await.map_err(of_change);
    let used = app.engine.tenants();
    answer(looked.map(|tenants| ok(&tenants.iter().map(|tenant| told(&used, tenant)).collect())))
}

async fn show(State(app): State<Arc<App>>, admin: Admin) -> Response<Body> {
    answer(found(&app, &admin).await.map(|value| ok(&value)).map_err(of_change))
}

async fn found(app: &App, admin: &Admin) -> Result<Value, ChangeError> {
    let tenants = app.tenancy.look().await?;
    let tenant = tenants.into_iter().find(|tenant| tenant.name == admin.tenant);
    let tenant = tenant.ok_or_else(|| ChangeError::NoTenant(shown(&admin.tenant)))?;
    let Some(name) = &admin.lease else { return Ok(told(&app.engine.tenants(), &tenant)) };
    let lease = tenant.lease(name).ok_or_else(|| no_lease(&admin.tenant, name))?;
    Ok(json!({ "tenant": tenant.name, "name": name, "settings": lease }))
}

/// `used` is in the order of names.
fn told(used: &[TenantSnapshot], tenant: &TenantView) -> Value {
    let found = used.binary_search_by(|used| used.id.name().cmp(&tenant.name));
    let used = found.ok().map(|at| &used[at]);
    json!({
        "name": tenant.name,
        "origin": tenant.origin.name(),
        "settings": tenant.settings,
        "usage": usage(tenant.connections, used),
    })
}

fn usage(connections: u64, used: Option<&TenantSnapshot>) -> Value {
    let number = |of: fn(&TenantSnapshot) -> u64| used.map_or(0, of);
    json!({
        "connections": connections,
        "sessions": number(|used| used.sessions),
        "in_flight": number(|used| used.in_flight),
        "requests": number(|used| used.requests),
        "requests_memory_bytes": number(|used| used.requests_memory),
        "regions_memory_bytes": number(|used| used.regions_memory),
        "models_memory_bytes": number(|used| used.models_memory),
        "device_ns": number(|used| used.device_ns),
    })
}

async fn put(State(app): State<Arc<App>>, method: Method, admin: Admin, request: Request) -> Response<Body> {
    let put = async {
        let json = whole_body(&app, &admin.context.session.turn, request).await?;
        let value = if json.trim_ascii().is_empty() { Ok(json!({})) } else { serde_json::from_slice(&json) };
        let value = value.map_err(|error| Status::invalid(format!("the body is no JSON: {error}")))?;
        let if_there = if method == Method::POST { IfThere::Refuse } else { IfThere::Replace };
        let Admin { tenant, lease, .. } = &admin;
        let change = match lease.clone() {
            None => Change::Put { name: tenant.clone(), tenant: value, if_there },
            Some(name) => Change::PutLease { tenant: tenant.clone(), name, lease: value, if_there },
        };
        let done = make(&app, &admin, "put", change).await?;
        let status = if done == Done::Created { StatusCode::CREATED } else { StatusCode::OK };
        let value = found(&app, &admin).await.map_err(of_change)?;
        Ok(reply::json(status, value.to_string().into_bytes()))
    };
    answer(put.await)
}

async fn remove(State(app): State<Arc<App>>, admin: Admin) -> Response<Body> {
    let Admin { tenant, lease, .. } = &admin;
    let change = match lease.clone() {
        None => Change::Remove { name: tenant.clone() },
        Some(name) => Change::RemoveLease { tenant: tenant.clone(), name },
    };
    answer(make(&app, &admin, "remove", change).await.map(|_| ok(&json!({}))))
}

/// Makes a change, and writes down who made it.
async fn make(app: &App, admin: &Admin, what: &str, change: Change) -> Result<Done, HttpError> {
    // Asked again: the body may have come slowly, and the right have gone meanwhile.
    check_admin(app, &admin.context)?;
    let made = app.tenancy.change(change).await;
    let object = match &admin.lease {
        None => format!("{what} {}", shown(&admin.tenant)),
        Some(lease) => format!("{what} {}/{}", shown(&admin.tenant), shown(lease)),
    };
    let failure = made.as_ref().err().map(status_of);
    let (tenant, peer) = (Some(admin.context.session.tenant()), Some(&admin.context.peer));
    app.audit.changed(tenant, peer, Action::Tenant, &object, failure.as_ref());
    made.map_err(of_change)
}

fn no_lease(tenant: &str, lease: &str) -> ChangeError {
    ChangeError::NoLease { tenant: shown(tenant), lease: shown(lease) }
}

fn shown(name: &str) -> String {
    name.chars().take(100).flat_map(char::escape_debug).collect()
}

/// Everything that an error has to say, causes included: whoever reads it runs the daemon.
fn status_of(error: &ChangeError) -> Status {
    let code = match error {
        ChangeError::NoTenant(_) | ChangeError::NoLease { .. } => Code::NotFound,
        ChangeError::Exists(_) | ChangeError::Wrong(_) | ChangeError::Listen(_) => Code::InvalidArgument,
        ChangeError::InSettings(_) | ChangeError::Default => Code::PermissionDenied,
        ChangeError::Kept(_) => Code::Internal,
        ChangeError::Ending => Code::Unavailable,
    };
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    Status::new(code, text)
}

fn of_change(error: ChangeError) -> HttpError {
    let status = status_of(&error);
    match error {
        ChangeError::Exists(_) | ChangeError::InSettings(_) | ChangeError::Default => {
            HttpError::new(StatusCode::CONFLICT, status.message())
        }
        _ => HttpError::from(status),
    }
}
