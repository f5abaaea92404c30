// SPDX-License-Identifier: Apache-2.0
//! Engines in this process, with what the cases run on them.

use std::path::Path;
use std::sync::Arc;

use diolkos_backend::{Buffer, Tensor};
use diolkos_engine::store::{NoRehearsal, Store, StoreConfig};
use diolkos_engine::{
    Class, ControlRequest, Engine, EngineConfig, Lease, NamedTensor, Policy, Request, Session, Share,
};
use diolkos_types::{Shape, TenantId};

use super::spin::{self, Spin};
use crate::backends;
use crate::exit::Failure;

/// An engine that runs [`spin`] and perhaps models.
pub(super) struct Node {
    pub(super) engine: Engine,
}

fn failed(error: &dyn std::error::Error) -> Failure {
    Failure::failed("an engine in this process can't be started").because(error)
}

impl Node {
    /// With so many slots, and these model files loaded.
    pub(super) fn start(slots: usize, batching: bool, files: &[&Path]) -> Result<Node, Failure> {
        // What runs here is ours, or what the operator has tried.
        let store = Store::new(StoreConfig::default(), backends::all(), Box::new(NoRehearsal));
        let store = store.map_err(|error| failed(&error))?;
        let spin = store.add_builtin(spin::NAME, "computes for a while", Arc::new(Spin::new()));
        spin.map_err(|error| failed(&error))?;
        for file in files {
            store.add_file(file).map_err(|error| failed(&error))?;
        }
        let config = EngineConfig { batching, ..EngineConfig::cpu(slots) };
        let engine = Engine::start(&config, store).map_err(|error| failed(&error))?;
        for file in files {
            let name = name(file);
            let loaded = engine.control_and_wait(ControlRequest::Load { name });
            loaded.map_err(|error| failed(&error))?;
        }
        Ok(Node { engine })
    }

    /// Sessions of a tenant, which is given this class and weight.
    pub(super) fn tenant(
        &self,
        name: &str,
        class: Class,
        weight: u32,
        sessions: usize,
    ) -> Result<Vec<Session>, Failure> {
        let id = TenantId::new(name);
        let share = Share { weight, ..Share::ALL };
        let lease = Lease { class, share, ..Lease::everything() };
        self.engine.set_policy(&id, Policy { leases: vec![lease], ..Policy::everything() });
        let open = |_| self.engine.open_session(&id).map_err(|error| failed(&error));
        (0..sessions).map(open).collect()
    }

    /// A request of these sessions for a model: zeros, so many rows.
    pub(super) fn zeros(&self, sessions: &[Session], model: &str, rows: u64) -> Result<Request, Failure> {
        let mut request = open(sessions, model)?;
        let bound = sessions[0].bound_version(request.handle).map_err(|error| failed(&error))?;
        for spec in &bound.signature.inputs {
            let rest = spec.signed_dims().into_iter().skip(1);
            let dims: Vec<u64> =
                [rows].into_iter().chain(rest.map(|length| u64::try_from(length).unwrap_or(1))).collect();
            let shape = Shape::new(&dims).map_err(|error| failed(&error))?;
            let bytes = shape.elements().and_then(|count| spec.data_type.payload_bytes(count)).unwrap_or(0);
            let data = Buffer::from(vec![0; bytes]);
            let tensor = Tensor { data_type: spec.data_type, shape, data };
            request.inputs.push(NamedTensor { name: spec.name.clone(), tensor });
        }
        Ok(request)
    }
}

/// The name under which a file is loaded.
pub(super) fn name(file: &Path) -> String {
    file.file_stem().unwrap_or_default().to_string_lossy().into_owned()
}

/// A request for a model, without inputs. Its handle is the first one of every session, because nothing else is opened.
pub(super) fn open(sessions: &[Session], model: &str) -> Result<Request, Failure> {
    let mut handles = sessions.iter().map(|session| session.open(model, None));
    let first = handles.next().expect("a tenant has a session").map_err(|error| failed(&error))?;
    for handle in handles {
        let handle = handle.map_err(|error| failed(&error))?;
        assert_eq!(handle, first, "handles are numbered for each session");
    }
    Ok(Request::new(first))
}
