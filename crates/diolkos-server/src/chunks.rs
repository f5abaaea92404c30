// SPDX-License-Identifier: Apache-2.0
//! A body of chunks that are there already, handed to the connection as they are.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use axum::http::HeaderMap;
use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};

/// Chunks, and trailers if the protocol has them.
#[derive(Debug)]
pub(crate) struct Chunks {
    chunks: VecDeque<Bytes>,
    left: u64,
    trailers: Option<HeaderMap>,
}

impl Chunks {
    /// A body without trailers, of known length.
    pub(crate) fn new(chunks: Vec<Bytes>) -> Chunks {
        // An empty frame would end some transports' bodies early.
        let chunks: VecDeque<Bytes> = chunks.into_iter().filter(|chunk| !chunk.is_empty()).collect();
        let left = chunks.iter().map(|chunk| chunk.len() as u64).sum();
        Chunks { chunks, left, trailers: None }
    }

    /// The same with trailers behind it.
    pub(crate) fn with_trailers(mut self, trailers: HeaderMap) -> Chunks {
        self.trailers = Some(trailers);
        self
    }
}

impl Body for Chunks {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let frame = match self.chunks.pop_front() {
            Some(chunk) => {
                self.left -= chunk.len() as u64;
                Some(Frame::data(chunk))
            }
            None => self.trailers.take().map(Frame::trailers),
        };
        Poll::Ready(frame.map(Ok))
    }

    fn is_end_stream(&self) -> bool {
        self.chunks.is_empty() && self.trailers.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        if self.trailers.is_some() {
            // From an exact size the connection would make a `Content-Length`, which gRPC does not have.
            SizeHint::default()
        } else {
            SizeHint::with_exact(self.left)
        }
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;

    use super::*;

    #[tokio::test]
    async fn chunks_are_counted_and_trailers_come_last() {
        let chunk = Bytes::from(vec![7; 5000]);
        let mut plain = Chunks::new(vec!["{}".into(), Bytes::new(), chunk.clone()]);
        assert_eq!(plain.size_hint().exact(), Some(5002));
        assert_eq!(plain.frame().await.unwrap().unwrap().into_data().unwrap(), "{}");
        let sent = plain.frame().await.unwrap().unwrap().into_data().unwrap();
        assert_eq!(sent.as_ptr(), chunk.as_ptr());
        assert!(plain.is_end_stream() && plain.frame().await.is_none());

        let trailers = HeaderMap::from_iter([("grpc-status".parse().unwrap(), "0".parse().unwrap())]);
        let mut trailed = Chunks::new(vec![chunk]).with_trailers(trailers.clone());
        assert_eq!(trailed.size_hint().exact(), None);
        trailed.frame().await.unwrap().unwrap().into_data().unwrap();
        assert!(!trailed.is_end_stream());
        assert_eq!(trailed.frame().await.unwrap().unwrap().into_trailers().unwrap(), trailers);
        assert!(trailed.is_end_stream() && trailed.frame().await.is_none());
    }
}
