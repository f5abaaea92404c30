// SPDX-License-Identifier: Apache-2.0
//! Who did what, and who was refused what: one line of JSON each, for people who look into it later.
//!
//! Lines are about changes (settings, models) and about refusals (connections, tokens, limits, permissions), never about
//! what was computed, and never hold anything of a payload. Each tenant has a limiter of its own, and those who are nobody
//! share one, so that nobody's noise hides what another one did; the next line says how many were left out.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use diolkos_types::{Code, Status, TenantId};
use serde_json::json;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime as _, SystemTime};

use crate::limits;
use crate::listen::Peer;
use crate::logging::Limiter;

/// What was done, or was to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// Connecting.
    Connect,
    /// A request of somebody who is nobody.
    Request,
    /// Running a model or operation.
    Infer,
    /// Loading a model.
    Load,
    /// Unloading a model.
    Unload,
    /// Reading the metrics.
    Metrics,
    /// New settings.
    Settings,
    /// A certificate of the daemon's, read again.
    Certificate,
    /// Adding, changing and removing tenants.
    Tenant,
}

impl Action {
    fn name(self) -> &'static str {
        match self {
            Action::Connect => "connect",
            Action::Request => "request",
            Action::Infer => "infer",
            Action::Load => "load",
            Action::Unload => "unload",
            Action::Metrics => "metrics",
            Action::Settings => "settings",
            Action::Certificate => "certificate",
            Action::Tenant => "tenant",
        }
    }
}

/// The log.
#[derive(Debug)]
pub(crate) struct Audit {
    file: Option<(PathBuf, Mutex<File>)>,
    limiters: Mutex<HashMap<Option<TenantId>, Limiter>>,
}

/// The file of the audit log can't be written.
#[derive(Debug, thiserror::Error)]
#[error("can't write the audit log `{}` (audit.file)", .path.display())]
pub struct AuditError {
    path: PathBuf,
    source: io::Error,
}

impl Audit {
    /// One that appends to a file, or, without one, writes among the daemon's log lines.
    pub(crate) fn open(path: Option<&Path>) -> Result<Audit, AuditError> {
        let open = |path: &Path| {
            let file = append_to(path).map_err(|source| AuditError { path: path.into(), source })?;
            Ok((path.to_owned(), Mutex::new(file)))
        };
        Ok(Audit { file: path.map(open).transpose()?, limiters: Mutex::default() })
    }

    /// Opens the file again, which somebody may have moved away to begin a new one.
    pub(crate) fn reopen(&self) {
        let Some((path, file)) = &self.file else { return };
        match append_to(path) {
            Ok(new) => *lock(file) = new,
            Err(error) => {
                tracing::error!(path = %path.display(), %error, "the audit log stays where it was");
            }
        }
    }

    /// Drops what is kept for a tenant that is gone.
    pub(crate) fn forget(&self, tenant: &TenantId) {
        lock(&self.limiters).remove(&Some(tenant.clone()));
    }

    /// Somebody changed something, or was not allowed to. `object` is what it is about, a model's name say.
    pub(crate) fn changed(
        &self,
        tenant: Option<&TenantId>,
        peer: Option<&Peer>,
        action: Action,
        object: &str,
        failure: Option<&Status>,
    ) {
        let (result, reason) = match failure {
            None => ("ok", String::new()),
            Some(status) => (status.code().name(), cut(status.message())),
        };
        self.write(tenant, peer, action, object, result, &reason);
    }

    /// Somebody was refused something.
    pub(crate) fn refused(
        &self,
        tenant: Option<&TenantId>,
        peer: Option<&Peer>,
        action: Action,
        code: Code,
        reason: &str,
    ) {
        self.write(tenant, peer, action, "", code.name(), &cut(reason));
    }

    fn write(
        &self,
        tenant: Option<&TenantId>,
        peer: Option<&Peer>,
        action: Action,
        object: &str,
        result: &str,
        reason: &str,
    ) {
        let admitted = {
            let mut limiters = lock(&self.limiters);
            // Bounded by the tenants that are served, and those that are just going.
            let limiter = limiters.entry(tenant.cloned()).or_insert_with(Limiter::new);
            limiter.admit(Instant::now())
        };
        let Some(suppressed) = admitted else { return };
        let (tenant, peer) = (tenant.map(TenantId::name), peer.map(ToString::to_string));
        let (action, object) = (action.name(), cut(object));
        let Some((_, file)) = &self.file else {
            let (tenant, peer) = (tenant.unwrap_or("-"), peer.as_deref().unwrap_or("-"));
            tracing::info!(tenant, peer, action, object, result, reason, suppressed, "audit");
            return;
        };
        let mut line = json!({
            "time": now(),
            "tenant": tenant,
            "peer": peer,
            "action": action,
            "object": object,
            "result": result,
            "reason": reason,
            "suppressed": suppressed,
        })
        .to_string();
        line.push('\n');
        // In one write, so that lines of two daemons would not mix.
        if let Err(error) = lock(file).write_all(line.as_bytes()) {
            crate::logging::limited!(error, %error, "a line of the audit log is lost");
        }
    }
}

fn append_to(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).mode(0o600).open(path)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing here panics while it holds a lock.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// As much of a text as a line shows.
fn cut(text: &str) -> String {
    text[..text.floor_char_boundary(limits::AUDIT_TEXT_BYTES_MAX)].to_owned()
}

/// The time of day, as RFC 3339 writes it.
fn now() -> String {
    let mut text = String::new();
    // Fails only if the text can't be written to.
    let _ = SystemTime.format_time(&mut Writer::new(&mut text));
    text
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    fn lines(path: &Path) -> Vec<Value> {
        let text = std::fs::read_to_string(path).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    #[test]
    fn each_line_says_who_what_and_how_it_ended() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("audit.jsonl");
        let audit = Audit::open(Some(&path)).unwrap();
        let (a, peer) = (TenantId::new("a"), Peer::unix(7, Some(9)));
        audit.changed(Some(&a), Some(&peer), Action::Load, "m\n\"x\"", None);
        audit.refused(None, Some(&peer), Action::Connect, Code::PermissionDenied, "no");
        let written = lines(&path);
        assert_eq!(written[0]["tenant"], "a");
        assert_eq!(written[0]["peer"], "unix uid 7 pid 9");
        assert_eq!((&written[0]["action"], &written[0]["object"]), (&"load".into(), &"m\n\"x\"".into()));
        assert_eq!(written[0]["result"], "ok");
        assert!(written[0]["time"].as_str().unwrap().starts_with("20"));
        assert_eq!(
            (&written[1]["tenant"], &written[1]["result"]),
            (&Value::Null, &"permission_denied".into())
        );
        let mode = std::os::unix::fs::MetadataExt::mode(&path.metadata().unwrap());
        assert_eq!(mode & 0o777, 0o600);
        // Rotated away, and begun anew.
        std::fs::rename(&path, dir.path().join("old")).unwrap();
        audit.reopen();
        audit.changed(None, None, Action::Settings, "", None);
        assert_eq!(lines(&path).len(), 1);
    }

    #[test]
    fn nobodys_noise_hides_another_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("audit.jsonl");
        let audit = Audit::open(Some(&path)).unwrap();
        let (a, b) = (TenantId::new("a"), TenantId::new("b"));
        let long = "é".repeat(4000);
        for _ in 0..1000 {
            audit.refused(Some(&a), None, Action::Infer, Code::Busy, &long);
        }
        audit.refused(Some(&b), None, Action::Infer, Code::Busy, "x");
        let written = lines(&path);
        let of = |tenant: &str| written.iter().filter(|line| line["tenant"] == tenant).count();
        assert_eq!(of("b"), 1);
        assert!(of("a") <= limits::LOG_BURST as usize + 2, "{}", of("a"));
        assert!(path.metadata().unwrap().len() < 64 << 10);
        assert!(Audit::open(Some(Path::new("/nowhere/at/all"))).is_err());
    }
}
