// SPDX-License-Identifier: Apache-2.0
//! C programs, compiled without a warning and run against a daemon: with the static library, with the shared one, and with
//! sanitizers that find leaks and stray accesses.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::fs;
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};

use support::daemon::Daemon;
use support::{built_library, here, run, skip};

const PROGRAMS: &[&str] =
    &["examples/infer.c", "examples/pipeline.c", "examples/errors.c", "tests/c/threads.c"];
const WARNINGS: &[&str] = &["-std=c11", "-Wall", "-Wextra", "-Werror", "-pedantic", "-g", "-O1"];
const SANITIZERS: &[&str] = &["-fsanitize=address,undefined", "-fno-sanitize-recover=all"];

/// The library as docs/c-api.md installs it, below a folder of its own.
struct Installed {
    prefix: tempfile::TempDir,
}

impl Installed {
    fn new() -> Result<Installed, String> {
        let (archive, library) = (built_library("libdiolkos.a")?, built_library("libdiolkos.so")?);
        let prefix = tempfile::tempdir().unwrap();
        let at = |path: &str| prefix.path().join(path);
        fs::create_dir_all(at("include")).unwrap();
        fs::create_dir_all(at("lib/pkgconfig")).unwrap();
        fs::copy(here("include/diolkos.h"), at("include/diolkos.h")).unwrap();
        std::os::unix::fs::symlink(archive, at("lib/libdiolkos.a")).unwrap();
        std::os::unix::fs::symlink(library, at("lib/libdiolkos.so.0")).unwrap();
        std::os::unix::fs::symlink("libdiolkos.so.0", at("lib/libdiolkos.so")).unwrap();
        let template = fs::read_to_string(here("diolkos.pc.in")).unwrap();
        let made = template
            .replace("@prefix@", prefix.path().to_str().unwrap())
            .replace("@version@", env!("CARGO_PKG_VERSION"));
        assert!(!made.contains('@'), "{made}");
        fs::write(at("lib/pkgconfig/diolkos.pc"), made).unwrap();
        Ok(Installed { prefix })
    }

    fn at(&self, path: &str) -> PathBuf {
        self.prefix.path().join(path)
    }

    fn archive(&self) -> Vec<String> {
        let template = fs::read_to_string(here("diolkos.pc.in")).unwrap();
        let private = template.lines().find_map(|line| line.strip_prefix("Libs.private:")).unwrap();
        let include = format!("-I{}", self.at("include").display());
        let mut flags = vec![include, self.at("lib/libdiolkos.a").display().to_string()];
        flags.extend(private.split_whitespace().map(str::to_owned));
        flags
    }

    fn shared(&self) -> Vec<String> {
        let folder = |flag: &str, path: &str| format!("-{flag}{}", self.at(path).display());
        vec![folder("I", "include"), folder("L", "lib"), "-ldiolkos".into(), "-pthread".into()]
    }

    /// What pkg-config says, as docs/c-api.md uses it.
    fn pkg_config(&self) -> Result<Vec<String>, String> {
        let mut command = Command::new("pkg-config");
        command.args(["--cflags", "--libs", "diolkos"]).env("PKG_CONFIG_PATH", self.at("lib/pkgconfig"));
        let said = command.output().map_err(|error| format!("pkg-config does not run: {error}"))?;
        assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
        Ok(String::from_utf8(said.stdout).unwrap().split_whitespace().map(str::to_owned).collect())
    }

    fn compile(&self, source: &str, flags: &[&str], libraries: &[String]) -> PathBuf {
        self.try_compile(&compiler(), &here(source), flags, libraries).unwrap()
    }

    fn try_compile(
        &self,
        compiler: &str,
        source: &Path,
        flags: &[&str],
        libraries: &[String],
    ) -> Result<PathBuf, String> {
        let program = self.at(source.file_stem().unwrap().to_str().unwrap());
        let mut command = Command::new(compiler);
        command.arg(source).arg("-o").arg(&program).args(flags).args(libraries);
        let compiled = command.output().map_err(|error| format!("{compiler} does not run: {error}"))?;
        match compiled.status.success() {
            true => Ok(program),
            false => Err(format!("{command:?}: {}", String::from_utf8_lossy(&compiled.stderr))),
        }
    }

    fn command(&self, program: &Path, daemon: &Daemon, address: &str) -> Command {
        let mut command = Command::new(program);
        command.arg(address).current_dir(daemon.folder()).env("LD_LIBRARY_PATH", self.at("lib"));
        command
            .env("ASAN_OPTIONS", "detect_leaks=1:allocator_may_return_null=1")
            .env("UBSAN_OPTIONS", "print_stacktrace=1");
        command
    }
}

fn compiler() -> String {
    std::env::var("CC").unwrap_or_else(|_| "cc".into())
}

/// Runs every program over shared memory and over TCP.
fn all(installed: &Installed, daemon: &Daemon, flags: &[&str], libraries: &[String]) {
    for source in PROGRAMS {
        let program = installed.compile(source, flags, libraries);
        for address in [daemon.unix(), daemon.tcp()] {
            let (status, said) = run(&mut installed.command(&program, daemon, &address));
            assert!(status.success(), "{source} at {address}: {status}\n{said}");
            println!("{source} at {address}: {}", said.trim());
        }
    }
}

fn with_daemon(test: impl FnOnce(&Installed, Daemon)) {
    match Installed::new().and_then(|installed| Ok((installed, Daemon::start()?))) {
        Ok((installed, daemon)) => test(&installed, daemon),
        Err(reason) => skip(&reason),
    }
}

#[test]
fn programs_run_with_the_static_library() {
    with_daemon(|installed, daemon| all(installed, &daemon, WARNINGS, &installed.archive()));
}

#[test]
fn programs_run_with_the_shared_library() {
    with_daemon(|installed, daemon| all(installed, &daemon, WARNINGS, &installed.shared()));
}

#[test]
fn programs_leak_nothing_and_touch_nothing_else() {
    with_daemon(|installed, daemon| {
        let flags = [WARNINGS, SANITIZERS].concat();
        if let Err(reason) = leaks_are_found(installed, &daemon, &flags) {
            return skip(&reason);
        }
        all(installed, &daemon, &flags, &installed.archive());
        gone(installed, daemon, &flags);
    });
}

/// Sanitizers need a library of the compiler's, and finding leaks needs a system that lets processes be traced.
fn leaks_are_found(installed: &Installed, daemon: &Daemon, flags: &[&str]) -> Result<(), String> {
    let source = installed.at("empty.c");
    fs::write(&source, "int main(void) { return 0; }\n").unwrap();
    let empty = installed.try_compile(&compiler(), &source, flags, &[])?;
    let (status, said) = run(&mut installed.command(&empty, daemon, ""));
    if !status.success() {
        return Err(format!("sanitizers do not work here: {}", said.trim()));
    }
    let leak = installed.compile("tests/c/leak.c", flags, &installed.archive());
    let (status, said) = run(&mut installed.command(&leak, daemon, &daemon.unix()));
    assert!(!status.success() && said.contains("LeakSanitizer: detected memory leaks"), "{status}: {said}");
    Ok(())
}

#[test]
fn a_daemon_that_goes_away_is_a_code_and_no_signal() {
    with_daemon(|installed, daemon| gone(installed, daemon, WARNINGS));
}

fn gone(installed: &Installed, mut daemon: Daemon, flags: &[&str]) {
    let program = installed.compile("tests/c/lost.c", flags, &installed.archive());
    let mut command = installed.command(&program, &daemon, &daemon.unix());
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let (mut said, mut byte) = (Vec::new(), [0]);
    while !said.ends_with(b"ready\n") && child.stdout.as_mut().unwrap().read(&mut byte).unwrap() > 0 {
        said.push(byte[0]);
    }
    daemon.stop();
    child.stdin.take().unwrap().write_all(b"go on\n").unwrap();
    let ended = child.wait_with_output().unwrap();
    let status: ExitStatus = ended.status;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(status.success(), "{status}\n{}{}{}", text(&said), text(&ended.stdout), text(&ended.stderr));
    assert!(text(&ended.stdout).ends_with("gone\n"));
}

#[test]
fn pkg_config_names_what_a_program_needs() {
    with_daemon(|installed, daemon| {
        let flags = match installed.pkg_config() {
            Ok(flags) => flags,
            Err(reason) => return skip(&reason),
        };
        let program = installed.compile("examples/infer.c", WARNINGS, &flags);
        let (status, said) = run(&mut installed.command(&program, &daemon, &daemon.unix()));
        assert!(status.success() && said.contains("max = "), "{status}: {said}");
        assert!(said.contains("in shared memory"), "{said}");
    });
}

#[test]
fn the_header_is_also_one_of_cpp() {
    let installed = match Installed::new() {
        Ok(installed) => installed,
        Err(reason) => return skip(&reason),
    };
    let compiler = std::env::var("CXX").unwrap_or_else(|_| "c++".into());
    if Command::new(&compiler).arg("--version").output().is_err() {
        return skip(&format!("there is no {compiler}"));
    }
    let flags = ["-std=c++17", "-Wall", "-Wextra", "-Werror", "-pedantic"];
    let source = here("tests/c/header.cpp");
    let program = installed.try_compile(&compiler, &source, &flags, &installed.archive()).unwrap();
    let (status, said) = run(&mut Command::new(program));
    assert!(status.success(), "{status}: {said}");
}
