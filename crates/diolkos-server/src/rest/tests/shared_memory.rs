// SPDX-License-Identifier: Apache-2.0
//! Tensors in shared memory: the calls around them, and inferences.

use std::fs;
use std::path::PathBuf;

use serde_json::json;

use super::*;

fn front() -> Front {
    Front::with(Options { shared_memory: true, ..Options::default() })
}

impl Front {
    fn shm(&self, name: &str) -> PathBuf {
        self.shm.as_ref().unwrap().path().join(name)
    }

    async fn register(&self, name: &str, body: &Value) -> Answer {
        self.post(&format!("/v2/systemsharedmemory/region/{name}/register"), body.to_string()).await
    }
}

fn lies(region: &str, bytes: u64, offset: u64) -> Value {
    json!({"shared_memory_region": region, "shared_memory_byte_size": bytes, "shared_memory_offset": offset})
}

fn echo(datatype: &str, shape: &Value, input: &Value, output: &Value) -> Value {
    json!({"inputs": [{"name": "data", "shape": shape, "datatype": datatype, "parameters": input}],
        "outputs": [{"name": "data", "parameters": output}]})
}

#[tokio::test]
async fn regions_are_registered_listed_and_forgotten() {
    let front = front();
    let extensions = front.get("/v2").await.json()["extensions"].clone();
    assert!(extensions.as_array().unwrap().contains(&json!("system_shared_memory")));
    assert_eq!(front.get("/v2/systemsharedmemory/status").await.json(), json!([]));
    fs::write(front.shm("key"), [0; 64]).unwrap();
    let body = json!({"key": "/key", "offset": 16, "byte_size": 48});
    assert_eq!(front.register("a%20b", &body).await.status, 200);
    assert!(front.register("a%20b", &body).await.error(400).contains("'a b' already in manager"));
    assert_eq!(front.register("c", &json!({"key": "key", "byte_size": 1})).await.status, 200);
    let first = json!({"name": "a b", "key": "/key", "offset": 16, "byte_size": 48});
    let second = json!({"name": "c", "key": "key", "offset": 0, "byte_size": 1});
    assert_eq!(front.get("/v2/systemsharedmemory/status").await.json(), json!([first, second]));
    assert_eq!(front.get("/v2/systemsharedmemory/region/a%20b/status").await.json(), json!([first]));
    assert!(front.get("/v2/systemsharedmemory/region/d/status").await.error(404).contains("region 'd'"));
    let unregister =
        async |path: &str| front.post(&format!("/v2/systemsharedmemory{path}/unregister"), "").await;
    assert_eq!(unregister("/region/c").await.status, 200);
    assert_eq!(unregister("/region/nobody").await.status, 200);
    assert_eq!(front.get("/v2/systemsharedmemory/status").await.json(), json!([first]));
    assert_eq!(unregister("").await.status, 200);
    assert_eq!(front.get("/v2/systemsharedmemory/status").await.json(), json!([]));
}

#[tokio::test]
async fn bad_registrations_say_what_is_wrong() {
    let front = front();
    fs::write(front.shm("key"), [0; 64]).unwrap();
    let wrong = [
        (json!({"key": "/key"}), "missing field `byte_size`"),
        (json!({"byte_size": 1}), "missing field `key`"),
        (json!({"key": 1, "byte_size": 1}), "expected a"),
        (json!({"key": "/key", "byte_size": -1}), "invalid value"),
        (json!([]), "JSON object"),
        (json!({"key": "../key", "byte_size": 1}), "key `../key`"),
        (json!({"key": "/key", "byte_size": 65}), "which has 64 bytes"),
        (json!({"key": "/key", "byte_size": u64::MAX, "offset": 1}), "more than any file has"),
        (json!({"key": "/none", "byte_size": 1}), "no shared memory with key `/none`"),
    ];
    for (body, expected) in wrong {
        let message = front.register("r", &body).await.error(400);
        assert!(message.contains(expected), "{message}");
    }
    front.get("/v2/systemsharedmemory/region/r/register").await.error(405);
}

#[tokio::test]
async fn inputs_and_outputs_lie_in_regions() {
    let front = front();
    fs::write(front.shm("in"), [[0; 8], [1, 2, 3, 4, 5, 6, 7, 8]].concat()).unwrap();
    fs::write(front.shm("out"), [9; 20]).unwrap();
    front.register("in", &json!({"key": "/in", "offset": 4, "byte_size": 12})).await;
    front.register("out", &json!({"key": "/out", "byte_size": 20})).await;
    let request = echo("UINT8", &json!([2, 4]), &lies("in", 8, 4), &lies("out", 10, 5));
    let reply = front.infer("echo", &request).await;
    let output = json!({"name": "data", "datatype": "UINT8", "shape": [2, 4],
        "parameters": {"binary_data_size": 0, "shared_memory_region": "out", "shared_memory_offset": 5,
            "shared_memory_byte_size": 8}});
    assert_eq!(reply.json()["outputs"], json!([output]));
    assert_eq!(reply.header("inference-header-content-length"), None);
    let expected = [&[9; 5][..], &[1, 2, 3, 4, 5, 6, 7, 8], &[9; 7]].concat();
    assert_eq!(fs::read(front.shm("out")).unwrap(), expected);
    // One of both in a region, the other in the message.
    let mut request = echo("UINT8", &json!([8]), &lies("in", 8, 4), &json!({}));
    assert_eq!(
        front.infer("echo", &request).await.json()["outputs"][0]["data"],
        json!([1, 2, 3, 4, 5, 6, 7, 8])
    );
    request["inputs"][0] = json!({"name": "data", "shape": [2], "datatype": "UINT8", "data": [7, 7]});
    request["outputs"][0]["parameters"] = lies("out", 2, 0);
    assert_eq!(front.infer("echo", &request).await.status, 200);
    assert_eq!(fs::read(front.shm("out")).unwrap()[..4], [7, 7, 9, 9]);
    assert_eq!(front.app.engine.request_memory_used(), 0);
}

#[tokio::test]
async fn large_tensors_go_aside_and_classes_go_into_regions_too() {
    let front = front();
    let data: Vec<u8> = (0..1 << 20).map(|index| (index % 251) as u8).collect();
    fs::write(front.shm("in"), &data).unwrap();
    fs::write(front.shm("out"), vec![0; 1 << 20]).unwrap();
    for key in ["in", "out"] {
        front.register(key, &json!({"key": key, "byte_size": 1 << 20})).await;
    }
    let request = echo("UINT8", &json!([1 << 20]), &lies("in", 1 << 20, 0), &lies("out", 1 << 20, 0));
    assert_eq!(front.infer("echo", &request).await.status, 200);
    assert_eq!(fs::read(front.shm("out")).unwrap(), data);
    let mut output = lies("out", 100, 0);
    output["classification"] = json!(1);
    let request = json!({"inputs": [{"name": "data", "shape": [2], "datatype": "FP32", "data": [0.5, 2]}],
        "outputs": [{"name": "data", "parameters": output}]});
    let reply = front.infer("echo", &request).await.json();
    assert_eq!(reply["outputs"][0]["parameters"]["shared_memory_byte_size"], 7);
    assert_eq!(fs::read(front.shm("out")).unwrap()[..7], *b"\x03\0\0\x002:1");
}

/// Lengths of elements are read from the copy, so whatever is there is either right or refused.
#[tokio::test]
async fn bytes_elements_are_read_from_the_copy() {
    let front = front();
    fs::write(front.shm("in"), b"\x03\0\0\0abc\0\0\0\0\xff\xff\xff\xff").unwrap();
    front.register("in", &json!({"key": "in", "byte_size": 15})).await;
    let request = |bytes, count| echo("BYTES", &json!([count]), &lies("in", bytes, 0), &json!({}));
    assert_eq!(front.infer("echo", &request(11, 2)).await.json()["outputs"][0]["data"], json!(["abc", ""]));
    for (bytes, count) in [(15, 3), (10, 2), (11, 1), (0, 1)] {
        front.infer("echo", &request(bytes, count)).await.error(400);
    }
}

#[tokio::test]
async fn what_does_not_fit_is_named() {
    let front = front();
    fs::write(front.shm("key"), [1; 16]).unwrap();
    front.register("r", &json!({"key": "key", "byte_size": 16})).await;
    let infer = async |input: &Value, output: &Value| {
        front.infer("echo", &echo("UINT8", &json!([8]), input, output)).await
    };
    let none = json!({});
    let message = infer(&lies("r", 8, 9), &none).await.error(400);
    assert!(message.contains("input `data`: 8 bytes from byte 9 on"), "{message}");
    assert!(message.contains("region `r`, which has 16 bytes"), "{message}");
    infer(&lies("r", 8, u64::MAX), &none).await.error(400);
    infer(&lies("r", u64::MAX, 1), &none).await.error(400);
    // Another size than the shape's is found where it is for all inputs.
    assert!(infer(&lies("r", 7, 0), &none).await.error(400).contains("data"));
    let message = infer(&lies("r", 8, 0), &lies("r", 7, 0)).await.error(400);
    assert_eq!(
        message,
        "output `data` has 8 bytes, and its place in region `r` has 7 (`shared_memory_byte_size`)"
    );
    assert!(infer(&lies("q", 8, 0), &none).await.error(404).contains("region 'q'; register it first"));
    assert!(infer(&lies("r", 8, 0), &lies("q", 8, 0)).await.error(404).starts_with("output `data`"));
    fs::OpenOptions::new().write(true).open(front.shm("key")).unwrap().set_len(4).unwrap();
    assert!(infer(&lies("r", 8, 0), &none).await.error(400).contains("region `r` has shrunk"));
    assert_eq!(front.app.engine.request_memory_used(), 0);
}

#[tokio::test]
async fn there_is_no_cuda_and_nothing_of_it_to_unregister() {
    let front = front();
    assert_eq!(front.get("/v2/cudasharedmemory/status").await.json(), json!([]));
    front.get("/v2/cudasharedmemory/region/r/status").await.error(404);
    for path in ["/v2/cudasharedmemory/unregister", "/v2/cudasharedmemory/region/r/unregister"] {
        assert_eq!(front.post(path, "").await.status, 200);
    }
    let body = json!({"raw_handle": {"b64": ""}, "device_id": 0, "byte_size": 8});
    let message = front.post("/v2/cudasharedmemory/region/r/register", body.to_string()).await.error(501);
    assert!(message.contains("cuda_shared_memory"), "{message}");
}
