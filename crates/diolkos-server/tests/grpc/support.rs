// SPDX-License-Identifier: Apache-2.0
//! A daemon with the built-in operations and `gate`, an `echo` that waits until it is let through.

use std::path::Path;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use diolkos_backend::faulty::{FaultyOperation, Gate, Plan, RunFault};
use diolkos_builtin::Echo;
use diolkos_engine::store::NoRehearsal;
use diolkos_server::grpc::pb::grpc_inference_service_client::GrpcInferenceServiceClient;
use diolkos_server::grpc::pb::infer_parameter::ParameterChoice;
use diolkos_server::grpc::pb::model_infer_request::InferInputTensor;
use diolkos_server::grpc::pb::{InferParameter, ModelInferRequest};
use diolkos_server::{Address, Builtin, Daemon, Deps, Settings};
use hyper::body::Incoming;
use hyper::client::conn::http2::{self, SendRequest};
use hyper::{Request, Response, Uri};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::UnixStream;
use tonic::body::Body;

pub(crate) type Client = GrpcInferenceServiceClient<Connection>;

/// One HTTP/2 connection. Unlike tonic's channel it adds nothing of its own, no timeout either, so that
/// what a test sees is what the daemon did.
#[derive(Clone)]
pub(crate) struct Connection(SendRequest<Body>);

impl tower::Service<Request<Body>> for Connection {
    type Response = Response<Incoming>;
    type Error = hyper::Error;
    type Future = std::pin::Pin<Box<dyn Future<Output = Result<Response<Incoming>, hyper::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), hyper::Error>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        Box::pin(self.0.send_request(request))
    }
}

pub(crate) struct Fixture {
    pub(crate) daemon: Daemon,
    pub(crate) gate: Gate,
    dir: tempfile::TempDir,
}

pub(crate) async fn start(settings: &str) -> Fixture {
    let dir = tempfile::tempdir().unwrap();
    let gate = Gate::new();
    // Sockets beside the one that there is always.
    let settings = settings.replace("DIR", &dir.path().display().to_string());
    let mut settings = Settings::parse(&settings, Path::new("/test.toml")).unwrap();
    settings.listen.push(Address::Unix(dir.path().join("d.sock")).into());
    settings.engine.slots = 1;
    let held = FaultyOperation::new(Arc::new(Echo::new()), Plan::always(RunFault::Hold(gate.clone())));
    let mut builtins: Vec<Builtin> = diolkos_builtin::operations()
        .into_iter()
        .map(|built_in| Builtin {
            name: built_in.name.into(),
            summary: built_in.summary.into(),
            operation: built_in.operation,
        })
        .collect();
    builtins.push(Builtin { name: "gate".into(), summary: "waits".into(), operation: Arc::new(held) });
    let deps = Deps { backends: Vec::new(), builtins, rehearser: Box::new(NoRehearsal), read_settings: None };
    let daemon = Daemon::start(settings, deps).await.unwrap();
    daemon.wait_ready().await;
    Fixture { daemon, gate, dir }
}

pub(crate) fn origin() -> Uri {
    Uri::from_static("http://diolkos")
}

impl Fixture {
    pub(crate) async fn socket(&self) -> UnixStream {
        self.socket_at("d.sock").await
    }

    async fn socket_at(&self, name: &str) -> UnixStream {
        UnixStream::connect(self.dir.path().join(name)).await.unwrap()
    }

    pub(crate) async fn connect(&self) -> Connection {
        self.connect_to("d.sock").await
    }

    async fn connect_to(&self, name: &str) -> Connection {
        let socket = self.socket_at(name).await;
        let (send, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(socket)).await.unwrap();
        tokio::spawn(connection);
        Connection(send)
    }

    pub(crate) async fn client(&self) -> Client {
        GrpcInferenceServiceClient::with_origin(self.connect().await, origin())
    }

    /// A client on a socket that the settings named.
    pub(crate) async fn client_at(&self, name: &str) -> Client {
        GrpcInferenceServiceClient::with_origin(self.connect_to(name).await, origin())
    }

    /// Waits until so many jobs wait and run.
    pub(crate) async fn wait_for_jobs(&self, jobs: usize) {
        while self.daemon.engine().jobs() != jobs {
            tokio::task::yield_now().await;
        }
    }

    /// Waits until a job came to the gate for the `count`th time.
    pub(crate) async fn wait_for_arrivals(&self, count: u64) {
        let gate = self.gate.clone();
        tokio::task::spawn_blocking(move || gate.wait_for_arrivals(count)).await.unwrap();
    }

    /// Lets everything through, so that the daemon can end.
    pub(crate) async fn end(self) {
        self.gate.open();
        self.daemon.shutdown().await;
    }
}

/// `data` of `echo` and `gate`, raw.
pub(crate) fn raw(
    model: &str,
    datatype: &str,
    shape: &[i64],
    payload: impl Into<Bytes>,
) -> ModelInferRequest {
    let input = InferInputTensor {
        name: "data".into(),
        datatype: datatype.into(),
        shape: shape.into(),
        ..InferInputTensor::default()
    };
    ModelInferRequest {
        model_name: model.into(),
        inputs: vec![input],
        raw_input_contents: vec![payload.into()],
        ..ModelInferRequest::default()
    }
}

/// A small request with an id.
pub(crate) fn named(model: &str, id: &str) -> ModelInferRequest {
    let payload = id.as_bytes().to_vec();
    ModelInferRequest { id: id.into(), ..raw(model, "UINT8", &[payload.len() as i64], payload) }
}

pub(crate) fn parameter(choice: ParameterChoice) -> InferParameter {
    InferParameter { parameter_choice: Some(choice) }
}
