// SPDX-License-Identifier: Apache-2.0
//! Which operators, versions and attributes may reach tract.
//!
//! tract ignores attributes that it does not know, and finds operators by name whatever their domain.
//! Both would give wrong numbers without a word, so everything not listed is refused at load.

mod conditions;
mod operators;

use diolkos_backend::LoadError;
use tract_onnx::pb::NodeProto;

use crate::proto::unsupported;

/// Oldest operator set.
const OPSET_MIN: i64 = 1;
/// Oldest operator set for all operators but [`UNCHANGED`]. Before it, operators broadcast by attributes
/// that tract does not read, and much else was different.
const OPSET_WHOLE: i64 = 7;
/// Operators that mean today what they meant in the first set.
const UNCHANGED: [&str; 1] = ["Not"];
/// Newest operator set: that of the suite that the operators were checked with.
const OPSET_MAX: i64 = 27;

/// Refuses operator sets that were never checked.
pub(crate) fn check_opset(version: i64) -> Result<(), LoadError> {
    if (OPSET_MIN..=OPSET_MAX).contains(&version) {
        return Ok(());
    }
    Err(unsupported(format!("operator set {version}; sets {OPSET_WHOLE} to {OPSET_MAX} are supported")))
}

/// Whether a node belongs to the default operator set.
pub(crate) fn is_default_domain(domain: &str) -> bool {
    matches!(domain, "" | "ai.onnx")
}

/// Where a node is, for messages.
pub(crate) fn place(node: &NodeProto) -> String {
    let domain = if is_default_domain(&node.domain) { "ai.onnx" } else { &node.domain };
    let output = node.output.iter().find(|name| !name.is_empty()).map_or("", String::as_str);
    let name = if node.name.is_empty() { output } else { &node.name };
    format!("operator {domain}.{} (node `{name}`)", node.op_type)
}

/// Refuses a node whose answer can't be trusted.
pub(crate) fn check_node(node: &NodeProto, opset: i64) -> Result<(), LoadError> {
    let refuse = |form: String| {
        let place = place(node);
        Err(unsupported(format!("{place} of operator set {opset}{form}")))
    };
    let table = match node.domain.as_str() {
        domain if is_default_domain(domain) => operators::DEFAULT_DOMAIN,
        "ai.onnx.ml" => operators::ML_DOMAIN,
        _ => &[],
    };
    let Ok(found) = table.binary_search_by_key(&node.op_type.as_str(), |(name, _)| name) else {
        return refuse(String::new());
    };
    if (OPSET_MIN..OPSET_WHOLE).contains(&opset) && !UNCHANGED.contains(&node.op_type.as_str()) {
        return refuse(format!("; sets {OPSET_WHOLE} to {OPSET_MAX} are supported"));
    }
    for attribute in &node.attribute {
        if !table[found].1.contains(&attribute.name.as_str()) || !attribute.ref_attr_name.is_empty() {
            return refuse(format!(" with the attribute `{}`", attribute.name));
        }
    }
    for (operators, attribute, last) in conditions::OBSOLETE {
        let has = node.attribute.iter().any(|a| a.name == *attribute);
        if opset > *last && has && operators.contains(&node.op_type.as_str()) {
            return refuse(format!(
                " with the attribute `{attribute}`, which is an input since {}",
                last + 1
            ));
        }
    }
    for condition in conditions::CONDITIONS {
        if condition.operators.contains(&node.op_type.as_str()) && (condition.applies)(node) {
            return refuse(format!(" with {}", condition.form));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use tract_onnx::pb::AttributeProto;

    use super::*;

    fn node(domain: &str, op_type: &str, attributes: Vec<AttributeProto>) -> NodeProto {
        NodeProto {
            domain: domain.into(),
            op_type: op_type.into(),
            output: vec!["y".into()],
            attribute: attributes,
            ..NodeProto::default()
        }
    }

    fn text(name: &str, value: &str) -> AttributeProto {
        AttributeProto { name: name.into(), s: value.into(), ..AttributeProto::default() }
    }

    fn texts(name: &str, values: &[&str]) -> AttributeProto {
        let strings = values.iter().map(|v| v.as_bytes().to_vec()).collect();
        AttributeProto { name: name.into(), strings, ..AttributeProto::default() }
    }

    fn number(name: &str, value: i64) -> AttributeProto {
        AttributeProto { name: name.into(), i: value, ..AttributeProto::default() }
    }

    #[test]
    fn tables_are_sorted_for_the_search() {
        for table in [operators::DEFAULT_DOMAIN, operators::ML_DOMAIN] {
            assert!(table.is_sorted_by(|a, b| a.0 < b.0));
        }
    }

    #[test]
    fn a_name_alone_is_not_enough() {
        check_node(&node("", "Add", vec![]), 13).unwrap();
        let error = check_node(&node("com.example", "Add", vec![]), 13).unwrap_err().to_string();
        assert!(error.contains("operator com.example.Add (node `y`) of operator set 13"), "{error}");
        check_node(&node("ai.onnx.ml", "Add", vec![]), 13).unwrap_err();
        check_node(&node("", "NoSuchThing", vec![]), 13).unwrap_err();
    }

    #[test]
    fn attributes_that_would_be_ignored_are_refused() {
        let refused = [
            node("", "Add", vec![number("broadcast", 1)]),
            node("", "BatchNormalization", vec![number("training_mode", 1)]),
            node("", "MaxPool", vec![text("auto_pad", "VALID"), number("ceil_mode", 1)]),
            node("", "LSTM", vec![text("direction", "reverse")]),
            node("", "LSTM", vec![texts("activations", &["Sigmoid", "Relu", "Tanh"])]),
            node("", "LSTM", vec![number("input_forget", 1)]),
            node("", "LSTM", vec![AttributeProto { name: "clip".into(), f: 1.0, ..Default::default() }]),
            node("", "GRU", vec![texts("activations", &["Tanh", "Tanh"])]),
            node("", "RNN", vec![texts("activations", &["Relu"])]),
            node("", "Swish", vec![AttributeProto { name: "alpha".into(), f: 0.5, ..Default::default() }]),
            node("", "SpaceToDepth", vec![number("blocksize", 2), text("mode", "CRD")]),
            node("", "QuantizeLinear", vec![number("output_dtype", 17)]),
        ];
        for node in refused {
            let error = check_node(&node, 22).unwrap_err().to_string();
            assert!(error.contains(&node.op_type), "{error}");
        }
        let taken = [
            node("", "LSTM", vec![text("direction", "bidirectional"), number("hidden_size", 4)]),
            node("", "GRU", vec![texts("activations", &["sigmoid", "tanh", "Sigmoid", "Tanh"])]),
            node("", "BatchNormalization", vec![number("training_mode", 0)]),
            node("", "MaxPool", vec![number("ceil_mode", 1)]),
        ];
        taken.iter().for_each(|node| check_node(node, 22).unwrap());
    }

    #[test]
    fn attributes_that_became_inputs_are_refused_from_then_on() {
        let sum = node("", "ReduceSum", vec![number("axes", 1)]);
        check_node(&sum, 12).unwrap();
        let error = check_node(&sum, 13).unwrap_err().to_string();
        assert!(error.contains("`axes`, which is an input since 13"), "{error}");
        check_node(&node("", "ReduceMax", vec![number("axes", 1)]), 17).unwrap();
        check_node(&node("", "ReduceMax", vec![number("axes", 1)]), 18).unwrap_err();
    }

    #[test]
    fn operator_sets_have_an_end() {
        check_node(&node("", "Not", vec![]), 1).unwrap();
        check_node(&node("", "Add", vec![]), 6).unwrap_err();
        assert!(check_opset(0).is_err() && check_opset(28).is_err() && check_opset(-1).is_err());
        assert!(check_opset(7).is_ok() && check_opset(27).is_ok());
    }
}
