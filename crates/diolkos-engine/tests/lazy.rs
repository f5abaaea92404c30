// SPDX-License-Identifier: Apache-2.0
//! Models that are loaded at their first request: whoever comes meanwhile waits for the one load.

#![allow(clippy::unwrap_used)] // A test may panic.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use diolkos_backend::faulty::{FaultyBackend, Gate, LoadFault, Plan, RunFault};
use diolkos_backend::null::NullBackend;
use diolkos_backend::{Buffer, Tensor};
use diolkos_engine::store::{NoRehearsal, Store, StoreConfig};
use diolkos_engine::{
    ControlReply, ControlRequest, Engine, EngineConfig, NamedTensor, Policy, Reply, Request, Session, Ticket,
};
use diolkos_types::{Code, DataType, HandleId, Param, Params, Shape, TenantId};

const MODEL: &str = "input x FP32 [4]\noutput y FP32 [4]\n";

/// An engine that knows the model `lazy`, whose loads go by `loads`.
fn lazy_engine(loads: &Plan<LoadFault>) -> (Engine, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("lazy.null");
    std::fs::write(&path, MODEL).unwrap();
    let backend = FaultyBackend::new(Arc::new(NullBackend), loads.clone(), Plan::always(RunFault::None));
    let config = StoreConfig { lazy: true, ..StoreConfig::default() };
    let store = Store::new(config, vec![Arc::new(backend)], Box::new(NoRehearsal)).unwrap();
    store.add_file(&path).unwrap();
    (Engine::start(&EngineConfig::cpu(2), store).unwrap(), dir)
}

fn session(engine: &Engine) -> Session {
    engine.open_session(&TenantId::default()).unwrap()
}

fn request(handle: HandleId) -> Request {
    let tensor = Tensor {
        data_type: DataType::Fp32,
        shape: Shape::new(&[4]).unwrap(),
        data: Buffer::from(vec![0; 16]),
    };
    Request { inputs: vec![NamedTensor { name: "x".into(), tensor }], ..Request::new(handle) }
}

fn submit(session: &Session, request: Request, send: &Sender<Reply>) -> Ticket {
    let send = send.clone();
    session.submit(request, Box::new(move |reply| send.send(reply).unwrap()))
}

fn next_code(receive: &Receiver<Reply>) -> Result<(), Code> {
    receive.recv().unwrap().result.map(drop).map_err(|status| status.code())
}

#[test]
fn many_first_requests_cause_one_load() {
    let gate = Gate::new();
    let loads = Plan::always(LoadFault::Hold(gate.clone()));
    let (engine, _dir) = lazy_engine(&loads);
    let session = session(&engine);
    let handle = session.open("lazy", None).unwrap();
    assert_eq!(loads.begun(), 0, "opening a handle loads nothing");
    let (send, receive) = channel();
    for _ in 0..50 {
        let _ticket = submit(&session, request(handle), &send);
    }
    gate.wait_for_arrivals(1);
    assert!(receive.try_recv().is_err(), "nobody is answered before the model is there");
    gate.open();
    for _ in 0..50 {
        assert_eq!(next_code(&receive), Ok(()));
    }
    assert_eq!(loads.begun(), 1);
}

#[test]
fn whoever_only_asks_what_the_model_is_causes_no_load_of_his_own() {
    let gate = Gate::new();
    let loads = Plan::always(LoadFault::Hold(gate.clone()));
    let (engine, _dir) = lazy_engine(&loads);
    let session = session(&engine);
    let handle = session.open("lazy", None).unwrap();
    let (send, receive) = channel();
    let (send_warm, warm) = channel();
    for _ in 0..50 {
        let tell = send_warm.clone();
        session.warm("lazy", move |result| tell.send(result).unwrap());
        let _ticket = submit(&session, request(handle), &send);
    }
    gate.wait_for_arrivals(1);
    assert!(warm.try_recv().is_err(), "nobody is told before the model is there");
    gate.open();
    for _ in 0..50 {
        assert_eq!(warm.recv().unwrap(), Ok(()));
        assert_eq!(next_code(&receive), Ok(()));
    }
    assert_eq!(loads.begun(), 1);
}

#[test]
fn a_share_of_one_tenant_is_no_limit_of_another() {
    let gate = Gate::new();
    let loads = Plan::always(LoadFault::Hold(gate.clone()));
    let (engine, dir) = lazy_engine(&loads);
    std::fs::write(dir.path().join("lazy.null"), format!("{MODEL}resident 100000\n")).unwrap();
    let little = Policy { models_memory_max: 50_000, ..Policy::everything() };
    let of = |name: &str, policy: Policy| {
        engine.set_policy(&TenantId::new(name), policy);
        engine.open_session(&TenantId::new(name)).unwrap()
    };
    let (poor, rich) = (of("poor", little), of("rich", Policy::everything()));
    let (send, receive) = channel();
    // It has no room, and whoever comes while that turns out is not told so, and has the model.
    let handle = poor.open("lazy", None).unwrap();
    let _ticket = submit(&poor, request(handle), &send);
    gate.wait_for_arrivals(1);
    let (send_rich, receive_rich) = channel();
    let handle = rich.open("lazy", None).unwrap();
    let _ticket = submit(&rich, request(handle), &send_rich);
    gate.open();
    assert_eq!(next_code(&receive), Err(Code::TooLarge));
    assert_eq!(next_code(&receive_rich), Ok(()));
    let memory =
        |name: &str| engine.tenants().iter().find(|tenant| tenant.id.name() == name).unwrap().models_memory;
    assert!(memory("poor") == 0 && memory("rich") > 0, "{}", memory("rich"));
    // It is there now, for everybody whose lease has it.
    let handle = poor.open("lazy", None).unwrap();
    let _ticket = submit(&poor, request(handle), &send);
    assert_eq!(next_code(&receive), Ok(()));
}

#[test]
fn a_load_that_fails_tells_everybody_who_waited_and_may_be_tried_again() {
    let gate = Gate::new();
    let loads = Plan::script(vec![LoadFault::Hold(gate.clone())], LoadFault::None);
    let (engine, dir) = lazy_engine(&loads);
    std::fs::write(dir.path().join("lazy.null"), "this is no model").unwrap();
    let session = session(&engine);
    let handle = session.open("lazy", None).unwrap();
    let (send, receive) = channel();
    for _ in 0..3 {
        let _ticket = submit(&session, request(handle), &send);
    }
    let (send_warm, warm) = channel();
    session.warm("lazy", move |result| send_warm.send(result).unwrap());
    gate.open();
    for _ in 0..3 {
        assert_eq!(next_code(&receive), Err(Code::Unavailable));
    }
    assert_eq!(warm.recv().unwrap().unwrap_err().code(), Code::InvalidArgument, "why it could not be loaded");
    std::fs::write(dir.path().join("lazy.null"), MODEL).unwrap();
    let reply = engine.control_and_wait(ControlRequest::Load { name: "lazy".into() }).unwrap();
    assert!(matches!(reply, ControlReply::Loaded(_)));
    let _ticket = submit(&session, request(handle), &send);
    assert_eq!(next_code(&receive), Ok(()));
}

#[test]
fn whoever_gave_up_while_the_model_was_loaded_does_not_run() {
    let gate = Gate::new();
    let (engine, _dir) = lazy_engine(&Plan::always(LoadFault::Hold(gate.clone())));
    let session = session(&engine);
    let handle = session.open("lazy", None).unwrap();
    let (send_cancelled, cancelled) = channel();
    let (send_late, late) = channel();
    submit(&session, request(handle), &send_cancelled).cancel();
    assert_eq!(next_code(&cancelled), Err(Code::Cancelled), "the answer does not wait for the load");
    for after in [0, 10] {
        let deadline = Some(Instant::now() + Duration::from_millis(after));
        let _late = submit(&session, Request { deadline, ..request(handle) }, &send_late);
        assert_eq!(next_code(&late), Err(Code::DeadlineExceeded));
    }
    assert_eq!(engine.request_memory_used(), 0, "who gave up holds no memory");
    let _waiting = submit(&session, request(handle), &send_late);
    assert_eq!(engine.request_memory_used(), 16, "who waits for a load is charged");
    gate.open();
    assert_eq!(next_code(&late), Ok(()));
}

#[test]
fn parameters_of_whoever_waits_for_a_load_are_charged() {
    let gate = Gate::new();
    let (engine, _dir) = lazy_engine(&Plan::always(LoadFault::Hold(gate.clone())));
    let session = session(&engine);
    let handle = session.open("lazy", None).unwrap();
    let (send, receive) = channel();
    let mut params = Params::new();
    params.set("long", Param::Text("x".repeat(1000).into()));
    let kept = params.bytes() as u64;
    assert!(kept >= 1000, "{kept}");
    let _waiting = submit(&session, Request { params, ..request(handle) }, &send);
    assert_eq!(engine.request_memory_used(), 16 + kept);
    gate.open();
    assert_eq!(next_code(&receive), Ok(()));
    assert_eq!(engine.request_memory_used(), 0);
}

#[test]
fn an_engine_that_stops_answers_whoever_waits_for_a_load() {
    let gate = Gate::new();
    let (engine, _dir) = lazy_engine(&Plan::always(LoadFault::Hold(gate.clone())));
    let (send, receive) = channel();
    let session = session(&engine);
    let handle = session.open("lazy", None).unwrap();
    let _ticket = submit(&session, request(handle), &send);
    gate.wait_for_arrivals(1);
    engine.begin_drain();
    gate.open();
    let answered = next_code(&receive);
    assert!(matches!(answered, Ok(()) | Err(Code::Unavailable)), "{answered:?}");
    assert_eq!(engine.wait_idle(Duration::from_secs(60)), 0);
}
