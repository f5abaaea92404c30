// SPDX-License-Identifier: Apache-2.0
//! The model repository extension: what there is, and loading and unloading it on a client's word.
//!
//! Loading and unloading by clients is off unless `models.client_load` says otherwise; it then goes through the
//! engine's control device like everybody's, so no request path ever loads anything.

use bytes::Bytes;
use diolkos_engine::store::{ClientFiles, IndexRow, IndexState};
use diolkos_engine::{ControlReply, ControlRequest, Engine, Session};
use diolkos_types::{Code, Status, TenantId};
use tokio::sync::oneshot;

use crate::app::App;
use crate::audit::Action;

/// A load request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LoadCall {
    /// Name of the model.
    pub(crate) name: String,
    /// Its configuration as JSON, in place of the installed one.
    pub(crate) config: Option<String>,
    /// Its files: `VERSION/NAME` and contents.
    pub(crate) files: Vec<(String, Bytes)>,
}

/// What there is, by name and version; with `ready` only what serves.
pub(crate) fn index(session: &Session, ready: bool) -> Vec<IndexRow> {
    let rows = session.index().into_iter();
    rows.filter(|row| !ready || row.state == IndexState::Ready).collect()
}

/// Whether this client may load and unload at all. Fronts ask before they take a body in. A denial is noted as one of
/// `action` on the model `name`.
pub(crate) fn check_allowed(app: &App, session: &Session, action: Action, name: &str) -> Result<(), Status> {
    let denied = |text: &str| {
        let status = Status::new(Code::PermissionDenied, text);
        app.audit.changed(Some(session.tenant()), None, action, name, Some(&status));
        Err(status)
    };
    if !app.settings().models.client_load {
        return denied(
            "loading and unloading by clients is off; the operator turns it on with `models.client_load = true`",
        );
    }
    if !session.may_load() {
        return denied(
            "your tenant may not load and unload models; the operator says who may (tenants.NAME.load)",
        );
    }
    Ok(())
}

/// Loads a model that is installed, or one that the call brings.
pub(crate) async fn load(app: &App, session: &Session, call: LoadCall) -> Result<(), Status> {
    let name = call.name.clone();
    check_allowed(app, session, Action::Load, &name)?;
    let loaded = load_one(app, session, call).await;
    app.audit.changed(Some(session.tenant()), None, Action::Load, &name, loaded.as_ref().err());
    loaded
}

async fn load_one(app: &App, session: &Session, call: LoadCall) -> Result<(), Status> {
    session.check_may_load(&call.name)?;
    if !call.files.is_empty() && !app.settings().tenants.is_empty() {
        // What a client brings would be everybody's: there is one namespace so far.
        let text = "a model that a client brings would be loaded for everybody, so it is refused where there are tenants";
        return Err(Status::new(Code::PermissionDenied, text));
    }
    control(&app.engine, control_request(session.tenant(), call)?).await.map(drop)
}

/// Unloads a model.
pub(crate) async fn unload(app: &App, session: &Session, name: &str) -> Result<(), Status> {
    check_allowed(app, session, Action::Unload, name)?;
    let unloaded = unload_one(app, session, name).await;
    app.audit.changed(Some(session.tenant()), None, Action::Unload, name, unloaded.as_ref().err());
    unloaded
}

async fn unload_one(app: &App, session: &Session, name: &str) -> Result<(), Status> {
    session.check_may_load(name)?;
    control(&app.engine, ControlRequest::Unload { name: name.to_owned() }).await.map(drop)
}

async fn control(engine: &Engine, request: ControlRequest) -> Result<ControlReply, Status> {
    let (send, receive) = oneshot::channel();
    engine.control(request, move |result| {
        // The receiver is gone if the caller is; the change happens all the same.
        let _ = send.send(result);
    });
    receive
        .await
        .unwrap_or_else(|_| Err(Status::new(Code::Aborted, "the daemon dropped this request; try again")))
}

fn control_request(tenant: &TenantId, call: LoadCall) -> Result<ControlRequest, Status> {
    let LoadCall { name, config, files } = call;
    if files.is_empty() {
        return match config {
            None => Ok(ControlRequest::LoadFor { name, tenant: tenant.clone() }),
            Some(_) => Err(Status::new(
                Code::Unsupported,
                "a `config` without files would replace the installed one, which is not offered here; change `config.pbtxt`",
            )),
        };
    }
    let mut contents = ClientFiles { config: config.map(Bytes::from), ..ClientFiles::default() };
    for (path, file) in files {
        let key = version_and_name(&path)?;
        if contents.files.insert(key, file).is_some() {
            return Err(Status::invalid(format!("file `{}` is given twice", shown(&path))));
        }
    }
    Ok(ControlRequest::LoadFiles { name, files: contents })
}

/// `1/model.onnx` → 1 and `model.onnx`. The store checks the name.
fn version_and_name(path: &str) -> Result<(u64, String), Status> {
    let parts = path.split_once('/').and_then(|(version, name)| {
        let digits = !version.is_empty() && version.bytes().all(|byte| byte.is_ascii_digit());
        Some((version.parse().ok().filter(|_| digits)?, name.to_owned()))
    });
    parts.ok_or_else(|| {
        Status::invalid(format!(
            "file `{}` has to be named `VERSION/NAME`, such as `1/model.onnx`",
            shown(path)
        ))
    })
}

fn shown(path: &str) -> String {
    path.chars().take(100).flat_map(char::escape_debug).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(config: Option<&str>, files: &[&str]) -> Result<ControlRequest, Status> {
        let files = files.iter().map(|path| ((*path).to_owned(), Bytes::from_static(b"x"))).collect();
        control_request(
            &TenantId::default(),
            LoadCall { name: "m".into(), config: config.map(str::to_owned), files },
        )
    }

    #[test]
    fn an_installed_model_or_one_that_is_brought() {
        assert!(matches!(call(None, &[]), Ok(ControlRequest::LoadFor { name, .. }) if name == "m"));
        let Ok(ControlRequest::LoadFiles { files, .. }) =
            call(Some("{}"), &["1/model.onnx", "2/sub/weights"])
        else {
            panic!("files make a load of files");
        };
        let keys: Vec<_> = files.files.keys().cloned().collect();
        assert_eq!(keys, [(1, "model.onnx".to_owned()), (2, "sub/weights".to_owned())]);
        assert_eq!(files.config.as_deref(), Some(&b"{}"[..]));
    }

    #[test]
    fn what_is_wrong_is_named() {
        assert_eq!(call(Some("{}"), &[]).unwrap_err().code(), Code::Unsupported);
        for path in ["model.onnx", "x/model.onnx", "/model.onnx", "-1/model.onnx", "+1/m"] {
            assert!(call(None, &[path]).unwrap_err().message().contains(path), "{path}");
        }
        assert!(call(None, &["1/m", "1/m"]).unwrap_err().message().contains("twice"));
    }
}
