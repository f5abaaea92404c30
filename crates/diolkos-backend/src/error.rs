// SPDX-License-Identifier: Apache-2.0
//! What a backend says when it can't.

/// Why files did not become an operation.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The bytes are not a model of this format, or are damaged.
    #[error("not a valid model: {reason}")]
    Invalid {
        /// What was wrong, and where.
        reason: String,
    },
    /// A valid model that needs something this backend lacks.
    #[error("the model needs something the {backend} backend does not have: {what}")]
    Unsupported {
        /// Name of the backend.
        backend: &'static str,
        /// The operator, type or version.
        what: String,
    },
    /// Loading would exceed a limit.
    #[error("the model needs {needed} bytes to load and the limit is {limit}")]
    TooLarge {
        /// Bytes it needs.
        needed: u64,
        /// Bytes it may have.
        limit: u64,
    },
    /// A file that the model names is missing.
    #[error("the model refers to the file `{name}`, which is not beside it")]
    MissingFile {
        /// Name of the file.
        name: String,
    },
}

/// Why an operation did not run to its end.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// An input has a value or shape that the operation can't take.
    #[error("input `{tensor}` {reason}")]
    InvalidInput {
        /// Name of the input.
        tensor: Box<str>,
        /// What is wrong with it, as the end of a sentence that begins with the input.
        reason: String,
    },
    /// A parameter has a value that the operation can't take.
    #[error("parameter `{name}` {reason}")]
    InvalidParam {
        /// Name of the parameter.
        name: Box<str>,
        /// What is wrong with it, as the end of a sentence that begins with the parameter.
        reason: String,
    },
    /// The inputs are fine and the operation lacks a case.
    #[error("the {backend} backend can't do this: {what}")]
    Unsupported {
        /// Name of the backend.
        backend: &'static str,
        /// The case.
        what: String,
    },
    /// The outputs do not fit the room that was given for them.
    #[error("output `{tensor}` needs {needed} bytes and {available} are available")]
    OutputTooSmall {
        /// Name of the output.
        tensor: Box<str>,
        /// Bytes that it needs.
        needed: u64,
        /// Bytes that are left for it.
        available: u64,
    },
    /// The cancel flag was seen.
    #[error("cancelled while running")]
    Cancelled,
    /// The backend failed; the reason is the backend's own text.
    #[error("the {backend} backend failed: {reason}")]
    Failed {
        /// Name of the backend.
        backend: &'static str,
        /// What it said.
        reason: String,
    },
}
