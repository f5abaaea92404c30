// SPDX-License-Identifier: Apache-2.0
//! Tests of reading a configuration: what it means, and what is said about mistakes.

use proptest::prelude::*;

use super::*;

const FULL: &str = r#"
name: "resnet"  # as its directory
platform: "onnxruntime_onnx"
backend: "onnxruntime"
max_batch_size: 8
input [
  { name: "x" data_type: TYPE_FP32 format: FORMAT_NCHW dims: [ 3, -1, 224 ] },
  { name: "tag", data_type: TYPE_STRING, dims: 1, optional: true }
]
output { name: "y" data_type: TYPE_FP16 dims: 10 dims: 20 label_filename: "labels.txt" reshape { shape: [200] } }
version_policy: { latest { num_versions: 2 } }
default_model_filename: "net.onnx"
instance_group [ { count: 2 kind: KIND_CPU } ]
dynamic_batching { preferred_batch_size: [4, 8] }
"#;

#[test]
fn reads_what_matters_and_notes_the_rest() {
    let (config, notes) = ModelConfig::parse(FULL.as_bytes()).unwrap();
    assert_eq!(config.name.as_ref().map(|(name, pos)| (&**name, pos.line)), Some(("resnet", 2)));
    assert_eq!(config.platform.as_deref(), Some("onnxruntime_onnx"));
    assert_eq!(config.backend.as_deref(), Some("onnxruntime"));
    assert_eq!(config.max_batch_size.map(|(size, _)| size), Some(8));
    assert_eq!(config.version_policy, VersionPolicy::Latest(2));
    assert_eq!(config.default_model_filename.as_deref(), Some("net.onnx"));
    let [x, tag] = &config.inputs[..] else { panic!("two inputs") };
    assert_eq!(
        (&*x.name, x.data_type, x.dims.as_deref()),
        ("x", Some(DataType::Fp32), Some(&[3, -1, 224][..]))
    );
    assert_eq!(
        (tag.data_type, tag.optional, tag.dims.as_deref()),
        (Some(DataType::Bytes), Some(true), Some(&[1][..]))
    );
    let [y] = &config.outputs[..] else { panic!("one output") };
    assert_eq!((y.dims.as_deref(), y.reshaped), (Some(&[10, 20][..]), true));
    assert_eq!(y.label_filename.as_deref(), Some("labels.txt"));
    let noted: Vec<_> =
        notes.iter().map(|note| note.to_string().split(" is ignored").next().unwrap().to_owned()).collect();
    assert_eq!(
        noted,
        [
            "7:36: note: `format`",
            "10:88: note: `reshape`",
            "13:1: note: `instance_group`",
            "14:1: note: `dynamic_batching`"
        ]
    );
}

#[test]
fn every_data_type_has_its_name() {
    for data_type in DataType::ALL {
        let text = format!("input {{ name: 'x' data_type: {} dims: [1] }}", type_name(data_type));
        let (config, _) = ModelConfig::parse(text.as_bytes()).unwrap();
        assert_eq!(config.inputs[0].data_type, Some(data_type));
    }
}

#[test]
fn says_what_is_wrong_where_and_what_was_meant() {
    let table = [
        ("max_batchsize: 4", "1:1: `max_batchsize` is no field of a model (did you mean `max_batch_size`?)"),
        ("max_batch_size: -1", "1:17: `max_batch_size` is -1, and it must lie in 0..=2147483647"),
        ("max_batch_size: \"x\"", "1:17: `max_batch_size` takes a whole number, and this is a string"),
        ("name: 5", "1:7: `name` takes a string in quotes, and this is a whole number"),
        ("input { data_type: TYPE_FP32 }", "1:7: a tensor needs a `name`"),
        (
            "input { name: 'x' data_type: TYPE_PF32 }",
            "1:30: `TYPE_PF32` is no data type (did you mean `TYPE_FP32`?)",
        ),
        ("input { name: 'x' dims: [-2] }", "1:26: `dims` is -2, and it must lie in -1..=9223372036854775807"),
        (
            "input { name: 'x' dims: [99999999999999999999] }",
            "1:26: `dims` takes a whole number, and this is a number",
        ),
        ("input { name: 'x' } input { name: 'x' }", "1:27: the input `x` is described twice"),
        ("input [ 5 ]", "1:9: `input` takes a message in braces, and this is a whole number"),
        ("input { name: 'x' label_filename: 'l' }", "1:19: `label_filename` is no field of an input"),
        (
            "output { name: 'x' label_filename: '../l' }",
            "1:36: `label_filename` is `../l`, which leaves the model's directory",
        ),
        (
            "default_model_filename: '/etc/x'",
            "1:25: `default_model_filename` is `/etc/x`, which leaves the model's directory",
        ),
        ("version_policy { }", "1:16: a version policy is exactly one of `latest`, `all` and `specific`"),
        ("version_policy { newest {} }", "1:18: `newest` is no field of a version policy"),
        ("version_policy { specific {} }", "1:18: `specific` names no versions, so none would be served"),
        (
            "version_policy { latest { num_versions: 0 } }",
            "1:41: `num_versions` is 0, and it must lie in 1..=4294967295",
        ),
        ("ensemble_scheduling { }", "1:1: ensembles are not supported; chain the requests in the client"),
        ("x: 1\ny: 2\nz: 3", "1:1: `x` is no field of a model (and 2 more)"),
        ("a: \"", "1:4: the string that begins here has no closing quote on its line"),
    ];
    for (text, expected) in table {
        assert_eq!(ModelConfig::parse(text.as_bytes()).expect_err(text).to_string(), expected, "{text}");
    }
}

#[test]
fn policies_select() {
    let present = [1, 2, 5, 9];
    let select = |text: &str| ModelConfig::parse(text.as_bytes()).unwrap().0.version_policy.select(&present);
    assert_eq!(select(""), [9]);
    assert_eq!(select("version_policy { latest { } }"), [9]);
    assert_eq!(select("version_policy { latest { num_versions: 3 } }"), [2, 5, 9]);
    assert_eq!(select("version_policy: { latest { num_versions: 99 } }"), present);
    assert_eq!(select("version_policy { all { } }"), present);
    assert_eq!(select("version_policy { specific { versions: [1, 5, 7] } }"), [1, 5]);
    assert_eq!(select("version_policy { specific { versions: 2 versions: 1 } }"), [1, 2]);
}

#[test]
fn takes_the_json_form() {
    let json = br#"{"name": "m", "max_batch_size": 4, "version_policy": {"specific": {"versions": ["3"]}},
        "input": [{"name": "x", "data_type": "TYPE_INT64", "dims": ["-1", 2]}], "instance_group": []}"#;
    let (config, notes) = ModelConfig::parse(json).unwrap();
    assert_eq!(config.version_policy, VersionPolicy::Specific(vec![3]));
    assert_eq!(config.inputs[0].dims.as_deref(), Some(&[-1, 2][..]));
    assert_eq!(notes.len(), 1);
}

#[test]
fn a_flood_of_notes_hides_no_error() {
    let text = format!("{} x: 1 {}", "runtime: 1 ".repeat(1000), "runtime: 1 ".repeat(1000));
    let checked = ModelConfig::check(text.as_bytes());
    assert!(checked.config.is_none());
    assert!(checked.diagnostics.len() <= 2 * CONFIG_DIAGNOSTICS_MAX);
}

proptest! {
    #[test]
    fn any_text_is_a_configuration_or_an_error(
        text in r#"(name|input|output|dims|latest|version_policy|data_type|TYPE_FP32|optional|true|[{}:\[\], ]|"x"|-?[0-9]{1,3}|reshape){0,40}"#
    ) {
        let checked = ModelConfig::check(text.as_bytes());
        let errors = checked.diagnostics.iter().any(|found| found.severity == Severity::Error);
        prop_assert_eq!(errors, checked.config.is_none());
    }
}
