// SPDX-License-Identifier: Apache-2.0
//! Takes a request's body in: bounded in size, before and after decompression.
//!
//! ```text
//! Content-Length too large ──> 413 before a byte is read
//! frames ──> more than the limit: 413
//! gzip/deflate ──> more than the limit when unpacked: 413 · damaged: 400 · other encodings: 415
//! ```
//!
//! How fast a body comes and what memory all bodies together take is watched where connections are served
//! (`listen`), for every front alike.

use std::io::Read;

use axum::body::Body;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use bytes::Bytes;
use diolkos_types::{Code, Status};
use http_body_util::BodyExt as _;

use super::error::HttpError;
use super::rope::{Rope, RopeBuilder};
use crate::oip::offload;

/// Deflate packs 1032 to 1 at best, so what costs time is at most so much larger than what came.
const DEFLATE_RATIO_MAX: usize = 1032;

/// A body as it came, perhaps packed.
#[derive(Debug)]
pub(crate) struct Packed {
    rope: Rope,
    encoding: Option<Encoding>,
    bytes_max: u64,
}

impl Packed {
    /// Reads a body of at most `bytes_max` bytes (`limits.body_bytes_max`).
    pub(crate) async fn receive(
        headers: &HeaderMap,
        mut body: Body,
        bytes_max: u64,
    ) -> Result<Packed, HttpError> {
        let encoding = Encoding::of(headers)?;
        if content_length(headers).is_some_and(|length| length > bytes_max) {
            return Err(too_large(bytes_max));
        }
        let mut builder = RopeBuilder::default();
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| {
                let received = builder.len();
                HttpError::from(Status::invalid(format!(
                    "the body broke off after {received} bytes: {error}"
                )))
            })?;
            // Trailers carry nothing that is used here.
            let Ok(data) = frame.into_data() else { continue };
            if (builder.len() + data.len()) as u64 > bytes_max {
                return Err(too_large(bytes_max));
            }
            builder.push(data);
        }
        Ok(Packed { rope: builder.finish(), encoding, bytes_max }.unpacked_if_small())
    }

    /// Unpacks what turns out to be small right here. How much a few packed bytes become is known only by
    /// unpacking them, and if all of them took turns as the worst case, a few bombs would hold up everybody.
    /// What is larger or damaged stays as it is, for [`Packed::unpack`].
    fn unpacked_if_small(self) -> Packed {
        let Some(encoding) = self.encoding else { return self };
        let small = self.bytes_max.min(offload::INLINE_BYTES_MAX as u64);
        match unpack(encoding, self.rope.clone(), small) {
            Ok(rope) => Packed { rope, encoding: None, ..self },
            Err(_) => self,
        }
    }

    /// About how many bytes [`Packed::unpack`] goes through; 0 if there is nothing to unpack.
    pub(crate) fn unpack_bytes(&self) -> usize {
        match self.encoding {
            Some(_) => self.rope.len().saturating_mul(DEFLATE_RATIO_MAX),
            None => 0,
        }
    }

    /// Size as it came.
    pub(crate) fn len(&self) -> usize {
        self.rope.len()
    }

    /// The body, at most as large as [`Packed::receive`] allowed.
    pub(crate) fn unpack(self) -> Result<Rope, Status> {
        match self.encoding {
            Some(encoding) => unpack(encoding, self.rope, self.bytes_max),
            None => Ok(self.rope),
        }
    }
}

fn too_large(bytes_max: u64) -> HttpError {
    Status::new(
        Code::TooLarge,
        format!("the body is larger than {bytes_max} bytes (`limits.body_bytes_max`)"),
    )
    .into()
}

fn content_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// How a body is packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Encoding {
    Gzip,
    Deflate,
}

impl Encoding {
    /// The name in headers.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Encoding::Gzip => "gzip",
            Encoding::Deflate => "deflate",
        }
    }

    fn of(headers: &HeaderMap) -> Result<Option<Encoding>, HttpError> {
        let Some(value) = headers.get(header::CONTENT_ENCODING) else { return Ok(None) };
        let several = headers.get_all(header::CONTENT_ENCODING).iter().nth(1).is_some();
        let name = value.as_bytes().trim_ascii();
        match name.to_ascii_lowercase().as_slice() {
            b"" | b"identity" if !several => Ok(None),
            b"gzip" | b"x-gzip" if !several => Ok(Some(Encoding::Gzip)),
            b"deflate" if !several => Ok(Some(Encoding::Deflate)),
            _ => Err(HttpError::new(
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                format!(
                    "Content-Encoding `{}` is not known; send gzip, deflate or none, and one of them only",
                    String::from_utf8_lossy(&name[..name.len().min(40)]).escape_debug()
                ),
            )
            .with_header(header::ACCEPT_ENCODING, HeaderValue::from_static("gzip, deflate"))),
        }
    }
}

/// Reads the frames of a rope one behind the other.
struct RopeReader<'a> {
    frames: std::slice::Iter<'a, Bytes>,
    current: &'a [u8],
}

impl Read for RopeReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        while self.current.is_empty() {
            let Some(next) = self.frames.next() else { return Ok(0) };
            self.current = next;
        }
        self.current.read(buffer)
    }
}

/// Unpacks at most `bytes_max` bytes.
pub(crate) fn unpack(encoding: Encoding, packed: Rope, bytes_max: u64) -> Result<Rope, Status> {
    let reader = RopeReader { frames: packed.frames().iter(), current: &[] };
    match encoding {
        Encoding::Gzip => read_bounded(flate2::read::MultiGzDecoder::new(reader), encoding, bytes_max),
        // RFC 9110 says zlib; some clients send the bare stream, and its first bytes tell.
        Encoding::Deflate if has_zlib_header(&packed) => {
            read_bounded(flate2::read::ZlibDecoder::new(reader), encoding, bytes_max)
        }
        Encoding::Deflate => read_bounded(flate2::read::DeflateDecoder::new(reader), encoding, bytes_max),
    }
}

fn has_zlib_header(packed: &Rope) -> bool {
    let mut first = packed.frames().iter().flatten();
    let (Some(&method), Some(&flags)) = (first.next(), first.next()) else { return false };
    // RFC 1950: method 8, and both bytes together divisible by 31.
    method & 0x0f == 8 && u16::from_be_bytes([method, flags]).is_multiple_of(31)
}

fn read_bounded(decoder: impl Read, encoding: Encoding, bytes_max: u64) -> Result<Rope, Status> {
    let mut unpacked = Vec::new();
    // One byte more than allowed tells a body of just the limit from a larger one.
    let read = decoder.take(bytes_max.saturating_add(1)).read_to_end(&mut unpacked);
    read.map_err(|error| Status::invalid(format!("the body is no valid {} data: {error}", encoding.name())))?;
    if unpacked.len() as u64 > bytes_max {
        return Err(Status::new(
            Code::TooLarge,
            format!("the body unpacks to more than {bytes_max} bytes (`limits.body_bytes_max`)"),
        ));
    }
    Ok(Bytes::from(unpacked).into())
}

#[cfg(test)]
#[path = "body_tests.rs"]
mod tests;
