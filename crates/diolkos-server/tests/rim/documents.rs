// SPDX-License-Identifier: Apache-2.0
//! The documents say what the code does.

use std::collections::BTreeSet;
use std::path::Path;

use diolkos_server::METRICS;
use diolkos_server::settings::reload;
use serde_json::Value;

use crate::support::start;

fn document(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs").join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The cells of each row whose first cell is code.
fn rows(document: &str) -> Vec<Vec<&str>> {
    let lines = document.lines().filter(|line| line.starts_with("| `"));
    lines
        .map(|line| line.trim_matches('|').split(" | ").map(|cell| cell.trim().trim_matches('`')).collect())
        .collect()
}

#[test]
fn settings_are_documented_with_their_defaults() {
    let text = document("settings.md");
    let documented: Vec<(String, String, String)> =
        rows(&text).iter().map(|row| (row[0].into(), row[1].into(), row[2].into())).collect();
    let mut documented_keys: Vec<_> = documented.clone();
    documented_keys.sort();
    let expected: Vec<(String, String, String)> = reload::keys()
        .into_iter()
        .map(|(key, default)| {
            let default = if default == Value::Null { "unset".into() } else { default.to_string() };
            let takes_effect = if reload::is_live(&key) { "live" } else { "restart" };
            (key, default, takes_effect.into())
        })
        .collect();
    assert_eq!(documented_keys, expected);
}

#[test]
fn the_examples_in_the_documents_are_valid() {
    for name in ["settings.md", "tenants.md"] {
        let text = document(name);
        let example = text.split("```toml\n").nth(1).unwrap().split("```").next().unwrap();
        diolkos_server::Settings::parse(example, Path::new(name)).unwrap();
    }
}

#[test]
fn metrics_are_documented() {
    let text = document("metrics.md");
    let documented: Vec<Vec<String>> =
        rows(&text).iter().map(|row| row.iter().map(|cell| (*cell).to_owned()).collect()).collect();
    let expected: Vec<Vec<String>> = METRICS
        .iter()
        .map(|metric| {
            let labels = if metric.labels.is_empty() { "–".into() } else { metric.labels.join(", ") };
            vec![metric.name.into(), metric.kind.name().into(), labels, metric.help.into()]
        })
        .collect();
    assert_eq!(documented, expected);
}

#[tokio::test]
async fn everything_documented_is_exported_and_nothing_else() {
    let fixture = start("").await;
    let mut client = fixture.connect().await;
    assert_eq!(client.infer("copy", "1,2,3").await.unwrap().status, 200);
    // A failure, so that metrics by code have a value.
    client
        .send("POST /v2/models/copy/infer HTTP/1.1\r\nHost: d\r\nContent-Length: 13\r\n\r\n{\"inputs\":[]}")
        .await;
    assert_eq!(client.reply().await.unwrap().status, 400);
    for invented in ["no-such-model", "no-other-model"] {
        assert_eq!(client.infer(invented, "1").await.unwrap().status, 404);
    }
    let text = client.get("/metrics").await.unwrap().body;
    let exported: BTreeSet<&str> =
        text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()).collect();
    let documented: BTreeSet<&str> = METRICS.iter().map(|metric| metric.name).collect();
    assert_eq!(exported, documented);
    assert!(!text.contains("no-such-model"), "a client made a label");
    for metric in METRICS {
        let typed = format!("# TYPE {} {}", metric.name, metric.kind.name());
        assert!(text.lines().any(|line| line == typed), "{typed}");
        for label in metric.labels {
            let has_label =
                |line: &str| line.starts_with(metric.name) && line.contains(&format!("{label}=\""));
            assert!(text.lines().any(has_label), "{} has no label {label}", metric.name);
        }
    }
    for line in [
        "diolkos_requests_total{model=\"copy\",version=\"1\",code=\"ok\"} 1",
        "diolkos_requests_total{model=\"copy\",version=\"1\",code=\"invalid_argument\"} 1",
        "nv_inference_request_success{model=\"copy\",version=\"1\"} 1",
        "nv_inference_request_failure{model=\"copy\",version=\"1\",reason=\"OTHER\"} 1",
        "diolkos_request_seconds_count{model=\"copy\",version=\"1\"} 1",
        "diolkos_ready 1",
    ] {
        assert!(text.lines().any(|other| other == line), "`{line}` is not in\n{text}");
    }
    fixture.daemon.shutdown().await;
}
