// SPDX-License-Identifier: Apache-2.0
//! Responses: JSON or JSON with tensors, of known length, compressed if the client asked for it.
//!
//! A tensor's bytes go to the connection as the chunk they are. Every response has a `Content-Length`.

use std::io::Write as _;

use axum::body::Body;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header};
use bytes::Bytes;
use diolkos_types::{Code, Status};

use super::body::Encoding;
use super::encode::{Encoded, push_string};
use super::error::HttpError;
use crate::chunks::Chunks;
use crate::oip::offload::{self, OwnTurn};

/// Says where the JSON ends and the tensors begin, in requests and responses.
pub(crate) const JSON_LENGTH: HeaderName = HeaderName::from_static("inference-header-content-length");

/// Below this size packing saves nothing: it fits into one packet anyway.
const PACK_BYTES_MIN: usize = 1024;

const JSON: HeaderValue = HeaderValue::from_static("application/json");
const BINARY: HeaderValue = HeaderValue::from_static("application/octet-stream");

/// A JSON response with this status.
pub(crate) fn json(status: StatusCode, body: Vec<u8>) -> Response<Body> {
    respond(status, JSON, vec![body.into()])
}

/// `{"error": "..."}`
pub(crate) fn error(error: HttpError) -> Response<Body> {
    let (status, message, headers) = error.into_parts();
    let mut body = b"{\"error\":".to_vec();
    push_string(&mut body, &message);
    body.push(b'}');
    let mut response = json(status, body);
    response.headers_mut().extend(headers);
    response
}

/// The response to an inference.
pub(crate) async fn inference(
    turn: &OwnTurn,
    encoded: Encoded,
    encoding: Option<Encoding>,
) -> Result<Response<Body>, Status> {
    let Encoded { json_bytes, mut chunks } = encoded;
    let size: usize = chunks.iter().map(Bytes::len).sum();
    let encoding = encoding.filter(|_| size >= PACK_BYTES_MIN);
    if let Some(encoding) = encoding {
        // Packing costs about what writing ten times as much JSON does.
        let packed = offload::run(turn, size.saturating_mul(10), move || pack(encoding, &chunks)).await?;
        chunks = vec![packed];
    }
    let mut response = respond(StatusCode::OK, if json_bytes.is_some() { BINARY } else { JSON }, chunks);
    let headers = response.headers_mut();
    if let Some(json_bytes) = json_bytes {
        headers.insert(JSON_LENGTH, HeaderValue::from(json_bytes));
    }
    if let Some(encoding) = encoding {
        headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static(encoding.name()));
        headers.insert(header::VARY, HeaderValue::from_static("accept-encoding"));
    }
    Ok(response)
}

fn respond(status: StatusCode, content_type: HeaderValue, chunks: Vec<Bytes>) -> Response<Body> {
    let body = Chunks::new(chunks);
    let mut response = Response::new(Body::new(body));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, content_type);
    response
}

fn pack(encoding: Encoding, chunks: &[Bytes]) -> Result<Bytes, Status> {
    // Fast: on a local link every microsecond of packing is lost, and clients ask for it by name.
    let level = flate2::Compression::fast();
    let packed = match encoding {
        Encoding::Gzip => {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), level);
            chunks.iter().try_for_each(|chunk| encoder.write_all(chunk)).and_then(|()| encoder.finish())
        }
        Encoding::Deflate => {
            let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), level);
            chunks.iter().try_for_each(|chunk| encoder.write_all(chunk)).and_then(|()| encoder.finish())
        }
    };
    packed
        .map(Bytes::from)
        .map_err(|error| Status::new(Code::Internal, format!("packing the reply: {error}")))
}

/// Which packing the client wants, if any: of those it gives the highest weight, gzip first.
pub(crate) fn wanted_encoding(headers: &HeaderMap) -> Option<Encoding> {
    let values = headers.get_all(header::ACCEPT_ENCODING).iter().filter_map(|value| value.to_str().ok());
    let mut best: Option<(Encoding, f32)> = None;
    for item in values.flat_map(|value| value.split(',')) {
        let mut parts = item.split(';').map(str::trim);
        let encoding = match parts.next().unwrap_or_default().to_ascii_lowercase().as_str() {
            "gzip" | "x-gzip" => Encoding::Gzip,
            "deflate" => Encoding::Deflate,
            _ => continue,
        };
        let weight = parts.find_map(|part| part.strip_prefix("q=")).map_or(1.0, |q| q.parse().unwrap_or(0.0));
        let better = best.is_none_or(|(known, weight_known)| {
            weight > weight_known || (weight == weight_known && known == Encoding::Deflate)
        });
        if weight > 0.0 && better {
            best = Some((encoding, weight));
        }
    }
    best.map(|(encoding, _)| encoding)
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;
    use hyper::body::Body as _;

    use super::*;

    fn wanted(value: &str) -> Option<Encoding> {
        let mut headers = HeaderMap::new();
        headers.insert(header::ACCEPT_ENCODING, value.parse().unwrap());
        wanted_encoding(&headers)
    }

    #[test]
    fn the_highest_weight_wins_and_gzip_on_ties() {
        assert_eq!(wanted("gzip"), Some(Encoding::Gzip));
        assert_eq!(wanted("deflate"), Some(Encoding::Deflate));
        assert_eq!(wanted("deflate, GZIP"), Some(Encoding::Gzip));
        assert_eq!(wanted("gzip;q=0.2, deflate;q=0.8"), Some(Encoding::Deflate));
        for none in ["", "br", "identity", "gzip;q=0", "gzip;q=x"] {
            assert_eq!(wanted(none), None, "{none}");
        }
        assert_eq!(wanted_encoding(&HeaderMap::new()), None);
    }

    #[tokio::test]
    async fn chunks_are_sent_as_they_are_and_counted() {
        let tensor = Bytes::from(vec![7; 5000]);
        let encoded =
            Encoded { json_bytes: Some(2), chunks: vec!["{}".into(), Bytes::new(), tensor.clone()] };
        let mut response = inference(&OwnTurn::default(), encoded, None).await.unwrap();
        assert_eq!(response.headers()[JSON_LENGTH], "2");
        assert_eq!(response.body().size_hint().exact(), Some(5002));
        let body = response.body_mut();
        assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "{}");
        let sent = body.frame().await.unwrap().unwrap().into_data().unwrap();
        assert_eq!(sent.as_ptr(), tensor.as_ptr());
        assert!(body.frame().await.is_none());
    }
}
