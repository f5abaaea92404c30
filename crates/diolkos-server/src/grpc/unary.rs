// SPDX-License-Identifier: Apache-2.0
//! `ModelInfer`, uncompressed: the call that carries tensors, answered without copying them.
//!
//! tonic encodes an answer into one buffer, payloads included. Here only what stands in front of a payload
//! is written, and the payload follows as the pieces that it lies in, but for what fills the first frame up:
//!
//! ```text
//! flags 0 │ length │ fields 1–5 │ tag 6, length │ payload │ tag 6, length │ payload │ …   then trailers
//! ╰──────────── one chunk ─────────────────────╯ ╰chunks─╯ ╰───── chunk ──╯ ╰chunks─╯
//! ```
//!
//! Everything else about the call is tonic's: how the request is gathered, bounded and decoded.

use axum::body::Body;
use axum::http::{HeaderMap, HeaderValue, Request, Response, header};
use bytes::{BufMut as _, Bytes, BytesMut};
use prost::Message as _;
use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint, key_len};
use tonic::codec::{Codec as _, Streaming};
use tonic::{Code, Status};

use super::codec::BoundedCodec;
use super::deadline::CallDeadline;
use super::dispatch::GRPC_STATUS;
use super::pb::{ModelInferRequest, ModelInferResponse};
use super::stream::infer_one;
use super::{error, response};
use crate::chunks::Chunks;
use crate::oip::{InferReply, schedule};
use crate::sessions::ConnectionContext;

/// The call's path.
pub(super) const PATH: &str = "/inference.GRPCInferenceService/ModelInfer";

/// Flags and length in front of a message.
const PREFIX_BYTES: usize = 5;
/// Payloads up to this size are copied behind what stands in front of them: a chunk of its own costs a frame.
const COPIED_BYTES_MAX: usize = 4096;
/// A frame as large as every client takes (RFC 9113, SETTINGS_MAX_FRAME_SIZE). What is in front of a payload is filled up
/// to it, because a frame of a hundred bytes goes out by itself, and costs the client a wake-up.
const FRAME_BYTES: usize = 16_384;
/// The field number of `raw_output_contents`, the last of the answer's.
const PAYLOAD_FIELD: u32 = 6;

const GRPC: HeaderValue = HeaderValue::from_static("application/grpc");
const STATUS_OK: HeaderValue = HeaderValue::from_static("0");

/// Answers one call; `limit` bounds the request in bytes.
pub(super) async fn model_infer(request: Request<Body>, limit: usize) -> Response<Body> {
    match infer(request, limit).await {
        Ok(response) => response,
        Err(status) => status.into_http(),
    }
}

async fn infer(request: Request<Body>, limit: usize) -> Result<Response<Body>, Status> {
    let (parts, body) = request.into_parts();
    let context = parts.extensions.get::<ConnectionContext>();
    let session = context
        .map(|context| context.session.clone())
        .ok_or_else(|| Status::internal("the connection has no session"))?;
    let deadline = parts.extensions.get::<CallDeadline>().copied();

    let decoder = BoundedCodec::<ModelInferResponse, ModelInferRequest>::default().decoder();
    let mut messages = Streaming::new_request(decoder, body, None, Some(limit));
    let message =
        messages.message().await?.ok_or_else(|| Status::invalid_argument("the call has no message"))?;
    // Reads to the end: a client that sends more than it should has sent it before it is answered.
    messages.trailers().await?;

    let explain = schedule::is_wanted(&parts.headers);
    let reply = infer_one(&session, message, deadline).await;
    let reply = reply.map_err(|failed| error::of_failed(&failed, explain))?;
    let told = explain.then(|| schedule::value(&reply.told));
    let chunks = encode(reply)?;
    let trailers = HeaderMap::from_iter([(GRPC_STATUS, STATUS_OK)]);
    let mut response = Response::new(Body::new(Chunks::new(chunks).with_trailers(trailers)));
    response.headers_mut().insert(header::CONTENT_TYPE, GRPC);
    if let Some(told) = told {
        response.headers_mut().insert(schedule::SCHEDULE, told);
    }
    Ok(response)
}

/// The answer as it goes over the wire, prefix included.
fn encode(reply: InferReply) -> Result<Vec<Bytes>, Status> {
    let (head, payloads) = response::to_parts(reply);
    let head_bytes = head.encoded_len();
    let payload_bytes: usize = payloads.iter().map(|payload| framed_len(payload.len())).sum();
    let message_bytes = u32::try_from(head_bytes + payload_bytes).map_err(|_| {
        Status::new(Code::ResourceExhausted, "the outputs are larger than a gRPC message can be (4 GiB)")
    })?;

    let mut chunks = Vec::with_capacity(2 * payloads.len() + 1);
    let mut front = BytesMut::with_capacity((PREFIX_BYTES + head_bytes + payload_bytes).min(FRAME_BYTES));
    front.put_u8(0);
    front.put_u32(message_bytes);
    head.encode(&mut front)
        .map_err(|error| Status::internal(format!("the answer can't be encoded: {error}")))?;
    for payload in payloads {
        encode_key(PAYLOAD_FIELD, WireType::LengthDelimited, &mut front);
        encode_varint(payload.len() as u64, &mut front);
        for piece in payload.to_private_pieces() {
            if piece.len() <= COPIED_BYTES_MAX {
                front.extend_from_slice(&piece);
                continue;
            }
            let copied = FRAME_BYTES.saturating_sub(front.len()).min(piece.len());
            front.extend_from_slice(&piece[..copied]);
            chunks.push(front.split().freeze());
            chunks.push(piece.slice(copied..));
        }
    }
    chunks.push(front.freeze());
    Ok(chunks)
}

/// Bytes of a payload of this many bytes with its tag and length.
fn framed_len(payload: usize) -> usize {
    key_len(PAYLOAD_FIELD) + encoded_len_varint(payload as u64) + payload
}

#[cfg(test)]
mod tests {
    use diolkos_backend::Buffer;
    use diolkos_engine::Timing;
    use diolkos_types::{DataType, JobId, Shape};
    use proptest::prelude::*;

    use super::*;
    use crate::oip::ReplyTensor;
    use crate::system_memory::Place;

    fn reply(payloads: &[Vec<u8>]) -> InferReply {
        let outputs = payloads.iter().enumerate().map(|(index, payload)| ReplyTensor {
            name: format!("output {index}").into(),
            data_type: DataType::Uint8,
            shape: Shape::new(&[payload.len() as u64]).unwrap(),
            data: Buffer::from(payload.clone()),
            place: None,
        });
        InferReply {
            model: "m".into(),
            version: 7,
            id: "request".into(),
            outputs: outputs.collect(),
            timing: Timing::default(),
            told: (JobId(1), diolkos_engine::Scheduled::default()),
        }
    }

    proptest! {
        /// What tonic would have written.
        #[test]
        fn the_same_bytes_as_prost(payloads in prop::collection::vec(prop_oneof![Just(0usize), 1usize..300, 4000usize..40_000], 0..4)) {
            let payloads: Vec<Vec<u8>> = payloads.iter().map(|&length| (0..length).map(|at| at as u8).collect()).collect();
            let chunks = encode(reply(&payloads)).unwrap();
            let message = response::to_response(reply(&payloads)).encode_to_vec();
            let mut expected = vec![0];
            expected.extend((message.len() as u32).to_be_bytes());
            expected.extend(message);
            prop_assert_eq!(chunks.concat(), expected);
        }
    }

    /// An empty entry stands for what is in a region, and the place among the parameters.
    #[test]
    fn entries_keep_their_numbers() {
        let place = |offset| Some(Place { region: "r".into(), offset, bytes: 5 });
        let mut reply = reply(&[vec![1], Vec::new(), vec![3]]);
        reply.outputs[1].place = place(64);
        let chunks = encode(reply).unwrap();
        let message = ModelInferResponse::decode(&chunks.concat()[PREFIX_BYTES..]).unwrap();
        assert_eq!(message.raw_output_contents, [&[1][..], &[], &[3]]);
        let texts: Vec<_> = message.outputs[1]
            .parameters
            .iter()
            .map(|(name, value)| (&name[..], format!("{:?}", value.parameter_choice.as_ref().unwrap())))
            .collect();
        for expected in [
            ("shared_memory_region", "StringParam(\"r\")"),
            ("shared_memory_offset", "Int64Param(64)"),
            ("shared_memory_byte_size", "Int64Param(5)"),
        ] {
            assert!(texts.contains(&(expected.0, expected.1.to_owned())), "{texts:?}");
        }
        assert!(message.outputs[0].parameters.is_empty());
    }

    #[test]
    fn large_payloads_are_not_copied() {
        let payload = Bytes::from(vec![3; 4 * FRAME_BYTES]);
        let at = payload.as_ptr_range();
        let mut reply = reply(&[Vec::new()]);
        reply.outputs[0].data = payload.into();
        let chunks = encode(reply).unwrap();
        let shared: usize = chunks.iter().filter(|chunk| at.contains(&chunk.as_ptr())).map(Bytes::len).sum();
        assert!((3 * FRAME_BYTES..4 * FRAME_BYTES).contains(&shared), "{shared} bytes are as they were");
        assert_eq!(chunks[0].len(), FRAME_BYTES);
    }
}
