// SPDX-License-Identifier: Apache-2.0
//! A gRPC client under load: tonic's channel on one connection of its own, and a request that was made once.

use bytes::Bytes;
use diolkos_server::grpc::pb::grpc_inference_service_client::GrpcInferenceServiceClient;
use diolkos_server::grpc::pb::{
    InferTensorContents, ModelInferRequest, model_infer_request::InferInputTensor,
};
use diolkos_server::limits;
use hyper::Uri;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpStream, UnixStream};
use tonic::transport::{Channel, Endpoint};

use super::caller::{Outcome, Question, check_echo};
use super::rest::no_server;
use crate::client::Address;
use crate::exit::Failure;

/// Largest answer that is taken: the same as a REST client's would be, in effect none.
const ANSWER_BYTES_MAX: usize = 1 << 30;

/// See the module.
pub(crate) struct GrpcCaller {
    client: GrpcInferenceServiceClient<Channel>,
    request: ModelInferRequest,
    /// Least length of a good answer's payload.
    answer_bytes_min: usize,
}

impl GrpcCaller {
    /// Connects.
    pub(crate) async fn open(address: &Address, question: &Question) -> Result<GrpcCaller, Failure> {
        let channel = connect(address).await.map_err(|error| no_server(address, &error))?;
        let client = GrpcInferenceServiceClient::new(channel).max_decoding_message_size(ANSWER_BYTES_MAX);
        let payload: usize = question.inputs.iter().map(|input| input.data.len()).sum();
        let answer_bytes_min = if question.echoes { payload } else { 0 };
        Ok(GrpcCaller { client, request: request(question), answer_bytes_min })
    }

    /// One call.
    pub(crate) async fn call(&mut self) -> Outcome {
        // Payloads are counted references, so this copies a few short texts.
        match self.client.model_infer(self.request.clone()).await {
            Ok(response) => {
                let payload: usize = response.get_ref().raw_output_contents.iter().map(Bytes::len).sum();
                if payload < self.answer_bytes_min { Outcome::failed("short answer") } else { Outcome::Ok }
            }
            Err(status) => Outcome::Failed(format!("{:?}", status.code()).into()),
        }
    }

    /// One call, looked at and compared.
    pub(super) async fn checked_call(&mut self, question: &Question) -> Result<(), String> {
        let answer = self.client.model_infer(self.request.clone()).await;
        let answer = answer.map_err(|status| format!("{:?}: {}", status.code(), status.message()))?;
        check_echo(question, answer.get_ref().raw_output_contents.first().map_or(&[], |payload| &payload[..]))
    }
}

fn request(question: &Question) -> ModelInferRequest {
    let input = |input: &crate::tensor::Value| InferInputTensor {
        name: input.name.clone(),
        datatype: input.data_type.name().into(),
        // A dimension past i64 can't be in memory.
        shape: input.shape.dims().iter().map(|&length| i64::try_from(length).unwrap_or(i64::MAX)).collect(),
        contents: None::<InferTensorContents>,
        ..InferInputTensor::default()
    };
    ModelInferRequest {
        model_name: question.model.clone(),
        inputs: question.inputs.iter().map(input).collect(),
        raw_input_contents: question.inputs.iter().map(|input| input.data.clone()).collect(),
        ..ModelInferRequest::default()
    }
}

async fn connect(address: &Address) -> Result<Channel, tonic::transport::Error> {
    // With HTTP/2's own windows of 64 kB a tensor would wait for several round trips. These are the
    // server's, too.
    let endpoint = Endpoint::from_static("http://localhost")
        .initial_stream_window_size(limits::STREAM_WINDOW_BYTES)
        .initial_connection_window_size(limits::CONNECTION_WINDOW_BYTES);
    match address.clone() {
        Address::Unix(path) => {
            let connector = tower::service_fn(move |_: Uri| {
                let path = path.clone();
                async move { Ok::<_, std::io::Error>(TokioIo::new(UnixStream::connect(path).await?)) }
            });
            endpoint.connect_with_connector(connector).await
        }
        Address::Tls(_) | Address::Vsock(_) => {
            let connector = tower::service_fn(|_: Uri| async {
                let text = "the load generator speaks neither TLS nor vsock";
                Err::<TokioIo<TcpStream>, _>(std::io::Error::new(std::io::ErrorKind::Unsupported, text))
            });
            endpoint.connect_with_connector(connector).await
        }
        Address::Tcp(authority) => {
            let connector = tower::service_fn(move |_: Uri| {
                let authority = authority.clone();
                async move {
                    let stream = TcpStream::connect(authority).await?;
                    stream.set_nodelay(true)?;
                    Ok::<_, std::io::Error>(TokioIo::new(stream))
                }
            });
            endpoint.connect_with_connector(connector).await
        }
    }
}
