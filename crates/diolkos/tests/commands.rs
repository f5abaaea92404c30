// SPDX-License-Identifier: Apache-2.0
//! Each command against a daemon that really runs, and without one.

mod support;

use std::io::Read as _;
use std::process::Stdio;

use serde_json::{Value, json};
use support::{Daemon, diolkos, example, keys, ran, test_data};

#[test]
fn ls_lists_every_model() {
    let daemon = Daemon::start();
    let list = daemon.ask(&["ls", "--json"]).ok().json();
    let names: Vec<&str> =
        list.as_array().unwrap().iter().map(|model| model["name"].as_str().unwrap()).collect();
    for name in ["affine", "blas.sgemm", "digits", "echo", "minmax", "noop"] {
        assert!(names.contains(&name), "{names:?}");
    }
    assert!(names.is_sorted(), "{names:?}");
    let digits = list.as_array().unwrap().iter().find(|model| model["name"] == "digits").unwrap();
    assert_eq!(*digits, json!({"name": "digits", "version": "1", "state": "READY", "reason": ""}));
    let text = daemon.ask(&["ls"]).ok().stdout;
    assert!(
        text.starts_with("MODEL")
            && text.lines().any(|line| line.starts_with("digits") && line.ends_with("ready")),
        "{text}"
    );
    assert!(!text.contains('\x1b'), "colour on a pipe: {text}");
}

#[test]
fn inspect_shows_signature_size_and_measured_latency() {
    let daemon = Daemon::start();
    daemon.ask(&["run", "digits", "--input", &example("images/04_1.png")]).ok();
    let digits = daemon.ask(&["inspect", "digits", "--json"]).ok().json();
    assert_eq!(
        keys(&digits),
        ["details", "inputs", "max_batch_size", "name", "outputs", "platform", "versions"]
    );
    assert_eq!(digits["inputs"], json!([{"name": "image", "datatype": "FP32", "shape": [-1, 1, 8, 8]}]));
    assert_eq!(digits["max_batch_size"], 64);
    let details = &digits["details"];
    assert_eq!(
        keys(details),
        ["backend", "digest", "labels", "rehearsal", "resident_bytes", "statistics", "version"]
    );
    assert_eq!(details["digest"].as_str().unwrap().len(), "sha256:".len() + 64);
    assert_eq!(details["labels"]["probabilities"].as_array().unwrap().len(), 10);
    assert!(details["rehearsal"]["load_ns"].as_u64() > Some(0), "{details}");
    assert!(details["rehearsal"]["run_ns"].as_u64() > Some(0), "{details}");
    assert_eq!(details["statistics"]["success"], 1);
    assert!(details["statistics"]["p99_bound_ns"].as_u64() > Some(0), "{details}");
    let text = daemon.ask(&["inspect", "digits"]).ok().stdout;
    for part in [
        "sha256:",
        "backend",
        "median of the rehearsal",
        "[-1,1,8,8]",
        "10 class names",
        "1 answered, 0 failed",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let noop = daemon.ask(&["inspect", "noop", "--json"]).ok().json();
    assert_eq!((&noop["details"]["digest"], &noop["details"]["rehearsal"]), (&Value::Null, &Value::Null));
}

#[test]
fn run_classifies_a_picture() {
    let daemon = Daemon::start();
    let ran = daemon.ask(&["run", "digits", "--input", &example("images/12_3.png"), "--json"]).ok();
    let answer = ran.json();
    assert_eq!(keys(&answer), ["latency", "model", "outputs", "parts", "version"]);
    assert_eq!((&answer["model"], &answer["version"]), (&json!("digits"), &json!("1")));
    assert_eq!(keys(&answer["parts"]), ["compute_ns", "copy_in_ns", "copy_out_ns", "queue_ns"]);
    let output = &answer["outputs"][0];
    assert_eq!((&output["name"], &output["shape"]), (&json!("probabilities"), &json!([1, 10])));
    assert_eq!(output["data"].as_array().unwrap().len(), 10);
    assert_eq!(output["top"].as_array().unwrap().len(), 5);
    assert_eq!((&output["top"][0]["index"], &output["top"][0]["label"]), (&json!(3), &json!("3")));
    let text =
        daemon.ask(&["run", "digits", "--input", &example("images/12_3.png"), "--top", "1"]).ok().stdout;
    assert!(text.contains("probabilities, best first:") && text.contains("[1,10]"), "{text}");
}

#[test]
fn run_takes_arrays_and_json_and_saves_arrays() {
    let daemon = Daemon::start();
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    let out = out.to_str().unwrap();
    let inline = ["run", "affine", "--input", "x=[[1, 2, 3, 4], [5, 6, 7, -8.5]]", "--json", "--output", out];
    let answer = daemon.ask(&inline).ok().json();
    assert_eq!(answer["outputs"][0]["data"], json!([3.0, 5.0, 7.0, 9.0, 11.0, 13.0, 15.0, -16.0]));
    // What was saved goes in again: 2 * (2x + 1) + 1.
    let saved = format!("x={out}/y.npy");
    let again = daemon.ask(&["run", "affine", "--input", &saved, "--json", "--count", "3"]).ok().json();
    assert_eq!(again["outputs"][0]["data"][0], 7.0);
    assert_eq!(again["latency"]["count"], 3);
    let file = dir.path().join("x.json");
    std::fs::write(&file, "[1, 2, 3, 4]").unwrap();
    let batched = daemon.ask(&["run", "affine", "-i", file.to_str().unwrap(), "--json"]).ok().json();
    assert_eq!(batched["outputs"][0]["shape"], json!([1, 4]));
}

#[test]
fn run_in_this_process_gives_the_same_answer() {
    let daemon = Daemon::start();
    let input = example("images/37_9.png");
    let remote = daemon.ask(&["run", "digits", "--input", &input, "--json"]).ok().json();
    let local = ran(&mut diolkos(&["run", &example("models/digits"), "--input", &input, "--json"])).ok();
    assert!(local.stderr.contains("in this process"), "{}", local.stderr);
    assert_eq!(local.json()["outputs"], remote["outputs"]);
}

#[test]
fn refusals_name_tensor_and_model() {
    let daemon = Daemon::start();
    let refused = daemon.ask(&["run", "affine", "--input", "x=[[1, 2, 3]]"]).fails(1);
    assert!(refused.stderr.contains("`x`") && refused.stderr.contains('4'), "{}", refused.stderr);
    let unknown = daemon.ask(&["run", "afine", "--input", "x=[1]"]).fails(1);
    assert!(unknown.stderr.contains("`afine`") && unknown.stderr.contains("help: "), "{}", unknown.stderr);
    daemon.ask(&["inspect", "digits", "--model-version", "9"]).fails(1);
    let wrong = daemon.ask(&["run", "affine", "--input", "z=[1]"]).fails(2);
    assert!(wrong.stderr.contains("its inputs are `x`"), "{}", wrong.stderr);
    let missing = daemon.ask(&["run", "affine", "--input", "x=nowhere.npy"]).fails(2);
    assert!(missing.stderr.contains("nowhere.npy"), "{}", missing.stderr);
    let text = daemon.ask(&["run", "affine", "--input", "x=[\"a\"]"]).fails(2);
    assert!(text.stderr.contains("\"a\" at [0] is no FP32"), "{}", text.stderr);
}

#[test]
fn without_a_daemon_the_error_says_where_and_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let address = format!("unix:{}/none.sock", dir.path().display());
    for args in [&["ls"][..], &["inspect", "m"], &["run", "m"]] {
        let failed = ran(diolkos(args).args(["--address", &address])).fails(3);
        assert!(
            failed.stderr.contains(&address) && failed.stderr.contains("diolkos serve"),
            "{}",
            failed.stderr
        );
    }
    let by_variable = ran(diolkos(&["ls"]).env("DIOLKOS_ENDPOINT", &address)).fails(3);
    assert!(by_variable.stderr.contains(&address), "{}", by_variable.stderr);
    let default = ran(diolkos(&["ls"]).env("XDG_RUNTIME_DIR", dir.path())).fails(3);
    assert!(
        default.stderr.contains(&format!("{}/diolkos/diolkos.sock", dir.path().display())),
        "{}",
        default.stderr
    );
    let nonsense = ran(diolkos(&["ls"]).env("DIOLKOS_ENDPOINT", "nonsense")).fails(2);
    assert!(nonsense.stderr.contains("DIOLKOS_ENDPOINT"), "{}", nonsense.stderr);
}

#[test]
fn wrong_arguments_are_code_2() {
    for args in
        [&["frob"][..], &["run"], &["serve", "--listen", "tcp:0.0.0.0:80"], &["run", "./nowhere.onnx"]]
    {
        let ran = ran(&mut diolkos(args));
        assert_eq!(ran.code, Some(2), "{args:?}: {}", ran.stderr);
    }
    let help = ran(&mut diolkos(&["--help"])).ok();
    assert!(help.stdout.contains("Exit codes") && !help.stdout.contains("rehearse"), "{}", help.stdout);
}

#[test]
fn serve_that_can_not_start_is_code_5() {
    let dir = tempfile::tempdir().unwrap();
    let socket = format!("unix:{}/d.sock", dir.path().display());
    let missing = ran(&mut diolkos(&["serve", "--listen", &socket, "--models", "/nowhere"]));
    assert_eq!(missing.code, Some(5), "{}", missing.stderr);
    let settings = dir.path().join("d.toml");
    std::fs::write(&settings, "lissten = []\n").unwrap();
    let wrong = ran(&mut diolkos(&["serve", "--config", settings.to_str().unwrap()])).fails(5);
    assert!(wrong.stderr.contains("d.toml:1:1") && wrong.stderr.contains("listen"), "{}", wrong.stderr);
    let daemon = Daemon::start();
    let taken = ran(&mut diolkos(&["serve", "--listen", &daemon.address]));
    assert_eq!(taken.code, Some(5), "{}", taken.stderr);
}

#[test]
fn the_daemon_ends_with_its_standard_input_and_leaves_no_socket() {
    let mut daemon = Daemon::start();
    assert!(daemon.socket().exists());
    drop(daemon.child.stdin.take());
    assert_eq!(daemon.child.wait().unwrap().code(), Some(0), "{}", daemon.log());
    assert!(!daemon.socket().exists());
}

#[test]
fn check_points_at_mistakes() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("d.toml");
    std::fs::write(&file, "[models]\nmemory_max = \"1GiB\"\n").unwrap();
    ran(&mut diolkos(&["check", file.to_str().unwrap()])).ok();
    std::fs::write(&file, "[models]\nmemory_maxx = \"1GiB\"\n").unwrap();
    let settings = ran(&mut diolkos(&["check", file.to_str().unwrap()]));
    assert_eq!(settings.code, Some(4), "{}", settings.stderr);
    assert!(
        settings.stdout.contains("d.toml:2:1: error: ") && settings.stdout.contains("memory_max"),
        "{}",
        settings.stdout
    );

    let model = dir.path().join("models/m");
    std::fs::create_dir_all(model.join("1")).unwrap();
    std::fs::copy(test_data("affine.onnx"), model.join("1/model.onnx")).unwrap();
    let path = model.to_str().unwrap();
    let good = ran(&mut diolkos(&["check", path, "--json"])).ok().json();
    assert_eq!(keys(&good), ["errors", "findings", "kind", "models", "notes", "path"]);
    assert_eq!((&good["kind"], &good["models"]), (&json!("model"), &json!(["m"])));
    std::fs::write(model.join("config.pbtxt"), "max_batch_size: 8\ninput [{ name: \"xx\" }]\n").unwrap();
    for path in [path, dir.path().join("models").to_str().unwrap()] {
        let bad = ran(&mut diolkos(&["check", path, "--json"]));
        assert_eq!(bad.code, Some(4), "{}", bad.stderr);
        let bad = bad.json();
        assert_eq!(bad["errors"], 1, "{bad}");
        let found = &bad["findings"][0];
        assert_eq!(keys(found), ["column", "file", "line", "message", "severity"]);
        assert_eq!((&found["line"], &found["severity"]), (&json!(2), &json!("error")));
        assert!(found["message"].as_str().unwrap().contains("did you mean `x`?"), "{bad}");
    }
    std::fs::write(model.join("config.pbtxt"), "max_batchsize: 8\nplatfrom: 'x'\n").unwrap();
    let two = ran(&mut diolkos(&["check", path, "--json"])).json();
    assert_eq!(two["errors"], 2, "{two}");
    ran(&mut diolkos(&["check", "/nowhere"])).fails(2);
}

#[test]
fn check_refuses_what_is_no_model() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("m.onnx");
    let whole = std::fs::read(test_data("affine.onnx")).unwrap();
    std::fs::write(&file, &whole[..whole.len() / 2]).unwrap();
    let cut = ran(&mut diolkos(&["check", file.to_str().unwrap()]));
    assert_eq!(cut.code, Some(4), "{}", cut.stderr);
    assert!(cut.stdout.contains("m.onnx: error: "), "{}", cut.stdout);
    let empty = tempfile::tempdir().unwrap();
    let empty = ran(&mut diolkos(&["check", empty.path().to_str().unwrap()]));
    assert_eq!(empty.code, Some(4), "{}", empty.stderr);
    assert!(empty.stdout.contains("there is no model in it"), "{}", empty.stdout);
    let other = dir.path().join("m.txt");
    std::fs::write(&other, "hello").unwrap();
    let other = ran(&mut diolkos(&["check", other.to_str().unwrap()]));
    assert_eq!(other.code, Some(4), "{}", other.stderr);
    ran(&mut diolkos(&["check", &example("models")])).ok();
}

#[test]
fn doctor_looks_at_host_and_daemon() {
    let daemon = Daemon::start();
    let report = daemon.ask(&["doctor", "--json"]).json();
    assert_eq!(keys(&report), ["findings", "version"]);
    let findings = report["findings"].as_array().unwrap();
    let find = |name: &str| {
        findings.iter().find(|finding| finding["name"] == name).unwrap_or_else(|| panic!("{name}"))
    };
    for name in [
        "kernel",
        "cores",
        "memory",
        "cgroup",
        "nofile",
        "memlock",
        "shm",
        "accelerator",
        "runtime dir",
        "daemon",
        "backends",
        "libraries",
        "test models",
    ] {
        let finding = find(name);
        assert!(["ok", "warn", "fail"].contains(&finding["level"].as_str().unwrap()), "{finding}");
        assert_eq!(finding["level"] == "ok", finding.get("advice").is_none(), "{finding}");
    }
    assert_eq!(find("daemon")["found"], format!("ready at {}", daemon.address));
    assert!(find("backends")["found"].as_str().unwrap().contains(".onnx"));
    let nowhere = ran(&mut diolkos(&["doctor", "--address", "unix:/nowhere/at/all/d.sock"]));
    assert_eq!(nowhere.code, Some(4), "{}", nowhere.stdout);
    assert!(
        nowhere.stdout.contains("fail  runtime dir") && nowhere.stdout.contains("-> "),
        "{}",
        nowhere.stdout
    );
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let daemon = Daemon::start();
    let mut child = diolkos(&["inspect", "digits", "--json", "--address", &daemon.address])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let mut said = String::new();
    child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert_eq!((child.wait().unwrap().code(), said.as_str()), (Some(0), ""));
}

#[test]
fn tenants_and_leases_come_and_go() {
    let daemon = Daemon::start();
    let socket = daemon.dir.path().join("web.sock");
    let socket = socket.to_str().unwrap();
    let web = format!("unix:{socket}");
    let added =
        daemon.ask(&["tenant", "add", "web", "--socket", socket, "--model", "dig*", "--rate", "100/s"]).ok();
    assert_eq!((added.stdout.trim(), added.stderr.trim()), (&*web, "tenant web is served"));
    let seen = ran(&mut diolkos(&["ls", "--json", "--address", &web])).ok().json();
    assert_eq!(seen.as_array().unwrap().len(), 1, "{seen}");
    let twice = daemon.ask(&["tenant", "add", "web"]).fails(1);
    assert!(twice.stderr.contains("is there already\nhelp: --replace"), "{}", twice.stderr);
    let wrong = daemon.ask(&["tenant", "add", "x", "--rate", "many"]).fails(1);
    assert!(wrong.stderr.contains("`many` is no rate"), "{}", wrong.stderr);

    let list = daemon.ask(&["tenant", "ls"]).ok().stdout;
    assert!(list.lines().any(|line| line.starts_with("web      added")), "{list}");
    assert!(list.lines().any(|line| line.starts_with("default  default")), "{list}");
    let shown = daemon.ask(&["tenant", "show", "web"]).ok().stdout;
    assert!(shown.contains("[tenants.web]\nrate = \"100/s\"\n"), "{shown}");
    // What is shown can be given back.
    let file = daemon.dir.path().join("web.toml");
    std::fs::write(&file, shown.replace("100/s", "7/s")).unwrap();
    let from = ["tenant", "add", "web", "--from", file.to_str().unwrap(), "--replace", "--json"];
    assert_eq!(daemon.ask(&from).ok().json()["settings"]["rate"], "7/s");

    daemon
        .ask(&["lease", "add", "web", "cpu", "--resource", "cpu", "--operation", "noop", "--queue-max", "3"])
        .ok();
    let leases = daemon.ask(&["lease", "ls", "web", "--json"]).ok().json();
    let names: Vec<_> = leases.as_array().unwrap().iter().map(|lease| lease["name"].clone()).collect();
    assert_eq!(names, ["cpu", "default"]);
    let table = daemon.ask(&["lease", "show", "web", "cpu"]).ok().stdout;
    assert!(
        table.contains(
            "web     cpu    compute  cpu       default  interactive       1    -     3          noop"
        ),
        "{table}"
    );
    daemon.ask(&["lease", "rm", "web", "cpu"]).ok();
    let nowhere = daemon
        .ask(&["lease", "add", "web", "cpu", "--resource", "cpu", "--operation", "noop", "--pool", "fast"])
        .fails(1);
    assert!(
        nowhere.stderr.contains("names the pool `fast`, which is not in engine.pools"),
        "{}",
        nowhere.stderr
    );
    daemon.ask(&["lease", "rm", "web", "cpu"]).fails(1);

    let refused = ran(&mut diolkos(&["tenant", "ls", "--address", &web])).fails(1);
    assert!(refused.stderr.contains("help: ask on the unix socket"), "{}", refused.stderr);
    daemon.ask(&["tenant", "rm", "web"]).ok();
    ran(&mut diolkos(&["ls", "--address", &web])).fails(3);
    let gone = daemon.ask(&["tenant", "show", "web"]).fails(1);
    assert!(gone.stderr.contains("there is no tenant `web`"), "{}", gone.stderr);
}
