// SPDX-License-Identifier: Apache-2.0
//! TLS to a daemon: whom it trusts, and what it shows, from the environment.

use std::io;
use std::sync::Arc;

use diolkos_client::TlsFiles;
use diolkos_client::tls;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// Shakes hands with whoever listens at `authority`, which has to have a certificate for that host.
pub(super) async fn connect(authority: &str, stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
    let host = authority.rsplit_once(':').map_or(authority, |(host, _)| host);
    let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
    let name = ServerName::try_from(host).map_err(io::Error::other)?;
    let mut config = tls::config(&TlsFiles::from_env())?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    TlsConnector::from(Arc::new(config)).connect(name, stream).await
}
