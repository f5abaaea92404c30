// SPDX-License-Identifier: Apache-2.0
//! Sockets that come and go with their tenants.
//!
//! ```text
//! settings ──missing──> bind (not accepting yet) ──in force──> accept ──not in the settings any more──> close, file removed
//! ```

use std::collections::{HashMap, HashSet};

use tokio::task::JoinHandle;

use super::address::Address;
use super::conn::Rim;
use super::listener::{ListenError, Listener};
use crate::settings::{Listen, Mode, Settings};

/// A tenant's socket, as the settings want it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Wanted {
    address: Address,
    tenant: String,
    mode: Mode,
}

/// The sockets of tenants in these settings.
fn wanted(settings: &Settings) -> impl Iterator<Item = Wanted> {
    let default = settings.socket_mode;
    settings.tenants.iter().flat_map(move |(name, tenant)| {
        let mode = tenant.socket_mode.unwrap_or(default);
        let wanted = move |address: &Address| Wanted { address: address.clone(), tenant: name.clone(), mode };
        tenant.sockets.iter().map(wanted)
    })
}

/// A socket that is there and not accepted on yet; it goes if it is dropped.
#[derive(Debug)]
pub(crate) struct Prepared {
    wanted: Wanted,
    listener: Listener,
}

/// Those that are accepted on.
#[derive(Debug, Default)]
pub(crate) struct Doors {
    open: HashMap<Wanted, JoinHandle<()>>,
}

impl Doors {
    /// Binds what these settings want and is not there. What has to be closed first, because it changes its tenant or its
    /// permissions, is left to [`Doors::open_rest`].
    pub(crate) fn prepare(&self, settings: &Settings) -> Result<Vec<Prepared>, ListenError> {
        let missing = wanted(settings).filter(|wanted| !self.open.contains_key(wanted));
        let free = missing.filter(|wanted| self.open.keys().all(|open| open.address != wanted.address));
        free.map(Prepared::bind).collect()
    }

    /// Closes what these settings do not want. Nobody connects there from then on, and the files are gone.
    pub(crate) async fn close_unwanted(&mut self, settings: &Settings) {
        let wanted: HashSet<Wanted> = wanted(settings).collect();
        for (_, accepting) in self.open.extract_if(|open, _| !wanted.contains(open)) {
            close(accepting).await;
        }
    }

    /// Accepts on these.
    pub(crate) fn open(&mut self, prepared: Vec<Prepared>, rim: &Rim) {
        for Prepared { wanted, listener } in prepared {
            tracing::info!(address = %listener.bound(), tenant = wanted.tenant, "listening");
            let accepting = tokio::spawn(rim.clone().accept_until_stopped(listener));
            self.open.insert(wanted, accepting);
        }
    }

    /// Opens what is still missing, as far as that is possible, and says what is not.
    pub(crate) fn open_rest(&mut self, settings: &Settings, rim: &Rim) -> Vec<ListenError> {
        let missing: Vec<Wanted> =
            wanted(settings).filter(|wanted| !self.open.contains_key(wanted)).collect();
        let (mut prepared, mut failures) = (Vec::new(), Vec::new());
        for wanted in missing {
            match Prepared::bind(wanted) {
                Ok(one) => prepared.push(one),
                Err(error) => failures.push(error),
            }
        }
        self.open(prepared, rim);
        failures
    }

    /// Closes all.
    pub(crate) async fn close_all(mut self) {
        for (_, accepting) in self.open.drain() {
            close(accepting).await;
        }
    }
}

/// Waits until the task has let go of its listener, and with it of the file.
async fn close(accepting: JoinHandle<()>) {
    accepting.abort();
    // Being aborted is what was wanted.
    let _ = accepting.await;
}

impl Prepared {
    fn bind(wanted: Wanted) -> Result<Prepared, ListenError> {
        let listen = Listen { tenant: Some(wanted.tenant.clone()), ..wanted.address.clone().into() };
        let mut bound = Listener::bind(&listen, wanted.mode.get())?;
        let listener = bound.pop().expect("a unix socket is one listener");
        Ok(Prepared { wanted, listener })
    }

    /// The listener, for whoever wants to say where the daemon listens.
    pub(crate) fn listener(&self) -> &Listener {
        &self.listener
    }
}
