// SPDX-License-Identifier: Apache-2.0
//! The waist from outside: every request gets exactly one reply, and what is promised of it holds.

#![allow(clippy::unwrap_used)] // A test may panic.

mod common;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread::ThreadId;
use std::time::{Duration, Instant};

use common::{Gate, TestOperation, engine, engine_with, give_back};
use diolkos_backend::{Buffer, Operation, RunError, Tensor, Work};
use diolkos_engine::store::{NoRehearsal, Store, StoreConfig};
use diolkos_engine::{Class, Engine, EngineConfig, FloorShares, NamedTensor, Offer, Reply, Request, Session};
use diolkos_types::{Code, DataType, Dim, HandleId, Param, Shape, Signature, TenantId, TensorSpec};

fn tensor(rows: u64, value: f32) -> NamedTensor {
    let data: Vec<u8> = (0..rows * 2).flat_map(|_| value.to_le_bytes()).collect();
    let shape = Shape::new(&[rows, 2]).unwrap();
    NamedTensor {
        name: "x".into(),
        tensor: Tensor { data_type: DataType::Fp32, shape, data: Buffer::from(data) },
    }
}

fn request(handle: HandleId) -> Request {
    Request { inputs: vec![tensor(1, 1.5)], ..Request::new(handle) }
}

fn session(engine: &Engine) -> Session {
    engine.open_session(&TenantId::default()).unwrap()
}

fn sink(send: &Sender<Reply>) -> Box<dyn diolkos_engine::ReplySink> {
    let send = send.clone();
    Box::new(move |reply| send.send(reply).unwrap())
}

fn code(reply: &Reply) -> Code {
    reply.result.as_ref().unwrap_err().code()
}

/// The replies that came, once all senders are gone: exactly `count`.
fn all(receive: Receiver<Reply>, count: usize) -> Vec<Reply> {
    let replies: Vec<Reply> = receive.iter().collect();
    assert_eq!(replies.len(), count, "each request gets exactly one reply");
    replies
}

#[test]
fn a_call_answers_with_the_bytes_it_got() {
    let engine = engine(1, vec![("same", TestOperation::new(give_back))]);
    let session = session(&engine);
    let handle = session.open("same", None).unwrap();
    let reply = session.call(request(handle));
    let outputs = reply.result.unwrap();
    let (name, tensor) = outputs.named().next().unwrap();
    assert_eq!(name, "y");
    assert_eq!(tensor.data.to_private(), [1.5f32, 1.5].map(f32::to_le_bytes).concat());
    assert_eq!(engine.request_memory_used(), 8, "whoever holds an answer is charged for it");
    drop(outputs);
    assert_eq!(engine.request_memory_used(), 0);
}

#[test]
fn refusals_say_what_was_wrong() {
    let engine = engine(1, vec![("same", TestOperation::new(give_back))]);
    let session = session(&engine);
    let handle = session.open("same", None).unwrap();
    let with = |inputs: Vec<NamedTensor>| Request { inputs, ..Request::new(handle) };
    let mut wrong_name = tensor(1, 0.0);
    wrong_name.name = "z".into();
    let mut wrong_type = tensor(1, 0.0);
    wrong_type.tensor.data_type = DataType::Int32;
    let mut wrong_rank = tensor(1, 0.0);
    wrong_rank.tensor.shape = Shape::new(&[2]).unwrap();
    let mut wrong_length = tensor(1, 0.0);
    wrong_length.tensor.shape = Shape::new(&[1, 3]).unwrap();
    let mut too_long = tensor(1, 0.0);
    too_long.tensor.shape = Shape::new(&[1 << 21, 2]).unwrap();
    let mut wrong_bytes = tensor(1, 0.0);
    wrong_bytes.tensor.shape = Shape::new(&[2, 2]).unwrap();
    let cases = [
        (with(vec![]), "input `x` is missing: FP32 [-1,2]"),
        (with(vec![wrong_name]), "unknown input `z`; the inputs are `x`"),
        (with(vec![tensor(1, 0.0), tensor(1, 0.0)]), "input `x` is given twice"),
        (with(vec![wrong_type]), "input `x` has data type INT32 and the model takes FP32"),
        (
            with(vec![wrong_rank]),
            "input `x` has shape [2] and the model takes [-1,2]: it has 1 dimensions instead of 2",
        ),
        (
            with(vec![wrong_length]),
            "input `x` has shape [1,3] and the model takes [-1,2]: dimension 1 is 3 instead of 2",
        ),
        (
            with(vec![too_long]),
            "input `x` has shape [2097152,2] and the model takes [-1,2]: dimension 0 is 2097152 and at most \
             1048576 is allowed (`models.variable_dim_max`)",
        ),
        (with(vec![wrong_bytes]), "input `x` has 8 bytes of data, and FP32 of shape [2,2] takes 16"),
        (
            Request { outputs: Some(vec!["q".into()]), ..request(handle) },
            "unknown output `q`; the outputs are `y`",
        ),
        (
            Request { outputs: Some(vec!["y".into(), "y".into()]), ..request(handle) },
            "output `y` is asked for twice",
        ),
    ];
    for (request, expected) in cases {
        let status = session.call(request).result.unwrap_err();
        assert_eq!((status.code(), status.message()), (Code::InvalidArgument, expected));
    }
    assert_eq!(engine.request_memory_used(), 0);
}

#[test]
fn handles_mean_nothing_once_closed_or_elsewhere() {
    let engine = engine(1, vec![("same", TestOperation::new(give_back))]);
    let (mine, other) = (session(&engine), session(&engine));
    let handle = mine.open("same", None).unwrap();
    assert_eq!(code(&other.call(request(handle))), Code::NotFound);
    mine.close(handle).unwrap();
    assert_eq!(code(&mine.call(request(handle))), Code::NotFound);
    let reopened = mine.open("same", None).unwrap();
    assert_eq!(reopened.slot, handle.slot);
    assert_eq!(code(&mine.call(request(handle))), Code::NotFound, "a stale handle came to life");
    mine.call(request(reopened)).result.unwrap();
    assert_eq!(mine.open("nothing", None).unwrap_err().code(), Code::NotFound);
    assert_eq!(mine.open("same", Some(9)).unwrap_err().code(), Code::NotFound);
}

/// An engine with one slot, which a first job holds until the gate opens; `runs` counts the others.
fn blocked() -> (Engine, Arc<Gate>, Arc<AtomicUsize>) {
    let gate = Gate::new();
    let runs = Arc::new(AtomicUsize::new(0));
    let (for_gate, for_runs) = (gate.clone(), runs.clone());
    let hold = TestOperation::new(move |work, signature| {
        for_gate.wait();
        give_back(work, signature)
    });
    let count = TestOperation::new(move |work, signature| {
        for_runs.fetch_add(1, Ordering::Relaxed);
        give_back(work, signature)
    });
    // How long the gate holds is no matter of floors.
    let mut config = EngineConfig::cpu(1);
    config.devices[0].floors = FloorShares { standard: 0, batch: 0 };
    let engine = engine_with(&config, vec![("hold", hold), ("count", count)]);
    (engine, gate, runs)
}

#[test]
fn a_job_that_is_cancelled_while_it_waits_never_runs() {
    let (engine, gate, runs) = blocked();
    let session = session(&engine);
    let (hold, count) = (session.open("hold", None).unwrap(), session.open("count", None).unwrap());
    let (send, receive) = channel();
    let _first = session.submit(request(hold), sink(&send));
    gate.wait_for_arrivals(1);
    let ticket = session.submit(request(count), sink(&send));
    ticket.cancel();
    assert_eq!(code(&receive.recv().unwrap()), Code::Cancelled, "the answer does not wait for the slot");
    drop(session.submit(request(count), sink(&send)).cancel_on_drop());
    assert_eq!(code(&receive.recv().unwrap()), Code::Cancelled);
    gate.open();
    drop(send);
    all(receive, 1).remove(0).result.unwrap();
    ticket.cancel();
    assert_eq!(runs.load(Ordering::Relaxed), 0);
}

#[test]
fn a_job_that_is_late_never_runs_and_is_told_so_while_the_device_is_still_busy() {
    let (engine, gate, runs) = blocked();
    let session = session(&engine);
    let (hold, count) = (session.open("hold", None).unwrap(), session.open("count", None).unwrap());
    let (send, receive) = channel();
    let _first = session.submit(request(hold), sink(&send));
    gate.wait_for_arrivals(1);
    let deadline = Some(Instant::now() + Duration::from_millis(20));
    let _late = session.submit(Request { deadline, ..request(count) }, sink(&send));
    assert_eq!(code(&receive.recv().unwrap()), Code::DeadlineExceeded);
    let deadline = Some(Instant::now());
    let _late = session.submit(Request { deadline, ..request(count) }, sink(&send));
    assert_eq!(code(&receive.recv().unwrap()), Code::DeadlineExceeded);
    gate.open();
    drop(send);
    all(receive, 1).remove(0).result.unwrap();
    assert_eq!(runs.load(Ordering::Relaxed), 0);
}

#[test]
fn a_session_that_ends_takes_its_waiting_jobs_with_it() {
    let (engine, gate, runs) = blocked();
    let (send, receive) = channel();
    let other = session(&engine);
    let survivor = other.open("count", None).unwrap();
    let dying = session(&engine);
    let (hold, count) = (dying.open("hold", None).unwrap(), dying.open("count", None).unwrap());
    let _running = dying.submit(request(hold), sink(&send));
    gate.wait_for_arrivals(1);
    for _ in 0..10 {
        let _waiting = dying.submit(request(count), sink(&send));
    }
    let (send_other, receive_other) = channel();
    let _waiting = other.submit(request(survivor), sink(&send_other));
    drop(dying);
    for _ in 0..10 {
        assert_eq!(code(&receive.recv().unwrap()), Code::Cancelled);
    }
    gate.open();
    receive_other.recv().unwrap().result.unwrap();
    drop(send);
    all(receive, 1);
    assert_eq!(runs.load(Ordering::Relaxed), 1);
    assert_eq!((engine.sessions(), engine.request_memory_used()), (1, 0));
}

#[test]
fn a_full_queue_is_busy_now_and_says_when_to_come_back() {
    let (engine, gate, _) = blocked();
    let session = session(&engine);
    let (hold, count) = (session.open("hold", None).unwrap(), session.open("count", None).unwrap());
    let (send, receive) = channel();
    let _first = session.submit(request(hold), sink(&send));
    gate.wait_for_arrivals(1);
    let max = diolkos_engine::limits::SESSION_JOBS_MAX;
    for _ in 0..max + 3 {
        let _ticket = session.submit(request(count), sink(&send));
    }
    // The session's own limit counts the running job as well.
    for _ in 0..4 {
        let status = receive.recv().unwrap().result.unwrap_err();
        assert_eq!(status.code(), Code::Busy);
        assert!(status.retry_after().is_some());
    }
    gate.open();
    drop(send);
    let served = all(receive, max);
    assert!(served.iter().all(|reply| reply.result.is_ok()));
}

#[test]
fn a_panic_costs_one_job() {
    let broken = TestOperation::new(|_, _| panic!("a bug in a backend"));
    let engine = engine(1, vec![("broken", broken), ("same", TestOperation::new(give_back))]);
    let session = session(&engine);
    let (broken, same) = (session.open("broken", None).unwrap(), session.open("same", None).unwrap());
    for _ in 0..3 {
        let status = session.call(request(broken)).result.unwrap_err();
        assert_eq!(status.code(), Code::Internal);
        assert!(status.message().contains("a bug in a backend"), "{status}");
        session.call(request(same)).result.unwrap();
    }
}

#[test]
fn a_backend_that_breaks_its_contract_is_our_fault_and_not_the_callers() {
    let silent = TestOperation::new(|_, _| Ok(()));
    let liar = TestOperation::new(|work, signature| {
        work.output(signature, 0, DataType::Int8, Shape::new(&[1]).unwrap(), 1)?.copy_from(&[1]);
        Ok(())
    });
    let engine = engine(1, vec![("silent", silent), ("liar", liar)]);
    let session = session(&engine);
    for name in ["silent", "liar"] {
        let handle = session.open(name, None).unwrap();
        assert_eq!(code(&session.call(request(handle))), Code::Internal, "{name}");
    }
}

#[test]
fn memory_is_reserved_by_prediction_and_given_back() {
    let gate = Gate::new();
    let for_gate = gate.clone();
    let hold = TestOperation::new(move |work, signature| {
        for_gate.wait();
        give_back(work, signature)
    });
    let config = EngineConfig { requests_memory_max: 1000, request_memory_max: 600, ..EngineConfig::cpu(2) };
    let operations = vec![
        ("hold", hold.with_peak_bytes(Some(500))),
        ("huge", TestOperation::new(give_back).with_peak_bytes(Some(601))),
        ("overflowing", TestOperation::new(give_back).with_peak_bytes(Some(u64::MAX))),
        ("unknown", TestOperation::new(give_back).with_peak_bytes(None)),
    ];
    let engine = engine_with(&config, operations);
    let session = session(&engine);
    let open = |name: &str| session.open(name, None).unwrap();
    assert_eq!(code(&session.call(request(open("huge")))), Code::TooLarge);
    assert_eq!(code(&session.call(request(open("overflowing")))), Code::TooLarge);
    session.call(request(open("unknown"))).result.unwrap();
    let (send, receive) = channel();
    let _holding = session.submit(request(open("hold")), sink(&send));
    gate.wait_for_arrivals(1);
    assert_eq!(engine.request_memory_used(), 508);
    assert_eq!(code(&session.call(request(open("hold")))), Code::Busy);
    assert_eq!(code(&session.call(request(open("unknown")))), Code::Busy, "unknown counts as the worst case");
    gate.open();
    let outputs = receive.recv().unwrap().result.unwrap();
    assert_eq!(engine.request_memory_used(), 8, "all but the outputs is back before the answer is out");
    let kept = outputs.tensors[0].1.data.to_private();
    drop(outputs);
    assert_eq!(engine.request_memory_used(), 8, "a front that still writes the bytes is charged for them");
    drop(kept);
    assert_eq!(engine.request_memory_used(), 0);
}

#[test]
fn outputs_that_nobody_foresaw_are_charged_until_they_are_dropped() {
    let grows = TestOperation::new(|work, signature| {
        let shape = Shape::new(&[60, 2]).unwrap();
        work.output(signature, 0, DataType::Fp32, shape, 480)?.copy_from(&[0; 480]);
        Ok(())
    });
    let config = EngineConfig { requests_memory_max: 1000, request_memory_max: 600, ..EngineConfig::cpu(1) };
    let engine = engine_with(&config, vec![("grows", grows.with_peak_bytes(None))]);
    let session = session(&engine);
    let outputs = session.call(request(session.open("grows", None).unwrap())).result.unwrap();
    assert_eq!(engine.request_memory_used(), 480);
    drop(outputs);
    assert_eq!(engine.request_memory_used(), 0);
}

#[test]
fn parameters_are_charged_and_leave_less_for_the_rest() {
    let config = EngineConfig { requests_memory_max: 1000, request_memory_max: 1000, ..EngineConfig::cpu(1) };
    let operations = vec![("unknown", TestOperation::new(give_back).with_peak_bytes(None))];
    let engine = engine_with(&config, operations);
    let session = session(&engine);
    let handle = session.open("unknown", None).unwrap();
    let with_text = |bytes: usize| {
        let mut request = request(handle);
        request.params.set("prompt", Param::Text("x".repeat(bytes).into()));
        session.call(request)
    };
    // Nobody uses anything else, so what may be used by one request is enough for it.
    with_text(500).result.unwrap();
    assert_eq!(code(&with_text(1000)), Code::TooLarge);
    assert_eq!(engine.request_memory_used(), 0);
}

#[test]
fn what_can_not_be_told_is_reserved_only_while_it_runs() {
    let gate = Gate::new();
    let for_gate = gate.clone();
    let hold = TestOperation::new(move |work, signature| {
        for_gate.wait();
        give_back(work, signature)
    });
    let config = EngineConfig { requests_memory_max: 1000, request_memory_max: 600, ..EngineConfig::cpu(1) };
    let engine = engine_with(&config, vec![("hold", hold.with_peak_bytes(None))]);
    let session = session(&engine);
    let handle = session.open("hold", None).unwrap();
    let (send, receive) = channel();
    for _ in 0..10 {
        let _ticket = session.submit(request(handle), sink(&send));
    }
    gate.wait_for_arrivals(1);
    assert_eq!(engine.request_memory_used(), 600 + 9 * 8);
    gate.open();
    drop(send);
    assert!(all(receive, 10).iter().all(|reply| reply.result.is_ok()));
}

#[test]
fn outputs_stay_within_what_was_reserved() {
    let greedy = TestOperation::new(|work, signature| {
        let shape = Shape::new(&[1000, 2]).unwrap();
        work.output(signature, 0, DataType::Fp32, shape, 8000)?.copy_from(&[0; 8000]);
        Ok(())
    });
    let engine = engine(1, vec![("greedy", greedy.with_peak_bytes(Some(100)))]);
    let session = session(&engine);
    let handle = session.open("greedy", None).unwrap();
    let status = session.call(request(handle)).result.unwrap_err();
    assert_eq!(status.code(), Code::TooLarge);
    assert!(status.message().contains("output `y` needs 8000 bytes"), "{status}");
}

/// An operation that tells which threads ran it.
fn watched() -> (TestOperation, Arc<Mutex<Vec<ThreadId>>>) {
    let threads: Arc<Mutex<Vec<ThreadId>>> = Arc::default();
    let seen = threads.clone();
    let operation = TestOperation::new(move |work, signature| {
        seen.lock().unwrap().push(std::thread::current().id());
        give_back(work, signature)
    });
    (operation, threads)
}

#[test]
fn a_short_operation_runs_on_its_callers_thread_and_a_front_never_does() {
    let (short, threads) = watched();
    let engine = engine(1, vec![("short", short)]);
    let session = session(&engine);
    let handle = session.open("short", None).unwrap();
    // Whether the runs really stay short is up to the machine, so look until one did run here.
    let me = std::thread::current().id();
    for _ in 0..1_000_000 {
        session.call(request(handle)).result.unwrap();
        if threads.lock().unwrap().last() == Some(&me) {
            break;
        }
    }
    assert_eq!(threads.lock().unwrap().last(), Some(&me), "no call ran on its caller's thread");
    assert_eq!(
        threads.lock().unwrap().first().map(|first| *first == me),
        Some(false),
        "nothing was known yet"
    );
    let (send, receive) = channel();
    for _ in 0..100 {
        let _ticket = session.submit(request(handle), sink(&send));
        receive.recv().unwrap().result.unwrap();
        assert_ne!(threads.lock().unwrap().last(), Some(&me), "submit ran an operation on a front's thread");
    }
}

#[test]
fn classes_order_a_tenants_own_jobs() {
    let (engine, gate, _) = blocked();
    let session = session(&engine);
    let (hold, count) = (session.open("hold", None).unwrap(), session.open("count", None).unwrap());
    let (send, receive) = channel();
    let _first = session.submit(request(hold), sink(&send));
    gate.wait_for_arrivals(1);
    let submit = |class| session.submit(Request { class, ..request(count) }, sink(&send)).job();
    let batch = submit(Class::Batch);
    let standard = submit(Class::Standard);
    let interactive = submit(Class::Interactive);
    gate.open();
    drop(send);
    let order: Vec<_> = all(receive, 4).into_iter().skip(1).map(|reply| reply.job).collect();
    assert_eq!(order, [interactive, standard, batch]);
}

#[test]
fn draining_refuses_the_new_and_finishes_the_old() {
    let (engine, gate, _) = blocked();
    let session = session(&engine);
    let hold = session.open("hold", None).unwrap();
    let (send, receive) = channel();
    let _first = session.submit(request(hold), sink(&send));
    gate.wait_for_arrivals(1);
    engine.begin_drain();
    assert_eq!(code(&session.call(request(hold))), Code::Unavailable);
    assert_eq!(engine.wait_idle(Duration::from_millis(1)), 1);
    gate.open();
    assert_eq!(engine.wait_idle(Duration::from_secs(60)), 0);
    receive.recv().unwrap().result.unwrap();
}

#[test]
fn many_threads_get_their_own_answers() {
    let engine = engine(2, vec![("same", TestOperation::new(give_back))]);
    std::thread::scope(|scope| {
        for thread in 0..8u16 {
            let engine = &engine;
            scope.spawn(move || {
                let session = engine.open_session(&TenantId::new(&format!("tenant-{thread}"))).unwrap();
                let handle = session.open("same", None).unwrap();
                for call in 0..500u16 {
                    let value = f32::from(thread) * 1000.0 + f32::from(call);
                    let request = Request { inputs: vec![tensor(3, value)], ..Request::new(handle) };
                    let outputs = session.call(request).result.unwrap();
                    let bytes = outputs.tensors[0].1.data.to_private();
                    assert!(bytes.chunks_exact(4).all(|chunk| chunk == value.to_le_bytes()));
                }
            });
        }
    });
    let tenants = engine.tenants();
    assert_eq!(tenants.len(), 8);
    assert!(
        tenants.iter().all(|tenant| tenant.requests == 500 && tenant.in_flight == 0 && tenant.device_ns > 0)
    );
}

#[test]
fn cancelling_from_everywhere_at_once_still_gives_one_reply_each() {
    let engine = engine(2, vec![("same", TestOperation::new(give_back))]);
    let (send, receive) = channel();
    const PER_THREAD: usize = 300;
    std::thread::scope(|scope| {
        for _ in 0..4 {
            let (engine, send) = (&engine, send.clone());
            scope.spawn(move || {
                let session = session(engine);
                let handle = session.open("same", None).unwrap();
                let tickets: Vec<_> =
                    (0..PER_THREAD).map(|_| session.submit(request(handle), sink(&send))).collect();
                tickets.iter().step_by(2).for_each(|ticket| ticket.cancel());
            });
        }
    });
    drop(send);
    all(receive, 4 * PER_THREAD);
    assert_eq!(engine.wait_idle(Duration::from_secs(60)), 0);
    assert_eq!(engine.request_memory_used(), 0);
}

#[test]
fn an_operation_sees_the_cancel_flag() {
    let gate = Gate::new();
    let for_gate = gate.clone();
    let patient = TestOperation::new(move |work, _| {
        for_gate.wait();
        work.check_cancelled()?;
        Err(RunError::Failed { backend: "test", reason: "the flag was not set".into() })
    });
    let engine = engine(1, vec![("patient", patient)]);
    let session = session(&engine);
    let handle = session.open("patient", None).unwrap();
    let (send, receive) = channel();
    let ticket = session.submit(request(handle), sink(&send));
    gate.wait_for_arrivals(1);
    ticket.cancel();
    gate.open();
    assert_eq!(code(&receive.recv().unwrap()), Code::Cancelled);
}

#[test]
fn a_job_that_comes_back_holds_a_slot_and_runs_where_it_is_run() {
    let (operation, threads) = watched();
    let engine = engine(1, vec![("same", operation)]);
    let session = session(&engine);
    let handle = session.open("same", None).unwrap();
    let me = std::thread::current().id();
    // The device's own thread may just be on its way to sleep and take the second one: so not every time.
    let both_here = (0..100).any(|round| {
        let (send, receive) = channel();
        let (_ticket, here) = session.submit_offering(request(handle), sink(&send), Offer::Any);
        let here = here.expect("there is a free slot and nothing waits");
        assert!(round > 0 || !here.is_short(), "it never ran");
        assert_eq!((engine.devices()[0].running, engine.devices()[0].waiting), (1, 0));
        // The next one finds the slot taken, whatever is offered.
        let (_ticket, queued) = session.submit_offering(request(handle), sink(&send), Offer::Any);
        assert!(queued.is_none());
        assert_eq!(engine.devices()[0].waiting, 1);
        assert!(threads.lock().unwrap().is_empty(), "nothing runs by itself meanwhile");
        here.run();
        drop(send);
        for reply in all(receive, 2) {
            reply.result.unwrap();
        }
        let ran = std::mem::take(&mut *threads.lock().unwrap());
        assert_eq!(ran[0], me);
        // What the device's thread took has been answered; its slot is free a moment before that.
        assert_eq!(engine.wait_idle(Duration::from_secs(60)), 0);
        ran[1] == me
    });
    assert!(both_here, "whoever ran one takes what is ready then");
    assert_eq!(engine.jobs(), 0);
}

#[test]
fn a_job_that_came_back_and_was_dropped_runs_on_its_device() {
    let (operation, threads) = watched();
    let engine = engine(1, vec![("same", operation)]);
    let session = session(&engine);
    let handle = session.open("same", None).unwrap();
    let (send, receive) = channel();
    let (_ticket, here) = session.submit_offering(request(handle), sink(&send), Offer::Any);
    drop(here.unwrap());
    receive.recv().unwrap().result.unwrap();
    assert_ne!(*threads.lock().unwrap(), [std::thread::current().id()]);
}

#[test]
fn a_long_operation_is_for_threads_that_offered_any() {
    let engine = engine(1, vec![("same", TestOperation::new(give_back))]);
    let session = session(&engine);
    let handle = session.open("same", None).unwrap();
    let (send, receive) = channel();
    for offer in [Offer::Nothing, Offer::Short] {
        let (_ticket, here) = session.submit_offering(request(handle), sink(&send), offer);
        assert!(here.is_none(), "{offer:?}: it never ran, so nobody knows that it is short");
        receive.recv().unwrap().result.unwrap();
    }
}

#[test]
fn cancelling_a_job_that_came_back_reaches_its_flag() {
    let operation = TestOperation::new(|work, signature| {
        work.check_cancelled()?;
        give_back(work, signature)
    });
    let engine = engine(1, vec![("same", operation)]);
    let session = session(&engine);
    let handle = session.open("same", None).unwrap();
    let (send, receive) = channel();
    let (ticket, here) = session.submit_offering(request(handle), sink(&send), Offer::Any);
    ticket.cancel();
    here.unwrap().run();
    assert_eq!(code(&receive.recv().unwrap()), Code::Cancelled);
}

/// Takes text and does nothing with it.
struct Ignores(Signature);

impl Operation for Ignores {
    fn signature(&self) -> &Signature {
        &self.0
    }

    fn resident_bytes(&self) -> u64 {
        0
    }

    fn peak_bytes(&self, _: &[Option<Shape>], _: u64) -> Option<u64> {
        Some(0)
    }

    fn run(&self, _: &mut Work) -> Result<(), RunError> {
        Ok(())
    }
}

#[test]
fn checking_text_is_paid_for() {
    const ELEMENTS: u64 = 4 << 20;
    let spec = TensorSpec::new("x", DataType::Bytes, &[Dim::Variable { max: ELEMENTS }]);
    let store = Store::new(StoreConfig::default(), Vec::new(), Box::new(NoRehearsal)).unwrap();
    let operation = Ignores(Signature { inputs: [spec].into(), outputs: [].into() });
    store.add_builtin("ignores", "for a test", Arc::new(operation)).unwrap();
    let engine = Engine::start(&EngineConfig::cpu(1), store).unwrap();
    let session = session(&engine);
    let call = |elements: u64| {
        // Empty elements: nothing but their lengths.
        let data = Buffer::from(vec![0; 4 * elements as usize]);
        let tensor = Tensor { data_type: DataType::Bytes, shape: Shape::new(&[elements]).unwrap(), data };
        let inputs = vec![NamedTensor { name: "x".into(), tensor }];
        let before = engine.tenants()[0].device_ns;
        let request = Request { inputs, ..Request::new(session.open("ignores", None).unwrap()) };
        session.call(request).result.unwrap();
        engine.tenants()[0].device_ns - before
    };
    let (few, many) = (call(1), call(ELEMENTS));
    // A quarter of a nanosecond for each is less than anything can do it in.
    assert!(many > few && many > ELEMENTS / 4, "{few} ns and {many} ns");
}
