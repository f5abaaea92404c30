// SPDX-License-Identifier: Apache-2.0
//! Certificates of clients: what the settings say of them, and what one that was verified says of itself.
//!
//! Only names that the CA signed as subject alternative names count. The common name of the subject does not: it is text that
//! CAs have never agreed about how to check (RFC 9110, section 4.3.4, and RFC 6125 before it).

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// How a certificate is meant, such as `dns:web.example.org`, `uri:spiffe://example.org/web` or `sha256:` and the hash of it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum CertificateName {
    /// A DNS name among its subject alternative names, in lower case.
    Dns(String),
    /// A URI among its subject alternative names, as it is.
    Uri(String),
    /// This one certificate: the SHA-256 of its DER.
    Sha256([u8; 32]),
}

/// Text says nothing of a certificate.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` names no certificate: write \"dns:NAME\" or \"uri:URI\" for a subject alternative name, or \"sha256:\" and the 64 hexadecimal digits of its fingerprint"
)]
pub struct NoCertificate(String);

impl FromStr for CertificateName {
    type Err = NoCertificate;

    fn from_str(text: &str) -> Result<CertificateName, NoCertificate> {
        let bad = || NoCertificate(text.chars().take(100).collect());
        let (kind, name) = text.split_once(':').ok_or_else(bad)?;
        let plain = |c: char| c.is_ascii_graphic();
        if name.is_empty() || !name.chars().all(plain) {
            return Err(bad());
        }
        match kind {
            // A certificate for `*.example.org` is not one for every name below it: it has that name.
            "dns" => Ok(CertificateName::Dns(name.to_ascii_lowercase())),
            "uri" => Ok(CertificateName::Uri(name.into())),
            "sha256" => super::hex::digest(name).map(CertificateName::Sha256).ok_or_else(bad),
            _ => Err(bad()),
        }
    }
}

impl fmt::Display for CertificateName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CertificateName::Dns(name) => write!(f, "dns:{name}"),
            CertificateName::Uri(uri) => write!(f, "uri:{uri}"),
            CertificateName::Sha256(digest) => write!(f, "sha256:{}", super::hex::text(digest)),
        }
    }
}

impl TryFrom<String> for CertificateName {
    type Error = NoCertificate;

    fn try_from(text: String) -> Result<CertificateName, NoCertificate> {
        text.parse()
    }
}

impl From<CertificateName> for String {
    fn from(name: CertificateName) -> String {
        name.to_string()
    }
}

/// A certificate that was verified, by all that it is called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Certificate {
    /// Its fingerprint first. Never empty.
    names: Arc<[CertificateName]>,
}

impl Certificate {
    /// Reads the names of one whose chain and possession were verified.
    pub(crate) fn of(der: &CertificateDer<'_>) -> Certificate {
        let mut names = vec![CertificateName::Sha256(Sha256::digest(der).into())];
        // One that the verifier took and this can't read has its fingerprint for a name.
        if let Ok(certificate) = webpki::EndEntityCert::try_from(der) {
            names.extend(certificate.valid_uri_names().map(|uri| CertificateName::Uri(uri.into())));
            let dns = certificate.valid_dns_names();
            names.extend(dns.map(|name| CertificateName::Dns(name.to_ascii_lowercase())));
        }
        Certificate { names: names.into() }
    }

    /// All that it is called.
    pub(crate) fn names(&self) -> &[CertificateName] {
        &self.names
    }
}

impl fmt::Display for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A name says more than a fingerprint, where there is one. Whoever asked for the certificate chose it.
        let name = self.names.get(1).unwrap_or(&self.names[0]).to_string();
        let shown: String = name.chars().take(200).collect();
        shown.escape_debug().fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair, SanType};

    use super::*;

    #[test]
    fn names_are_read_as_they_are_written() {
        let digest = format!("sha256:{}", "0a".repeat(32));
        for text in ["dns:web.example.org", "dns:*.example.org", "uri:spiffe://a/b:c", &digest] {
            assert_eq!(text.parse::<CertificateName>().unwrap().to_string(), text);
        }
        assert_eq!("dns:Web.Example".parse(), Ok(CertificateName::Dns("web.example".into())));
        for text in ["", "web", "dns:", "cn:web", "sha256:12", "dns:a b", "uri:é"] {
            assert!(text.parse::<CertificateName>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_certificate_is_called_by_its_alternative_names_and_not_by_its_subject() {
        let mut params = CertificateParams::new(vec!["Web.Example.org".into(), "10.0.0.1".into()]).unwrap();
        params.subject_alt_names.push(SanType::URI("spiffe://node/web".try_into().unwrap()));
        params.distinguished_name.push(rcgen::DnType::CommonName, "admin");
        let der = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
        let certificate = Certificate::of(der.der());
        let names: Vec<String> = certificate.names().iter().map(ToString::to_string).collect();
        assert!(names[0].starts_with("sha256:"), "{names:?}");
        assert_eq!(names[1..], ["uri:spiffe://node/web", "dns:web.example.org"]);
        assert_eq!(certificate.to_string(), "uri:spiffe://node/web");
        let unreadable = Certificate::of(&CertificateDer::from(vec![1, 2, 3]));
        assert_eq!(unreadable.names().len(), 1);
    }
}
