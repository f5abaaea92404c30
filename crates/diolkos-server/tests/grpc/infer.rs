// SPDX-License-Identifier: Apache-2.0
//! Unary inference: every type, every way to be wrong, and going away.

use bytes::Bytes;
use diolkos_server::grpc::pb::infer_parameter::ParameterChoice;
use diolkos_server::grpc::pb::model_infer_request::InferRequestedOutputTensor;
use diolkos_server::grpc::pb::{InferTensorContents, ModelInferRequest};
use diolkos_types::{BytesElements, DataType};
use tonic::Code;

use crate::support::{named, parameter, raw, start};

/// Two elements of each type.
fn payload(data_type: DataType) -> Vec<u8> {
    match data_type.element_bytes() {
        Some(width) => (0..2 * width as u8).map(|byte| byte % 2).collect(),
        None => vec![3, 0, 0, 0, b'o', b'n', b'e', 0, 0, 0, 0],
    }
}

#[tokio::test]
async fn every_type_comes_back_as_it_went() {
    let fixture = start("").await;
    let mut client = fixture.client().await;
    for data_type in DataType::ALL {
        for shape in [&[2][..], &[1, 2, 1], &[2, 1, 1, 1, 1, 1, 1, 1]] {
            let payload = payload(data_type);
            let request = ModelInferRequest {
                id: format!("{data_type}"),
                ..raw("echo", data_type.name(), shape, payload.clone())
            };
            let reply = client.model_infer(request).await.unwrap().into_inner();
            assert_eq!(
                (&*reply.id, &*reply.model_name, &*reply.model_version),
                (data_type.name(), "echo", "1")
            );
            assert_eq!((&*reply.outputs[0].name, &*reply.outputs[0].datatype), ("data", data_type.name()));
            assert_eq!(
                (&reply.outputs[0].shape[..], &reply.raw_output_contents[0][..]),
                (shape, &payload[..])
            );
            assert!(reply.outputs[0].contents.is_none());
        }
    }
    fixture.end().await;
}

#[tokio::test]
async fn scalars_and_empty_tensors_are_tensors() {
    let fixture = start("").await;
    let mut client = fixture.client().await;
    let scalar =
        client.model_infer(raw("echo", "FP32", &[], vec![0, 0, 0x80, 0x7f])).await.unwrap().into_inner();
    assert!(scalar.outputs[0].shape.is_empty());
    assert_eq!(scalar.raw_output_contents[0][..], f32::INFINITY.to_le_bytes());
    let empty = client.model_infer(raw("echo", "FP64", &[3, 0, 5], Bytes::new())).await.unwrap().into_inner();
    assert_eq!((&empty.outputs[0].shape[..], empty.raw_output_contents[0].len()), (&[3, 0, 5][..], 0));
    let nan = f32::from_bits(0x7fc0_1234).to_le_bytes();
    let nans = client.model_infer(raw("echo", "FP32", &[1], nan.to_vec())).await.unwrap().into_inner();
    assert_eq!(nans.raw_output_contents[0][..], nan);
    fixture.end().await;
}

fn typed(datatype: &str, contents: InferTensorContents) -> ModelInferRequest {
    let mut request = raw("echo", datatype, &[2], Bytes::new());
    request.raw_input_contents.clear();
    request.inputs[0].contents = Some(contents);
    request
}

#[tokio::test]
async fn typed_contents_of_every_type_become_payload() {
    let fixture = start("").await;
    let mut client = fixture.client().await;
    let none = InferTensorContents::default;
    let ints = || InferTensorContents { int_contents: vec![-1, 5], ..none() };
    let uints = || InferTensorContents { uint_contents: vec![1, 5], ..none() };
    let cases: Vec<(&str, InferTensorContents, Vec<u8>)> = vec![
        ("BOOL", InferTensorContents { bool_contents: vec![true, false], ..none() }, vec![1, 0]),
        ("INT8", ints(), vec![255, 5]),
        ("INT16", ints(), vec![255, 255, 5, 0]),
        ("INT32", ints(), [(-1i32).to_le_bytes(), 5i32.to_le_bytes()].concat()),
        (
            "INT64",
            InferTensorContents { int64_contents: vec![-1, 5], ..none() },
            [(-1i64).to_le_bytes(), 5i64.to_le_bytes()].concat(),
        ),
        ("UINT8", uints(), vec![1, 5]),
        ("UINT16", uints(), vec![1, 0, 5, 0]),
        ("UINT32", uints(), vec![1, 0, 0, 0, 5, 0, 0, 0]),
        (
            "UINT64",
            InferTensorContents { uint64_contents: vec![u64::MAX, 5], ..none() },
            [u64::MAX.to_le_bytes(), 5u64.to_le_bytes()].concat(),
        ),
        (
            "FP32",
            InferTensorContents { fp32_contents: vec![0.5, -2.0], ..none() },
            [0.5f32.to_le_bytes(), (-2.0f32).to_le_bytes()].concat(),
        ),
        (
            "FP64",
            InferTensorContents { fp64_contents: vec![0.5, -2.0], ..none() },
            [0.5f64.to_le_bytes(), (-2.0f64).to_le_bytes()].concat(),
        ),
        (
            "BYTES",
            InferTensorContents { bytes_contents: vec!["ab".into(), "".into()], ..none() },
            vec![2, 0, 0, 0, b'a', b'b', 0, 0, 0, 0],
        ),
    ];
    for (datatype, contents, expected) in cases {
        let reply = client.model_infer(typed(datatype, contents)).await.unwrap().into_inner();
        assert_eq!(reply.raw_output_contents[0][..], expected, "{datatype}");
    }
    for datatype in ["FP16", "BF16"] {
        let status = client
            .model_infer(typed(datatype, InferTensorContents { fp32_contents: vec![0.5; 2], ..none() }));
        let status = status.await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument);
        assert!(status.message().contains("raw_input_contents"), "{status:?}");
    }
    fixture.end().await;
}

#[tokio::test]
async fn what_is_wrong_is_named() {
    let fixture = start("").await;
    let mut client = fixture.client().await;
    let good = || raw("echo", "FP32", &[2], vec![0; 8]);
    let renamed = |name: &str| {
        let mut request = good();
        request.inputs[0].name = name.into();
        request
    };
    let output = |name: &str| ModelInferRequest {
        outputs: vec![InferRequestedOutputTensor {
            name: name.into(),
            ..InferRequestedOutputTensor::default()
        }],
        ..good()
    };
    let version = |version: &str| ModelInferRequest { model_version: version.into(), ..good() };
    let cases: Vec<(ModelInferRequest, Code, &[&str])> = vec![
        (raw("nobody", "FP32", &[2], vec![0; 8]), Code::NotFound, &["nobody"]),
        (version("7"), Code::NotFound, &["echo", "7"]),
        (version("new"), Code::InvalidArgument, &["new"]),
        (renamed("date"), Code::InvalidArgument, &["date"]),
        (output("other"), Code::InvalidArgument, &["other"]),
        (raw("echo", "FP32", &[3], vec![0; 8]), Code::InvalidArgument, &["data", "12", "8"]),
        (raw("echo", "FLOAT", &[2], vec![0; 8]), Code::InvalidArgument, &["data", "FLOAT"]),
        (raw("echo", "FP32", &[-2], vec![0; 8]), Code::InvalidArgument, &["data", "-2"]),
        (raw("echo", "FP32", &[1; 17], vec![0; 4]), Code::InvalidArgument, &["data", "17"]),
        (raw("echo", "FP32", &[1 << 40, 1 << 40], vec![0; 8]), Code::InvalidArgument, &["data"]),
        (raw("echo", "BYTES", &[1], vec![9, 0, 0, 0, 1]), Code::InvalidArgument, &["data"]),
        (raw("blas.sgemm", "FP64", &[1, 1], vec![0; 8]), Code::InvalidArgument, &["data"]),
        (
            ModelInferRequest { inputs: Vec::new(), ..good() },
            Code::InvalidArgument,
            &["1 payloads for 0 inputs"],
        ),
    ];
    for (request, code, words) in cases {
        let described = format!("{request:?}");
        let status = client.model_infer(request).await.unwrap_err();
        assert_eq!(status.code(), code, "{status:?} for {described}");
        for word in words {
            assert!(status.message().contains(word), "`{word}` is missing in {status:?} for {described}");
        }
    }
    // None of them cost the connection.
    client.model_infer(good()).await.unwrap();
    fixture.end().await;
}

#[tokio::test]
async fn outputs_can_be_classified() {
    let fixture = start("").await;
    let mut client = fixture.client().await;
    let values: Vec<u8> = [0.25f32, 4.0, -1.0, 2.5].iter().flat_map(|value| value.to_le_bytes()).collect();
    let wish = InferRequestedOutputTensor {
        name: "data".into(),
        parameters: [("classification".to_owned(), parameter(ParameterChoice::Int64Param(2)))].into(),
    };
    let request = ModelInferRequest { outputs: vec![wish], ..raw("echo", "FP32", &[4], values) };
    let reply = client.model_infer(request).await.unwrap().into_inner();
    assert_eq!(reply.outputs[0].datatype, "BYTES");
    let classes: Vec<String> = BytesElements::new(&reply.raw_output_contents[0])
        .map(|element| String::from_utf8(element.unwrap().to_vec()).unwrap())
        .collect();
    assert!(classes[0].starts_with("4") && classes[0].ends_with(":1"), "{classes:?}");
    assert!(classes[1].starts_with("2.5") && classes[1].ends_with(":3"), "{classes:?}");
    fixture.end().await;
}

#[tokio::test]
async fn going_away_cancels_the_job() {
    let fixture = start("").await;
    let mut client = fixture.client().await;
    let mut other = client.clone();
    let running = tokio::spawn(async move { other.model_infer(named("gate", "runs")).await });
    fixture.wait_for_arrivals(1).await;
    let mut waiter = client.clone();
    let waiting = tokio::spawn(async move { waiter.model_infer(named("gate", "waits")).await });
    fixture.wait_for_jobs(2).await;
    waiting.abort();
    // The daemon learns of it by the reset of the stream, and the job leaves the queue.
    fixture.wait_for_jobs(1).await;
    fixture.gate.open();
    let reply = running.await.unwrap().unwrap().into_inner();
    assert_eq!(reply.raw_output_contents[0], "runs");
    let stats = client.model_statistics(pb_stats("gate")).await.unwrap().into_inner();
    assert_eq!(stats.model_stats[0].execution_count, 1, "the one that waited never ran");
    fixture.end().await;
}

fn pb_stats(name: &str) -> diolkos_server::grpc::pb::ModelStatisticsRequest {
    diolkos_server::grpc::pb::ModelStatisticsRequest { name: name.into(), ..Default::default() }
}

#[tokio::test]
async fn the_deadline_of_the_call_reaches_the_job() {
    let fixture = start("").await;
    let mut client = fixture.client().await;
    let mut other = client.clone();
    let running = tokio::spawn(async move { other.model_infer(named("gate", "runs")).await });
    fixture.wait_for_arrivals(1).await;
    // One waits in the queue, behind a job that does not end.
    let mut request = tonic::Request::new(named("gate", "late"));
    request.metadata_mut().insert("grpc-timeout", "20m".parse().unwrap());
    let status = client.model_infer(request).await.unwrap_err();
    assert_eq!(status.code(), Code::DeadlineExceeded);
    fixture.wait_for_jobs(1).await;
    // The schedule policy's timeout does the same.
    let mut request = named("gate", "late");
    request.parameters.insert("timeout".into(), parameter(ParameterChoice::Int64Param(20_000)));
    assert_eq!(client.model_infer(request).await.unwrap_err().code(), Code::DeadlineExceeded);
    let mut wrong = tonic::Request::new(named("echo", "x"));
    wrong.metadata_mut().insert("grpc-timeout", "soon".parse().unwrap());
    let status = client.model_infer(wrong).await.unwrap_err();
    assert_eq!((status.code(), status.message().contains("`soon`")), (Code::InvalidArgument, true));
    fixture.gate.open();
    running.await.unwrap().unwrap();
    let mut long = tonic::Request::new(named("gate", "in time"));
    long.metadata_mut().insert("grpc-timeout", "1H".parse().unwrap());
    client.model_infer(long).await.unwrap();
    fixture.end().await;
}
