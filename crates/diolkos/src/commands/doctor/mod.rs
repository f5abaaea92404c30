// SPDX-License-Identifier: Apache-2.0
//! `diolkos doctor`: what this host offers, what is wrong with it, and what to do.
//!
//! It only looks. Shared libraries are found by name and never opened, because opening one runs its code.

mod daemon;
mod host;
mod libraries;

use serde::Serialize;

use super::{address, print, print_json};
use crate::backends;
use crate::cli::DoctorArgs;
use crate::exit::{Exit, Failure};
use crate::term::{Paint, Style};

/// How a finding is to be taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Level {
    /// Good, or just so.
    Ok,
    /// It works, and less well than it could.
    Warn,
    /// Something won't work.
    Fail,
}

/// One line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Finding {
    /// What was looked at.
    name: &'static str,
    level: Level,
    /// What was found.
    found: String,
    /// What to do about it; for [`Level::Ok`] there is nothing to do.
    #[serde(skip_serializing_if = "Option::is_none")]
    advice: Option<String>,
}

impl Finding {
    fn ok(name: &'static str, found: impl Into<String>) -> Finding {
        Finding { name, level: Level::Ok, found: found.into(), advice: None }
    }

    fn warn(name: &'static str, found: impl Into<String>, advice: impl Into<String>) -> Finding {
        Finding { name, level: Level::Warn, found: found.into(), advice: Some(advice.into()) }
    }

    fn fail(name: &'static str, found: impl Into<String>, advice: impl Into<String>) -> Finding {
        Finding { name, level: Level::Fail, found: found.into(), advice: Some(advice.into()) }
    }
}

/// The form of `--json`.
#[derive(Debug, Serialize)]
struct Report {
    version: &'static str,
    findings: Vec<Finding>,
}

pub(super) fn run(args: &DoctorArgs) -> Result<Exit, Failure> {
    let address = address(&args.daemon)?;
    let mut findings = host::examine();
    findings.extend(daemon::examine(&address)?);
    findings.push(compiled_in());
    findings.extend(libraries::examine());
    let failed = findings.iter().any(|finding| finding.level == Level::Fail);
    if args.json {
        print_json(&Report { version: env!("CARGO_PKG_VERSION"), findings })?;
    } else {
        print(render(&findings, Paint::stdout()).as_bytes())?;
    }
    Ok(if failed { Exit::Problems } else { Exit::Ok })
}

fn compiled_in() -> Finding {
    let backends = backends::all();
    let formats = |backend: &dyn diolkos_backend::Backend| {
        let formats: Vec<String> =
            backend.formats().iter().map(|format| format!(".{}", format.extension)).collect();
        format!("{} ({})", backend.name(), formats.join(", "))
    };
    let mut names: Vec<String> = backends.iter().map(|backend| formats(&**backend)).collect();
    names.extend(backends::builtin_names());
    Finding::ok("backends", names.join(", "))
}

fn render(findings: &[Finding], paint: Paint) -> String {
    let width = findings.iter().map(|finding| finding.name.len()).max().unwrap_or(0);
    let mut text = String::new();
    for finding in findings {
        let (mark, style) = match finding.level {
            Level::Ok => ("ok  ", Style::Good),
            Level::Warn => ("warn", Style::Warn),
            Level::Fail => ("fail", Style::Bad),
        };
        text += &format!("{}  {:<width$}  {}\n", paint.on(mark, style), finding.name, finding.found);
        if let Some(advice) = &finding.advice {
            text += &format!("      {:<width$}  {}\n", "", paint.on(&format!("-> {advice}"), Style::Dim));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_complaint_says_what_to_do() {
        let findings = [Finding::ok("kernel", "6.1"), Finding::fail("files", "10", "raise it")];
        let text = render(&findings, Paint::PLAIN);
        assert_eq!(text, "ok    kernel  6.1\nfail  files   10\n              -> raise it\n");
        for finding in host::examine() {
            assert_eq!(finding.advice.is_none(), finding.level == Level::Ok, "{finding:?}");
            assert!(!finding.found.is_empty(), "{finding:?}");
        }
    }
}
