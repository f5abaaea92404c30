// SPDX-License-Identifier: Apache-2.0
//! Messages that are too large, too clever or compressed.

use diolkos_server::grpc::pb::ModelInferRequest;
use diolkos_server::grpc::pb::model_infer_request::InferInputTensor;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tonic::Code;
use tonic::codec::CompressionEncoding::{Deflate, Gzip};

use crate::support::{named, raw, start};

#[tokio::test]
async fn a_message_over_the_limit_is_refused_and_the_connection_stays() {
    let fixture = start("limits.body_bytes_max = \"64KiB\"").await;
    let mut client = fixture.client().await;
    let status = client.model_infer(raw("echo", "UINT8", &[70_000], vec![0; 70_000])).await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted);
    assert!(status.message().contains("65536 bytes"), "{status:?}");
    let reply =
        client.model_infer(raw("echo", "UINT8", &[60_000], vec![7; 60_000])).await.unwrap().into_inner();
    assert_eq!(reply.raw_output_contents[0][..], [7; 60_000]);
    fixture.end().await;
}

#[tokio::test]
async fn a_message_that_would_grow_is_refused() {
    let fixture = start("").await;
    let mut client = fixture.client().await;
    let inputs = vec![InferInputTensor::default(); 10_000];
    let status = client.model_infer(ModelInferRequest { inputs, ..named("echo", "x") }).await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted);
    assert!(status.message().contains("256 `inputs`"), "{status:?}");
    fixture.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_are_compressed_where_requests_were() {
    let fixture = start("").await;
    let payload = vec![5u8; 1 << 20];
    for encoding in [Gzip, Deflate] {
        let mut client = fixture
            .client()
            .await
            .send_compressed(encoding)
            .accept_compressed(encoding)
            .max_decoding_message_size(1 << 22);
        let reply = client.model_infer(raw("echo", "UINT8", &[1 << 20], payload.clone())).await.unwrap();
        let name = if encoding == Gzip { "gzip" } else { "deflate" };
        assert_eq!(reply.metadata().get("grpc-encoding").unwrap(), name);
        assert_eq!(reply.into_inner().raw_output_contents[0], payload);
    }
    // Every stock client says that it takes compressed answers.
    let mut client = fixture.client().await.accept_compressed(Gzip).max_decoding_message_size(1 << 22);
    let reply = client.model_infer(raw("echo", "UINT8", &[1 << 20], payload.clone())).await.unwrap();
    assert!(reply.metadata().get("grpc-encoding").is_none());
    assert_eq!(reply.into_inner().raw_output_contents[0], payload);
    fixture.end().await;
}

#[tokio::test]
async fn a_bomb_does_not_go_off() {
    let fixture = start("limits.body_bytes_max = \"64KiB\"").await;
    let mut client = fixture.client().await.send_compressed(Gzip);
    // A few kilobytes on the wire.
    let status = client.model_infer(raw("echo", "UINT8", &[1 << 22], vec![0; 1 << 22])).await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted);
    client.model_infer(named("echo", "fine")).await.unwrap();
    fixture.end().await;
}

#[tokio::test]
async fn a_large_message_comes_back_whole() {
    let fixture = start("").await;
    let mut client = fixture.client().await.max_decoding_message_size(1 << 26);
    let payload: Vec<u8> = (0..40u32 << 20).map(|at| (at ^ at >> 11) as u8).collect();
    let request = raw("echo", "UINT8", &[payload.len() as i64], payload.clone());
    let reply = client.model_infer(request).await.unwrap().into_inner();
    assert!(reply.raw_output_contents[0] == payload);
    fixture.end().await;
}

/// An HTTP/2 frame on stream `stream`.
fn frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    frame.extend([kind, flags, 0, 0, 0, stream]);
    frame.extend(payload);
    frame
}

/// Clients built on grpc-core name the socket's path as the authority, which h2 by itself refuses. hyper's
/// client can't be made to do so, hence the bytes.
#[tokio::test]
async fn a_path_is_taken_as_authority() {
    let fixture = start("").await;
    let field = |name: &str, value: &str| {
        [&[0x40, name.len() as u8], name.as_bytes(), &[value.len() as u8], value.as_bytes()].concat()
    };
    let head = [
        vec![0x83, 0x86],
        field(":path", "/inference.GRPCInferenceService/ServerLive"),
        field(":authority", "run%2Fdiolkos%2Fd.sock"),
        field("content-type", "application/grpc"),
        field("te", "trailers"),
    ];
    let mut socket = fixture.socket().await;
    let sent = [
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(),
        frame(4, 0, 0, &[]),
        frame(1, 4, 1, &head.concat()),
        frame(0, 1, 1, &[0; 5]),
    ];
    socket.write_all(&sent.concat()).await.unwrap();
    let mut kinds = Vec::new();
    // HEADERS, DATA and HEADERS on stream 1, among frames of the connection; or RST_STREAM.
    while kinds != [1, 0, 1] {
        let mut head = [0; 9];
        socket.read_exact(&mut head).await.unwrap();
        let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
        socket.read_exact(&mut payload).await.unwrap();
        if head[8] == 1 {
            assert_ne!(head[3], 3, "the stream was reset: {payload:?}");
            kinds.push(head[3]);
        }
        if kinds == [1, 0] && head[3] == 0 {
            assert_eq!(payload, [0, 0, 0, 0, 2, 8, 1], "live = true");
        }
    }
    // This client answers no ping, and the daemon would wait for it.
    drop(socket);
    fixture.end().await;
}
