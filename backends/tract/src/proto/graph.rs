// SPDX-License-Identifier: Apache-2.0
//! Checks the structure of a graph: names, order, bounds, and each node against the rules.

use std::collections::HashSet;

use diolkos_backend::LoadError;
use tract_onnx::pb::{GraphProto, ModelProto, NodeProto};

use super::{invalid, unsupported};
use crate::limits::NODES_MAX;
use crate::rules;

/// Names that a node may read.
struct Scope<'a> {
    names: HashSet<&'a str>,
    outer: Option<&'a Scope<'a>>,
}

impl Scope<'_> {
    fn has(&self, name: &str) -> bool {
        self.names.contains(name) || self.outer.is_some_and(|outer| outer.has(name))
    }
}

/// Checks the whole model. Nesting was bounded before.
pub(super) fn check(model: &ModelProto, opset: i64) -> Result<(), LoadError> {
    let Some(graph) = &model.graph else { return Err(invalid("the file has no graph")) };
    let mut checker = Checker { model, opset, nodes_left: NODES_MAX };
    if graph.output.is_empty() {
        return Err(invalid("the graph has no output"));
    }
    checker.graph(graph, None)
}

struct Checker<'a> {
    model: &'a ModelProto,
    opset: i64,
    nodes_left: usize,
}

impl Checker<'_> {
    fn graph(&mut self, graph: &GraphProto, outer: Option<&Scope<'_>>) -> Result<(), LoadError> {
        let mut scope = Scope { names: HashSet::new(), outer };
        for input in &graph.input {
            define(&mut scope, &input.name, "input")?;
        }
        // An initializer may give the default of an input, so the name may be there already.
        scope.names.extend(graph.initializer.iter().map(|tensor| tensor.name.as_str()));
        for node in &graph.node {
            self.node(node, &mut scope)?;
        }
        let mut outputs = HashSet::new();
        for output in &graph.output {
            if !scope.has(&output.name) {
                return Err(invalid(format!("nothing computes the output `{}`", output.name)));
            }
            if !outputs.insert(output.name.as_str()) {
                return Err(invalid(format!("two outputs are called `{}`", output.name)));
            }
        }
        Ok(())
    }

    fn node<'a>(&mut self, node: &'a NodeProto, scope: &mut Scope<'a>) -> Result<(), LoadError> {
        self.nodes_left = self
            .nodes_left
            .checked_sub(1)
            .ok_or_else(|| unsupported(format!("more than {NODES_MAX} nodes")))?;
        if let Some(missing) = node.input.iter().find(|name| !name.is_empty() && !scope.has(name)) {
            let place = rules::place(node);
            return Err(invalid(format!("{place} reads `{missing}`, which nothing before it computes")));
        }
        let function = |f: &tract_onnx::pb::FunctionProto| {
            f.name.as_deref() == Some(&node.op_type) && f.domain.as_deref().unwrap_or("") == node.domain
        };
        if self.model.functions.iter().any(function) {
            return Err(unsupported(format!(
                "{}, which is a function of the model itself",
                rules::place(node)
            )));
        }
        rules::check_node(node, self.opset)?;
        for attribute in &node.attribute {
            for inner in attribute.g.iter().chain(&attribute.graphs) {
                self.graph(inner, Some(scope))?;
            }
        }
        for name in node.output.iter().filter(|name| !name.is_empty()) {
            define(scope, name, "result")?;
        }
        Ok(())
    }
}

fn define<'a>(scope: &mut Scope<'a>, name: &'a str, what: &str) -> Result<(), LoadError> {
    if name.is_empty() {
        return Err(invalid(format!("an {what} has no name")));
    }
    if !scope.names.insert(name) {
        return Err(invalid(format!("the {what} `{name}` is defined twice")));
    }
    Ok(())
}
