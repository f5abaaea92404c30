// SPDX-License-Identifier: Apache-2.0
//! What a `config.pbtxt` says: the part of Triton's model configuration that means something here.
//!
//! The file is never required. Where it is present it may rename nothing and widen nothing: it narrows the
//! signature that the model file has ([`super::narrow`]), names the file to begin with, and selects versions.
//! Fields of Triton's schema that have no meaning here are accepted and listed as notes; fields that the
//! schema does not have are errors, because a mistyped limit must not be silently without effect.

use std::fmt;

use diolkos_types::DataType;

use super::limits::CONFIG_DIAGNOSTICS_MAX;
use super::pbtxt::{self, Field, Kind, Message, Pos, Value};
use super::suggest::did_you_mean;

/// Which versions of a model are served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VersionPolicy {
    /// The highest so many.
    Latest(u64),
    /// Every one that is there.
    All,
    /// Exactly these.
    Specific(Vec<u64>),
}

impl Default for VersionPolicy {
    fn default() -> VersionPolicy {
        VersionPolicy::Latest(1)
    }
}

impl VersionPolicy {
    /// The versions to serve, out of those that are there in rising order.
    #[must_use]
    pub fn select(&self, present: &[u64]) -> Vec<u64> {
        match self {
            VersionPolicy::Latest(count) => {
                let count = usize::try_from(*count).unwrap_or(usize::MAX);
                present[present.len().saturating_sub(count)..].to_vec()
            }
            VersionPolicy::All => present.to_vec(),
            VersionPolicy::Specific(wanted) => {
                present.iter().copied().filter(|version| wanted.contains(version)).collect()
            }
        }
    }
}

/// What the configuration says about one input or output.
#[derive(Clone, Debug, PartialEq)]
pub struct TensorConfig {
    /// Its name in the model file.
    pub name: Box<str>,
    /// Where it is described.
    pub pos: Pos,
    /// Element type.
    pub data_type: Option<DataType>,
    /// Dimensions, without the batch where `max_batch_size` is above 0; -1 where they vary.
    pub dims: Option<Vec<i64>>,
    /// A `reshape` is given, so `dims` are not the model's own.
    pub reshaped: bool,
    /// Whether a request may leave it out.
    pub optional: Option<bool>,
    /// File with one class label per line, beside the configuration.
    pub label_filename: Option<Box<str>>,
}

/// A model's configuration.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ModelConfig {
    /// Name of the model; has to be that of its directory.
    pub name: Option<(Box<str>, Pos)>,
    /// Triton's platform, such as `onnxruntime_onnx`. Informative: the file's extension decides.
    pub platform: Option<Box<str>>,
    /// Triton's backend, such as `onnxruntime`. Informative as well.
    pub backend: Option<Box<str>>,
    /// Longest first dimension; 0 means that the model has no batch dimension. `None` when not given.
    pub max_batch_size: Option<(u64, Pos)>,
    /// Inputs that it describes.
    pub inputs: Vec<TensorConfig>,
    /// Outputs that it describes.
    pub outputs: Vec<TensorConfig>,
    /// Which versions are served.
    pub version_policy: VersionPolicy,
    /// Name of the file to begin with, instead of `model.<extension>`.
    pub default_model_filename: Option<Box<str>>,
}

/// How much a [`Diagnostic`] matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// The configuration can't be used.
    Error,
    /// It can be used, and part of it has no effect.
    Note,
}

/// Something to say about a configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    /// Where.
    pub pos: Pos,
    /// How much it matters.
    pub severity: Severity,
    /// What, and what to do.
    pub message: String,
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.severity {
            Severity::Error => "error",
            Severity::Note => "note",
        };
        write!(f, "{}: {kind}: {}", self.pos, self.message)
    }
}

/// A configuration that can't be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{pos}: {message}")]
pub struct ConfigError {
    /// Where the first mistake stands.
    pub pos: Pos,
    /// What it is, and how many more there are.
    pub message: String,
}

/// Everything that a check found; `config` is there unless a diagnostic is an error.
#[derive(Clone, Debug, Default)]
pub struct Checked {
    /// The configuration.
    pub config: Option<ModelConfig>,
    /// What there is to say, in the order of the text.
    pub diagnostics: Vec<Diagnostic>,
}

impl ModelConfig {
    /// Reads a configuration in the text format or in its JSON form, and says everything that is to be said.
    #[must_use]
    pub fn check(text: &[u8]) -> Checked {
        let mut reader = Reader::default();
        let config = match pbtxt::parse_bytes(text) {
            Ok(message) => reader.model(&message),
            Err(error) => {
                reader.error(error.pos, error.problem.into());
                ModelConfig::default()
            }
        };
        let mut diagnostics = reader.diagnostics;
        diagnostics.sort_by_key(|diagnostic| diagnostic.pos);
        let usable = diagnostics.iter().all(|diagnostic| diagnostic.severity == Severity::Note);
        Checked { config: usable.then_some(config), diagnostics }
    }

    /// Reads a configuration; the notes come beside it.
    pub fn parse(text: &[u8]) -> Result<(ModelConfig, Vec<Diagnostic>), ConfigError> {
        let checked = ModelConfig::check(text);
        if let Some(config) = checked.config {
            return Ok((config, checked.diagnostics));
        }
        let mut errors = checked.diagnostics.into_iter().filter(|found| found.severity == Severity::Error);
        let first = errors.next().expect("without an error there is a configuration");
        let message = match errors.count() {
            0 => first.message,
            more => format!("{} (and {more} more)", first.message),
        };
        Err(ConfigError { pos: first.pos, message })
    }
}

/// Fields of a model that are known and have no effect here.
const MODEL_IGNORED: &[&str] = &[
    "batch_input",
    "batch_output",
    "cc_model_filenames",
    "dynamic_batching",
    "instance_group",
    "metric_tags",
    "model_metrics",
    "model_operations",
    "model_repository_agents",
    "model_transaction_policy",
    "model_warmup",
    "optimization",
    "parameters",
    "response_cache",
    "runtime",
    "sequence_batching",
];
const MODEL_FIELDS: &[&str] = &[
    "name",
    "platform",
    "backend",
    "max_batch_size",
    "input",
    "output",
    "version_policy",
    "default_model_filename",
    "ensemble_scheduling",
];
const INPUT_FIELDS: &[&str] = &["name", "data_type", "dims", "reshape", "optional"];
const OUTPUT_FIELDS: &[&str] = &["name", "data_type", "dims", "reshape", "label_filename"];
const TENSOR_IGNORED: &[&str] =
    &["format", "is_shape_tensor", "allow_ragged_batch", "is_non_linear_format_io"];
const POLICY_FIELDS: &[&str] = &["latest", "all", "specific"];

/// Gives a tree its meaning, and collects what is to be said about it.
#[derive(Default)]
struct Reader {
    diagnostics: Vec<Diagnostic>,
}

impl Reader {
    fn say(&mut self, pos: Pos, severity: Severity, message: String) {
        // An error always finds room, so that a flood of notes can't make a bad file pass.
        if severity == Severity::Error || self.diagnostics.len() < CONFIG_DIAGNOSTICS_MAX {
            if self.diagnostics.len() >= 2 * CONFIG_DIAGNOSTICS_MAX {
                return;
            }
            self.diagnostics.push(Diagnostic { pos, severity, message });
        }
    }

    fn error(&mut self, pos: Pos, message: String) {
        self.say(pos, Severity::Error, message);
    }

    fn ignored(&mut self, field: &Field, why: &str) {
        self.say(field.pos, Severity::Note, format!("`{}` is ignored: {why}", field.name));
    }

    fn model(&mut self, message: &Message) -> ModelConfig {
        let mut config = ModelConfig::default();
        for field in &message.fields {
            match &*field.name {
                "name" => config.name = self.text(field).map(|name| (name, field.value.pos)),
                "platform" => config.platform = self.text(field),
                "backend" => config.backend = self.text(field),
                "default_model_filename" => config.default_model_filename = self.file_name(field),
                "max_batch_size" => {
                    let size = self.integer(field, &field.value, 0, i32::MAX.into());
                    config.max_batch_size = size.map(|size| (size as u64, field.value.pos));
                }
                "input" => self.tensors(field, true, &mut config.inputs),
                "output" => self.tensors(field, false, &mut config.outputs),
                "version_policy" => config.version_policy = self.policy(field).unwrap_or_default(),
                "ensemble_scheduling" => {
                    let message = "ensembles are not supported; chain the requests in the client".to_owned();
                    self.error(field.pos, message);
                }
                name if MODEL_IGNORED.contains(&name) => self.ignored(field, "it has no effect here"),
                _ => self.unknown(field, "a model", &[MODEL_FIELDS, MODEL_IGNORED]),
            }
        }
        config
    }

    fn unknown(&mut self, field: &Field, of: &str, known: &[&[&str]]) {
        let suggestion = did_you_mean(&field.name, known.iter().copied().flatten().copied());
        self.error(field.pos, format!("`{}` is no field of {of}{suggestion}", field.name));
    }

    fn wrong_kind(&mut self, field: &Field, value: &Value, wanted: &str) {
        self.error(value.pos, format!("`{}` takes {wanted}, and this is {}", field.name, value.kind.noun()));
    }

    fn text(&mut self, field: &Field) -> Option<Box<str>> {
        match &field.value.kind {
            Kind::Text(text) => (!text.is_empty()).then(|| text.clone()),
            _ => {
                self.wrong_kind(field, &field.value, "a string in quotes");
                None
            }
        }
    }

    /// A file name that stays in its directory.
    fn file_name(&mut self, field: &Field) -> Option<Box<str>> {
        let name = self.text(field)?;
        if super::manifest::is_plain_relative(&name) {
            return Some(name);
        }
        self.error(
            field.value.pos,
            format!("`{}` is `{}`, which leaves the model's directory", field.name, name.escape_debug()),
        );
        None
    }

    fn integer(&mut self, field: &Field, value: &Value, min: i64, max: i64) -> Option<i64> {
        let number = match &value.kind {
            Kind::Int(number) => *number,
            // The JSON form writes 64-bit numbers as strings.
            Kind::Text(text) if text.parse::<i64>().is_ok() => text.parse::<i64>().ok()?.into(),
            _ => {
                self.wrong_kind(field, value, "a whole number");
                return None;
            }
        };
        if number < i128::from(min) || number > i128::from(max) {
            self.error(value.pos, format!("`{}` is {number}, and it must lie in {min}..={max}", field.name));
            return None;
        }
        i64::try_from(number).ok()
    }

    fn boolean(&mut self, field: &Field) -> Option<bool> {
        match &field.value.kind {
            Kind::Word(word) if matches!(&**word, "true" | "True" | "t") => Some(true),
            Kind::Word(word) if matches!(&**word, "false" | "False" | "f") => Some(false),
            Kind::Int(number @ (0 | 1)) => Some(*number == 1),
            _ => {
                self.wrong_kind(field, &field.value, "true or false");
                None
            }
        }
    }

    /// The messages of a repeated field: one, or a list of them.
    fn messages<'a>(&mut self, field: &'a Field) -> Vec<(&'a Message, Pos)> {
        let values = match &field.value.kind {
            Kind::List(values) => values.as_slice(),
            _ => std::slice::from_ref(&field.value),
        };
        let mut messages = Vec::new();
        for value in values {
            match &value.kind {
                Kind::Message(message) => messages.push((message, value.pos)),
                _ => self.wrong_kind(field, value, "a message in braces"),
            }
        }
        messages
    }

    /// The numbers of a repeated field.
    fn integers(&mut self, field: &Field, min: i64, max: i64) -> Vec<i64> {
        let values = match &field.value.kind {
            Kind::List(values) => values.as_slice(),
            _ => std::slice::from_ref(&field.value),
        };
        values.iter().filter_map(|value| self.integer(field, value, min, max)).collect()
    }

    fn tensors(&mut self, field: &Field, input: bool, tensors: &mut Vec<TensorConfig>) {
        for (message, pos) in self.messages(field) {
            let Some(tensor) = self.tensor(message, pos, input) else { continue };
            if tensors.iter().any(|other| other.name == tensor.name) {
                self.error(pos, format!("the {} `{}` is described twice", field.name, tensor.name));
                continue;
            }
            tensors.push(tensor);
        }
    }

    fn tensor(&mut self, message: &Message, pos: Pos, input: bool) -> Option<TensorConfig> {
        let mut tensor = TensorConfig {
            name: Box::default(),
            pos,
            data_type: None,
            dims: None,
            reshaped: false,
            optional: None,
            label_filename: None,
        };
        for field in &message.fields {
            match &*field.name {
                "name" => tensor.name = self.text(field).unwrap_or_default(),
                "data_type" => tensor.data_type = self.data_type(field),
                "dims" => {
                    let dims = self.integers(field, -1, i64::MAX);
                    tensor.dims.get_or_insert_default().extend(dims);
                }
                "reshape" => {
                    tensor.reshaped = true;
                    self.ignored(field, "the model's own shape counts, and `dims` beside it have no effect");
                }
                "optional" if input => tensor.optional = self.boolean(field),
                "label_filename" if !input => tensor.label_filename = self.file_name(field),
                name if TENSOR_IGNORED.contains(&name) => self.ignored(field, "it has no effect here"),
                _ if input => self.unknown(field, "an input", &[INPUT_FIELDS, TENSOR_IGNORED]),
                _ => self.unknown(field, "an output", &[OUTPUT_FIELDS, TENSOR_IGNORED]),
            }
        }
        if tensor.name.is_empty() {
            self.error(pos, "a tensor needs a `name`".to_owned());
            return None;
        }
        Some(tensor)
    }

    fn data_type(&mut self, field: &Field) -> Option<DataType> {
        let name = match &field.value.kind {
            Kind::Word(word) | Kind::Text(word) => word,
            _ => {
                self.wrong_kind(field, &field.value, "a type such as TYPE_FP32");
                return None;
            }
        };
        let data_type = match name.strip_prefix("TYPE_") {
            Some("STRING") => Some(DataType::Bytes),
            // Only the string type has another name than the protocol's.
            Some("BYTES") => None,
            Some(name) => name.parse().ok(),
            None => None,
        };
        if data_type.is_none() {
            let known: Vec<String> = DataType::ALL.iter().map(|known| type_name(*known)).collect();
            let suggestion = did_you_mean(name, known.iter().map(String::as_str));
            self.error(field.value.pos, format!("`{}` is no data type{suggestion}", name.escape_debug()));
        }
        data_type
    }

    fn policy(&mut self, field: &Field) -> Option<VersionPolicy> {
        let messages = self.messages(field);
        let &[(message, pos)] = &messages[..] else { return None };
        let [choice] = &message.fields[..] else {
            self.error(pos, "a version policy is exactly one of `latest`, `all` and `specific`".to_owned());
            return None;
        };
        let inner =
            self.messages(choice).first().map(|(inner, _)| inner.fields.as_slice()).unwrap_or_default();
        match &*choice.name {
            "all" => Some(VersionPolicy::All),
            "latest" => {
                let mut count = 1;
                for field in inner {
                    match &*field.name {
                        "num_versions" => count = self.integer(field, &field.value, 1, u32::MAX.into())?,
                        _ => self.unknown(field, "`latest`", &[&["num_versions"]]),
                    }
                }
                Some(VersionPolicy::Latest(count as u64))
            }
            "specific" => {
                let mut versions = Vec::new();
                for field in inner {
                    match &*field.name {
                        "versions" => versions.extend(self.integers(field, 1, i64::MAX)),
                        _ => self.unknown(field, "`specific`", &[&["versions"]]),
                    }
                }
                if versions.is_empty() {
                    self.error(
                        choice.pos,
                        "`specific` names no versions, so none would be served".to_owned(),
                    );
                }
                Some(VersionPolicy::Specific(versions.into_iter().map(|version| version as u64).collect()))
            }
            _ => {
                self.unknown(choice, "a version policy", &[POLICY_FIELDS]);
                None
            }
        }
    }
}

/// Triton's name of a data type.
#[must_use]
pub fn type_name(data_type: DataType) -> String {
    match data_type {
        DataType::Bytes => "TYPE_STRING".to_owned(),
        other => format!("TYPE_{}", other.name()),
    }
}

#[cfg(test)]
#[path = "config_tests.rs"]
mod tests;
