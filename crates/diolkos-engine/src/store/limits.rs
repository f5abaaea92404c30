// SPDX-License-Identifier: Apache-2.0
//! Every bound of the model store that is not a setting, each with its reason.

use std::time::Duration;

/// Longest model name in bytes. Names become path components and URL segments; `NAME_MAX` is 255, and the
/// blob store appends a suffix to it.
pub const MODEL_NAME_BYTES_MAX: usize = 200;

/// Most models that one repository directory may hold; a directory with more is surely not a repository.
pub const MODELS_PER_REPOSITORY_MAX: usize = 4096;

/// Most version directories of one model.
pub const VERSIONS_PER_MODEL_MAX: usize = 256;

/// Most files of one version. A SavedModel or an ONNX model with external data has a few dozen.
pub const FILES_PER_VERSION_MAX: usize = 1024;

/// Deepest nesting of directories inside a version.
pub const VERSION_DEPTH_MAX: usize = 6;

/// Longest name of one file inside a version, relative to it.
pub const FILE_NAME_BYTES_MAX: usize = 512;

/// Largest `config.pbtxt`. Real ones are a few kilobytes.
pub const CONFIG_BYTES_MAX: usize = 1 << 20;

/// Deepest nesting of messages in a `config.pbtxt`; Triton's schema needs 6.
pub const CONFIG_DEPTH_MAX: usize = 24;

/// Most fields and values in a `config.pbtxt`, so that the tree stays small next to its limit in bytes.
pub const CONFIG_NODES_MAX: usize = 65_536;

/// Most problems that a check reports; after so many the file is something else altogether.
pub const CONFIG_DIAGNOSTICS_MAX: usize = 64;

/// Largest file of class labels; ImageNet-21k has 22 thousand lines and 1.2 MB.
pub const LABELS_BYTES_MAX: usize = 4 << 20;

/// Most bytes of zeros that warm-up makes for one run. Larger inputs are not warmed.
pub const WARM_INPUT_BYTES_MAX: usize = 256 << 20;

/// Most bytes of outputs of a warm-up run.
pub const WARM_OUTPUT_BYTES_MAX: u64 = 256 << 20;

/// Most runs of a warm-up: the first pays for lazy set-up, and the median of the rest is steady.
pub const WARM_RUNS_MAX: usize = 5;

/// Rows that are tried together, few first. More than the last gain little more on any CPU, and hold up whoever is next.
pub const TRIAL_ROWS: [u64; 3] = [4, 16, 64];

/// Runs that are timed for each of these numbers.
pub const TRIAL_RUNS: usize = 3;

/// What runs together must gain at least. Less is noise, and the price is that whoever comes waits for a longer run.
pub const TRIAL_GAIN_MIN: f64 = 1.3;

/// And for each row at least so much time: parting and joining a request costs some microseconds itself.
pub const TRIAL_SAVED_MIN: Duration = Duration::from_micros(10);

/// No further trial begins after this much time.
pub const TRIAL_TIME_MAX: Duration = Duration::from_millis(500);

/// No further warm-up run begins after this much time.
pub const WARM_TIME_MAX: Duration = Duration::from_millis(250);

/// Most bytes that a rehearsal child may print before the parent stops reading.
pub const VERDICT_BYTES_MAX: usize = 64 << 10;

/// Longest text of one line in a verdict.
pub const VERDICT_TEXT_MAX: usize = 4 << 10;

/// How much of a rehearsal child's standard error is kept for the message.
pub const CHILD_STDERR_BYTES_MAX: usize = 8 << 10;

/// Open files of a rehearsal child: standard streams, and room for a shared library or `/proc/self/status`.
pub const CHILD_FILES_MAX: u64 = 32;

/// Verdicts that are remembered by digest, so that a reload of known bytes needs no child.
pub const VERDICTS_MAX: usize = 256;

/// How often loading is tried again with one more file that the model turned out to refer to.
pub const EXTERNAL_FILES_MAX: usize = 64;

/// A file whose time stamp is this close to the moment it was looked at may change again without a new stamp.
pub const STAMP_SETTLES: Duration = Duration::from_secs(2);

/// Most references (models) in the blob store.
pub const REFERENCES_MAX: usize = 4096;

/// Largest reference file of the blob store.
pub const REFERENCE_BYTES_MAX: usize = 1 << 20;

/// Unreferenced blobs younger than this stay: a put comes before the reference that names it.
pub const BLOB_GRACE: Duration = Duration::from_secs(15 * 60);

/// When to try again a load that failed for want of memory: jobs that hold other models end about that soon.
pub const LOAD_RETRY_HINT: Duration = Duration::from_secs(1);

const _: () = assert!(MODEL_NAME_BYTES_MAX < 255 - 16);
const _: () = assert!(VERDICT_TEXT_MAX * 4 < VERDICT_BYTES_MAX);
