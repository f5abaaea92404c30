// SPDX-License-Identifier: Apache-2.0
//! Pools of slots on real threads: who waits for whom, what is lent, and where it runs.

#![allow(clippy::unwrap_used)] // A test may panic.

mod common;

use std::collections::HashSet;
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};

use common::{Gate, TestOperation, engine_with, give_back, waits_at};
use diolkos_backend::{Buffer, Tensor};
use diolkos_engine::store::{NoRehearsal, Store, StoreConfig};
use diolkos_engine::{
    CpuSet, DeviceConfig, Engine, EngineConfig, Lease, NamedTensor, Offer, Policy, PoolConfig, PoolPolicy,
    PoolSnapshot, Reply, Request, Session, StartError, Waited,
};
use diolkos_types::{DataType, HandleId, Shape, TenantId};

fn request(handle: HandleId) -> Request {
    let tensor = Tensor {
        data_type: DataType::Fp32,
        shape: Shape::new(&[1, 2]).unwrap(),
        data: Buffer::from(vec![0; 8]),
    };
    Request { inputs: vec![NamedTensor { name: "x".into(), tensor }], ..Request::new(handle) }
}

fn pool(name: &str, slots: usize, lends: bool) -> PoolConfig {
    PoolConfig { name: name.into(), lends, ..PoolConfig::fair(slots) }
}

fn config(pools: Vec<PoolConfig>) -> EngineConfig {
    EngineConfig { devices: vec![DeviceConfig { pools, ..DeviceConfig::cpu(1) }], ..EngineConfig::cpu(1) }
}

/// A session of a tenant whose lease names this pool.
fn session_in(engine: &Engine, pool: &str) -> Session {
    let id = TenantId::new(pool);
    let lease = Lease { pool: Some(pool.into()), ..Lease::everything() };
    engine.set_policy(&id, Policy { leases: vec![lease], ..Policy::everything() });
    engine.open_session(&id).unwrap()
}

/// Sends a request and says where its reply arrives.
fn send(session: &Session, operation: &str) -> Receiver<Reply> {
    let handle = session.open(operation, None).unwrap();
    let (to, replies) = channel();
    let _ticket = session.submit(request(handle), Box::new(move |reply: Reply| to.send(reply).unwrap()));
    replies
}

fn of_pool(engine: &Engine, name: &str) -> PoolSnapshot {
    let devices = engine.devices();
    devices[0].pools.iter().find(|pool| pool.name == name).unwrap().clone()
}

#[test]
fn a_pool_that_is_full_holds_up_no_other() {
    let gate = Gate::new();
    let operations = vec![("wait", waits_at(&gate)), ("same", TestOperation::new(give_back))];
    let engine = engine_with(&config(vec![pool("default", 1, false), pool("chat", 1, false)]), operations);
    let (chat, reports) = (session_in(&engine, "chat"), session_in(&engine, "default"));
    let stuck = [send(&reports, "wait"), send(&reports, "same")];
    gate.wait_for_arrivals(1);
    assert!(send(&chat, "same").recv().unwrap().result.is_ok());
    let (full, free) = (of_pool(&engine, "default"), of_pool(&engine, "chat"));
    assert_eq!((full.running, full.waiting, full.lent), (1, 1, 0));
    assert_eq!((free.running, free.waiting, free.loans), (0, 0, 0), "it lends nothing");
    gate.open();
    assert!(stuck.iter().all(|reply| reply.recv().unwrap().result.is_ok()));
}

#[test]
fn an_idle_slot_is_lent_and_comes_back_before_others_who_wait() {
    let (own, lent) = (Gate::new(), Gate::new());
    let order: Arc<Mutex<Vec<&str>>> = Arc::default();
    let notes = |name: &'static str| {
        let order = order.clone();
        TestOperation::new(move |work, signature| {
            order.lock().unwrap().push(name);
            give_back(work, signature)
        })
    };
    let operations = vec![
        ("own", waits_at(&own)),
        ("lent", waits_at(&lent)),
        ("first", notes("first")),
        ("second", notes("second")),
    ];
    let engine = engine_with(&config(vec![pool("default", 1, true), pool("busy", 1, true)]), operations);
    let (owner, busy) = (session_in(&engine, "default"), session_in(&engine, "busy"));
    // Both slots are the busy one's, and more waits there, for longer than the owner's.
    let on_own = send(&busy, "own");
    own.wait_for_arrivals(1);
    let on_lent = send(&busy, "lent");
    lent.wait_for_arrivals(1);
    let second = send(&busy, "second");
    assert_eq!((of_pool(&engine, "default").lent, of_pool(&engine, "default").loans), (1, 1));
    let first = send(&owner, "first");
    assert_eq!((of_pool(&engine, "default").waiting, of_pool(&engine, "busy").waiting), (1, 1));
    lent.open();
    let waited = [on_lent, first, second].map(|reply| {
        let reply = reply.recv().unwrap();
        assert!(reply.result.is_ok());
        reply.scheduled.unwrap().waited_for
    });
    assert_eq!(waited, [Waited::Nothing, Waited::Lent, Waited::Slots]);
    assert_eq!(*order.lock().unwrap(), ["first", "second"]);
    own.open();
    assert!(on_own.recv().unwrap().result.is_ok());
    assert_eq!((of_pool(&engine, "default").lent, of_pool(&engine, "default").loans), (0, 2));
}

#[test]
fn a_pool_keeps_its_threads_and_a_loan_runs_on_those_of_its_owner() {
    let seen: Arc<Mutex<HashSet<String>>> = Arc::default();
    let looks = {
        let seen = seen.clone();
        TestOperation::new(move |work, signature| {
            seen.lock().unwrap().insert(std::thread::current().name().unwrap_or("?").to_owned());
            give_back(work, signature)
        })
    };
    let gate = Gate::new();
    let engine = engine_with(
        &config(vec![pool("default", 1, true), pool("other", 1, false)]),
        vec![("look", looks), ("wait", waits_at(&gate))],
    );
    let (default, other) = (session_in(&engine, "default"), session_in(&engine, "other"));
    send(&default, "look").recv().unwrap().result.unwrap();
    send(&other, "look").recv().unwrap().result.unwrap();
    assert_eq!(*seen.lock().unwrap(), HashSet::from(["dk-default-0".into(), "dk-other-0".into()]));
    seen.lock().unwrap().clear();
    let blocked = send(&other, "wait");
    gate.wait_for_arrivals(1);
    send(&other, "look").recv().unwrap().result.unwrap();
    assert_eq!(*seen.lock().unwrap(), HashSet::from(["dk-default-0".into()]));
    gate.open();
    blocked.recv().unwrap().result.unwrap();
}

#[test]
fn pinned_threads_run_where_they_are_told() {
    let Some(all) = CpuSet::of_this_thread() else { return };
    let last = all.to_string().rsplit([',', '-']).next().unwrap().to_owned();
    let one: CpuSet = last.parse().unwrap();
    let seen: Arc<Mutex<Vec<Option<CpuSet>>>> = Arc::default();
    let looks = {
        let seen = seen.clone();
        TestOperation::new(move |work, signature| {
            seen.lock().unwrap().push(CpuSet::of_this_thread());
            give_back(work, signature)
        })
    };
    let pinned = PoolConfig { cpus: Some(one.clone()), ..pool("pinned", 2, false) };
    let engine = engine_with(&config(vec![pool("default", 1, false), pinned]), vec![("look", looks)]);
    let (default, pinned) = (session_in(&engine, "default"), session_in(&engine, "pinned"));
    send(&default, "look").recv().unwrap().result.unwrap();
    for _ in 0..3 {
        // Not even a thread that offers to run anything runs it.
        let handle = pinned.open("look", None).unwrap();
        let (to, replies) = channel();
        let sink = Box::new(move |reply: Reply| to.send(reply).unwrap());
        let (_ticket, here) = pinned.submit_offering(request(handle), sink, Offer::Any);
        assert!(here.is_none());
        replies.recv().unwrap().result.unwrap();
    }
    let seen = seen.lock().unwrap();
    assert_eq!(seen[0].as_ref(), Some(&all));
    assert!(seen[1..].iter().all(|cpus| cpus.as_ref() == Some(&one)), "{seen:?}");
}

#[test]
fn an_engine_that_can_not_be_as_it_is_told_does_not_start() {
    let start = |pools: Vec<PoolConfig>| {
        let store = Store::new(StoreConfig::default(), Vec::new(), Box::new(NoRehearsal)).unwrap();
        Engine::start(&config(pools), store).map(|_| ())
    };
    let nowhere =
        PoolConfig { cpus: Some(CpuSet::LAST.to_string().parse().unwrap()), ..pool("far", 1, true) };
    let error = start(vec![pool("default", 1, true), nowhere]).unwrap_err();
    assert!(matches!(&error, StartError::Pin { pool, .. } if pool == "far"), "{error}");
    assert!(
        error
            .to_string()
            .starts_with("pinning the threads of pool `far` to the CPUs 1023; this process may use ")
    );
    assert!(matches!(start(Vec::new()), Err(StartError::Pools { count: 0, .. })));
    let twice = vec![pool("a", 1, true), pool("a", 1, true)];
    assert!(matches!(start(twice), Err(StartError::Pools { .. })));
    assert!(matches!(start(vec![pool("a", 1, true), pool("b", 0, true)]), Err(StartError::Slots { .. })));
}

#[test]
fn many_tenants_in_lending_pools_all_get_their_answers() {
    let policies = [PoolPolicy::Latency, PoolPolicy::Fair, PoolPolicy::Throughput];
    let pools = policies.into_iter().enumerate().map(|(index, policy)| PoolConfig {
        policy,
        ..pool(&format!("p{index}"), 1 + index % 2, index != 2)
    });
    let engine = engine_with(&config(pools.collect()), vec![("same", TestOperation::new(give_back))]);
    std::thread::scope(|scope| {
        for index in 0..6 {
            let session = session_in(&engine, &format!("p{}", index % 3));
            scope.spawn(move || {
                let replies: Vec<_> = (0..200).map(|_| send(&session, "same")).collect();
                assert!(replies.into_iter().all(|reply| reply.recv().unwrap().result.is_ok()));
            });
        }
    });
    let devices = engine.devices();
    assert!(devices[0].pools.iter().all(|pool| pool.lent + pool.running + pool.waiting == 0));
    assert_eq!(devices[0].arrived, 1200);
}
