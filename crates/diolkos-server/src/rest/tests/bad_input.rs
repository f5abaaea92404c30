// SPDX-License-Identifier: Apache-2.0
//! Bad input: each kind gets a clear 4xx that names what was wrong, and costs nothing else.

use super::*;

fn plain(shape: &Value, data_type: &str, data: &Value) -> Value {
    json!({"inputs": [{"name": "x", "shape": shape, "datatype": data_type, "data": data}]})
}

#[tokio::test]
async fn unknown_models_versions_and_tensors() {
    let front = Front::start();
    let good = plain(&json!([1, 3]), "FP32", &json!([1, 2, 3]));
    assert!(front.infer("nothing", &good).await.error(404).contains("unknown model `nothing`"));
    let path = "/v2/models/plain/versions/4/infer";
    assert!(front.post(path, good.to_string()).await.error(404).contains("no version 4; available: 1"));
    let path = "/v2/models/plain/versions/v1/infer";
    assert!(front.post(path, good.to_string()).await.error(400).contains("version `v1`"));
    let input = json!({"inputs": [{"name": "z", "shape": [1, 3], "datatype": "FP32", "data": [1, 2, 3]}]});
    assert_eq!(front.infer("plain", &input).await.error(400), "unknown input `z`; the inputs are `x`");
    let mut output = good.clone();
    output["outputs"] = json!([{"name": "q"}]);
    assert_eq!(front.infer("plain", &output).await.error(400), "unknown output `q`; the outputs are `y`");
    let mut twice = good.clone();
    twice["outputs"] = json!([{"name": "y"}, {"name": "y"}]);
    assert!(front.infer("plain", &twice).await.error(400).contains("output `y` is asked for twice"));
    assert!(
        front
            .infer("plain", &json!({"inputs": []}))
            .await
            .error(400)
            .contains("input `x` is missing: FP32 [-1,3]")
    );
}

#[tokio::test]
async fn wrong_rank_shape_type_and_count() {
    let front = Front::start();
    let table = [
        (plain(&json!([3]), "FP32", &json!([1, 2, 3])), "input `x` has shape [3] and the model takes [-1,3]"),
        (plain(&json!([1, 4]), "FP32", &json!([1, 2, 3, 4])), "dimension 1 is 4 instead of 3"),
        (
            plain(&json!([1, 3]), "INT32", &json!([1, 2, 3])),
            "input `x` has data type INT32 and the model takes FP32",
        ),
        (
            plain(&json!([1, 3]), "FP32", &json!([1, 2])),
            "input `x` has 2 elements and its shape [1,3] takes 3",
        ),
        (plain(&json!([1, 3]), "FP32", &json!([1, 2, 3, 4])), "more than 3 elements"),
        (plain(&json!([1, 3]), "FP32", &json!(["a", 2, 3])), "element 0 is \"a\""),
        (plain(&json!([1, 3]), "FLOAT", &json!([1, 2, 3])), "input `x` has datatype `FLOAT`"),
        (plain(&json!([1, -1]), "FP32", &json!([1, 2, 3])), "dimension 1 is -1"),
        (plain(&json!([u64::from(u32::MAX), 1u64 << 40]), "FP32", &json!([1])), "overflows"),
        (plain(&json!([1u64 << 40, 3]), "FP32", &json!([1])), "1 elements"),
        (plain(&json!(vec![1; 17]), "FP32", &json!([1])), "17 dimensions"),
    ];
    for (body, expected) in table {
        let message = front.infer("plain", &body).await.error(400);
        assert!(message.contains(expected), "{body}: {message}");
    }
    // A shape whose bytes overflow although its elements do not, and a byte count that fits another shape.
    let binary = |shape: Value, size: usize| json!({"inputs": [{"name": "x", "shape": shape, "datatype": "FP32", "parameters": {"binary_data_size": size}}]});
    let message = front.infer_binary("plain", &binary(json!([1, 3]), 8), &[0; 8]).await.error(400);
    assert!(message.contains("input `x` has 8 bytes of data, and FP32 of shape [1,3] takes 12"), "{message}");
    let huge = json!({"inputs": [{"name": "data", "shape": [1u64 << 62], "datatype": "FP64", "parameters": {"binary_data_size": 0}}]});
    assert!(front.infer_binary("echo", &huge, &[]).await.error(400).contains("overflows"));
    let bytes = json!({"inputs": [{"name": "data", "shape": [2], "datatype": "BYTES", "parameters": {"binary_data_size": 5}}]});
    let message = front.infer_binary("echo", &bytes, &[9, 0, 0, 0, b'x']).await.error(400);
    assert!(message.contains("input `data`") && message.contains("cut off"), "{message}");
}

#[tokio::test]
async fn nan_and_empty_tensors_are_values_like_others() {
    let front = Front::start();
    let answer = front.infer("plain", &plain(&json!([1, 3]), "FP32", &json!(["NaN", 1, "-Infinity"]))).await;
    assert_eq!(answer.status, 200);
    let answer = front.infer("plain", &plain(&json!([0, 3]), "FP32", &json!([]))).await;
    assert_eq!(answer.json()["outputs"][0]["shape"], json!([0, 10]));
    // Python's JSON writers put them so.
    let bare = r#"{"inputs":[{"name":"x","shape":[1,3],"datatype":"FP32","data":[NaN,1,-Infinity]}]}"#;
    assert_eq!(front.post("/v2/models/plain/infer", bare).await.status, 200);
    let close = r#"{"inputs":[{"name":"x","shape":[1,3],"datatype":"FP32","data":[Inf,1,2]}]}"#;
    assert!(front.post("/v2/models/plain/infer", close).await.error(400).contains("\"NaN\""));
}

#[tokio::test]
async fn bombs() {
    let front = Front::start();
    let path = "/v2/models/plain/infer";
    for bomb in [
        "[".repeat(1 << 20),
        "{\"inputs\":[{\"data\":".repeat(1 << 16),
        format!("{{\"id\":{}", "[".repeat(1 << 20)),
    ] {
        front.post(path, bomb).await.error(400);
    }
    let nested = format!(
        r#"{{"inputs":[{{"name":"x","shape":[1,3],"datatype":"FP32","data":{}1{}}}]}}"#,
        "[".repeat(1 << 18),
        "]".repeat(1 << 18)
    );
    assert!(front.post(path, nested).await.error(400).contains("nesting"));
    let many = format!(
        "{{\"inputs\":[{}]}}",
        vec![r#"{"name":"x","shape":[],"datatype":"FP32","data":1}"#; 5000].join(",")
    );
    assert!(front.post(path, many).await.error(400).contains("5000 inputs"));
    let values = format!(
        r#"{{"inputs":[{{"name":"x","shape":[1,3],"datatype":"FP32","data":[{}]}}]}}"#,
        vec!["0"; 500_000].join(",")
    );
    assert!(front.post(path, values).await.error(400).contains("more than 3"));
}

#[tokio::test]
async fn not_json_and_truncated() {
    let front = Front::start();
    let path = "/v2/models/plain/infer";
    for body in ["", "{", "not json", "[]", "{\"inputs\":1}", "{\"inputs\":[1]}", "\u{0}"] {
        front.post(path, body).await.error(400);
    }
    let json = json!({"inputs": [{"name": "x", "shape": [1, 3], "datatype": "FP32", "parameters": {"binary_data_size": 12}}]});
    for have in [0, 1, 11, 13] {
        let message = front.infer_binary("plain", &json, &vec![0; have]).await.error(400);
        assert!(message.contains("left"), "{have}: {message}");
    }
    for length in ["-1", "", "1.5", "99999999999999999999999", "1000000", "5, 5", "x"] {
        front.send("POST", path, &[("inference-header-content-length", length)], "{}").await.error(400);
    }
    let twice = [("inference-header-content-length", "2"), ("inference-header-content-length", "2")];
    front.send("POST", path, &twice, "{}").await.error(400);
}

#[tokio::test]
async fn bodies_beyond_the_limit() {
    let front = Front::with(body_limit(1000));
    let path = "/v2/models/echo/infer";
    assert!(front.post(path, vec![b' '; 1001]).await.error(413).contains("limits.body_bytes_max"));
    front.send("POST", path, &[("content-length", "5000000000000")], "{}").await.error(413);
    front.post("/v2/repository/index", vec![b' '; 1001]).await.error(413);
    assert_eq!(front.post("/v2/repository/index", vec![b' '; 1000]).await.status, 200);
    front.send("POST", path, &[("content-encoding", "br")], "{}").await.error(415);
    front.send("POST", path, &[("content-encoding", "gzip")], "{}").await.error(400);
}

#[tokio::test]
async fn what_is_not_offered_says_so() {
    let front = Front::start();
    let shared = json!({"inputs": [{"name": "x", "shape": [1, 3], "datatype": "FP32",
        "parameters": {"shared_memory_region": "r", "shared_memory_byte_size": 12}}]});
    assert!(front.infer("plain", &shared).await.error(501).contains("system_shared_memory extension"));
    front.get("/v2/systemsharedmemory/status").await.error(501);
    let sequence = json!({"parameters": {"sequence_id": 7, "sequence_start": true}, "inputs": []});
    assert!(front.infer("plain", &sequence).await.error(501).contains("sequence"));
    let wrong = json!({"parameters": {"timeout": "soon"}, "inputs": []});
    assert!(front.infer("plain", &wrong).await.error(400).contains("parameter `timeout` is \"soon\""));
}

#[tokio::test]
async fn after_all_of_it_the_good_are_served() {
    let front = Front::start();
    for body in ["", "[[[[", "{\"inputs\":[{}]}"] {
        front.post("/v2/models/plain/infer", body).await.error(400);
    }
    let good = plain(&json!([1, 3]), "FP32", &json!([1, 2, 3]));
    assert_eq!(front.infer("plain", &good).await.status, 200);
    assert_eq!(front.app.engine.request_memory_used(), 0, "nothing is left reserved");
}

#[tokio::test]
async fn outputs_too_large_for_text_are_to_be_had_as_binary_data() {
    let front = Front::start();
    // 4200 × 4200 numbers are 70.56 MB, and the limit of bodies is 64 MiB.
    let column = |name: &str, shape: [u64; 2]| json!({"name": name, "shape": shape, "datatype": "FP32", "data": vec![1; 4200]});
    let inputs = json!([column("A", [4200, 1]), column("B", [1, 4200])]);
    let text = front.infer("blas.sgemm", &json!({"inputs": inputs})).await.error(413);
    assert!(text.contains("70560000 bytes, and at most 67108864 go as JSON"), "{text}");
    assert!(text.contains("`binary_data_output`"), "{text}");
    let binary = json!({"inputs": inputs, "parameters": {"binary_data_output": true}});
    assert_eq!(front.infer("blas.sgemm", &binary).await.status, 200);
}
