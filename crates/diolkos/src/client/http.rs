// SPDX-License-Identifier: Apache-2.0
//! One HTTP/1.1 connection to a daemon, kept alive between calls.

use std::io;
use std::time::Duration;

use bytes::Bytes;
use diolkos_shm::vsock::{self, VsockAddr};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST};
use hyper::http::response;
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpStream, UnixStream};

use super::{Address, ClientError, tls};
use crate::cli::TOKEN_VARIABLE;

/// Largest answer that is read. Far above what a daemon sends; it keeps a stranger at the address from
/// filling this process's memory.
const ANSWER_BYTES_MAX: usize = 2 << 30;

/// How long connecting may take. A local socket connects at once or never.
const CONNECT_TIME_MAX: Duration = Duration::from_secs(5);

/// A connection. Calls follow each other; whoever wants several at once opens several connections.
#[derive(Debug)]
pub struct Connection {
    address: Address,
    sender: SendRequest<Full<Bytes>>,
}

impl Connection {
    /// Connects.
    pub async fn open(address: &Address) -> Result<Connection, ClientError> {
        let sender = tokio::time::timeout(CONNECT_TIME_MAX, handshake(address)).await;
        match sender.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
            Ok(sender) => Ok(Connection { address: address.clone(), sender }),
            Err(source) => Err(ClientError::Connect { address: address.clone(), source }),
        }
    }

    /// The daemon at the other end.
    #[must_use]
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// Sends a request and reads the whole answer, whatever its status is. Connects anew if the daemon
    /// closed the connection since the last call.
    pub async fn call(
        &mut self,
        method: Method,
        path: &str,
        headers: &[(&'static str, String)],
        body: Bytes,
    ) -> Result<(response::Parts, Bytes), ClientError> {
        if self.sender.ready().await.is_err() {
            *self = Connection::open(&self.address).await?;
        }
        let mut request = Request::builder().method(method).uri(path).header(HOST, self.host());
        if !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case(CONTENT_TYPE.as_str())) {
            request = request.header(CONTENT_TYPE, "application/json");
        }
        for (name, value) in headers {
            request = request.header(*name, value);
        }
        // On a unix socket and on vsock the daemon sees who asks.
        if let (Address::Tcp(_) | Address::Tls(_), Ok(token)) = (&self.address, std::env::var(TOKEN_VARIABLE))
        {
            request = request.header(AUTHORIZATION, format!("Bearer {token}"));
        }
        let request =
            request.body(Full::new(body)).map_err(|error| self.protocol(format!("bad request: {error}")))?;
        let answer = self.sender.send_request(request).await.map_err(|source| self.transport(source))?;
        let (parts, body) = answer.into_parts();
        match Limited::new(body, ANSWER_BYTES_MAX).collect().await {
            Ok(body) => Ok((parts, body.to_bytes())),
            Err(error) => match error.downcast::<hyper::Error>() {
                Ok(source) => Err(self.transport(*source)),
                Err(error) => Err(self.protocol(format!("the answer was not read: {error}"))),
            },
        }
    }

    fn host(&self) -> &str {
        match &self.address {
            Address::Unix(_) | Address::Vsock(_) => "localhost",
            Address::Tcp(authority) | Address::Tls(authority) => authority,
        }
    }

    fn transport(&self, source: hyper::Error) -> ClientError {
        ClientError::Transport { address: self.address.clone(), source }
    }

    /// An answer that makes no sense.
    pub(super) fn protocol(&self, reason: String) -> ClientError {
        ClientError::Protocol { address: self.address.clone(), reason }
    }
}

async fn handshake(address: &Address) -> io::Result<SendRequest<Full<Bytes>>> {
    match address {
        Address::Unix(path) => serve(UnixStream::connect(path).await?).await,
        Address::Tcp(authority) => serve(connect_tcp(authority).await?).await,
        Address::Vsock(at) => serve(connect_vsock(*at).await?).await,
        Address::Tls(authority) => serve(tls::connect(authority, connect_tcp(authority).await?).await?).await,
    }
}

async fn connect_tcp(authority: &str) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(authority).await?;
    // Small requests must not wait for the acknowledgement of the one before.
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// tokio has no type for these; its unix one reads and writes with the calls that every stream socket knows.
async fn connect_vsock(at: VsockAddr) -> io::Result<UnixStream> {
    let connecting = move || vsock::connect_stream(at, Some(CONNECT_TIME_MAX));
    let stream = std::os::unix::net::UnixStream::from(tokio::task::spawn_blocking(connecting).await??);
    stream.set_nonblocking(true)?;
    UnixStream::from_std(stream)
}

async fn serve<S>(stream: S) -> io::Result<SendRequest<Full<Bytes>>>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
    // How the connection ends is told to the request that it ends under.
    tokio::spawn(async move { drop(connection.await) });
    Ok(sender)
}
