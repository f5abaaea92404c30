// SPDX-License-Identifier: Apache-2.0
//! Where the messages of a gRPC body begin and end: a byte of flags, four of length, and so many more.
//!
//! Nothing is kept but the five bytes of the header, whatever length they claim.

/// Flags and length.
const HEAD_BYTES: usize = 5;

/// How far one direction of one call has come.
#[derive(Debug, Default)]
pub(super) struct Framing {
    head: [u8; HEAD_BYTES],
    head_length: usize,
    /// Bytes of the message that came, and those that are missing; both 0 until its header is whole.
    came: u64,
    missing: u64,
}

impl Framing {
    /// Bytes pass. Says how many messages ended in them.
    pub(super) fn pass(&mut self, mut data: &[u8]) -> u64 {
        let mut ended = 0;
        while !data.is_empty() {
            data = if self.head_length < HEAD_BYTES { self.pass_head(data) } else { self.pass_rest(data) };
            if self.head_length == HEAD_BYTES && self.missing == 0 {
                ended += 1;
                *self = Framing::default();
            }
        }
        ended
    }

    fn pass_head<'a>(&mut self, data: &'a [u8]) -> &'a [u8] {
        let (head, rest) = data.split_at(data.len().min(HEAD_BYTES - self.head_length));
        self.head[self.head_length..self.head_length + head.len()].copy_from_slice(head);
        self.head_length += head.len();
        if self.head_length == HEAD_BYTES {
            let [_, length @ ..] = self.head;
            self.missing = u64::from(u32::from_be_bytes(length));
        }
        rest
    }

    fn pass_rest<'a>(&mut self, data: &'a [u8]) -> &'a [u8] {
        let length = usize::try_from(self.missing).map_or(data.len(), |missing| missing.min(data.len()));
        self.came += length as u64;
        self.missing -= length as u64;
        &data[length..]
    }

    /// Bytes of a message that began and has not ended.
    pub(super) fn half(&self) -> u64 {
        self.head_length as u64 + self.came
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn message(length: usize) -> Vec<u8> {
        let mut bytes = vec![0];
        bytes.extend(u32::try_from(length).unwrap().to_be_bytes());
        bytes.resize(HEAD_BYTES + length, 7);
        bytes
    }

    #[test]
    fn a_claimed_length_is_only_a_number() {
        let mut framing = Framing::default();
        assert_eq!(framing.pass(&[0, 0xff, 0xff, 0xff, 0xff, 1, 2]), 0);
        assert_eq!((framing.half(), framing.missing), (7, u64::from(u32::MAX) - 2));
    }

    proptest! {
        #[test]
        fn messages_are_found_however_they_are_cut(
            lengths in proptest::collection::vec(0usize..40, 0..8),
            tail in 0usize..20,
            cut in 1usize..9,
        ) {
            let mut bytes: Vec<u8> = lengths.iter().flat_map(|&length| message(length)).collect();
            // The last one is never whole: 20 bytes are promised, 19 come at most.
            bytes.extend(&message(20)[..tail]);
            let mut framing = Framing::default();
            let ended: u64 = bytes.chunks(cut).map(|chunk| framing.pass(chunk)).sum();
            prop_assert_eq!(ended, lengths.len() as u64);
            prop_assert_eq!(framing.half(), tail as u64);
        }

        #[test]
        fn any_bytes_pass(chunks in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..50), 0..20)) {
            let mut framing = Framing::default();
            let mut passed = 0;
            for chunk in &chunks {
                passed += chunk.len() as u64;
                let ended = framing.pass(chunk);
                prop_assert!(framing.half() <= passed && ended <= chunk.len() as u64);
            }
        }
    }
}
