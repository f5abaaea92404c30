// SPDX-License-Identifier: Apache-2.0
//! Everything but inference: health, metadata, configuration, statistics, repository, and what is not there.

use diolkos_server::grpc::pb::model_version_policy::PolicyChoice;
use diolkos_server::grpc::pb::{
    ModelConfigRequest, ModelMetadataRequest, ModelReadyRequest, ModelStatisticsRequest,
    RepositoryIndexRequest, RepositoryModelLoadRequest, RepositoryModelUnloadRequest, ServerLiveRequest,
    ServerMetadataRequest, ServerReadyRequest,
};
use tonic::Code;
use tonic::client::Grpc;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use crate::support::{named, origin, start};

#[tokio::test]
async fn live_ready_and_what_it_is() {
    let fixture = start("").await;
    let mut client = fixture.client().await;
    assert!(client.server_live(ServerLiveRequest {}).await.unwrap().into_inner().live);
    assert!(client.server_ready(ServerReadyRequest {}).await.unwrap().into_inner().ready);
    let ready = |name: &str| ModelReadyRequest { name: name.into(), version: String::new() };
    assert!(client.model_ready(ready("echo")).await.unwrap().into_inner().ready);
    assert!(!client.model_ready(ready("nobody")).await.unwrap().into_inner().ready);
    let metadata = client.server_metadata(ServerMetadataRequest {}).await.unwrap().into_inner();
    assert_eq!(metadata.name, "diolkos");
    assert!(metadata.extensions.contains(&"statistics".to_owned()));
    assert!(metadata.extensions.contains(&"system_shared_memory".to_owned()));
    assert!(!metadata.extensions.contains(&"cuda_shared_memory".to_owned()));
    fixture.end().await;
}

#[tokio::test]
async fn metadata_and_configuration_agree() {
    let fixture = start("").await;
    let mut client = fixture.client().await;
    let request = ModelMetadataRequest { name: "minmax".into(), version: "1".into() };
    let metadata = client.model_metadata(request).await.unwrap().into_inner();
    assert_eq!((&*metadata.name, &*metadata.versions), ("minmax", &["1".to_owned()][..]));
    let names: Vec<&str> = metadata.outputs.iter().map(|output| &*output.name).collect();
    assert_eq!(names, ["min", "max"]);
    assert_eq!((&*metadata.inputs[0].datatype, &metadata.inputs[0].shape[..]), ("FP32", &[-1][..]));
    let request = ModelConfigRequest { name: "minmax".into(), version: String::new() };
    let config = client.model_config(request).await.unwrap().into_inner().config.unwrap();
    assert_eq!((&*config.name, &*config.backend, config.max_batch_size), ("minmax", "builtin", 0));
    assert_eq!(config.platform, metadata.platform);
    assert_eq!(config.input[0].data_type().as_str_name(), "TYPE_FP32");
    assert_eq!(config.output.len(), 2);
    assert!(matches!(config.version_policy.unwrap().policy_choice, Some(PolicyChoice::Latest(_))));
    let missing = ModelConfigRequest { name: "nobody".into(), version: String::new() };
    assert_eq!(client.model_config(missing).await.unwrap_err().code(), Code::NotFound);
    fixture.end().await;
}

#[tokio::test]
async fn counters_move() {
    let fixture = start("").await;
    let mut client = fixture.client().await;
    for _ in 0..3 {
        client.model_infer(named("echo", "x")).await.unwrap();
    }
    let mut wrong = named("echo", "x");
    wrong.inputs[0].shape = vec![9];
    client.model_infer(wrong).await.unwrap_err();
    let request = ModelStatisticsRequest { name: "echo".into(), version: String::new() };
    let stats = client.model_statistics(request).await.unwrap().into_inner().model_stats;
    assert_eq!(stats.len(), 1);
    assert_eq!((&*stats[0].name, &*stats[0].version), ("echo", "1"));
    assert_eq!((stats[0].inference_count, stats[0].execution_count), (3, 3));
    assert!(stats[0].last_inference > 0);
    let times = stats[0].inference_stats.unwrap();
    assert_eq!(
        (times.success.unwrap().count, times.fail.unwrap().count, times.queue.unwrap().count),
        (3, 1, 3)
    );
    assert!(times.success.unwrap().ns > 0);
    let all =
        client.model_statistics(ModelStatisticsRequest::default()).await.unwrap().into_inner().model_stats;
    assert!(all.len() >= 5);
    let missing = ModelStatisticsRequest { name: "nobody".into(), version: String::new() };
    assert_eq!(client.model_statistics(missing).await.unwrap_err().code(), Code::NotFound);
    fixture.end().await;
}

#[tokio::test]
async fn the_index_lists_and_clients_do_not_load_unless_allowed() {
    let fixture = start("").await;
    let mut client = fixture.client().await;
    let models =
        client.repository_index(RepositoryIndexRequest::default()).await.unwrap().into_inner().models;
    let echo = models.iter().find(|model| model.name == "echo").unwrap();
    assert_eq!((&*echo.version, &*echo.state), ("1", "READY"));
    let load = RepositoryModelLoadRequest { model_name: "echo".into(), ..Default::default() };
    let status = client.repository_model_load(load.clone()).await.unwrap_err();
    assert_eq!(status.code(), Code::PermissionDenied);
    assert!(status.message().contains("models.client_load"), "{status:?}");
    let unload = RepositoryModelUnloadRequest { model_name: "echo".into(), ..Default::default() };
    assert_eq!(
        client.repository_model_unload(unload.clone()).await.unwrap_err().code(),
        Code::PermissionDenied
    );
    fixture.end().await;
    let fixture = start("models.client_load = true").await;
    let mut client = fixture.client().await;
    let missing = RepositoryModelLoadRequest { model_name: "nobody".into(), ..Default::default() };
    assert_eq!(client.repository_model_load(missing).await.unwrap_err().code(), Code::NotFound);
    fixture.end().await;
}

#[tokio::test]
async fn what_is_not_offered_says_so() {
    let fixture = start("").await;
    let paths = [
        ("/inference.GRPCInferenceService/CudaSharedMemoryRegister", "cuda_shared_memory"),
        ("/inference.GRPCInferenceService/TraceSetting", "trace"),
        ("/inference.GRPCInferenceService/LogSettings", "logging"),
        ("/inference.GRPCInferenceService/Frobnicate", "Frobnicate"),
        ("/someone.Else/Call", "someone.Else"),
    ];
    for (path, word) in paths {
        let mut grpc = Grpc::with_origin(fixture.connect().await, origin());
        grpc.ready().await.unwrap();
        let codec = tonic_prost::ProstCodec::<ServerLiveRequest, ServerLiveRequest>::default();
        let request = tonic::Request::new(ServerLiveRequest {});
        let status = grpc.unary(request, path.parse().unwrap(), codec).await.unwrap_err();
        assert_eq!(status.code(), Code::Unimplemented, "{path}");
        assert!(status.message().contains(word), "{status:?}");
    }
    fixture.end().await;
}

#[tokio::test]
async fn health_is_checked_and_watched() {
    let fixture = start("").await;
    let mut health = HealthClient::with_origin(fixture.connect().await, origin());
    let ask = |service: &str| HealthCheckRequest { service: service.into() };
    for service in ["", "inference.GRPCInferenceService"] {
        let answer = health.check(ask(service)).await.unwrap().into_inner();
        assert_eq!(answer.status(), ServingStatus::Serving);
    }
    assert_eq!(health.check(ask("nobody")).await.unwrap_err().code(), Code::NotFound);
    let mut unknown = health.watch(ask("nobody")).await.unwrap().into_inner();
    assert_eq!(unknown.message().await.unwrap().unwrap().status(), ServingStatus::ServiceUnknown);
    let mut watch = health.watch(ask("")).await.unwrap().into_inner();
    assert_eq!(watch.message().await.unwrap().unwrap().status(), ServingStatus::Serving);
    let ending = tokio::spawn(fixture.daemon.shutdown());
    assert_eq!(watch.message().await.unwrap().unwrap().status(), ServingStatus::NotServing);
    assert!(watch.message().await.unwrap().is_none(), "a watch must not keep the daemon from ending");
    drop((watch, unknown, health));
    ending.await.unwrap();
}
