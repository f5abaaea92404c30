// SPDX-License-Identifier: Apache-2.0
//! Rings and regions of shared memory, as far as messages tell of them.
//!
//! ```text
//! client                                          daemon
//!   makes a memory file and all its pages
//!   RegisterRegion + descriptor ──>                 maps it
//!                               <──               Done
//!   seals it against writing
//!   CommitRegion                ──>                 finds that all of it is there
//!                               <──               Done
//!   OpenChannel { in region … } ──>                 lays out rings and slots in it
//!                               <──               ChannelOpened { where they are }
//!                                                 + descriptors: request bell, reply bell
//! ```
//!
//! Descriptors travel beside the message (`SCM_RIGHTS`), with its first byte and in this order: the request bell if it is
//! [`Bell::Event`], then the reply bell if it is one.
//!
//! A decoded [`ChannelOpened`] has passed [`ChannelOpened::check`], so nothing in it lies outside the region's first
//! `segment_bytes`.

use crate::cursor::{Reader, Wire, Writer};
use crate::error::{DecodeError, LayoutError};
use crate::layout::{RING_ALIGN, RingPlace, SLOT_ALIGN, SlotsPlace, check_entries, check_slot_bytes};

/// How one side of a ring wakes the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Bell {
    /// By an event descriptor.
    Event = 1,
    /// By a futex on a word of the ring.
    Futex = 2,
    /// Not at all: the other side looks again and again.
    Polled = 3,
}

impl Bell {
    /// Every bell, in the order of their numbers, which begin at 1.
    pub const ALL: [Bell; 3] = [Bell::Event, Bell::Futex, Bell::Polled];
}

impl Wire for Bell {
    fn write(&self, to: &mut Writer<'_>) {
        to.u8(*self as u8);
    }

    fn read(from: &mut Reader<'_>) -> Result<Bell, DecodeError> {
        from.choice("bell", 1, &Bell::ALL)
    }
}

/// Asks for a pair of rings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpenChannel {
    /// Entries of each ring, a power of two.
    pub entries: u32,
    /// Bytes of one message slot, a multiple of 64.
    pub slot_bytes: u32,
    /// How the client wants to be woken.
    pub replies: Bell,
    /// The region in which they are to lie, from its beginning on.
    pub region: u16,
}

impl OpenChannel {
    /// Where everything lies: rings first, then slots, one for each answer. The ring of requests has twice as many
    /// entries, so that each request can be cancelled as well. `segment_bytes` of it are what a region must have.
    #[must_use]
    pub fn lay_out(&self) -> ChannelOpened {
        let &OpenChannel { entries, slot_bytes, replies, .. } = self;
        let submissions = RingPlace { offset: 0, entries: 2 * entries };
        let offset = submissions.bytes().next_multiple_of(RING_ALIGN);
        let completions = RingPlace { offset, entries };
        let slots = SlotsPlace {
            offset: (completions.offset + completions.bytes()).next_multiple_of(SLOT_ALIGN),
            count: entries,
            bytes: slot_bytes,
        };
        let segment_bytes = slots.offset + u64::from(entries) * u64::from(slot_bytes);
        ChannelOpened { segment_bytes, submissions, completions, slots, requests: Bell::Event, replies }
    }

    /// Whether such rings and slots can be.
    pub fn check(&self) -> Result<(), LayoutError> {
        check_entries("each ring", self.entries)?;
        check_slot_bytes(self.slot_bytes)
    }
}

impl Wire for OpenChannel {
    fn write(&self, to: &mut Writer<'_>) {
        if let Err(error) = self.check() {
            to.refuse(error.into());
        }
        to.u32(self.entries);
        to.u32(self.slot_bytes);
        self.replies.write(to);
        to.u16(self.region);
    }

    fn read(from: &mut Reader<'_>) -> Result<OpenChannel, DecodeError> {
        let asked = OpenChannel {
            entries: from.u32("entries")?,
            slot_bytes: from.u32("slot_bytes")?,
            replies: Bell::read(from)?,
            region: from.u16("region")?,
        };
        asked.check()?;
        Ok(asked)
    }
}

/// Answers [`OpenChannel`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChannelOpened {
    /// How much of the region it takes, from its beginning on.
    pub segment_bytes: u64,
    /// The ring in which requests come.
    pub submissions: RingPlace,
    /// The ring in which answers go.
    pub completions: RingPlace,
    /// Where messages lie that are too long for an entry.
    pub slots: SlotsPlace,
    /// How the client wakes the daemon.
    pub requests: Bell,
    /// How the daemon wakes the client.
    pub replies: Bell,
}

impl ChannelOpened {
    /// Whether all of it lies inside the segment and nothing overlaps. A client compares `segment_bytes` with its
    /// region.
    pub fn check(&self) -> Result<(), LayoutError> {
        let mut spans = [
            self.submissions.check("the submissions", self.segment_bytes)?,
            self.completions.check("the completions", self.segment_bytes)?,
            self.slots.check(self.segment_bytes)?,
        ];
        spans.sort_unstable_by_key(|span| span.offset);
        for [first, second] in spans.array_windows() {
            // Both end inside the segment, so the sum is no larger than its length.
            if first.offset + first.bytes > second.offset {
                return Err(LayoutError::Overlap { first: first.what, second: second.what });
            }
        }
        Ok(())
    }
}

impl Wire for ChannelOpened {
    fn write(&self, to: &mut Writer<'_>) {
        if let Err(error) = self.check() {
            to.refuse(error.into());
        }
        to.u64(self.segment_bytes);
        self.submissions.write(to);
        self.completions.write(to);
        self.slots.write(to);
        self.requests.write(to);
        self.replies.write(to);
    }

    fn read(from: &mut Reader<'_>) -> Result<ChannelOpened, DecodeError> {
        let opened = ChannelOpened {
            segment_bytes: from.u64("segment_bytes")?,
            submissions: RingPlace::read(from)?,
            completions: RingPlace::read(from)?,
            slots: SlotsPlace::read(from)?,
            requests: Bell::read(from)?,
            replies: Bell::read(from)?,
        };
        opened.check()?;
        Ok(opened)
    }
}

/// Tells of memory in which tensors may lie, and rings. Its descriptor comes beside the message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RegisterRegion {
    /// The number by which the client will name it.
    pub region: u16,
    /// Its length in bytes.
    pub length: u64,
}

impl Wire for RegisterRegion {
    fn write(&self, to: &mut Writer<'_>) {
        to.u16(self.region);
        to.u64(self.length);
    }

    fn read(from: &mut Reader<'_>) -> Result<RegisterRegion, DecodeError> {
        Ok(RegisterRegion { region: from.u16("region")?, length: from.u64("length")? })
    }
}

/// A region is sealed against writing, and its pages are all there: from now on requests may name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CommitRegion {
    /// Which.
    pub region: u16,
}

impl Wire for CommitRegion {
    fn write(&self, to: &mut Writer<'_>) {
        to.u16(self.region);
    }

    fn read(from: &mut Reader<'_>) -> Result<CommitRegion, DecodeError> {
        Ok(CommitRegion { region: from.u16("region")? })
    }
}

/// Gives a region back. Requests that use it go on, and the daemon lets go of it after the last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CloseRegion {
    /// Which.
    pub region: u16,
}

impl Wire for CloseRegion {
    fn write(&self, to: &mut Writer<'_>) {
        to.u16(self.region);
    }

    fn read(from: &mut Reader<'_>) -> Result<CloseRegion, DecodeError> {
        Ok(CloseRegion { region: from.u16("region")? })
    }
}

#[cfg(test)]
#[path = "channel_tests.rs"]
mod tests;
