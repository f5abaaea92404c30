// SPDX-License-Identifier: Apache-2.0
//! Room for descriptors: each connection takes one.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Descriptors besides those of connections: threads' pipes, model files, sockets, logs.
const OTHER_FILES: u64 = 256;

/// Raises the soft limit of open files to the hard one, and says so when that is too few for the
/// connections that the settings allow.
pub(crate) fn raise(connections_max: usize) {
    let before = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: before.maximum, maximum: before.maximum };
    if before.current != before.maximum
        && let Err(error) = setrlimit(Resource::Nofile, raised)
    {
        tracing::warn!(%error, "the limit of open files could not be raised");
    }
    let needed = connections_max as u64 + OTHER_FILES;
    if let Some(files) = getrlimit(Resource::Nofile).current
        && files < needed
    {
        tracing::warn!(
            files,
            needed,
            "fewer files may be open than limits.connections_max needs; raise the limit (ulimit -Hn, LimitNOFILE=)"
        );
    }
}
