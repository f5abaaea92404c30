// SPDX-License-Identifier: Apache-2.0
//! What one tenant may, and what nobody may do to another.

#![allow(clippy::unwrap_used)] // A test may panic.

mod common;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::channel;
use std::time::Duration;

use common::{Gate, TestOperation, engine, engine_with, give_back, waits_at};
use diolkos_backend::{Buffer, Tensor};
use diolkos_engine::{
    Class, Engine, EngineConfig, Lease, NamedTensor, Patterns, Policy, Rate, Reply, Request, Session, Share,
};
use diolkos_types::{Code, DataType, HandleId, Shape, Status, TenantId};
use proptest::prelude::*;

fn request(handle: HandleId, rows: u64) -> Request {
    let data: Vec<u8> = vec![0; rows as usize * 8];
    let tensor = Tensor {
        data_type: DataType::Fp32,
        shape: Shape::new(&[rows, 2]).unwrap(),
        data: Buffer::from(data),
    };
    Request { inputs: vec![NamedTensor { name: "x".into(), tensor }], ..Request::new(handle) }
}

fn tenant(engine: &Engine, name: &str, policy: Policy) -> Session {
    let id = TenantId::new(name);
    engine.set_policy(&id, policy);
    engine.open_session(&id).unwrap()
}

fn only(operations: &[&str]) -> Policy {
    let operations = Patterns::new(operations.iter().copied());
    Policy { leases: vec![Lease { operations, ..Lease::everything() }], ..Policy::everything() }
}

fn refused(reply: Reply) -> Status {
    reply.result.unwrap_err()
}

#[test]
fn what_no_lease_allows_does_not_exist() {
    let engine =
        engine(1, vec![("a.one", TestOperation::new(give_back)), ("b.one", TestOperation::new(give_back))]);
    let a = tenant(&engine, "a", only(&["a.*"]));
    assert!(a.open("a.one", None).is_ok());
    // The words for what is not allowed and for what is not there differ in the name only.
    let hidden = a.open("b.one", None).unwrap_err();
    let missing = a.open("c.one", None).unwrap_err();
    assert_eq!(hidden.code(), missing.code());
    assert_eq!(hidden.message().replace("b.one", "c.one"), missing.message());
    // Nor do versions tell it.
    assert_eq!(a.open("b.one", Some(7)).unwrap_err(), hidden);
    let names = |session: &Session| -> Vec<String> {
        session.index().into_iter().map(|row| row.name.to_string()).collect()
    };
    assert_eq!(names(&a), ["a.one"]);
    assert_eq!(a.entries().len(), 1);
    // What was open when it was taken away is gone, too.
    let handle = a.open("a.one", None).unwrap();
    engine.set_policy(&TenantId::new("a"), only(&["b.*"]));
    let status = refused(a.call(request(handle, 1)));
    assert_eq!(status, a.open("a.one", None).unwrap_err());
    assert_eq!(names(&a), ["b.one"]);
    engine.set_policy(&TenantId::new("a"), Policy::nothing());
    assert!(names(&a).is_empty());
    assert_eq!(engine.open_session(&TenantId::new("a")).unwrap_err().code(), Code::Busy);
}

#[test]
fn handles_mean_nothing_to_another_session() {
    let engine = engine(1, vec![("same", TestOperation::new(give_back))]);
    let (a, b) = (tenant(&engine, "a", Policy::everything()), tenant(&engine, "b", Policy::everything()));
    let handle = a.open("same", None).unwrap();
    let status = refused(b.call(request(handle, 1)));
    let nowhere = HandleId { slot: 900, generation: 3 };
    assert_eq!(status, refused(b.call(request(nowhere, 1))));
    assert_eq!(b.close(handle).unwrap_err(), b.close(nowhere).unwrap_err());
    assert!(a.call(request(handle, 1)).result.is_ok());
}

#[test]
fn a_rate_is_kept_and_says_when_to_come_back() {
    let engine = engine(1, vec![("same", TestOperation::new(give_back))]);
    let rate = Some(Rate::new(Duration::from_secs(3600), 3));
    let a = tenant(&engine, "a", Policy { rate, ..Policy::everything() });
    let b = tenant(&engine, "b", Policy::everything());
    let handle = a.open("same", None).unwrap();
    assert!(a.refuse_over_rate().is_none());
    for _ in 0..3 {
        assert!(a.call(request(handle, 1)).result.is_ok());
    }
    let status = refused(a.call(request(handle, 1)));
    assert_eq!(status.code(), Code::Busy);
    assert!(status.retry_after().unwrap() > Duration::from_secs(3500), "{status:?}");
    assert_eq!(a.refuse_over_rate().unwrap().code(), Code::Busy);
    // Another session of the same tenant is no way around it, and nobody else notices.
    let second = engine.open_session(&TenantId::new("a")).unwrap();
    let other = second.open("same", None).unwrap();
    assert_eq!(refused(second.call(request(other, 1))).code(), Code::Busy);
    let handle = b.open("same", None).unwrap();
    assert!(b.call(request(handle, 1)).result.is_ok());
}

#[test]
fn memory_has_a_bound_for_each_tenant() {
    let gate = Gate::new();
    let engine = engine(1, vec![("wait", waits_at(&gate))]);
    // Input and output of one row have 8 bytes each.
    let a = tenant(&engine, "a", Policy { requests_memory_max: 24, ..Policy::everything() });
    let b = tenant(&engine, "b", Policy::everything());
    let handle = a.open("wait", None).unwrap();
    let status = refused(a.call(request(handle, 4)));
    assert_eq!(status.code(), Code::TooLarge, "{status}");
    let (send, receive) = channel();
    let sink = |send: &std::sync::mpsc::Sender<Reply>| {
        let send = send.clone();
        Box::new(move |reply| send.send(reply).unwrap())
    };
    let _first = a.submit(request(handle, 2), sink(&send));
    gate.wait_for_arrivals(1);
    let status = refused(a.call(request(handle, 2)));
    assert_eq!(status.code(), Code::Busy);
    assert!(status.message().contains("requests_memory_max"), "{status}");
    let other = b.open("wait", None).unwrap();
    let _second = b.submit(request(other, 100), sink(&send));
    gate.open();
    for _ in 0..2 {
        assert!(receive.recv().unwrap().result.is_ok());
    }
    assert!(a.call(request(handle, 2)).result.is_ok(), "what ended is given back");
}

#[test]
fn sessions_and_regions_have_bounds() {
    let engine = engine(1, vec![]);
    let policy = Policy { sessions_max: 2, regions_memory_max: 100, ..Policy::everything() };
    let a = tenant(&engine, "a", policy);
    let second = engine.open_session(&TenantId::new("a")).unwrap();
    assert_eq!(engine.open_session(&TenantId::new("a")).unwrap_err().code(), Code::Busy);
    assert!(engine.open_session(&TenantId::new("b")).is_ok());
    let charge = a.charge_region(60).unwrap();
    assert_eq!(
        second.charge_region(60).unwrap_err().code(),
        Code::TooLarge,
        "sessions share what a tenant has"
    );
    drop(charge);
    assert!(second.charge_region(100).is_ok());
    drop(second);
    assert!(engine.open_session(&TenantId::new("a")).is_ok());
    assert_eq!(engine.sessions(), 1);
}

#[test]
fn a_deadline_is_brought_forward() {
    let gate = Gate::new();
    let engine = engine(1, vec![("wait", waits_at(&gate))]);
    let a =
        tenant(&engine, "a", Policy { deadline_max: Some(Duration::from_millis(5)), ..Policy::everything() });
    let b = tenant(&engine, "b", Policy::everything());
    let other = b.open("wait", None).unwrap();
    let (send, receive) = channel();
    let _running = b.submit(request(other, 1), Box::new(move |reply| send.send(reply).unwrap()));
    gate.wait_for_arrivals(1);
    // It asks for no deadline, and gets one all the same.
    let handle = a.open("wait", None).unwrap();
    assert_eq!(refused(a.call(request(handle, 1))).code(), Code::DeadlineExceeded);
    gate.open();
    assert!(receive.recv().unwrap().result.is_ok());
}

#[test]
fn a_share_of_the_slots_is_kept() {
    let (gate, most) = (Gate::new(), std::sync::Arc::new(AtomicUsize::new(0)));
    let (held, now, seen) = (gate.clone(), AtomicUsize::new(0), most.clone());
    let wait = TestOperation::new(move |work, signature| {
        seen.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
        held.wait();
        now.fetch_sub(1, Ordering::SeqCst);
        give_back(work, signature)
    });
    let engine =
        engine_with(&EngineConfig::cpu(4), vec![("wait", wait), ("same", TestOperation::new(give_back))]);
    let share = Share { running_max: 2, waiting_max: 3, ..Share::ALL };
    let lease = Lease { share, class: Class::Batch, ..Lease::everything() };
    let a = tenant(&engine, "a", Policy { leases: vec![lease], ..Policy::everything() });
    let b = tenant(&engine, "b", Policy::everything());
    let handle = a.open("wait", None).unwrap();
    let (send, receive) = channel();
    for _ in 0..8 {
        let send = send.clone();
        let _ticket = a.submit(request(handle, 1), Box::new(move |reply| send.send(reply).unwrap()));
    }
    gate.wait_for_arrivals(2);
    for _ in 0..3 {
        assert_eq!(refused(receive.recv().unwrap()).code(), Code::Busy, "two run and three wait");
    }
    let other = b.open("same", None).unwrap();
    assert!(b.call(request(other, 1)).result.is_ok(), "the other slots are for others");
    gate.open();
    for _ in 0..5 {
        assert!(receive.recv().unwrap().result.is_ok());
    }
    assert_eq!(most.load(Ordering::SeqCst), 2);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Whoever races for what a tenant may have gets no more of it: threads that submit with several sessions, while
    /// another one changes the limit.
    #[test]
    fn limits_hold_under_concurrency(
        requests_memory_max in 16u64..400,
        running_max in 1usize..3,
        burst in 1u32..40,
        rows in proptest::collection::vec(1u64..8, 4..24),
    ) {
        let (now, most) = (std::sync::Arc::new(AtomicUsize::new(0)), std::sync::Arc::new(AtomicUsize::new(0)));
        let (inside, seen) = (now.clone(), most.clone());
        let count = TestOperation::new(move |work, signature| {
            seen.fetch_max(inside.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            std::thread::yield_now();
            inside.fetch_sub(1, Ordering::SeqCst);
            give_back(work, signature)
        });
        let engine = engine_with(&EngineConfig::cpu(4), vec![("count", count)]);
        let lease = Lease { share: Share { running_max, waiting_max: 4, ..Share::ALL }, ..Lease::everything() };
        let policy = Policy {
            rate: Some(Rate::new(Duration::from_secs(3600), burst)),
            requests_memory_max,
            leases: vec![lease],
            ..Policy::everything()
        };
        let id = TenantId::new("a");
        engine.set_policy(&id, policy.clone());
        let answered: usize = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..3).map(|_| {
                let (engine, id, rows) = (&engine, &id, &rows);
                scope.spawn(move || {
                    let session = engine.open_session(id).unwrap();
                    let handle = session.open("count", None).unwrap();
                    let (send, receive) = channel();
                    for &rows in rows {
                        let send = send.clone();
                        let _ticket =
                            session.submit(request(handle, rows), Box::new(move |reply| send.send(reply).unwrap()));
                        let used = engine.tenants().iter().map(|tenant| tenant.requests_memory).max();
                        assert!(used.unwrap() <= requests_memory_max);
                    }
                    drop(send);
                    let replies: Vec<Reply> = receive.iter().collect();
                    assert_eq!(replies.len(), rows.len());
                    replies.iter().filter(|reply| reply.result.is_ok()).count()
                })
            }).collect();
            // The same limits again: what is counted must survive that.
            for _ in 0..20 {
                engine.set_policy(&id, policy.clone());
            }
            threads.into_iter().map(|thread| thread.join().unwrap()).sum()
        });
        prop_assert!(answered <= burst as usize);
        prop_assert!(most.load(Ordering::SeqCst) <= running_max);
        let after = &engine.tenants()[0];
        prop_assert_eq!((after.requests_memory, after.in_flight, after.sessions), (0, 0, 0));
    }
}
