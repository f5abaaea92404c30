// SPDX-License-Identifier: Apache-2.0
//! The model repository extension: index, load, unload.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::Response;
use bytes::Bytes;
use diolkos_types::{Param, Status};
use serde_json::{Value, json};

use super::body::Packed;
use super::decode::envelope::{self, IndexBody, ParametersOnly, WireParam};
use super::decode::to_params;
use super::error::HttpError;
use super::extract::{Caller, Target};
use super::{answer, base64, ok};
use crate::app::App;
use crate::audit::Action;
use crate::oip::offload::{self, OwnTurn};
use crate::oip::params;
use crate::oip::repository::{self, LoadCall};

/// Prefix of the parameters that carry a file.
const FILE: &str = "file:";

pub(super) async fn index(
    State(app): State<Arc<App>>,
    Caller(session): Caller,
    request: Request,
) -> Response<Body> {
    let listed = async {
        let json = whole_body(&app, &session.turn, request).await?;
        let IndexBody { ready } =
            if is_blank(&json) { IndexBody::default() } else { envelope::parse(&json)? };
        let rows = repository::index(&session, ready);
        let rows = rows.into_iter().map(|row| {
            let version = row.version.map(|version| version.to_string()).unwrap_or_default();
            json!({"name": row.name, "version": version, "state": row.state.name(), "reason": row.reason})
        });
        Ok(ok(&Value::Array(rows.collect())))
    };
    answer(listed.await)
}

pub(super) async fn load(State(app): State<Arc<App>>, target: Target, request: Request) -> Response<Body> {
    let loaded = async {
        let Target { model, session, .. } = target;
        repository::check_allowed(&app, &session, Action::Load, &model)?;
        let json = whole_body(&app, &session.turn, request).await?;
        let call = offload::run(&session.turn, json.len(), move || load_call(model, &json)).await?;
        repository::load(&app, &session, call).await?;
        Ok(ok(&json!({})))
    };
    answer(loaded.await)
}

pub(super) async fn unload(State(app): State<Arc<App>>, target: Target, request: Request) -> Response<Body> {
    let unloaded = async {
        repository::check_allowed(&app, &target.session, Action::Unload, &target.model)?;
        let json = whole_body(&app, &target.session.turn, request).await?;
        if !is_blank(&json) {
            let body: ParametersOnly<'_> = envelope::parse(&json)?;
            let params = to_params("the request", body.parameters)?;
            // No model depends on another, so unloading the dependents as well changes nothing.
            if let Some(dependents) = params.get("unload_dependents") {
                params::truth("unload_dependents", dependents)?;
            }
        }
        repository::unload(&app, &target.session, &target.model).await?;
        Ok(ok(&json!({})))
    };
    answer(unloaded.await)
}

pub(super) async fn whole_body(app: &App, turn: &OwnTurn, request: Request) -> Result<Bytes, HttpError> {
    let (parts, body) = request.into_parts();
    let packed = Packed::receive(&parts.headers, body, app.settings().limits.body_bytes_max.get()).await?;
    let unpacked = offload::run(turn, packed.unpack_bytes(), move || packed.unpack()).await?;
    Ok(unpacked.into_bytes())
}

fn is_blank(json: &[u8]) -> bool {
    json.trim_ascii().is_empty()
}

/// What a load request says: nothing, or a configuration and files.
fn load_call(name: String, json: &[u8]) -> Result<LoadCall, Status> {
    let mut call = LoadCall { name, config: None, files: Vec::new() };
    if is_blank(json) {
        return Ok(call);
    }
    let ParametersOnly { parameters } = envelope::parse(json)?;
    let Some(mut parameters) = parameters else { return Ok(call) };
    // Files are taken out first: what is left is small.
    let mut rest = Vec::new();
    for (name, value) in std::mem::take(&mut parameters.0.items) {
        match (name.strip_prefix(FILE), value) {
            (Some(path), WireParam::Text(text)) => {
                let contents = base64::decode(text.as_bytes()).ok_or_else(|| {
                    let path: String = path.chars().take(100).collect();
                    Status::invalid(format!(
                        "parameter `{FILE}{}` is no base64 (RFC 4648)",
                        path.escape_debug()
                    ))
                })?;
                call.files.push((path.to_owned(), contents.into()));
            }
            (_, value) => rest.push((name, value)),
        }
    }
    parameters.0.items = rest;
    parameters.0.total -= call.files.len();
    let params = to_params("the request", Some(parameters))?;
    for (name, value) in params.iter() {
        match (name, value) {
            ("config", Param::Text(config)) => call.config = Some(config.to_string()),
            ("config", _) => {
                return Err(Status::invalid("parameter `config` has to be the configuration as a string"));
            }
            (name, _) => {
                let name: String = name.chars().take(100).collect();
                return Err(Status::invalid(format!(
                    "unknown parameter `{}`; a load takes `config` and `{FILE}VERSION/NAME`",
                    name.escape_debug()
                )));
            }
        }
    }
    Ok(call)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(json: &str) -> Result<LoadCall, Status> {
        load_call("m".into(), json.as_bytes())
    }

    #[test]
    fn nothing_or_a_configuration_and_files() {
        for nothing in ["", " \n", "{}", r#"{"parameters":null}"#, r#"{"parameters":{}}"#] {
            let call = call(nothing).unwrap();
            assert!(call.config.is_none() && call.files.is_empty(), "{nothing}");
        }
        let call =
            call(r#"{"parameters":{"config":"{}","file:1/model.onnx":"Zm9v","file:2/a b":""}}"#).unwrap();
        assert_eq!(call.config.as_deref(), Some("{}"));
        let files =
            [("1/model.onnx".to_owned(), Bytes::from_static(b"foo")), ("2/a b".to_owned(), Bytes::new())];
        assert_eq!(call.files, files);
    }

    #[test]
    fn what_is_wrong_is_named() {
        let message = |json| call(json).unwrap_err().message().to_owned();
        assert!(message(r#"{"parameters":{"file:1/m":"Zm9"}}"#).contains("`file:1/m` is no base64"));
        assert!(message(r#"{"parameters":{"file:1/m":7}}"#).contains("unknown parameter `file:1/m`"));
        assert!(message(r#"{"parameters":{"config":{}}}"#).contains("parameter `config` is an object"));
        assert!(message(r#"{"parameters":{"config":1}}"#).contains("as a string"));
        assert!(message(r#"{"parameters":{"speed":1}}"#).contains("unknown parameter `speed`"));
        assert!(message("[]").contains("JSON object"));
        let many: Vec<String> = (0..65).map(|index| format!("\"file:1/{index}\":\"\"")).collect();
        assert!(message(&format!("{{\"parameters\":{{{}}}}}", many.join(","))).contains("parameters and"));
    }
}
