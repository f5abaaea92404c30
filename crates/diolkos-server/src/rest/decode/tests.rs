// SPDX-License-Identifier: Apache-2.0
//! Tests of decoding whole requests: what stock clients send, every way to get it wrong, and round trips.

use bytes::Bytes;
use proptest::prelude::*;

use super::*;

fn decode_json(json: &str) -> Result<Decoded, Status> {
    decode(Bytes::copy_from_slice(json.as_bytes()).into(), None, "m".into(), None)
}

fn decode_binary(json: &str, binary: &[u8]) -> Result<Decoded, Status> {
    let body = [json.as_bytes(), binary].concat();
    decode(Bytes::from(body).into(), Some(json.len()), "m".into(), Some(2))
}

fn error(result: Result<Decoded, Status>) -> String {
    result.unwrap_err().message().to_owned()
}

#[test]
fn a_whole_json_request() {
    let decoded = decode_json(
        r#"{"id":"a\nb","model_name":"ignored","parameters":{"priority":1,"timeout":7,"alpha":0.5,"binary_data_output":true},
           "inputs":[{"name":"x","shape":[2],"datatype":"INT32","data":[1,2],"unknown":[{}]}],
           "outputs":[{"name":"y","parameters":{"classification":3,"binary_data":false}},{"name":"z"}]}"#,
    )
    .unwrap();
    let call = decoded.call;
    assert_eq!((call.id.as_str(), call.priority, call.timeout_us), ("a\nb", 1, Some(7)));
    assert_eq!(call.params.get("alpha"), Some(&Param::Double(0.5)));
    assert_eq!(&*call.inputs[0].name, "x");
    assert_eq!(call.inputs[0].tensor.data.to_private()[..], [1, 0, 0, 0, 2, 0, 0, 0]);
    let wish = |name: &str, classification| OutputWish { name: name.into(), classification, place: None };
    assert_eq!(call.outputs, Some(vec![wish("y", Some(3)), wish("z", None)]));
    assert!(!decoded.form.is_binary("y") && decoded.form.is_binary("z"));
}

#[test]
fn nulls_and_leaving_out_mean_the_same() {
    for json in [
        r#"{"inputs":[]}"#,
        r#"{"id":null,"parameters":null,"inputs":[],"outputs":null}"#,
        "{}",
        r#"{"outputs":[]}"#,
    ] {
        let call = decode_json(json).unwrap().call;
        assert!(call.inputs.is_empty() && call.outputs.is_none() && call.id.is_empty(), "{json}");
    }
}

#[test]
fn binary_tensors_are_cut_from_the_body() {
    let json = r#"{"inputs":[{"name":"a","shape":[2],"datatype":"UINT16","parameters":{"binary_data_size":4}},
        {"name":"j","shape":[1],"datatype":"UINT8","data":[9]},
        {"name":"e","shape":[0],"datatype":"FP32","parameters":{"binary_data_size":0}},
        {"name":"b","shape":[3],"datatype":"BOOL","parameters":{"binary_data_size":3}}]}"#;
    let call = decode_binary(json, &[1, 2, 3, 4, 0, 1, 0]).unwrap().call;
    let data: Vec<Vec<u8>> =
        call.inputs.iter().map(|input| input.tensor.data.to_private().to_vec()).collect();
    assert_eq!(data, [vec![1, 2, 3, 4], vec![9], vec![], vec![0, 1, 0]]);
    assert_eq!(call.version, Some(2));
}

#[test]
fn binary_sizes_that_do_not_add_up() {
    let json = |size: &str| {
        format!(
            r#"{{"inputs":[{{"name":"a","shape":[4],"datatype":"UINT8","parameters":{{"binary_data_size":{size}}}}}]}}"#
        )
    };
    assert_eq!(
        error(decode_binary(&json("4"), &[1, 2, 3])),
        "input `a` says 4 bytes (`binary_data_size`) and 3 are left in the body"
    );
    assert!(error(decode_binary(&json("4"), &[1, 2, 3, 4, 5])).contains("1 bytes are left"));
    assert!(
        error(decode_binary(&json("18446744073709551615"), &[1])).contains("says 18446744073709551615 bytes")
    );
    for wrong in ["-1", "1.5", "\"4\"", "true", "1e30"] {
        assert!(
            error(decode_binary(&json(wrong), &[1, 2, 3, 4])).contains("`binary_data_size` is"),
            "{wrong}"
        );
    }
    assert!(error(decode_json(&json("4"))).contains("Inference-Header-Content-Length"));
    let long = decode(Bytes::from_static(b"{}").into(), Some(3), "m".into(), None);
    assert!(error(long).contains("says 3 bytes of JSON and the whole body has 2"));
    let huge = decode(Bytes::from_static(b"{}").into(), Some(usize::MAX), "m".into(), None);
    assert!(error(huge).contains("whole body has 2"));
    let short = decode(Bytes::from_static(b"{}").into(), Some(1), "m".into(), None);
    assert!(error(short).contains("EOF"));
}

#[test]
fn inputs_that_say_too_little_or_too_much() {
    let with = |fields: &str| error(decode_json(&format!(r#"{{"inputs":[{{{fields}}}]}}"#)));
    let table = [
        (r#""name":"x","shape":[1],"datatype":"FP32""#, "input `x` has no data"),
        (r#""name":"x","shape":[1],"datatype":"FP32","data":null"#, "input `x` has no data"),
        (
            r#""name":"x","shape":[1],"datatype":"FP32","data":[1],"parameters":{"binary_data_size":4}"#,
            "both `data` and",
        ),
        (r#""shape":[1],"datatype":"FP32","data":[1]"#, "missing field `name`"),
        (r#""name":"x","datatype":"FP32","data":[1]"#, "missing field `shape`"),
        (r#""name":"x","shape":[1],"data":[1]"#, "missing field `datatype`"),
        (
            r#""name":"x","shape":[1],"datatype":"fp32","data":[1]"#,
            "input `x` has datatype `fp32`: unknown data type",
        ),
        (r#""name":"x","shape":[-1],"datatype":"FP32","data":[1]"#, "input `x`: shape dimension 0 is -1"),
        (r#""name":"x","shape":[1.5],"datatype":"FP32","data":[1]"#, "floating point"),
        (r#""name":"x","shape":3,"datatype":"FP32","data":[1]"#, "expected a shape"),
        (r#""name":"x","shape":[4294967296,4294967296],"datatype":"FP32","data":[1]"#, "overflows 64 bits"),
        (r#""name":"x","shape":[1],"datatype":"FP32","data":[-NaN]"#, "send the strings \"NaN\""),
        (
            r#""name":"x","shape":[1],"datatype":"FP32","parameters":{"shared_memory_region":"r"}"#,
            "input `x` has a parameter `shared_memory_region` and no `shared_memory_byte_size`",
        ),
        (
            r#""name":"x","shape":[1],"datatype":"FP32","data":[1],"parameters":{"shared_memory_region":"r","shared_memory_byte_size":4}"#,
            "input `x` lies in a region (`shared_memory_region`) and has data in the request",
        ),
        (
            r#""name":"x","shape":[1],"datatype":"FP32","parameters":{"shared_memory_region":"r","shared_memory_byte_size":4,"binary_data_size":4}"#,
            "input `x` lies in a region",
        ),
        (
            r#""name":"x","shape":[1],"datatype":"FP32","data":[1],"parameters":{"a":{}}"#,
            "input `x`: parameter `a` is an object",
        ),
    ];
    for (fields, expected) in table {
        let message = with(fields);
        assert!(message.contains(expected), "{fields}: {message}");
    }
    let long_name = format!(r#""name":"{}","shape":[1],"datatype":"FP32","data":[1]"#, "n".repeat(5000));
    assert!(with(&long_name).contains("name has 5000 bytes"));
}

#[test]
fn bare_words_for_floats_are_taken_as_their_strings() {
    let input = |id: &str, data: &str| {
        decode_json(&format!(
            r#"{{"id":"{id}","inputs":[{{"name":"x","shape":[3],"datatype":"FP32","data":{data}}}]}}"#
        ))
    };
    let bare = input("NaN, \\\",NaN,[NaN]", "[NaN,-Infinity, Infinity ]").unwrap().call;
    let strings = input("x", r#"["NaN","-Infinity","Infinity"]"#).unwrap().call;
    let data = |call: &InferCall| call.inputs[0].tensor.data.to_private();
    assert_eq!(data(&bare), data(&strings));
    assert_eq!(bare.id, "NaN, \",NaN,[NaN]", "texts stay as they are");
    for wrong in ["[NaNs,1,2]", "[1NaN,1,2]", "[nan,1,2]", "[Inf,1,2]", "NaN", "[NaN,1,2"] {
        assert!(input("x", wrong).is_err(), "{wrong}");
    }
    let int = r#"{"inputs":[{"name":"x","shape":[1],"datatype":"INT8","data":[NaN]}]}"#;
    assert!(error(decode_json(int)).contains("element 0 is \"NaN\", and INT8 takes"));
}

#[test]
fn lists_are_capped() {
    let many =
        |what: &str, item: &str, count: usize| format!("{{\"{what}\":[{}]}}", vec![item; count].join(","));
    let input = r#"{"name":"x","shape":[1],"datatype":"UINT8","data":[1]}"#;
    assert_eq!(decode_json(&many("inputs", input, 256)).unwrap().call.inputs.len(), 256);
    assert!(error(decode_json(&many("inputs", input, 257))).contains("257 inputs and at most 256"));
    assert!(
        error(decode_json(&many("outputs", r#"{"name":"y"}"#, 1000)))
            .contains("1000 outputs and at most 256")
    );
    let deep = format!(
        r#"{{"inputs":[{{"name":"x","shape":[{}],"datatype":"UINT8","data":[1]}}]}}"#,
        vec!["1"; 40].join(",")
    );
    assert!(error(decode_json(&deep)).contains("input `x`: shape has 40 dimensions, and the limit is 16"));
    let params: Vec<String> = (0..65).map(|index| format!("\"p{index}\":1")).collect();
    assert!(
        error(decode_json(&format!("{{\"parameters\":{{{}}}}}", params.join(","))))
            .contains("65 parameters and 64")
    );
}

#[test]
fn bombs_of_depth_and_size_are_errors() {
    for json in ["[".repeat(1 << 20), "{\"a\":".repeat(1 << 18), format!("{{\"x\":{}", "[".repeat(1 << 20))] {
        assert!(decode_json(&json).is_err());
    }
    let nested = format!(
        r#"{{"inputs":[{{"name":"x","shape":[1],"datatype":"UINT8","data":{}1{}}}]}}"#,
        "[".repeat(100_000),
        "]".repeat(100_000)
    );
    assert!(error(decode_json(&nested)).contains("nesting"));
    let params = format!("{{\"parameters\":{{\"a\":{}{}}}}}", "[".repeat(100_000), "]".repeat(100_000));
    assert!(decode_json(&params).is_err());
    for text in [
        "",
        "nul",
        "{} x",
        "[]",
        "\"inputs\"",
        "{\"inputs\":{}}",
        "\u{feff}{}",
        "{\"inputs\":[],\"inputs\":[]}",
    ] {
        assert!(error(decode_json(text)).starts_with("the request is no valid JSON request"), "{text}");
    }
    assert!(decode(Bytes::from_static(b"{\"id\":\"\xff\"}").into(), None, "m".into(), None).is_err());
}

#[test]
fn wishes_that_make_no_sense() {
    let output =
        |params: &str| decode_json(&format!(r#"{{"outputs":[{{"name":"y","parameters":{{{params}}}}}]}}"#));
    assert!(
        error(output(r#""classification":"three""#))
            .contains("output `y`: parameter `classification` is \"three\"")
    );
    assert!(error(output(r#""binary_data":1"#)).contains("output `y`: parameter `binary_data` is 1"));
    assert!(error(output(r#""shared_memory_region":"r""#)).contains("output `y` has a parameter"));
    assert_eq!(output(r#""classification":0"#).unwrap().call.outputs.unwrap()[0].classification, None);
}

#[test]
fn tensors_in_regions_are_left_for_later() {
    let json = r#"{"inputs":[{"name":"a","shape":[1],"datatype":"UINT8","parameters":{"binary_data_size":1}},
        {"name":"b","shape":[2],"datatype":"UINT8","parameters":{"shared_memory_region":"r","shared_memory_byte_size":2,"shared_memory_offset":9}},
        {"name":"c","shape":[1],"datatype":"UINT8","parameters":{"binary_data_size":1}}],
        "outputs":[{"name":"y","parameters":{"shared_memory_region":"s","shared_memory_byte_size":8,"binary_data":true}}]}"#;
    let call = decode_binary(json, b"xy").unwrap().call;
    let place = |region: &str, offset, bytes| Place { region: region.into(), offset, bytes };
    assert_eq!(call.in_regions, [(1, place("r", 9, 2))]);
    let payloads: Vec<_> = call.inputs.iter().map(|input| input.tensor.data.to_private()).collect();
    assert_eq!(payloads, ["x", "", "y"]);
    assert_eq!(call.outputs.unwrap()[0].place, Some(place("s", 0, 8)));
}

proptest! {
    #[test]
    fn quoting_leaves_json_alone(id in ".*", data in proptest::collection::vec(-1000i32..1000, 0..9)) {
        let json = serde_json::json!({ "id": id, "inputs": data }).to_string();
        prop_assert_eq!(envelope::quote_bare_floats(json.as_bytes()), None);
    }

    #[test]
    fn quoting_never_panics(text in "[NaInfity\\\\\",:\\[\\] -]{0,40}") {
        let _ = envelope::quote_bare_floats(text.as_bytes());
    }

    #[test]
    fn binary_tensors_survive(tensors in proptest::collection::vec((0usize..14, proptest::collection::vec(any::<u8>(), 0..40)), 0..6)) {
        let mut inputs = Vec::new();
        let mut binary = Vec::new();
        for (index, (data_type, bytes)) in tensors.iter().enumerate() {
            inputs.push(serde_json::json!({"name": format!("t{index}"), "shape": [bytes.len()],
                "datatype": DataType::ALL[*data_type].name(), "parameters": {"binary_data_size": bytes.len()}}));
            binary.extend_from_slice(bytes);
        }
        let json = serde_json::json!({ "inputs": inputs }).to_string();
        let call = decode_binary(&json, &binary).unwrap().call;
        prop_assert_eq!(call.inputs.len(), tensors.len());
        for (input, (data_type, bytes)) in call.inputs.iter().zip(&tensors) {
            prop_assert_eq!(input.tensor.data_type, DataType::ALL[*data_type]);
            prop_assert_eq!(&input.tensor.data.to_private()[..], &bytes[..]);
        }
    }
}
