// SPDX-License-Identifier: Apache-2.0
//! Every bound of this crate that is not a setting, with its reason.

use std::time::Duration;

use diolkos_engine::limits as engine_limits;

/// Most connections that the settings may allow: half of the engine's sessions, the other half lingers.
pub const CONNECTIONS_MAX: usize = engine_limits::SESSIONS_MAX / 2;

/// Addresses to listen on.
pub const LISTENERS_MAX: usize = 64;

/// Longest path of a unix socket: `sun_path` has 108 bytes and ends with a zero.
pub const UNIX_PATH_BYTES_MAX: usize = 107;

/// Connections that wait in the kernel to be accepted.
pub const LISTEN_BACKLOG: i32 = 1024;

/// Connections that are being told that there is no room, at the same time. Past it they are closed unheard.
pub const REFUSING_MAX: usize = 64;

/// What one connection reads and writes before others of its thread have their turn: what a unix socket holds by default, and a little more.
pub(crate) const TURN_BYTES: usize = 256 << 10;

/// Turns of connections after which a thread looks whether others have something new: a look is one system call, and a turn may be the
/// copying of `TURN_BYTES`, so that what is new waits for few of these. tokio's default is 61.
pub(crate) const TURNS_PER_LOOK: u32 = 8;

/// Pause between the pieces of what a tenant goes on sending although it sent too many bytes: well within any `limits.body_timeout`.
pub(crate) const BYTES_PAUSE_MAX: Duration = Duration::from_millis(250);

/// How long a refused client may take to read why.
pub const REFUSE_TIMEOUT: Duration = Duration::from_millis(500);

/// What a refused client is told to wait.
pub const REFUSE_RETRY_SECONDS: u64 = 1;

/// The same, for statuses.
pub(crate) const REFUSE_RETRY: Duration = Duration::from_secs(REFUSE_RETRY_SECONDS);

/// Tenants whose tokens may come over one connection: a proxy for more has connections for more.
pub(crate) const TENANTS_OF_CONNECTION_MAX: usize = 8;

/// Tenants that a bridge speaks for whose sessions a connection keeps: more than there are sandboxes on a node, as a rule.
pub(crate) const SPOKEN_FOR_MAX: usize = 64;

/// Bytes of a reason or a name in a line of the audit log.
pub(crate) const AUDIT_TEXT_BYTES_MAX: usize = 512;

/// Changes of tenants that wait. Whoever asks for more waits for a place.
pub(crate) const TENANCY_ASKS_MAX: usize = 16;

/// Tenants in the settings: each costs some memory for ever, and a node has tens of sandboxes, not ten thousands.
pub(crate) const TENANTS_MAX: usize = 4096;

/// Bodies larger than this are not read when their tenant sends too many requests. A smaller one is passed over: an
/// HTTP/1.1 client that is still sending when the answer comes may miss it.
pub(crate) const UNREAD_BODY_BYTES_MIN: u64 = 1 << 20;

/// Connections that were told to make room and have not closed yet. Bounds how far past the limit a
/// burst of newcomers gets.
pub const EVICTING_MAX: usize = 64;

/// How long an idle connection that must make room gets for its good-byes.
pub const EVICT_GRACE: Duration = Duration::from_millis(100);

/// How often a listener whose tenant connects too often looks whether it may again.
pub(crate) const PACE_LOOK: Duration = Duration::from_secs(1);

/// How long accepting rests when the process or the node is out of descriptors or memory.
pub const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Requests at once on one HTTP/2 connection. Stock clients open a second connection past 100.
pub const STREAMS_MAX: u32 = 256;

/// What one HTTP/2 stream may send before it is read: a typical image tensor (602 kB) in one go.
pub const STREAM_WINDOW_BYTES: u32 = 1 << 20;

/// What all streams of a connection together may send before they are read.
pub const CONNECTION_WINDOW_BYTES: u32 = 4 << 20;

/// Largest HTTP/2 frame that is taken: fewer, larger frames for tensors.
pub const FRAME_BYTES_MAX: u32 = 256 << 10;

/// Largest header of a request, in bytes. Stock clients send a few hundred.
pub const HEADER_BYTES_MAX: usize = 32 << 10;

/// Header fields of an HTTP/1.1 request.
pub const HEADER_FIELDS_MAX: usize = 100;

/// Reset HTTP/2 streams that are remembered; past it the connection is closed (rapid reset, CVE-2023-44487).
pub const RESET_STREAMS_MAX: usize = 64;

/// Buffered output of one HTTP/2 stream.
pub const SEND_BUFFER_BYTES: usize = 1 << 20;

/// How often a busy HTTP/2 connection is asked whether its client is still there, and how long it may
/// take to answer.
pub const PING_INTERVAL: Duration = Duration::from_secs(30);
/// See [`PING_INTERVAL`].
pub const PING_TIMEOUT: Duration = Duration::from_secs(20);

/// Part of a body that must arrive within `limits.body_timeout`, so that a byte now and then is not progress.
pub const BODY_PROGRESS_BYTES: u64 = 64 << 10;

/// Replies smaller than this are not charged while they wait to be sent.
pub const REPLY_CHARGED_BYTES: usize = 64 << 10;

/// Largest settings file.
pub const SETTINGS_BYTES_MAX: u64 = 1 << 20;

/// Unknown keys that are listed; a file with more is something else altogether.
pub const SETTINGS_DIAGNOSTICS_MAX: usize = 20;

/// Lines that one call site may log at once because of what a tenant did.
pub const LOG_BURST: u32 = 10;

/// After a burst, one line per call site in this time.
pub const LOG_INTERVAL: Duration = Duration::from_secs(5);

/// Threads of the rim. They decode and copy, and never compute; more of them only cost memory.
pub const RIM_THREADS_MAX: usize = 4;

/// Time that connections get to close once nothing is in flight any more.
pub const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

const _: () = assert!(HEADER_BYTES_MAX >= 8 << 10, "smaller than what stock proxies pass on");
const _: () = assert!(STREAM_WINDOW_BYTES <= CONNECTION_WINDOW_BYTES);
const _: () = assert!(2 * CONNECTIONS_MAX <= engine_limits::SESSIONS_MAX);
