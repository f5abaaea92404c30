// SPDX-License-Identifier: Apache-2.0
//! What a caller is told of its jobs, in the metadata of answers and errors.

use diolkos_server::grpc::pb::ModelInferRequest;
use diolkos_server::grpc::pb::infer_parameter::ParameterChoice;
use tonic::codec::CompressionEncoding::Gzip;
use tonic::metadata::MetadataMap;
use tonic::{Code, Request};

use crate::support::{named, parameter, start};

fn asking(message: ModelInferRequest) -> Request<ModelInferRequest> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("x-diolkos-explain", "1".parse().unwrap());
    request
}

fn told(metadata: &MetadataMap) -> Option<&str> {
    metadata.get("x-diolkos-schedule").map(|value| value.to_str().unwrap())
}

#[tokio::test]
async fn whoever_asks_is_told_what_was_done_with_its_job() {
    let fixture = start("").await;
    let mut client = fixture.client().await;
    let silent = client.model_infer(named("echo", "x")).await.unwrap();
    assert_eq!(told(silent.metadata()), None);
    // Compressed answers come from tonic, and others do not.
    for mut client in [client, fixture.client().await.accept_compressed(Gzip)] {
        let answer = client.model_infer(asking(named("echo", "x"))).await.unwrap();
        let told = told(answer.metadata()).expect("it was asked for");
        assert!(told.starts_with("job=") && told.contains(";waited_for=nothing;"), "{told}");
        assert_eq!(answer.get_ref().id, "x");
    }
    fixture.end().await;
}

#[tokio::test]
async fn an_error_says_it_too() {
    let fixture = start("").await;
    let mut client = fixture.client().await;
    let mut runs = client.clone();
    let runs = tokio::spawn(async move { runs.model_infer(named("gate", "x")).await });
    fixture.wait_for_arrivals(1).await;
    let mut message = named("echo", "z");
    let timeout = ParameterChoice::Int64Param(2000);
    message.parameters.insert("timeout".into(), parameter(timeout));
    let status = client.model_infer(asking(message)).await.unwrap_err();
    assert_eq!(status.code(), Code::DeadlineExceeded, "{status:?}");
    let told = told(status.metadata()).expect("it was asked for");
    assert!(told.contains(";waited_for=slots;") && told.ends_with(";device=0;together=0"), "{told}");
    fixture.gate.open();
    runs.await.unwrap().unwrap();
    fixture.end().await;
}
