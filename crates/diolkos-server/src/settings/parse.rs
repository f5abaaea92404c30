// SPDX-License-Identifier: Apache-2.0
//! TOML text to [`Settings`], with every complaint at its place: `file:line:column: message`.
//!
//! Three passes, each over the same text: syntax and unknown keys, types and units, rules between values.

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};

use diolkos_engine::limits as engine_limits;
use toml::de::{DeTable, DeValue};

use super::{EngineSettings, LeaseSettings, PoolSettings, Settings, TenantSettings, pools, suggest, tenants};
use crate::limits;
use crate::listen::{Address, Tls};

/// What is wrong, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    /// The file.
    pub file: PathBuf,
    /// From 1; 0 when the complaint is about the file as a whole.
    pub line: usize,
    /// In characters, from 1; 0 like the line.
    pub column: usize,
    /// What is wrong and what to do.
    pub message: String,
}

impl Diagnostic {
    fn at(file: &Path, text: &str, span: Option<Range<usize>>, message: String) -> Diagnostic {
        let (line, column) = span.map_or((0, 0), |span| position(text, span.start));
        Diagnostic { file: file.into(), line, column, message }
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.file.display())?;
        if self.line > 0 {
            write!(f, "{}:{}:", self.line, self.column)?;
        }
        write!(f, " {}", self.message)
    }
}

/// Why there are no settings: at least one diagnostic, in the order of the file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", lines(.diagnostics))]
pub struct SettingsError {
    /// What is wrong.
    pub diagnostics: Vec<Diagnostic>,
}

fn lines(diagnostics: &[Diagnostic]) -> String {
    diagnostics.iter().map(Diagnostic::to_string).collect::<Vec<_>>().join("\n")
}

/// Line and column of a byte, both from 1.
fn position(text: &str, byte: usize) -> (usize, usize) {
    let mut end = byte.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    let before = &text[..end];
    let line_begins = before.rfind('\n').map_or(0, |newline| newline + 1);
    (before.matches('\n').count() + 1, before[line_begins..].chars().count() + 1)
}

/// The text of a settings file.
pub(super) fn read(path: &Path) -> Result<String, SettingsError> {
    let whole =
        |message: String| SettingsError { diagnostics: vec![Diagnostic::at(path, "", None, message)] };
    let bytes = std::fs::metadata(path).map_err(|error| whole(error.to_string()))?.len();
    if bytes > limits::SETTINGS_BYTES_MAX {
        return Err(whole(format!(
            "the file has {bytes} bytes; settings have at most {}, so this is probably another file",
            limits::SETTINGS_BYTES_MAX
        )));
    }
    std::fs::read_to_string(path).map_err(|error| whole(error.to_string()))
}

/// Settings from text, before paths are resolved.
pub(super) fn parse(text: &str, origin: &Path) -> Result<Settings, SettingsError> {
    parse_by(text, origin, broken_rules)
}

/// The same of tenants that are added to other settings: what they name there is not looked for.
pub(super) fn parse_tenants(text: &str, origin: &Path) -> Result<Settings, SettingsError> {
    parse_by(text, origin, broken_alone)
}

fn parse_by(
    text: &str,
    origin: &Path,
    rules: fn(&Settings) -> Vec<(String, String)>,
) -> Result<Settings, SettingsError> {
    let at = |span, message| Diagnostic::at(origin, text, span, message);
    let of_toml = |error: toml::de::Error| at(error.span(), error.message().replace('\n', " "));
    let fail = |diagnostics| Err(SettingsError { diagnostics });

    let tree = match DeTable::parse(text) {
        Ok(tree) => tree.into_inner(),
        Err(error) => return fail(vec![of_toml(error)]),
    };
    let unknown = unknown_keys(&tree);
    if !unknown.is_empty() {
        return fail(unknown.into_iter().map(|(span, message)| at(Some(span), message)).collect());
    }
    let settings: Settings = match toml::from_str(text) {
        Ok(settings) => settings,
        Err(error) => return fail(vec![of_toml(error)]),
    };
    let broken = rules(&settings);
    if broken.is_empty() {
        return Ok(settings);
    }
    let located = broken.into_iter().map(|(key, message)| at(span_of(&tree, &key), message));
    fail(located.collect())
}

/// Complains about paths and CPUs that are not there.
pub(super) fn check_paths(settings: &Settings, text: &str, origin: &Path) -> Result<(), SettingsError> {
    let tree = DeTable::parse(text).map(toml::Spanned::into_inner).unwrap_or_default();
    let mut diagnostics = Vec::new();
    let mut complain = |key: &str, index, message| {
        let span = span_of_element(&tree, key, index);
        diagnostics.push(Diagnostic::at(origin, text, span, message));
    };
    for (index, path) in settings.models.repositories.iter().enumerate() {
        if !path.is_dir() {
            let message = format!("models.repositories: `{}` is no directory", path.display());
            complain("models.repositories", index, message);
        }
    }
    for (index, path) in settings.models.files.iter().enumerate() {
        if !path.exists() {
            complain("models.files", index, format!("models.files: `{}` does not exist", path.display()));
        }
    }
    for (index, listen) in settings.listen.iter().enumerate() {
        if let Some(Err(error)) = listen.tls.as_ref().map(|files| Tls::load(files, true)) {
            complain("listen", index, format!("listen: {error}"));
        }
    }
    for (key, message) in pools::missing_cpus(settings) {
        complain(&key, 0, message);
    }
    if diagnostics.is_empty() { Ok(()) } else { Err(SettingsError { diagnostics }) }
}

/// Stands in the tree of keys for a name that the operator chooses.
pub(super) const ANY_NAME: &str = "NAME";

/// The tree of all keys with their defaults, from the structs themselves.
pub(super) fn known_keys() -> serde_json::Value {
    let lease = BTreeMap::from([(ANY_NAME.to_owned(), LeaseSettings::default())]);
    let tenant = TenantSettings { leases: lease, ..TenantSettings::default() };
    let tenants = BTreeMap::from([(ANY_NAME.to_owned(), tenant)]);
    let pools = BTreeMap::from([(ANY_NAME.to_owned(), PoolSettings::default())]);
    let engine = EngineSettings { pools, ..EngineSettings::default() };
    tree(&Settings { tenants, engine, ..Settings::default() })
}

/// Settings as a tree.
pub(super) fn tree(settings: &Settings) -> serde_json::Value {
    serde_json::to_value(settings).expect("settings are plain data with text keys")
}

fn unknown_keys(tree: &DeTable<'_>) -> Vec<(Range<usize>, String)> {
    let known = known_keys();
    let mut found = Vec::new();
    collect_unknown(tree, &known, "", &mut found);
    found.sort_by_key(|(span, _)| span.start);
    found.truncate(limits::SETTINGS_DIAGNOSTICS_MAX);
    found
}

fn collect_unknown(
    table: &DeTable<'_>,
    known: &serde_json::Value,
    section: &str,
    found: &mut Vec<(Range<usize>, String)>,
) {
    // A table where a plain value belongs: the pass over types says so better.
    let Some(known) = known.as_object() else { return };
    for (key, value) in table.iter() {
        let name: &str = key.get_ref();
        match (known.get(name).or_else(|| known.get(ANY_NAME)), value.get_ref()) {
            (None, _) => found.push((key.span(), unknown_key(name, section, known))),
            (Some(below), DeValue::Table(table)) => {
                collect_unknown(table, below, &format!("{section}{name}."), found);
            }
            (Some(_), _) => {}
        }
    }
}

fn unknown_key(name: &str, section: &str, known: &serde_json::Map<String, serde_json::Value>) -> String {
    let shown: String = name.chars().take(60).collect();
    let keys = || known.keys().map(String::as_str);
    match suggest::nearest(name, keys()) {
        Some(nearest) => format!("unknown key `{section}{shown}`; did you mean `{section}{nearest}`?"),
        None => {
            format!("unknown key `{section}{shown}`; known here: {}", keys().collect::<Vec<_>>().join(", "))
        }
    }
}

/// Where the value of a key such as `limits.connections_max` stands.
fn span_of(tree: &DeTable<'_>, key: &str) -> Option<Range<usize>> {
    find(tree, key).map(|(span, _)| span)
}

fn span_of_element(tree: &DeTable<'_>, key: &str, index: usize) -> Option<Range<usize>> {
    let (span, value) = find(tree, key)?;
    let element = value.as_array().and_then(|array| array.get(index)).map(toml::Spanned::span);
    Some(element.unwrap_or(span))
}

fn find<'t, 'i>(tree: &'t DeTable<'i>, key: &str) -> Option<(Range<usize>, &'t DeValue<'i>)> {
    match key.split_once('.') {
        Some((section, rest)) => match tree.get(section)?.get_ref() {
            DeValue::Table(table) => find(table, rest),
            _ => None,
        },
        None => tree.get(key).map(|value| (value.span(), value.get_ref())),
    }
}

/// What the types alone do not say. Each complaint names the key that it is about.
pub(super) fn broken_rules(settings: &Settings) -> Vec<(String, String)> {
    let mut broken = broken_alone(settings);
    pools::broken_leases(settings, |key, message| broken.push((key, message)));
    broken
}

/// The rules that hold for a part of the settings as well.
fn broken_alone(settings: &Settings) -> Vec<(String, String)> {
    let mut broken = Vec::new();
    let mut rule = |key: &'static str, holds: bool, wants: String| {
        if !holds {
            broken.push((key.to_owned(), format!("{key} {wants}")));
        }
    };
    let Settings { limits: bounds, models, .. } = settings;
    let connections = bounds.connections_max;
    rule(
        "limits.connections_max",
        (1..=limits::CONNECTIONS_MAX).contains(&connections),
        format!("is {connections}; between 1 and {} are possible", limits::CONNECTIONS_MAX),
    );
    for (key, time) in [
        ("limits.header_timeout", bounds.header_timeout),
        ("limits.idle_timeout", bounds.idle_timeout),
        ("limits.body_timeout", bounds.body_timeout),
        ("models.rehearsal_cpu", models.rehearsal_cpu),
        ("models.rehearsal_timeout", models.rehearsal_timeout),
    ] {
        rule(
            key,
            !time.get().is_zero(),
            "is 0; without this limit one client could hold the daemon up".into(),
        );
    }
    for (key, size) in [
        ("limits.body_bytes_max", bounds.body_bytes_max),
        ("limits.request_memory_max", bounds.request_memory_max),
        ("models.memory_max", models.memory_max),
        ("models.file_bytes_max", models.file_bytes_max),
        ("models.rehearsal_memory_max", models.rehearsal_memory_max),
        ("shared_memory.bytes_max", settings.shared_memory.bytes_max),
    ] {
        rule(key, size.get() > 0, "is 0, which allows nothing".into());
    }
    rule(
        "limits.request_memory_max",
        bounds.request_memory_max <= bounds.requests_memory_max,
        format!(
            "is {} and limits.requests_memory_max {}; one request can't have more than all of them",
            bounds.request_memory_max, bounds.requests_memory_max
        ),
    );
    rule(
        "engine.slots",
        settings.engine.slots <= engine_limits::DEVICE_SLOTS_MAX,
        format!("is {}; at most {} are possible", settings.engine.slots, engine_limits::DEVICE_SLOTS_MAX),
    );
    for (key, floor) in [
        ("engine.standard_floor", settings.engine.standard_floor),
        ("engine.batch_floor", settings.engine.batch_floor),
    ] {
        rule(
            key,
            floor <= 50,
            format!("is {floor} percent; at most 50 are possible, or it would be no floor"),
        );
    }
    rule("models.variable_dim_max", models.variable_dim_max > 0, "is 0, which allows no tensor".into());
    rule(
        "listen",
        settings.listen.len() <= limits::LISTENERS_MAX,
        format!("names {} addresses; at most {} are possible", settings.listen.len(), limits::LISTENERS_MAX),
    );
    rule(
        "tenants",
        settings.tenants.len() <= limits::TENANTS_MAX,
        format!("names {} tenants; at most {} are possible", settings.tenants.len(), limits::TENANTS_MAX),
    );
    broken_names(settings, &mut broken);
    tenants::broken_rules(&settings.tenants, |key, message| broken.push((key, message)));
    pools::broken_rules(settings, |key, message| broken.push((key, message)));
    broken
}

/// Addresses that are not as closed as they look, and tenants that are named and not there.
fn broken_names(settings: &Settings, broken: &mut Vec<(String, String)>) {
    let mut tenant_of = |key: &str, name: &str| {
        // Without any tenants there is one.
        let known = settings.tenants.contains_key(name) || (settings.tenants.is_empty() && name == "default");
        if !known {
            let shown: String = name.chars().take(60).collect();
            let nearest = suggest::nearest(name, settings.tenants.keys().map(String::as_str));
            let hint = nearest.map(|nearest| format!("; did you mean `{nearest}`?")).unwrap_or_default();
            broken.push((key.to_owned(), format!("`{shown}` is none of the tenants{hint}")));
        }
    };
    if let Some(name) = &settings.anonymous {
        tenant_of("anonymous", name);
    }
    for name in settings.listen.iter().filter_map(|listen| listen.tenant.as_deref()) {
        tenant_of("listen", name);
    }
    let mut sockets = HashSet::new();
    for listen in settings.listen.iter().filter(|listen| matches!(listen.address, Address::Unix(_))) {
        sockets.insert(&listen.address);
    }
    for (name, tenant) in &settings.tenants {
        for socket in tenant.sockets.iter().filter(|socket| !sockets.insert(socket)) {
            broken.push((format!("tenants.{name}.sockets"), format!("`{socket}` is listened on twice")));
        }
    }
    for listen in &settings.listen {
        let why = match &listen.address {
            Address::Unix(_) => Some("a unix socket needs none"),
            Address::Vsock(_) => Some("vsock needs none: only the hypervisor sees what goes over it"),
            Address::Tcp { .. } => listen.insecure.then_some("`insecure` says the opposite"),
        };
        if let Some(why) = why.filter(|_| listen.tls.is_some()) {
            broken.push((
                "listen".into(),
                format!("`{}` has `tls`, and {why}; take one of them out", listen.address),
            ));
        }
    }
    for listen in settings.listen.iter().filter(|listen| !listen.insecure && listen.tls.is_none()) {
        if let Err(error) = listen.address.check_loopback() {
            broken.push(("listen".into(), error.to_string()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn errors(text: &str) -> String {
        Settings::parse(text, Path::new("/etc/d.toml")).unwrap_err().to_string()
    }

    #[test]
    fn nothing_is_the_default() {
        assert_eq!(Settings::parse("", Path::new("d.toml")), Ok(Settings::default()));
    }

    #[test]
    fn the_default_written_out_reads_back() {
        let text = toml::to_string(&Settings::default()).unwrap();
        assert_eq!(Settings::parse(&text, Path::new("d.toml")), Ok(Settings::default()), "{text}");
    }

    #[test]
    fn paths_are_relative_to_the_file() {
        let text = "listen = [\"unix:s.sock\"]\n[models]\nrepositories = [\"models\", \"/m\"]\n";
        let settings = Settings::parse(text, Path::new("/etc/diolkos/d.toml")).unwrap();
        assert_eq!(settings.models.repositories, [Path::new("/etc/diolkos/models"), Path::new("/m")]);
        assert_eq!(settings.listen[0].to_string(), "unix:/etc/diolkos/s.sock");
    }

    #[test]
    fn each_mistake_is_told_with_its_place() {
        for (text, expected) in [
            (
                "[limits]\nconections_max = 3\n",
                "/etc/d.toml:2:1: unknown key `limits.conections_max`; did you mean `limits.connections_max`?",
            ),
            (
                "[log]\ncolour = 3\n\n[limit]\n",
                "/etc/d.toml:2:1: unknown key `log.colour`; known here: format, level\n\
                 /etc/d.toml:4:2: unknown key `limit`; did you mean `limits`?",
            ),
            (
                "linger = \"5 sec\"",
                "/etc/d.toml:1:10: `5 sec` is no duration: write a whole number and us, ms, s, m or h, such as \"250ms\" or \"5s\"",
            ),
            (
                "[models]\nmemory_max = \"4GB\"",
                "/etc/d.toml:2:14: `4GB` is no size: write a whole number and B, KiB, MiB, GiB or TiB, such as \"64MiB\"",
            ),
            ("[limits]\nbody_timeout = 5", "/etc/d.toml:2:16: invalid type: integer `5`, expected a string"),
            (
                "[limits]\n  connections_max = 0",
                "/etc/d.toml:2:21: limits.connections_max is 0; between 1 and 16384 are possible",
            ),
            (
                "[limits]\nheader_timeout = \"0s\"",
                "/etc/d.toml:2:18: limits.header_timeout is 0; without this limit one client could hold the daemon up",
            ),
            (
                "[limits]\nrequest_memory_max = \"2GiB\"\nrequests_memory_max = \"1GiB\"",
                "/etc/d.toml:2:22: limits.request_memory_max is 2GiB and limits.requests_memory_max 1GiB; one request can't have more than all of them",
            ),
            ("[engine]\nslots = 5000", "/etc/d.toml:2:9: engine.slots is 5000; at most 1024 are possible"),
            (
                "[log]\nlevel = \"loud\"",
                "/etc/d.toml:2:9: `loud` is no log level: error, warn, info, debug and trace are",
            ),
            (
                "listen = [\"tcp:0.0.0.0:80\"]",
                "/etc/d.toml:1:10: `tcp:0.0.0.0:80` is not on loopback, and TCP is not encrypted: whoever sees the network could read tensors and tokens; listen on unix:PATH and put a proxy in front, or write { address = \"tcp:0.0.0.0:80\", insecure = true } in the settings",
            ),
            (
                "anonymous = \"gest\"\n[tenants.guest]\nrat = \"1/s\"\n[tenants.guest.leases.all]\nkinds = 1\n",
                "/etc/d.toml:3:1: unknown key `tenants.guest.rat`; did you mean `tenants.guest.rate`?\n\
                 /etc/d.toml:5:1: unknown key `tenants.guest.leases.all.kinds`; did you mean `tenants.guest.leases.all.kind`?",
            ),
            (
                "anonymous = \"gest\"\n[tenants.guest]\nuids = [1]\n[tenants.b]\nuids = [1]\nburst = 3\n",
                "/etc/d.toml:1:13: `gest` is none of the tenants; did you mean `guest`?\n\
                 /etc/d.toml:6:9: tenants.b.burst says nothing without tenants.b.rate\n\
                 /etc/d.toml:3:8: uid 1 is tenant `b` already",
            ),
            (
                "[tenants.a]\nrate = \"many\"",
                "/etc/d.toml:2:8: `many` is no rate: write a whole number of requests and /s, /m or /h, such as \"100/s\"",
            ),
            (
                "[tenants.a.leases.x]\nmodels = [\"*\"]\n[tenants.a.leases.y]\nkind = \"compute\"\n",
                "/etc/d.toml:1:1: lease `x` needs a kind; `kind = \"compute\"` is the one there is\n\
                 /etc/d.toml:3:1: the leases `x` and `y` are both for all devices; make one of them",
            ),
            (
                "[tenants.a.leases.x]\nkind = \"gpu\"",
                "/etc/d.toml:2:8: unknown variant `gpu`, expected `compute`",
            ),
            (
                "socket_mode = \"rw\"",
                "/etc/d.toml:1:15: `rw` is no file mode: write three octal digits behind a 0, such as \"0600\"",
            ),
        ] {
            assert_eq!(errors(text), expected, "for\n{text}");
        }
    }

    #[test]
    fn columns_count_characters() {
        assert_eq!(position("é = 1\nöä = x", "é = 1\nöä = ".len()), (2, 6));
        assert_eq!(position("é", 1), (1, 1));
        assert_eq!(position("", 7), (1, 1));
    }

    #[test]
    fn syntax_errors_have_a_place() {
        let error = Settings::parse("[limits\n", Path::new("d.toml")).unwrap_err();
        assert_eq!(error.diagnostics[0].line, 1, "{error}");
        assert!(error.diagnostics[0].column > 1, "{error}");
    }

    #[test]
    fn check_looks_at_the_disk() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("d.toml");
        std::fs::write(&file, "[models]\nrepositories = [\".\", \"gone\"]\nfiles = [\"no.onnx\"]\n").unwrap();
        let error = Settings::check(&file).unwrap_err();
        let places: Vec<_> = error.diagnostics.iter().map(|d| (d.line, d.column)).collect();
        assert_eq!(places, [(2, 22), (3, 10)], "{error}");
        assert!(error.to_string().contains("gone` is no directory"), "{error}");
        let missing = Settings::load(&dir.path().join("none.toml")).unwrap_err();
        assert!(missing.to_string().contains("none.toml: No such file"), "{missing}");
    }

    proptest::proptest! {
        #[test]
        fn never_panics(text in "(\\[?(limits|models|log)\\]?|[a-z]{1,6} = |[\"\\[\\]0-9a-zé.,]{0,8}|\n){0,12}") {
            let _ = Settings::parse(&text, Path::new("d.toml"));
        }
    }
}
