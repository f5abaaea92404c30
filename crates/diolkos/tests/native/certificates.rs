// SPDX-License-Identifier: Apache-2.0
//! A certificate authority of the tests, a daemon's certificate, and those of clients.

use std::path::Path;
use std::sync::LazyLock;

use diolkos_server::settings::{Listen, TlsFiles};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};

type Ca = CertifiedIssuer<'static, KeyPair>;

fn ca() -> Ca {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

/// The one that the daemon trusts, and that clients are to trust.
static CA: LazyLock<Ca> = LazyLock::new(ca);

/// One that nobody trusts.
static OTHER: LazyLock<Ca> = LazyLock::new(ca);

/// Certificate and key of a name, in one file.
fn signed(ca: &Ca, name: &str) -> String {
    let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
    let key = KeyPair::generate().unwrap();
    params.signed_by(&key, ca).unwrap().pem() + &key.serialize_pem()
}

/// Writes `ca.pem`, `other-ca.pem`, `server.pem`, `client.pem` (of `client`) and `forged.pem` (of the same name, by another
/// authority).
pub(crate) fn write(dir: &Path) {
    for (file, text) in [
        ("ca.pem", CA.pem()),
        ("other-ca.pem", OTHER.pem()),
        ("server.pem", signed(&CA, "localhost")),
        ("client.pem", signed(&CA, "client")),
        ("forged.pem", signed(&OTHER, "client")),
    ] {
        std::fs::write(dir.join(file), text).unwrap();
    }
}

/// An address on TCP under TLS.
pub(crate) fn listen(dir: &Path) -> Listen {
    let tls = TlsFiles {
        certificate: dir.join("server.pem"),
        key: dir.join("server.pem"),
        client_ca: Some(dir.join("ca.pem")),
    };
    Listen {
        tls: Some(tls),
        ..Listen::from("tcp:127.0.0.1:0".parse::<diolkos_server::listen::Address>().unwrap())
    }
}
