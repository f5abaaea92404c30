// SPDX-License-Identifier: Apache-2.0
//! Forms of known operators that tract gets wrong without saying so. Each entry says what would happen.

use tract_onnx::pb::{AttributeProto, NodeProto};

/// A form of an operator that is refused.
pub(super) struct Condition {
    /// Operators it is about.
    pub(super) operators: &'static [&'static str],
    /// The form, as what the backend lacks.
    pub(super) form: &'static str,
    /// Whether a node has this form.
    pub(super) applies: fn(&NodeProto) -> bool,
}

/// Attributes that became inputs, and the last operator set that has them. tract reads the input alone from
/// then on, so that a file with the attribute would be taken for one that says nothing.
pub(super) const OBSOLETE: &[(&[&str], &str, i64)] = &[
    (&["Slice"], "starts", 9),
    (&["Slice"], "ends", 9),
    (&["Slice"], "axes", 9),
    (&["TopK"], "k", 9),
    (&["Clip"], "min", 10),
    (&["Clip"], "max", 10),
    (&["Pad"], "pads", 10),
    (&["Pad"], "value", 10),
    (&["Dropout"], "ratio", 11),
    (&["ReduceSum", "Squeeze", "Unsqueeze"], "axes", 12),
    (&["Split"], "split", 12),
    (
        &[
            "ReduceL1",
            "ReduceL2",
            "ReduceLogSum",
            "ReduceLogSumExp",
            "ReduceMax",
            "ReduceMean",
            "ReduceMin",
            "ReduceProd",
            "ReduceSumSquare",
        ],
        "axes",
        17,
    ),
];

pub(super) const CONDITIONS: &[Condition] = &[
    Condition {
        // The attribute is not read: the running mean would be used and not the batch's.
        operators: &["BatchNormalization"],
        form: "training_mode = 1",
        applies: |node| integer(node, "training_mode", 0) != 0 || given(&node.output) > 1,
    },
    Condition {
        // `Valid` padding takes no notice of the rounding, so the last window would be missing.
        operators: &["AveragePool", "MaxPool", "LpPool"],
        form: "auto_pad = VALID together with ceil_mode = 1",
        applies: |node| text(node, "auto_pad") == Some("VALID") && integer(node, "ceil_mode", 0) != 0,
    },
    Condition {
        // tract, ONNX Runtime and ONNX's reference give three different answers.
        operators: &["AveragePool", "MaxPool", "LpPool"],
        form: "auto_pad = SAME_UPPER or SAME_LOWER together with dilations",
        applies: |node| {
            matches!(text(node, "auto_pad"), Some("SAME_UPPER" | "SAME_LOWER"))
                && attribute(node, "dilations").is_some_and(|a| a.ints.iter().any(|&d| d != 1))
        },
    },
    Condition {
        // Positions that should be whole numbers come out a little less or more, and are cut.
        operators: &["Resize"],
        form: "scales, mode = nearest, align_corners and nearest_mode = floor or ceil",
        applies: |node| {
            given(node.input.get(3..).unwrap_or_default()) == 0
                && matches!(text(node, "mode"), None | Some("nearest"))
                && text(node, "coordinate_transformation_mode") == Some("align_corners")
                && matches!(text(node, "nearest_mode"), Some("floor" | "ceil"))
        },
    },
    Condition {
        // It is computed as an average, whose divisor leaves out what lies beyond the padding.
        operators: &["LpPool"],
        form: "ceil_mode = 1",
        applies: |node| integer(node, "ceil_mode", 0) != 0,
    },
    Condition {
        // The attribute is not read: a single direction always runs forward.
        operators: &["RNN", "GRU", "LSTM"],
        form: "direction = reverse",
        applies: |node| !matches!(text(node, "direction"), None | Some("forward" | "bidirectional")),
    },
    Condition {
        // The attribute is not read: the default activations always run.
        operators: &["RNN"],
        form: "activations other than Tanh",
        applies: |node| !activations_are(node, &["Tanh"]),
    },
    Condition {
        operators: &["GRU"],
        form: "activations other than Sigmoid, Tanh",
        applies: |node| !activations_are(node, &["Sigmoid", "Tanh"]),
    },
    Condition {
        operators: &["LSTM"],
        form: "activations other than Sigmoid, Tanh, Tanh",
        applies: |node| !activations_are(node, &["Sigmoid", "Tanh", "Tanh"]),
    },
    Condition {
        // The attribute is not read: the input gate would stay uncoupled.
        operators: &["LSTM"],
        form: "input_forget = 1",
        applies: |node| integer(node, "input_forget", 0) != 0,
    },
    Condition {
        // The attribute is not read: depth always comes before column and row.
        operators: &["SpaceToDepth"],
        form: "a mode other than DCR",
        applies: |node| !matches!(text(node, "mode"), None | Some("DCR")),
    },
    Condition {
        // The attribute is not read: alpha is always 1.
        operators: &["Swish"],
        form: "an alpha other than 1",
        applies: |node| attribute(node, "alpha").is_some_and(|a| a.f != 1.0),
    },
    Condition {
        // Types beyond these are 8- and 4-bit floats and 4-bit integers.
        operators: &["QuantizeLinear"],
        form: "an output_dtype other than 8- and 16-bit integers",
        applies: |node| !matches!(integer(node, "output_dtype", 0), 0 | 2..=5),
    },
    Condition {
        operators: &["QuantizeLinear"],
        form: "a precision other than FLOAT",
        applies: |node| !matches!(integer(node, "precision", 0), 0 | 1),
    },
    Condition {
        operators: &["DequantizeLinear"],
        form: "an output_dtype other than FLOAT",
        applies: |node| !matches!(integer(node, "output_dtype", 0), 0 | 1),
    },
];

fn attribute<'a>(node: &'a NodeProto, name: &str) -> Option<&'a AttributeProto> {
    node.attribute.iter().find(|attribute| attribute.name == name)
}

fn integer(node: &NodeProto, name: &str, default: i64) -> i64 {
    attribute(node, name).map_or(default, |attribute| attribute.i)
}

/// The text of an attribute; text that is no UTF-8 equals no name.
fn text<'a>(node: &'a NodeProto, name: &str) -> Option<&'a str> {
    attribute(node, name).map(|attribute| std::str::from_utf8(&attribute.s).unwrap_or("\u{fffd}"))
}

fn given(names: &[String]) -> usize {
    names.iter().filter(|name| !name.is_empty()).count()
}

/// Whether the activations are these, once per direction; names are compared without case, as exporters
/// write them both ways.
fn activations_are(node: &NodeProto, expected: &[&str]) -> bool {
    let Some(attribute) = attribute(node, "activations") else { return true };
    let same = |(name, expected): (&Vec<u8>, &&str)| name.eq_ignore_ascii_case(expected.as_bytes());
    attribute.strings.len().is_multiple_of(expected.len())
        && attribute.strings.iter().zip(expected.iter().cycle()).all(same)
}
