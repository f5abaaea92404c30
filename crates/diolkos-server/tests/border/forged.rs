// SPDX-License-Identifier: Apache-2.0
//! Sizes that are lies, by every way in: each is refused or cut off, and nobody else notices.

use diolkos_types::{DataType, HandleId, Shape};
use diolkos_wire::{Extent, Header, Infer, Kind, Message, Part, Place, ResultPlace, TensorRef, encode_frame};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::doors::{Door, PATIENCE};
use crate::grpc::{origin, speaker};
use crate::http::Http;
use crate::native::Native;
use crate::rest::Victim;
use crate::world::{Who, World, world_with};

/// Heads and bodies of requests to `echo`, none of which can be right.
fn rest_lies() -> Vec<String> {
    let post = |headers: &str, body: &str| {
        format!("POST /v2/models/echo/infer HTTP/1.1\r\nHost: d\r\n{headers}\r\n\r\n{body}")
    };
    let binary = |size: &str, shape: &str| {
        let json = format!(
            r#"{{"inputs":[{{"name":"data","shape":{shape},"datatype":"UINT8","parameters":{{"binary_data_size":{size}}}}}]}}"#
        );
        let headers =
            format!("Inference-Header-Content-Length: {}\r\nContent-Length: {}", json.len(), json.len() + 4);
        post(&headers, &(json + "abcd"))
    };
    let json = |text: &str| post(&format!("Content-Length: {}", text.len()), text);
    vec![
        post("Content-Length: 18446744073709551615", ""),
        post("Content-Length: 9223372036854775807", ""),
        post("Content-Length: 99999999999999999999999", ""),
        post("Content-Length: -1", ""),
        post("Content-Length: 5\r\nContent-Length: 6", "hello"),
        post("Content-Length: 5\r\nTransfer-Encoding: chunked", "hello"),
        post("Transfer-Encoding: chunked", "ffffffffffffffff\r\nabc"),
        post("Inference-Header-Content-Length: 18446744073709551615\r\nContent-Length: 2", "{}"),
        post("Inference-Header-Content-Length: 3\r\nContent-Length: 2", "{}"),
        binary("18446744073709551615", "[4]"),
        binary("5", "[5]"),
        binary("3", "[3]"),
        binary("4", "[5]"),
        binary("4", "[9223372036854775807,9223372036854775807]"),
        binary("-4", "[4]"),
        json(r#"{"inputs":[{"name":"data","shape":[9223372036854775807,2],"datatype":"UINT8","data":[1]}]}"#),
        json(r#"{"inputs":[{"name":"data","shape":[-1],"datatype":"UINT8","data":[1]}]}"#),
        json(r#"{"inputs":[{"name":"data","shape":[2],"datatype":"UINT8","data":[1]}]}"#),
    ]
}

/// Bodies of `ModelInfer`, as gRPC frames.
fn grpc_lies() -> Vec<Vec<u8>> {
    let framed = |claimed: u32, message: &[u8]| [&[0][..], &claimed.to_be_bytes(), message].concat();
    let right = |message: &[u8]| framed(message.len() as u32, message);
    vec![
        framed(u32::MAX, b"abc"),
        framed(1 << 31, b""),
        framed(5, b"abc"),
        // A flag that means nothing.
        [&[7][..], &3u32.to_be_bytes(), b"abc"].concat(),
        // Fields whose length goes beyond the message, or has more than 64 bits.
        right(b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\x7f"),
        right(b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"),
        right(b"\x0a\x04echo\x3a\x05abc"),
        // `echo` with more raw inputs than inputs.
        right(b"\x0a\x04echo\x3a\x01a\x3a\x01b"),
    ]
}

/// Frames of the native channel; `echo` is a handle that is in order.
fn native_lies(echo: HandleId) -> Vec<Vec<u8>> {
    let header = |length: u32, kind: u16, payload: u64| {
        Header { length, kind, part: Part::Last, id: 77, payload }.encode().to_vec()
    };
    let infer = |shape: &[u64], place: Place| {
        let shape = Shape::new(shape).unwrap();
        let input = TensorRef { index: 0, data_type: DataType::Uint8, shape, place };
        let infer = Infer { inputs: vec![input], results: ResultPlace::Stream, ..Infer::new(echo) };
        encode_frame(77, Part::Last, &Message::Infer(infer)).unwrap()
    };
    let region = |offset: u64, length: u64| {
        // Nothing that is out of range can be encoded.
        let (offset_before, length_before) = (0x1122_3344_5566_7788u64, 2u64);
        let place = Extent { region: 0, offset: offset_before, length: length_before };
        let mut frame = infer(&[2], Place::Region(place));
        let extent = [offset_before.to_le_bytes(), length_before.to_le_bytes()].concat();
        let at = frame.windows(16).position(|window| window == extent).unwrap();
        frame[at..at + 16].copy_from_slice(&[offset.to_le_bytes(), length.to_le_bytes()].concat());
        frame
    };
    vec![
        header(u32::MAX, Kind::Infer.number(), 0),
        header(0, Kind::Infer.number(), u64::MAX),
        header(0, Kind::List.number(), 1 << 50),
        [header(2, Kind::Stats.number(), 0), vec![0xff, 0xff]].concat(),
        infer(&[5], Place::Stream { length: 0 }),
        infer(&[1 << 40, 1 << 40], Place::Stream { length: 0 }),
        region(u64::MAX, 2),
        region(u64::MAX - 1, u64::MAX),
        region(0, u64::MAX),
    ]
}

async fn lie_in_rest(door: Door, world: &World) {
    for lie in rest_lies() {
        let mut http = Http::connect(door, world, Who::Hostile).await;
        let headers = door.claims(world, Who::Hostile).headers();
        let claims: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        http.say(&lie.replacen("Host: d\r\n", &format!("Host: d\r\n{claims}"), 1)).await;
        // Answered, or cut off.
        let answer = tokio::time::timeout(PATIENCE, http.answer()).await;
        let answer = answer.unwrap_or_else(|_| panic!("{door:?}: {lie} is not answered"));
        assert!(answer.as_ref().is_none_or(|answer| answer.status >= 400), "{door:?}: {lie}: {answer:?}");
    }
}

async fn lie_in_grpc(door: Door, world: &World) {
    for lie in grpc_lies() {
        let mut speaker = speaker(door, world, Who::Hostile).await;
        let uri = format!("{}inference.GRPCInferenceService/ModelInfer", origin());
        let body = tonic::body::Body::new(http_body_util::Full::new(bytes::Bytes::from(lie.clone())));
        let request = hyper::Request::post(uri)
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(body)
            .unwrap();
        let Ok(reply) = tower::Service::call(&mut speaker, request).await else { continue };
        let (head, body) = reply.into_parts();
        let trailers =
            http_body_util::BodyExt::collect(body).await.ok().and_then(|all| all.trailers().cloned());
        let status =
            head.headers.get("grpc-status").cloned().or_else(|| trailers?.get("grpc-status").cloned());
        assert!(status.is_some_and(|status| status != "0"), "{door:?}: {lie:?}");
    }
}

async fn lie_in_native(door: Door, world: &World) {
    let count = native_lies(HandleId { slot: 0, generation: 0 }).len();
    for number in 0..count {
        let mut native = Native::connect(door, world, Who::Hostile).await;
        let echo = native.open("echo").await;
        let lie = native_lies(echo).swap_remove(number);
        native.connection.write_all(&lie).await.unwrap();
        native.connection.flush().await.unwrap();
        // Answered or cut off.
        let mut head = [0; diolkos_wire::HEADER_BYTES];
        let reading = native.connection.read_exact(&mut head);
        let read = tokio::time::timeout(PATIENCE, reading).await;
        if read.unwrap_or_else(|_| panic!("{door:?}: {lie:?} is not answered")).is_ok() {
            let kind = u16::from_le_bytes([head[4], head[5]]);
            let over = [Kind::Failed.number(), Kind::Goodbye.number()];
            assert!(over.contains(&kind), "{door:?}: {lie:?} is answered by {kind:#x}");
        }
    }
}

#[tokio::test]
async fn forged_sizes_change_nothing_for_others() {
    // Some lies announce what never comes, and are cut off when it is late.
    let world = world_with(true, "limits.body_timeout = \"500ms\"").await;
    for door in Door::all(&world) {
        let mut victim = Victim::settle(door, &world).await;
        let before = victim.sees().await;
        lie_in_rest(door, &world).await;
        lie_in_grpc(door, &world).await;
        lie_in_native(door, &world).await;
        assert_eq!(victim.sees().await, before, "{door:?}");
        victim.uses_and_leaves().await;
    }
    assert_eq!(world.daemon.engine().jobs(), 0);
    world.daemon.shutdown().await;
}
