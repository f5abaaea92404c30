// SPDX-License-Identifier: Apache-2.0
//! The task that makes all changes of tenants.

use std::collections::BTreeMap;
use std::sync::Arc;

use diolkos_types::TenantId;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::kept::{self, KeptError};
use super::merged::{DEFAULT, merged};
use super::{Ask, Change, ChangeError, Done, IfThere, Origin, TenantView};
use crate::app::App;
use crate::listen::{BoundAddress, Doors, Prepared, Rim};
use crate::settings::{Settings, TenantSettings, reload};

type Added = BTreeMap<String, TenantSettings>;

/// Tenants of the settings file and added ones, and the sockets of all of them.
pub(crate) struct Keeper {
    app: Arc<App>,
    rim: Rim,
    asks: mpsc::Receiver<Ask>,
    /// The settings file as it was read last: what the rules have to hold for.
    read: Settings,
    /// As far as it is in force, which for some keys takes a restart.
    file: Settings,
    added: Added,
    doors: Doors,
}

/// Added tenants that were kept, for a daemon that is about to start.
pub(crate) struct Kept {
    file: Settings,
    added: Added,
    merged: Settings,
}

impl Kept {
    /// Reads them.
    pub(crate) fn read(file: Settings, own_uid: u32) -> Result<Kept, ChangeError> {
        let mut added = file.tenants_file.as_deref().map(kept::read).transpose()?.unwrap_or_default();
        let before = added.len();
        added.retain(|name, _| !file.tenants.contains_key(name) && name != DEFAULT);
        if let Some(path) = file.tenants_file.as_deref().filter(|_| added.len() < before) {
            // They are the settings file's now, and must not come back when it drops them.
            kept::write(path, &added)?;
        }
        let merged = merged(&file, &added, own_uid).map_err(ChangeError::Wrong)?;
        Ok(Kept { file, added, merged })
    }

    /// The settings with them.
    pub(crate) fn merged(&self) -> &Settings {
        &self.merged
    }

    /// The tenants' sockets.
    pub(crate) fn prepare(&self) -> Result<Vec<Prepared>, ChangeError> {
        Ok(Doors::default().prepare(&self.merged)?)
    }
}

impl Keeper {
    /// Accepts on the tenants' sockets; `app` has the merged settings. Once for each `app`.
    pub(crate) fn new(app: &Arc<App>, rim: &Rim, kept: Kept, prepared: Vec<Prepared>) -> Keeper {
        let asks = app.tenancy.take_receiver().expect("an app has one keeper");
        let mut doors = Doors::default();
        doors.open(prepared, rim);
        let Kept { file, added, .. } = kept;
        let read = file.clone();
        Keeper { app: app.clone(), rim: rim.clone(), asks, read, file, added, doors }
    }

    /// Makes changes until `stopped`.
    pub(crate) async fn run(mut self, stopped: impl Future<Output = ()>) {
        let mut stopped = std::pin::pin!(stopped);
        loop {
            let ask = tokio::select! {
                biased;
                () = &mut stopped => break,
                ask = self.asks.recv() => ask,
            };
            // Whoever asked may be gone; the change is made all the same.
            match ask {
                Some(Ask::Change(change, reply)) => drop(reply.send(self.change(change).await)),
                Some(Ask::File(new, reply)) => drop(reply.send(self.take_up(*new).await)),
                Some(Ask::Look(reply)) => drop(reply.send(self.look())),
                None => break,
            }
        }
        self.doors.close_all().await;
    }

    fn look(&self) -> Vec<TenantView> {
        let settings = self.app.settings();
        let only = settings.tenants.is_empty().then(|| TenantSettings::only(self.app.own_uid()));
        let only = only.map(|tenant| (DEFAULT.to_owned(), tenant));
        let all = settings.tenants.iter().map(|(name, tenant)| (name.clone(), tenant.clone())).chain(only);
        let view = |(name, settings): (String, TenantSettings)| {
            let connections = self.rim.table().of_tenant(&TenantId::new(&name));
            TenantView { origin: self.origin(&name), name, settings, connections }
        };
        all.map(view).collect()
    }

    fn origin(&self, name: &str) -> Origin {
        if self.file.tenants.contains_key(name) {
            Origin::Settings
        } else if self.added.contains_key(name) {
            Origin::Added
        } else {
            Origin::Default
        }
    }

    async fn change(&mut self, change: Change) -> Result<Done, ChangeError> {
        match change {
            Change::Put { name, tenant, if_there } => self.put(name, &tenant, if_there).await,
            Change::Remove { name } => {
                self.check_added(&name)?;
                let mut added = self.added.clone();
                added.remove(&name);
                self.apply(self.read.clone(), added).await?;
                Ok(Done::Removed)
            }
            Change::PutLease { tenant, name, lease, if_there } => {
                self.check_added(&tenant)?;
                let is_there = self.added[&tenant].leases.contains_key(&name);
                if is_there && if_there == IfThere::Refuse {
                    return Err(ChangeError::Exists(format!("lease `{name}` of tenant `{tenant}`")));
                }
                self.with_leases(tenant, |leases| drop(leases.insert(name, lease))).await?;
                Ok(if is_there { Done::Replaced } else { Done::Created })
            }
            Change::RemoveLease { tenant, name } => {
                self.check_added(&tenant)?;
                if !self.added[&tenant].leases.contains_key(&name) {
                    return Err(ChangeError::NoLease { tenant, lease: name });
                }
                self.with_leases(tenant, |leases| drop(leases.remove(&name))).await?;
                Ok(Done::Removed)
            }
        }
    }

    /// Only what was added may be changed: what stands in the file would come back with it.
    fn check_added(&self, name: &str) -> Result<(), ChangeError> {
        match self.origin(name) {
            Origin::Added => Ok(()),
            Origin::Settings => Err(ChangeError::InSettings(name.to_owned())),
            Origin::Default if name == DEFAULT && self.file.tenants.is_empty() => Err(ChangeError::Default),
            Origin::Default => Err(ChangeError::NoTenant(name.to_owned())),
        }
    }

    async fn put(&mut self, name: String, tenant: &Value, if_there: IfThere) -> Result<Done, ChangeError> {
        let is_there = match self.check_added(&name) {
            Ok(()) => true,
            Err(ChangeError::NoTenant(_)) => false,
            Err(error) => return Err(error),
        };
        if is_there && if_there == IfThere::Refuse {
            return Err(ChangeError::Exists(format!("tenant `{name}`")));
        }
        if name == DEFAULT {
            let text = format!(
                "`{DEFAULT}` is what whoever runs the daemon is called where the settings name no tenants"
            );
            return Err(ChangeError::Wrong(vec![text]));
        }
        let tenant = TenantSettings::from_json(&name, tenant).map_err(ChangeError::Wrong)?;
        let mut added = self.added.clone();
        added.insert(name, tenant);
        self.apply(self.read.clone(), added).await?;
        Ok(if is_there { Done::Replaced } else { Done::Created })
    }

    async fn with_leases(
        &mut self,
        tenant: String,
        change: impl FnOnce(&mut serde_json::Map<String, Value>),
    ) -> Result<(), ChangeError> {
        let mut json = json!(self.added[&tenant]);
        match &mut json["leases"] {
            Value::Object(leases) => change(leases),
            other => unreachable!("leases are a table, not {other}"),
        }
        let changed = TenantSettings::from_json(&tenant, &json).map_err(ChangeError::Wrong)?;
        let mut added = self.added.clone();
        added.insert(tenant, changed);
        self.apply(self.read.clone(), added).await
    }

    /// The file was read again. Added tenants that it names now are its own from here on.
    async fn take_up(&mut self, new: Settings) -> Result<reload::Changes, ChangeError> {
        let changes = reload::changes(&self.file, &new);
        let mut added = self.added.clone();
        added.retain(|name, _| !new.tenants.contains_key(name));
        self.apply(new, added).await?;
        Ok(changes)
    }

    /// All or nothing, up to the point where the change is in force.
    async fn apply(&mut self, read: Settings, added: Added) -> Result<(), ChangeError> {
        let Settings { tenants, .. } =
            merged(&read, &added, self.app.own_uid()).map_err(ChangeError::Wrong)?;
        let file = reload::merge(&self.file, read.clone());
        let merged = Settings { tenants, ..file.clone() };
        // Pools are made at the start, and nobody may end up in another one than the lease says.
        let homeless = merged.leases_without_pool();
        if !homeless.is_empty() {
            let waits = |text: String| {
                format!("{text}; pools that the settings file has now are there after a restart")
            };
            return Err(ChangeError::Wrong(homeless.into_iter().map(waits).collect()));
        }
        let prepared = self.doors.prepare(&merged)?;
        if let Some(path) = file.tenants_file.clone()
            && added != self.added
        {
            let added = added.clone();
            // Waits for the disk.
            let written = tokio::task::spawn_blocking(move || kept::write(&path, &added)).await;
            written.unwrap_or(Err(KeptError::Interrupted))?;
        }
        (self.read, self.file, self.added) = (read, file, added);
        let gone = self.app.put_in_force(merged);
        let merged = self.app.settings();
        self.doors.close_unwanted(&merged).await;
        for tenant in &gone {
            self.rim.end_tenant(tenant);
            self.app.forget(tenant);
        }
        self.doors.open(prepared, &self.rim);
        for error in self.doors.open_rest(&merged, &self.rim) {
            tracing::error!(error = &error as &dyn std::error::Error, "a tenant's socket is not there");
        }
        Ok(())
    }
}

/// Where tenants' sockets are.
pub(crate) fn addresses(prepared: &[Prepared]) -> impl Iterator<Item = BoundAddress> {
    prepared.iter().map(|one| one.listener().bound().clone())
}
