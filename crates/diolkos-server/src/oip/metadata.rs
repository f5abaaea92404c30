// SPDX-License-Identifier: Apache-2.0
//! What a model takes and gives, and its configuration, as clients read them.
//!
//! Triton's clients cross-check both: with a `max_batch_size` above 0 the metadata's shapes begin with -1 and
//! the configuration's `dims` leave that dimension out.

use std::sync::Arc;

use diolkos_engine::Session;
use diolkos_engine::store::config::VersionPolicy;
use diolkos_engine::store::{BindError, LoadedVersion};
use diolkos_types::{DataType, Status, TensorSpec};
use tokio::sync::oneshot;

/// One tensor of the metadata.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TensorMetadata {
    /// Its name.
    pub(crate) name: Box<str>,
    /// Element type.
    pub(crate) data_type: DataType,
    /// Dimensions; -1 where they vary.
    pub(crate) shape: Vec<i64>,
}

/// A model's metadata.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ModelMetadata {
    /// Its name.
    pub(crate) name: String,
    /// Versions that are there, in rising order.
    pub(crate) versions: Vec<u64>,
    /// What it is and what runs it, such as `onnx_tract`.
    pub(crate) platform: String,
    /// What it takes.
    pub(crate) inputs: Vec<TensorMetadata>,
    /// What it gives.
    pub(crate) outputs: Vec<TensorMetadata>,
}

/// One tensor of the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ConfigTensor {
    /// Its name.
    pub(crate) name: Box<str>,
    /// Element type.
    pub(crate) data_type: DataType,
    /// Dimensions without the batch; -1 where they vary.
    pub(crate) dims: Vec<i64>,
    /// Requests may leave it out.
    pub(crate) optional: bool,
    /// File with one label per line.
    pub(crate) label_filename: Option<Box<str>>,
}

/// A model's configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ModelConfigView {
    /// Its name.
    pub(crate) name: String,
    /// What it is and what runs it, such as `onnx_tract`.
    pub(crate) platform: String,
    /// The backend that runs it.
    pub(crate) backend: String,
    /// Longest batch; 0 = no batch dimension.
    pub(crate) max_batch_size: u64,
    /// Which versions are served.
    pub(crate) version_policy: VersionPolicy,
    /// What it takes.
    pub(crate) inputs: Vec<ConfigTensor>,
    /// What it gives.
    pub(crate) outputs: Vec<ConfigTensor>,
    /// The file to begin with, where the configuration names one.
    pub(crate) default_model_filename: Option<Box<str>>,
}

/// Triton's name of a data type, such as `TYPE_FP32`.
pub(crate) fn config_type_name(data_type: DataType) -> &'static str {
    match data_type {
        DataType::Bool => "TYPE_BOOL",
        DataType::Uint8 => "TYPE_UINT8",
        DataType::Uint16 => "TYPE_UINT16",
        DataType::Uint32 => "TYPE_UINT32",
        DataType::Uint64 => "TYPE_UINT64",
        DataType::Int8 => "TYPE_INT8",
        DataType::Int16 => "TYPE_INT16",
        DataType::Int32 => "TYPE_INT32",
        DataType::Int64 => "TYPE_INT64",
        DataType::Fp16 => "TYPE_FP16",
        DataType::Fp32 => "TYPE_FP32",
        DataType::Fp64 => "TYPE_FP64",
        DataType::Bf16 => "TYPE_BF16",
        DataType::Bytes => "TYPE_STRING",
    }
}

/// The version that a request would be bound to now. A model that is loaded on first use is loaded for it,
/// because stock clients ask for metadata before anything else.
pub(crate) async fn bound(
    session: &Session,
    name: &str,
    version: Option<u64>,
) -> Result<Arc<LoadedVersion>, Status> {
    let handle = session.open(name, version)?;
    let cold = || {
        let entry = session.find(name);
        entry.is_ok_and(|entry| matches!(entry.bind(version), Err(BindError::Cold)))
    };
    if cold() {
        let (send, receive) = oneshot::channel();
        session.warm(name, move |result| {
            // The receiver is gone if the caller is.
            let _ = send.send(result);
        });
        // How it ended shows below, in the same words as for everybody else.
        let _ = receive.await;
    }
    let bound = session.bound_version(handle);
    session.close(handle)?;
    bound
}

/// Whether a request would be served now; a model that is loaded on first use would. Unknown ones are an error.
pub(crate) fn is_ready(session: &Session, name: &str, version: Option<u64>) -> Result<bool, Status> {
    let handle = session.open(name, version)?;
    session.close(handle)?;
    let entry = session.find(name);
    Ok(entry.is_ok_and(|entry| matches!(entry.bind(version), Ok(_) | Err(BindError::Cold))))
}

/// A model's metadata.
pub(crate) async fn model_metadata(
    session: &Session,
    name: &str,
    version: Option<u64>,
) -> Result<ModelMetadata, Status> {
    let bound = bound(session, name, version).await?;
    let versions = match session.find(name) {
        Ok(entry) => entry.versions(),
        Err(_) => vec![bound.version],
    };
    let batched = max_batch_size(&bound) > 0;
    let tensors = |specs: &[TensorSpec]| specs.iter().map(|spec| tensor_metadata(spec, batched)).collect();
    Ok(ModelMetadata {
        name: name.to_owned(),
        versions,
        platform: bound.platform.to_owned(),
        inputs: tensors(&bound.signature.inputs),
        outputs: tensors(&bound.signature.outputs),
    })
}

fn tensor_metadata(spec: &TensorSpec, batched: bool) -> TensorMetadata {
    let mut shape = spec.signed_dims();
    if let Some(batch) = shape.first_mut().filter(|_| batched) {
        // A file may fix its batch to 1; clients look for -1 whenever `max_batch_size` is given.
        *batch = -1;
    }
    TensorMetadata { name: spec.name.clone(), data_type: spec.data_type, shape }
}

/// A model's configuration.
pub(crate) async fn model_config(
    session: &Session,
    name: &str,
    version: Option<u64>,
) -> Result<ModelConfigView, Status> {
    let bound = bound(session, name, version).await?;
    let max_batch_size = max_batch_size(&bound);
    let config = bound.config.as_deref();
    let labels = |name: &str| {
        let output = config?.outputs.iter().find(|output| &*output.name == name)?;
        output.label_filename.clone()
    };
    let tensors = |specs: &[TensorSpec], labels: &dyn Fn(&str) -> Option<Box<str>>| {
        let skipped = usize::from(max_batch_size > 0);
        let tensor = |spec: &TensorSpec| ConfigTensor {
            name: spec.name.clone(),
            data_type: spec.data_type,
            dims: spec.signed_dims().into_iter().skip(skipped).collect(),
            optional: spec.optional,
            label_filename: labels(&spec.name),
        };
        specs.iter().map(tensor).collect()
    };
    Ok(ModelConfigView {
        name: name.to_owned(),
        platform: bound.platform.to_owned(),
        backend: bound.backend.to_owned(),
        max_batch_size,
        version_policy: config.map(|config| config.version_policy.clone()).unwrap_or_default(),
        inputs: tensors(&bound.signature.inputs, &|_| None),
        outputs: tensors(&bound.signature.outputs, &labels),
        default_model_filename: config.and_then(|config| config.default_model_filename.clone()),
    })
}

/// Longest batch; 0 = no batch dimension.
pub(crate) fn max_batch_size(version: &LoadedVersion) -> u64 {
    let size = version.config.as_deref().and_then(|config| config.max_batch_size);
    size.map_or(0, |(size, _)| size)
}

#[cfg(test)]
mod tests {
    use diolkos_types::Dim;

    use super::*;

    #[test]
    fn types_are_named_as_in_the_configuration() {
        for data_type in DataType::ALL {
            let expected = match data_type {
                DataType::Bytes => "TYPE_STRING".to_owned(),
                other => format!("TYPE_{other}"),
            };
            assert_eq!(config_type_name(data_type), expected);
        }
    }

    #[test]
    fn a_batch_is_always_open_in_the_metadata() {
        let spec = TensorSpec::new("x", DataType::Fp32, &[Dim::Fixed(1), Dim::Fixed(10)]);
        assert_eq!(tensor_metadata(&spec, true).shape, [-1, 10]);
        assert_eq!(tensor_metadata(&spec, false).shape, [1, 10]);
    }
}
