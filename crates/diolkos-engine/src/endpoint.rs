// SPDX-License-Identifier: Apache-2.0
//! The engine as an [`Endpoint`]: what a program that has it in its own process uses, directly or through
//! `diolkos_client::Client::local`.

use std::fmt;
use std::sync::atomic::Ordering;
use std::sync::{Arc, mpsc};

use diolkos_backend::endpoint::{
    Cancel, Done, Endpoint, Inferred, ModelRow, ModelState, NamedTensor, Opened, Request, StatsRow, Timing,
};
use diolkos_types::{HandleId, Status, TenantId};

use crate::account::{ModelStats, Total, Whose};
use crate::control::ControlRequest;
use crate::engine::Engine;
use crate::request::Reply;
use crate::session::{Session, Ticket};
use crate::store::{BindError, IndexRow, IndexState, LoadedVersion};

/// A session of the engine in this process, as an endpoint. What it has open and in flight ends with it.
pub struct LocalEndpoint {
    engine: Engine,
    session: Session,
}

impl Engine {
    /// An endpoint for a tenant, with a session of its own. Whoever has it may load and unload models: it is the
    /// program that has the engine.
    pub fn endpoint(&self, tenant: &TenantId) -> Result<LocalEndpoint, Status> {
        Ok(LocalEndpoint { engine: self.clone(), session: self.open_session(tenant)? })
    }
}

impl LocalEndpoint {
    /// Waits until an installed model that is not loaded is, or loading it has failed.
    fn warm(&self, name: &str, version: Option<u64>) {
        let entry = self.session.find(name);
        if entry.is_ok_and(|entry| matches!(entry.bind(version), Err(BindError::Cold))) {
            let (send, receive) = mpsc::sync_channel(1);
            self.session.warm(name, move |result| {
                // The receiver outlives the call, below.
                let _ = send.send(result);
            });
            // How it ended shows when it is bound, in the same words as for everybody else.
            let _ = receive.recv();
        }
    }
}

impl Endpoint for LocalEndpoint {
    fn open(&self, name: &str, version: Option<u64>) -> Result<Opened, Status> {
        let handle = self.session.open(name, version)?;
        self.warm(name, version);
        match self.session.bound_version(handle) {
            Ok(bound) => Ok(Opened { handle, version: bound.version, signature: bound.signature.clone() }),
            Err(status) => {
                self.close(handle);
                Err(status)
            }
        }
    }

    fn close(&self, handle: HandleId) {
        // One that is not open is closed.
        let _ = self.session.close(handle);
    }

    fn submit(&self, request: Request, done: Done) -> Box<dyn Cancel> {
        let sink = move |reply: Reply| done(inferred(reply));
        Box::new(self.session.submit(request, Box::new(sink)))
    }

    fn models(&self) -> Result<Vec<ModelRow>, Status> {
        Ok(self.session.index().into_iter().map(model_row).collect())
    }

    fn stats(&self, name: Option<&str>) -> Result<Vec<StatsRow>, Status> {
        let entries = match name {
            None => self.session.entries(),
            Some(name) => vec![self.session.find(name)?],
        };
        let versions = entries.iter().flat_map(|entry| entry.ready());
        // Whoever has the engine may know what all its tenants did.
        let row =
            |loaded: Arc<LoadedVersion>| stats_row(&loaded, &self.session.stats(&loaded, Whose::Everybody));
        Ok(versions.map(row).collect())
    }

    fn load(&self, name: &str) -> Result<(), Status> {
        self.engine.control_and_wait(ControlRequest::Load { name: name.to_owned() }).map(drop)
    }

    fn unload(&self, name: &str) -> Result<(), Status> {
        self.engine.control_and_wait(ControlRequest::Unload { name: name.to_owned() }).map(drop)
    }

    fn is_ready(&self) -> bool {
        !self.engine.is_draining()
    }
}

impl fmt::Debug for LocalEndpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LocalEndpoint({:?})", self.session)
    }
}

impl Cancel for Ticket {
    fn cancel(&self) {
        Ticket::cancel(self);
    }
}

fn inferred(reply: Reply) -> Result<Inferred, Status> {
    let Reply { result, timing, .. } = reply;
    let outputs = result?;
    let specs = outputs.version.signature.clone();
    let named = outputs.tensors.into_iter().map(|(index, tensor)| {
        let name = specs.outputs[index].name.clone();
        NamedTensor { name, tensor }
    });
    Ok(Inferred { version: outputs.version.version, timing, outputs: named.collect() })
}

fn model_row(row: IndexRow) -> ModelRow {
    let state = match row.state {
        IndexState::Ready => ModelState::Ready,
        IndexState::Loading => ModelState::Loading,
        IndexState::Unavailable if !row.reason.is_empty() => ModelState::Failed,
        IndexState::Unloading | IndexState::Unavailable => ModelState::Unavailable,
    };
    ModelRow { name: row.name, version: row.version, state, reason: row.reason }
}

fn stats_row(loaded: &LoadedVersion, stats: &ModelStats) -> StatsRow {
    let time = |total: &Total| std::time::Duration::from_nanos(total.nanoseconds());
    StatsRow {
        name: loaded.name.to_string().into(),
        version: loaded.version,
        succeeded: stats.success.count(),
        failed: stats.fail.count(),
        executions: stats.executions.load(Ordering::Relaxed),
        timing: Timing {
            queue: time(&stats.queue),
            copy_in: time(&stats.compute_input),
            compute: time(&stats.compute_infer),
            copy_out: time(&stats.compute_output),
        },
    }
}
