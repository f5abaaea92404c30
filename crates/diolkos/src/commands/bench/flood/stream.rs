// SPDX-License-Identifier: Apache-2.0
//! One connection of a flood: what can be written at once is written, answers are counted, and nothing is waited for.

use std::io::{ErrorKind, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;

use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};

use super::results::Sent;
use super::scan::Scanner;

/// Written at once of a long message, so that the budget is looked at in between.
const PIECE_BYTES: usize = 256 << 10;

/// Read at once.
const READ_BYTES: usize = 16 << 10;

/// A request over and over.
#[derive(Debug)]
pub(super) struct Message {
    pub(super) bytes: Vec<u8>,
    /// Bytes until its header has ended; it counts as a request from there on.
    pub(super) head_bytes: usize,
}

/// What became of a try to write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pushed {
    /// The message is written to its end.
    Whole,
    /// A part of it is.
    Part,
    /// Nothing is, because the other side takes nothing now.
    Blocked,
    /// The other side has closed.
    Closed,
}

/// The other side has closed the connection.
#[derive(Debug)]
pub(super) struct Closed;

/// An open connection.
#[derive(Debug)]
pub(super) struct Stream {
    socket: UnixStream,
    scanner: Scanner,
    /// Bytes of the message that are written.
    written: usize,
}

impl Stream {
    /// Connects; `None` if nobody accepts as fast as this.
    pub(super) fn open(path: &Path, sent: &mut Sent) -> std::io::Result<Option<Stream>> {
        let socket = socket_with(
            AddressFamily::UNIX,
            SocketType::STREAM,
            SocketFlags::NONBLOCK | SocketFlags::CLOEXEC,
            None,
        )?;
        match connect(&socket, &SocketAddrUnix::new(path)?) {
            Ok(()) => {}
            Err(rustix::io::Errno::AGAIN) => {
                sent.unaccepted += 1;
                return Ok(None);
            }
            Err(error) => return Err(error.into()),
        }
        sent.connections += 1;
        Ok(Some(Stream { socket: socket.into(), scanner: Scanner::default(), written: 0 }))
    }

    /// Whether a message has not begun.
    pub(super) fn is_between_messages(&self) -> bool {
        self.written == 0
    }

    /// Writes a piece of the message.
    pub(super) fn push(&mut self, message: &Message, sent: &mut Sent) -> Pushed {
        let rest = &message.bytes[self.written..];
        match self.socket.write(&rest[..rest.len().min(PIECE_BYTES)]) {
            Ok(length) => {
                let before = self.written;
                self.written += length;
                sent.bytes += length as u64;
                sent.requests += u64::from(before < message.head_bytes && self.written >= message.head_bytes);
                if self.written < message.bytes.len() {
                    return Pushed::Part;
                }
                self.written = 0;
                Pushed::Whole
            }
            Err(error) if is_for_now(&error) => Pushed::Blocked,
            Err(_) => Pushed::Closed,
        }
    }

    /// Writes bytes that are no message, as far as they go.
    pub(super) fn put(&mut self, bytes: &[u8], sent: &mut Sent) {
        // Whoever closes or takes nothing here shows it when answers are taken.
        sent.bytes += self.socket.write(bytes).map_or(0, |length| length as u64);
    }

    /// Counts the answers that are there, and tells how many there were.
    pub(super) fn take_answers(&mut self, sent: &mut Sent) -> Result<u64, Closed> {
        let (mut bytes, mut answers) = ([0; READ_BYTES], 0);
        loop {
            match self.socket.read(&mut bytes) {
                Ok(0) => return Err(Closed),
                Ok(length) => self.scanner.feed(&bytes[..length], |status| {
                    answers += 1;
                    *sent.answers.entry(status).or_default() += 1;
                }),
                Err(error) if is_for_now(&error) => return Ok(answers),
                Err(_) => return Err(Closed),
            }
        }
    }
}

fn is_for_now(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted)
}
