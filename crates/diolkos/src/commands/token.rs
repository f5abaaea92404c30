// SPDX-License-Identifier: Apache-2.0
//! `diolkos token`: a secret for a client, and its hash for the settings.

use diolkos_server::{TokenHash, new_token};
use serde::Serialize;

use super::{print, print_json};
use crate::cli::TokenArgs;
use crate::exit::{Exit, Failure};

#[derive(Serialize)]
struct Made {
    token: String,
    hash: String,
}

pub(super) fn run(args: &TokenArgs) -> Result<Exit, Failure> {
    let token =
        new_token().map_err(|error| Failure::new(Exit::Failed, "no random numbers").because(&error))?;
    let hash = TokenHash::of(&token).to_string();
    if args.json {
        print_json(&Made { token, hash })?;
    } else {
        print(format!("token  {token}\nhash   {hash}\n").as_bytes())?;
    }
    Ok(Exit::Ok)
}
