// SPDX-License-Identifier: Apache-2.0
//! The calls, typed.

use std::collections::BTreeMap;

use bytes::Bytes;
use hyper::{Method, StatusCode};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::infer::{REPLY_TIMING_HEADER, decode_reply, encode_request};
use super::{Address, ClientError, Connection, InferReply, Parts};
use crate::tensor::Value;

/// Header with the size of the JSON part of a binary request or reply.
const JSON_SIZE_HEADER: &str = "inference-header-content-length";

/// A tensor as the metadata describes it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TensorMetadata {
    /// Name.
    pub name: String,
    /// Element type.
    pub datatype: String,
    /// Dimensions; -1 where they vary.
    pub shape: Vec<i64>,
}

/// A model as the metadata describes it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelMetadata {
    /// Name.
    pub name: String,
    /// Versions that are served.
    #[serde(default)]
    pub versions: Vec<String>,
    /// Format and backend.
    #[serde(default)]
    pub platform: String,
    /// What it takes.
    #[serde(default)]
    pub inputs: Vec<TensorMetadata>,
    /// What it gives.
    #[serde(default)]
    pub outputs: Vec<TensorMetadata>,
}

/// One line of the repository index.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Indexed {
    /// Name of the model.
    pub name: String,
    /// Version.
    #[serde(default)]
    pub version: String,
    /// `READY`, `UNAVAILABLE`, `LOADING`, or nothing.
    #[serde(default)]
    pub state: String,
    /// Why it is in that state.
    #[serde(default)]
    pub reason: String,
}

/// What the configuration says that the metadata does not.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelConfigView {
    /// Longest batch; 0 = the model has no batch dimension.
    #[serde(default)]
    pub max_batch_size: u64,
}

/// What the daemon knows beyond the Open Inference Protocol, from its own route.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelDetails {
    /// Version that the rest is about.
    pub version: u64,
    /// SHA-256 over all the model's files; nothing for a built-in operation, which has none.
    pub digest: Option<String>,
    /// What runs it.
    pub backend: String,
    /// Bytes it keeps while loaded.
    pub resident_bytes: u64,
    /// What the load's rehearsal measured; nothing for built-in operations.
    pub rehearsal: Option<Rehearsal>,
    /// What happened since the daemon started.
    pub statistics: ModelStatistics,
    /// Class names by output, for those outputs that have some.
    #[serde(default)]
    pub labels: BTreeMap<String, Vec<String>>,
}

/// What the child process that rehearsed a load measured.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rehearsal {
    /// Loading, in nanoseconds.
    pub load_ns: u64,
    /// Highest resident memory of the process, in bytes.
    pub peak_bytes: u64,
    /// The median warm-up run, in nanoseconds; nothing if the model's inputs could not be made up.
    pub run_ns: Option<u64>,
}

/// What happened to a model since the daemon started.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelStatistics {
    /// Requests that succeeded.
    pub success: u64,
    /// Requests that did not.
    pub fail: u64,
    /// Means over the requests that succeeded.
    pub mean: Parts,
    /// Half of the requests took no longer, as an upper bound in nanoseconds.
    pub p50_bound_ns: Option<u64>,
    /// 99 of 100 requests took no longer, as an upper bound in nanoseconds.
    pub p99_bound_ns: Option<u64>,
}

#[derive(Deserialize)]
struct ErrorBody {
    error: String,
}

/// A connection, and the calls over it.
#[derive(Debug)]
pub struct Client {
    connection: Connection,
}

impl Client {
    /// Connects.
    pub async fn connect(address: &Address) -> Result<Client, ClientError> {
        Ok(Client { connection: Connection::open(address).await? })
    }

    /// The daemon at the other end.
    #[must_use]
    pub fn address(&self) -> &Address {
        self.connection.address()
    }

    /// Reads JSON from a path.
    pub async fn get<T: DeserializeOwned>(&mut self, path: &str) -> Result<T, ClientError> {
        self.json(Method::GET, path, Bytes::new()).await
    }

    /// Sends JSON, or nothing, to a path, and reads JSON.
    pub async fn send<T: DeserializeOwned>(
        &mut self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<T, ClientError> {
        self.json(method, path, body).await
    }

    async fn json<T: DeserializeOwned>(
        &mut self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<T, ClientError> {
        let (parts, body) = self.connection.call(method, path, &[], body).await?;
        check(parts.status, &body)?;
        serde_json::from_slice(&body).map_err(|error| self.connection.protocol(format!("{path}: {error}")))
    }

    /// Whether the daemon takes requests.
    pub async fn is_ready(&mut self) -> Result<bool, ClientError> {
        let (parts, _) = self.connection.call(Method::GET, "/v2/health/ready", &[], Bytes::new()).await?;
        Ok(parts.status.is_success())
    }

    /// Whether a model can take requests.
    pub async fn is_model_ready(&mut self, model: &str) -> Result<bool, ClientError> {
        let path = format!("{}/ready", model_path(model, None));
        let (parts, _) = self.connection.call(Method::GET, &path, &[], Bytes::new()).await?;
        Ok(parts.status.is_success())
    }

    /// The repository index.
    pub async fn index(&mut self) -> Result<Vec<Indexed>, ClientError> {
        self.json(Method::POST, "/v2/repository/index", Bytes::from_static(b"{}")).await
    }

    /// What a model takes and gives.
    pub async fn metadata(
        &mut self,
        model: &str,
        version: Option<&str>,
    ) -> Result<ModelMetadata, ClientError> {
        self.get(&model_path(model, version)).await
    }

    /// What a model's configuration says.
    pub async fn config(
        &mut self,
        model: &str,
        version: Option<&str>,
    ) -> Result<ModelConfigView, ClientError> {
        self.get(&format!("{}/config", model_path(model, version))).await
    }

    /// What the daemon knows of a model; `None` if it is a daemon of another make, without that route.
    pub async fn details(
        &mut self,
        model: &str,
        version: Option<&str>,
    ) -> Result<Option<ModelDetails>, ClientError> {
        let mut path = format!("/v2/diolkos/models/{}", escape(model));
        if let Some(version) = version {
            path.extend(["/versions/", &escape(version)]);
        }
        match self.get(&path).await {
            Ok(details) => Ok(Some(details)),
            Err(ClientError::Refused { status: 404 | 405 | 501, .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Runs a model. No output named means all.
    pub async fn infer(
        &mut self,
        model: &str,
        version: Option<&str>,
        inputs: &[Value],
        outputs: &[String],
    ) -> Result<InferReply, ClientError> {
        let (body, json_bytes) = encode_request(inputs, outputs);
        let headers = [
            ("content-type", "application/octet-stream".to_owned()),
            (JSON_SIZE_HEADER, json_bytes.to_string()),
        ];
        let path = format!("{}/infer", model_path(model, version));
        let (parts, body) = self.connection.call(Method::POST, &path, &headers, body).await?;
        check(parts.status, &body)?;
        let header = |name| parts.headers.get(name).and_then(|value| value.to_str().ok());
        // Without the header everything is JSON, which is what a reply without tensors looks like.
        let json_bytes = match header(JSON_SIZE_HEADER) {
            Some(text) => text
                .parse()
                .map_err(|_| self.connection.protocol(format!("{JSON_SIZE_HEADER}: `{text}` is no size")))?,
            None => body.len(),
        };
        let mut reply = decode_reply(&body, json_bytes)
            .map_err(|reason| self.connection.protocol(format!("the reply to {path}: {reason}")))?;
        reply.parts = header(REPLY_TIMING_HEADER).and_then(Parts::parse);
        Ok(reply)
    }
}

fn check(status: StatusCode, body: &Bytes) -> Result<(), ClientError> {
    if status.is_success() {
        return Ok(());
    }
    let message = match serde_json::from_slice::<ErrorBody>(body) {
        Ok(ErrorBody { error }) => error,
        Err(_) => format!("the daemon answered {status}"),
    };
    Err(ClientError::Refused { status: status.as_u16(), message })
}

fn model_path(model: &str, version: Option<&str>) -> String {
    let mut path = format!("/v2/models/{}", escape(model));
    if let Some(version) = version {
        path.extend(["/versions/", &escape(version)]);
    }
    path
}

/// One segment of a path, with everything escaped that RFC 3986 does not leave alone.
pub(crate) fn escape(segment: &str) -> String {
    use std::fmt::Write as _;
    let mut escaped = String::with_capacity(segment.len());
    for byte in segment.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                escaped.push(char::from(byte))
            }
            _ => {
                // Writing to a String can't fail.
                let _ = write!(escaped, "%{byte:02X}");
            }
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_become_one_segment() {
        assert_eq!(model_path("blas.sgemm", Some("2")), "/v2/models/blas.sgemm/versions/2");
        assert_eq!(model_path("a/b ü", None), "/v2/models/a%2Fb%20%C3%BC");
    }

    #[test]
    fn a_refusal_carries_the_sentence() {
        let body = Bytes::from_static(br#"{"error":"unknown model `x`"}"#);
        let error = check(StatusCode::NOT_FOUND, &body).unwrap_err();
        assert_eq!(error.to_string(), "unknown model `x`");
        let error = check(StatusCode::BAD_GATEWAY, &Bytes::from_static(b"<html>")).unwrap_err();
        assert_eq!(error.to_string(), "the daemon answered 502 Bad Gateway");
        assert!(check(StatusCode::OK, &Bytes::new()).is_ok());
    }
}
