// SPDX-License-Identifier: Apache-2.0
//! Inference that works: every type, both forms, every extension that is advertised.

use std::io::{Read as _, Write as _};

use diolkos_types::DataType;
use flate2::read::{GzDecoder, ZlibDecoder};
use flate2::write::{GzEncoder, ZlibEncoder};

use super::*;

fn echo_of(data_type: &str, shape: &Value, data: &Value) -> Value {
    json!({"id": "one", "inputs": [{"name": "data", "shape": shape, "datatype": data_type, "data": data}]})
}

#[tokio::test]
async fn json_there_and_back_for_every_type() {
    let front = Front::start();
    for data_type in DataType::ALL {
        let data = match data_type {
            DataType::Bool => json!([true, false]),
            DataType::Bytes => json!(["text", "é\n"]),
            DataType::Fp16 | DataType::Fp32 | DataType::Fp64 => json!([0.5, "NaN"]),
            _ => json!([0, 100]),
        };
        let answer = front.infer("echo", &echo_of(data_type.name(), &json!([2]), &data)).await;
        if data_type == DataType::Bf16 {
            assert!(answer.error(400).contains("BF16 has no JSON form"));
            continue;
        }
        assert_eq!(answer.status, 200, "{data_type}: {}", answer.json());
        assert_eq!(answer.header("content-type"), Some("application/json"));
        assert_eq!(
            answer.json(),
            json!({"model_name": "echo", "model_version": "1", "id": "one",
                "outputs": [{"name": "data", "datatype": data_type.name(), "shape": [2], "data": data}]})
        );
    }
}

#[tokio::test]
async fn binary_there_and_back_for_every_type() {
    let front = Front::start();
    for data_type in DataType::ALL {
        let data: Vec<u8> = match data_type {
            DataType::Bool => vec![1, 0],
            DataType::Bytes => vec![1, 0, 0, 0, 0xff, 0, 0, 0, 0],
            fixed => (0..2 * fixed.element_bytes().unwrap() as u8).collect(),
        };
        let json = json!({"parameters": {"binary_data_output": true}, "inputs": [{"name": "data", "shape": [2],
            "datatype": data_type.name(), "parameters": {"binary_data_size": data.len()}}]});
        let answer = front.infer_binary("echo", &json, &data).await;
        assert_eq!(answer.status, 200, "{data_type}: {:?}", answer.body);
        assert_eq!(answer.header("content-type"), Some("application/octet-stream"));
        let length: usize = answer.header("inference-header-content-length").unwrap().parse().unwrap();
        let (header, tensors) = answer.body.split_at(length);
        let header: Value = serde_json::from_slice(header).unwrap();
        assert_eq!(header["outputs"][0]["parameters"]["binary_data_size"], data.len());
        assert_eq!(tensors, data, "{data_type}");
    }
}

#[tokio::test]
async fn large_tensors_survive_both_forms() {
    let front = Front::start();
    let count = 300_000;
    let data: Vec<u8> = (0..count).map(|i| (i % 251) as u8).collect();
    let json = json!({"inputs": [{"name": "data", "shape": [count], "datatype": "UINT8",
        "parameters": {"binary_data_size": count}}], "outputs": [{"name": "data", "parameters": {"binary_data": true}}]});
    let answer = front.infer_binary("echo", &json, &data).await;
    assert_eq!(answer.body[answer.body.len() - count..], data);
    let answer = front.infer("echo", &echo_of("UINT8", &json!([count / 2, 2]), &json!(data))).await;
    assert_eq!(answer.json()["outputs"][0]["data"], json!(data));
}

#[tokio::test]
async fn empty_tensors_and_scalars() {
    let front = Front::start();
    let answer = front.infer("echo", &echo_of("FP32", &json!([0, 3]), &json!([]))).await;
    assert_eq!(
        answer.json()["outputs"][0],
        json!({"name": "data", "datatype": "FP32", "shape": [0, 3], "data": []})
    );
    let answer = front.infer("echo", &echo_of("INT8", &json!([]), &json!(-5))).await;
    assert_eq!(answer.json()["outputs"][0]["shape"], json!([]));
    let json = json!({"parameters": {"binary_data_output": true},
        "inputs": [{"name": "data", "shape": [0], "datatype": "FP32", "parameters": {"binary_data_size": 0}}]});
    let answer = front.infer_binary("echo", &json, &[]).await;
    let length: usize = answer.header("inference-header-content-length").unwrap().parse().unwrap();
    assert_eq!(length, answer.body.len());
    assert_eq!(answer.json()["outputs"][0]["parameters"]["binary_data_size"], 0);
}

#[tokio::test]
async fn a_product_of_matrices_with_parameters() {
    let front = Front::start();
    let matrix =
        |name: &str, data: Value| json!({"name": name, "shape": [2, 2], "datatype": "FP32", "data": data});
    let body = json!({"parameters": {"alpha": 2.0},
        "inputs": [matrix("B", json!([[0, 1], [1, 0]])), matrix("A", json!([1, 2, 3, 4]))]});
    let answer = front.infer("blas.sgemm", &body).await;
    assert_eq!(answer.json()["outputs"][0]["data"], json!([4.0, 2.0, 8.0, 6.0]), "{}", answer.json());
}

#[tokio::test]
async fn versions_are_chosen_and_named() {
    let front = Front::start();
    let body = json!({"inputs": [{"name": "a", "shape": [2], "datatype": "BYTES", "data": ["x", "y"]},
        {"name": "b", "shape": [2, 2], "datatype": "UINT8", "data": [[1, 2], [3, 4]]}]});
    let newest = front.infer("two", &body).await.json();
    assert_eq!(newest["model_version"], "2");
    assert!(newest.get("id").is_none());
    let first = front.post("/v2/models/two/versions/1/infer", body.to_string()).await.json();
    assert_eq!(first["model_version"], "1");
    assert_eq!(first["outputs"][0]["data"], json!(["", ""]));
}

#[tokio::test]
async fn outputs_are_chosen_and_ordered() {
    let front = Front::start();
    let input = json!([{"name": "data", "shape": [3], "datatype": "INT32", "data": [5, -1, 3]}]);
    let body = json!({"inputs": input, "outputs": [{"name": "max"}, {"name": "min"}]});
    let outputs = front.infer("minmax", &body).await.json();
    assert_eq!(
        (&outputs["outputs"][0]["name"], &outputs["outputs"][0]["data"]),
        (&json!("max"), &json!([5]))
    );
    assert_eq!(outputs["outputs"][1]["data"], json!([-1]));
    let body = json!({"inputs": input, "outputs": [{"name": "max"}]});
    assert_eq!(front.infer("minmax", &body).await.json()["outputs"].as_array().unwrap().len(), 1);
    let body = json!({"inputs": input, "outputs": []});
    assert_eq!(front.infer("minmax", &body).await.json()["outputs"].as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn the_best_classes_with_and_without_labels() {
    let front = Front::start();
    let mut body = echo_of("FP32", &json!([4]), &json!([0.25, 0.5, -1, 2]));
    body["outputs"] = json!([{"name": "data", "parameters": {"classification": 2}}]);
    let output = &front.infer("echo", &body).await.json()["outputs"][0];
    assert_eq!(*output, json!({"name": "data", "datatype": "BYTES", "shape": [2], "data": ["2:3", "0.5:1"]}));
    let body = json!({"inputs": [{"name": "x", "shape": [2, 2], "datatype": "FP32", "data": [1, 2, 3, 4]}],
        "outputs": [{"name": "y", "parameters": {"classification": 2}}]});
    let output = &front.infer("batched", &body).await.json()["outputs"][0];
    assert_eq!(
        (&output["shape"], &output["data"]),
        (&json!([2, 2]), &json!(["0:0:ant", "0:1:bee", "0:0:ant", "0:1:bee"]))
    );
    for (rows, shape) in [(1, json!([2])), (3, json!([3, 2]))] {
        let body = json!({"inputs": [{"name": "x", "shape": [rows, 3], "datatype": "FP32", "data": vec![0; rows * 3]}],
            "outputs": [{"name": "y", "parameters": {"classification": 2}}]});
        assert_eq!(front.infer("plain", &body).await.json()["outputs"][0]["shape"], shape);
    }
    let mut body = echo_of("BOOL", &json!([1]), &json!([true]));
    body["outputs"] = json!([{"name": "data", "parameters": {"classification": 1}}]);
    assert!(front.infer("echo", &body).await.error(400).contains("output `data` is BOOL"));
}

#[tokio::test]
async fn a_raw_body_is_the_one_input() {
    let front = Front::start();
    let raw = |model: &str, body: Vec<u8>| {
        front.send(
            "POST",
            &format!("/v2/models/{model}/infer"),
            &[("inference-header-content-length", "0")],
            body,
        )
    };
    let answer = raw("plain", vec![0; 24]).await;
    let length: usize = answer.header("inference-header-content-length").unwrap().parse().unwrap();
    let header: Value = serde_json::from_slice(&answer.body[..length]).unwrap();
    assert_eq!(header["outputs"][0]["shape"], json!([2, 10]), "24 bytes are two rows of three");
    assert_eq!(answer.body.len() - length, 2 * 10 * 4);
    assert_eq!(raw("batched", vec![0; 8]).await.status, 200);
    assert!(raw("plain", vec![0; 23]).await.error(400).contains("no whole number"));
    assert!(raw("two", vec![0; 23]).await.error(400).contains("one input"));
    assert!(raw("echo", vec![0; 23]).await.error(400).contains("input `data`"));
    raw("nothing", Vec::new()).await.error(404);
}

#[tokio::test]
async fn bodies_are_packed_both_ways() {
    let front = Front::start();
    let body = echo_of("UINT8", &json!([4000]), &json!(vec![7; 4000])).to_string();
    let mut gzip = GzEncoder::new(Vec::new(), flate2::Compression::default());
    gzip.write_all(body.as_bytes()).unwrap();
    let mut zlib = ZlibEncoder::new(Vec::new(), flate2::Compression::default());
    zlib.write_all(body.as_bytes()).unwrap();
    let path = "/v2/models/echo/infer";
    for (encoding, packed) in [("gzip", gzip.finish().unwrap()), ("deflate", zlib.finish().unwrap())] {
        let headers = [("content-encoding", encoding), ("accept-encoding", encoding)];
        let answer = front.send("POST", path, &headers, packed).await;
        assert_eq!(answer.header("content-encoding"), Some(encoding));
        let mut unpacked = Vec::new();
        match encoding {
            "gzip" => GzDecoder::new(&answer.body[..]).read_to_end(&mut unpacked).unwrap(),
            _ => ZlibDecoder::new(&answer.body[..]).read_to_end(&mut unpacked).unwrap(),
        };
        let answer: Value = serde_json::from_slice(&unpacked).unwrap();
        assert_eq!(answer["outputs"][0]["data"], json!(vec![7; 4000]));
    }
}

#[tokio::test]
async fn the_json_length_counts_unpacked_bytes() {
    let front = Front::start();
    let json = json!({"parameters": {"binary_data_output": true}, "inputs": [{"name": "data", "shape": [3],
        "datatype": "UINT8", "parameters": {"binary_data_size": 3}}]})
    .to_string();
    let mut gzip = GzEncoder::new(Vec::new(), flate2::Compression::default());
    gzip.write_all(json.as_bytes()).unwrap();
    gzip.write_all(&[1, 2, 3]).unwrap();
    let length = json.len().to_string();
    let headers = [("content-encoding", "gzip"), ("inference-header-content-length", length.as_str())];
    let answer = front.send("POST", "/v2/models/echo/infer", &headers, gzip.finish().unwrap()).await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.body[answer.body.len() - 3..], [1, 2, 3]);
}

#[tokio::test]
async fn an_inference_loads_what_is_loaded_on_demand() {
    let front = Front::with(Options { lazy: true, ..Options::default() });
    let body = json!({"inputs": [{"name": "x", "shape": [1, 3], "datatype": "FP32", "data": [1, 2, 3]}]});
    assert_eq!(front.infer("plain", &body).await.status, 200);
}
