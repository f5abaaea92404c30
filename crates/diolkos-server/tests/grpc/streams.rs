// SPDX-License-Identifier: Apache-2.0
//! `ModelStreamInfer`: order, errors in between, backpressure, and every way to end.

use diolkos_server::grpc::pb::infer_parameter::ParameterChoice;
use diolkos_server::grpc::pb::model_infer_request::InferInputTensor;
use diolkos_server::grpc::pb::{ModelInferRequest, ModelStatisticsRequest, ModelStreamInferResponse};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Streaming};

use crate::support::{Client, named, start};

/// Requests that may be in flight on one stream; see `grpc/limits.rs` of the server.
const STREAM_REQUESTS_MAX: usize = 32;

async fn open(client: &mut Client) -> (mpsc::Sender<ModelInferRequest>, Streaming<ModelStreamInferResponse>) {
    let (send, receive) = mpsc::channel(1);
    let answers = client.model_stream_infer(ReceiverStream::new(receive)).await.unwrap().into_inner();
    (send, answers)
}

fn id(answer: &ModelStreamInferResponse) -> &str {
    &answer.infer_response.as_ref().unwrap().id
}

#[tokio::test]
async fn answers_come_in_the_order_of_the_requests() {
    let fixture = start("").await;
    let mut client = fixture.client().await;
    let (send, mut answers) = open(&mut client).await;
    for number in 0..200 {
        let (answer, ()) = tokio::join!(
            async { if number >= 20 { answers.message().await.unwrap() } else { None } },
            async { send.send(named("echo", &format!("r{number}"))).await.unwrap() },
        );
        if let Some(answer) = answer {
            assert_eq!(id(&answer), format!("r{}", number - 20));
        }
    }
    drop(send);
    for number in 180..200 {
        let answer = answers.message().await.unwrap().unwrap();
        assert_eq!((id(&answer), &*answer.error_message), (&*format!("r{number}"), ""));
        let response = answer.infer_response.unwrap();
        assert_eq!(response.raw_output_contents[0], format!("r{number}"));
        let last = &response.parameters["triton_final_response"];
        assert_eq!(last.parameter_choice, Some(ParameterChoice::BoolParam(true)));
    }
    assert!(answers.message().await.unwrap().is_none());
    fixture.end().await;
}

#[tokio::test]
async fn a_request_that_fails_early_waits_for_its_turn() {
    let fixture = start("").await;
    let mut client = fixture.client().await;
    let (send, mut answers) = open(&mut client).await;
    send.send(named("gate", "slow")).await.unwrap();
    fixture.wait_for_arrivals(1).await;
    // This one fails at once, while the first one still runs.
    send.send(named("nobody", "wrong")).await.unwrap();
    send.send(named("echo", "fine")).await.unwrap();
    fixture.wait_for_jobs(2).await;
    fixture.gate.open();
    let slow = answers.message().await.unwrap().unwrap();
    assert_eq!((id(&slow), &*slow.error_message), ("slow", ""));
    let wrong = answers.message().await.unwrap().unwrap();
    assert_eq!(id(&wrong), "wrong");
    assert!(wrong.error_message.contains("unknown model `nobody`"), "{wrong:?}");
    assert!(wrong.infer_response.unwrap().outputs.is_empty());
    let fine = answers.message().await.unwrap().unwrap();
    assert_eq!((id(&fine), &*fine.error_message), ("fine", ""));
    fixture.end().await;
}

#[tokio::test]
async fn a_message_that_cannot_be_taken_ends_the_stream_after_the_others() {
    let fixture = start("limits.body_bytes_max = \"64KiB\"").await;
    let mut client = fixture.client().await;
    let too_many =
        ModelInferRequest { inputs: vec![InferInputTensor::default(); 300], ..named("echo", "many") };
    let too_large =
        ModelInferRequest { raw_input_contents: vec![vec![0; 70_000].into()], ..named("echo", "large") };
    for (bad, words) in [(too_many, "256 `inputs`"), (too_large, "65536 bytes")] {
        let (send, mut answers) = open(&mut client).await;
        send.send(named("echo", "before")).await.unwrap();
        send.send(bad).await.unwrap();
        assert_eq!(id(&answers.message().await.unwrap().unwrap()), "before");
        let status = answers.message().await.unwrap_err();
        assert_eq!(status.code(), Code::ResourceExhausted);
        assert!(status.message().contains(words), "{status:?}");
    }
    fixture.end().await;
}

#[tokio::test]
async fn no_more_is_read_than_fits() {
    let fixture = start("").await;
    let mut client = fixture.client().await;
    let (send, mut answers) = open(&mut client).await;
    let count = 3 * STREAM_REQUESTS_MAX;
    let sending = tokio::spawn(async move {
        for number in 0..count {
            send.send(named("gate", &number.to_string())).await.unwrap();
        }
    });
    fixture.wait_for_jobs(STREAM_REQUESTS_MAX).await;
    // All of them are small and were sent, or will be: what keeps the rest out is the stream.
    sending.await.unwrap();
    for _ in 0..1000 {
        assert!(fixture.daemon.engine().jobs() <= STREAM_REQUESTS_MAX);
        tokio::task::yield_now().await;
    }
    fixture.gate.open();
    for number in 0..count {
        assert_eq!(id(&answers.message().await.unwrap().unwrap()), number.to_string());
    }
    assert!(answers.message().await.unwrap().is_none());
    fixture.end().await;
}

#[tokio::test]
async fn dropping_the_stream_cancels_its_jobs() {
    let fixture = start("").await;
    let mut client = fixture.client().await;
    let (send, answers) = open(&mut client).await;
    for name in ["a", "b", "c"] {
        send.send(named("gate", name)).await.unwrap();
    }
    fixture.wait_for_jobs(3).await;
    fixture.wait_for_arrivals(1).await;
    drop((send, answers));
    // The one that runs can't be stopped; the two that wait never run.
    fixture.wait_for_jobs(1).await;
    fixture.gate.open();
    fixture.wait_for_jobs(0).await;
    let request = ModelStatisticsRequest { name: "gate".into(), ..Default::default() };
    let stats = client.model_statistics(request).await.unwrap().into_inner();
    assert_eq!(stats.model_stats[0].execution_count, 1);
    fixture.end().await;
}

#[tokio::test]
async fn a_stream_has_a_deadline_too() {
    let fixture = start("").await;
    let mut client = fixture.client().await;
    let (send, receive) = mpsc::channel(1);
    let mut request = tonic::Request::new(ReceiverStream::new(receive));
    request.metadata_mut().insert("grpc-timeout", "30m".parse().unwrap());
    let mut answers = client.model_stream_infer(request).await.unwrap().into_inner();
    send.send(named("gate", "held")).await.unwrap();
    assert_eq!(answers.message().await.unwrap_err().code(), Code::DeadlineExceeded);
    fixture.end().await;
}

#[tokio::test]
async fn draining_ends_a_stream_after_its_answers() {
    let fixture = start("").await;
    let mut client = fixture.client().await;
    let (send, mut answers) = open(&mut client).await;
    send.send(named("gate", "last")).await.unwrap();
    fixture.wait_for_arrivals(1).await;
    let gate = fixture.gate.clone();
    let ending = tokio::spawn(fixture.daemon.shutdown());
    gate.open();
    let answer = answers.message().await.unwrap().unwrap();
    assert_eq!(id(&answer), "last");
    let status = answers.message().await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    drop((send, client));
    ending.await.unwrap();
}
