// SPDX-License-Identifier: Apache-2.0
//! Applies a configuration to the signature that the model file has.
//!
//! The model file is the truth. A configuration may only narrow it: fix a dimension that varies, lower a
//! maximum, make an optional input required. Whatever contradicts the file is an error that shows both sides,
//! because serving either of them silently would surprise somebody. Order and number of the tensors stay those
//! of the file, since operations find their inputs by position.
//!
//! What narrows an input is enforced: requests are checked against the narrowed signature. What narrows an output
//! is only what clients are told; nothing holds the model to it. Where a configuration fixes a dimension of an
//! output that varies in the file and the model gives another length, the reply carries the length that it gave.

use diolkos_types::{Dim, Signature, TensorSpec};

use super::config::{ConfigError, ModelConfig, TensorConfig, type_name};
use super::pbtxt::Pos;
use super::suggest::did_you_mean;

/// The signature of the file, narrowed by the configuration.
pub fn narrow(config: &ModelConfig, signature: &Signature) -> Result<Signature, ConfigError> {
    let mut narrowed = signature.clone();
    let batch = config.max_batch_size.filter(|(size, _)| *size > 0);
    side(&config.inputs, &mut narrowed.inputs, batch, "input")?;
    side(&config.outputs, &mut narrowed.outputs, batch, "output")?;
    if let Some((size, pos)) = batch {
        for spec in &mut narrowed.inputs {
            limit_batch(spec, size, pos)?;
        }
    }
    Ok(narrowed)
}

fn error(pos: Pos, message: String) -> ConfigError {
    ConfigError { pos, message }
}

fn side(
    tensors: &[TensorConfig],
    specs: &mut [TensorSpec],
    batch: Option<(u64, Pos)>,
    what: &str,
) -> Result<(), ConfigError> {
    for tensor in tensors {
        let Some(index) = specs.iter().position(|spec| spec.name == tensor.name) else {
            let names: Vec<&str> = specs.iter().map(|spec| &*spec.name).collect();
            let meant = did_you_mean(&tensor.name, names.iter().copied());
            return Err(error(
                tensor.pos,
                format!(
                    "the model file has no {what} `{}`{meant}; it has {}",
                    tensor.name.escape_debug(),
                    list(&names)
                ),
            ));
        };
        let spec = &mut specs[index];
        narrow_type(tensor, spec, what)?;
        narrow_dims(tensor, spec, batch, what)?;
        match tensor.optional {
            Some(true) if !spec.optional => {
                let message =
                    format!("the {what} `{}` is optional here and required by the model file", spec.name);
                return Err(error(tensor.pos, message));
            }
            Some(optional) => spec.optional = optional,
            None => {}
        }
    }
    Ok(())
}

fn list(names: &[&str]) -> String {
    const SHOWN: usize = 16;
    let mut text = String::new();
    for (index, name) in names.iter().take(SHOWN).enumerate() {
        text.push_str(if index > 0 { ", `" } else { "`" });
        text.extend(name.escape_debug());
        text.push('`');
    }
    if names.len() > SHOWN {
        text.push_str(", …");
    }
    if names.is_empty() { "none".to_owned() } else { text }
}

fn narrow_type(tensor: &TensorConfig, spec: &mut TensorSpec, what: &str) -> Result<(), ConfigError> {
    let Some(data_type) = tensor.data_type else { return Ok(()) };
    if !spec.takes_type(data_type) {
        let (given, file) = (type_name(data_type), type_name(spec.data_type));
        let message = format!("the {what} `{}` is {given} here and {file} in the model file", spec.name);
        return Err(error(tensor.pos, message));
    }
    spec.data_type = data_type;
    spec.any_type = false;
    Ok(())
}

fn narrow_dims(
    tensor: &TensorConfig,
    spec: &mut TensorSpec,
    batch: Option<(u64, Pos)>,
    what: &str,
) -> Result<(), ConfigError> {
    let Some(given) = tensor.dims.as_deref().filter(|_| !tensor.reshaped) else { return Ok(()) };
    let Some(dims) = spec.dims.as_deref_mut() else { return Ok(()) };
    let skipped = usize::from(batch.is_some());
    if dims.len() != given.len() + skipped {
        let beside = if skipped == 1 { " beside the batch that `max_batch_size` adds" } else { "" };
        let message = format!(
            "the {what} `{}` has dims {given:?} here{beside} and {spec} in the model file",
            tensor.name.escape_debug()
        );
        return Err(error(tensor.pos, message));
    }
    for (index, (dim, &given)) in dims.iter_mut().skip(skipped).zip(given).enumerate() {
        // Dimensions of a configuration are -1 or more; the reader saw to it.
        let fits = match (*dim, u64::try_from(given)) {
            (Dim::Variable { .. }, Err(_)) => true,
            (Dim::Variable { max }, Ok(length)) if length <= max => {
                *dim = Dim::Fixed(length);
                true
            }
            (Dim::Fixed(fixed), Ok(length)) => fixed == length,
            (Dim::Variable { .. }, Ok(_)) | (Dim::Fixed(_), Err(_)) => false,
        };
        if !fits {
            let file = match *dim {
                Dim::Fixed(length) => format!("always {length} in the model file"),
                Dim::Variable { max } => format!("at most {max} by models.variable_dim_max"),
            };
            let message = format!(
                "dims[{index}] of the {what} `{}` is {given} here and {file}",
                tensor.name.escape_debug()
            );
            return Err(error(tensor.pos, message));
        }
    }
    Ok(())
}

/// The first dimension is the batch, so it must vary (or already be the one size that is asked for).
fn limit_batch(spec: &mut TensorSpec, size: u64, pos: Pos) -> Result<(), ConfigError> {
    let Some(dims) = spec.dims.as_deref_mut() else { return Ok(()) };
    match dims.first_mut() {
        Some(Dim::Variable { max }) => {
            *max = size.min(*max);
            Ok(())
        }
        Some(Dim::Fixed(length)) if *length <= size && *length > 0 => Ok(()),
        Some(Dim::Fixed(_)) | None => Err(error(
            pos,
            format!(
                "max_batch_size {size} needs a first dimension that varies, and the input `{}` is {spec} in the model file; write 0",
                spec.name.escape_debug()
            ),
        )),
    }
}

#[cfg(test)]
mod tests {
    use diolkos_types::DataType;

    use super::*;

    fn model() -> Signature {
        let batch = Dim::Variable { max: 64 };
        Signature {
            inputs: [
                TensorSpec::new("x", DataType::Fp32, &[batch, Dim::Fixed(3), Dim::Variable { max: 100 }]),
                TensorSpec { optional: true, ..TensorSpec::new("o", DataType::Bytes, &[batch]) },
            ]
            .into(),
            outputs: [TensorSpec::new("y", DataType::Fp32, &[batch, Dim::Fixed(10)])].into(),
        }
    }

    fn apply(text: &str) -> Result<Signature, String> {
        let (config, _) = ModelConfig::parse(text.as_bytes()).unwrap();
        narrow(&config, &model()).map_err(|error| error.to_string())
    }

    #[test]
    fn narrows_and_keeps_the_order() {
        let narrowed = apply(
            "max_batch_size: 8 input { name: 'x' data_type: TYPE_FP32 dims: [3, 50] } input { name: 'o' optional: false }",
        )
        .unwrap();
        assert_eq!(narrowed.inputs[0].to_string(), "[-1,3,50]");
        assert_eq!(narrowed.inputs[0].dims.as_ref().unwrap()[0], Dim::Variable { max: 8 });
        assert!(!narrowed.inputs[1].optional);
        assert_eq!(narrowed.outputs, model().outputs);
        assert_eq!(apply("").unwrap(), model());
        assert_eq!(apply("max_batch_size: 0").unwrap(), model());
        assert_eq!(apply("input { name: 'x' dims: 7 reshape { shape: 7 } }").unwrap(), model());
    }

    #[test]
    fn shows_both_sides_of_a_contradiction() {
        let table = [
            (
                "input { name: 'xx' }",
                "1:7: the model file has no input `xx` (did you mean `x`?); it has `x`, `o`",
            ),
            (
                "input { name: 'x' data_type: TYPE_INT8 }",
                "1:7: the input `x` is TYPE_INT8 here and TYPE_FP32 in the model file",
            ),
            (
                "input { name: 'x' dims: [3, 5] }",
                "1:7: the input `x` has dims [3, 5] here and [-1,3,-1] in the model file",
            ),
            (
                "max_batch_size: 2 input { name: 'x' dims: [-1, 3, 5] }",
                "1:25: the input `x` has dims [-1, 3, 5] here beside the batch that `max_batch_size` adds and [-1,3,-1] in the model file",
            ),
            (
                "input { name: 'x' dims: [-1, 4, 5] }",
                "1:7: dims[1] of the input `x` is 4 here and always 3 in the model file",
            ),
            (
                "input { name: 'x' dims: [-1, -1, 5] }",
                "1:7: dims[1] of the input `x` is -1 here and always 3 in the model file",
            ),
            (
                "input { name: 'x' dims: [-1, 3, 500] }",
                "1:7: dims[2] of the input `x` is 500 here and at most 100 by models.variable_dim_max",
            ),
            (
                "input { name: 'x' optional: true }",
                "1:7: the input `x` is optional here and required by the model file",
            ),
        ];
        for (text, expected) in table {
            assert_eq!(apply(text).expect_err(text), expected, "{text}");
        }
    }

    #[test]
    fn a_batch_needs_room() {
        let fixed = Signature {
            inputs: [TensorSpec::new("x", DataType::Fp32, &[Dim::Fixed(1), Dim::Fixed(3)])].into(),
            outputs: [].into(),
        };
        let (config, _) = ModelConfig::parse(b"max_batch_size: 4").unwrap();
        assert_eq!(narrow(&config, &fixed).unwrap(), fixed);
        let scalar =
            Signature { inputs: [TensorSpec::new("s", DataType::Fp32, &[])].into(), outputs: [].into() };
        assert_eq!(
            narrow(&config, &scalar).unwrap_err().to_string(),
            "1:17: max_batch_size 4 needs a first dimension that varies, and the input `s` is [] in the model file; write 0"
        );
    }
}
