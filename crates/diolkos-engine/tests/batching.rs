// SPDX-License-Identifier: Apache-2.0
//! Requests that share a run: each gets its own rows, pays for its own rows, and suffers for nobody's mistake.

#![allow(clippy::unwrap_used)] // A test may panic.

mod common;

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use common::Gate;
use diolkos_backend::{
    Backend, Buffer, Destination, Format, LoadError, LoadOptions, ModelFiles, Operation, ResultMemory,
    RunError, SharedMemory, Tensor, Work,
};
use diolkos_engine::account::Whose;
use diolkos_engine::store::{ClientFiles, NoRehearsal, Store, StoreConfig};
use diolkos_engine::{
    ControlRequest, Engine, EngineConfig, Explained, Lease, NamedTensor, Policy, Reply, Request, Scheduled,
    Session, Share, Waited,
};
use diolkos_types::{Code, DataType, Dim, HandleId, Shape, Signature, TenantId, TensorSpec};

/// A row that begins with this makes its run fail.
const FAILS: f32 = 666.0;

/// And with this, panic.
const PANICS: f32 = 667.0;

/// And with this, wait at the gate.
const WAITS: f32 = 7.0;

/// What a test sees of the runs, and does to them.
#[derive(Default)]
struct Watch {
    gate: Gate,
    /// Rows of each run since the model was loaded.
    runs: Mutex<Vec<u64>>,
    loaded: AtomicBool,
    /// From now on runs lose their last row.
    loses_rows: AtomicBool,
}

/// Adds one to every number, in a millisecond whatever there are.
struct AddOne {
    signature: Signature,
    watch: Arc<Watch>,
}

impl Operation for AddOne {
    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn resident_bytes(&self) -> u64 {
        0
    }

    fn peak_bytes(&self, _: &[Option<Shape>], input_bytes: u64) -> Option<u64> {
        Some(2 * input_bytes)
    }

    fn run(&self, work: &mut Work) -> Result<(), RunError> {
        let input = work.input(0).unwrap();
        let mut rows = input.shape.dims()[0];
        let data = input.data.to_private();
        let numbers: Vec<f32> =
            data.chunks(4).map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap())).collect();
        let has = |number| numbers.chunks(2).any(|row| row[0] == number);
        if self.watch.loaded.load(Ordering::Relaxed) {
            self.watch.runs.lock().unwrap().push(rows);
        }
        if has(WAITS) {
            self.watch.gate.wait();
        }
        assert!(!has(PANICS), "a row said so");
        if has(FAILS) {
            return Err(RunError::Failed { backend: "rows", reason: "a row said so".into() });
        }
        std::thread::sleep(Duration::from_millis(1));
        let mut bytes: Vec<u8> = numbers.iter().flat_map(|number| (number + 1.0).to_le_bytes()).collect();
        if self.watch.loses_rows.load(Ordering::Relaxed) && rows > 1 {
            rows -= 1;
            bytes.truncate(bytes.len() - 8);
        }
        let shape = Shape::new(&[rows, 2]).unwrap();
        work.output(&self.signature, 0, DataType::Fp32, shape, bytes.len())?.give(bytes);
        Ok(())
    }
}

struct Rows(Arc<Watch>);

impl Backend for Rows {
    fn name(&self) -> &'static str {
        "rows"
    }

    fn formats(&self) -> &[Format] {
        &[Format { extension: "rows", platform: "rows" }]
    }

    fn load(&self, _: &ModelFiles, _: &LoadOptions) -> Result<Arc<dyn Operation>, LoadError> {
        let spec =
            |name| TensorSpec::new(name, DataType::Fp32, &[Dim::Variable { max: 1 << 20 }, Dim::Fixed(2)]);
        let signature = Signature { inputs: [spec("x")].into(), outputs: [spec("y")].into() };
        Ok(Arc::new(AddOne { signature, watch: self.0.clone() }))
    }
}

struct Node {
    engine: Engine,
    watch: Arc<Watch>,
    _dir: tempfile::TempDir,
}

/// An engine with one slot and the model, loaded.
fn node(config: &EngineConfig) -> Node {
    node_with(config, |dir, engine| {
        let file = dir.join("add.rows");
        std::fs::write(&file, "").unwrap();
        engine.store().add_file(&file).unwrap();
        engine.control_and_wait(ControlRequest::Load { name: "add".into() }).unwrap();
    })
}

fn node_with(config: &EngineConfig, load: impl Fn(&Path, &Engine)) -> Node {
    let dir = tempfile::tempdir().unwrap();
    let watch: Arc<Watch> = Arc::default();
    let backends: Vec<Arc<dyn Backend>> = vec![Arc::new(Rows(watch.clone()))];
    let blob_dir = Some(dir.path().join("blobs"));
    let store = StoreConfig { client_load: true, blob_dir, ..StoreConfig::default() };
    let store = Store::new(store, backends, Box::new(NoRehearsal)).unwrap();
    let engine = Engine::start(config, store).unwrap();
    load(dir.path(), &engine);
    watch.loaded.store(true, Ordering::Relaxed);
    Node { engine, watch, _dir: dir }
}

impl Node {
    fn session(&self, tenant: &str) -> (Session, HandleId) {
        let session = self.engine.open_session(&TenantId::new(tenant)).unwrap();
        let handle = session.open("add", None).unwrap();
        (session, handle)
    }

    /// The rows of each run since the last look.
    fn runs(&self) -> Vec<u64> {
        std::mem::take(&mut *self.watch.runs.lock().unwrap())
    }
}

fn request(handle: HandleId, rows: &[f32]) -> Request {
    let data: Vec<u8> = rows.iter().flat_map(|row| [*row, 2.0 * row]).flat_map(f32::to_le_bytes).collect();
    let shape = Shape::new(&[rows.len() as u64, 2]).unwrap();
    let tensor = Tensor { data_type: DataType::Fp32, shape, data: Buffer::from(data) };
    Request { inputs: vec![NamedTensor { name: "x".into(), tensor }], ..Request::new(handle) }
}

/// A client's memory for its results.
struct Results(Mutex<Vec<u8>>);

impl SharedMemory for Results {
    fn len(&self) -> usize {
        self.0.lock().unwrap().len()
    }

    fn copy_to(&self, offset: usize, dst: &mut [u8]) {
        dst.copy_from_slice(&self.0.lock().unwrap()[offset..][..dst.len()]);
    }
}

impl ResultMemory for Results {
    fn write(&self, offset: usize, data: &[u8]) {
        self.0.lock().unwrap()[offset..][..data.len()].copy_from_slice(data);
    }
}

/// Where results begin in it.
const RESULTS_AT: usize = 64;

/// What was sent, where the results were to go, and the answer.
type Answered = (Vec<f32>, Arc<Results>, Reply);

fn submit(session: &(Session, HandleId), rows: &[f32], send: &Sender<Answered>) -> diolkos_engine::Ticket {
    let (send, sent) = (send.clone(), rows.to_vec());
    let length = rows.len() * 8;
    let results = Arc::new(Results(Mutex::new(vec![0; RESULTS_AT + length])));
    let destination = Destination::new(results.clone(), RESULTS_AT, length);
    let sink = move |reply| send.send((sent, results, reply)).unwrap();
    session.0.submit(Request { destination, ..request(session.1, rows) }, Box::new(sink))
}

/// Checks the answers, and says how those ended that did not succeed, by their first row.
fn ends(receive: &Receiver<Answered>, count: usize) -> Vec<(f32, Code)> {
    let mut failed = Vec::new();
    for (sent, results, reply) in receive.iter().take(count) {
        match reply.result {
            Ok(outputs) => {
                let tensor = &outputs.tensors[0].1;
                assert_eq!(tensor.shape.dims(), [sent.len() as u64, 2]);
                let expected: Vec<u8> = sent
                    .iter()
                    .flat_map(|row| [row + 1.0, 2.0 * row + 1.0])
                    .flat_map(f32::to_le_bytes)
                    .collect();
                assert!(tensor.data.lies_in(&*results, RESULTS_AT), "{sent:?} came as {:?}", tensor.data);
                assert_eq!(results.0.lock().unwrap()[RESULTS_AT..], expected, "{sent:?}");
            }
            Err(status) => failed.push((sent[0], status.code())),
        }
    }
    failed
}

#[test]
fn what_waits_shares_a_run_and_each_gets_and_pays_for_its_rows() {
    let node = node(&EngineConfig::cpu(1));
    let (a, b) = (node.session("a"), node.session("b"));
    let (send, receive) = channel();
    let _first = submit(&a, &[WAITS], &send);
    node.watch.gate.wait_for_arrivals(1);
    let _rest = [
        submit(&a, &[1.0], &send),
        submit(&b, &[2.0, 3.0, 4.0], &send),
        submit(&a, &[5.0, 6.0], &send),
        submit(&b, &[8.0], &send),
    ];
    node.watch.gate.open();
    assert_eq!(ends(&receive, 5), []);
    assert_eq!(node.runs(), [1, 7]);
    let stats = |session: &Session, whose| {
        let stats = session.stats(&session.find("add").unwrap().bind(None).unwrap(), whose);
        let number = |count: &std::sync::atomic::AtomicU64| count.load(Ordering::Relaxed);
        (stats.success.count(), number(&stats.inferences), number(&stats.executions))
    };
    assert_eq!(stats(&b.0, Whose::Own), (2, 4, 1));
    assert_eq!(stats(&a.0, Whose::Own), (3, 4, 2));
    let device = &node.engine.devices()[0];
    assert_eq!((device.running, device.waiting), (0, 0));
    let charged: u64 = node.engine.tenants().iter().map(|tenant| tenant.device_ns).sum();
    assert!(
        charged.abs_diff(device.busy_ns) < 100,
        "what was used is charged: {charged}, {}",
        device.busy_ns
    );
    assert_eq!(node.engine.request_memory_used(), 0);
}

#[test]
fn who_does_not_want_others_in_its_runs_has_its_own() {
    let node = node(&EngineConfig::cpu(1));
    let (a, b, c) = (node.session("a"), node.session("b"), node.session("c"));
    let apart = Policy { batch_with_others: false, ..Policy::everything() };
    node.engine.set_policy(&TenantId::new("b"), apart);
    let (send, receive) = channel();
    let _first = submit(&a, &[WAITS], &send);
    node.watch.gate.wait_for_arrivals(1);
    let rest: Vec<_> = [&a, &b, &c, &b, &a].iter().map(|session| submit(session, &[1.0], &send)).collect();
    node.watch.gate.open();
    assert_eq!(ends(&receive, 1 + rest.len()), []);
    let mut runs = node.runs();
    runs.sort_unstable();
    assert_eq!(runs, [1, 2, 3]);
}

#[test]
fn an_engine_without_batching_runs_each_alone() {
    let node = node(&EngineConfig { batching: false, ..EngineConfig::cpu(1) });
    let a = node.session("a");
    let (send, receive) = channel();
    let _first = submit(&a, &[WAITS], &send);
    node.watch.gate.wait_for_arrivals(1);
    let _rest = [submit(&a, &[1.0], &send), submit(&a, &[2.0], &send)];
    node.watch.gate.open();
    assert_eq!(ends(&receive, 3), []);
    assert_eq!(node.runs(), [1, 1, 1]);
}

#[test]
fn one_bad_request_fails_alone_and_is_kept_apart_afterwards() {
    for bad in [FAILS, PANICS] {
        let node = node(&EngineConfig::cpu(1));
        let (a, b) = (node.session("a"), node.session("b"));
        let (send, receive) = channel();
        let _first = submit(&a, &[WAITS], &send);
        node.watch.gate.wait_for_arrivals(1);
        let _rest = [submit(&a, &[1.0], &send), submit(&b, &[bad], &send), submit(&a, &[3.0], &send)];
        node.watch.gate.open();
        assert_eq!(ends(&receive, 4), [(bad, Code::Internal)]);
        // Halves, until it is found.
        assert_eq!(node.runs(), [1, 3, 1, 2, 1, 1]);
        // Whoever spoilt it runs alone now; the others go on together.
        let mut tickets = vec![submit(&a, &[9.0], &send)];
        tickets.extend((0..6).map(|row| submit(if row % 2 == 0 { &a } else { &b }, &[row as f32], &send)));
        assert_eq!(ends(&receive, 7), []);
        let mut runs = node.runs();
        runs.sort_unstable();
        assert!(runs.starts_with(&[1, 1, 1]) && runs.len() < 7, "{runs:?}");
        assert_eq!(node.engine.request_memory_used(), 0);
    }
}

#[test]
fn cancelled_requests_leave_the_others_alone() {
    let node = node(&EngineConfig::cpu(1));
    let a = node.session("a");
    let (send, receive) = channel();
    // One waits alone, then a run of three that is held up in the middle.
    let first = submit(&a, &[WAITS], &send);
    node.watch.gate.wait_for_arrivals(1);
    let waits = submit(&a, &[1.0], &send);
    let _rest = [submit(&a, &[2.0], &send), submit(&a, &[3.0], &send)];
    waits.cancel();
    first.cancel();
    node.watch.gate.open();
    let mut failed = ends(&receive, 4);
    failed.retain(|(row, _)| *row != WAITS);
    assert_eq!(failed, [(1.0, Code::Cancelled)]);
    assert_eq!(node.runs(), [1, 2]);
}

#[test]
fn a_model_that_turns_out_to_mix_rows_is_batched_no_more() {
    let node = node(&EngineConfig::cpu(1));
    let a = node.session("a");
    let (send, receive) = channel();
    node.watch.loses_rows.store(true, Ordering::Relaxed);
    let _first = submit(&a, &[WAITS], &send);
    node.watch.gate.wait_for_arrivals(1);
    let _rest = [submit(&a, &[1.0], &send), submit(&a, &[2.0], &send)];
    node.watch.gate.open();
    assert_eq!(ends(&receive, 3), []);
    assert_eq!(node.runs(), [1, 2, 1, 1]);
    let _later: Vec<_> = (0..9).map(|row| submit(&a, &[row as f32], &send)).collect();
    assert_eq!(ends(&receive, 9), []);
    assert_eq!(node.runs(), [1; 9]);
}

#[test]
fn what_becomes_of_a_job_is_told_to_its_tenant_only() {
    let node = node(&EngineConfig::cpu(1));
    let (a, b) = (node.session("a"), node.session("b"));
    let (send, receive) = channel();
    let first = submit(&a, &[WAITS], &send);
    node.watch.gate.wait_for_arrivals(1);
    let (second, third) = (submit(&a, &[1.0], &send), submit(&a, &[2.0], &send));
    assert!(
        matches!(a.0.explain(first.job()), Some(Explained::Runs(predicted)) if predicted > Duration::ZERO)
    );
    let Some(Explained::Waits(standing)) = a.0.explain(third.job()) else { panic!("it waits") };
    assert_eq!((standing.own_before, standing.waits_for), (1, Waited::Slots));
    assert!(standing.wait > Duration::ZERO && standing.predicted > Duration::ZERO, "{standing:?}");
    assert!([&first, &second, &third].iter().all(|ticket| b.0.explain(ticket.job()).is_none()));
    node.watch.gate.open();
    assert_eq!(ends(&receive, 3), []);
    let Some(Explained::Ended(past)) = a.0.explain(third.job()) else { panic!("it ended") };
    let Scheduled { ahead, waited_for, together, device, .. } = past.scheduled;
    assert_eq!((ahead, waited_for, together), (1, Waited::Slots, 2));
    assert!(device > Duration::ZERO && past.failed.is_none() && &*past.model == "add", "{past:?}");
    assert_eq!(a.0.recent().len(), 3);
    assert!(b.0.recent().is_empty() && b.0.explain(third.job()).is_none());
}

#[test]
fn who_waits_for_its_own_limit_is_told_so() {
    let node = node(&EngineConfig::cpu(2));
    let share = Share { running_max: 1, ..Share::ALL };
    let leases = vec![Lease { share, ..Lease::everything() }];
    let a = node.session("a");
    node.engine.set_policy(&TenantId::new("a"), Policy { leases, ..Policy::everything() });
    let (send, receive) = channel();
    let _first = submit(&a, &[WAITS], &send);
    node.watch.gate.wait_for_arrivals(1);
    let second = submit(&a, &[1.0], &send);
    let Some(Explained::Waits(standing)) = a.0.explain(second.job()) else { panic!("it waits") };
    assert_eq!(standing.waits_for, Waited::OwnLimit);
    node.watch.gate.open();
    assert_eq!(ends(&receive, 2), []);
}

#[test]
fn a_model_that_a_client_gave_never_has_rows_of_two_tenants_in_a_run() {
    let node = node_with(&EngineConfig::cpu(1), |_, engine| {
        let files = [((1, "model.rows".to_owned()), bytes::Bytes::from_static(b"x"))].into();
        let request =
            ControlRequest::LoadFiles { name: "add".into(), files: ClientFiles { files, config: None } };
        engine.control_and_wait(request).unwrap();
    });
    let (a, b) = (node.session("a"), node.session("b"));
    let (send, receive) = channel();
    let _first = submit(&a, &[WAITS], &send);
    node.watch.gate.wait_for_arrivals(1);
    let _rest: Vec<_> = [&a, &b, &a, &b].iter().map(|session| submit(session, &[1.0], &send)).collect();
    node.watch.gate.open();
    assert_eq!(ends(&receive, 5), []);
    assert_eq!(node.runs(), [1, 2, 2]);
}
