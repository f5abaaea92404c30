// SPDX-License-Identifier: Apache-2.0
//! The inference request and reply with tensors in binary: JSON first, then the payloads back to back.

use bytes::{Bytes, BytesMut};
use diolkos_types::{DataType, Shape};
use serde::{Deserialize, Serialize};

use crate::tensor::Value;

/// Reply header in which the daemon says where the time went, in nanoseconds:
/// `queue=1;copy_in=2;compute=3;copy_out=4`.
pub const REPLY_TIMING_HEADER: &str = "x-diolkos-timing";

/// What a model answered.
#[derive(Clone, Debug)]
pub struct InferReply {
    /// Which model.
    pub model: String,
    /// Which version of it.
    pub version: String,
    /// Its outputs.
    pub outputs: Vec<Value>,
    /// Where the daemon spent the time, if it says so.
    pub parts: Option<Parts>,
}

/// Where the daemon spent the time of one request, in nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Parts {
    /// Waiting for a slot.
    pub queue_ns: u64,
    /// Bringing inputs in.
    pub copy_in_ns: u64,
    /// Computing.
    pub compute_ns: u64,
    /// Handing outputs over.
    pub copy_out_ns: u64,
}

impl Parts {
    /// Reads the header's value. `None` unless all four parts are there.
    #[must_use]
    pub fn parse(text: &str) -> Option<Parts> {
        let part = |name: &str| -> Option<u64> {
            let pairs = text.split([';', ',']).filter_map(|pair| pair.trim().split_once('='));
            pairs.filter(|(key, _)| *key == name).find_map(|(_, value)| value.trim().parse().ok())
        };
        Some(Parts {
            queue_ns: part("queue")?,
            copy_in_ns: part("copy_in")?,
            compute_ns: part("compute")?,
            copy_out_ns: part("copy_out")?,
        })
    }

    /// All of it.
    #[must_use]
    pub fn total_ns(&self) -> u64 {
        [self.queue_ns, self.copy_in_ns, self.compute_ns, self.copy_out_ns]
            .into_iter()
            .fold(0, u64::saturating_add)
    }
}

#[derive(Serialize)]
struct RequestHead<'a> {
    inputs: Vec<RequestInput<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    outputs: Vec<RequestOutput<'a>>,
    parameters: BinaryOutput,
}

#[derive(Serialize)]
struct RequestInput<'a> {
    name: &'a str,
    datatype: &'static str,
    shape: &'a [u64],
    parameters: BinarySize,
}

#[derive(Serialize)]
struct RequestOutput<'a> {
    name: &'a str,
    parameters: BinaryData,
}

#[derive(Serialize)]
struct BinaryOutput {
    binary_data_output: bool,
}

#[derive(Serialize)]
struct BinaryData {
    binary_data: bool,
}

#[derive(Serialize, Deserialize)]
struct BinarySize {
    binary_data_size: usize,
}

/// The body of a request, and how many bytes of it are JSON. No output named means all.
#[must_use]
pub fn encode_request(inputs: &[Value], outputs: &[String]) -> (Bytes, usize) {
    let head = RequestHead {
        inputs: inputs
            .iter()
            .map(|input| RequestInput {
                name: &input.name,
                datatype: input.data_type.name(),
                shape: input.shape.dims(),
                parameters: BinarySize { binary_data_size: input.data.len() },
            })
            .collect(),
        outputs: outputs
            .iter()
            .map(|name| RequestOutput { name, parameters: BinaryData { binary_data: true } })
            .collect(),
        parameters: BinaryOutput { binary_data_output: true },
    };
    let head = serde_json::to_vec(&head).expect("strings and numbers always become JSON");
    let payload: usize = inputs.iter().map(|input| input.data.len()).sum();
    let mut body = BytesMut::with_capacity(head.len() + payload);
    body.extend_from_slice(&head);
    for input in inputs {
        body.extend_from_slice(&input.data);
    }
    (body.freeze(), head.len())
}

#[derive(Deserialize)]
struct ReplyHead {
    #[serde(default)]
    model_name: String,
    #[serde(default)]
    model_version: String,
    #[serde(default)]
    outputs: Vec<ReplyOutput>,
}

#[derive(Deserialize)]
struct ReplyOutput {
    name: String,
    datatype: String,
    shape: Vec<u64>,
    #[serde(default)]
    parameters: Option<BinarySize>,
}

/// Reads a reply whose first `json_bytes` bytes are JSON. The error says what is wrong with it.
pub fn decode_reply(body: &Bytes, json_bytes: usize) -> Result<InferReply, String> {
    let json = body.get(..json_bytes).ok_or_else(|| {
        format!("its header announces {json_bytes} bytes of JSON and it has {}", body.len())
    })?;
    let head: ReplyHead = serde_json::from_slice(json).map_err(|error| format!("its JSON: {error}"))?;
    let mut rest = body.slice(json_bytes..);
    let mut outputs = Vec::with_capacity(head.outputs.len());
    for output in head.outputs {
        outputs.push(decode_output(output, &mut rest)?);
    }
    if !rest.is_empty() {
        return Err(format!("{} bytes follow its last tensor", rest.len()));
    }
    Ok(InferReply { model: head.model_name, version: head.model_version, outputs, parts: None })
}

fn decode_output(output: ReplyOutput, rest: &mut Bytes) -> Result<Value, String> {
    let name = output.name;
    let told = |reason: String| format!("its output `{name}` {reason}");
    let data_type: DataType = output.datatype.parse().map_err(|error| told(format!("has an {error}")))?;
    let shape = Shape::new(&output.shape).map_err(|error| told(error.to_string()))?;
    let size = output.parameters.ok_or_else(|| told("is not binary".into()))?.binary_data_size;
    if size > rest.len() {
        return Err(told(format!("has {size} bytes and {} are left", rest.len())));
    }
    let data = rest.split_to(size);
    if data_type != DataType::Bytes {
        let expected = shape.elements().and_then(|elements| data_type.payload_bytes(elements));
        if expected != Some(size) {
            return Err(told(format!("has {size} bytes, which is not {data_type} {shape}")));
        }
    }
    Ok(Value { name, data_type, shape, data })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value() -> Value {
        Value {
            name: "x".into(),
            data_type: DataType::Int16,
            shape: Shape::new(&[1, 2]).unwrap(),
            data: Bytes::from_static(&[1, 0, 2, 0]),
        }
    }

    #[test]
    fn a_request_is_json_and_then_payload() {
        let (body, json_bytes) = encode_request(&[value()], &["y".into()]);
        let json: serde_json::Value = serde_json::from_slice(&body[..json_bytes]).unwrap();
        assert_eq!(json["inputs"][0]["parameters"]["binary_data_size"], 4);
        assert_eq!(json["inputs"][0]["shape"], serde_json::json!([1, 2]));
        assert_eq!(json["outputs"][0]["parameters"]["binary_data"], true);
        assert_eq!(&body[json_bytes..], &[1, 0, 2, 0]);
    }

    fn decode(head: &str, payload: &[u8]) -> Result<InferReply, String> {
        decode_reply(&[head.as_bytes(), payload].concat().into(), head.len())
    }

    #[test]
    fn a_reply_is_checked() {
        let head = r#"{"model_name":"m","model_version":"3","outputs":[
            {"name":"x","datatype":"INT16","shape":[1,2],"parameters":{"binary_data_size":4}}]}"#;
        let reply = decode(head, &[1, 0, 2, 0]).unwrap();
        assert_eq!((reply.model.as_str(), reply.version.as_str()), ("m", "3"));
        assert_eq!(reply.outputs, [value()]);
        assert!(decode(head, &[1, 0, 2]).unwrap_err().contains("3 are left"));
        assert!(decode(head, &[1, 0, 2, 0, 9]).unwrap_err().contains("1 bytes follow"));
        assert!(decode(&head.replace("INT16", "INT8"), &[0; 4]).unwrap_err().contains("not INT8 [1,2]"));
        assert!(decode(&head.replace("INT16", "int"), &[0; 4]).unwrap_err().contains("unknown data type"));
        assert!(decode("{", &[]).unwrap_err().contains("JSON"));
        assert!(decode_reply(&Bytes::from_static(b"{}"), 9).unwrap_err().contains("announces 9"));
    }

    #[test]
    fn timing_needs_all_four_parts() {
        let parts = Parts::parse("queue=1; copy_in=2;compute=3;copy_out=4").unwrap();
        assert_eq!(parts, Parts { queue_ns: 1, copy_in_ns: 2, compute_ns: 3, copy_out_ns: 4 });
        assert_eq!(parts.total_ns(), 10);
        assert_eq!(Parts::parse("queue=1;copy_in=2;compute=x;copy_out=4"), None);
        assert_eq!(Parts::parse(""), None);
    }
}
