// SPDX-License-Identifier: Apache-2.0
//! Streams that send half a message, or nothing at all.

use std::convert::Infallible;

use bytes::Bytes;
use diolkos_server::grpc::pb::{ModelInferRequest, ModelStreamInferResponse};
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::{Frame, Incoming};
use prost::Message as _;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::body::Body;
use tonic::{Code, Streaming};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;
use tower::Service as _;

use crate::support::{Client, Connection, Fixture, named, origin, start};

type Sender = mpsc::Sender<Result<Frame<Bytes>, Infallible>>;

/// Opens a stream whose bytes the test chooses.
async fn open_raw(fixture: &Fixture) -> (Sender, hyper::Response<Incoming>, Connection) {
    let (send, receive) = mpsc::channel(1);
    let request = hyper::Request::post("http://d/inference.GRPCInferenceService/ModelStreamInfer")
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(Body::new(StreamBody::new(ReceiverStream::new(receive))))
        .unwrap();
    let mut connection = fixture.connect().await;
    let reply = connection.call(request).await.unwrap();
    (send, reply, connection)
}

/// A whole message, framed.
fn framed(message: &ModelInferRequest) -> Vec<u8> {
    let mut bytes = vec![0];
    bytes.extend(u32::try_from(message.encoded_len()).unwrap().to_be_bytes());
    bytes.extend(message.encode_to_vec());
    bytes
}

/// The beginning of a message of a megabyte, so many bytes of it.
fn half(length: usize) -> Vec<u8> {
    let mut bytes = vec![0];
    bytes.extend((1u32 << 20).to_be_bytes());
    bytes.resize(length, 1);
    bytes
}

async fn send(sender: &Sender, bytes: Vec<u8>) {
    sender.send(Ok(Frame::data(bytes.into()))).await.unwrap();
}

/// The status that the stream ends with.
async fn status(mut reply: hyper::Response<Incoming>) -> String {
    loop {
        let frame = reply.body_mut().frame().await.expect("a stream ends with trailers").unwrap();
        if let Some(trailers) = frame.trailers_ref() {
            return trailers["grpc-status"].to_str().unwrap().to_owned();
        }
    }
}

#[tokio::test]
async fn half_a_message_is_charged_and_whole_ones_are_not() {
    let settings = "[limits]\nrequest_memory_max = \"128KiB\"\nrequests_memory_max = \"128KiB\"\n";
    let fixture = start(settings).await;
    let (sender, mut reply, _connection) = open_raw(&fixture).await;
    // More than the budget in all, and each message is gone before the next one comes.
    for _ in 0..40 {
        let message = named("echo", &"x".repeat(10_000));
        send(&sender, framed(&message)).await;
        reply.body_mut().frame().await.unwrap().unwrap();
    }
    send(&sender, half(200_000)).await;
    assert_eq!(status(reply).await, (Code::ResourceExhausted as i32).to_string());
    fixture.end().await;
}

#[tokio::test]
async fn half_a_message_must_go_on() {
    let fixture = start("limits.body_timeout = \"100ms\"").await;
    for bytes in [half(3), half(100)] {
        let (sender, mut reply, _connection) = open_raw(&fixture).await;
        // A message and half of the next one in one go.
        send(&sender, [framed(&named("echo", "whole")), bytes].concat()).await;
        reply.body_mut().frame().await.unwrap().unwrap();
        assert_eq!(status(reply).await, (Code::DeadlineExceeded as i32).to_string());
    }
    fixture.end().await;
}

async fn open(client: &mut Client) -> (mpsc::Sender<ModelInferRequest>, Streaming<ModelStreamInferResponse>) {
    let (send, receive) = mpsc::channel(1);
    let answers = client.model_stream_infer(ReceiverStream::new(receive)).await.unwrap().into_inner();
    (send, answers)
}

#[tokio::test]
async fn a_silent_stream_makes_room_and_a_working_one_does_not() {
    let fixture = start("limits.connections_max = 2").await;
    let mut silent = fixture.client().await;
    let (_sender, mut silent_answers) = open(&mut silent).await;
    let mut working = fixture.client().await;
    let (sender, mut answers) = open(&mut working).await;
    sender.send(named("gate", "held")).await.unwrap();
    fixture.wait_for_arrivals(1).await;
    let mut newcomer = fixture.client().await;
    let live = diolkos_server::grpc::pb::ServerLiveRequest::default();
    assert!(newcomer.server_live(live).await.unwrap().into_inner().live);
    assert!(silent_answers.message().await.is_err(), "its connection closes");
    fixture.gate.open();
    assert!(answers.message().await.unwrap().is_some());
    fixture.end().await;
}

#[tokio::test]
async fn streams_between_messages_time_out() {
    let fixture = start("limits.idle_timeout = \"150ms\"").await;
    let mut client = fixture.client().await;
    let (sender, mut answers) = open(&mut client).await;
    sender.send(named("echo", "one")).await.unwrap();
    assert!(answers.message().await.unwrap().is_some());
    assert!(answers.message().await.is_err(), "its connection closes");
    let mut watcher = HealthClient::with_origin(fixture.connect().await, origin());
    let mut states = watcher.watch(HealthCheckRequest::default()).await.unwrap().into_inner();
    assert!(states.message().await.unwrap().is_some());
    assert!(states.message().await.is_err(), "its connection closes");
    fixture.end().await;
}
