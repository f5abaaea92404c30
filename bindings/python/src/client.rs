// SPDX-License-Identifier: Apache-2.0
//! A connection to a daemon.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use diolkos_client::types::DataType;
use diolkos_client::{Error, ModelState, Waiting};
use pyo3::prelude::*;

use crate::errors;
use crate::memory::Memory;
use crate::model::Model;
use crate::process::Own;
use crate::wait;

/// The next client's number.
static NEXT: AtomicU64 = AtomicU64::new(1);

/// Nanoseconds in a queue, copying in, computing, copying out.
pub(crate) type Timing = (u64, u64, u64, u64);

/// Name, version, state, reason.
type Info = (String, Option<u64>, &'static str, String);

/// Name, version, succeeded, failed, executions, timing.
type Stats = (String, u64, u64, u64, u64, Timing);

pub(crate) fn timing(timing: &diolkos_client::Timing) -> Timing {
    (timing.queue_ns, timing.copy_in_ns, timing.compute_ns, timing.copy_out_ns)
}

/// A time that a program gave in seconds.
pub(crate) fn duration(seconds: f64) -> PyResult<Duration> {
    Duration::try_from_secs_f64(seconds)
        .map_err(|error| errors::invalid(&format!("{seconds} seconds: {error}")))
}

/// A daemon, as a client sees it.
#[pyclass(frozen, module = "diolkos._native")]
pub(crate) struct Client {
    client: Own<diolkos_client::Client>,
    /// Tells this client's memory from that of others.
    #[pyo3(get)]
    number: u64,
}

impl Client {
    /// Does something that asks the daemon.
    fn ask<T: Send + 'static>(
        &self,
        py: Python<'_>,
        ask: impl FnOnce(&diolkos_client::Client) -> Result<T, Error> + Send + 'static,
    ) -> PyResult<T> {
        let client = self.client.get()?.clone();
        wait::interruptible(py, move || ask(&client))?.map_err(|error| errors::exception(&error))
    }
}

#[pymethods]
impl Client {
    #[new]
    #[pyo3(signature = (address, *, waiting, private_memory, in_flight, region_bytes, reconnect, name, tenant, huge_pages))]
    #[expect(clippy::too_many_arguments, reason = "they have names in Python")]
    fn new(
        py: Python<'_>,
        address: String,
        waiting: &str,
        private_memory: bool,
        in_flight: u32,
        region_bytes: usize,
        reconnect: f64,
        name: String,
        tenant: Option<String>,
        huge_pages: bool,
    ) -> PyResult<Client> {
        let waiting = match waiting {
            "adaptive" => Waiting::Adaptive,
            "blocking" => Waiting::Blocking,
            "polling" => Waiting::Polling,
            other => {
                return Err(errors::invalid(&format!(
                    "waiting is adaptive, blocking or polling, and not {other:?}"
                )));
            }
        };
        let memory =
            if private_memory { diolkos_client::Memory::Private } else { diolkos_client::Memory::Shared };
        let reconnect = duration(reconnect)?;
        let options = diolkos_client::Options {
            waiting,
            memory,
            in_flight,
            region_bytes,
            reconnect,
            name,
            huge_pages,
            ..diolkos_client::Options::default()
        };
        let options = match tenant {
            Some(tenant) => diolkos_client::Options { tenant, ..options },
            None => options,
        };
        let connect = move || {
            let client = diolkos_client::Client::connect_with(&address, options)?;
            // Makes the first region here, where waiting for the daemon can be interrupted. Whoever can't have one is told
            // when they want it.
            let _ = client.tensor_of(DataType::Uint8, &[0], 0);
            Ok(client)
        };
        let client = wait::interruptible(py, connect)?.map_err(|error: Error| errors::exception(&error))?;
        // Relaxed: it only has to be another one each time.
        Ok(Client { client: Own::new(client), number: NEXT.fetch_add(1, Ordering::Relaxed) })
    }

    /// Whether tensors lie in memory that the daemon shares.
    #[getter]
    fn shares_memory(&self, py: Python<'_>) -> PyResult<bool> {
        let client = self.client.get()?;
        Ok(wait::detached(py, || client.shares_memory()))
    }

    /// Memory for a tensor.
    fn allocate(&self, py: Python<'_>, data_type: &str, shape: Vec<u64>, nbytes: usize) -> PyResult<Memory> {
        let data_type: DataType = data_type
            .parse()
            .map_err(|error: diolkos_client::types::UnknownDataType| errors::invalid(&error.to_string()))?;
        let client = self.client.get()?;
        let tensor = wait::soon(
            py,
            client,
            (data_type, shape, nbytes),
            |_| client.would_wait_for(nbytes),
            |client, (data_type, shape, nbytes)| client.tensor_of(data_type, &shape, nbytes),
        )?;
        Ok(Memory::to_fill(tensor.map_err(|error| errors::exception(&error))?, self.number))
    }

    /// Opens a model.
    fn open(&self, py: Python<'_>, name: String, version: Option<u64>) -> PyResult<Model> {
        let model = self.ask(py, move |client| match version {
            None => client.open(&name),
            Some(version) => client.open_version(&name, version),
        })?;
        Ok(Model::new(model, self.client.get()?.clone(), self.number))
    }

    /// Name, version, state and reason of every model.
    fn models(&self, py: Python<'_>) -> PyResult<Vec<Info>> {
        let models = self.ask(py, diolkos_client::Client::models)?;
        let models = models.into_iter().map(|model| {
            let state = match model.state {
                ModelState::Ready => "ready",
                ModelState::Loading => "loading",
                ModelState::Unavailable => "unavailable",
                ModelState::Failed => "failed",
            };
            (model.name, model.version, state, model.reason)
        });
        Ok(models.collect())
    }

    /// What a model, or all of them, did so far.
    fn stats(&self, py: Python<'_>, name: Option<String>) -> PyResult<Vec<Stats>> {
        let stats = self.ask(py, move |client| client.stats(name.as_deref()))?;
        let stats = stats.into_iter().map(|model| {
            (
                model.name,
                model.version,
                model.succeeded,
                model.failed,
                model.executions,
                timing(&model.timing),
            )
        });
        Ok(stats.collect())
    }

    /// Whether it is live, and ready.
    fn health(&self, py: Python<'_>) -> PyResult<(bool, bool)> {
        let health = self.ask(py, diolkos_client::Client::health)?;
        Ok((health.live, health.ready))
    }

    /// Loads a model.
    fn load(&self, py: Python<'_>, name: String) -> PyResult<()> {
        self.ask(py, move |client| client.load(&name))
    }

    /// Unloads a model.
    fn unload(&self, py: Python<'_>, name: String) -> PyResult<()> {
        self.ask(py, move |client| client.unload(&name))
    }

    /// Ends the connection, and every wait. Does nothing in a process that was forked off.
    fn close(&self, py: Python<'_>) {
        if let Ok(client) = self.client.get() {
            wait::detached(py, || client.close());
        }
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        if let Some(client) = self.client.take() {
            wait::drop_detached(client);
        }
    }
}
