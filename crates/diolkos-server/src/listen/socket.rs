// SPDX-License-Identifier: Apache-2.0
//! The stream of bytes under a connection, and a wrapper that notes when they move.

use std::io::{self, ErrorKind, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use bytes::{Buf, Bytes};
use rustix::io::Errno;
use rustix::net::{Shutdown, shutdown};
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

use super::authority::AuthorityFilter;
use super::table::ConnState;
use super::tls::TlsSocket;
use super::turns::Turns;

/// A connected socket. A closed set, so an enum. Clones are the same socket.
#[derive(Clone, Debug)]
pub(crate) enum Socket {
    /// Unix.
    Unix(Arc<UnixStream>),
    /// TCP.
    Tcp(Arc<TcpStream>),
    /// TLS over TCP.
    Tls(Arc<TlsSocket>),
    /// Vsock; see the module `vsock` about the type.
    Vsock(Arc<UnixStream>),
}

impl From<UnixStream> for Socket {
    fn from(stream: UnixStream) -> Socket {
        Socket::Unix(Arc::new(stream))
    }
}

impl From<TcpStream> for Socket {
    fn from(stream: TcpStream) -> Socket {
        Socket::Tcp(Arc::new(stream))
    }
}

macro_rules! delegate {
    ($self:expr, $stream:ident => $call:expr, tls => $tls:expr) => {
        match $self {
            Socket::Unix($stream) => $call,
            Socket::Tcp($stream) => $call,
            Socket::Tls($stream) => $tls,
            Socket::Vsock($stream) => $call,
        }
    };
}

/// tokio implements `AsyncRead` and `AsyncWrite` for a socket that nobody shares. These do the same for one
/// that is shared, with what tokio offers for it.
macro_rules! read {
    ($stream:ident, $cx:ident, $buf:ident) => {
        loop {
            ready!($stream.poll_read_ready($cx))?;
            let room = $buf.remaining();
            let mut read = None;
            let attempt = $stream.try_io(Interest::READABLE, || {
                let length = $stream.try_read_buf($buf)?;
                read = Some(length);
                // Less than there was room for means that nothing is left: say so now, and the next read
                // waits without asking the kernel first.
                if 0 < length && length < room { Err(ErrorKind::WouldBlock.into()) } else { Ok(()) }
            });
            match attempt {
                _ if read.is_some() => return Poll::Ready(Ok(())),
                Err(error) if error.kind() != ErrorKind::WouldBlock => return Poll::Ready(Err(error)),
                _ => {}
            }
        }
    };
}

macro_rules! write {
    ($stream:ident, $cx:ident, $attempt:expr) => {
        loop {
            ready!($stream.poll_write_ready($cx))?;
            match $attempt {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                result => return Poll::Ready(result),
            }
        }
    };
}

impl Socket {
    /// The TCP connection that it is, or that is below it.
    pub(crate) fn tcp(&self) -> Option<&TcpStream> {
        match self {
            Socket::Unix(_) | Socket::Vsock(_) => None,
            Socket::Tcp(stream) => Some(stream),
            Socket::Tls(stream) => Some(stream.tcp()),
        }
    }

    /// Whether what was written may wait here for the other side to take more.
    fn holds_back(&self) -> bool {
        matches!(self, Socket::Tls(_))
    }

    /// Returns once the other side closed, or will send nothing more, even while bytes of it are unread.
    pub(super) async fn hung_up(self) {
        // Of what can be waited for, urgent data alone does not come, and the end of reading counts as it.
        // An error says the same.
        let _ = delegate!(&self, stream => stream.ready(Interest::PRIORITY).await,
            tls => stream.tcp().ready(Interest::PRIORITY).await);
    }
}

impl AsyncRead for Socket {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        delegate!(self.get_mut(), stream => read!(stream, cx, buf), tls => stream.poll_read(cx, buf))
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        delegate!(self.get_mut(), stream => write!(stream, cx, stream.try_write(buf)),
            tls => stream.poll_write(cx, buf))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        delegate!(self.get_mut(), stream => write!(stream, cx, stream.try_write_vectored(bufs)),
            tls => stream.poll_write_vectored(cx, bufs))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Socket::Unix(_) | Socket::Tcp(_) | Socket::Vsock(_) => Poll::Ready(Ok(())),
            Socket::Tls(stream) => stream.poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let result = delegate!(self.get_mut(), stream => shutdown(&**stream, Shutdown::Write),
            tls => return stream.poll_shutdown(cx));
        Poll::Ready(match result {
            // The other side was faster.
            Ok(()) | Err(Errno::NOTCONN) => Ok(()),
            Err(errno) => Err(errno.into()),
        })
    }
}

/// A socket that tells its connection's activity when bytes move, and first replays what was read to
/// find out which HTTP is spoken.
#[derive(Debug)]
pub(super) struct Watched {
    socket: Socket,
    replay: Bytes,
    connection: Arc<ConnState>,
    /// Whether bytes between requests begin a header; not so in HTTP/2, where they may be a ping.
    heads: bool,
    turns: Turns,
    /// For HTTP/2 on a unix socket, where clients name the socket's path as the authority.
    authority: Option<AuthorityFilter>,
}

impl Watched {
    pub(super) fn new(socket: Socket, replay: Bytes, connection: Arc<ConnState>, heads: bool) -> Watched {
        let path_is_authority = !heads && matches!(socket, Socket::Unix(_));
        let authority = path_is_authority.then(AuthorityFilter::new);
        Watched { socket, replay, connection, heads, turns: Turns::default(), authority }
    }

    fn arrived(&mut self, bytes: &mut [u8]) {
        if let Some(filter) = &mut self.authority {
            filter.pass(bytes);
        }
    }

    fn wrote(&mut self, result: &Poll<io::Result<usize>>) {
        self.turns.count(match result {
            Poll::Ready(written) => Some(written.as_ref().map_or(0, |written| *written)),
            Poll::Pending => None,
        });
        self.moved(result);
    }

    fn moved<T>(&self, result: &Poll<io::Result<T>>) {
        let now = Instant::now();
        match result {
            Poll::Ready(_) => self.connection.activity().write_moved(now),
            Poll::Pending => self.connection.activity().write_blocks(now),
        }
    }
}

impl AsyncRead for Watched {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        if !self.replay.is_empty() {
            let length = self.replay.len().min(buf.remaining());
            buf.put_slice(&self.replay[..length]);
            self.replay.advance(length);
            self.arrived(&mut buf.filled_mut()[before..]);
            return Poll::Ready(Ok(()));
        }
        ready!(self.turns.poll_turn(cx));
        let result = Pin::new(&mut self.socket).poll_read(cx, buf);
        let read = buf.filled().len() - before;
        self.turns.count(result.is_ready().then_some(read));
        if self.heads && buf.filled().len() > before {
            self.connection.activity().bytes_arrived(Instant::now());
        }
        self.arrived(&mut buf.filled_mut()[before..]);
        result
    }
}

impl AsyncWrite for Watched {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        ready!(self.turns.poll_turn(cx));
        let result = Pin::new(&mut self.socket).poll_write(cx, buf);
        self.wrote(&result);
        result
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        ready!(self.turns.poll_turn(cx));
        let result = Pin::new(&mut self.socket).poll_write_vectored(cx, bufs);
        self.wrote(&result);
        result
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let result = Pin::new(&mut self.socket).poll_flush(cx);
        // Others have nothing to flush, so this tells nothing about the other side.
        if self.socket.holds_back() {
            self.moved(&result);
        }
        result
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}
