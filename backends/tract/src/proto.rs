// SPDX-License-Identifier: Apache-2.0
//! From the bytes of a model file to a checked, self-contained `ModelProto`.
//!
//! After [`prepare`]:
//!
//! * every tensor holds its data as raw bytes whose length fits its shape, wherever the file had it, so
//!   that tract opens no file and none of its readers of typed data (some of which mix up types) runs;
//! * every name that a node reads was defined before, so the graph has no cycle;
//! * every open dimension of an input has a symbol, and every symbol's text is short and flat.

mod graph;
mod tensor;

use diolkos_backend::{LoadError, LoadOptions, ModelFiles};
use diolkos_types::{DataType, Dim, RANK_MAX, TensorSpec};
use prost::Message;
use tract_onnx::pb::tensor_shape_proto::dimension::Value as DimValue;
use tract_onnx::pb::{ModelProto, TypeProto, ValueInfoProto, type_proto};

use crate::guard::shorten;
use crate::limits::{DIM_TEXT_BYTES_MAX, FIXED_DIM_MAX};
use crate::rules::{check_opset, is_default_domain};

/// What the backend is called in messages and metrics.
pub(crate) const BACKEND: &str = "tract";

/// A model that tract may see.
pub(crate) struct Prepared {
    /// The model. Its graph exists.
    pub(crate) model: ModelProto,
    /// Inputs that a request must give, in the order of the graph.
    pub(crate) inputs: Vec<TensorSpec>,
    /// Outputs as the file declares them.
    pub(crate) outputs: Vec<TensorSpec>,
    /// Symbols that stand for an open dimension each.
    pub(crate) symbols: Vec<String>,
    /// Bytes of all weights.
    pub(crate) weight_bytes: u64,
}

pub(crate) fn invalid(reason: impl Into<String>) -> LoadError {
    LoadError::Invalid { reason: reason.into() }
}

pub(crate) fn unsupported(what: impl Into<String>) -> LoadError {
    LoadError::Unsupported { backend: BACKEND, what: what.into() }
}

/// Reads and checks the model file.
pub(crate) fn prepare(files: &ModelFiles, options: &LoadOptions) -> Result<Prepared, LoadError> {
    let contents = files.entry_contents()?;
    // Decoding copies the weights, so more than the limit can't fit.
    if files.total_bytes() > options.resident_bytes_max {
        return Err(LoadError::TooLarge { needed: files.total_bytes(), limit: options.resident_bytes_max });
    }
    let mut model = ModelProto::decode(&contents[..])
        .map_err(|error| invalid(shorten(&format!("no ONNX protobuf: {error}"))))?;
    let opset = opset(&model)?;
    let weight_bytes = match model.graph.as_mut() {
        Some(graph) => tensor::inline_graph(graph, files, 0)?,
        None => return Err(invalid("the file has no graph")),
    };
    graph::check(&model, opset)?;
    if let Some(graph) = model.graph.as_mut() {
        crate::ops::rewrite(graph);
    }
    let mut prepared =
        Prepared { inputs: Vec::new(), outputs: Vec::new(), symbols: Vec::new(), model, weight_bytes };
    prepared.describe(options)?;
    Ok(prepared)
}

/// The version of the default operator set; 0 if the file uses other sets only.
fn opset(model: &ModelProto) -> Result<i64, LoadError> {
    let mut versions =
        model.opset_import.iter().filter(|set| is_default_domain(&set.domain)).map(|set| set.version);
    let Some(version) = versions.next() else {
        let nodes = model.graph.as_ref().map_or(&[][..], |graph| &graph.node);
        if nodes.iter().any(|node| is_default_domain(&node.domain)) {
            return Err(invalid("the file names no version of the ONNX operator set"));
        }
        return Ok(0);
    };
    if versions.any(|other| other != version) {
        return Err(invalid("the file names two versions of the ONNX operator set"));
    }
    check_opset(version)?;
    Ok(version)
}

impl Prepared {
    /// Fills inputs, outputs and symbols.
    fn describe(&mut self, options: &LoadOptions) -> Result<(), LoadError> {
        let Some(graph) = self.model.graph.as_mut() else { return Err(invalid("the file has no graph")) };
        let initialised: std::collections::HashSet<&str> =
            graph.initializer.iter().map(|tensor| tensor.name.as_str()).collect();
        let mut names = SymbolNames::default();
        for input in &mut graph.input {
            if initialised.contains(input.name.as_str()) {
                continue;
            }
            names.name_open_dims(input)?;
            let max = options.variable_dim_max;
            self.inputs.push(spec(input, "input", |value| match value {
                DimValue::DimValue(length) => Dim::Fixed(length.unsigned_abs()),
                DimValue::DimParam(_) => Dim::Variable { max },
            })?);
        }
        // A length that is computed from inputs which were checked has no limit of its own.
        let computed = Dim::Variable { max: u64::MAX };
        for output in &graph.output {
            self.outputs.push(spec(output, "output", |value| match value {
                DimValue::DimValue(length) if *length >= 0 => Dim::Fixed(length.unsigned_abs()),
                DimValue::DimParam(text) if names.plain.contains(text) => {
                    Dim::Variable { max: options.variable_dim_max }
                }
                DimValue::DimValue(_) | DimValue::DimParam(_) => computed,
            })?);
        }
        self.symbols = names.plain;
        Ok(())
    }
}

fn tensor_type<'a>(info: &'a ValueInfoProto, what: &str) -> Result<&'a type_proto::Tensor, LoadError> {
    match info.r#type.as_ref().and_then(|t| t.value.as_ref()) {
        Some(type_proto::Value::TensorType(tensor)) => Ok(tensor),
        None => Err(unsupported(format!("{what} `{}`, which is a sequence, map or optional", info.name))),
    }
}

/// The data type of an ONNX element type number.
pub(crate) fn data_type(number: i32) -> Option<DataType> {
    use tract_onnx::pb::tensor_proto::DataType as Onnx;
    Some(match Onnx::try_from(number).ok()? {
        Onnx::Bool => DataType::Bool,
        Onnx::Uint8 => DataType::Uint8,
        Onnx::Uint16 => DataType::Uint16,
        Onnx::Uint32 => DataType::Uint32,
        Onnx::Uint64 => DataType::Uint64,
        Onnx::Int8 => DataType::Int8,
        Onnx::Int16 => DataType::Int16,
        Onnx::Int32 => DataType::Int32,
        Onnx::Int64 => DataType::Int64,
        Onnx::Float16 => DataType::Fp16,
        Onnx::Float => DataType::Fp32,
        Onnx::Double => DataType::Fp64,
        Onnx::String => DataType::Bytes,
        _ => return None,
    })
}

/// The ONNX name of an element type number, for messages.
pub(crate) fn type_name(number: i32) -> String {
    tract_onnx::pb::tensor_proto::DataType::try_from(number)
        .map_or_else(|_| format!("number {number}"), |known| known.as_str_name().to_owned())
}

fn spec(info: &ValueInfoProto, what: &str, dim: impl Fn(&DimValue) -> Dim) -> Result<TensorSpec, LoadError> {
    let tensor = tensor_type(info, what)?;
    let name = &info.name;
    let data_type = data_type(tensor.elem_type)
        .ok_or_else(|| unsupported(format!("{what} `{name}` of type {}", type_name(tensor.elem_type))))?;
    let Some(shape) = &tensor.shape else { return Ok(TensorSpec::any_shape(name, data_type)) };
    if shape.dim.len() > RANK_MAX {
        return Err(unsupported(format!("{what} `{name}` with {} dimensions", shape.dim.len())));
    }
    let open = DimValue::DimValue(-1);
    let dims: Vec<Dim> = shape.dim.iter().map(|d| dim(d.value.as_ref().unwrap_or(&open))).collect();
    Ok(TensorSpec::new(name, data_type, &dims))
}

/// Gives each open dimension of the inputs a symbol that tract's parser reads as just that.
#[derive(Default)]
struct SymbolNames {
    plain: Vec<String>,
    /// Texts that were replaced; equal texts mean equal lengths.
    replaced: Vec<(String, String)>,
}

impl SymbolNames {
    fn name_open_dims(&mut self, input: &mut ValueInfoProto) -> Result<(), LoadError> {
        let name = input.name.clone();
        let Some(TypeProto { value: Some(type_proto::Value::TensorType(tensor)), .. }) = &mut input.r#type
        else {
            return Ok(());
        };
        for (axis, dim) in tensor.shape.iter_mut().flat_map(|shape| &mut shape.dim).enumerate() {
            match &mut dim.value {
                Some(DimValue::DimValue(length)) if *length > FIXED_DIM_MAX => {
                    return Err(invalid(format!("dimension {axis} of input `{name}` is {length}")));
                }
                Some(DimValue::DimValue(length)) if *length >= 0 => {}
                Some(DimValue::DimParam(text)) if !text.is_empty() => *text = self.symbol_for(text),
                _ => dim.value = Some(DimValue::DimParam(self.fresh())),
            }
        }
        Ok(())
    }

    fn symbol_for(&mut self, text: &str) -> String {
        if is_plain(text) {
            if !self.plain.iter().any(|known| known == text) {
                self.plain.push(text.to_owned());
            }
            return text.to_owned();
        }
        if let Some((_, symbol)) = self.replaced.iter().find(|(replaced, _)| replaced == text) {
            return symbol.clone();
        }
        let symbol = self.fresh();
        self.replaced.push((text.to_owned(), symbol.clone()));
        symbol
    }

    fn fresh(&mut self) -> String {
        let mut number = self.plain.len();
        loop {
            let symbol = format!("diolkos_dim_{number}");
            if !self.plain.contains(&symbol) {
                self.plain.push(symbol.clone());
                return symbol;
            }
            number += 1;
        }
    }
}

/// Whether tract's expression parser takes the text for one symbol. Expressions are not handed on: an
/// input's `2*n` says less than a symbol of its own costs, and that parser recurses.
fn is_plain(text: &str) -> bool {
    let mut bytes = text.bytes();
    text.len() <= DIM_TEXT_BYTES_MAX
        && !text.starts_with("unk__")
        && !matches!(text, "floor" | "min" | "max" | "broadcast")
        && bytes.next().is_some_and(|first| first.is_ascii_alphabetic() || first == b'_')
        && bytes.all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn odd_symbols_are_replaced_and_equal_texts_stay_equal() {
        let mut names = SymbolNames::default();
        assert_eq!(names.symbol_for("batch"), "batch");
        let odd = names.symbol_for("((((((n))))))");
        assert_eq!(names.symbol_for("((((((n))))))"), odd);
        assert_ne!(names.symbol_for("n / 2"), odd);
        assert_ne!(names.fresh(), names.fresh());
        assert_eq!(names.plain.len(), 5);
    }
}
