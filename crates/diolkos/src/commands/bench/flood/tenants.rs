// SPDX-License-Identifier: Apache-2.0
//! The daemon's two tenants, and how much their limits let the daemon grow. Pure.

use std::path::{Path, PathBuf};

use diolkos_server::limits;

use super::results::Usage;

/// Requests per second that the flooding tenant may send.
pub(super) const RATE_LIMIT: u32 = 100;

/// Bytes per second that its requests may bring: four bodies.
pub(super) const BYTES_RATE_LIMIT: u64 = 64 << 20;

/// Its connections.
const CONNECTIONS_MAX: u64 = 256;

/// Memory of its requests in flight: four bodies.
const REQUESTS_MEMORY_MAX: u64 = 64 << 20;

/// Memory of everybody's requests in flight.
const ALL_REQUESTS_MEMORY_MAX: u64 = 4 * REQUESTS_MEMORY_MAX;

/// What a connection may need beside its bodies: its task, and buffers for a header and an answer.
const CONNECTION_BYTES: u64 = 64 << 10;

/// Threads for conversions and for what has to wait (`oip/offload.rs` of the server: 2 and 16).
const BLOCKING_THREADS: u64 = 18;

/// Descriptors that are open for a moment while a peer is recognised, and those of a connection that is being measured.
const DESCRIPTORS_SLACK: u64 = 16;

/// Socket of the quiet tenant.
pub(super) const QUIET_SOCKET: &str = "quiet.sock";

/// Socket of the flooding one, given the quiet one's.
pub(super) fn flood_socket(quiet: &Path) -> PathBuf {
    quiet.with_file_name("flood.sock")
}

/// Settings of the daemon, with its sockets in this directory. The quiet tenant has no limits, so that nothing but the
/// flood can hold it up; the flooding one has those that a sandbox would have.
pub(super) fn settings(dir: &Path) -> String {
    let socket = |name: &str| format!("unix:{}", dir.join(name).display());
    let quiet = socket(QUIET_SOCKET);
    let flood = format!("unix:{}", flood_socket(&dir.join(QUIET_SOCKET)).display());
    format!(
        r#"listen = [
  {{ address = "{quiet}", tenant = "quiet" }},
  {{ address = "{flood}", tenant = "flood" }},
]

[limits]
request_memory_max = "{REQUESTS_MEMORY_MAX}B"
requests_memory_max = "{ALL_REQUESTS_MEMORY_MAX}B"

[tenants.quiet]
leases.cpu = {{ kind = "compute", operations = ["*"] }}

[tenants.flood]
rate = "{RATE_LIMIT}/s"
burst = 10
bytes_rate = "{BYTES_RATE_LIMIT}B/s"
connections_max = {CONNECTIONS_MAX}
connection_rate = "{RATE_LIMIT}/s"
sessions_max = 16
requests_memory_max = "{REQUESTS_MEMORY_MAX}B"
regions_memory_max = "{REQUESTS_MEMORY_MAX}B"
deadline_max = "5s"
leases.cpu = {{ kind = "compute", operations = ["*"], concurrency_max = 1, queue_max = 64 }}
"#
    )
}

/// By how much a flood may make the daemon grow, from the settings above.
///
/// * Memory: requests in flight, as much again for bodies that are on their way, connections, those included that are
///   being closed to make room or told that there is none, and what the allocator has not given back yet.
/// * Descriptors: these connections.
/// * Threads: those of the blocking pool.
pub(super) fn bounds() -> Usage {
    let connections = CONNECTIONS_MAX + (limits::EVICTING_MAX + limits::REFUSING_MAX) as u64;
    Usage {
        memory: 2 * REQUESTS_MEMORY_MAX
            + connections * CONNECTION_BYTES
            + crate::memory::beyond_use(ALL_REQUESTS_MEMORY_MAX),
        descriptors: connections + DESCRIPTORS_SLACK,
        threads: BLOCKING_THREADS,
    }
}

#[cfg(test)]
mod tests {
    use diolkos_server::settings::Settings;

    use super::*;

    #[test]
    fn the_daemon_understands_its_settings() {
        let settings = Settings::parse(&settings("/tmp/x".as_ref()), "/tmp/x/diolkos.toml".as_ref()).unwrap();
        assert_eq!(settings.listen.len(), 2);
        let flood = &settings.tenants["flood"];
        assert_eq!(flood.connections_max, Some(CONNECTIONS_MAX));
        assert!(settings.tenants["quiet"].rate.is_none());
        // What the tenant may not have has to be less than what everybody may, or the wrong limit would be tested.
        assert!((settings.limits.connections_max as u64) > super::super::kinds::HELD as u64);
        assert!(settings.limits.body_bytes_max.get() > super::super::kinds::BODY_BYTES as u64);
    }
}
