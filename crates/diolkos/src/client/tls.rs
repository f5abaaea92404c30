// SPDX-License-Identifier: Apache-2.0
//! TLS to a daemon: whom it trusts, and what it shows, from the environment.

use std::io;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::cli::{CA_VARIABLE, CERTIFICATE_VARIABLE, KEY_VARIABLE};

/// Shakes hands with whoever listens at `authority`, which has to have a certificate for that host.
pub(super) async fn connect(authority: &str, stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
    let host = authority.rsplit_once(':').map_or(authority, |(host, _)| host);
    let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
    let name = ServerName::try_from(host).map_err(io::Error::other)?;
    TlsConnector::from(Arc::new(config()?)).connect(name, stream).await
}

fn config() -> io::Result<ClientConfig> {
    let builder = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(io::Error::other)?
        .with_root_certificates(roots()?);
    let mut config = match variable(CERTIFICATE_VARIABLE) {
        None => builder.with_no_client_auth(),
        Some(certificate) => {
            let key = variable(KEY_VARIABLE).unwrap_or_else(|| certificate.clone());
            let chain = certificates(&certificate, CERTIFICATE_VARIABLE)?;
            let key =
                PrivateKeyDer::from_pem_file(&key).map_err(|error| of_file(KEY_VARIABLE, &key, error))?;
            builder.with_client_auth_cert(chain, key).map_err(io::Error::other)?
        }
    };
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

/// Those of a file, or those that this system trusts.
fn roots() -> io::Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    match variable(CA_VARIABLE) {
        Some(path) => {
            for root in certificates(&path, CA_VARIABLE)? {
                roots.add(root).map_err(|error| of_file(CA_VARIABLE, &path, error))?;
            }
        }
        None => {
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
    }
    Ok(roots)
}

fn certificates(path: &str, variable: &str) -> io::Result<Vec<CertificateDer<'static>>> {
    let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let found = read.map_err(|error| of_file(variable, path, error))?;
    if found.is_empty() { Err(of_file(variable, path, "no certificate in PEM is in it")) } else { Ok(found) }
}

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

fn of_file(variable: &str, path: &str, error: impl std::fmt::Display) -> io::Error {
    io::Error::other(format!("{variable}={path}: {error}"))
}
