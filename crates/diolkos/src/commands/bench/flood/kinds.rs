// SPDX-License-Identifier: Apache-2.0
//! The floods.
//!
//! | flood | sends |
//! |---|---|
//! | requests | small inference requests on connections that are kept; one that no connection takes is given up |
//! | bodies | requests with bodies of [`BODY_BYTES`], one after the other on [`SENDERS`] connections, hanging up at every answer |
//! | connections | opens connections, keeps [`HELD`], closes the oldest for the next; a third each say nothing, half a header, and a request |

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::time::Duration;

use diolkos_types::{DataType, Shape};

use super::budget::Pace;
use super::results::Sent;
use super::stream::{Message, Pushed, Stream};
use crate::client::encode_request;
use crate::tensor::Value;

/// Connections that requests come on, and bodies. As many as a sandbox's pool of workers may have.
pub(super) const SENDERS: usize = 16;

/// Payload of a small request.
const SMALL_BYTES: usize = 64;

/// Payload of a huge one: far above what is read of a tenant that sends too much, and below the largest body allowed.
pub(super) const BODY_BYTES: usize = 16 << 20;

/// Connections that are held.
pub(super) const HELD: usize = 2000;

/// Connections that are opened per second: all that are held, in a second.
pub(super) const OPENED_PER_SECOND: f64 = HELD as f64;

/// A kind of flood.
pub(super) trait Flood {
    /// Sends what is due and can be sent, and tells whether anything was.
    fn step(&mut self, elapsed: Duration, sent: &mut Sent) -> std::io::Result<bool>;
}

/// A request to echo so many bytes.
fn request(payload: usize) -> Message {
    let shape = Shape::new(&[payload as u64]).expect("one dimension is a shape");
    let data = vec![7; payload].into();
    let input = Value { name: "data".into(), data_type: DataType::Uint8, shape, data };
    let (body, json_bytes) = encode_request(&[input], &[]);
    let mut bytes = format!(
        "POST /v2/models/echo/infer HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/octet-stream\r\n\
         inference-header-content-length: {json_bytes}\r\ncontent-length: {}\r\n\r\n",
        body.len()
    )
    .into_bytes();
    let head_bytes = bytes.len();
    bytes.extend_from_slice(&body);
    Message { bytes, head_bytes }
}

/// Connections that are there when they are needed.
#[derive(Debug)]
struct Pool {
    path: PathBuf,
    streams: Vec<Option<Stream>>,
    next: usize,
}

impl Pool {
    fn new(path: &Path) -> Pool {
        Pool { path: path.into(), streams: (0..SENDERS).map(|_| None).collect(), next: 0 }
    }

    /// Opens all, as far as they can be had now.
    fn open(&mut self, sent: &mut Sent) -> std::io::Result<()> {
        for place in &mut self.streams {
            *place = Stream::open(&self.path, sent)?;
        }
        Ok(())
    }

    /// The next one in turn; `None` if it can't be had now.
    fn turn(&mut self, sent: &mut Sent) -> std::io::Result<Option<&mut Option<Stream>>> {
        let place = &mut self.streams[self.next];
        self.next = (self.next + 1) % SENDERS;
        if place.is_none() {
            *place = Stream::open(&self.path, sent)?;
        }
        Ok(place.is_some().then_some(place))
    }
}

/// Small requests.
#[derive(Debug)]
pub(super) struct Requests {
    pool: Pool,
    pace: Pace,
    message: Message,
    began: bool,
}

impl Requests {
    pub(super) fn new(path: &Path, per_second: f64) -> Requests {
        let (pool, pace) = (Pool::new(path), Pace::new(per_second));
        Requests { pool, pace, message: request(SMALL_BYTES), began: false }
    }
}

impl Flood for Requests {
    fn step(&mut self, elapsed: Duration, sent: &mut Sent) -> std::io::Result<bool> {
        if !std::mem::replace(&mut self.began, true) {
            // Before a flood of connections, behind which they would wait to be accepted.
            self.pool.open(sent)?;
        }
        let (mut moved, mut in_vain) = (false, 0);
        while in_vain < SENDERS && self.pace.due(elapsed) > 0 {
            let Some(place) = self.pool.turn(sent)? else {
                in_vain += 1;
                continue;
            };
            match place.as_mut().map(|stream| stream.push(&self.message, sent)) {
                Some(Pushed::Whole) => {
                    self.pace.sent();
                    (moved, in_vain) = (true, 0);
                }
                Some(Pushed::Part) => moved = true,
                Some(Pushed::Blocked) | None => in_vain += 1,
                Some(Pushed::Closed) => {
                    hang_up(place, sent);
                    in_vain += 1;
                }
            }
        }
        while in_vain >= SENDERS && self.pace.due(elapsed) > 0 {
            self.pace.sent();
            sent.turned_away += 1;
        }
        for place in &mut self.pool.streams {
            if let Some(stream) = place
                && stream.take_answers(sent).is_err()
            {
                sent.cut += 1;
                *place = None;
            }
        }
        Ok(moved)
    }
}

/// Counts the last answers of a connection that the other side has closed, and closes it.
fn hang_up(place: &mut Option<Stream>, sent: &mut Sent) {
    if let Some(mut stream) = place.take() {
        // That it is closed is known.
        let _ = stream.take_answers(sent);
        sent.cut += 1;
    }
}

/// Huge bodies.
#[derive(Debug)]
pub(super) struct Bodies {
    pool: Pool,
    pace: Pace,
    message: Message,
}

impl Bodies {
    /// `per_second` bounds how many begin.
    pub(super) fn new(path: &Path, per_second: f64) -> Bodies {
        Bodies { pool: Pool::new(path), pace: Pace::new(per_second), message: request(BODY_BYTES) }
    }
}

impl Flood for Bodies {
    /// One piece for each connection, because a piece is much.
    fn step(&mut self, elapsed: Duration, sent: &mut Sent) -> std::io::Result<bool> {
        let mut moved = false;
        for _ in 0..SENDERS {
            let Some(place) = self.pool.turn(sent)? else { continue };
            let Some(stream) = place else { continue };
            if stream.is_between_messages() {
                if self.pace.due(elapsed) == 0 {
                    continue;
                }
                self.pace.sent();
            }
            match stream.push(&self.message, sent) {
                Pushed::Whole | Pushed::Part => moved = true,
                Pushed::Blocked => {}
                Pushed::Closed => {
                    hang_up(place, sent);
                    continue;
                }
            }
            match stream.take_answers(sent) {
                Ok(0) => {}
                // Answers as long as the bodies would cost this side as much as the other.
                Ok(_) => *place = None,
                Err(_) => {
                    sent.cut += 1;
                    *place = None;
                }
            }
        }
        Ok(moved)
    }
}

/// Thousands of connections.
#[derive(Debug)]
pub(super) struct Connections {
    path: PathBuf,
    pace: Pace,
    held: VecDeque<Stream>,
    request: Message,
}

impl Connections {
    pub(super) fn new(path: &Path, per_second: f64) -> Connections {
        let request = request(SMALL_BYTES);
        Connections { path: path.into(), pace: Pace::new(per_second), held: VecDeque::new(), request }
    }
}

impl Flood for Connections {
    fn step(&mut self, elapsed: Duration, sent: &mut Sent) -> std::io::Result<bool> {
        let mut moved = false;
        while self.pace.due(elapsed) > 0 {
            let Some(mut stream) = Stream::open(&self.path, sent)? else { break };
            match sent.connections % 3 {
                0 => {}
                1 => stream.put(&self.request.bytes[..self.request.head_bytes / 2], sent),
                _ => drop(stream.push(&self.request, sent)),
            }
            self.pace.sent();
            moved = true;
            self.held.push_back(stream);
            if self.held.len() > HELD
                && let Some(mut oldest) = self.held.pop_front()
                && oldest.take_answers(sent).is_err()
            {
                sent.cut += 1;
            }
            sent.held_max = sent.held_max.max(self.held.len() as u64);
        }
        Ok(moved)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_says_how_long_it_is() {
        let message = request(SMALL_BYTES);
        let head = String::from_utf8(message.bytes[..message.head_bytes].to_vec()).unwrap();
        let length = message.bytes.len() - message.head_bytes;
        assert!(head.contains(&format!("content-length: {length}\r\n")), "{head}");
        assert!(head.ends_with("\r\n\r\n") && message.bytes.ends_with(&[7; SMALL_BYTES]));
    }
}
