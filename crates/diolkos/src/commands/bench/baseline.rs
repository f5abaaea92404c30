// SPDX-License-Identifier: Apache-2.0
//! What the daemon is compared with: servers that do nothing but give the bytes back, or not even that, each of them
//! what a person would write with the same library in a quarter of an hour.
//!
//! * `tonic`: the same service and messages (the same generated types), tonic's own server and codec; the
//!   request's `raw_input_contents` become the answer's `raw_output_contents`.
//! * `axum`: the body comes back as it is.
//! * `drop`: every connection is accepted, everything that comes is read and thrown away, nothing is answered, and the
//!   connection is closed when the other side has. That is the least that somebody who listens can do about a flood.
//!
//! All have the daemon's number of threads, its HTTP/2 windows and frame size, and its TCP_NODELAY.

use std::convert::Infallible;
use std::io::Read as _;
use std::mem::MaybeUninit;
use std::pin::pin;
use std::task::{Context, Poll, ready};

use axum::body::Bytes;
use axum::extract::DefaultBodyLimit;
use axum::http::HeaderMap;
use axum::routing::{get, post};
use clap::{Args, ValueEnum};
use diolkos_server::grpc::pb::model_infer_response::InferOutputTensor;
use diolkos_server::grpc::pb::{ModelInferRequest, ModelInferResponse};
use diolkos_server::{daemon, limits};
use tokio::io::{AsyncRead, ReadBuf};
use tokio::net::{TcpListener, UnixListener};
use tokio_stream::wrappers::UnixListenerStream;
use tonic::body::Body;
use tonic::codegen::BoxFuture;
use tonic::server::NamedService;
use tonic::transport::server::TcpIncoming;
use tonic_prost::ProstCodec;

use super::children::cannot;
use super::raise_open_files;
use super::rest::JSON_SIZE_HEADER;
use crate::client::Address;
use crate::exit::{Exit, Failure};

/// Largest request that is taken: the daemon's default.
const REQUEST_BYTES_MAX: usize = 64 << 20;

/// What is read at once from what is thrown away.
const DROPPED_BYTES: usize = 64 << 10;

/// Which bare server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Library {
    /// gRPC.
    Tonic,
    /// REST.
    Axum,
    /// Takes everything and answers nothing.
    Drop,
}

/// `bench-baseline`.
#[derive(Debug, Args)]
pub struct BaselineArgs {
    /// Which.
    pub library: Library,
    /// Where to listen.
    #[arg(long, required = true)]
    pub listen: Vec<Address>,
}

/// Serves until standard input ends.
pub(crate) fn run(args: &BaselineArgs) -> Result<Exit, Failure> {
    raise_open_files();
    let runtime = daemon::runtime().map_err(|error| cannot("start the async runtime", &error))?;
    runtime.block_on(async {
        let mut servers = tokio::task::JoinSet::new();
        for address in &args.listen {
            let failed = |error: std::io::Error| cannot(&format!("listen on {address}"), &error);
            match address {
                Address::Unix(path) => {
                    servers.spawn(unix(args.library, UnixListener::bind(path).map_err(failed)?));
                }
                Address::Tcp(authority) => {
                    servers.spawn(tcp(args.library, TcpListener::bind(authority).await.map_err(failed)?));
                }
                Address::Tls(_) | Address::Vsock(_) => {
                    return Err(failed(std::io::ErrorKind::Unsupported.into()));
                }
            }
        }
        let input_ended = tokio::task::spawn_blocking(|| {
            let mut sink = [0; 64];
            while std::io::stdin().lock().read(&mut sink).is_ok_and(|length| length > 0) {}
        });
        // It ends with its input, or by a panic of the thread that waits for that; both mean: stop.
        let _ = input_ended.await;
        servers.shutdown().await;
        Ok(Exit::Ok)
    })
}

async fn unix(library: Library, listener: UnixListener) {
    // How a server ends that is aborted at the end of the program interests nobody.
    match library {
        Library::Tonic => drop(tonic().serve_with_incoming(UnixListenerStream::new(listener)).await),
        Library::Axum => drop(axum::serve(listener, rest()).await),
        Library::Drop => loop {
            // Fails when there are no descriptors left, and for connections that are gone.
            match listener.accept().await {
                Ok((socket, _)) => drop(tokio::spawn(swallow(socket))),
                Err(_) => tokio::task::yield_now().await,
            }
        },
    }
}

async fn tcp(library: Library, listener: TcpListener) {
    use axum::serve::ListenerExt as _;
    match library {
        Library::Tonic => {
            let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
            drop(tonic().serve_with_incoming(incoming).await);
        }
        Library::Axum => {
            // Fails only on a connection that is gone.
            let listener = listener.tap_io(|stream| drop(stream.set_nodelay(true)));
            drop(axum::serve(listener, rest()).await);
        }
        Library::Drop => loop {
            match listener.accept().await {
                Ok((socket, _)) => drop(tokio::spawn(swallow(socket))),
                Err(_) => tokio::task::yield_now().await,
            }
        },
    }
}

/// Reads to the end. The bytes go to the stack of whichever thread reads, so that thousands of connections need no
/// memory for it.
async fn swallow(socket: impl AsyncRead) {
    let mut socket = pin!(socket);
    std::future::poll_fn(|cx| {
        loop {
            let mut bytes = [const { MaybeUninit::uninit() }; DROPPED_BYTES];
            let mut bytes = ReadBuf::uninit(&mut bytes);
            let read = ready!(socket.as_mut().poll_read(cx, &mut bytes));
            if read.is_err() || bytes.filled().is_empty() {
                return Poll::Ready(());
            }
        }
    })
    .await;
}

fn rest() -> axum::Router {
    let echo = |headers: HeaderMap, body: Bytes| async move {
        let mut answer = HeaderMap::new();
        answer.insert("content-type", "application/octet-stream".parse().expect("it is a header's value"));
        if let Some(size) = headers.get(JSON_SIZE_HEADER) {
            answer.insert(JSON_SIZE_HEADER, size.clone());
        }
        (answer, body)
    };
    axum::Router::new()
        .route("/v2/models/echo/infer", post(echo))
        .route("/v2/health/ready", get(|| async {}))
        .layer(DefaultBodyLimit::max(REQUEST_BYTES_MAX))
}

fn tonic() -> tonic::transport::server::Router {
    tonic::transport::Server::builder()
        .initial_stream_window_size(limits::STREAM_WINDOW_BYTES)
        .initial_connection_window_size(limits::CONNECTION_WINDOW_BYTES)
        .max_frame_size(limits::FRAME_BYTES_MAX)
        .max_concurrent_streams(limits::STREAMS_MAX)
        .add_service(Echo)
}

/// The gRPC service. Written by hand, because the generated one has the daemon's codec built in, and a bare
/// server has tonic's.
#[derive(Clone, Copy)]
struct Echo;

impl NamedService for Echo {
    const NAME: &'static str = "inference.GRPCInferenceService";
}

impl tower::Service<hyper::Request<Body>> for Echo {
    type Response = hyper::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Infallible>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: hyper::Request<Body>) -> Self::Future {
        Box::pin(async move {
            let codec = ProstCodec::<ModelInferResponse, ModelInferRequest>::default();
            let mut grpc =
                tonic::server::Grpc::new(codec).apply_max_message_size_config(Some(REQUEST_BYTES_MAX), None);
            let infer = tower::service_fn(|request: tonic::Request<ModelInferRequest>| async move {
                Ok::<_, tonic::Status>(tonic::Response::new(echo(request.into_inner())))
            });
            Ok(grpc.unary(infer, request).await)
        })
    }
}

fn echo(request: ModelInferRequest) -> ModelInferResponse {
    let outputs = request.inputs.into_iter().map(|input| InferOutputTensor {
        name: input.name,
        datatype: input.datatype,
        shape: input.shape,
        ..InferOutputTensor::default()
    });
    ModelInferResponse {
        model_name: request.model_name,
        id: request.id,
        outputs: outputs.collect(),
        raw_output_contents: request.raw_input_contents,
        ..ModelInferResponse::default()
    }
}
