// SPDX-License-Identifier: Apache-2.0
//! `diolkos tenant` and `diolkos lease`: who a daemon serves, and with what, changed while it runs.
//!
//! | module | its one job |
//! |---|---|
//! | `args` | the command line, and the JSON it means |
//! | `told` | what the daemon says, for people |
//! | `lease` | `diolkos lease` |

mod args;
mod lease;
mod told;

use bytes::Bytes;
use hyper::Method;
use serde_json::Value;

use self::args::{TenantAction, TenantAdd, body_of};
use self::told::Tenant;
use super::{connect, of_client, print, print_json, runtime};
use crate::cli::DaemonArgs;
use crate::client::{ClientError, escape};
use crate::exit::{Exit, Failure};
use crate::term::Paint;

pub(crate) use self::args::{LeaseArgs, TenantArgs};
pub(super) use self::lease::run as run_lease;

const TENANTS: &str = "/v2/diolkos/tenants";

pub(super) fn run(args: &TenantArgs) -> Result<Exit, Failure> {
    match &args.action {
        TenantAction::Ls(ls) => list(&ls.daemon, ls.json),
        TenantAction::Show(one) => {
            let told = ask(&one.daemon, Method::GET, &path_of(&one.name), None)?;
            if one.json {
                print_json(&told)?
            } else {
                print(Tenant::read(told)?.details().as_bytes())?
            }
            Ok(Exit::Ok)
        }
        TenantAction::Add(add) => self::add(add),
        TenantAction::Rm(one) => {
            let told = ask(&one.daemon, Method::DELETE, &path_of(&one.name), None)?;
            if one.json {
                print_json(&told)?
            } else {
                eprintln!("tenant {} is gone", one.name)
            }
            Ok(Exit::Ok)
        }
    }
}

fn list(daemon: &DaemonArgs, json: bool) -> Result<Exit, Failure> {
    let told = ask(daemon, Method::GET, TENANTS, None)?;
    if json {
        print_json(&told)?;
    } else {
        print(&told::tenants(&Tenant::read_all(told)?, Paint::stdout()))?;
    }
    Ok(Exit::Ok)
}

fn add(add: &TenantAdd) -> Result<Exit, Failure> {
    let method = if add.replace { Method::PUT } else { Method::POST };
    let told = ask(&add.daemon, method, &path_of(&add.name), Some(body_of(add)?))?;
    if add.json {
        print_json(&told)?;
        return Ok(Exit::Ok);
    }
    let tenant = Tenant::read(told)?;
    for socket in &tenant.settings.sockets {
        print(format!("{socket}\n").as_bytes())?;
    }
    eprintln!("tenant {} is served", add.name);
    if tenant.settings.leases.is_empty() {
        eprintln!("it may use nothing yet; give it a lease: diolkos lease add {} NAME --model '*'", add.name);
    }
    Ok(Exit::Ok)
}

/// Where a tenant is.
fn path_of(tenant: &str) -> String {
    format!("{TENANTS}/{}", escape(tenant))
}

/// Asks the daemon.
fn ask(daemon: &DaemonArgs, method: Method, path: &str, body: Option<Value>) -> Result<Value, Failure> {
    let body = body.map_or_else(Bytes::new, |body| body.to_string().into());
    runtime()?.block_on(async {
        let mut client = connect(daemon).await?;
        client.send(method, path, body).await.map_err(|error| of_tenants(error, daemon))
    })
}

/// What a client's error means here.
fn of_tenants(error: ClientError, daemon: &DaemonArgs) -> Failure {
    match error {
        ClientError::Refused { status: 403, message } => Failure::failed(message)
            .help("ask on the unix socket of a tenant with `admin = true` (docs/tenants.md)"),
        ClientError::Refused { status: 404, message } if message.starts_with("there is no `/v2/") => {
            let address = daemon.address.as_ref().map(|address| format!(" at {address}")).unwrap_or_default();
            Failure::failed(format!("the daemon{address} is too old for this: {message}"))
        }
        ClientError::Refused { status: 409, message } if message.ends_with("is there already") => {
            Failure::failed(message).help("--replace puts this in its place")
        }
        ClientError::Refused { message, .. } => Failure::failed(message),
        error => of_client(error),
    }
}
