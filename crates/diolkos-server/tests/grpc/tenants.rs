// SPDX-License-Identifier: Apache-2.0
//! What a tenant's lease does not allow is, over gRPC as well, what does not exist.

use diolkos_server::grpc::pb::{
    ModelConfigRequest, ModelMetadataRequest, ModelReadyRequest, ModelStatisticsRequest,
    RepositoryIndexRequest, RepositoryModelLoadRequest, RepositoryModelUnloadRequest,
};
use tonic::{Code, Response, Status};

use crate::support::{Client, Fixture, named, raw, start};

async fn with_leases(leases: &str) -> Fixture {
    let us = rustix::process::geteuid().as_raw();
    start(&format!("models.client_load = true\n[tenants.a]\nuids = [{us}]\n{leases}")).await
}

fn refused<T: std::fmt::Debug>(result: Result<Response<T>, Status>) -> (Code, String) {
    let status = result.unwrap_err();
    (status.code(), status.message().to_owned())
}

#[tokio::test]
async fn over_its_rate_of_bytes_a_call_is_refused_and_a_stream_waits() {
    let leases = "bytes_rate = \"4KiB/s\"\nleases.all = { kind = \"compute\", operations = [\"echo\"] }\n";
    let fixture = with_leases(leases).await;
    let mut client = fixture.client().await;
    let large = || raw("echo", "UINT8", &[6 << 10], vec![7; 6 << 10]);
    let began = std::time::Instant::now();
    let (send, receive) = tokio::sync::mpsc::channel(1);
    let requests = tokio_stream::wrappers::ReceiverStream::new(receive);
    // What a stream claims of its length changes nothing.
    let mut requests = tonic::Request::new(requests);
    requests.metadata_mut().insert("content-length", "4611686018427387904".parse().unwrap());
    let mut answers = client.model_stream_infer(requests).await.unwrap().into_inner();
    for _ in 0..3 {
        send.send(large()).await.unwrap();
        let answer = answers.message().await.unwrap().unwrap();
        assert_eq!(answer.error_message, "");
    }
    // 18 KiB, of which the last 6 came when no more than a second's were owed.
    assert!(began.elapsed() > std::time::Duration::from_millis(1500), "{:?}", began.elapsed());
    let (code, text) = refused(client.model_infer(large()).await);
    assert!(code == Code::ResourceExhausted && text.contains("`bytes_rate`"), "{text}");
    fixture.end().await;
}

async fn all_calls(client: &mut Client, model: &str) -> Vec<(Code, String)> {
    let name = || model.to_owned();
    let mut answers = Vec::new();
    for version in ["", "1", "9"] {
        let version = || version.to_owned();
        answers.push(refused(
            client.model_metadata(ModelMetadataRequest { name: name(), version: version() }).await,
        ));
        answers.push(refused(
            client.model_config(ModelConfigRequest { name: name(), version: version() }).await,
        ));
        answers.push(refused(
            client.model_statistics(ModelStatisticsRequest { name: name(), version: version() }).await,
        ));
        let mut infer = named(model, "x");
        infer.model_version = version();
        answers.push(refused(client.model_infer(infer).await));
        // Readiness has no error for what is unknown.
        let ready = client.model_ready(ModelReadyRequest { name: name(), version: version() }).await;
        answers.push(match ready {
            Ok(ready) => (Code::Ok, ready.into_inner().ready.to_string()),
            Err(status) => (status.code(), status.message().to_owned()),
        });
    }
    let load = RepositoryModelLoadRequest { model_name: name(), ..RepositoryModelLoadRequest::default() };
    answers.push(refused(client.repository_model_load(load).await));
    let unload =
        RepositoryModelUnloadRequest { model_name: name(), ..RepositoryModelUnloadRequest::default() };
    answers.push(refused(client.repository_model_unload(unload).await));
    answers
}

#[tokio::test]
async fn what_is_not_leased_can_not_be_told_from_what_is_not_there() {
    for load in [false, true] {
        let fixture = with_leases(&format!(
            "load = {load}\nleases.all = {{ kind = \"compute\", operations = [\"echo\"], models = [\"m*\"] }}\n"
        ))
        .await;
        let mut client = fixture.client().await;
        let theirs = all_calls(&mut client, "gate").await;
        let nobodys = all_calls(&mut client, "nope").await;
        let renamed: Vec<(Code, String)> =
            theirs.into_iter().map(|(code, text)| (code, text.replace("gate", "nope"))).collect();
        assert_eq!(renamed, nobodys);
        let index = client.repository_index(RepositoryIndexRequest::default()).await.unwrap().into_inner();
        let names: Vec<String> = index.models.into_iter().map(|model| model.name).collect();
        assert_eq!(names, ["echo"]);
        let all = client.model_statistics(ModelStatisticsRequest::default()).await.unwrap().into_inner();
        assert!(all.model_stats.iter().all(|stats| stats.name == "echo"));
        client.model_infer(named("echo", "x")).await.unwrap();
        fixture.end().await;
    }
}

#[tokio::test]
async fn a_limit_is_an_exhausted_resource_with_the_time_to_wait() {
    let fixture = with_leases(
        "rate = \"1/h\"\nburst = 1\nleases.all = { kind = \"compute\", operations = [\"echo\"] }\n",
    )
    .await;
    let mut client = fixture.client().await;
    client.model_infer(named("echo", "x")).await.unwrap();
    let status = client.model_infer(named("echo", "x")).await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted);
    let wait: u64 =
        status.metadata().get("grpc-retry-pushback-ms").unwrap().to_str().unwrap().parse().unwrap();
    assert!((3_500_000..=3_600_000).contains(&wait), "{wait}");
    fixture.end().await;
}
