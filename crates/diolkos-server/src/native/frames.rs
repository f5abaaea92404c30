// SPDX-License-Identifier: Apache-2.0
//! Messages and payload off and onto a socket, with descriptors beside them.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, BufMut as _, Bytes, BytesMut};
use diolkos_shm::pass;
use diolkos_wire::{DecodeError, HEADER_BYTES, Header, Limits, Message, Part, append_frame};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, Interest};

use super::limits;
use crate::listen::{Budget, Socket, Turns};

/// Why reading ended.
#[derive(Debug, thiserror::Error)]
pub(super) enum ReadError {
    /// The client closed the connection, or it broke.
    #[error("the client went away")]
    Gone,
    /// A message began and did not go on.
    #[error("a message began and did not go on in time")]
    Slow,
    /// Behind this nothing can be read any more.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// Descriptors came that no message was for.
    #[error("descriptors came that no message is for")]
    Descriptors,
}

/// The client's side of a stream.
pub(super) struct Reader {
    socket: Socket,
    buffer: BytesMut,
    scratch: Box<[u8]>,
    /// Those that came and were not asked for yet, in the order in which they came.
    descriptors: VecDeque<OwnedFd>,
    /// In so much time the next part of a message must arrive.
    patience: Duration,
    turns: Turns,
}

impl Reader {
    /// Reads from a socket of which `replay` has been read already.
    pub(super) fn new(socket: Socket, replay: &[u8], patience: Duration) -> Reader {
        let scratch = vec![0; limits::READ_BYTES].into();
        Reader {
            socket,
            buffer: BytesMut::from(replay),
            scratch,
            descriptors: VecDeque::new(),
            patience,
            turns: Turns::default(),
        }
    }

    /// Reads what there is, and at least something.
    async fn more(&mut self) -> Result<(), ReadError> {
        let length = match &self.socket {
            Socket::Unix(stream) => {
                let mut descriptors = Vec::new();
                let scratch = &mut self.scratch;
                let received = stream
                    .async_io(Interest::READABLE, || pass::receive(stream.as_fd(), scratch, &mut descriptors))
                    .await;
                self.descriptors.extend(descriptors);
                received
            }
            Socket::Tcp(_) | Socket::Tls(_) | Socket::Vsock(_) => self.socket.read(&mut self.scratch).await,
        };
        match length {
            Ok(0) | Err(_) => return Err(ReadError::Gone),
            Ok(length) => {
                self.buffer.extend_from_slice(&self.scratch[..length]);
                self.turns.moved(length).await;
            }
        }
        // A message has one at most. More are kept open for nothing, and there must be an end to it.
        if self.descriptors.len() > pass::DESCRIPTORS_MAX {
            return Err(ReadError::Descriptors);
        }
        Ok(())
    }

    async fn fill(&mut self, length: usize) -> Result<(), ReadError> {
        while self.buffer.len() < length {
            let patience = self.patience;
            tokio::time::timeout(patience, self.more()).await.map_err(|_| ReadError::Slow)??;
        }
        Ok(())
    }

    /// The next so many bytes.
    pub(super) async fn bytes<const N: usize>(&mut self) -> Result<[u8; N], ReadError> {
        self.fill(N).await?;
        let mut bytes = [0; N];
        self.buffer.copy_to_slice(&mut bytes);
        Ok(bytes)
    }

    /// Returns once the next message has begun. Dropping the future loses nothing.
    pub(super) async fn begun(&mut self) -> Result<(), ReadError> {
        if self.buffer.is_empty() { self.more().await } else { Ok(()) }
    }

    /// The next header.
    pub(super) async fn header(&mut self, limits: &Limits) -> Result<Header, ReadError> {
        let bytes = self.bytes::<HEADER_BYTES>().await?;
        Ok(Header::decode(&bytes, limits)?)
    }

    /// The message behind a header; an error is one that the client can be told, and the stream goes on.
    pub(super) async fn message(
        &mut self,
        header: &Header,
    ) -> Result<Result<Message, DecodeError>, ReadError> {
        // Lossless, and no more than was granted.
        let length = header.length as usize;
        self.fill(length).await?;
        let body = self.buffer.split_to(length);
        Ok(header.message(&body))
    }

    /// The payload behind a message, charged as it comes; `None` if there was no memory for it, and then it has
    /// been read and forgotten.
    pub(super) async fn payload(
        &mut self,
        length: u64,
        budget: &Arc<Budget>,
    ) -> Result<Option<Bytes>, ReadError> {
        if length == 0 {
            return Ok(Some(Bytes::new()));
        }
        let length = usize::try_from(length).map_err(|_| ReadError::Gone)?;
        let mut held = Held::nothing(budget);
        let ready = length.min(self.buffer.len());
        let mut payload = Vec::with_capacity(length.min(limits::PAYLOAD_AHEAD_BYTES).max(ready));
        payload.extend_from_slice(&self.buffer.split_to(ready));
        loop {
            if !held.grow_to(payload.len()) {
                self.skip(length - payload.len()).await?;
                return Ok(None);
            }
            if payload.len() == length {
                return Ok(Some(Bytes::from_owner(Charged { payload, _held: held })));
            }
            self.read_into(&mut payload, length).await?;
        }
    }

    async fn read_into(&mut self, payload: &mut Vec<u8>, length: usize) -> Result<(), ReadError> {
        let left = length - payload.len();
        if payload.capacity() == payload.len() {
            payload.reserve_exact(left.min(payload.len()));
        }
        let room = left.min(payload.capacity() - payload.len());
        let mut to = payload.limit(room);
        let read = tokio::time::timeout(self.patience, self.socket.read_buf(&mut to));
        match read.await {
            Err(_) => Err(ReadError::Slow),
            Ok(Ok(0) | Err(_)) => Err(ReadError::Gone),
            Ok(Ok(length)) => {
                self.turns.moved(length).await;
                Ok(())
            }
        }
    }

    /// Reads bytes that nobody wants.
    pub(super) async fn skip(&mut self, mut length: usize) -> Result<(), ReadError> {
        while length > 0 {
            if self.buffer.is_empty() {
                self.fill(1).await?;
            }
            let now = length.min(self.buffer.len());
            self.buffer.advance(now);
            length -= now;
        }
        Ok(())
    }

    /// The next descriptor that came.
    pub(super) fn descriptor(&mut self) -> Option<OwnedFd> {
        self.descriptors.pop_front()
    }
}

/// A part of the budget for bodies that is held.
pub(super) struct Held {
    budget: Arc<Budget>,
    bytes: u64,
}

impl Held {
    /// Nothing of it yet.
    pub(super) fn nothing(budget: &Arc<Budget>) -> Held {
        Held { budget: budget.clone(), bytes: 0 }
    }

    /// So many bytes of it, if they are left; of few bytes nothing is held.
    pub(super) fn of_more_than(few: usize, budget: &Arc<Budget>, bytes: usize) -> Option<Held> {
        let mut held = Held::nothing(budget);
        held.covers(few, bytes).then_some(held)
    }

    /// Whether what is held is enough for so many bytes, now that as much was taken as was left; few bytes need nothing.
    pub(super) fn covers(&mut self, few: usize, bytes: usize) -> bool {
        bytes <= few || bytes as u64 <= self.bytes || self.grow_to(bytes)
    }

    fn grow_to(&mut self, bytes: usize) -> bool {
        let more = bytes as u64 - self.bytes;
        let charged = self.budget.charge(more);
        self.bytes += if charged { more } else { 0 };
        charged
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.budget.release(self.bytes);
    }
}

/// Payload, and what pays for it.
struct Charged {
    payload: Vec<u8>,
    _held: Held,
}

impl AsRef<[u8]> for Charged {
    fn as_ref(&self) -> &[u8] {
        &self.payload
    }
}

/// Something to write.
pub(super) struct Outgoing {
    /// Headers and bodies.
    frame: Bytes,
    /// What comes behind, piece by piece.
    payload: Vec<Bytes>,
    /// What goes with the first byte.
    descriptors: Vec<OwnedFd>,
    /// What pays for it while it waits.
    held: Option<Held>,
}

impl Outgoing {
    /// A message. One that can't be encoded, which has a defect of ours as its reason, becomes nothing.
    pub(super) fn new(id: u64, message: &Message) -> Outgoing {
        Outgoing::parts(id, std::slice::from_ref(message))
    }

    /// An answer in several parts.
    pub(super) fn parts(id: u64, messages: &[Message]) -> Outgoing {
        let mut frame = Vec::new();
        for (index, message) in messages.iter().enumerate() {
            let part = if index + 1 < messages.len() { Part::More } else { Part::Last };
            if let Err(error) = append_frame(id, part, message, &mut frame) {
                tracing::error!(%error, kind = ?message.kind(), "an answer can't be encoded");
            }
        }
        Outgoing { frame: frame.into(), payload: Vec::new(), descriptors: Vec::new(), held: None }
    }

    /// With payload behind it.
    pub(super) fn with_payload(mut self, payload: Vec<Bytes>) -> Outgoing {
        self.payload = payload;
        self
    }

    /// With descriptors beside it.
    pub(super) fn with_descriptors(mut self, descriptors: Vec<OwnedFd>) -> Outgoing {
        self.descriptors = descriptors;
        self
    }

    /// Bytes of headers and bodies. Payload is charged already: what an operation made, to the memory of requests.
    pub(super) fn frame_bytes(&self) -> usize {
        self.frame.len()
    }

    /// With what pays for it until it is written or dropped.
    pub(super) fn paid_by(mut self, held: Held) -> Outgoing {
        self.held = Some(held);
        self
    }

    /// Writes it. The client must take some of it in every `patience`.
    pub(super) async fn write(self, socket: &mut Socket, patience: Duration) -> io::Result<()> {
        let Outgoing { frame, payload, descriptors, held: _held } = self;
        let mut pieces = Pieces(std::iter::once(frame).chain(payload).collect());
        pieces.trim();
        if let (Socket::Unix(stream), false) = (&*socket, descriptors.is_empty()) {
            let borrowed: Vec<_> = descriptors.iter().map(OwnedFd::as_fd).collect();
            let first = pieces.chunk();
            let send = stream.async_io(Interest::WRITABLE, || {
                pass::send(stream.as_fd(), &[IoSlice::new(first)], &borrowed)
            });
            let sent = tokio::time::timeout(patience, send).await.map_err(|_| io::ErrorKind::TimedOut)??;
            pieces.advance(sent);
        }
        let mut turns = Turns::default();
        while pieces.has_remaining() {
            let written = tokio::time::timeout(patience, socket.write_buf(&mut pieces));
            match written.await.map_err(|_| io::ErrorKind::TimedOut)?? {
                0 => return Err(io::ErrorKind::WriteZero.into()),
                length => turns.moved(length).await,
            }
        }
        tokio::time::timeout(patience, socket.flush()).await.map_err(|_| io::ErrorKind::TimedOut)?
    }
}

/// Pieces one behind the other, none of them empty.
struct Pieces(VecDeque<Bytes>);

impl Pieces {
    fn trim(&mut self) {
        self.0.retain(|piece| !piece.is_empty());
    }
}

impl Buf for Pieces {
    fn remaining(&self) -> usize {
        self.0.iter().map(Bytes::len).sum()
    }

    fn chunk(&self) -> &[u8] {
        self.0.front().map_or(&[], |piece| piece)
    }

    fn chunks_vectored<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        let mut filled = 0;
        for (slice, piece) in slices.iter_mut().zip(&self.0) {
            *slice = IoSlice::new(piece);
            filled += 1;
        }
        filled
    }

    fn advance(&mut self, mut count: usize) {
        while count > 0 {
            let front = self.0.front_mut().expect("no more is written than there was");
            let now = count.min(front.len());
            front.advance(now);
            count -= now;
            if front.is_empty() {
                self.0.pop_front();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::UnixStream;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(20);

    #[tokio::test]
    async fn payload_is_charged_until_it_is_dropped_and_refused_without_losing_the_stream() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let budget = Budget::new(100_000);
        let sent: Vec<u8> = (0..100_000u32).map(|at| at as u8).collect();
        let payload =
            vec![Bytes::new(), Bytes::from(sent[..40_000].to_vec()), Bytes::from(sent[40_000..].to_vec())];
        let writing = tokio::spawn(async move {
            let mut socket = Socket::from(ours);
            for _ in 0..3 {
                let out = Outgoing::new(7, &Message::Health).with_payload(payload.clone());
                out.write(&mut socket, PATIENCE).await.unwrap();
            }
        });
        let mut reader = Reader::new(theirs.into(), &[], PATIENCE);
        let limits = Limits::default();
        let header = reader.header(&limits).await.unwrap();
        assert_eq!(reader.message(&header).await.unwrap().unwrap(), Message::Health);
        let first = reader.payload(100_000, &budget).await.unwrap().unwrap();
        assert_eq!((&first[..], budget.used()), (&sent[..], 100_000));
        let header = reader.header(&limits).await.unwrap();
        reader.message(&header).await.unwrap().unwrap();
        assert!(
            reader.payload(100_000, &budget).await.unwrap().is_none(),
            "there is no memory for a second one"
        );
        drop(first);
        assert_eq!(budget.used(), 0);
        let header = reader.header(&limits).await.unwrap();
        assert_eq!(header.id, 7);
        reader.message(&header).await.unwrap().unwrap();
        assert_eq!(reader.payload(100_000, &budget).await.unwrap().unwrap()[..], sent);
        writing.await.unwrap();
        assert!(matches!(reader.begun().await, Err(ReadError::Gone)));
    }

    #[tokio::test]
    async fn a_message_that_does_not_go_on_is_given_up() {
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        ours.write_all(&[1, 2, 3]).await.unwrap();
        let mut reader = Reader::new(theirs.into(), &[], Duration::from_millis(20));
        reader.begun().await.unwrap();
        assert!(matches!(reader.header(&Limits::default()).await, Err(ReadError::Slow)));
    }

    #[tokio::test]
    async fn descriptors_come_in_order_and_too_many_end_it() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let mut socket = Socket::from(ours);
        let null = || OwnedFd::from(std::fs::File::open("/dev/null").unwrap());
        for _ in 0..4 {
            let out = Outgoing::new(1, &Message::Done).with_descriptors(vec![null()]);
            out.write(&mut socket, PATIENCE).await.unwrap();
        }
        let mut reader = Reader::new(theirs.into(), &[], PATIENCE);
        let limits = Limits::default();
        for _ in 0..3 {
            let header = reader.header(&limits).await.unwrap();
            assert_eq!(reader.message(&header).await.unwrap().unwrap(), Message::Done);
        }
        // Without asking for any, the fourth is one too many.
        assert!(matches!(reader.header(&limits).await, Err(ReadError::Descriptors)));
        assert!(reader.descriptor().is_some());
    }
}
