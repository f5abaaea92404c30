// SPDX-License-Identifier: Apache-2.0
//! Pools as operators meet them: settings, who is held up, and what is told.

use serde_json::{Value, json};

use crate::support::Fixture;
use crate::tenants::{connect, tenants};

const POOLS: &str = "[engine]\nslots = 2\n[engine.pools.chat]\npolicy = \"latency\"\nslots = 1\n\
    [tenants.a]\nmetrics = true\nadmin = true\n\
    [tenants.a.leases.all]\nkind = \"compute\"\noperations = [\"*\"]\npool = \"chat\"\n\
    [tenants.b.leases.all]\nkind = \"compute\"\noperations = [\"*\"]\n";

#[tokio::test]
async fn a_pool_that_is_full_holds_up_no_other() {
    let fixture = tenants(POOLS).await;
    let (mut a, mut b, mut c) =
        (connect(&fixture, "a").await, connect(&fixture, "b").await, connect(&fixture, "b").await);
    b.send_infer("gate", "7").await;
    fixture.gate.wait_for(1).await;
    // One more has to wait in `default`, and would not if the device had one queue.
    c.send_infer("copy", "7").await;
    assert_eq!(a.infer("copy", "7").await.unwrap().status, 200);
    while fixture.daemon.engine().devices()[0].waiting == 0 {
        tokio::task::yield_now().await;
    }
    assert_eq!(a.infer("copy", "7").await.unwrap().status, 200);
    let status: Value = serde_json::from_str(&a.get("/v2/diolkos/status").await.unwrap().body).unwrap();
    let pools = &status["devices"][0]["pools"];
    let of = |index: usize, keys: [&str; 6]| keys.map(|key| pools[index][key].clone());
    let keys = ["name", "policy", "slots", "running", "waiting", "loans"];
    assert_eq!(of(0, keys), [json!("default"), json!("fair"), json!(1), json!(1), json!(1), json!(0)]);
    assert_eq!(of(1, keys), [json!("chat"), json!("latency"), json!(1), json!(0), json!(0), json!(0)]);
    let metrics = a.get("/metrics").await.unwrap().body;
    assert!(metrics.contains("diolkos_pool_waiting{device=\"cpu\",pool=\"default\"} 1"), "{metrics}");
    assert!(metrics.contains("diolkos_pool_slots{device=\"cpu\",pool=\"chat\"} 1"), "{metrics}");
    fixture.gate.open();
    assert_eq!((b.reply().await.unwrap().status, c.reply().await.unwrap().status), (200, 200));
    // What the others do is not for everybody.
    let status: Value = serde_json::from_str(&b.get("/v2/diolkos/status").await.unwrap().body).unwrap();
    assert_eq!(status["devices"][0]["pools"], Value::Null, "{status}");
    fixture.daemon.shutdown().await;
}

async fn metrics(fixture: &Fixture) -> String {
    connect(fixture, "a").await.get("/metrics").await.unwrap().body
}

#[tokio::test]
async fn a_pool_that_needs_a_restart_is_in_no_lease_until_then() {
    let fixture = tenants(POOLS).await;
    let file = fixture.dir.path().join("d.toml");
    let before = std::fs::read_to_string(&file).unwrap();
    let pool = "[engine.pools.sandbox]\nslots = 1\n";
    let after =
        before.replace("pool = \"chat\"", "pool = \"sandbox\"").replace("slots = 2", "slots = 3") + pool;
    std::fs::write(&file, after).unwrap();
    fixture.daemon.reload().await;
    assert!(metrics(&fixture).await.contains("diolkos_settings_reloads_total{result=\"failed\"} 1\n"));
    // Without the lease the rest is taken up, and the pool waits.
    std::fs::write(&file, before.replace("slots = 2", "slots = 3") + pool).unwrap();
    fixture.daemon.reload().await;
    assert!(metrics(&fixture).await.contains("diolkos_settings_reloads_total{result=\"ok\"} 1\n"));
    assert_eq!(fixture.daemon.engine().devices()[0].pools.len(), 2);
    fixture.daemon.shutdown().await;
}

#[tokio::test]
async fn a_tenant_that_comes_later_is_in_a_pool_that_is_there() {
    let fixture = tenants(POOLS).await;
    let mut a = connect(&fixture, "a").await;
    let mut add = async |pool: &str| {
        let lease = json!({"kind": "compute", "operations": ["copy"], "pool": pool});
        let body = json!({"leases": {"all": lease}}).to_string();
        let head = format!(
            "POST /v2/diolkos/tenants/later HTTP/1.1\r\nHost: d\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        a.send(&format!("{head}{body}")).await;
        a.reply().await.unwrap()
    };
    let refused = add("chatt").await;
    assert_eq!(refused.status, 400, "{refused:?}");
    assert!(
        refused.body.contains("lease `all` of tenant `later` names the pool `chatt`, which is not in engine.pools; did you mean `chat`?"),
        "{refused:?}"
    );
    assert_eq!(add("chat").await.status, 201);
    fixture.daemon.shutdown().await;
}
