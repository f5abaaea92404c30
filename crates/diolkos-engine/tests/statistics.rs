// SPDX-License-Identifier: Apache-2.0
//! What happened to whose requests: everybody's is the sum, and nothing of another tenant's shows in one's own.

#![allow(clippy::unwrap_used)] // A test may panic.

mod common;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Sender, channel};

use common::{Gate, TestOperation, engine, give_back, waits_at};
use diolkos_backend::null::NullBackend;
use diolkos_backend::{Buffer, RunError, Tensor};
use diolkos_engine::account::{ModelStats, Total, Whose};
use diolkos_engine::store::{NoRehearsal, Store, StoreConfig};
use diolkos_engine::{
    ControlRequest, Engine, EngineConfig, Lease, NamedTensor, Patterns, Policy, Reply, Request, Session,
    Share, Ticket,
};
use diolkos_types::{Code, DataType, HandleId, Shape, TenantId};

fn request(handle: HandleId, rows: u64) -> Request {
    let data: Vec<u8> = vec![0; rows as usize * 8];
    let tensor = Tensor {
        data_type: DataType::Fp32,
        shape: Shape::new(&[rows, 2]).unwrap(),
        data: Buffer::from(data),
    };
    Request { inputs: vec![NamedTensor { name: "x".into(), tensor }], ..Request::new(handle) }
}

fn session(engine: &Engine, tenant: &str) -> Session {
    engine.open_session(&TenantId::new(tenant)).unwrap()
}

fn call(session: &Session, name: &str, rows: u64) -> Reply {
    let handle = session.open(name, None).unwrap();
    session.call(request(handle, rows))
}

fn submit(session: &Session, name: &str, rows: u64, send: &Sender<Reply>) -> Ticket {
    let send = send.clone();
    let handle = session.open(name, None).unwrap();
    session.submit(request(handle, rows), Box::new(move |reply| send.send(reply).unwrap()))
}

fn stats(session: &Session, name: &str, whose: Whose) -> ModelStats {
    session.stats(&session.find(name).unwrap().bind(None).unwrap(), whose)
}

fn own(session: &Session, name: &str) -> ModelStats {
    stats(session, name, Whose::Own)
}

fn everybody(session: &Session, name: &str) -> ModelStats {
    stats(session, name, Whose::Everybody)
}

/// Everything that adds up.
fn sums(stats: &ModelStats) -> Vec<u64> {
    let totals = [
        &stats.success,
        &stats.fail,
        &stats.queue,
        &stats.compute_input,
        &stats.compute_infer,
        &stats.compute_output,
    ];
    let mut sums: Vec<u64> = totals.into_iter().flat_map(|t: &Total| [t.count(), t.nanoseconds()]).collect();
    sums.extend(Code::ALL.map(|code| stats.failures.get(code)));
    sums.extend([&stats.inferences, &stats.executions].map(|count| count.load(Ordering::Relaxed)));
    sums.push(stats.pending.get());
    sums.extend(stats.latency.counts());
    sums.push(stats.latency.sum_ns());
    sums
}

/// Success, failure, rows, runs.
fn counts(stats: &ModelStats) -> (u64, u64, u64, u64) {
    let number = |count: &std::sync::atomic::AtomicU64| count.load(Ordering::Relaxed);
    (stats.success.count(), stats.fail.count(), number(&stats.inferences), number(&stats.executions))
}

fn nothing() -> Vec<u64> {
    sums(&ModelStats::default())
}

#[test]
fn each_tenant_sees_its_own_requests_and_everybody_is_the_sum() {
    let fails_on_three = TestOperation::new(|work, signature| {
        let rows = work.input(0).map(|input| input.shape.dims()[0]);
        if rows == Some(3) {
            return Err(RunError::Failed { backend: "test", reason: "three".into() });
        }
        give_back(work, signature)
    });
    let engine = engine(1, vec![("same", fails_on_three)]);
    let (a, b, idle) = (session(&engine, "a"), session(&engine, "b"), session(&engine, "idle"));
    assert!(call(&a, "same", 2).result.is_ok());
    let of_a = own(&a, "same");
    let before = (sums(&of_a), of_a.last_inference_ms() > 0);
    // Whatever may become of a request: it succeeds, it fails as it runs, it is not admitted.
    for _ in 0..2 {
        assert!(call(&b, "same", 5).result.is_ok());
    }
    assert_eq!(call(&b, "same", 3).result.unwrap_err().code(), Code::Internal);
    let handle = b.open("same", None).unwrap();
    assert_eq!(b.call(Request::new(handle)).result.unwrap_err().code(), Code::InvalidArgument);
    let of_a = own(&a, "same");
    assert_eq!((sums(&of_a), of_a.last_inference_ms() > 0), before);
    assert_eq!(counts(&of_a), (1, 0, 2, 1));
    assert_eq!(counts(&own(&b, "same")), (2, 2, 10, 3));
    assert_eq!(sums(&own(&idle, "same")), nothing());
    assert_eq!(own(&idle, "same").last_inference_ms(), 0);
    // Another session of the same tenant is the same tenant.
    assert_eq!(sums(&own(&session(&engine, "a"), "same")), before.0);
    let all = everybody(&idle, "same");
    let sum: Vec<u64> = before.0.iter().zip(sums(&own(&b, "same"))).map(|(of_a, of_b)| of_a + of_b).collect();
    assert_eq!(sums(&all), sum);
    assert!(all.last_inference_ms() > 0);
}

#[test]
fn what_waits_or_is_refused_is_its_tenants() {
    let gate = Gate::new();
    let engine = engine(1, vec![("wait", waits_at(&gate)), ("other", TestOperation::new(give_back))]);
    let share = Share { running_max: 1, waiting_max: 1, ..Share::ALL };
    let lease = Lease { operations: Patterns::new(["wait"]), share, ..Lease::everything() };
    engine.set_policy(&TenantId::new("b"), Policy { leases: vec![lease], ..Policy::everything() });
    let (a, b) = (session(&engine, "a"), session(&engine, "b"));
    let (send, receive) = channel();
    let _runs = submit(&b, "wait", 1, &send);
    gate.wait_for_arrivals(1);
    let waits = submit(&b, "wait", 1, &send);
    assert_eq!((own(&a, "wait").pending.get(), own(&b, "wait").pending.get()), (0, 1));
    // One too many, and one that is not wanted any more.
    let _refused = submit(&b, "wait", 1, &send);
    assert_eq!(receive.recv().unwrap().result.unwrap_err().code(), Code::Busy);
    waits.cancel();
    assert_eq!(receive.recv().unwrap().result.unwrap_err().code(), Code::Cancelled);
    gate.open();
    assert!(receive.recv().unwrap().result.is_ok());
    assert_eq!(sums(&own(&a, "wait")), nothing());
    let of_b = own(&b, "wait");
    assert_eq!((counts(&of_b), of_b.pending.get()), ((1, 2, 1, 1), 0));
    assert_eq!((of_b.failures.get(Code::Busy), of_b.failures.get(Code::Cancelled)), (1, 1));
    assert_eq!(sums(&everybody(&a, "wait")), sums(&of_b));
    // A request for what no lease allows is none for it.
    let version = a.find("other").unwrap().bind(None).unwrap();
    let handle = {
        engine.set_policy(&TenantId::new("b"), Policy::everything());
        let handle = b.open("other", None).unwrap();
        engine.set_policy(&TenantId::new("b"), Policy::nothing());
        handle
    };
    assert_eq!(b.call(request(handle, 1)).result.unwrap_err().code(), Code::NotFound);
    assert_eq!(sums(&a.stats(&version, Whose::Everybody)), nothing());
}

fn with_model(dir: &Path) -> Engine {
    let store = Store::new(StoreConfig::default(), vec![Arc::new(NullBackend)], Box::new(NoRehearsal));
    let store = store.unwrap();
    store.add_repository(dir).unwrap();
    store.load("m").unwrap();
    Engine::start(&EngineConfig::cpu(1), store).unwrap()
}

#[test]
fn accounts_live_as_long_as_their_version() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("m.null");
    std::fs::write(&file, "input x FP32 [n,2]\noutput y FP32 [n,2]\n").unwrap();
    let engine = with_model(dir.path());
    let control = |request| engine.control_and_wait(request).unwrap();
    let (a, b) = (session(&engine, "a"), session(&engine, "b"));
    assert!(call(&a, "m", 1).result.is_ok() && call(&b, "m", 2).result.is_ok());
    let told = || (counts(&own(&a, "m")), counts(&own(&b, "m")), counts(&everybody(&a, "m")));
    let both = ((1, 0, 1, 1), (1, 0, 2, 1), (2, 0, 3, 2));
    assert_eq!(told(), both);
    // It is loaded again, and then from another file.
    control(ControlRequest::Unload { name: "m".into() });
    control(ControlRequest::Load { name: "m".into() });
    assert_eq!(told(), both);
    std::fs::write(&file, "# new\ninput x FP32 [n,2]\noutput y FP32 [n,2]\n").unwrap();
    control(ControlRequest::Load { name: "m".into() });
    assert_eq!(told(), both);
    // Once the version is gone, so are they: what comes back later is another one.
    let away = dir.path().join(".m");
    std::fs::rename(&file, &away).unwrap();
    control(ControlRequest::Rescan);
    std::fs::rename(&away, &file).unwrap();
    control(ControlRequest::Rescan);
    control(ControlRequest::Load { name: "m".into() });
    assert_eq!(told(), ((0, 0, 0, 0), (0, 0, 0, 0), (0, 0, 0, 0)));
}
