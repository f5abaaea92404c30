// SPDX-License-Identifier: Apache-2.0
//! The files of an address that speaks TLS.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// Certificates and keys, all in PEM. Their content is read again on SIGHUP.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TlsFiles {
    /// The daemon's certificate, and behind it those that lead to its root.
    pub certificate: PathBuf,
    /// The private key of the certificate: PKCS #8, or as older tools write it.
    pub key: PathBuf,
    /// Roots of clients' certificates. Without it, clients are asked for none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_ca: Option<PathBuf>,
}

impl TlsFiles {
    /// Makes relative paths relative to `base`.
    pub(super) fn resolve(&mut self, base: &Path) {
        for path in [&mut self.certificate, &mut self.key].into_iter().chain(&mut self.client_ca) {
            *path = base.join(&*path);
        }
    }
}
