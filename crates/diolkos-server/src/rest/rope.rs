// SPDX-License-Identifier: Apache-2.0
//! A request body as it came from the socket: a list of frames, of which tensors are cut without copying.
//!
//! Invariant: no frame but the last is smaller than [`FRAME_BYTES_MIN`], unless it was alone; so the list's own
//! size stays small next to the bytes, however a client chops its body.

use bytes::{Bytes, BytesMut};
use diolkos_backend::Buffer;

/// Frames below this size are copied together. hyper reads 8 KiB and more at a time from a client that sends
/// without pause.
const FRAME_BYTES_MIN: usize = 8 << 10;

/// The bytes of a body.
#[derive(Clone, Debug, Default)]
pub(crate) struct Rope {
    frames: Vec<Bytes>,
    len: usize,
}

/// Collects frames.
#[derive(Debug, Default)]
pub(crate) struct RopeBuilder {
    rope: Rope,
    small: BytesMut,
}

impl RopeBuilder {
    /// Adds what comes next.
    pub(crate) fn push(&mut self, frame: Bytes) {
        self.rope.len += frame.len();
        if frame.len() < FRAME_BYTES_MIN {
            self.small.extend_from_slice(&frame);
            if self.small.len() >= FRAME_BYTES_MIN {
                self.flush();
            }
            return;
        }
        self.flush();
        self.rope.frames.push(frame);
    }

    fn flush(&mut self) {
        if !self.small.is_empty() {
            self.rope.frames.push(self.small.split().freeze());
        }
    }

    /// Bytes so far.
    pub(crate) fn len(&self) -> usize {
        self.rope.len
    }

    /// The body.
    pub(crate) fn finish(mut self) -> Rope {
        self.flush();
        self.rope
    }
}

impl From<Bytes> for Rope {
    fn from(bytes: Bytes) -> Rope {
        let len = bytes.len();
        Rope { frames: vec![bytes], len }
    }
}

impl Rope {
    /// Size in bytes.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// The frames.
    pub(crate) fn frames(&self) -> &[Bytes] {
        &self.frames
    }

    /// Takes the first `count` bytes off, or `None` if there are fewer.
    pub(crate) fn take(&mut self, count: usize) -> Option<Rope> {
        let left = self.len.checked_sub(count)?;
        let mut head = Rope::default();
        let mut whole = 0;
        while head.len < count {
            let frame = &mut self.frames[whole];
            let missing = count - head.len;
            if frame.len() <= missing {
                head.len += frame.len();
                head.frames.push(std::mem::take(frame));
                whole += 1;
            } else {
                head.frames.push(frame.split_to(missing));
                head.len = count;
            }
        }
        self.frames.drain(..whole);
        self.len = left;
        Some(head)
    }

    /// The bytes in one piece; copied only if they lie in several.
    pub(crate) fn into_bytes(self) -> Bytes {
        match <[Bytes; 1]>::try_from(self.frames) {
            Ok([single]) => single,
            Err(frames) => frames.concat().into(),
        }
    }

    /// The bytes as a payload, in as many extents as frames.
    pub(crate) fn into_buffer(self) -> Buffer {
        let parts: Vec<Buffer> = self.frames.into_iter().map(Buffer::from).collect();
        Buffer::concat(&parts).expect("the lengths were summed before")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn tiny_frames_are_copied_together() {
        let mut builder = RopeBuilder::default();
        for byte in 0..20_000u32 {
            builder.push(Bytes::copy_from_slice(&[byte as u8]));
        }
        let rope = builder.finish();
        assert_eq!((rope.len(), rope.frames().len()), (20_000, 3));
        assert_eq!(rope.into_bytes()[19_999], 19_999u32 as u8);
    }

    #[test]
    fn one_frame_is_never_copied() {
        let frame = Bytes::from(vec![7; FRAME_BYTES_MIN * 2]);
        let mut builder = RopeBuilder::default();
        builder.push(frame.clone());
        let mut rope = builder.finish();
        let head = rope.take(10).unwrap().into_buffer().to_private();
        assert_eq!(head.as_ptr(), frame.as_ptr());
        assert_eq!(rope.into_bytes().as_ptr(), frame[10..].as_ptr());
    }

    proptest! {
        #[test]
        fn is_the_bytes_however_they_are_chopped(sizes in proptest::collection::vec(0usize..20_000, 0..8), cuts in proptest::collection::vec(0usize..30_000, 0..5)) {
            let total: usize = sizes.iter().sum();
            let whole: Vec<u8> = (0..total).map(|i| (i * 7 % 251) as u8).collect();
            let mut builder = RopeBuilder::default();
            let mut at = 0;
            for size in sizes {
                builder.push(Bytes::copy_from_slice(&whole[at..at + size]));
                at += size;
            }
            prop_assert_eq!(builder.len(), total);
            let mut rope = builder.finish();
            let mut at = 0;
            for cut in cuts {
                match rope.take(cut) {
                    Some(head) => {
                        prop_assert_eq!(&head.into_buffer().to_private()[..], &whole[at..at + cut]);
                        at += cut;
                    }
                    None => prop_assert!(cut > total - at),
                }
            }
            prop_assert_eq!(&rope.into_bytes()[..], &whole[at..]);
        }
    }
}
