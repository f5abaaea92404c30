// SPDX-License-Identifier: Apache-2.0
//! `diolkos check`: settings, models and configurations, without a daemon.
//!
//! Models are loaded as the daemon would load them, in a child process under limits first, so what passes
//! here loads there (memory for other models aside).

use std::error::Error;
use std::path::{Path, PathBuf};

use diolkos_engine::store::config::{ModelConfig, Severity};
use diolkos_engine::store::layout::{CONFIG_NAME, LayoutError};
use diolkos_engine::store::pbtxt::Pos;
use diolkos_engine::store::{RehearsalLimits, Store, StoreConfig, StoreError, VersionError};
use diolkos_server::Settings;
use serde::Serialize;

use super::{print, print_json};
use crate::backends;
use crate::cli::CheckArgs;
use crate::exit::{Exit, Failure};
use crate::term::{Paint, Progress, Style};

/// Largest configuration that is read; the parser refuses far shorter ones with a reason.
const CONFIG_BYTES_MAX: u64 = 16 << 20;

/// One line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Finding {
    file: PathBuf,
    /// From 1; nothing when it is about the file as a whole.
    line: Option<u64>,
    column: Option<u64>,
    /// `error` or `note`.
    severity: &'static str,
    /// What is wrong, and what to do.
    message: String,
}

/// The form of `--json`.
#[derive(Debug, Default, Serialize)]
struct Report {
    /// What was checked.
    path: PathBuf,
    /// `settings`, `config`, `model` or `repository`.
    kind: &'static str,
    /// Models that were loaded.
    models: Vec<String>,
    errors: usize,
    notes: usize,
    findings: Vec<Finding>,
}

pub(super) fn run(args: &CheckArgs) -> Result<Exit, Failure> {
    let path = &args.path;
    let meta = std::fs::metadata(path)
        .map_err(|error| Failure::usage(format!("can't read {}", path.display())).because(&error))?;
    let mut report = Report { path: path.clone(), ..Report::default() };
    let extension = path.extension().and_then(|extension| extension.to_str());
    match extension {
        _ if meta.is_dir() => directory(path, &mut report)?,
        Some("toml") => settings(path, &mut report),
        Some("pbtxt") => {
            report.kind = "config";
            config(path, &mut report)?;
        }
        _ => model(path, &mut report)?,
    }
    report.errors = report.findings.iter().filter(|finding| finding.severity == "error").count();
    report.notes = report.findings.len() - report.errors;
    if args.json {
        print_json(&report)?;
    } else {
        print(render(&report, Paint::stdout()).as_bytes())?;
    }
    Ok(if report.errors > 0 { Exit::Problems } else { Exit::Ok })
}

impl Report {
    fn add(&mut self, file: &Path, pos: Option<Pos>, severity: &'static str, message: impl Into<String>) {
        let finding = Finding {
            file: file.into(),
            line: pos.map(|pos| pos.line.into()),
            column: pos.map(|pos| pos.column.into()),
            severity,
            message: message.into(),
        };
        // A configuration is read twice, alone and with its model; each complaint is told once.
        if !self.findings.contains(&finding) {
            self.findings.push(finding);
        }
    }
}

fn settings(path: &Path, report: &mut Report) {
    report.kind = "settings";
    let Err(error) = Settings::check(path) else { return };
    for found in error.diagnostics {
        let place = |number: usize| (found.line > 0).then_some(number as u64);
        report.findings.push(Finding {
            file: found.file.clone(),
            line: place(found.line),
            column: place(found.column),
            severity: "error",
            message: found.message,
        });
    }
}

/// Checks a configuration alone. `false` if it can't be used.
fn config(path: &Path, report: &mut Report) -> Result<bool, Failure> {
    use std::io::Read as _;
    let mut text = Vec::new();
    std::fs::File::open(path)
        .and_then(|file| file.take(CONFIG_BYTES_MAX).read_to_end(&mut text))
        .map_err(|error| Failure::usage(format!("can't read {}", path.display())).because(&error))?;
    let checked = ModelConfig::check(&text);
    for found in checked.diagnostics {
        let severity = match found.severity {
            Severity::Error => "error",
            Severity::Note => "note",
        };
        report.add(path, Some(found.pos), severity, found.message);
    }
    Ok(checked.config.is_some())
}

fn store() -> Result<Store, Failure> {
    let rehearser = Box::new(backends::rehearser(RehearsalLimits::default()));
    Store::new(StoreConfig::default(), backends::all(), rehearser)
        .map_err(|error| Failure::failed("can't make a model store").because(&error))
}

fn model(path: &Path, report: &mut Report) -> Result<(), Failure> {
    report.kind = "model";
    let store = store()?;
    match store.add_file(path) {
        Ok(()) => load_all(&store, |_| path.to_path_buf(), report),
        Err(error) => complain(path, &error, report),
    }
    Ok(())
}

fn directory(path: &Path, report: &mut Report) -> Result<(), Failure> {
    if is_model_directory(path) {
        let config_path = path.join(CONFIG_NAME);
        let usable = !config_path.exists() || config(&config_path, report)?;
        return if usable {
            model(path, report)
        } else {
            report.kind = "model";
            Ok(())
        };
    }
    report.kind = "repository";
    let store = store()?;
    let scan = store
        .add_repository(path)
        .map_err(|error| Failure::usage(format!("can't read {}", path.display())).because(&error))?;
    for note in scan.notes {
        report.add(path, None, "note", note);
    }
    for (file, error) in &scan.errors {
        // All mistakes of its configuration, rather than the first one.
        let config_path = file.join(CONFIG_NAME);
        if !config_path.exists() || config(&config_path, report)? {
            complain(file, error, report);
        }
    }
    for name in &scan.models {
        let config_path = path.join(&**name).join(CONFIG_NAME);
        if config_path.exists() {
            config(&config_path, report)?;
        }
    }
    if scan.models.is_empty() && scan.errors.is_empty() {
        report.add(
            path,
            None,
            "error",
            "there is no model in it; a model is <model>/<version>/model.onnx, or <model>.onnx",
        );
    }
    let place = |name: &str| {
        let inside = path.join(name);
        if inside.is_dir() { inside } else { path.to_path_buf() }
    };
    load_all(&store, place, report);
    Ok(())
}

/// Whether this is one model rather than a directory of models.
fn is_model_directory(path: &Path) -> bool {
    let is_version = |entry: std::fs::DirEntry| {
        let digits =
            entry.file_name().to_str().is_some_and(|name| name.bytes().all(|byte| byte.is_ascii_digit()));
        digits && entry.path().is_dir()
    };
    let has_version = || std::fs::read_dir(path).is_ok_and(|entries| entries.flatten().any(is_version));
    path.join(CONFIG_NAME).exists() || has_version()
}

fn load_all(store: &Store, place: impl Fn(&str) -> PathBuf, report: &mut Report) {
    let entries = store.entries();
    let progress = Progress::steps("loading", entries.len() as u64);
    for entry in entries {
        let file = place(entry.name());
        // What is wrong with a model as a whole was told when it was found.
        if !entry.versions().is_empty() {
            match store.load(entry.name()) {
                Ok(loaded) => {
                    report.models.push(entry.name().to_owned());
                    for note in loaded.notes {
                        let told = report.findings.iter().any(|finding| note.ends_with(&finding.message));
                        if !told {
                            report.add(&file, None, "note", note);
                        }
                    }
                }
                Err(error) => complain(&file, &error, report),
            }
        }
        progress.step();
    }
}

/// An error of the store, at its place where it has one.
fn complain(file: &Path, error: &StoreError, report: &mut Report) {
    let at_config = |pos| (file.join(CONFIG_NAME), pos);
    let mut cause: Option<&(dyn Error + 'static)> = Some(error);
    while let Some(error) = cause {
        if let Some(LayoutError::Config { path, source }) = error.downcast_ref() {
            return report.add(path, Some(source.pos), "error", source.message.clone());
        }
        if let Some(VersionError::Config { source, .. }) = error.downcast_ref() {
            let (path, pos) = at_config(source.pos);
            return report.add(&path, Some(pos), "error", source.message.clone());
        }
        // Boxed errors hide their type behind the box.
        if let Some(VersionError::Config { source, .. }) =
            error.downcast_ref::<Box<VersionError>>().map(|error| &**error)
        {
            let (path, pos) = at_config(source.pos);
            return report.add(&path, Some(pos), "error", source.message.clone());
        }
        cause = error.source();
    }
    report.add(file, None, "error", error.to_string());
}

fn render(report: &Report, paint: Paint) -> String {
    let mut text = String::new();
    for finding in &report.findings {
        text += &paint.on(&finding.file.display().to_string(), Style::Head);
        if let (Some(line), Some(column)) = (finding.line, finding.column) {
            text += &format!(":{line}:{column}");
        }
        let style = if finding.severity == "error" { Style::Bad } else { Style::Dim };
        text += &format!(": {}: {}\n", paint.on(finding.severity, style), finding.message);
    }
    let plural = |count: usize, what: &str| format!("{count} {what}{}", if count == 1 { "" } else { "s" });
    let found = match (report.errors, report.notes) {
        (0, 0) => paint.on("nothing wrong", Style::Good),
        (errors, notes) => format!("{}, {}", plural(errors, "error"), plural(notes, "note")),
    };
    let loaded = match report.models.as_slice() {
        [] => String::new(),
        models => format!("; {} loaded", models.join(", ")),
    };
    text += &format!("{}: {found}{loaded}\n", report.path.display());
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn findings_have_their_place() {
        let mut report = Report { path: "m".into(), ..Report::default() };
        report.add(Path::new("m/config.pbtxt"), Some(Pos { line: 3, column: 7 }), "error", "wrong");
        report.add(Path::new("m/config.pbtxt"), Some(Pos { line: 3, column: 7 }), "error", "wrong");
        report.add(Path::new("m"), None, "note", "strange");
        (report.errors, report.notes) = (1, 1);
        let text = render(&report, Paint::PLAIN);
        assert_eq!(text, "m/config.pbtxt:3:7: error: wrong\nm: note: strange\nm: 1 error, 1 note\n");
    }

    #[test]
    fn settings_point_at_the_mistake() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("d.toml");
        std::fs::write(&file, "[models]\nmemory_maxx = \"1GiB\"\n").unwrap();
        let mut report = Report::default();
        settings(&file, &mut report);
        assert_eq!((report.findings[0].line, report.findings[0].column), (Some(2), Some(1)));
        assert!(report.findings[0].message.contains("memory_max"), "{:?}", report.findings);
    }

    #[test]
    fn a_model_and_a_repository_are_told_apart() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("m/1")).unwrap();
        assert!(is_model_directory(&dir.path().join("m")));
        assert!(!is_model_directory(dir.path()));
    }
}
