// SPDX-License-Identifier: Apache-2.0
//! TLS on TCP: certificates from files, read again on reload, and the handshake.
//!
//! TLS 1.3 only: every client library of today speaks it, and what it left out is what attacks on its predecessors used.
//!
//! ```text
//! files ──> ServerConfig ──handshake──> TlsSocket, and the client's certificate if it showed one
//!   └─────reload: connections that are there keep theirs
//! ```

use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::task::{Context, Poll};

use rustls::RootCertStore;
use rustls::crypto::ring::default_provider;
use rustls::pki_types::pem::{self, PemObject as _};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{NoServerSessionStorage, ServerConfig, VerifierBuilderError, WebPkiClientVerifier};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::socket::Socket;
use crate::identity::Certificate;
use crate::settings::TlsFiles;

/// Why files make no TLS.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file can't be read, or holds something else.
    #[error("`{}` {problem}", .path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it, as the end of a sentence.
        problem: String,
    },
    /// The key is not the certificate's, or of a kind that is not known.
    #[error("the certificate `{}` and the key `{}` can't be used together: {source}", .certificate.display(), .key.display())]
    Pair {
        /// The certificate's file.
        certificate: PathBuf,
        /// The key's.
        key: PathBuf,
        /// What rustls says.
        source: rustls::Error,
    },
    /// The roots of clients' certificates make no verifier.
    #[error("`{}` can't be used to verify clients: {source}", .path.display())]
    ClientCa {
        /// The file.
        path: PathBuf,
        /// What rustls says.
        source: VerifierBuilderError,
    },
}

/// What one address answers handshakes with.
#[derive(Debug)]
pub(crate) struct Tls {
    files: TlsFiles,
    client_must: bool,
    config: RwLock<Arc<ServerConfig>>,
}

impl Tls {
    /// Reads the files. Where clients are asked for certificates, `client_must` says whether they have to have one.
    pub(crate) fn load(files: &TlsFiles, client_must: bool) -> Result<Tls, TlsError> {
        let config = RwLock::new(Arc::new(read(files, client_must)?));
        Ok(Tls { files: files.clone(), client_must, config })
    }

    /// Reads the files again; if anything is wrong with them, what was read before stays.
    pub(crate) fn reload(&self) -> Result<(), TlsError> {
        let config = Arc::new(read(&self.files, self.client_must)?);
        *self.config.write().unwrap_or_else(PoisonError::into_inner) = config;
        Ok(())
    }

    /// Whether clients are asked for certificates.
    pub(crate) fn takes_certificates(&self) -> bool {
        self.files.client_ca.is_some()
    }

    /// The file of its certificate.
    pub(crate) fn certificate(&self) -> &Path {
        &self.files.certificate
    }

    /// Shakes hands over a TCP socket.
    pub(super) async fn accept(&self, tcp: Arc<TcpStream>) -> io::Result<(Socket, Option<Certificate>)> {
        let config = self.config.read().unwrap_or_else(PoisonError::into_inner).clone();
        let stream = TlsAcceptor::from(config).accept(Socket::Tcp(tcp.clone())).await?;
        let shown = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
        let certificate = shown.map(Certificate::of);
        Ok((Socket::Tls(Arc::new(TlsSocket { stream: Mutex::new(stream), tcp })), certificate))
    }
}

fn read(files: &TlsFiles, client_must: bool) -> Result<ServerConfig, TlsError> {
    let provider = Arc::new(default_provider());
    let versions = ServerConfig::builder_with_provider(provider.clone());
    let versions = versions
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("the provider has suites of TLS 1.3");
    let builder = match &files.client_ca {
        None => versions.with_no_client_auth(),
        Some(path) => {
            let mut roots = RootCertStore::empty();
            for root in certificates(path)? {
                roots
                    .add(root)
                    .map_err(|source| file(path, format!("has a root that is none ({source})")))?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), provider);
            // Without, it may show a token; whoever shows neither is nobody.
            let verifier = if client_must { verifier } else { verifier.allow_unauthenticated() };
            let verifier =
                verifier.build().map_err(|source| TlsError::ClientCa { path: path.clone(), source })?;
            versions.with_client_cert_verifier(verifier)
        }
    };
    let key =
        PrivateKeyDer::from_pem_file(&files.key).map_err(|error| of_pem(&files.key, "private key", error))?;
    let config = builder.with_single_cert(certificates(&files.certificate)?, key);
    let mut config = config.map_err(|source| TlsError::Pair {
        certificate: files.certificate.clone(),
        key: files.key.clone(),
        source,
    })?;
    // gRPC clients insist on this.
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    if files.client_ca.is_some() {
        // A session that is taken up again would go on with a certificate that may have expired since.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
    }
    Ok(config)
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let found = read.map_err(|error| of_pem(path, "certificate", error))?;
    if found.is_empty() {
        return Err(of_pem(path, "certificate", pem::Error::NoItemsFound));
    }
    Ok(found)
}

fn of_pem(path: &Path, what: &str, error: pem::Error) -> TlsError {
    match error {
        pem::Error::NoItemsFound => file(path, format!("has no {what} in PEM (-----BEGIN …)")),
        pem::Error::Io(error) => file(path, format!("can't be read ({error})")),
        error => file(path, format!("is no proper PEM ({error})")),
    }
}

fn file(path: &Path, problem: String) -> TlsError {
    TlsError::File { path: path.into(), problem }
}

/// TLS over a TCP socket. Clones of a [`Socket`] share it.
#[derive(Debug)]
pub(crate) struct TlsSocket {
    /// Locked for the time of a poll, never across one.
    stream: Mutex<TlsStream<Socket>>,
    tcp: Arc<TcpStream>,
}

impl TlsSocket {
    /// The connection below.
    pub(super) fn tcp(&self) -> &TcpStream {
        &self.tcp
    }

    fn lock(&self) -> MutexGuard<'_, TlsStream<Socket>> {
        // A panic within rustls may have left nonsense behind, which then ends the connection by an alert.
        self.stream.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn poll_read(&self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.lock()).poll_read(cx, buf)
    }

    pub(super) fn poll_write(&self, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.lock()).poll_write(cx, buf)
    }

    pub(super) fn poll_write_vectored(
        &self,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.lock()).poll_write_vectored(cx, bufs)
    }

    pub(super) fn poll_flush(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.lock()).poll_flush(cx)
    }

    pub(super) fn poll_shutdown(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.lock()).poll_shutdown(cx)
    }
}
