// SPDX-License-Identifier: Apache-2.0
//! A certificate authority of the tests, and certificates that it signs.

use std::path::Path;
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, SanType};
use rustls::client::ResolvesClientCert;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, RootCertStore, SignatureScheme};

pub(crate) type Ca = CertifiedIssuer<'static, KeyPair>;

pub(crate) fn ca() -> Ca {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

/// A certificate with its key, both in PEM and for use.
pub(crate) struct Signed {
    pub(crate) pem: String,
    pub(crate) key_pem: String,
    pub(crate) chain: Vec<CertificateDer<'static>>,
    pub(crate) key: KeyPair,
}

/// A certificate of these names, such as `dns:a` and `uri:spiffe://b`.
pub(crate) fn sign(ca: &Ca, names: &[&str], change: impl FnOnce(&mut CertificateParams)) -> Signed {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    for name in names {
        let (kind, text) = name.split_once(':').unwrap();
        let text = text.try_into().unwrap();
        params.subject_alt_names.push(match kind {
            "uri" => SanType::URI(text),
            _ => SanType::DnsName(text),
        });
    }
    change(&mut params);
    let key = KeyPair::generate().unwrap();
    let certificate = params.signed_by(&key, ca).unwrap();
    let chain = vec![certificate.der().clone()];
    Signed { pem: certificate.pem(), key_pem: key.serialize_pem(), chain, key }
}

/// Writes `server.pem` and `server.key`, of `localhost`.
pub(crate) fn write_server_certificate(dir: &Path, ca: &Ca) -> CertificateDer<'static> {
    let signed = sign(ca, &["dns:localhost"], |_| {});
    std::fs::write(dir.join("server.pem"), &signed.pem).unwrap();
    std::fs::write(dir.join("server.key"), &signed.key_pem).unwrap();
    signed.chain[0].clone()
}

/// Shows a certificate without a look at whether the key is its.
#[derive(Debug)]
struct Shows(Arc<CertifiedKey>);

impl ResolvesClientCert for Shows {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.0.clone())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// How a client connects that trusts `ca`, shows `client`, and goes on to speak `protocol`.
pub(crate) fn client_config(ca: &Ca, client: Option<&Signed>, protocol: &str) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    roots.add(ca.der().clone()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots);
    let mut config = match client {
        None => builder.with_no_client_auth(),
        Some(signed) => {
            let key = PrivateKeyDer::try_from(signed.key.serialize_der()).unwrap();
            let key = rustls::crypto::ring::sign::any_supported_type(&key).unwrap();
            let shown = Arc::new(CertifiedKey::new(signed.chain.clone(), key));
            builder.with_client_cert_resolver(Arc::new(Shows(shown)))
        }
    };
    if !protocol.is_empty() {
        config.alpn_protocols = vec![protocol.as_bytes().to_vec()];
    }
    config
}
