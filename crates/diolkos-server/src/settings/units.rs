// SPDX-License-Identifier: Apache-2.0
//! Values with a unit: `"5s"`, `"64MiB"`, `"0600"`, and the two closed sets of the log section.

use std::fmt;
use std::num::NonZeroU64;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Why text is no value of some unit.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UnitError {
    /// No number with a unit of time.
    #[error("`{0}` is no duration: write a whole number and us, ms, s, m or h, such as \"250ms\" or \"5s\"")]
    Interval(String),
    /// No number with a unit of size.
    #[error("`{0}` is no size: write a whole number and B, KiB, MiB, GiB or TiB, such as \"64MiB\"")]
    Size(String),
    /// A number that does not fit.
    #[error("`{0}` is too large")]
    TooLarge(String),
    /// No rate.
    #[error("`{0}` is no rate: write a whole number of requests and /s, /m or /h, such as \"100/s\"")]
    Rate(String),
    /// No rate of bytes.
    #[error("`{0}` is no rate of bytes: write a size and /s, such as \"64MiB/s\"")]
    BytesRate(String),
    /// No permissions.
    #[error("`{0}` is no file mode: write three octal digits behind a 0, such as \"0600\"")]
    Mode(String),
    /// No level of log lines.
    #[error("`{0}` is no log level: error, warn, info, debug and trace are")]
    LogLevel(String),
    /// No format of log lines.
    #[error("`{0}` is no log format: text and json are")]
    LogFormat(String),
}

/// As much of hostile or mistyped text as an error message shows.
fn excerpt(text: &str) -> String {
    text.chars().take(60).collect()
}

/// Whole number and unit, such as `5` and `s`.
fn split(text: &str) -> Option<(u64, &str)> {
    let digits = text.find(|c: char| !c.is_ascii_digit())?;
    let (number, unit) = text.split_at(digits);
    if number.is_empty() {
        return None;
    }
    // A number that is too long for u64 is too large in any unit.
    Some((number.parse().unwrap_or(u64::MAX), unit.trim_start()))
}

macro_rules! text_in_toml {
    ($($type:ident),*) => {$(
        impl TryFrom<String> for $type {
            type Error = UnitError;

            fn try_from(text: String) -> Result<$type, UnitError> {
                text.parse()
            }
        }

        impl From<$type> for String {
            fn from(value: $type) -> String {
                value.to_string()
            }
        }
    )*};
}

text_in_toml!(Interval, Size, RequestRate, BytesRate, Mode, LogLevel, LogFormat);

/// A length of time, written `"60us"`, `"250ms"`, `"5s"`, `"2m"` or `"1h"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Interval(Duration);

impl Interval {
    /// Longest that can be written: a hundred years, so that adding one to a clock never overflows.
    const MAX: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

    /// So many seconds.
    #[must_use]
    pub const fn seconds(seconds: u64) -> Interval {
        Interval(Duration::from_secs(seconds))
    }

    /// So many milliseconds.
    #[must_use]
    pub const fn millis(milliseconds: u64) -> Interval {
        Interval(Duration::from_millis(milliseconds))
    }

    /// So many microseconds.
    #[must_use]
    pub const fn micros(microseconds: u64) -> Interval {
        Interval(Duration::from_micros(microseconds))
    }

    /// The time.
    #[must_use]
    pub const fn get(self) -> Duration {
        self.0
    }
}

impl FromStr for Interval {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Interval, UnitError> {
        let bad = || UnitError::Interval(excerpt(text));
        let (number, unit) = split(text).ok_or_else(bad)?;
        let unit_us = match unit {
            "us" => 1,
            "ms" => 1000,
            "s" => 1_000_000,
            "m" => 60_000_000,
            "h" => 3_600_000_000,
            _ => return Err(bad()),
        };
        let time = number.checked_mul(unit_us).map(Duration::from_micros);
        time.filter(|time| *time <= Self::MAX).map(Interval).ok_or_else(|| UnitError::TooLarge(excerpt(text)))
    }
}

impl fmt::Display for Interval {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.subsec_nanos() == 0 {
            write!(f, "{}s", self.0.as_secs())
        } else if self.0.subsec_micros().is_multiple_of(1000) {
            write!(f, "{}ms", self.0.as_millis())
        } else {
            write!(f, "{}us", self.0.as_micros())
        }
    }
}

/// A number of bytes, written `"512B"`, `"64MiB"`, `"4GiB"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Size(u64);

/// Largest first, so that writing finds the largest unit that divides the number.
const SIZE_UNITS: [(&str, u32); 5] = [("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10), ("B", 0)];

impl Size {
    /// So many bytes.
    #[must_use]
    pub const fn new(bytes: u64) -> Size {
        Size(bytes)
    }

    /// So many GiB.
    #[must_use]
    pub const fn gibibytes(number: u64) -> Size {
        Size(number << 30)
    }

    /// The number of bytes.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The number of bytes, for sizes of things in memory.
    #[must_use]
    pub fn as_usize(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }
}

impl FromStr for Size {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Size, UnitError> {
        let bad = || UnitError::Size(excerpt(text));
        let (number, unit) = split(text).ok_or_else(bad)?;
        let (_, shift) = SIZE_UNITS.into_iter().find(|(name, _)| *name == unit).ok_or_else(bad)?;
        number.checked_mul(1 << shift).map(Size).ok_or_else(|| UnitError::TooLarge(excerpt(text)))
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let divides = |shift: u32| self.0 >= 1 << shift && self.0.trailing_zeros() >= shift;
        let (unit, shift) = SIZE_UNITS.into_iter().find(|&(_, shift)| divides(shift)).unwrap_or(("B", 0));
        write!(f, "{}{unit}", self.0 >> shift)
    }
}

/// So many requests in a time, written `"100/s"`, `"30/m"` or `"1/h"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RequestRate {
    requests: u32,
    unit: char,
}

impl RequestRate {
    fn seconds(self) -> u64 {
        match self.unit {
            's' => 1,
            'm' => 60,
            _ => 3600,
        }
    }

    /// Time from one request to the next.
    #[must_use]
    pub fn interval(self) -> Duration {
        Duration::from_secs(self.seconds()) / self.requests
    }

    /// Requests in a second, at least 1.
    #[must_use]
    pub fn per_second(self) -> u32 {
        (u64::from(self.requests) / self.seconds()).max(1) as u32
    }
}

impl FromStr for RequestRate {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<RequestRate, UnitError> {
        let bad = || UnitError::Rate(excerpt(text));
        let (number, unit) = split(text).ok_or_else(bad)?;
        let unit = match unit {
            "/s" => 's',
            "/m" => 'm',
            "/h" => 'h',
            _ => return Err(bad()),
        };
        // More than a million per second is no limit any more, and 0 is none at all.
        let requests = u32::try_from(number).ok().filter(|&number| number <= 1_000_000);
        let requests = requests.ok_or_else(|| UnitError::TooLarge(excerpt(text)))?;
        if requests == 0 { Err(bad()) } else { Ok(RequestRate { requests, unit }) }
    }
}

impl fmt::Display for RequestRate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.requests, self.unit)
    }
}

/// So many bytes in a second, written `"64MiB/s"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct BytesRate(Size);

impl BytesRate {
    /// Bytes in a second.
    #[must_use]
    pub fn get(self) -> NonZeroU64 {
        NonZeroU64::new(self.0.get()).expect("0 is refused when it is read")
    }
}

impl FromStr for BytesRate {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<BytesRate, UnitError> {
        let bad = || UnitError::BytesRate(excerpt(text));
        let size: Size = text.strip_suffix("/s").ok_or_else(bad)?.parse().map_err(|_| bad())?;
        if size.get() == 0 { Err(bad()) } else { Ok(BytesRate(size)) }
    }
}

impl fmt::Display for BytesRate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/s", self.0)
    }
}

/// Permissions of a file, written in octal: `"0600"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Mode(u32);

impl Mode {
    /// Only the owner may connect.
    pub const OWNER_ONLY: Mode = Mode(0o600);

    /// The bits.
    #[must_use]
    pub const fn get(self) -> u32 {
        self.0
    }
}

impl FromStr for Mode {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Mode, UnitError> {
        let digits = text.strip_prefix('0').filter(|digits| digits.len() == 3 && digits.is_ascii());
        let bits = digits.and_then(|digits| u32::from_str_radix(digits, 8).ok());
        bits.map(Mode).ok_or_else(|| UnitError::Mode(excerpt(text)))
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04o}", self.0)
    }
}

/// How much is logged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum LogLevel {
    /// Somebody must act now.
    Error,
    /// Somebody should look.
    Warn,
    /// What the daemon does.
    #[default]
    Info,
    /// What each request does.
    Debug,
    /// Everything, libraries included.
    Trace,
}

impl LogLevel {
    const ALL: [LogLevel; 5] =
        [LogLevel::Error, LogLevel::Warn, LogLevel::Info, LogLevel::Debug, LogLevel::Trace];

    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            LogLevel::Error => "error",
            LogLevel::Warn => "warn",
            LogLevel::Info => "info",
            LogLevel::Debug => "debug",
            LogLevel::Trace => "trace",
        }
    }
}

impl FromStr for LogLevel {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<LogLevel, UnitError> {
        let found = Self::ALL.into_iter().find(|level| level.name() == text);
        found.ok_or_else(|| UnitError::LogLevel(excerpt(text)))
    }
}

impl fmt::Display for LogLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// How a log line looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object per line.
    Json,
}

impl FromStr for LogFormat {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<LogFormat, UnitError> {
        match text {
            "text" => Ok(LogFormat::Text),
            "json" => Ok(LogFormat::Json),
            _ => Err(UnitError::LogFormat(excerpt(text))),
        }
    }
}

impl fmt::Display for LogFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            LogFormat::Text => "text",
            LogFormat::Json => "json",
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn units() {
        assert_eq!("60us".parse(), Ok(Interval::micros(60)));
        assert_eq!("250ms".parse(), Ok(Interval::millis(250)));
        assert_eq!("2m".parse(), Ok(Interval::seconds(120)));
        assert_eq!("5 s".parse(), Ok(Interval::seconds(5)));
        assert_eq!("64MiB".parse(), Ok(Size::new(64 << 20)));
        assert_eq!("0600".parse(), Ok(Mode::OWNER_ONLY));
        for bad in ["", "5", "s", "-1s", "1.5s", "5 sec", "5S"] {
            assert_eq!(bad.parse::<Interval>(), Err(UnitError::Interval(bad.into())), "{bad}");
        }
        for bad in ["", "5", "MiB", "5MB", "5 mib"] {
            assert_eq!(bad.parse::<Size>(), Err(UnitError::Size(bad.into())), "{bad}");
        }
        for bad in ["600", "0800", "00600", "rw", "0é"] {
            assert_eq!(bad.parse::<Mode>(), Err(UnitError::Mode(bad.into())), "{bad}");
        }
        assert!(matches!("99999999999999999999h".parse::<Interval>(), Err(UnitError::TooLarge(_))));
        assert!(matches!("16777216TiB".parse::<Size>(), Err(UnitError::TooLarge(_))));
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back(ms in 0u64..1 << 40, bytes: u64, mode in 0u32..0o1000) {
            prop_assert_eq!(Interval::millis(ms).to_string().parse(), Ok(Interval::millis(ms)));
            prop_assert_eq!(Interval::micros(ms).to_string().parse(), Ok(Interval::micros(ms)));
            prop_assert_eq!(Size(bytes).to_string().parse(), Ok(Size(bytes)));
            prop_assert_eq!(Mode(mode).to_string().parse(), Ok(Mode(mode)));
        }

        #[test]
        fn never_panics(text in ".{0,30}") {
            let _ = text.parse::<Interval>();
            let _ = text.parse::<Size>();
            let _ = text.parse::<Mode>();
        }
    }
}
