// SPDX-License-Identifier: Apache-2.0
//! Log lines: where they go, how they look, and how often a tenant can cause one.
//!
//! Levels follow who must act: `error` somebody now, `warn` somebody soon, `info` nobody, `debug` whoever
//! looks for a fault. A line that a tenant can trigger goes through `limited!`: each call site may log
//! [`limits::LOG_BURST`] lines at once and then one per [`limits::LOG_INTERVAL`]; the next line that is
//! logged says how many were not (`suppressed`), and `diolkos_log_lines_suppressed_total` counts them all.

use std::io::IsTerminal as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Instant;

use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{Layer as _, Registry, reload};

use crate::limits;
use crate::settings::{LogFormat, LogLevel};

static FILTER: OnceLock<reload::Handle<Targets, Registry>> = OnceLock::new();

/// Log lines that were not written because their call site wrote too many.
static SUPPRESSED: AtomicU64 = AtomicU64::new(0);

/// Why log lines go nowhere.
#[derive(Debug, thiserror::Error)]
#[error("logging is set up already")]
pub struct LoggingError;

/// Sends log lines to standard error: with colours on a terminal, without elsewhere. Once per process.
pub fn init(level: LogLevel, format: LogFormat) -> Result<(), LoggingError> {
    let (filter, handle) = reload::Layer::new(targets(level));
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let lines = match format {
        LogFormat::Text => lines.with_ansi(std::io::stderr().is_terminal()).boxed(),
        LogFormat::Json => lines.json().boxed(),
    };
    tracing_subscriber::registry().with(lines.with_filter(filter)).try_init().map_err(|_| LoggingError)?;
    FILTER.set(handle).map_err(|_| LoggingError)
}

/// Changes the level at run time. Does nothing if somebody else set up logging.
pub fn set_level(level: LogLevel) {
    if let Some(handle) = FILTER.get()
        && let Err(error) = handle.reload(targets(level))
    {
        tracing::warn!(%error, "the log level could not be changed");
    }
}

/// Our own lines at the level asked for; those of libraries only when they matter, or when everything was
/// asked for.
fn targets(level: LogLevel) -> Targets {
    let (own, others) = match level {
        LogLevel::Error => (LevelFilter::ERROR, LevelFilter::ERROR),
        LogLevel::Warn => (LevelFilter::WARN, LevelFilter::WARN),
        LogLevel::Info => (LevelFilter::INFO, LevelFilter::WARN),
        LogLevel::Debug => (LevelFilter::DEBUG, LevelFilter::WARN),
        LogLevel::Trace => (LevelFilter::TRACE, LevelFilter::TRACE),
    };
    Targets::new().with_default(others).with_target("diolkos", own)
}

/// Log lines that were suppressed so far, all call sites together.
pub(crate) fn suppressed_lines() -> u64 {
    SUPPRESSED.load(Ordering::Relaxed)
}

/// How often one call site may log: a token bucket.
#[derive(Debug)]
pub(crate) struct Limiter(Mutex<Option<Bucket>>);

#[derive(Debug)]
struct Bucket {
    tokens: u32,
    /// When the last token came in.
    filled: Instant,
    suppressed: u64,
}

impl Limiter {
    /// A call site that never logged.
    pub(crate) const fn new() -> Limiter {
        Limiter(Mutex::new(None))
    }

    /// Whether a line may be written now; if so, how many were not since the last one.
    pub(crate) fn admit(&self, now: Instant) -> Option<u64> {
        let mut bucket = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let bucket = bucket.get_or_insert(Bucket { tokens: limits::LOG_BURST, filled: now, suppressed: 0 });
        let intervals =
            now.saturating_duration_since(bucket.filled).as_secs() / limits::LOG_INTERVAL.as_secs();
        let new = u32::try_from(intervals).unwrap_or(u32::MAX);
        if new > 0 {
            bucket.tokens = bucket.tokens.saturating_add(new).min(limits::LOG_BURST);
            bucket.filled = now;
        }
        if bucket.tokens == 0 {
            bucket.suppressed += 1;
            SUPPRESSED.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        bucket.tokens -= 1;
        Some(std::mem::take(&mut bucket.suppressed))
    }
}

/// `limited!(warn, fields..., "message")`: a log line that a tenant can trigger. See [`crate::logging`].
macro_rules! limited {
    ($level:ident, $($line:tt)+) => {{
        static LIMITER: $crate::logging::Limiter = $crate::logging::Limiter::new();
        if let Some(suppressed) = LIMITER.admit(::std::time::Instant::now()) {
            ::tracing::$level!(suppressed, $($line)+);
        }
    }};
}

pub(crate) use limited;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_then_one_per_interval() {
        let limiter = Limiter::new();
        let start = Instant::now();
        for _ in 0..limits::LOG_BURST {
            assert_eq!(limiter.admit(start), Some(0));
        }
        let before = suppressed_lines();
        assert_eq!(limiter.admit(start), None);
        assert_eq!(limiter.admit(start), None);
        assert!(suppressed_lines() >= before + 2);
        assert_eq!(limiter.admit(start + limits::LOG_INTERVAL), Some(2));
        assert_eq!(limiter.admit(start + limits::LOG_INTERVAL), None);
        let later = start + 1000 * limits::LOG_INTERVAL;
        assert_eq!(limiter.admit(later), Some(1));
        assert_eq!(
            (0..100).filter(|_| limiter.admit(later).is_some()).count(),
            limits::LOG_BURST as usize - 1
        );
    }

    #[test]
    fn libraries_are_quieter_than_we_are() {
        use tracing::Level;
        let info = targets(LogLevel::Info);
        assert!(info.would_enable("diolkos_engine::store", &Level::INFO));
        assert!(!info.would_enable("diolkos_engine::store", &Level::DEBUG));
        assert!(!info.would_enable("h2::proto", &Level::INFO));
        assert!(targets(LogLevel::Trace).would_enable("h2::proto", &Level::TRACE));
    }
}
