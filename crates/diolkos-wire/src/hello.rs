// SPDX-License-Identifier: Apache-2.0
//! The first words of a connection.
//!
//! ```text
//! client                                daemon
//!   PREFACE, Hello { versions, … }  ──>
//!                                   <──  Welcome { version, features of both, limits }   or Failed
//! ```
//!
//! The client may send further messages before it has the `Welcome`, if the default [`Limits`] suffice.

use alloc::boxed::Box;
use core::fmt;

use crate::cursor::{Reader, Wire, Writer};
use crate::error::DecodeError;
use crate::limits::{Limits, PEER_NAME_BYTES_MAX, TENANT_NAME_BYTES_MAX, TOKEN_BYTES_MAX};

/// What a client sends before its first frame: `DIOLKOS` and a zero, with the top bit of the `D` set.
///
/// No request of HTTP/1.1, no preface of HTTP/2 and no record of TLS begins with that byte, so a listener
/// that serves them all looks at one byte.
pub const PREFACE: [u8; 8] = *b"\xc4IOLKOS\0";

/// The version of the protocol that this crate speaks.
pub const VERSION: u16 = 1;

/// Refuses a connection that begins with anything but [`PREFACE`].
pub fn check_preface(given: &[u8; 8]) -> Result<(), DecodeError> {
    if *given == PREFACE { Ok(()) } else { Err(DecodeError::Preface { given: *given }) }
}

/// Both sides speak the protocol, and no version of it in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the client speaks versions {min} to {max} of the protocol, and this daemon speaks {VERSION}")]
pub struct NoCommonVersion {
    /// Lowest version of the client.
    pub min: u16,
    /// Highest version of the client.
    pub max: u16,
}

/// The highest version that both sides speak; the client speaks those from `min` to `max`.
pub fn choose_version(min: u16, max: u16) -> Result<u16, NoCommonVersion> {
    if (min..=max).contains(&VERSION) { Ok(VERSION) } else { Err(NoCommonVersion { min, max }) }
}

/// What a side can do beyond the plain protocol. Bits that this side does not know are kept and mean nothing.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Features(pub u64);

impl Features {
    /// Rings and regions in shared memory.
    pub const SHARED_MEMORY: Features = Features(1);
    /// Doorbells that are futexes in shared memory.
    pub const FUTEX: Features = Features(2);
    /// Doorbells that are event descriptors.
    pub const EVENTFD: Features = Features(4);
    /// Answers in more than one part.
    pub const STREAMING: Features = Features(8);

    const NAMES: [(Features, &str); 4] = [
        (Features::SHARED_MEMORY, "SHARED_MEMORY"),
        (Features::FUTEX, "FUTEX"),
        (Features::EVENTFD, "EVENTFD"),
        (Features::STREAMING, "STREAMING"),
    ];

    /// What both can do.
    #[must_use]
    pub const fn intersection(self, other: Features) -> Features {
        Features(self.0 & other.0)
    }

    /// What either can do.
    #[must_use]
    pub const fn union(self, other: Features) -> Features {
        Features(self.0 | other.0)
    }

    /// Whether all of `other` is among these.
    #[must_use]
    pub const fn contains(self, other: Features) -> bool {
        self.0 & other.0 == other.0
    }
}

impl fmt::Debug for Features {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut set = f.debug_set();
        let mut unnamed = self.0;
        for (feature, name) in Features::NAMES {
            if self.contains(feature) {
                set.entry(&format_args!("{name}"));
                unnamed &= !feature.0;
            }
        }
        if unnamed != 0 {
            set.entry(&format_args!("{unnamed:#x}"));
        }
        set.finish()
    }
}

/// A secret that says who the client is. It is never printed.
///
/// `==` takes as long as the common beginning is, so a daemon must not check a token with it.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Token(pub Box<[u8]>);

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Token({} bytes)", self.0.len())
    }
}

/// The client's first message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// Lowest version that the client speaks.
    pub version_min: u16,
    /// Highest version that the client speaks.
    pub version_max: u16,
    /// What the client can do.
    pub features: Features,
    /// Name of the client, for logs.
    pub client: Box<str>,
    /// Who it is, where the transport does not prove it; empty where it does.
    pub token: Token,
    /// The tenant that it speaks for, if it is a bridge; empty for itself.
    pub tenant: Box<str>,
}

impl Wire for Hello {
    fn write(&self, to: &mut Writer<'_>) {
        to.u16(self.version_min);
        to.u16(self.version_max);
        to.u64(self.features.0);
        to.text("client", PEER_NAME_BYTES_MAX, &self.client);
        to.bytes("token", TOKEN_BYTES_MAX, &self.token.0);
        to.text("tenant", TENANT_NAME_BYTES_MAX, &self.tenant);
    }

    fn read(from: &mut Reader<'_>) -> Result<Hello, DecodeError> {
        Ok(Hello {
            version_min: from.u16("version_min")?,
            version_max: from.u16("version_max")?,
            features: Features(from.u64("features")?),
            client: from.text("client", PEER_NAME_BYTES_MAX)?.into(),
            token: Token(from.bytes("token", TOKEN_BYTES_MAX)?.into()),
            tenant: from.text("tenant", TENANT_NAME_BYTES_MAX)?.into(),
        })
    }
}

/// Answers [`Hello`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Welcome {
    /// The version that both sides speak from now on.
    pub version: u16,
    /// What both sides can do.
    pub features: Features,
    /// What the client may use.
    pub limits: Limits,
    /// Name and version of the daemon, for logs.
    pub server: Box<str>,
}

impl Wire for Welcome {
    fn write(&self, to: &mut Writer<'_>) {
        to.u16(self.version);
        to.u64(self.features.0);
        self.limits.write(to);
        to.text("server", PEER_NAME_BYTES_MAX, &self.server);
    }

    fn read(from: &mut Reader<'_>) -> Result<Welcome, DecodeError> {
        Ok(Welcome {
            version: from.u16("version")?,
            features: Features(from.u64("features")?),
            limits: Limits::read(from)?,
            server: from.text("server", PEER_NAME_BYTES_MAX)?.into(),
        })
    }
}

impl Wire for Limits {
    fn write(&self, to: &mut Writer<'_>) {
        to.u32(self.message_bytes_max);
        to.u64(self.payload_bytes_max);
        to.u32(self.in_flight_max);
        to.u16(self.regions_max);
        to.u64(self.region_bytes_max);
        to.u64(self.regions_bytes_max);
    }

    fn read(from: &mut Reader<'_>) -> Result<Limits, DecodeError> {
        Ok(Limits {
            message_bytes_max: from.u32("message_bytes_max")?,
            payload_bytes_max: from.u64("payload_bytes_max")?,
            in_flight_max: from.u32("in_flight_max")?,
            regions_max: from.u16("regions_max")?,
            region_bytes_max: from.u64("region_bytes_max")?,
            regions_bytes_max: from.u64("regions_bytes_max")?,
        })
    }
}

#[cfg(test)]
mod tests {
    use alloc::format;

    use super::*;

    #[test]
    fn versions_meet_or_say_why_not() {
        assert_eq!(choose_version(1, 1), Ok(1));
        assert_eq!(choose_version(0, 9), Ok(1));
        for (min, max) in [(2, 9), (0, 0), (3, 1)] {
            assert_eq!(choose_version(min, max), Err(NoCommonVersion { min, max }));
        }
    }

    #[test]
    fn the_preface_is_no_other_protocol() {
        assert!(PREFACE[0] >= 0x80, "a method of HTTP is ASCII, and a TLS record begins with 0x16");
        assert_eq!(check_preface(&PREFACE), Ok(()));
        assert!(format!("{}", check_preface(b"GET / HT").unwrap_err()).contains("[47, 45, 54,"));
    }

    #[test]
    fn a_token_is_not_printed() {
        assert_eq!(format!("{:?}", Token(b"secret".as_slice().into())), "Token(6 bytes)");
    }

    #[test]
    fn features_print_by_name_and_meet() {
        let both = Features::FUTEX.union(Features(0x100));
        assert_eq!(format!("{both:?}"), "{FUTEX, 0x100}");
        assert_eq!(both.intersection(Features::FUTEX.union(Features::EVENTFD)), Features::FUTEX);
        assert!(!Features::FUTEX.contains(both));
    }
}
