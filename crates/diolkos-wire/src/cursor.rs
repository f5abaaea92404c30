// SPDX-License-Identifier: Apache-2.0
//! Reading and writing the few shapes that fields have. Everything is little endian and unaligned.
//!
//! | shape | bytes |
//! |---|---|
//! | number | as wide as its type |
//! | one of a few | `u8` |
//! | text | `u16` length, then UTF-8 |
//! | bytes | `u32` length, then the bytes |
//! | optional | `u8` 0, or `u8` 1 and the value |
//! | list | `u16` count, then the entries |
//!
//! A [`Reader`] takes nothing on trust: a length or a count is held against what is really left before
//! anything is allocated for it.

use alloc::vec::Vec;
use core::num::NonZeroU64;

use crate::error::{DecodeError, EncodeError};

/// A value that has one encoding.
pub(crate) trait Wire: Sized {
    /// Appends the value.
    fn write(&self, to: &mut Writer<'_>);
    /// Reads what [`Wire::write`] wrote.
    fn read(from: &mut Reader<'_>) -> Result<Self, DecodeError>;
}

/// A value that lists are made of.
pub(crate) trait Item: Wire {
    /// Bytes of its smallest encoding, at least 1. A list has at most as many entries as fit.
    const BYTES_MIN: usize;
}

/// Walks over the body of a message.
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Reader<'a> {
        Reader { rest: bytes }
    }

    fn truncated(&self, what: &'static str, needed: usize) -> DecodeError {
        DecodeError::Truncated { what, needed, left: self.rest.len() }
    }

    fn array<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N], DecodeError> {
        let (head, rest) = self.rest.split_first_chunk::<N>().ok_or_else(|| self.truncated(what, N))?;
        self.rest = rest;
        Ok(*head)
    }

    fn take(&mut self, what: &'static str, length: usize) -> Result<&'a [u8], DecodeError> {
        let (head, rest) = self.rest.split_at_checked(length).ok_or_else(|| self.truncated(what, length))?;
        self.rest = rest;
        Ok(head)
    }

    pub(crate) fn u8(&mut self, what: &'static str) -> Result<u8, DecodeError> {
        self.array::<1>(what).map(|[byte]| byte)
    }

    pub(crate) fn u16(&mut self, what: &'static str) -> Result<u16, DecodeError> {
        self.array(what).map(u16::from_le_bytes)
    }

    pub(crate) fn u32(&mut self, what: &'static str) -> Result<u32, DecodeError> {
        self.array(what).map(u32::from_le_bytes)
    }

    pub(crate) fn u64(&mut self, what: &'static str) -> Result<u64, DecodeError> {
        self.array(what).map(u64::from_le_bytes)
    }

    pub(crate) fn i64(&mut self, what: &'static str) -> Result<i64, DecodeError> {
        self.array(what).map(i64::from_le_bytes)
    }

    pub(crate) fn f64(&mut self, what: &'static str) -> Result<f64, DecodeError> {
        self.array(what).map(f64::from_le_bytes)
    }

    /// A number that is 0 where there is none.
    pub(crate) fn nonzero(&mut self, what: &'static str) -> Result<Option<NonZeroU64>, DecodeError> {
        self.u64(what).map(NonZeroU64::new)
    }

    /// One of `all`, which are numbered one after the other from `first` on.
    pub(crate) fn choice<T: Copy>(
        &mut self,
        what: &'static str,
        first: u8,
        all: &[T],
    ) -> Result<T, DecodeError> {
        let given = self.u8(what)?;
        let known = given.checked_sub(first).and_then(|index| all.get(usize::from(index)));
        known.copied().ok_or(DecodeError::UnknownNumber {
            what,
            given,
            first,
            last: first.saturating_add(u8::try_from(all.len()).unwrap_or(u8::MAX)).saturating_sub(1),
        })
    }

    pub(crate) fn bool(&mut self, what: &'static str) -> Result<bool, DecodeError> {
        self.choice(what, 0, &[false, true])
    }

    /// Fills `numbers`, without a count in front.
    pub(crate) fn u64s(&mut self, what: &'static str, numbers: &mut [u64]) -> Result<(), DecodeError> {
        let bytes = self.take(what, size_of_val(numbers))?;
        for (number, bytes) in numbers.iter_mut().zip(bytes.as_chunks().0) {
            *number = u64::from_le_bytes(*bytes);
        }
        Ok(())
    }

    pub(crate) fn text(&mut self, what: &'static str, max: usize) -> Result<&'a str, DecodeError> {
        let length = usize::from(self.u16(what)?);
        let bytes = self.bounded(what, length, max)?;
        core::str::from_utf8(bytes).map_err(|error| DecodeError::NotUtf8 { what, at: error.valid_up_to() })
    }

    pub(crate) fn bytes(&mut self, what: &'static str, max: usize) -> Result<&'a [u8], DecodeError> {
        let length = self.u32(what)? as usize;
        self.bounded(what, length, max)
    }

    fn bounded(&mut self, what: &'static str, length: usize, max: usize) -> Result<&'a [u8], DecodeError> {
        if length > max {
            return Err(DecodeError::TooLong { what, max: max as u64, given: length as u64 });
        }
        self.take(what, length)
    }

    /// A count of at most `max` things of at least `bytes_min` bytes each that are really there.
    pub(crate) fn count(
        &mut self,
        what: &'static str,
        max: usize,
        bytes_min: usize,
    ) -> Result<usize, DecodeError> {
        let given = usize::from(self.u16(what)?);
        if given > max {
            return Err(DecodeError::TooMany { what, max, given });
        }
        let needed = given * bytes_min;
        if needed > self.rest.len() {
            return Err(self.truncated(what, needed));
        }
        Ok(given)
    }

    pub(crate) fn list<T: Item>(&mut self, what: &'static str, max: usize) -> Result<Vec<T>, DecodeError> {
        let count = self.count(what, max, T::BYTES_MIN)?;
        let mut items = Vec::with_capacity(count);
        for _ in 0..count {
            items.push(T::read(self)?);
        }
        Ok(items)
    }

    /// Refuses a body that goes on.
    pub(crate) fn end(self) -> Result<(), DecodeError> {
        if self.rest.is_empty() { Ok(()) } else { Err(DecodeError::Trailing { bytes: self.rest.len() }) }
    }
}

/// Appends to a buffer. The first thing that goes beyond a bound is kept until [`Writer::finish`], so
/// that writing a message needs no check after each field.
pub(crate) struct Writer<'a> {
    out: &'a mut Vec<u8>,
    start: usize,
    refused: Option<EncodeError>,
}

impl<'a> Writer<'a> {
    pub(crate) fn new(out: &'a mut Vec<u8>) -> Writer<'a> {
        let start = out.len();
        Writer { out, start, refused: None }
    }

    /// Takes back everything if anything was refused.
    pub(crate) fn finish(self) -> Result<(), EncodeError> {
        match self.refused {
            None => Ok(()),
            Some(error) => {
                self.out.truncate(self.start);
                Err(error)
            }
        }
    }

    pub(crate) fn refuse(&mut self, error: EncodeError) {
        self.refused.get_or_insert(error);
    }

    pub(crate) fn u8(&mut self, value: u8) {
        self.out.push(value);
    }

    pub(crate) fn u16(&mut self, value: u16) {
        self.out.extend_from_slice(&value.to_le_bytes());
    }

    pub(crate) fn u32(&mut self, value: u32) {
        self.out.extend_from_slice(&value.to_le_bytes());
    }

    pub(crate) fn u64(&mut self, value: u64) {
        self.out.extend_from_slice(&value.to_le_bytes());
    }

    pub(crate) fn i64(&mut self, value: i64) {
        self.out.extend_from_slice(&value.to_le_bytes());
    }

    pub(crate) fn f64(&mut self, value: f64) {
        self.out.extend_from_slice(&value.to_le_bytes());
    }

    pub(crate) fn nonzero(&mut self, value: Option<NonZeroU64>) {
        self.u64(value.map_or(0, NonZeroU64::get));
    }

    pub(crate) fn bool(&mut self, value: bool) {
        self.u8(u8::from(value));
    }

    pub(crate) fn text(&mut self, what: &'static str, max: usize, text: &str) {
        match u16::try_from(text.len()) {
            Ok(length) if text.len() <= max => {
                self.u16(length);
                self.out.extend_from_slice(text.as_bytes());
            }
            _ => self.refuse(EncodeError::TooLong { what, max, given: text.len() }),
        }
    }

    pub(crate) fn bytes(&mut self, what: &'static str, max: usize, bytes: &[u8]) {
        match u32::try_from(bytes.len()) {
            Ok(length) if bytes.len() <= max => {
                self.u32(length);
                self.out.extend_from_slice(bytes);
            }
            _ => self.refuse(EncodeError::TooLong { what, max, given: bytes.len() }),
        }
    }

    /// Writes a count. Returns whether the entries may follow.
    pub(crate) fn count(&mut self, what: &'static str, max: usize, count: usize) -> bool {
        match u16::try_from(count) {
            Ok(number) if count <= max => {
                self.u16(number);
                true
            }
            _ => {
                self.refuse(EncodeError::TooMany { what, max, given: count });
                false
            }
        }
    }

    pub(crate) fn list<T: Item>(&mut self, what: &'static str, max: usize, items: &[T]) {
        if self.count(what, max, items.len()) {
            items.iter().for_each(|item| item.write(self));
        }
    }
}

#[cfg(test)]
#[path = "cursor_tests.rs"]
mod tests;
