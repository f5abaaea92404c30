// SPDX-License-Identifier: Apache-2.0
//! The REST front in process: the real router before a real engine, with built-ins, null models and faults.

mod bad_input;
mod explain;
mod faults;
mod inference;
mod models;
mod shared_memory;

use std::path::Path;
use std::pin::Pin;
use std::time::Duration;

use axum::http::{HeaderMap, Method};
use diolkos_backend::faulty::{FaultyOperation, Plan, RunFault};
use diolkos_backend::null::NullBackend;
use diolkos_engine::store::{NoRehearsal, Store, StoreConfig};
use diolkos_engine::{ControlRequest, Engine, EngineConfig};
use diolkos_types::TenantId;
use http_body_util::BodyExt as _;
use serde_json::Value;
use tower::ServiceExt as _;

use super::*;
use crate::app::Phase;
use crate::audit::Audit;
use crate::listen::Peer;
use crate::sessions::{ClientSession, ConnectionContext};
use crate::settings::{Settings, Size};
use crate::system_memory::{Holder, SessionMemory};

/// A daemon without sockets.
struct Front {
    app: Arc<App>,
    router: Router,
    context: ConnectionContext,
    /// Where shared memory lies, if the session may use it.
    shm: Option<tempfile::TempDir>,
    _dir: tempfile::TempDir,
}

/// What came back.
#[derive(Debug)]
struct Answer {
    status: u16,
    headers: HeaderMap,
    body: Vec<u8>,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {:?}", self.body))
    }

    /// The sentence of an error with this status.
    fn error(&self, status: u16) -> String {
        let text = String::from_utf8_lossy(&self.body);
        assert_eq!(self.status, status, "{text}");
        self.json()["error"].as_str().expect("errors have a sentence").to_owned()
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }
}

fn write(path: &Path, text: &str) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, text).unwrap();
}

/// `plain`: any batch, no configuration. `batched`: with one, and labels. `two`: two inputs, two versions.
/// `lazy` models are loaded on demand by whoever asks the store so.
fn repository() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let file = |path: &str, text: &str| write(&dir.path().join(path), text);
    file("plain/1/model.null", "input x FP32 [batch,3]\noutput y FP32 [batch,10]\n");
    file("batched/1/model.null", "input x FP32 [batch,2]\noutput y FP32 [batch,4]\n");
    file(
        "batched/config.pbtxt",
        "max_batch_size: 8\ninput { name: \"x\" data_type: TYPE_FP32 dims: [2] }\n\
         output { name: \"y\" data_type: TYPE_FP32 dims: [4] label_filename: \"labels.txt\" }\n",
    );
    file("batched/labels.txt", "ant\nbee\ncat\ndog\n");
    for version in ["1", "2"] {
        file(
            &format!("two/{version}/model.null"),
            "input a BYTES [2]\ninput b UINT8 [2,2]\noutput y BYTES [2]\n",
        );
    }
    file("two/config.pbtxt", "version_policy: { all { } }\n");
    dir
}

struct Options {
    settings: Settings,
    lazy: bool,
    /// Faults of the operation `faulty`, which otherwise echoes.
    faults: Plan<RunFault>,
    requests_memory_max: u64,
    shared_memory: bool,
}

impl Default for Options {
    fn default() -> Options {
        let requests_memory_max = EngineConfig::cpu(1).requests_memory_max;
        Options {
            settings: Settings::default(),
            lazy: false,
            faults: Plan::always(RunFault::None),
            requests_memory_max,
            shared_memory: false,
        }
    }
}

impl Front {
    fn start() -> Front {
        Front::with(Options::default())
    }

    fn with(mut options: Options) -> Front {
        let dir = repository();
        let config = StoreConfig {
            lazy: options.lazy,
            client_load: options.settings.models.client_load,
            blob_dir: Some(dir.path().join("blobs")),
            ..StoreConfig::default()
        };
        let store = Store::new(config, vec![Arc::new(NullBackend)], Box::new(NoRehearsal)).unwrap();
        for builtin in diolkos_builtin::operations() {
            store.add_builtin(builtin.name, builtin.summary, builtin.operation).unwrap();
        }
        let faulty = FaultyOperation::new(Arc::new(diolkos_builtin::Echo::new()), options.faults);
        store.add_builtin("faulty", "echo with faults", Arc::new(faulty)).unwrap();
        for model in ["plain", "batched", "two"] {
            store.add_file(&dir.path().join(model)).unwrap();
        }
        let config =
            EngineConfig { requests_memory_max: options.requests_memory_max, ..EngineConfig::cpu(1) };
        let engine = Engine::start(&config, store).unwrap();
        if !options.lazy {
            for model in ["plain", "batched", "two"] {
                engine.control_and_wait(ControlRequest::Load { name: model.into() }).unwrap();
            }
        }
        let shm = options.shared_memory.then(|| tempfile::tempdir_in("/dev/shm").unwrap());
        if let Some(shm) = &shm {
            options.settings.shared_memory.directory = shm.path().into();
        }
        let app = Arc::new(App::new(engine, options.settings, Audit::open(None).unwrap()));
        let tenant = TenantId::default();
        let memory = match &shm {
            None => SessionMemory::none(),
            Some(_) => {
                let uid = Some(rustix::process::geteuid().as_raw());
                let (linger, budget) = (Duration::ZERO, app.bodies_of(&tenant));
                let holder =
                    Holder { tenant: tenant.clone(), uid, pid: None, is_process: true, linger, budget };
                SessionMemory::new(app.system_memory.clone(), holder)
            }
        };
        let session = ClientSession::open_with(&app, &tenant, |_| memory).unwrap();
        app.advance(Phase::Ready);
        let router = router(app.clone());
        Front {
            app,
            router,
            context: ConnectionContext { session, peer: Peer::tcp(), spoken_for: false },
            shm,
            _dir: dir,
        }
    }

    /// Tasks own what they use, so this does not borrow.
    fn send(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Body>,
    ) -> Pin<Box<dyn Future<Output = Answer> + Send>> {
        let mut request = Request::new(body.into());
        *request.method_mut() = Method::from_bytes(method.as_bytes()).unwrap();
        *request.uri_mut() = path.parse().unwrap();
        for (name, value) in headers {
            let name: axum::http::HeaderName = name.parse().unwrap();
            request.headers_mut().append(name, value.parse().unwrap());
        }
        request.extensions_mut().insert(self.context.clone());
        let router = self.router.clone();
        Box::pin(async move {
            let response = router.oneshot(request).await.unwrap();
            let (parts, body) = response.into_parts();
            let exact = hyper::body::Body::size_hint(&body).exact();
            let body = body.collect().await.unwrap().to_bytes().to_vec();
            assert_eq!(exact, Some(body.len() as u64), "every reply has a known length");
            Answer { status: parts.status.as_u16(), headers: parts.headers, body }
        })
    }

    async fn get(&self, path: &str) -> Answer {
        self.send("GET", path, &[], Body::empty()).await
    }

    async fn post(&self, path: &str, body: impl Into<Body>) -> Answer {
        self.send("POST", path, &[], body).await
    }

    async fn infer(&self, model: &str, body: &Value) -> Answer {
        self.post(&format!("/v2/models/{model}/infer"), body.to_string()).await
    }

    /// JSON and the tensors behind it.
    async fn infer_binary(&self, model: &str, json: &Value, tensors: &[u8]) -> Answer {
        let json = json.to_string();
        let length = json.len().to_string();
        let body = [json.as_bytes(), tensors].concat();
        let path = format!("/v2/models/{model}/infer");
        self.send("POST", &path, &[("inference-header-content-length", &length)], body).await
    }
}

fn body_limit(bytes: u64) -> Options {
    let mut options = Options::default();
    options.settings.limits.body_bytes_max = Size::new(bytes);
    options
}
