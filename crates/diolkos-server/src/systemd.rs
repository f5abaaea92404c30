// SPDX-License-Identifier: Apache-2.0
//! What a service manager that speaks systemd's protocols is told, and gives. Without `NOTIFY_SOCKET` and
//! `LISTEN_FDS` all of this does nothing.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::process::{PidfdFlags, PidfdGetfdFlags, getpid, pidfd_getfd, pidfd_open};
use sd_notify::NotifyState;

fn notify(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!(%error, "the service manager could not be notified");
    }
}

/// The daemon listens and its models are loaded (or failed to).
pub(crate) fn ready() {
    notify(&[NotifyState::Ready]);
}

/// Settings are being read again; [`ready`] follows.
pub(crate) fn reloading() {
    match NotifyState::monotonic_usec_now() {
        // systemd 253 and later want to know when the reload began.
        Ok(now) => notify(&[NotifyState::Reloading, now]),
        Err(error) => tracing::warn!(%error, "no monotonic clock; the reload was not announced"),
    }
}

/// The daemon drains.
pub(crate) fn stopping() {
    notify(&[NotifyState::Stopping]);
}

/// A life sign.
pub(crate) fn watchdog() {
    notify(&[NotifyState::Watchdog]);
}

/// How often a life sign is due: half of what the service manager waits, as it recommends.
pub(crate) fn watchdog_interval() -> Option<Duration> {
    sd_notify::watchdog_enabled().map(|timeout| timeout / 2).filter(|interval| !interval.is_zero())
}

/// Listening sockets that the service manager opened for us.
///
/// They arrive as numbers. Instead of claiming to own those (which only unsafe code can), each is
/// duplicated through a pidfd of this very process; the original stays open, so that connections queue in
/// the kernel until the next daemon takes over.
pub(crate) fn passed_sockets() -> io::Result<Vec<OwnedFd>> {
    let numbers = sd_notify::listen_fds()?;
    if numbers.len() == 0 {
        return Ok(Vec::new());
    }
    let ourselves = pidfd_open(getpid(), PidfdFlags::empty())?;
    numbers.map(|number| Ok(pidfd_getfd(&ourselves, number, PidfdGetfdFlags::empty())?)).collect()
}

#[cfg(test)]
mod tests {
    #[test]
    fn nothing_is_passed_without_a_service_manager() {
        // The tests' own environment has no LISTEN_PID for this process.
        assert!(super::passed_sockets().unwrap().is_empty());
    }
}
