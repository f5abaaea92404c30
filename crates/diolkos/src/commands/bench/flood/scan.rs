// SPDX-License-Identifier: Apache-2.0
//! Finds statuses among the bytes of HTTP/1.1 answers. Pure.
//!
//! A flood does not read answers, it counts them; so it is enough to look for the begin of a status line. No answer of the
//! daemon to a flood has one in its body.

/// What a status line begins with.
const BEGIN: &[u8] = b"HTTP/1.1 ";

/// Digits of a status.
const DIGITS: usize = 3;

/// How much of a status line was seen so far, because it may come in two pieces.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Scanner {
    matched: usize,
    status: u16,
}

impl Scanner {
    /// Looks at the next bytes.
    pub(super) fn feed(&mut self, bytes: &[u8], mut found: impl FnMut(u16)) {
        for &byte in bytes {
            if self.matched < BEGIN.len() {
                // The first letter is nowhere else in it, so a line that went wrong can begin only here.
                let next = if byte == BEGIN[self.matched] { self.matched + 1 } else { 0 };
                self.matched = if next == 0 && byte == BEGIN[0] { 1 } else { next };
                continue;
            }
            if byte.is_ascii_digit() {
                self.status = self.status * 10 + u16::from(byte - b'0');
                self.matched += 1;
                if self.matched < BEGIN.len() + DIGITS {
                    continue;
                }
                found(self.status);
            }
            *self = Scanner::default();
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn all(pieces: &[&[u8]]) -> Vec<u16> {
        let (mut scanner, mut found) = (Scanner::default(), Vec::new());
        for piece in pieces {
            scanner.feed(piece, |status| found.push(status));
        }
        found
    }

    #[test]
    fn finds_every_status() {
        let text =
            b"HTTP/1.1 200 OK\r\n\r\nHHTTP/1.1 429 Too Many\r\n\r\nHTTP/1.1 x HTTP/1.0 200 HTTP/1.1 50";
        assert_eq!(all(&[text]), [200, 429]);
        assert_eq!(all(&[b""]), [0u16; 0]);
    }

    proptest! {
        #[test]
        fn pieces_do_not_matter(cut in 0usize..60, bytes in prop::collection::vec(any::<u8>(), 0..20)) {
            let text = [&b"HTTP/1.1 200 OK\r\n\r\n"[..], &bytes, b"HTTP/1.1 503 No\r\n"].concat();
            let cut = cut.min(text.len());
            prop_assert_eq!(all(&[&text]), all(&[&text[..cut], &text[cut..]]));
        }
    }
}
