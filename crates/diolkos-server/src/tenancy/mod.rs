// SPDX-License-Identifier: Apache-2.0
//! Tenants that come and go while the daemon runs: from a settings file that is read again, and from whoever may add them.
//!
//! ```text
//! SIGHUP ── Settings ─────────────┐
//! rest::tenants ── Change, reply ─┴─> Keeper: settings of the file + those that were added
//!                                       │ 1. all rules of the settings hold
//!                                       │ 2. new sockets are bound             a failure up to here changes nothing
//!                                       │ 3. the tenants' file is written
//!                                       v
//!                    in force: directory, engine ──> sockets closed, connections of those who are gone cut ──> sockets opened
//! ```
//!
//! One task makes all changes, one after the other, so that nobody sees half of one.
//!
//! | module | its one job |
//! |---|---|
//! | `keeper` | the task |
//! | `merged` | settings of the file and added tenants, as one |
//! | `kept` | the file that keeps added tenants |

mod keeper;
mod kept;
mod merged;

use std::fmt;
use std::sync::{Mutex, PoisonError};

use serde_json::Value;
use tokio::sync::{mpsc, oneshot};

pub(crate) use keeper::{Keeper, Kept, addresses};
pub use kept::KeptError;

use crate::limits;
use crate::listen::ListenError;
use crate::settings::reload::Changes;
use crate::settings::{LeaseSettings, Settings, TenantSettings};

/// What is to be changed.
#[derive(Debug)]
pub(crate) enum Change {
    /// A tenant, as JSON with the keys of `[tenants.NAME]`.
    Put { name: String, tenant: Value, if_there: IfThere },
    /// A tenant goes, with everything it has.
    Remove { name: String },
    /// A lease of a tenant, as JSON with the keys of `[tenants.NAME.leases.NAME]`.
    PutLease { tenant: String, name: String, lease: Value, if_there: IfThere },
    /// A lease of a tenant goes.
    RemoveLease { tenant: String, name: String },
}

/// What happens to one that is there already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum IfThere {
    /// It stays, and the change is refused.
    Refuse,
    /// It is replaced.
    Replace,
}

/// What a change did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Done {
    /// There is one more.
    Created,
    /// What was there is another now.
    Replaced,
    /// There is one less.
    Removed,
}

/// Why a change was not made.
#[derive(Debug, thiserror::Error)]
pub enum ChangeError {
    /// Nothing of that name.
    #[error("there is no tenant `{0}`")]
    NoTenant(String),
    /// Nothing of that name.
    #[error("tenant `{tenant}` has no lease `{lease}`")]
    NoLease {
        /// Whose.
        tenant: String,
        /// Which.
        lease: String,
    },
    /// It is there already.
    #[error("{0} is there already")]
    Exists(String),
    /// It is the settings file's.
    #[error("tenant `{0}` stands in the settings file; change it there, and send SIGHUP")]
    InSettings(String),
    /// It is the one that there is without settings.
    #[error("tenant `default` is whoever runs the daemon, and stays as long as the settings name no tenants")]
    Default,
    /// Rules do not hold.
    #[error("{}", .0.join("; "))]
    Wrong(Vec<String>),
    /// A socket can't be made.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// The file of tenants can't be written.
    #[error(transparent)]
    Kept(#[from] KeptError),
    /// The daemon is just ending.
    #[error("the daemon is shutting down")]
    Ending,
}

/// Where a tenant comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// The settings name no tenants, so there is the daemon's own user.
    Default,
    /// The settings file.
    Settings,
    /// It was added while the daemon ran, or by a run before.
    Added,
}

impl Origin {
    /// In answers.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Origin::Default => "default",
            Origin::Settings => "settings",
            Origin::Added => "added",
        }
    }
}

/// A tenant, for whoever wants to look.
#[derive(Clone, Debug)]
pub(crate) struct TenantView {
    pub(crate) name: String,
    pub(crate) origin: Origin,
    pub(crate) settings: TenantSettings,
    pub(crate) connections: u64,
}

impl TenantView {
    /// One of its leases.
    pub(crate) fn lease(&self, name: &str) -> Option<&LeaseSettings> {
        self.settings.leases.get(name)
    }
}

/// What the keeper is asked.
enum Ask {
    Change(Change, oneshot::Sender<Result<Done, ChangeError>>),
    File(Box<Settings>, oneshot::Sender<Result<Changes, ChangeError>>),
    Look(oneshot::Sender<Vec<TenantView>>),
}

/// The way to the [`Keeper`].
pub(crate) struct Tenancy {
    asks: mpsc::Sender<Ask>,
    /// For the keeper, until it takes it.
    receiver: Mutex<Option<mpsc::Receiver<Ask>>>,
}

impl Tenancy {
    pub(crate) fn new() -> Tenancy {
        let (asks, receiver) = mpsc::channel(limits::TENANCY_ASKS_MAX);
        Tenancy { asks, receiver: Mutex::new(Some(receiver)) }
    }

    /// Makes a change, and returns when it is in force.
    pub(crate) async fn change(&self, change: Change) -> Result<Done, ChangeError> {
        self.ask(|reply| Ask::Change(change, reply)).await?
    }

    /// Takes up the settings of the file, read again, as far as that is possible without a restart.
    pub(crate) async fn take_up(&self, file: Settings) -> Result<Changes, ChangeError> {
        self.ask(|reply| Ask::File(Box::new(file), reply)).await?
    }

    /// All tenants, by name.
    pub(crate) async fn look(&self) -> Result<Vec<TenantView>, ChangeError> {
        self.ask(Ask::Look).await
    }

    async fn ask<T>(&self, ask: impl FnOnce(oneshot::Sender<T>) -> Ask) -> Result<T, ChangeError> {
        let (reply, answer) = oneshot::channel();
        self.asks.send(ask(reply)).await.map_err(|_| ChangeError::Ending)?;
        answer.await.map_err(|_| ChangeError::Ending)
    }

    fn take_receiver(&self) -> Option<mpsc::Receiver<Ask>> {
        self.receiver.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl fmt::Debug for Tenancy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tenancy")
    }
}
