// SPDX-License-Identifier: Apache-2.0
//! Tests of taking a body in: size, time, memory, and packed bodies.

use std::convert::Infallible;
use std::io::Write as _;

use flate2::Compression;
use flate2::write::{DeflateEncoder, GzEncoder, ZlibEncoder};
use proptest::prelude::*;
use tokio_stream::{Stream, StreamExt as _};

use super::*;

const BYTES_MAX: u64 = 1000;

fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
    pairs
        .iter()
        .map(|(name, value)| (header::HeaderName::from_static(name), value.parse().unwrap()))
        .collect()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn zlib(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn bare_deflate(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = DeflateEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn body_of(stream: impl Stream<Item = Bytes> + Send + 'static) -> Body {
    Body::from_stream(stream.map(Ok::<_, Infallible>))
}

async fn collect(headers: &HeaderMap, body: Body) -> Result<Rope, HttpError> {
    Ok(Packed::receive(headers, body, BYTES_MAX).await?.unpack()?)
}

async fn status_of(headers: &HeaderMap, body: Body) -> (u16, String) {
    let error = collect(headers, body).await.unwrap_err();
    let (status, message, _) = error.into_parts();
    (status.as_u16(), message)
}

#[tokio::test]
async fn the_declared_length_is_refused_before_a_byte_is_read() {
    let never = body_of(tokio_stream::pending());
    let (status, message) = status_of(&headers(&[("content-length", "1001")]), never).await;
    assert_eq!(status, 413);
    assert!(message.contains("1000 bytes"), "{message}");
}

#[tokio::test]
async fn a_body_without_a_length_is_cut_at_the_limit() {
    let endless = tokio_stream::iter(std::iter::repeat(Bytes::from_static(&[0; 100])));
    assert_eq!(status_of(&HeaderMap::new(), body_of(endless)).await.0, 413);
    let exact = collect(&HeaderMap::new(), Body::from(vec![1; 1000])).await.unwrap();
    assert_eq!(exact.len(), 1000);
}

#[tokio::test]
async fn packed_bodies_are_unpacked() {
    let text = b"some text, some text, some text".repeat(20);
    for (name, packed) in [
        ("gzip", gzip(&text)),
        ("deflate", zlib(&text)),
        ("deflate", bare_deflate(&text)),
        ("GZIP", gzip(&text)),
    ] {
        let headers = headers(&[("content-encoding", name)]);
        let rope = collect(&headers, Body::from(packed)).await.unwrap();
        assert_eq!(rope.into_bytes(), text, "{name}");
    }
}

#[tokio::test]
async fn bombs_and_damage_are_refused() {
    let bomb = vec![0; 100_000];
    for (name, packed) in [("gzip", gzip(&bomb)), ("deflate", zlib(&bomb)), ("deflate", bare_deflate(&bomb))]
    {
        assert!(packed.len() < 1000);
        let (status, message) = status_of(&headers(&[("content-encoding", name)]), Body::from(packed)).await;
        assert_eq!(status, 413, "{name}");
        assert!(message.contains("unpacks to more than 1000"), "{message}");
    }
    let mut cut = gzip(b"hello hello hello");
    cut.truncate(cut.len() - 4);
    assert_eq!(status_of(&headers(&[("content-encoding", "gzip")]), Body::from(cut)).await.0, 400);
    assert_eq!(status_of(&headers(&[("content-encoding", "gzip")]), Body::from("not gzip")).await.0, 400);
    assert_eq!(status_of(&headers(&[("content-encoding", "br")]), Body::from("x")).await.0, 415);
    assert_eq!(status_of(&headers(&[("content-encoding", "gzip, gzip")]), Body::from("x")).await.0, 415);
}

proptest! {
    #[test]
    fn unpacking_never_panics_and_never_exceeds_the_limit(bytes in proptest::collection::vec(any::<u8>(), 0..400), limit in 0u64..300) {
        for encoding in [Encoding::Gzip, Encoding::Deflate] {
            if let Ok(rope) = unpack(encoding, Bytes::from(bytes.clone()).into(), limit) {
                prop_assert!(rope.len() as u64 <= limit);
            }
        }
        let packed = Bytes::from(gzip(&bytes));
        let unpacked = unpack(Encoding::Gzip, packed.into(), limit);
        prop_assert_eq!(unpacked.is_ok(), bytes.len() as u64 <= limit);
    }
}

#[tokio::test]
async fn small_packed_bodies_take_no_turn() {
    let zipped = headers(&[("content-encoding", "gzip")]);
    let zeros = |length: usize| gzip(&vec![0; length]);
    let receive = |body: Vec<u8>| Packed::receive(&zipped, Body::from(body), 1 << 30);
    let small = receive(zeros(offload::INLINE_BYTES_MAX)).await.unwrap();
    assert_eq!((small.unpack_bytes(), small.len()), (0, offload::INLINE_BYTES_MAX));
    let large = receive(zeros(offload::INLINE_BYTES_MAX + 1)).await.unwrap();
    assert!(large.unpack_bytes() > offload::INLINE_BYTES_MAX);
    assert_eq!(large.unpack().unwrap().len(), offload::INLINE_BYTES_MAX + 1);
}
