// SPDX-License-Identifier: Apache-2.0
//! TLS over TCP, for one who sends and one who receives at the same time.
//!
//! ```text
//! send:     plain ──session──> records ──socket──>        (senders one after the other, all the way)
//! receive:  socket ──> records ──session──> plain          (one receiver; the session is held only between)
//! ```
//!
//! The session's lock is a leaf and never held while the socket is waited for: a daemon that does not read until we do, and one
//! that does not write until we did, would otherwise wait for each other. What the session wants to say by itself (an answer to a
//! key update) goes out with the next message.

use std::fmt;
use std::io::{self, IoSlice, Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use diolkos_shm::pass;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore};

use crate::options::TlsFiles;

/// Bytes that are read at once: a record and a little.
const READ_BYTES: usize = 32 << 10;

/// A configuration of rustls that trusts and shows what these files say. TLS 1.3 only, as the daemon.
pub fn config(files: &TlsFiles) -> io::Result<ClientConfig> {
    let builder = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(io::Error::other)?
        .with_root_certificates(roots(files.ca.as_deref())?);
    let Some(certificate) = &files.certificate else { return Ok(builder.with_no_client_auth()) };
    let key = files.key.as_ref().unwrap_or(certificate);
    let chain = certificates(certificate)?;
    let key = PrivateKeyDer::from_pem_file(key).map_err(|error| of_file(key, &error.to_string()))?;
    builder.with_client_auth_cert(chain, key).map_err(io::Error::other)
}

/// The name that the certificate of a daemon at `HOST:PORT` has to have.
pub fn server_name(authority: &str) -> io::Result<ServerName<'static>> {
    let host = authority.rsplit_once(':').map_or(authority, |(host, _)| host);
    let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
    ServerName::try_from(host).map_err(io::Error::other)
}

/// Those of a file, or those that this system trusts.
fn roots(ca: Option<&Path>) -> io::Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    match ca {
        Some(path) => {
            for root in certificates(path)? {
                roots.add(root).map_err(|error| of_file(path, &error.to_string()))?;
            }
        }
        None => {
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
    }
    Ok(roots)
}

fn certificates(path: &Path) -> io::Result<Vec<CertificateDer<'static>>> {
    let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let found = read.map_err(|error| of_file(path, &error.to_string()))?;
    if found.is_empty() { Err(of_file(path, "no certificate in PEM is in it")) } else { Ok(found) }
}

fn of_file(path: &Path, error: &str) -> io::Error {
    io::Error::other(format!("{}: {error}", path.display()))
}

/// A socket on which each step ends in time.
struct Until<'a> {
    tcp: &'a TcpStream,
    until: Option<Instant>,
}

impl Until<'_> {
    fn left(&self) -> io::Result<Option<Duration>> {
        let left = self.until.map(|until| until.saturating_duration_since(Instant::now()));
        // A timeout of zero would be none.
        if left.is_some_and(|left| left.is_zero()) { Err(io::ErrorKind::TimedOut.into()) } else { Ok(left) }
    }
}

fn timed_out(error: io::Error) -> io::Error {
    if error.kind() == io::ErrorKind::WouldBlock { io::ErrorKind::TimedOut.into() } else { error }
}

impl io::Read for Until<'_> {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        self.tcp.set_read_timeout(self.left()?)?;
        self.tcp.read(to).map_err(timed_out)
    }
}

impl io::Write for Until<'_> {
    fn write(&mut self, from: &[u8]) -> io::Result<usize> {
        self.tcp.set_write_timeout(self.left()?)?;
        // Without SIGPIPE, as everything that is sent.
        pass::send(self.tcp, &[IoSlice::new(from)], &[]).map_err(timed_out)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A connection on which hands were shaken.
pub(crate) struct TlsSocket {
    tcp: TcpStream,
    session: Mutex<ClientConnection>,
    /// Records on their way to the socket; held by whoever sends.
    sealed: Mutex<Vec<u8>>,
    /// Held by whoever receives.
    opened: Mutex<Opened>,
}

/// What came and was not taken yet.
#[derive(Default)]
struct Opened {
    plain: Vec<u8>,
    /// Bytes of it that were taken.
    taken: usize,
    /// Nothing more will come.
    ended: bool,
}

impl Opened {
    fn is_empty(&self) -> bool {
        self.taken == self.plain.len()
    }
}

fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic within rustls may have left nonsense behind, which then ends the connection by an alert.
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

impl TlsSocket {
    /// Shakes hands with whoever listens at `authority`, which has to have a certificate for that host.
    pub(crate) fn connect(
        authority: &str,
        tcp: TcpStream,
        files: &TlsFiles,
        until: Option<Instant>,
    ) -> io::Result<TlsSocket> {
        let name = server_name(authority)?;
        let mut session = ClientConnection::new(Arc::new(config(files)?), name).map_err(io::Error::other)?;
        while session.is_handshaking() {
            session.complete_io(&mut Until { tcp: &tcp, until })?;
        }
        tcp.set_read_timeout(None)?;
        tcp.set_write_timeout(None)?;
        let socket = TlsSocket {
            tcp,
            session: Mutex::new(session),
            sealed: Mutex::default(),
            opened: Mutex::default(),
        };
        // The daemon may have said something with its last record.
        socket.open_records(&mut lock(&socket.opened), &[])?;
        Ok(socket)
    }

    pub(crate) fn shutdown(&self) -> io::Result<()> {
        self.tcp.shutdown(Shutdown::Both)
    }

    /// Sends the beginning of these bytes, and says how much that was.
    pub(crate) fn write_vectored(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let mut sealed = lock(&self.sealed);
        let mut session = lock(&self.session);
        let written = session.writer().write_vectored(slices)?;
        while session.wants_write() {
            session.write_tls(&mut *sealed)?;
        }
        drop(session);
        let sent = self.send(&sealed);
        sealed.clear();
        sent.map(|()| written)
    }

    fn send(&self, mut records: &[u8]) -> io::Result<()> {
        while !records.is_empty() {
            match pass::send(&self.tcp, &[IoSlice::new(records)], &[]) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(sent) => records = &records[sent..],
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Whether [`TlsSocket::read`] need not wait: something came, or nothing will.
    pub(crate) fn is_ready(&self) -> bool {
        let opened = lock(&self.opened);
        !opened.is_empty() || opened.ended
    }

    /// Takes in what the socket has; waits if that is nothing. It may be nothing for the reader.
    pub(crate) fn fill(&self) -> io::Result<()> {
        let mut opened = lock(&self.opened);
        let mut records = [0; READ_BYTES];
        let length = (&self.tcp).read(&mut records)?;
        opened.ended |= length == 0;
        self.open_records(&mut opened, &records[..length])
    }

    fn open_records(&self, opened: &mut Opened, mut records: &[u8]) -> io::Result<()> {
        if opened.is_empty() {
            opened.plain.clear();
            opened.taken = 0;
        }
        let mut session = lock(&self.session);
        loop {
            let state = session.process_new_packets().map_err(io::Error::other)?;
            let (at, more) = (opened.plain.len(), state.plaintext_bytes_to_read());
            opened.plain.resize(at + more, 0);
            if more > 0 {
                session.reader().read_exact(&mut opened.plain[at..])?;
            }
            opened.ended |= state.peer_has_closed();
            // What comes behind the end is nobody's.
            if records.is_empty() || opened.ended || session.read_tls(&mut records)? == 0 {
                return Ok(());
            }
        }
    }

    /// Reads what came, and waits if that is nothing. 0: nothing more will come.
    pub(crate) fn read(&self, to: &mut [u8]) -> io::Result<usize> {
        loop {
            let mut opened = lock(&self.opened);
            let ready = &opened.plain[opened.taken..];
            if !ready.is_empty() || to.is_empty() {
                let length = ready.len().min(to.len());
                to[..length].copy_from_slice(&ready[..length]);
                opened.taken += length;
                return Ok(length);
            }
            if opened.ended {
                return Ok(0);
            }
            drop(opened);
            self.fill()?;
        }
    }
}

impl AsFd for TlsSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.tcp.as_fd()
    }
}

impl fmt::Debug for TlsSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TlsSocket({:?})", self.tcp)
    }
}
