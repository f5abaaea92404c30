// SPDX-License-Identifier: Apache-2.0
//! The contract, as the suite of `diolkos_backend` checks it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use diolkos_backend::ModelFiles;
use diolkos_backend::conformance::{SampleModel, Suite};
use diolkos_tract::TractBackend;

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn conforms(label: &str, path: &str, hostile_loads: usize) {
    let contents = std::fs::read(repository().join(path)).unwrap_or_else(|e| panic!("{path}: {e}"));
    let files = ModelFiles::single("model.onnx", contents);
    let suite = Suite::for_backend(Arc::new(TractBackend::new())).hostile_loads_max(hostile_loads);
    let report = suite.model(SampleModel::new(label, files)).run();
    println!("{report}");
    report.assert_conforms();
}

#[test]
fn affine() {
    conforms("affine", "tests/data/affine.onnx", 256);
}

#[test]
fn digits() {
    conforms("digits", "examples/digits/models/digits/1/model.onnx", 64);
}
