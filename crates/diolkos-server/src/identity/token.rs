// SPDX-License-Identifier: Apache-2.0
//! Bearer tokens: 256 random bits that a client shows, of which the settings know the SHA-256 only.
//!
//! A fast hash is enough because a token is random and long: there is nothing to guess. That is why the daemon makes
//! them (`diolkos token`) rather than people.

use std::fmt;
use std::io;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::hex;

/// What every token begins with, so that one that leaks is recognised for what it is.
const PREFIX: &str = "diolkos_";

/// The hash of a token.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TokenHash([u8; 32]);

impl TokenHash {
    /// Of this token.
    #[must_use]
    pub fn of(token: &str) -> TokenHash {
        TokenHash(Sha256::digest(token.as_bytes()).into())
    }
}

/// Text is no hash of a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "this is no hash of a token: write \"sha256:\" and 64 hexadecimal digits, which `diolkos token` prints with a new token"
)]
pub struct NoTokenHash;

impl FromStr for TokenHash {
    type Err = NoTokenHash;

    fn from_str(text: &str) -> Result<TokenHash, NoTokenHash> {
        let digits = text.strip_prefix("sha256:").ok_or(NoTokenHash)?;
        hex::digest(digits).map(TokenHash).ok_or(NoTokenHash)
    }
}

impl TryFrom<String> for TokenHash {
    type Error = NoTokenHash;

    fn try_from(text: String) -> Result<TokenHash, NoTokenHash> {
        text.parse()
    }
}

impl From<TokenHash> for String {
    fn from(hash: TokenHash) -> String {
        hash.to_string()
    }
}

impl fmt::Display for TokenHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", hex::text(&self.0))
    }
}

impl fmt::Debug for TokenHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A new token, from the kernel's random numbers.
pub fn new_token() -> io::Result<String> {
    let mut random = [0; 32];
    io::Read::read_exact(&mut std::fs::File::open("/dev/urandom")?, &mut random)?;
    Ok(format!("{PREFIX}{}", hex::text(&random)))
}

/// The token in the value of an `authorization` header (RFC 6750, section 2.1).
pub(crate) fn bearer(header: &[u8]) -> Option<&str> {
    let text = std::str::from_utf8(header).ok()?;
    let (scheme, token) = text.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim()).filter(|token| !token.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_read_as_they_are_written() {
        let token = new_token().unwrap();
        assert_eq!((token.len(), token.starts_with("diolkos_")), (72, true));
        assert_ne!(token, new_token().unwrap());
        let hash = TokenHash::of(&token);
        assert_eq!(hash.to_string().parse(), Ok(hash));
        assert_ne!(hash, TokenHash::of("other"));
        // FIPS 180-4's example.
        let abc = "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(TokenHash::of("abc").to_string(), abc);
        for text in ["", "sha256:", "sha256:zz", &abc[7..], &abc[..70], &abc.replace("ba", "bä")] {
            assert_eq!(text.parse::<TokenHash>(), Err(NoTokenHash), "{text}");
        }
    }

    #[test]
    fn the_scheme_is_bearer() {
        assert_eq!(bearer(b"Bearer abc"), Some("abc"));
        assert_eq!(bearer(b"bearer  abc "), Some("abc"));
        for header in [&b"abc"[..], b"Basic abc", b"Bearer ", b"Bearer", b"", b"\xff abc"] {
            assert_eq!(bearer(header), None);
        }
    }
}
