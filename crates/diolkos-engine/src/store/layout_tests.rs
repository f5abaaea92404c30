// SPDX-License-Identifier: Apache-2.0
//! Tests of finding models: what is one, what is not, and that one mistake spoils nothing else.

use super::*;

const KNOWN: &[&str] = &["onnx", "null"];

fn write(root: &Path, files: &[(&str, &str)]) {
    for (name, text) in files {
        let path = root.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
}

#[test]
fn finds_files_and_directories_and_keeps_errors_apart() {
    let dir = tempfile::tempdir().unwrap();
    write(
        dir.path(),
        &[
            ("a/1/model.onnx", "x"),
            ("a/12/model.onnx", "x"),
            ("a/012/model.onnx", "x"),
            ("a/x1/model.onnx", "x"),
            ("a/config.pbtxt", "version_policy { all {} } runtime: 'x'"),
            ("mobilenet_v1_0.25.onnx", "x"),
            ("bad/config.pbtxt", "max_batchsize: 1"),
            ("bad/1/model.onnx", "x"),
            ("flat/model.onnx", "x"),
            ("twin/1/model.onnx", "x"),
            ("twin.onnx", "x"),
            ("other/config.pbtxt", "\n  name: 'else'"),
            ("other/1/model.onnx", "x"),
            (".hidden/1/model.onnx", "x"),
            ("README.md", "x"),
        ],
    );
    let scan = scan_repository(dir.path(), KNOWN).unwrap();
    let found: Vec<_> = scan.models.iter().map(|model| (&*model.name, model.selected())).collect();
    assert_eq!(found, [("a", vec![1, 12]), ("mobilenet_v1_0.25", vec![1]), ("twin", vec![1])]);
    assert_eq!(scan.models[0].notes.len(), 3, "{:?}", scan.models[0].notes);
    assert_eq!(scan.notes.len(), 1);
    let errors: Vec<_> = scan
        .errors
        .iter()
        .map(|ScanError { name, error, .. }| {
            format!("{name}: {}", error.to_string().replace(dir.path().to_str().unwrap(), ""))
        })
        .collect();
    assert_eq!(
        errors,
        [
            "bad: /bad/config.pbtxt:1:1: `max_batchsize` is no field of a model (did you mean `max_batch_size`?)"
                .to_owned(),
            "flat: `/flat` has no version directory; put the model into `/flat/1/model.onnx`".to_owned(),
            "other: /other/config.pbtxt:2:9: the name is `else` here and the model is called `other`; leave it out"
                .to_owned(),
            "twin: `/twin.onnx` and the model `twin` beside it have the same name; rename one".to_owned(),
        ]
    );
}

#[test]
fn takes_one_file_or_one_directory() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), &[("net.ONNX", "x"), ("net.h5", "x"), ("m/3/model.onnx", "x")]);
    let file = scan_model(&dir.path().join("net.ONNX"), KNOWN).unwrap();
    assert_eq!((&*file.name, file.selected()), ("net", vec![1]));
    let directory = scan_model(&dir.path().join("m/../m/"), KNOWN).unwrap();
    assert_eq!((&*directory.name, directory.selected()), ("m", vec![3]));
    let error = scan_model(&dir.path().join("net.h5"), KNOWN).unwrap_err().to_string();
    assert!(error.ends_with("is in no format that this build loads; it loads .onnx, .null"), "{error}");
    assert!(matches!(scan_model(&dir.path().join("none"), KNOWN), Err(LayoutError::Io { .. })));
}

#[test]
fn names_that_models_can_have() {
    for name in ["a", "blas.sgemm", "mobilenet v2", "模型", &"x".repeat(200)] {
        check_name(name).unwrap_or_else(|error| panic!("{error}"));
    }
    for name in ["", ".", "..", ".a", "a/b", "a\\b", "a\nb", " a", "a ", &"x".repeat(201)] {
        assert!(check_name(name).is_err(), "{name}");
    }
}

#[test]
fn finds_the_file_to_begin_with() {
    let dir = Path::new("/m/1");
    let entry = |names: &[&str], config: &str| {
        let (config, _) = ModelConfig::parse(config.as_bytes()).unwrap();
        entry_of(names, Some(&config), KNOWN, dir).map_err(|error| error.to_string())
    };
    assert_eq!(entry(&["model.null", "w"], ""), Ok("model.null".into()));
    assert_eq!(entry(&["model.null", "model.onnx"], ""), Ok("model.onnx".into()));
    assert_eq!(
        entry(&["a/net.onnx", "model.onnx"], "default_model_filename: 'a/net.onnx'"),
        Ok("a/net.onnx".into())
    );
    assert_eq!(
        entry(&["net.onnx"], ""),
        Err("`/m/1` has no `model.onnx` or `model.null`; it has `net.onnx`".into())
    );
    assert_eq!(entry(&[], "default_model_filename: 'x'"), Err("`/m/1` has no `x`; it has no files".into()));
}

#[test]
fn an_absent_specific_version_is_not_selected() {
    let dir = tempfile::tempdir().unwrap();
    write(
        dir.path(),
        &[("m/2/model.onnx", "x"), ("m/config.pbtxt", "version_policy { specific { versions: [1, 2] } }")],
    );
    assert_eq!(scan_model(&dir.path().join("m"), KNOWN).unwrap().selected(), [2]);
}
