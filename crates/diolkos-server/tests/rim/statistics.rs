// SPDX-License-Identifier: Apache-2.0
//! Statistics of a model over REST: a tenant sees what it did itself, and whoever may read metrics sees everybody.

use serde_json::Value;

use crate::support::{Client, Fixture};
use crate::tenants::{connect, settings, tenants};

/// `a` and `b` on sockets of their own; this user, over TCP, is the operator.
fn with_operator(metrics: bool) -> String {
    let us = rustix::process::geteuid().as_raw();
    let lease = "leases.all = { kind = \"compute\", operations = [\"copy\"] }";
    format!(
        "[tenants.a]\n{lease}\n[tenants.b]\n{lease}\n[tenants.operator]\nuids = [{us}]\nmetrics = {metrics}\n{lease}\n"
    )
}

/// All that a tenant is told of what happened to `copy`.
async fn told(client: &mut Client) -> [Value; 4] {
    let mut told = [const { Value::Null }; 4];
    let paths = [
        "/v2/models/copy/stats",
        "/v2/models/copy/versions/1/stats",
        "/v2/models/stats",
        "/v2/diolkos/models/copy",
    ];
    for (at, path) in paths.into_iter().enumerate() {
        let reply = client.get(path).await.unwrap();
        assert_eq!(reply.status, 200, "{reply:?}");
        told[at] = serde_json::from_str(&reply.body).unwrap();
        // Told by two clocks, so it moves by a millisecond; that it is 0 is exact.
        if let Some(last) = told[at].pointer_mut("/model_stats/0/last_inference") {
            *last = last.as_u64().unwrap().min(1).into();
        }
    }
    told
}

fn counts(told: &Value) -> [u64; 4] {
    let at = |path: &str| told.pointer(&format!("/model_stats/0/{path}")).unwrap().as_u64().unwrap();
    let paths = ["inference_stats/success/count", "inference_stats/fail/count", "inference_count"];
    let [success, fail, rows] = paths.map(at);
    [success, fail, rows, at("execution_count")]
}

/// Requests that succeed, and one that does not.
async fn use_it(client: &mut Client, successes: u64) {
    for _ in 0..successes {
        assert_eq!(client.infer("copy", "1,2,3").await.unwrap().status, 200);
    }
    assert_eq!(client.infer("copy", "1000").await.unwrap().status, 400);
    let body = "{\"inputs\":[{\"name\":\"z\",\"shape\":[1],\"datatype\":\"UINT8\",\"data\":[1]}]}";
    client
        .send(&format!(
            "POST /v2/models/copy/infer HTTP/1.1\r\nHost: d\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        ))
        .await;
    assert_eq!(client.reply().await.unwrap().status, 400);
}

async fn operator(fixture: &Fixture) -> [u64; 4] {
    let (code, text) = crate::tenants::over_tcp(fixture, "/v2/models/copy/stats", None).await;
    assert_eq!(code, 200, "{text}");
    let body = text.split_once("\r\n\r\n").unwrap().1;
    counts(&serde_json::from_str(body).unwrap())
}

#[tokio::test]
async fn what_others_do_does_not_show_in_statistics() {
    let fixture = tenants(&with_operator(true)).await;
    let (mut a, mut b) = (connect(&fixture, "a").await, connect(&fixture, "b").await);
    let unused = told(&mut a).await;
    use_it(&mut b, 3).await;
    assert_eq!(told(&mut a).await, unused);
    assert_eq!(counts(&unused[0]), [0; 4]);
    assert_eq!(unused[0]["model_stats"][0]["last_inference"], 0);
    use_it(&mut a, 1).await;
    let used = told(&mut a).await;
    assert_eq!(counts(&used[0]), [1, 1, 1, 1]);
    assert_eq!(used[3]["statistics"]["success"], 1);
    use_it(&mut b, 2).await;
    assert_eq!(told(&mut a).await, used);
    assert_eq!(counts(&told(&mut b).await[0]), [5, 2, 5, 5]);
    assert_eq!(operator(&fixture).await, [6, 3, 6, 6]);
    let (_, metrics) = crate::tenants::over_tcp(&fixture, "/metrics", None).await;
    let line = "\ndiolkos_requests_total{model=\"copy\",version=\"1\",code=\"ok\"} 6\n";
    assert!(metrics.contains(line), "{metrics}");
    // Whoever may not read metrics any more sees everybody no more.
    let file = fixture.dir.path().join("d.toml");
    std::fs::write(&file, settings(fixture.dir.path(), &with_operator(false))).unwrap();
    fixture.daemon.reload().await;
    assert_eq!(operator(&fixture).await, [0; 4]);
    fixture.daemon.shutdown().await;
}
