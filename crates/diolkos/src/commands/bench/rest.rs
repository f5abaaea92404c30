// SPDX-License-Identifier: Apache-2.0
//! A REST client under load: one HTTP/1.1 connection, a body that was encoded once, answers that are read
//! to their end and not gathered. So the client costs little, and what is measured is mostly the server.

use std::io;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::{CONTENT_TYPE, HOST};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpStream, UnixStream};

use super::caller::{Outcome, Question, check_echo};
use crate::client::{Address, decode_reply, encode_request};
use crate::exit::{Exit, Failure};

/// Header with the size of the JSON part.
pub(super) const JSON_SIZE_HEADER: &str = "inference-header-content-length";

/// See the module.
pub(crate) struct RestCaller {
    address: Address,
    sender: SendRequest<Full<Bytes>>,
    path: String,
    body: Bytes,
    json_bytes: usize,
    /// Least length of a good answer.
    answer_bytes_min: usize,
}

impl RestCaller {
    /// Connects.
    pub(crate) async fn open(address: &Address, question: &Question) -> Result<RestCaller, Failure> {
        let sender = connect(address).await.map_err(|error| no_server(address, &error))?;
        let (body, json_bytes) = encode_request(&question.inputs, &[]);
        let payload: usize = question.inputs.iter().map(|input| input.data.len()).sum();
        Ok(RestCaller {
            address: address.clone(),
            sender,
            path: format!("/v2/models/{}/infer", question.model),
            body,
            json_bytes,
            answer_bytes_min: if question.echoes { payload } else { 0 },
        })
    }

    async fn send(&mut self) -> Result<Response<Incoming>, Outcome> {
        if self.sender.ready().await.is_err() {
            // As any client would; the time it takes is part of the call's.
            self.sender = connect(&self.address).await.map_err(|_| Outcome::failed("connect"))?;
        }
        let request = Request::post(&self.path)
            .header(HOST, "localhost")
            .header(CONTENT_TYPE, "application/octet-stream")
            .header(JSON_SIZE_HEADER, self.json_bytes)
            .body(Full::new(self.body.clone()))
            .map_err(|_| Outcome::failed("request"))?;
        self.sender.send_request(request).await.map_err(|_| Outcome::failed("connection"))
    }

    /// One call.
    pub(crate) async fn call(&mut self) -> Outcome {
        let response = match self.send().await {
            Ok(response) => response,
            Err(outcome) => return outcome,
        };
        let status = response.status();
        let mut body = response.into_body();
        let mut length = 0;
        while let Some(frame) = body.frame().await {
            match frame {
                Ok(frame) => length += frame.data_ref().map_or(0, Bytes::len),
                Err(_) => return Outcome::failed("connection"),
            }
        }
        if !status.is_success() {
            return Outcome::Failed(status.as_str().to_owned().into());
        }
        if length < self.answer_bytes_min { Outcome::failed("short answer") } else { Outcome::Ok }
    }

    /// One call, read and compared.
    pub(super) async fn checked_call(&mut self, question: &Question) -> Result<(), String> {
        let response = self.send().await.map_err(|_| "the connection broke".to_owned())?;
        let (parts, body) = response.into_parts();
        let body = body.collect().await.map_err(|error| error.to_string())?.to_bytes();
        if !parts.status.is_success() {
            return Err(format!(
                "{}: {}",
                parts.status,
                String::from_utf8_lossy(&body[..body.len().min(500)])
            ));
        }
        let size = parts.headers.get(JSON_SIZE_HEADER).and_then(|size| size.to_str().ok()?.parse().ok());
        let reply_json = size.unwrap_or(body.len());
        // A bare echo gives the request back, whose payload lies at the same place.
        if body == self.body {
            return Ok(());
        }
        let reply = decode_reply(&body, reply_json)?;
        check_echo(question, reply.outputs.first().map_or(&[], |output| &output.data))
    }
}

/// What is said when nobody answers.
pub(super) fn no_server(address: &Address, error: &dyn std::error::Error) -> Failure {
    Failure::new(Exit::NoDaemon, format!("no server answers at {address}"))
        .because(error)
        .help("start one with `diolkos serve`, or name another with --address")
}

async fn connect(address: &Address) -> io::Result<SendRequest<Full<Bytes>>> {
    match address {
        Address::Unix(path) => handshake(UnixStream::connect(path).await?).await,
        Address::Tcp(authority) => {
            let stream = TcpStream::connect(authority).await?;
            stream.set_nodelay(true)?;
            handshake(stream).await
        }
        Address::Tls(_) | Address::Vsock(_) => {
            Err(io::Error::new(io::ErrorKind::Unsupported, "the load generator speaks neither TLS nor vsock"))
        }
    }
}

async fn handshake<S>(stream: S) -> io::Result<SendRequest<Full<Bytes>>>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
    // How it ends is told to the call it ends under.
    tokio::spawn(async move { drop(connection.await) });
    Ok(sender)
}
