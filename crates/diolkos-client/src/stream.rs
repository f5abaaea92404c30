// SPDX-License-Identifier: Apache-2.0
//! The socket: messages, with their payload behind them and descriptors beside them.

use std::io::{self, IoSlice, Read as _};
use std::net::{Shutdown, TcpStream, ToSocketAddrs as _};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use diolkos_shm::{connect, pass, vsock};
use diolkos_wire::{HEADER_BYTES, Header, Limits, Message, PREFACE, Part, encode_frame};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::address::Address;
use crate::board::Source;
use crate::error::Error;
use crate::memory::Storage;
use crate::options::TlsFiles;
#[cfg(feature = "tls")]
use crate::tls::TlsSocket;
use crate::turned_away;

/// Bytes that are read at once where more than a header may have come.
const READ_BYTES: usize = 16 << 10;

/// A connected socket.
#[derive(Debug)]
pub(crate) enum Socket {
    Unix(UnixStream),
    Tcp(TcpStream),
    #[cfg(feature = "tls")]
    Tls(Box<TlsSocket>),
    Vsock(OwnedFd),
}

impl Socket {
    pub(crate) fn connect(
        address: &Address,
        #[cfg_attr(not(feature = "tls"), allow(unused_variables))] tls: &TlsFiles,
        until: Option<Instant>,
    ) -> Result<Socket, Error> {
        let left = || until.map(|until| until.saturating_duration_since(Instant::now()));
        let connected = match address {
            Address::Unix(path) => {
                connect::unix(path, left()).map(|socket| Socket::Unix(UnixStream::from(socket)))
            }
            Address::Tcp(at) => connect_tcp(at, until).map(Socket::Tcp),
            #[cfg(feature = "tls")]
            Address::Tls(at) => connect_tcp(at, until)
                .and_then(|stream| TlsSocket::connect(at, stream, tls, until))
                .map(|socket| Socket::Tls(Box::new(socket))),
            #[cfg(not(feature = "tls"))]
            Address::Tls(_) => Err(io::Error::new(
                io::ErrorKind::Unsupported,
                "this client was built without the feature `tls` of diolkos-client",
            )),
            Address::Vsock(at) => vsock::connect_stream(*at, left()).map(Socket::Vsock),
        };
        connected.map_err(|source| Error::Connect { address: address.to_string(), source: Arc::new(source) })
    }

    pub(crate) fn is_unix(&self) -> bool {
        matches!(self, Socket::Unix(_))
    }

    /// Ends it for both sides, and for whoever reads from it here.
    pub(crate) fn shutdown(&self) {
        // Fails if it is at its end already.
        let _ = match self {
            Socket::Unix(stream) => stream.shutdown(Shutdown::Both),
            Socket::Tcp(stream) => stream.shutdown(Shutdown::Both),
            #[cfg(feature = "tls")]
            Socket::Tls(socket) => socket.shutdown(),
            Socket::Vsock(socket) => {
                rustix::net::shutdown(socket, rustix::net::Shutdown::Both).map_err(Into::into)
            }
        };
    }

    /// As `writev`, but if the daemon is gone, that is an error and no SIGPIPE, which ends programs that are not in Rust.
    fn write_vectored(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        match self {
            #[cfg(feature = "tls")]
            Socket::Tls(socket) => socket.write_vectored(slices),
            _ => pass::send(self, slices, &[]),
        }
    }

    fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Socket::Unix(stream) => (&mut &*stream).read(buffer),
            Socket::Tcp(stream) => (&mut &*stream).read(buffer),
            #[cfg(feature = "tls")]
            Socket::Tls(socket) => socket.read(buffer),
            Socket::Vsock(socket) => Ok(rustix::io::read(socket, buffer)?),
        }
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Socket::Unix(stream) => stream.as_fd(),
            Socket::Tcp(stream) => stream.as_fd(),
            #[cfg(feature = "tls")]
            Socket::Tls(socket) => socket.as_fd(),
            Socket::Vsock(socket) => socket.as_fd(),
        }
    }
}

fn connect_tcp(at: &str, until: Option<Instant>) -> io::Result<TcpStream> {
    let stream = connect_one(at, until)?;
    // Messages are written whole, and nothing is gained by waiting for more.
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Tries the addresses of a host one after the other.
fn connect_one(at: &str, until: Option<Instant>) -> io::Result<TcpStream> {
    let Some(until) = until else { return TcpStream::connect(at) };
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the host has no address");
    for address in at.to_socket_addrs()? {
        // Zero would be refused.
        let left = until.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
        match TcpStream::connect_timeout(&address, left) {
            Ok(stream) => return Ok(stream),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// An answer that came over the stream.
pub(crate) struct Answer {
    /// The message. Of an answer in several parts, all of them in order.
    pub(crate) parts: Vec<Message>,
    /// What came behind the last of them.
    pub(crate) payload: Storage,
    /// What came beside it.
    pub(crate) descriptors: Vec<OwnedFd>,
}

impl Answer {
    /// The one message of an answer that has no parts, and not the daemon's refusal.
    pub(crate) fn into_message(mut self) -> Result<Message, Error> {
        match self.parts.pop() {
            Some(Message::Failed(failed)) => Err(Error::Refused(failed.into())),
            Some(message) => Ok(message),
            None => Err(Error::lost("the daemon sent an empty answer")),
        }
    }
}

/// The socket, for many who send and one at a time who receives.
pub(crate) struct Stream {
    socket: Socket,
    /// The daemon said good-bye: it answers what it has, and takes nothing more.
    leaving: Arc<AtomicBool>,
    sending: Mutex<()>,
    receiving: Mutex<Receiving>,
}

#[derive(Default)]
struct Receiving {
    buffer: Vec<u8>,
    /// Bytes of the buffer that were used.
    used: usize,
    descriptors: Vec<OwnedFd>,
    /// Parts of answers whose last one has not come.
    parts: Vec<(u64, Message)>,
}

impl Stream {
    pub(crate) fn new(socket: Socket, leaving: Arc<AtomicBool>) -> Stream {
        Stream { socket, leaving, sending: Mutex::default(), receiving: Mutex::default() }
    }

    pub(crate) fn socket(&self) -> &Socket {
        &self.socket
    }

    /// Says which protocol this is.
    pub(crate) fn send_preface(&self) -> Result<(), Error> {
        self.write(&[IoSlice::new(&PREFACE)])
    }

    /// Sends a message with its payload behind it and descriptors beside it.
    pub(crate) fn send(
        &self,
        id: u64,
        message: &Message,
        payload: &[&[u8]],
        descriptors: &[OwnedFd],
    ) -> Result<(), Error> {
        let frame =
            encode_frame(id, Part::Last, message).map_err(|error| Error::invalid(error.to_string()))?;
        // Nothing is broken by a panic of somebody else who was sending, but the stream perhaps is.
        let _sending: MutexGuard<'_, ()> =
            self.sending.lock().map_err(|_| Error::lost("a thread panicked while sending"))?;
        let mut from = 0;
        if let (Socket::Unix(stream), false) = (&self.socket, descriptors.is_empty()) {
            let borrowed: Vec<_> = descriptors.iter().map(OwnedFd::as_fd).collect();
            from = pass::send(stream, &[IoSlice::new(&frame)], &borrowed).map_err(lost)?;
        }
        let slices = std::iter::once(&frame[from..]).chain(payload.iter().copied());
        self.write(&slices.map(IoSlice::new).collect::<Vec<_>>())
    }

    fn write(&self, slices: &[IoSlice<'_>]) -> Result<(), Error> {
        let mut slices: Vec<IoSlice<'_>> = slices.to_vec();
        let mut left = &mut slices[..];
        IoSlice::advance_slices(&mut left, 0);
        while !left.is_empty() {
            match self.socket.write_vectored(left) {
                Ok(0) => return Err(Error::lost("the daemon takes nothing more")),
                Ok(written) => IoSlice::advance_slices(&mut left, written),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(lost(error)),
            }
        }
        Ok(())
    }

    /// Whether the daemon has sent something, or gone away, before `until`.
    fn ready(&self, until: Option<Instant>) -> Result<bool, Error> {
        loop {
            #[cfg(feature = "tls")]
            if let Socket::Tls(socket) = &self.socket
                && socket.is_ready()
            {
                return Ok(true);
            }
            let timeout = match until {
                None => None,
                Some(until) => Timespec::try_from(until.saturating_duration_since(Instant::now())).ok(),
            };
            let mut fds = [PollFd::new(&self.socket, PollFlags::IN)];
            match poll(&mut fds, timeout.as_ref()) {
                Ok(0) | Err(rustix::io::Errno::INTR) => return Ok(false),
                Err(error) => return Err(lost(error.into())),
                // What came may be nothing for us: half a record, or the session's own.
                #[cfg(feature = "tls")]
                Ok(_) if matches!(self.socket, Socket::Tls(_)) => self.fill()?,
                Ok(_) => return Ok(true),
            }
        }
    }

    #[cfg(feature = "tls")]
    fn fill(&self) -> Result<(), Error> {
        match &self.socket {
            Socket::Tls(socket) => socket.fill().or_else(|error| match error.kind() {
                io::ErrorKind::Interrupted => Ok(()),
                _ => Err(lost(error)),
            }),
            _ => Ok(()),
        }
    }

    /// Reads more into the buffer. With a time, only if there is something before it.
    fn more(&self, receiving: &mut Receiving) -> Result<(), Error> {
        if receiving.used == receiving.buffer.len() {
            receiving.buffer.clear();
            receiving.used = 0;
        }
        let end = receiving.buffer.len();
        receiving.buffer.resize(end + READ_BYTES, 0);
        let room = &mut receiving.buffer[end..];
        let length = loop {
            let read = match &self.socket {
                Socket::Unix(stream) => pass::receive(stream, room, &mut receiving.descriptors),
                _ => self.socket.read(room),
            };
            match read {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                read => break read,
            }
        };
        let length = length.inspect_err(|_| receiving.buffer.truncate(end)).map_err(lost)?;
        receiving.buffer.truncate(end + length);
        if length == 0 { Err(Error::lost("the daemon closed it")) } else { Ok(()) }
    }

    fn take<'a>(&self, receiving: &'a mut Receiving, length: usize) -> Result<&'a [u8], Error> {
        while receiving.buffer.len() - receiving.used < length {
            self.more(receiving)?;
        }
        let at = receiving.used;
        receiving.used += length;
        Ok(&receiving.buffer[at..at + length])
    }

    /// Reads payload to where it stays.
    fn payload(&self, receiving: &mut Receiving, length: u64) -> Result<Storage, Error> {
        let length =
            usize::try_from(length).map_err(|_| Error::lost("the daemon sent more than fits into memory"))?;
        let mut payload = Storage::private(length);
        let to = payload.bytes_mut();
        let ready = length.min(receiving.buffer.len() - receiving.used);
        to[..ready].copy_from_slice(&receiving.buffer[receiving.used..receiving.used + ready]);
        receiving.used += ready;
        let mut at = ready;
        while at < length {
            match self.socket.read(&mut to[at..]) {
                Ok(0) => return Err(Error::lost("the daemon closed it within an answer")),
                Ok(read) => at += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(lost(error)),
            }
        }
        Ok(payload)
    }

    /// Reads what it says to its end, which is that of the connection.
    fn turned_away(&self, receiving: &mut Receiving, begins_at: usize) -> Error {
        receiving.used = begins_at;
        loop {
            let answer = &receiving.buffer[receiving.used..];
            let is_enough = turned_away::is_whole(answer) || answer.len() >= turned_away::ANSWER_BYTES_MAX;
            if is_enough || self.more(receiving).is_err() {
                return turned_away::error(&receiving.buffer[receiving.used..]);
            }
        }
    }

    /// Reads one message; `None`: it was a part, and more follow.
    fn next(&self, receiving: &mut Receiving) -> Result<Option<(u64, Answer)>, Error> {
        let head = self.take(receiving, HEADER_BYTES)?;
        let head: &[u8; HEADER_BYTES] = head.try_into().expect("as long as was asked for");
        if turned_away::is_http(head) {
            let begins_at = receiving.used - HEADER_BYTES;
            return Err(self.turned_away(receiving, begins_at));
        }
        // The daemon is trusted with how much memory its answers take.
        let limits = Limits { payload_bytes_max: u64::MAX, ..Limits::default() };
        let nonsense =
            |error: diolkos_wire::DecodeError| Error::lost(format!("the daemon sent nonsense: {error}"));
        let header = Header::decode(head, &limits).map_err(nonsense)?;
        let body = self.take(receiving, header.length as usize)?;
        let message = header.message(body).map_err(nonsense)?;
        let payload = self.payload(receiving, header.payload)?;
        match (header.part, message) {
            (_, Message::Goodbye) => {
                self.leaving.store(true, Ordering::Release);
                Ok(None)
            }
            (Part::More, message) => {
                receiving.parts.push((header.id, message));
                Ok(None)
            }
            (Part::Last, message) => {
                let earlier = receiving.parts.extract_if(.., |(id, _)| *id == header.id);
                let mut parts: Vec<Message> = earlier.map(|(_, message)| message).collect();
                parts.push(message);
                let descriptors = std::mem::take(&mut receiving.descriptors);
                Ok(Some((header.id, Answer { parts, payload, descriptors })))
            }
        }
    }
}

impl Source<Answer> for Stream {
    fn receive(&self, until: Option<Instant>) -> Result<Option<(u64, Answer)>, Error> {
        let mut receiving = self.receiving.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            // What is in the buffer can be read at once. A message that began is read to its end.
            if receiving.buffer.len() == receiving.used && !self.ready(until)? {
                return Ok(None);
            }
            if let Some(answer) = self.next(&mut receiving)? {
                return Ok(Some(answer));
            }
        }
    }
}

fn lost(error: io::Error) -> Error {
    Error::lost(error.to_string())
}
