// SPDX-License-Identifier: Apache-2.0
//! One entry of `listen`: an address alone, or a table with what holds for it.

use std::fmt;
use std::str::FromStr;

use serde::de::value::MapAccessDeserializer;
use serde::de::{self, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::tls::TlsFiles;
use super::units::Mode;
use crate::listen::{Address, AddressError};

/// Where to listen, and what holds there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listen {
    /// Where.
    pub address: Address,
    /// Whom everybody is served as who connects there; whoever can reach the socket is that tenant.
    pub tenant: Option<String>,
    /// Permissions of the socket file; `None` = `socket_mode`.
    pub mode: Option<Mode>,
    /// TLS is spoken there, with these files.
    pub tls: Option<TlsFiles>,
    /// The operator says that TCP without encryption may be reached from other hosts.
    pub insecure: bool,
}

/// As it is written when it is more than an address.
#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Table {
    address: Address,
    #[serde(skip_serializing_if = "Option::is_none")]
    tenant: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    mode: Option<Mode>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tls: Option<TlsFiles>,
    #[serde(default)]
    insecure: bool,
}

impl From<Address> for Listen {
    fn from(address: Address) -> Listen {
        Listen { address, tenant: None, mode: None, tls: None, insecure: false }
    }
}

impl FromStr for Listen {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Listen, AddressError> {
        text.parse().map(Address::into)
    }
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.address.fmt(f)
    }
}

impl Serialize for Listen {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if *self == Listen::from(self.address.clone()) {
            return self.address.serialize(serializer);
        }
        let Listen { address, tenant, mode, tls, insecure } = self.clone();
        Table { address, tenant, mode, tls, insecure }.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Listen {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Listen, D::Error> {
        struct Either;

        impl<'de> Visitor<'de> for Either {
            type Value = Listen;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an address, or a table with `address` and what holds there")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Listen, E> {
                text.parse().map_err(E::custom)
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Listen, A::Error> {
                let Table { address, tenant, mode, tls, insecure } =
                    Table::deserialize(MapAccessDeserializer::new(map))?;
                Ok(Listen { address, tenant, mode, tls, insecure })
            }
        }

        deserializer.deserialize_any(Either)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[derive(Debug, PartialEq, Deserialize, Serialize)]
    struct File {
        listen: Vec<Listen>,
    }

    #[test]
    fn an_address_or_a_table() {
        let text = r#"listen = ["unix:/a", { address = "unix:/b", tenant = "t", mode = "0666" }, { address = "tcp:0.0.0.0:1", insecure = true }, { address = "tcp:0.0.0.0:2", tls = { certificate = "c", key = "k", client_ca = "a" } }]"#;
        let file: File = toml::from_str(text).unwrap();
        assert_eq!(file.listen[0], "unix:/a".parse().unwrap());
        assert_eq!(
            (file.listen[1].tenant.as_deref(), file.listen[1].mode.unwrap().get()),
            (Some("t"), 0o666)
        );
        assert!(file.listen[2].insecure);
        assert_eq!(file.listen[3].tls.as_ref().unwrap().client_ca.as_deref(), Some(Path::new("a")));
        assert_eq!(toml::from_str::<File>(&toml::to_string(&file).unwrap()).unwrap(), file);
        for wrong in [
            r#"listen = [{ tenant = "t" }]"#,
            r#"listen = [{ address = "unix:/a", tenat = "t" }]"#,
            r#"listen = [{ address = "tcp:[::]:1", tls = { certificate = "c" } }]"#,
            "listen = [3]",
        ] {
            assert!(toml::from_str::<File>(wrong).is_err(), "{wrong}");
        }
    }
}
