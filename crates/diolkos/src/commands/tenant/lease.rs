// SPDX-License-Identifier: Apache-2.0
//! `diolkos lease`: what tenants may use.

use hyper::Method;
use serde_json::Value;

use super::args::{LeaseAction, LeaseAdd, LeaseArgs, LeaseList, OneLease};
use super::told::{self, Lease, Tenant};
use super::{TENANTS, ask, path_of};
use crate::client::escape;
use crate::commands::{print, print_json};
use crate::exit::{Exit, Failure};
use crate::term::Paint;

pub(crate) fn run(args: &LeaseArgs) -> Result<Exit, Failure> {
    match &args.action {
        LeaseAction::Ls(ls) => list(ls)?,
        LeaseAction::Show(one) => {
            let told = ask(&one.daemon, Method::GET, &path(&one.tenant, &one.name), None)?;
            show(told, one.json)?;
        }
        LeaseAction::Add(add) => self::add(add)?,
        LeaseAction::Rm(one) => remove(one)?,
    }
    Ok(Exit::Ok)
}

fn path(tenant: &str, lease: &str) -> String {
    format!("{}/leases/{}", path_of(tenant), escape(lease))
}

fn list(ls: &LeaseList) -> Result<(), Failure> {
    let tenants = match &ls.tenant {
        None => Tenant::read_all(ask(&ls.daemon, Method::GET, TENANTS, None)?)?,
        Some(tenant) => vec![Tenant::read(ask(&ls.daemon, Method::GET, &path_of(tenant), None)?)?],
    };
    let leases: Vec<Lease> = tenants.into_iter().flat_map(Tenant::leases).collect();
    if ls.json { print_json(&leases) } else { print(&told::leases(&leases, Paint::stdout())) }
}

fn show(told: Value, json: bool) -> Result<(), Failure> {
    if json {
        return print_json(&told);
    }
    print(&told::leases(&[Lease::read(told)?], Paint::stdout()))
}

fn add(add: &LeaseAdd) -> Result<(), Failure> {
    let method = if add.replace { Method::PUT } else { Method::POST };
    let told = ask(&add.daemon, method, &path(&add.tenant, &add.name), Some(add.lease.to_json(&add.kind)))?;
    show(told, add.json)
}

fn remove(one: &OneLease) -> Result<(), Failure> {
    let told = ask(&one.daemon, Method::DELETE, &path(&one.tenant, &one.name), None)?;
    if one.json {
        return print_json(&told);
    }
    eprintln!("tenant {} has no lease {} any more", one.tenant, one.name);
    Ok(())
}
