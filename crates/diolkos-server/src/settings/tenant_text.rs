// SPDX-License-Identifier: Apache-2.0
//! One tenant as text outside of the settings file: JSON in, as it comes with a request; TOML out, as an operator would have
//! written it. Both have the keys, units and complaints of the file.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Serialize;
use serde_json::{Map, Value};

use super::{LeaseSettings, Settings, SettingsError, TenantSettings, parse};
use crate::listen::Address;

/// A file of tenants and nothing else.
#[derive(Serialize)]
struct File<T> {
    tenants: BTreeMap<String, T>,
}

impl TenantSettings {
    /// Reads a JSON object with the keys of `[tenants.NAME]`. What is wrong is told in the words of the settings file.
    pub(crate) fn from_json(name: &str, json: &Value) -> Result<TenantSettings, Vec<String>> {
        let leases = json.get("leases").and_then(Value::as_object).into_iter().flatten();
        let tables = leases.map(|(_, lease)| lease).chain([json]);
        if tables.into_iter().any(|table| !table.is_object()) {
            // Deserializers take a list for a struct as well.
            return Err(vec!["a tenant and a lease are JSON objects".to_owned()]);
        }
        // Through TOML, so that there is one reader, which knows what was probably meant.
        let file = File { tenants: BTreeMap::from([(name.to_owned(), without_nulls(json))]) };
        let text = toml::to_string(&file).map_err(|error| vec![error.to_string()])?;
        let tenant =
            tenants_only(parse::parse_tenants(&text, Path::new("")))?.remove(name).unwrap_or_default();
        for socket in &tenant.sockets {
            if matches!(socket, Address::Unix(path) if !path.is_absolute()) {
                return Err(vec![format!("`{socket}` has to be an absolute path")]);
            }
        }
        Ok(tenant)
    }

    /// As it would stand in a settings file, without what is the default.
    #[must_use]
    pub fn to_toml(&self, name: &str) -> String {
        tenants_to_toml(&BTreeMap::from([(name.to_owned(), self.clone())]))
    }
}

/// Tenants, as they would stand in a settings file, without what is the default.
pub(crate) fn tenants_to_toml(tenants: &BTreeMap<String, TenantSettings>) -> String {
    let written = |(name, tenant): (&String, &TenantSettings)| (name.clone(), without_defaults(tenant));
    let file = File { tenants: tenants.iter().map(written).collect() };
    toml::to_string(&file).expect("settings are plain data with text keys")
}

/// Reads what [`tenants_to_toml`] wrote, and an operator may have changed.
pub(crate) fn tenants_from_toml(
    text: &str,
    file: &Path,
) -> Result<BTreeMap<String, TenantSettings>, SettingsError> {
    let mut settings = parse::parse_tenants(text, file)?;
    settings.resolve_in(file);
    Ok(settings.tenants)
}

fn tenants_only(
    read: Result<Settings, SettingsError>,
) -> Result<BTreeMap<String, TenantSettings>, Vec<String>> {
    let messages = |error: SettingsError| {
        // Places are those of a text that nobody saw.
        error.diagnostics.into_iter().map(|diagnostic| diagnostic.message).collect()
    };
    read.map(|settings| settings.tenants).map_err(messages)
}

/// TOML has no null; in JSON it means that nothing was said.
fn without_nulls(value: &Value) -> Value {
    match value {
        Value::Object(table) => {
            let said = table.iter().filter(|(_, value)| !value.is_null());
            Value::Object(said.map(|(key, value)| (key.clone(), without_nulls(value))).collect())
        }
        value => value.clone(),
    }
}

fn without_defaults(tenant: &TenantSettings) -> Value {
    let mut told = differing(tenant, &TenantSettings::default());
    let default = LeaseSettings::default();
    let leases = tenant.leases.iter().map(|(name, lease)| (name.clone(), differing(lease, &default).into()));
    let leases: Map<String, Value> = leases.collect();
    if !leases.is_empty() {
        told.insert("leases".into(), leases.into());
    }
    told.into()
}

fn differing<T: Serialize>(value: &T, default: &T) -> Map<String, Value> {
    let tree = |value: &T| serde_json::to_value(value).expect("settings are plain data with text keys");
    let (Value::Object(told), Value::Object(default)) = (tree(value), tree(default)) else {
        unreachable!("a struct is an object");
    };
    told.into_iter().filter(|(key, value)| default.get(key) != Some(value) && !value.is_null()).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn json_in_and_toml_out() {
        let json = json!({
            "sockets": ["unix:/run/a.sock"], "socket_mode": "0666", "rate": "100/s", "burst": null,
            "leases": {"all": {"kind": "compute", "models": ["m*"], "concurrency_max": 2}},
        });
        let tenant = TenantSettings::from_json("a", &json).unwrap();
        let text = tenant.to_toml("a");
        assert_eq!(
            text,
            "[tenants.a]\nrate = \"100/s\"\nsocket_mode = \"0666\"\nsockets = [\"unix:/run/a.sock\"]\n\n\
             [tenants.a.leases.all]\nconcurrency_max = 2\nkind = \"compute\"\nmodels = [\"m*\"]\n"
        );
        let again = tenants_from_toml(&text, Path::new("/etc/t.toml")).unwrap();
        assert_eq!(again, BTreeMap::from([("a".to_owned(), tenant)]));
        assert_eq!(TenantSettings::default().to_toml("x.y"), "[tenants.\"x.y\"]\n");
        let everything = TenantSettings::only(7);
        let read = tenants_from_toml(&everything.to_toml("default"), Path::new("t.toml")).unwrap();
        assert_eq!(read["default"], everything);
    }

    #[test]
    fn complaints_are_those_of_the_file() {
        for (json, expected) in [
            (json!({"rat": "1/s"}), "unknown key `tenants.a.rat`; did you mean `tenants.a.rate`?"),
            (json!({"sockets": ["unix:s"]}), "`unix:s` has to be an absolute path"),
            (
                json!({"sockets": ["tcp:127.0.0.1:1"]}),
                "`tcp:127.0.0.1:1` is no unix socket; an address on TCP or vsock stands in `listen`, with its `tenant`",
            ),
            (json!({"burst": 1}), "tenants.a.burst says nothing without tenants.a.rate"),
            (json!([]), "a tenant and a lease are JSON objects"),
            (json!({"leases": {"x": []}}), "a tenant and a lease are JSON objects"),
        ] {
            assert_eq!(TenantSettings::from_json("a", &json).unwrap_err(), [expected], "{json}");
        }
        let name = TenantSettings::from_json("a/b", &json!({})).unwrap_err();
        assert!(name[0].starts_with("`a/b` is no name"), "{name:?}");
    }
}
