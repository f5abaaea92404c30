// SPDX-License-Identifier: Apache-2.0
//! TLS to a daemon: whom it trusts, and what it shows, from the environment.

use std::io;
use std::sync::Arc;

use diolkos_client::TlsFiles;
use diolkos_client::tls;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// Shakes hands with whoever listens at `authority`, which has to have a certificate for that host.
pub(super) async fn connect(authority: &str, stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
    let name = tls::server_name(authority)?;
    let mut config = tls::config(&TlsFiles::from_env())?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    TlsConnector::from(Arc::new(config)).connect(name, stream).await
}
