// SPDX-License-Identifier: Apache-2.0
//! Everything that is read: health, metadata, configuration, statistics, index; and where there is nothing.

use super::*;

#[tokio::test]
async fn health_has_a_status_and_a_body() {
    let front = Front::start();
    let live = front.get("/v2/health/live").await;
    assert_eq!((live.status, live.json()), (200, json!({"live": true})));
    let ready = front.get("/v2/health/ready").await;
    assert_eq!((ready.status, ready.json()), (200, json!({"ready": true})));
    front.app.advance(Phase::Draining);
    let ready = front.get("/v2/health/ready").await;
    assert_eq!((ready.status, ready.json()), (503, json!({"ready": false})));
    assert_eq!(front.get("/v2/health/live").await.status, 200);
}

#[tokio::test]
async fn the_server_advertises_what_works() {
    let front = Front::start();
    for path in ["/v2", "/v2/"] {
        let server = front.get(path).await.json();
        assert_eq!(server["name"], "diolkos");
        assert_eq!(server["version"], env!("CARGO_PKG_VERSION"));
        let extensions = server["extensions"].as_array().unwrap();
        assert_eq!(extensions.len(), 7);
        assert!(!extensions.contains(&json!("system_shared_memory")), "this session may not use it");
    }
}

#[tokio::test]
async fn metadata_and_configuration_agree() {
    let front = Front::start();
    let plain = front.get("/v2/models/plain").await.json();
    assert_eq!(
        plain,
        json!({"name": "plain", "versions": ["1"], "platform": "null",
            "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 3]}],
            "outputs": [{"name": "y", "datatype": "FP32", "shape": [-1, 10]}]})
    );
    let config = front.get("/v2/models/plain/config").await.json();
    assert_eq!(config["max_batch_size"], 0);
    assert_eq!(config["input"][0]["dims"], json!([-1, 3]));
    assert_eq!(config["version_policy"], json!({"latest": {"num_versions": 1}}));

    let batched = front.get("/v2/models/batched").await.json();
    assert_eq!(batched["inputs"][0]["shape"], json!([-1, 2]));
    let config = front.get("/v2/models/batched/versions/1/config").await.json();
    assert_eq!(config["name"], "batched");
    assert_eq!(config["max_batch_size"], 8);
    assert_eq!(config["input"][0]["dims"], json!([2]));
    assert_eq!(config["input"][0]["data_type"], "TYPE_FP32");
    assert_eq!(config["output"][0]["dims"], json!([4]));
    assert_eq!(config["output"][0]["label_filename"], "labels.txt");

    let two = front.get("/v2/models/two/versions/1").await.json();
    assert_eq!(two["versions"], json!(["1", "2"]));
    let config = front.get("/v2/models/two/config").await.json();
    assert_eq!(config["version_policy"], json!({"all": {}}));
    assert_eq!(config["input"][0]["data_type"], "TYPE_STRING");
}

#[tokio::test]
async fn readiness_of_models() {
    let front = Front::start();
    for path in ["/v2/models/plain/ready", "/v2/models/two/versions/2/ready", "/v2/models/echo/ready"] {
        let ready = front.get(path).await;
        assert_eq!((ready.status, &ready.json()["ready"]), (200, &json!(true)), "{path}");
    }
    front.get("/v2/models/nothing/ready").await.error(404);
    front.get("/v2/models/plain/versions/9/ready").await.error(404);
}

#[tokio::test]
async fn unknown_models_and_versions_are_404_everywhere() {
    let front = Front::start();
    for suffix in ["", "/ready", "/config", "/stats"] {
        let message = front.get(&format!("/v2/models/no%20model{suffix}")).await.error(404);
        assert!(message.contains("unknown model `no model`"), "{suffix}: {message}");
        let message = front.get(&format!("/v2/models/plain/versions/7{suffix}")).await.error(404);
        assert!(message.contains("no version 7"), "{suffix}: {message}");
        let message = front.get(&format!("/v2/models/plain/versions/one{suffix}")).await.error(400);
        assert!(message.contains("version `one`"), "{suffix}: {message}");
    }
    front.get("/v2/models/%ff").await.error(400);
}

#[tokio::test]
async fn statistics_move() {
    let front = Front::start();
    let count = |stats: &Value| stats["model_stats"][0]["inference_count"].as_u64().unwrap();
    let before = front.get("/v2/models/batched/stats").await.json();
    let body =
        json!({"inputs": [{"name": "x", "shape": [3, 2], "datatype": "FP32", "data": [1, 2, 3, 4, 5, 6]}]});
    assert_eq!(front.infer("batched", &body).await.status, 200);
    assert_eq!(front.infer("batched", &json!({})).await.status, 400);
    let after = front.get("/v2/models/batched/versions/1/stats").await.json();
    assert_eq!(count(&after) - count(&before), 3, "a batch of three counts three times");
    let stats = &after["model_stats"][0];
    assert_eq!((&stats["name"], &stats["version"]), (&json!("batched"), &json!("1")));
    assert!(stats["last_inference"].as_u64().unwrap() > 1_600_000_000_000);
    for (kind, expected) in
        [("success", 1), ("fail", 1), ("queue", 1), ("compute_infer", 1), ("cache_hit", 0)]
    {
        assert_eq!(stats["inference_stats"][kind]["count"], expected, "{kind}");
    }
    let all = front.get("/v2/models/stats").await.json();
    let names: Vec<&str> =
        all["model_stats"].as_array().unwrap().iter().map(|s| s["name"].as_str().unwrap()).collect();
    for name in ["batched", "blas.sgemm", "echo", "plain", "two"] {
        assert!(names.contains(&name), "{names:?}");
    }
    assert_eq!(names.iter().filter(|name| **name == "two").count(), 2);
}

#[tokio::test]
async fn the_index_lists_everything_or_what_is_ready() {
    let front = Front::with(Options { lazy: true, ..Options::default() });
    let names = |index: &Answer| -> Vec<String> {
        let rows = index.json();
        rows.as_array()
            .unwrap()
            .iter()
            .map(|row| format!("{} {} {}", row["name"], row["version"], row["state"]))
            .collect()
    };
    let all = front.post("/v2/repository/index", "").await;
    assert!(names(&all).contains(&r#""plain" "1" "UNAVAILABLE""#.to_owned()), "{:?}", names(&all));
    let ready = front.post("/v2/repository/index", r#"{"ready":true}"#).await;
    assert!(names(&ready).contains(&r#""echo" "1" "READY""#.to_owned()));
    assert!(names(&ready).iter().all(|row| row.ends_with("\"READY\"")));
    front.post("/v2/repository/index", r#"{"ready":1}"#).await.error(400);
}

#[tokio::test]
async fn metadata_loads_what_is_loaded_on_demand() {
    let front = Front::with(Options { lazy: true, ..Options::default() });
    let stats = front.get("/v2/models/plain/stats").await.json();
    assert_eq!(stats["model_stats"], json!([]));
    assert_eq!(front.get("/v2/models/plain/ready").await.status, 200, "a request would be served");
    assert_eq!(front.get("/v2/models/plain").await.json()["platform"], "null");
    let stats = front.get("/v2/models/plain/stats").await.json();
    assert_eq!(stats["model_stats"][0]["inference_count"], 0);
}

#[tokio::test]
async fn loading_by_clients_is_off_unless_the_operator_wants_it() {
    let front = Front::start();
    for path in ["/v2/repository/models/plain/load", "/v2/repository/models/plain/unload"] {
        assert!(front.post(path, "").await.error(403).contains("models.client_load"));
    }
    let mut options = Options::default();
    options.settings.models.client_load = true;
    let front = Front::with(options);
    let unload = r#"{"parameters":{"unload_dependents":false}}"#;
    assert_eq!(front.post("/v2/repository/models/plain/unload", unload).await.status, 200);
    assert_eq!(front.get("/v2/models/plain/ready").await.status, 503);
    front.get("/v2/models/plain").await.error(503);
    assert_eq!(front.post("/v2/repository/models/plain/load", "").await.status, 200);
    assert_eq!(front.get("/v2/models/plain/ready").await.status, 200);
    front.post("/v2/repository/models/nothing/load", "").await.error(404);
    front.post("/v2/repository/models/nothing/unload", "{}").await.error(404);
    front
        .post("/v2/repository/models/plain/unload", r#"{"parameters":{"unload_dependents":1}}"#)
        .await
        .error(400);
    // "input x UINT8 [2]\noutput y UINT8 [3]\n" in base64.
    let brought = r#"{"parameters":{"config":"{\"max_batch_size\":0}","file:3/model.null":"aW5wdXQgeCBVSU5UOCBbMl0Kb3V0cHV0IHkgVUlOVDggWzNdCg=="}}"#;
    let answer = front.post("/v2/repository/models/brought/load", brought).await;
    assert_eq!(answer.status, 200, "{}", answer.json());
    let metadata = front.get("/v2/models/brought").await.json();
    assert_eq!((&metadata["versions"], &metadata["outputs"][0]["shape"]), (&json!(["3"]), &json!([3])));
    let bad = r#"{"parameters":{"file:1/model.null":"aW5wdXQ="}}"#;
    let message = front.post("/v2/repository/models/bad/load", bad).await.error(400);
    assert!(message.contains("bad"), "{message}");
}

#[tokio::test]
async fn lost_clients_are_told_where_to_go() {
    let front = Front::start();
    for path in ["/", "/v1/models", "/v2/nothing", "/v2/models", "/v2/systemsharedmemory"] {
        let message = front.get(path).await.error(404);
        assert!(message.contains(path) && message.contains("v2/health/live"), "{message}");
    }
    let wrong = front.post("/v2/health/live", "").await;
    assert_eq!(wrong.header("allow"), Some("GET,HEAD"));
    assert!(wrong.error(405).contains("does not take POST"));
    let wrong = front.get("/v2/models/plain/infer").await;
    assert_eq!(wrong.header("allow"), Some("POST"));
    wrong.error(405);
}

#[tokio::test]
async fn traceparent_comes_back_where_it_is_valid() {
    let front = Front::start();
    let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let answer = front.send("GET", "/v2", &[("traceparent", trace)], Body::empty()).await;
    assert_eq!(answer.header("traceparent"), Some(trace));
    let answer = front.send("GET", "/v2", &[("traceparent", "nonsense")], Body::empty()).await;
    assert_eq!(answer.header("traceparent"), None);
}
