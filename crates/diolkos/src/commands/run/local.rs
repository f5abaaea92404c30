// SPDX-License-Identifier: Apache-2.0
//! A model file in this process: the same store, engine and checks as in the daemon, without a socket.

use std::collections::BTreeMap;
use std::path::Path;

use diolkos_backend::{Buffer, Tensor};
use diolkos_engine::store::{RehearsalLimits, Store, StoreConfig};
use diolkos_engine::{
    ControlReply, ControlRequest, Engine, EngineConfig, NamedTensor, Request, Session, Timing, account,
};
use diolkos_types::{HandleId, Status, TenantId};

use super::Target;
use crate::backends;
use crate::client::{InferReply, Parts};
use crate::exit::Failure;
use crate::input::Wanted;
use crate::tensor::Value;
use crate::term::{self, Progress};

/// An engine with one model.
pub(super) struct Local {
    session: Session,
    handle: HandleId,
    wanted: Vec<Wanted>,
    labels: BTreeMap<String, Vec<String>>,
    /// Stops when dropped.
    _engine: Engine,
}

/// Loads a model file or a model's directory.
pub(super) fn open(path: &Path, version: Option<u64>) -> Result<Local, Failure> {
    if !path.exists() {
        return Err(Failure::usage(format!("there is no file {}", path.display()))
            .help("name a model file, or a model of a daemon by its name, which has no slash"));
    }
    let failed = |error: &dyn std::error::Error| {
        Failure::failed(format!("{} can't be loaded", path.display())).because(error)
    };
    let rehearser = Box::new(backends::rehearser(RehearsalLimits::default()));
    let store =
        Store::new(StoreConfig::default(), backends::all(), rehearser).map_err(|error| failed(&error))?;
    store.add_file(path).map_err(|error| failed(&error))?;
    let entry = store.entries().into_iter().next().expect("the store has the model that was just added");
    let name = entry.name().to_owned();
    let slots = std::thread::available_parallelism().map_or(1, usize::from);
    let engine = Engine::start(&EngineConfig::cpu(slots), store).map_err(|error| failed(&error))?;
    let progress = Progress::spinner(format!("loading {name} (rehearsed in a child process first)"));
    let loaded = engine.control_and_wait(ControlRequest::Load { name: name.clone() });
    drop(progress);
    if let ControlReply::Loaded(report) = loaded.map_err(|error| failed(&error))? {
        for note in &report.notes {
            eprintln!("note: {note}");
        }
        let load_ns = report.versions.iter().map(|version| version.verdict.load_ns).sum();
        let took = term::time(std::time::Duration::from_nanos(load_ns));
        eprintln!(
            "loaded {name} in this process in {took}; a daemon (`diolkos serve --model {}`) keeps it loaded",
            path.display()
        );
    }
    let session = engine.open_session(&TenantId::default()).map_err(|error| failed(&error))?;
    let handle = session.open(&name, version).map_err(|error| failed(&error))?;
    let bound = session.bound_version(handle).map_err(|error| failed(&error))?;
    let wanted = bound.signature.inputs.iter().map(|spec| Wanted {
        name: spec.name.to_string(),
        data_type: spec.data_type,
        dims: spec.signed_dims(),
    });
    let outputs = bound.signature.outputs.iter().zip(&bound.labels);
    let labels =
        outputs.filter_map(|(spec, labels)| Some((spec.name.to_string(), labels.as_deref()?.to_vec())));
    Ok(Local { session, handle, wanted: wanted.collect(), labels: labels.collect(), _engine: engine })
}

impl Target for Local {
    fn wanted(&self) -> &[Wanted] {
        &self.wanted
    }

    fn labels(&self) -> &BTreeMap<String, Vec<String>> {
        &self.labels
    }

    fn infer(&mut self, inputs: &[Value], outputs: &[String]) -> Result<InferReply, Failure> {
        let mut request = Request::new(self.handle);
        request.inputs = inputs.iter().map(named).collect();
        if !outputs.is_empty() {
            request.outputs = Some(outputs.iter().map(|name| name.as_str().into()).collect());
        }
        let reply = self.session.call(request);
        let done = reply.result.map_err(|status: Status| Failure::failed(status.message()))?;
        let value = |(name, tensor): (&str, &Tensor)| Value {
            name: name.to_owned(),
            data_type: tensor.data_type,
            shape: tensor.shape,
            data: tensor.data.to_private(),
        };
        Ok(InferReply {
            model: done.version.name.to_string(),
            version: done.version.version.to_string(),
            outputs: done.named().map(value).collect(),
            parts: Some(parts(&reply.timing)),
        })
    }
}

fn named(value: &Value) -> NamedTensor {
    NamedTensor {
        name: value.name.as_str().into(),
        tensor: Tensor {
            data_type: value.data_type,
            shape: value.shape,
            data: Buffer::from(value.data.clone()),
        },
    }
}

fn parts(timing: &Timing) -> Parts {
    Parts {
        queue_ns: account::saturating_ns(timing.queue),
        copy_in_ns: account::saturating_ns(timing.copy_in),
        compute_ns: account::saturating_ns(timing.compute),
        copy_out_ns: account::saturating_ns(timing.copy_out),
    }
}
