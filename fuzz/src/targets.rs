// SPDX-License-Identifier: Apache-2.0
//! The decoders of foreign bytes, each as a function that must return whatever it is given.
//!
//! `fuzz_targets/` hands them to cargo-fuzz; `xtask/tests/decoders.rs` includes this file and drives them
//! with the stable toolchain. A target's name is that of its folder of seeds.

use std::path::Path;

use diolkos_engine::store::config::ModelConfig;
use diolkos_engine::store::pbtxt;
use diolkos_server::Settings;
use diolkos_types::{BytesElements, push_bytes_element};

/// A function that must return for every input.
pub type Target = fn(&[u8]);

/// All of them, by name.
pub const TARGETS: &[(&str, Target)] = &[
    ("authority", authority),
    ("binary_tensor", binary_tensor),
    ("bytes_elements", bytes_elements),
    ("config_pbtxt", config_pbtxt),
    ("grpc_infer", grpc_infer),
    ("rehearsal_verdict", rehearsal_verdict),
    ("rest_json", rest_json),
    ("ring", ring),
    ("settings_toml", settings_toml),
    ("wire_entry", wire_entry),
    ("wire_message", wire_message),
];

/// A ring whose peer writes whatever it likes; see `diolkos_shm::fuzz`.
pub fn ring(data: &[u8]) {
    diolkos_shm::fuzz::fuzz_ring(data);
}

/// A message of the native channel on a stream: header and body.
pub fn wire_message(data: &[u8]) {
    diolkos_wire::fuzz::fuzz_message(data);
}

/// A message of the native channel in a ring.
pub fn wire_entry(data: &[u8]) {
    diolkos_wire::fuzz::fuzz_entry(data);
}

/// An inference request as JSON.
pub fn rest_json(data: &[u8]) {
    diolkos_server::fuzz::fuzz_rest_json(data);
}

/// An inference request with binary tensors behind its JSON; the first two bytes say where they begin.
pub fn binary_tensor(data: &[u8]) {
    diolkos_server::fuzz::fuzz_binary(data);
}

/// A gRPC inference request.
pub fn grpc_infer(data: &[u8]) {
    diolkos_server::fuzz::fuzz_grpc_infer(data);
}

/// The bytes of an HTTP/2 connection on a unix socket, behind one that says where they are cut.
pub fn authority(data: &[u8]) {
    diolkos_server::fuzz::fuzz_authority(data);
}

/// A model's `config.pbtxt`. The two ways to read it agree on whether it is usable.
pub fn config_pbtxt(data: &[u8]) {
    let checked = ModelConfig::check(data);
    let parsed = ModelConfig::parse(data);
    assert_eq!(checked.config.is_some(), parsed.is_ok());
    if pbtxt::parse_bytes(data).is_err() {
        assert!(parsed.is_err(), "a configuration that is no text format was taken");
    }
}

/// The daemon's settings file. A refusal says something.
pub fn settings_toml(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Err(error) = Settings::parse(text, Path::new("/etc/diolkos/diolkos.toml")) {
        assert!(!error.to_string().is_empty());
    }
}

/// The elements of a BYTES tensor. What is well formed can be put together again.
pub fn bytes_elements(data: &[u8]) {
    let Ok(count) = BytesElements::count_checked(data) else { return };
    let mut again = Vec::new();
    let mut elements = 0;
    for element in BytesElements::new(data) {
        let element = element.expect("the payload was found well formed");
        push_bytes_element(&mut again, element).expect("an element that was read is short enough to write");
        elements += 1;
    }
    assert_eq!((elements, &again[..]), (count, data));
}

/// What the child process that rehearses a load printed; the model may have taken it over.
pub fn rehearsal_verdict(data: &[u8]) {
    diolkos_engine::store::rehearse::fuzz_parse_verdict(data);
}
