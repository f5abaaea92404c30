// SPDX-License-Identifier: Apache-2.0
//! Every call of gRPC.

use std::collections::HashMap;
use std::task::{Context, Poll};

use bytes::Bytes;
use diolkos_server::grpc::pb::grpc_inference_service_client::GrpcInferenceServiceClient;
use diolkos_server::grpc::pb::infer_parameter::ParameterChoice;
use diolkos_server::grpc::pb::model_infer_request::{InferInputTensor, InferRequestedOutputTensor};
use diolkos_server::grpc::pb::model_repository_parameter::ParameterChoice as LoadParameter;
use diolkos_server::grpc::pb::{
    CudaSharedMemoryStatusRequest, CudaSharedMemoryUnregisterRequest, InferParameter, ModelConfigRequest,
    ModelInferRequest, ModelMetadataRequest, ModelReadyRequest, ModelRepositoryParameter,
    ModelStatisticsRequest, RepositoryIndexRequest, RepositoryModelLoadRequest, RepositoryModelUnloadRequest,
    ServerLiveRequest, ServerMetadataRequest, ServerReadyRequest, SystemSharedMemoryRegisterRequest,
    SystemSharedMemoryStatusRequest, SystemSharedMemoryUnregisterRequest,
};
use hyper::body::Incoming;
use hyper::client::conn::http2::{self, SendRequest};
use hyper::{Request, Response, Uri};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tonic::body::Body;
use tonic::{Code, Status};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

use crate::doors::{Claims, Door};
use crate::rest::{REGION_BYTES, Victim};
use crate::world::{NOBODY, SECRET, Who, World, world};

/// An HTTP/2 connection that says of every call who sends it.
#[derive(Clone)]
pub(crate) struct Speaker {
    send: SendRequest<Body>,
    claims: Claims,
}

impl tower::Service<Request<Body>> for Speaker {
    type Response = Response<Incoming>;
    type Error = hyper::Error;
    type Future = std::pin::Pin<Box<dyn Future<Output = Result<Response<Incoming>, hyper::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), hyper::Error>> {
        self.send.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        for (name, value) in self.claims.headers() {
            request.headers_mut().insert(name, value.parse().unwrap());
        }
        Box::pin(self.send.send_request(request))
    }
}

pub(crate) async fn speaker(door: Door, world: &World, who: Who) -> Speaker {
    let connection = TokioIo::new(door.connect(world, who, "h2").await);
    let (send, connection) = http2::handshake(TokioExecutor::new(), connection).await.unwrap();
    tokio::spawn(connection);
    Speaker { send, claims: door.claims(world, who) }
}

type Client = GrpcInferenceServiceClient<Speaker>;

fn client(speaker: &Speaker) -> Client {
    GrpcInferenceServiceClient::with_origin(speaker.clone(), origin())
}

pub(crate) fn origin() -> Uri {
    Uri::from_static("http://diolkos")
}

/// What calls are answered, each under the name that it has in the protocol.
type Answers = Vec<(&'static str, Answer)>;
/// Code, and what it says or gives.
type Answer = (Code, String);

fn told<T: std::fmt::Debug>(result: Result<tonic::Response<T>, Status>) -> Answer {
    match result {
        Ok(given) => (Code::Ok, format!("{:?}", given.into_inner())),
        Err(status) => {
            // Their order in the map is random.
            let mut beside: Vec<String> = status
                .metadata()
                .clone()
                .into_headers()
                .iter()
                .filter(|(name, _)| *name != "date")
                .map(|(name, value)| format!("{name}: {value:?}"))
                .collect();
            beside.sort();
            (status.code(), format!("{} {beside:?}", status.message()))
        }
    }
}

fn infer(model: &str, version: &str, tensor: &str) -> ModelInferRequest {
    let input = InferInputTensor {
        name: tensor.into(),
        datatype: "UINT8".into(),
        shape: vec![2],
        ..InferInputTensor::default()
    };
    ModelInferRequest {
        model_name: model.into(),
        model_version: version.into(),
        inputs: vec![input],
        raw_input_contents: vec![Bytes::from_static(&[1, 2])],
        ..ModelInferRequest::default()
    }
}

/// `echo` of what lies in a region, or of something into it.
fn through_region(region: &str, out: bool) -> ModelInferRequest {
    let parameter = |choice| InferParameter { parameter_choice: Some(choice) };
    let lies = HashMap::from([
        ("shared_memory_region".into(), parameter(ParameterChoice::StringParam(region.into()))),
        ("shared_memory_byte_size".into(), parameter(ParameterChoice::Int64Param(REGION_BYTES as i64))),
    ]);
    let mut request = infer("echo", "", "data");
    if out {
        request.outputs = vec![InferRequestedOutputTensor { name: "data".into(), parameters: lies }];
    } else {
        request.raw_input_contents.clear();
        request.inputs[0].shape = vec![REGION_BYTES as i64];
        request.inputs[0].parameters = lies;
    }
    request
}

/// Every call that is about something with a name, about this one.
async fn calls(client: &mut Client, name: &str) -> Answers {
    let mut answers = Answers::new();
    let text = || name.to_owned();
    for version in ["", "1", "9", "x"] {
        let version = || version.to_owned();
        let metadata = ModelMetadataRequest { name: text(), version: version() };
        answers.push(("ModelMetadata", told(client.model_metadata(metadata).await)));
        let config = ModelConfigRequest { name: text(), version: version() };
        answers.push(("ModelConfig", told(client.model_config(config).await)));
        let statistics = ModelStatisticsRequest { name: text(), version: version() };
        answers.push(("ModelStatistics", told(client.model_statistics(statistics).await)));
        let ready = ModelReadyRequest { name: text(), version: version() };
        answers.push(("ModelReady", told(client.model_ready(ready).await)));
        for tensor in ["x", "nothing"] {
            answers.push(("ModelInfer", told(client.model_infer(infer(name, &version(), tensor)).await)));
        }
        answers.push(("ModelStreamInfer", streamed(client, infer(name, &version(), "x")).await));
    }
    for request in [through_region(name, false), through_region(name, true)] {
        answers.push(("ModelInfer", told(client.model_infer(request.clone()).await)));
        answers.push(("ModelStreamInfer", streamed(client, request).await));
    }
    for (key, parameter) in [
        ("", LoadParameter::BoolParam(true)),
        ("config", LoadParameter::StringParam(r#"{"backend":"null"}"#.into())),
        ("file:1/model.null", LoadParameter::BytesParam(Bytes::from_static(b"input x UINT8 [-1]\n"))),
        ("file:../../secret/1/model.null", LoadParameter::BytesParam(Bytes::from_static(b"x"))),
    ] {
        let parameter = ModelRepositoryParameter { parameter_choice: Some(parameter) };
        let parameters =
            if key.is_empty() { HashMap::new() } else { HashMap::from([(key.into(), parameter)]) };
        let load = RepositoryModelLoadRequest { model_name: text(), parameters, ..Default::default() };
        answers.push(("RepositoryModelLoad", told(client.repository_model_load(load).await)));
    }
    let unload = RepositoryModelUnloadRequest { model_name: text(), ..Default::default() };
    answers.push(("RepositoryModelUnload", told(client.repository_model_unload(unload).await)));
    let status = SystemSharedMemoryStatusRequest { name: text() };
    answers.push(("SystemSharedMemoryStatus", told(client.system_shared_memory_status(status).await)));
    for key in [text(), format!("../{name}"), format!("/dev/shm/{name}"), "/proc/self/fd/3".into()] {
        let register = SystemSharedMemoryRegisterRequest { name: text(), key, offset: 0, byte_size: 8 };
        answers
            .push(("SystemSharedMemoryRegister", told(client.system_shared_memory_register(register).await)));
    }
    let unregister = SystemSharedMemoryUnregisterRequest { name: text() };
    answers.push((
        "SystemSharedMemoryUnregister",
        told(client.system_shared_memory_unregister(unregister).await),
    ));
    let status = CudaSharedMemoryStatusRequest { name: text() };
    answers.push(("CudaSharedMemoryStatus", told(client.cuda_shared_memory_status(status).await)));
    let unregister = CudaSharedMemoryUnregisterRequest { name: text() };
    answers
        .push(("CudaSharedMemoryUnregister", told(client.cuda_shared_memory_unregister(unregister).await)));
    answers
}

/// The first answer of a stream with one request.
async fn streamed(client: &mut Client, request: ModelInferRequest) -> Answer {
    let mut answers = match client.model_stream_infer(tokio_stream::iter([request])).await {
        Ok(answers) => answers.into_inner(),
        Err(status) => return told::<()>(Err(status)),
    };
    match answers.message().await {
        Ok(Some(answer)) => (Code::Ok, answer.error_message),
        Ok(None) => (Code::Ok, "the end".into()),
        Err(status) => told::<()>(Err(status)),
    }
}

/// Every call that is about no name: what they tell is all of the caller's.
async fn lists(client: &mut Client) -> Answers {
    vec![
        ("ServerLive", told(client.server_live(ServerLiveRequest {}).await)),
        ("ServerReady", told(client.server_ready(ServerReadyRequest {}).await)),
        ("ServerMetadata", told(client.server_metadata(ServerMetadataRequest {}).await)),
        ("RepositoryIndex", told(client.repository_index(RepositoryIndexRequest::default()).await)),
        ("ModelStatistics", told(client.model_statistics(ModelStatisticsRequest::default()).await)),
        (
            "SystemSharedMemoryStatus",
            told(client.system_shared_memory_status(SystemSharedMemoryStatusRequest::default()).await),
        ),
        (
            "CudaSharedMemoryStatus",
            told(client.cuda_shared_memory_status(CudaSharedMemoryStatusRequest::default()).await),
        ),
        // All of *mine*.
        (
            "SystemSharedMemoryUnregister",
            told(
                client.system_shared_memory_unregister(SystemSharedMemoryUnregisterRequest::default()).await,
            ),
        ),
    ]
}

#[tokio::test]
async fn nothing_of_another_tenant_shows_in_grpc_and_nothing_changes() {
    for may_load in [true, false] {
        let world = world(may_load).await;
        let mut tried = Vec::new();
        for door in Door::all(&world) {
            let mut victim = Victim::settle(door, &world).await;
            let before = victim.sees().await;
            let speaker = speaker(door, &world, Who::Hostile).await;
            let mut hostile = client(&speaker);
            let about_nobody = calls(&mut hostile, NOBODY).await;
            let about_secret = calls(&mut hostile, SECRET).await;
            for ((call, (code, text)), (_, nobodys)) in about_secret.iter().zip(&about_nobody) {
                assert_eq!((*code, text.replace(SECRET, NOBODY)), *nobodys, "{door:?}: {call}");
                if *call == "ModelInfer" {
                    assert_ne!(*code, Code::Ok, "{door:?}: {text}");
                }
            }
            let listed = lists(&mut hostile).await;
            for (call, (_, text)) in &listed {
                assert!(!text.contains(SECRET), "{door:?}: {call}: {text}");
            }
            let mut health = HealthClient::with_origin(speaker, origin());
            let mut healthy = async |name: &str| {
                told(health.check(HealthCheckRequest { service: name.into() }).await).1.replace(name, NOBODY)
            };
            assert_eq!(healthy(SECRET).await, healthy(NOBODY).await, "{door:?}");
            assert_eq!(victim.sees().await, before, "{door:?}");
            victim.uses_and_leaves().await;
            assert_eq!(told(hostile.model_infer(infer("echo", "", "data")).await).0, Code::Ok, "{door:?}");
            tried.extend(about_secret.iter().chain(&listed).map(|(call, _)| *call));
        }
        let all = include_str!("../../proto/inference.proto").lines();
        let mut all = all.filter_map(|line| line.trim().strip_prefix("rpc ")?.split('(').next()).peekable();
        assert!(all.peek().is_some());
        assert!(all.all(|call| tried.contains(&call)), "a call of the protocol is not tried");
        world.daemon.shutdown().await;
    }
}

#[tokio::test]
async fn who_one_says_to_be_counts_for_nothing_in_grpc() {
    let world = world(false).await;
    for door in Door::all(&world).into_iter().filter(|door| *door != Door::Bridge) {
        let mut told_about = Vec::new();
        for name in [SECRET, NOBODY] {
            let mut speaker = speaker(door, &world, Who::Hostile).await;
            speaker.claims.tenant = Some(name.into());
            let request = ModelMetadataRequest { name: SECRET.into(), version: String::new() };
            told_about.push(told(client(&speaker).model_metadata(request).await));
        }
        assert_eq!(told_about[0].0, Code::PermissionDenied, "{door:?}: {told_about:?}");
        assert_eq!(told_about[0], told_about[1], "{door:?}");
    }
    world.daemon.shutdown().await;
}
