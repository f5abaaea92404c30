// SPDX-License-Identifier: Apache-2.0
//! Bytes ↔ messages: prost, with a scan in front and room reserved behind.
//!
//! Payloads are not copied here on the way in: `bytes` fields are slices of the buffer that tonic
//! gathered the message in. On the way out there is one copy, into a buffer of the right size.

use std::marker::PhantomData;

use prost::Message;
use tonic::Status;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};

use super::limits::BOUNDS;
use super::scan::{self, Refusal};
use super::{error, in_place, pb};
use crate::oip::offload::INLINE_BYTES_MAX;

/// A message that may be received.
///
/// Implemented by name, so that a new message does not compile until somebody decided whether it can
/// decode to much more than it was sent in.
pub(crate) trait Received: Message + Default {
    /// Looks at the encoded message. `Ok(n)`: decoding takes time for `n` values.
    fn scan(_encoded: &[u8]) -> Result<usize, Refusal> {
        Ok(0)
    }
}

/// Messages whose fields are a few texts and numbers.
macro_rules! small {
    ($($message:ident)*) => { $(impl Received for pb::$message {})* };
}

small! {
    ServerLiveRequest ServerReadyRequest ModelReadyRequest ServerMetadataRequest ModelMetadataRequest
    ModelConfigRequest ModelStatisticsRequest RepositoryIndexRequest SystemSharedMemoryStatusRequest
    SystemSharedMemoryRegisterRequest SystemSharedMemoryUnregisterRequest CudaSharedMemoryStatusRequest
    CudaSharedMemoryUnregisterRequest
}

impl Received for pb::ModelInferRequest {
    fn scan(encoded: &[u8]) -> Result<usize, Refusal> {
        scan::infer_request(encoded, &BOUNDS).map(|found| found.typed_values)
    }
}

impl Received for pb::RepositoryModelLoadRequest {
    fn scan(encoded: &[u8]) -> Result<usize, Refusal> {
        scan::repository_request(encoded, &BOUNDS).map(|()| 0)
    }
}

impl Received for pb::RepositoryModelUnloadRequest {
    fn scan(encoded: &[u8]) -> Result<usize, Refusal> {
        scan::repository_request(encoded, &BOUNDS).map(|()| 0)
    }
}

// What the client receives comes from a daemon that it chose to trust with its tensors.
small! {
    ServerLiveResponse ServerReadyResponse ModelReadyResponse ServerMetadataResponse ModelMetadataResponse
    ModelConfigResponse ModelStatisticsResponse RepositoryIndexResponse ModelInferResponse
    ModelStreamInferResponse RepositoryModelLoadResponse RepositoryModelUnloadResponse
    SystemSharedMemoryStatusResponse SystemSharedMemoryRegisterResponse SystemSharedMemoryUnregisterResponse
    CudaSharedMemoryStatusResponse CudaSharedMemoryUnregisterResponse
}

/// The codec that the generated code names: sends `T`, receives `U`.
pub(crate) struct BoundedCodec<T, U>(PhantomData<(T, U)>);

impl<T, U> Default for BoundedCodec<T, U> {
    fn default() -> Self {
        BoundedCodec(PhantomData)
    }
}

impl<T, U> Codec for BoundedCodec<T, U>
where
    T: Message + Send + 'static,
    U: Received + Send + 'static,
{
    type Encode = T;
    type Decode = U;
    type Encoder = Out<T>;
    type Decoder = In<U>;

    fn encoder(&mut self) -> Out<T> {
        Out(PhantomData)
    }

    fn decoder(&mut self) -> In<U> {
        In(PhantomData)
    }
}

/// Encodes.
pub(crate) struct Out<T>(PhantomData<T>);

impl<T: Message> Encoder for Out<T> {
    type Item = T;
    type Error = Status;

    fn encode(&mut self, message: T, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        // Otherwise the buffer doubles its way up from 8 KiB and copies each time.
        buffer.reserve(message.encoded_len());
        message
            .encode(buffer)
            .map_err(|error| Status::internal(format!("the answer can't be encoded: {error}")))
    }
}

/// Decodes.
pub(crate) struct In<U>(PhantomData<U>);

impl<U: Received> Decoder for In<U> {
    type Item = U;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<U>, Status> {
        use bytes::Buf as _;
        let encoded = buffer.chunk();
        // tonic gathers a message in one buffer; were that to change, nothing may go unscanned.
        if encoded.len() != buffer.remaining() {
            return Err(Status::internal("a message arrived in pieces"));
        }
        let values = U::scan(encoded).map_err(|refusal| error::of_refusal(&refusal))?;
        let decoded =
            if values > INLINE_BYTES_MAX { in_place::run(|| U::decode(buffer)) } else { U::decode(buffer) };
        decoded
            .map(Some)
            .map_err(|error| Status::invalid_argument(format!("the message is damaged: {error}")))
    }
}
