// SPDX-License-Identifier: Apache-2.0
//! Tensors in shared memory, through a daemon: calls, streams, and clients that go away.

use std::collections::HashMap;
use std::fs;

use diolkos_server::grpc::pb::infer_parameter::ParameterChoice;
use diolkos_server::grpc::pb::model_infer_request::InferRequestedOutputTensor;
use diolkos_server::grpc::pb::{
    CudaSharedMemoryStatusRequest, CudaSharedMemoryUnregisterRequest, InferParameter, ModelInferRequest,
    ServerMetadataRequest, SystemSharedMemoryRegisterRequest, SystemSharedMemoryStatusRequest,
    SystemSharedMemoryUnregisterRequest,
};
use tonic::Code;

use crate::support::{Fixture, named, parameter, raw, start};

/// A daemon that looks for shared memory in a directory of this test.
async fn with_shm(more: &str) -> (Fixture, tempfile::TempDir) {
    let dir = tempfile::tempdir_in("/dev/shm").expect("tests need a tmpfs at /dev/shm");
    let settings = format!("{more}\nshared_memory.directory = {:?}", dir.path());
    (start(&settings).await, dir)
}

fn lies(region: &str, bytes: i64, offset: i64) -> HashMap<String, InferParameter> {
    HashMap::from([
        ("shared_memory_region".into(), parameter(ParameterChoice::StringParam(region.into()))),
        ("shared_memory_byte_size".into(), parameter(ParameterChoice::Int64Param(bytes))),
        ("shared_memory_offset".into(), parameter(ParameterChoice::Int64Param(offset))),
    ])
}

fn register(name: &str, key: &str, offset: u64, byte_size: u64) -> SystemSharedMemoryRegisterRequest {
    SystemSharedMemoryRegisterRequest { name: name.into(), key: key.into(), offset, byte_size }
}

/// `data` from one region to another.
fn through(input: &str, output: &str, bytes: i64) -> ModelInferRequest {
    let mut request = raw("echo", "UINT8", &[bytes], "");
    request.raw_input_contents.clear();
    request.inputs[0].parameters = lies(input, bytes, 0);
    request.outputs =
        vec![InferRequestedOutputTensor { name: "data".into(), parameters: lies(output, bytes, 2) }];
    request
}

#[tokio::test]
async fn registered_used_and_forgotten() {
    let (fixture, dir) = with_shm("").await;
    let mut client = fixture.client().await;
    fs::write(dir.path().join("in"), b"hello").unwrap();
    fs::write(dir.path().join("out"), b"..........").unwrap();
    client.system_shared_memory_register(register("in", "/in", 0, 5)).await.unwrap();
    client.system_shared_memory_register(register("out", "/out", 1, 9)).await.unwrap();
    let twice = client.system_shared_memory_register(register("in", "/in", 0, 5)).await.unwrap_err();
    assert_eq!(twice.code(), Code::InvalidArgument);
    assert!(twice.message().contains("'in' already in manager"), "{twice:?}");
    let reply = client.model_infer(through("in", "out", 5)).await.unwrap().into_inner();
    assert_eq!(reply.raw_output_contents, [""], "clients count entries");
    let parameters = &reply.outputs[0].parameters;
    let size = parameters["shared_memory_byte_size"].parameter_choice.clone();
    assert_eq!((parameters.len(), size), (3, Some(ParameterChoice::Int64Param(5))));
    assert_eq!(fs::read(dir.path().join("out")).unwrap(), b"...hello..");
    let status = |name: &str| SystemSharedMemoryStatusRequest { name: name.into() };
    let all = client.system_shared_memory_status(status("")).await.unwrap().into_inner().regions;
    assert_eq!((all.len(), &*all["out"].key, all["out"].offset, all["out"].byte_size), (2, "/out", 1, 9));
    // Another connection of this process: the same regions.
    let mut second = fixture.client().await;
    let one = second.system_shared_memory_status(status("in")).await.unwrap().into_inner().regions;
    assert_eq!(one.keys().collect::<Vec<_>>(), ["in"]);
    let missing = client.system_shared_memory_status(status("x")).await.unwrap_err();
    assert_eq!(missing.code(), Code::NotFound);
    let unregister = |name: &str| SystemSharedMemoryUnregisterRequest { name: name.into() };
    client.system_shared_memory_unregister(unregister("in")).await.unwrap();
    let gone = client.model_infer(through("in", "out", 5)).await.unwrap_err();
    assert_eq!(gone.code(), Code::NotFound);
    assert!(gone.message().contains("input `data`: there is no shared memory region 'in'"), "{gone:?}");
    second.system_shared_memory_unregister(unregister("")).await.unwrap();
    assert!(client.system_shared_memory_status(status("")).await.unwrap().into_inner().regions.is_empty());
    fixture.end().await;
}

#[tokio::test]
async fn in_streams_too() {
    let (fixture, dir) = with_shm("").await;
    let mut client = fixture.client().await;
    fs::write(dir.path().join("both"), b"ab..").unwrap();
    client.system_shared_memory_register(register("both", "both", 0, 4)).await.unwrap();
    let wrong = through("both", "nobody", 2);
    let requests = tokio_stream::iter([through("both", "both", 2), wrong, named("echo", "x")]);
    let mut answers = client.model_stream_infer(requests).await.unwrap().into_inner();
    assert_eq!(answers.message().await.unwrap().unwrap().error_message, "");
    assert_eq!(fs::read(dir.path().join("both")).unwrap(), b"abab");
    assert!(answers.message().await.unwrap().unwrap().error_message.contains("region 'nobody'"));
    assert_eq!(answers.message().await.unwrap().unwrap().error_message, "");
    fixture.end().await;
}

#[tokio::test]
async fn files_close_when_their_client_goes() {
    let (fixture, dir) = with_shm("linger = \"10ms\"").await;
    let path = dir.path().join("key");
    fs::write(&path, b"abcd").unwrap();
    let path = fs::canonicalize(path).unwrap();
    let open = || {
        let files = fs::read_dir("/proc/self/fd").unwrap();
        files.flatten().filter(|file| fs::read_link(file.path()).is_ok_and(|to| to == path)).count()
    };
    let mut client = fixture.client().await;
    client.system_shared_memory_register(register("r", "key", 0, 4)).await.unwrap();
    assert_eq!(open(), 1);
    drop(client);
    while open() > 0 {
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    fixture.end().await;
}

#[tokio::test]
async fn off_where_the_operator_says_so_and_never_cuda() {
    let fixture = start("shared_memory.directory = \"\"").await;
    let mut client = fixture.client().await;
    let metadata = client.server_metadata(ServerMetadataRequest {}).await.unwrap().into_inner();
    assert!(!metadata.extensions.contains(&"system_shared_memory".to_owned()));
    let off = client.system_shared_memory_register(register("r", "key", 0, 4)).await.unwrap_err();
    assert_eq!(off.code(), Code::Unimplemented);
    assert!(off.message().contains("system_shared_memory extension is not offered"), "{off:?}");
    assert_eq!(client.model_infer(through("r", "r", 2)).await.unwrap_err().code(), Code::Unimplemented);
    let all = CudaSharedMemoryStatusRequest::default();
    assert!(client.cuda_shared_memory_status(all).await.unwrap().into_inner().regions.is_empty());
    let one = CudaSharedMemoryStatusRequest { name: "r".into() };
    assert_eq!(client.cuda_shared_memory_status(one).await.unwrap_err().code(), Code::NotFound);
    client.cuda_shared_memory_unregister(CudaSharedMemoryUnregisterRequest::default()).await.unwrap();
    fixture.end().await;
}
