// SPDX-License-Identifier: Apache-2.0
//! Runs every example of `docs/rest.md` with curl against a daemon and compares the answer with the one that
//! the page shows: what is shown must be there; what is left out may be anything.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail by panicking, like the tests themselves")]

use std::process::{Command, Stdio};

use diolkos_engine::store::NoRehearsal;
use diolkos_server::{BoundAddress, Builtin, Daemon, Deps, Settings};
use serde_json::Value;

const PAGE: &str = include_str!("../../../docs/rest.md");

/// A command and the answer that the page shows.
struct Example {
    command: String,
    answer: Value,
}

fn examples() -> Vec<Example> {
    let mut found = Vec::new();
    let mut rest = PAGE;
    while let Some((_, after)) = rest.split_once("```sh\n") {
        let (command, after) = after.split_once("```").expect("a block ends");
        let after = after.trim_start().strip_prefix("```json\n").expect("behind a command stands its answer");
        let (answer, after) = after.split_once("```").expect("a block ends");
        let answer = serde_json::from_str(answer).unwrap_or_else(|error| panic!("{error}: {answer}"));
        found.push(Example { command: command.into(), answer });
        rest = after;
    }
    found
}

/// Where `given` lacks something that `shown` has.
fn missing(shown: &Value, given: &Value, path: &str) -> Option<String> {
    match (shown, given) {
        (Value::Object(shown), Value::Object(given)) => shown.iter().find_map(|(key, value)| {
            let path = format!("{path}.{key}");
            given
                .get(key)
                .map_or_else(|| Some(format!("{path} is missing")), |given| missing(value, given, &path))
        }),
        (Value::Array(shown), Value::Array(given)) if shown.len() == given.len() => shown
            .iter()
            .zip(given)
            .enumerate()
            .find_map(|(index, (shown, given))| missing(shown, given, &format!("{path}[{index}]"))),
        (shown, given) if shown == given => None,
        (shown, given) => Some(format!("{path} is {given} and the page shows {shown}")),
    }
}

fn has(program: &str) -> bool {
    Command::new(program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok()
}

#[test]
fn comparing_finds_what_differs() {
    let json = |text: &str| serde_json::from_str::<Value>(text).unwrap();
    let differs = |shown, given| missing(&json(shown), &json(given), "$");
    assert_eq!(differs(r#"{"a":[1,{"b":2}]}"#, r#"{"a":[1,{"b":2,"c":3}],"d":4}"#), None);
    assert_eq!(differs(r#"{"a":1}"#, "{}").as_deref(), Some("$.a is missing"));
    assert_eq!(differs("[1]", "[1,2]").as_deref(), Some("$ is [1,2] and the page shows [1]"));
    assert_eq!(differs("[1]", "[2]").as_deref(), Some("$[0] is 2 and the page shows 1"));
}

#[tokio::test(flavor = "multi_thread")]
async fn every_example_answers_as_shown() {
    let examples = examples();
    assert!(examples.len() >= 9, "the page lost its examples");
    if let Some(lacking) = ["curl", "gzip", "sh"].into_iter().find(|program| !has(program)) {
        eprintln!(
            "SKIPPED: {} examples of docs/rest.md, because there is no `{lacking}` here",
            examples.len()
        );
        return;
    }
    let mut settings = Settings::default();
    settings.listen.push("tcp:127.0.0.1:0".parse().unwrap());
    let builtins = diolkos_builtin::operations().into_iter().map(|builtin| Builtin {
        name: builtin.name.into(),
        summary: builtin.summary.into(),
        operation: builtin.operation,
    });
    let deps = Deps {
        backends: Vec::new(),
        builtins: builtins.collect(),
        rehearser: Box::new(NoRehearsal),
        read_settings: None,
    };
    let daemon = Daemon::start(settings, deps).await.unwrap();
    daemon.wait_ready().await;
    let BoundAddress::Tcp(address) = &daemon.addresses()[0] else { panic!("a TCP address was asked for") };
    let url = format!("http://{address}");
    for Example { command, answer } in examples {
        let mut shell = Command::new("sh");
        // Proxies of whoever runs the tests are none of the page's business.
        shell.args(["-c", &command]).env("D", &url).env("no_proxy", "*");
        let output = tokio::task::spawn_blocking(move || shell.output()).await.unwrap().unwrap();
        let given = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| {
            panic!("{command}\n{error}: {}", String::from_utf8_lossy(&output.stdout))
        });
        if let Some(difference) = missing(&answer, &given, "$") {
            panic!("{command}\n{difference}");
        }
    }
    daemon.shutdown().await;
}
