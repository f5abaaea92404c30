// SPDX-License-Identifier: Apache-2.0
//! Metadata, configuration, statistics and repository of `oip` as messages. Nothing but translation.

use diolkos_engine::store::IndexRow;
use diolkos_engine::store::config::VersionPolicy;
use diolkos_types::{DataType, Status};

use super::pb::model_metadata_response::TensorMetadata as PbTensorMetadata;
use super::pb::model_repository_parameter::ParameterChoice;
use super::pb::model_version_policy::{All, Latest, PolicyChoice, Specific};
use super::pb::repository_index_response::ModelIndex;
use super::pb::system_shared_memory_status_response::RegionStatus;
use super::pb::{
    DataType as PbDataType, InferStatistics, ModelConfig, ModelInput, ModelMetadataResponse, ModelOutput,
    ModelStatistics, ModelVersionPolicy, RepositoryIndexResponse, RepositoryModelLoadRequest,
    ServerMetadataResponse, StatisticDuration, SystemSharedMemoryRegisterRequest,
    SystemSharedMemoryStatusResponse,
};
use crate::oip::extensions::{SERVER_NAME, SERVER_VERSION};
use crate::oip::metadata::{ConfigTensor, ModelConfigView, ModelMetadata, TensorMetadata};
use crate::oip::repository::LoadCall;
use crate::oip::statistics::{DurationStat, VersionStatistics};
use crate::system_memory::{Listed, Registration};

pub(crate) fn server_metadata(extensions: Vec<&str>) -> ServerMetadataResponse {
    ServerMetadataResponse {
        name: SERVER_NAME.to_owned(),
        version: SERVER_VERSION.to_owned(),
        extensions: extensions.into_iter().map(str::to_owned).collect(),
    }
}

pub(crate) fn metadata(metadata: ModelMetadata) -> ModelMetadataResponse {
    let tensors = |tensors: Vec<TensorMetadata>| {
        let tensor = |tensor: TensorMetadata| PbTensorMetadata {
            name: tensor.name.into(),
            datatype: tensor.data_type.name().to_owned(),
            shape: tensor.shape,
        };
        tensors.into_iter().map(tensor).collect()
    };
    ModelMetadataResponse {
        name: metadata.name,
        versions: metadata.versions.iter().map(u64::to_string).collect(),
        platform: metadata.platform,
        inputs: tensors(metadata.inputs),
        outputs: tensors(metadata.outputs),
    }
}

fn config_type(data_type: DataType) -> PbDataType {
    match data_type {
        DataType::Bool => PbDataType::TypeBool,
        DataType::Uint8 => PbDataType::TypeUint8,
        DataType::Uint16 => PbDataType::TypeUint16,
        DataType::Uint32 => PbDataType::TypeUint32,
        DataType::Uint64 => PbDataType::TypeUint64,
        DataType::Int8 => PbDataType::TypeInt8,
        DataType::Int16 => PbDataType::TypeInt16,
        DataType::Int32 => PbDataType::TypeInt32,
        DataType::Int64 => PbDataType::TypeInt64,
        DataType::Fp16 => PbDataType::TypeFp16,
        DataType::Fp32 => PbDataType::TypeFp32,
        DataType::Fp64 => PbDataType::TypeFp64,
        DataType::Bf16 => PbDataType::TypeBf16,
        DataType::Bytes => PbDataType::TypeString,
    }
}

fn version_policy(policy: VersionPolicy) -> ModelVersionPolicy {
    let choice = match policy {
        VersionPolicy::Latest(count) => {
            PolicyChoice::Latest(Latest { num_versions: u32::try_from(count).unwrap_or(u32::MAX) })
        }
        VersionPolicy::All => PolicyChoice::All(All {}),
        VersionPolicy::Specific(versions) => {
            let versions = versions.into_iter().map(|version| i64::try_from(version).unwrap_or(i64::MAX));
            PolicyChoice::Specific(Specific { versions: versions.collect() })
        }
    };
    ModelVersionPolicy { policy_choice: Some(choice) }
}

pub(crate) fn config(config: ModelConfigView) -> ModelConfig {
    let input = |tensor: ConfigTensor| ModelInput {
        name: tensor.name.into(),
        data_type: config_type(tensor.data_type).into(),
        dims: tensor.dims,
        optional: tensor.optional,
    };
    let output = |tensor: ConfigTensor| ModelOutput {
        name: tensor.name.into(),
        data_type: config_type(tensor.data_type).into(),
        dims: tensor.dims,
        label_filename: tensor.label_filename.map(String::from).unwrap_or_default(),
    };
    ModelConfig {
        name: config.name,
        platform: config.platform,
        version_policy: Some(version_policy(config.version_policy)),
        max_batch_size: i32::try_from(config.max_batch_size).unwrap_or(i32::MAX),
        input: config.inputs.into_iter().map(input).collect(),
        output: config.outputs.into_iter().map(output).collect(),
        default_model_filename: config.default_model_filename.map(String::from).unwrap_or_default(),
        backend: config.backend,
    }
}

fn duration(stat: DurationStat) -> Option<StatisticDuration> {
    Some(StatisticDuration { count: stat.count, ns: stat.ns })
}

pub(crate) fn index(rows: Vec<IndexRow>) -> RepositoryIndexResponse {
    let model = |row: IndexRow| ModelIndex {
        name: row.name.into(),
        version: row.version.map(|version| version.to_string()).unwrap_or_default(),
        state: row.state.name().to_owned(),
        reason: row.reason,
    };
    RepositoryIndexResponse { models: rows.into_iter().map(model).collect() }
}

/// Parameters are `config` and files, as `file:VERSION/NAME`.
pub(crate) fn load_call(request: RepositoryModelLoadRequest) -> Result<LoadCall, Status> {
    let mut call = LoadCall { name: request.model_name, config: None, files: Vec::new() };
    for (name, parameter) in request.parameters {
        match (name.strip_prefix("file:"), parameter.parameter_choice) {
            (Some(path), Some(ParameterChoice::BytesParam(contents))) => {
                call.files.push((path.to_owned(), contents))
            }
            (None, Some(ParameterChoice::StringParam(config))) if name == "config" => {
                call.config = Some(config)
            }
            _ => {
                let shown: String = name.chars().take(80).collect();
                return Err(Status::invalid(format!(
                    "load parameter `{}` is neither `config` with a string nor `file:VERSION/NAME` with bytes",
                    shown.escape_debug()
                )));
            }
        }
    }
    Ok(call)
}

pub(crate) fn registration(request: SystemSharedMemoryRegisterRequest) -> Registration {
    let SystemSharedMemoryRegisterRequest { name, key, offset, byte_size } = request;
    Registration { name, key, offset, bytes: byte_size }
}

pub(crate) fn regions(regions: Vec<Listed>) -> SystemSharedMemoryStatusResponse {
    let region = |Listed { name, key, offset, bytes }: Listed| {
        let name = String::from(name);
        (name.clone(), RegionStatus { name, key: key.into(), offset, byte_size: bytes })
    };
    SystemSharedMemoryStatusResponse { regions: regions.into_iter().map(region).collect() }
}

pub(crate) fn statistics(stats: VersionStatistics) -> ModelStatistics {
    ModelStatistics {
        name: stats.name,
        version: stats.version.to_string(),
        last_inference: stats.last_inference_ms,
        inference_count: stats.inference_count,
        execution_count: stats.execution_count,
        inference_stats: Some(InferStatistics {
            success: duration(stats.success),
            fail: duration(stats.fail),
            queue: duration(stats.queue),
            compute_input: duration(stats.compute_input),
            compute_infer: duration(stats.compute_infer),
            compute_output: duration(stats.compute_output),
            // There is no response cache; clients look for the fields.
            cache_hit: duration(DurationStat::default()),
            cache_miss: duration(DurationStat::default()),
        }),
        batch_stats: Vec::new(),
        memory_usage: Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::grpc::pb::ModelRepositoryParameter;
    use crate::oip::metadata::config_type_name;

    #[test]
    fn types_have_the_numbers_of_their_names() {
        for data_type in DataType::ALL {
            assert_eq!(config_type(data_type).as_str_name(), config_type_name(data_type));
        }
    }

    #[test]
    fn loads_bring_files_and_a_configuration() {
        let call = |name: &str, choice| {
            let parameter = ModelRepositoryParameter { parameter_choice: Some(choice) };
            load_call(RepositoryModelLoadRequest {
                model_name: "m".into(),
                parameters: [(name.to_owned(), parameter)].into(),
                ..RepositoryModelLoadRequest::default()
            })
        };
        let file = call("file:1/model.onnx", ParameterChoice::BytesParam("x".into())).unwrap();
        assert_eq!(file.files, [("1/model.onnx".to_owned(), "x".into())]);
        assert_eq!(
            call("config", ParameterChoice::StringParam("{}".into())).unwrap().config.as_deref(),
            Some("{}")
        );
        for wrong in ["config", "file:1/x", "other"] {
            assert!(call(wrong, ParameterChoice::BoolParam(true)).unwrap_err().message().contains(wrong));
        }
    }

    #[test]
    fn policies_keep_their_numbers() {
        let choice = |policy| version_policy(policy).policy_choice.unwrap();
        assert_eq!(choice(VersionPolicy::Latest(2)), PolicyChoice::Latest(Latest { num_versions: 2 }));
        assert_eq!(choice(VersionPolicy::All), PolicyChoice::All(All {}));
        let specific = choice(VersionPolicy::Specific(vec![1, u64::MAX]));
        assert_eq!(specific, PolicyChoice::Specific(Specific { versions: vec![1, i64::MAX] }));
    }
}
