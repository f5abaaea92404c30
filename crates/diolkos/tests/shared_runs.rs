// SPDX-License-Identifier: Apache-2.0
//! Answers of requests that may share runs, against those of the same requests alone: for each model of the test set, and for
//! one whose requests certainly do.
//!
//! They lie in the directory that `DIOLKOS_TEST_MODELS` names, `../shared/models` beside the repository unless told.

#![allow(clippy::unwrap_used)] // A test may panic.

#[allow(dead_code, unreachable_pub)]
#[path = "../src/commands/bench/sched/onnx.rs"]
mod onnx;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::channel;

use diolkos_backend::faulty::{FaultyOperation, Gate, Plan, RunFault};
use diolkos_backend::{Buffer, Seeded, Tensor};
use diolkos_builtin::Echo;
use diolkos_engine::store::{NoRehearsal, Store, StoreConfig};
use diolkos_engine::{Engine, EngineConfig, NamedTensor, Reply, Request, Session};
use diolkos_tract::TractBackend;
use diolkos_types::{Code, DataType, Dim, Shape, Signature, TenantId};

/// Requests that come at once.
const REQUESTS: u64 = 24;

/// Numbers of an answer differ by so much of the largest one at most (docs/scheduling.md).
const TOLERANCE: f64 = 1e-4;

fn test_models() -> Vec<PathBuf> {
    let dir = std::env::var_os("DIOLKOS_TEST_MODELS").map(PathBuf::from);
    let dir = dir.unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/models"));
    let files = std::fs::read_dir(&dir).into_iter().flatten().map(|file| file.unwrap().path());
    let mut models: Vec<PathBuf> =
        files.filter(|path| path.extension().is_some_and(|of| of == "onnx")).collect();
    models.sort();
    if models.is_empty() {
        println!("SKIPPED: no models in {} (set DIOLKOS_TEST_MODELS)", dir.display());
    }
    models
}

/// An engine with one slot that serves a model, and a gate to hold it up.
fn engine(model: &Path, batching: bool, gate: &Gate) -> Engine {
    let store =
        Store::new(StoreConfig::default(), vec![Arc::new(TractBackend::new())], Box::new(NoRehearsal))
            .unwrap();
    store.add_file(model).unwrap();
    let held = FaultyOperation::new(Arc::new(Echo::new()), Plan::always(RunFault::Hold(gate.clone())));
    store.add_builtin("gate", "waits", Arc::new(held)).unwrap();
    let name = model.file_stem().unwrap().to_str().unwrap();
    store.load(name).unwrap();
    Engine::start(&EngineConfig { batching, ..EngineConfig::cpu(1) }, store).unwrap()
}

/// Numbers that look random, of one row; what else is open, at the end of a shape, is as long as the models for sound want it.
fn inputs(signature: &Signature, seed: u64) -> Vec<NamedTensor> {
    let mut random = Seeded::new(seed);
    let tensor = |spec: &diolkos_types::TensorSpec| {
        let dims = spec.dims.as_deref().unwrap_or(&[]);
        let dims = dims.iter().enumerate().map(|(index, dim)| match dim {
            Dim::Fixed(length) => *length,
            Dim::Variable { .. } if index > 0 && index + 1 == dims.len() => 512,
            Dim::Variable { .. } => 1,
        });
        let shape = Shape::new(&dims.collect::<Vec<u64>>()).unwrap();
        let elements = shape.elements().unwrap();
        let data: Vec<u8> = match spec.data_type {
            DataType::Fp32 => {
                (0..elements).flat_map(|_| ((random.next() % 1000) as f32 / 1000.0).to_le_bytes()).collect()
            }
            // A rate of samples.
            DataType::Int64 if shape.dims().is_empty() => 16_000i64.to_le_bytes().to_vec(),
            // Small numbers, so that what is an index is one.
            other => (0..elements)
                .flat_map(|_| {
                    let mut bytes = vec![0; other.element_bytes().expect("no text in the test set")];
                    bytes[0] = (random.next() % 2) as u8;
                    bytes
                })
                .collect(),
        };
        NamedTensor {
            name: spec.name.clone(),
            tensor: Tensor { data_type: spec.data_type, shape, data: Buffer::from(data) },
        }
    };
    signature.inputs.iter().map(tensor).collect()
}

type Answer = Result<Vec<Tensor>, Code>;

fn answer(reply: Reply) -> Answer {
    let outputs = reply.result.map_err(|status| status.code())?;
    Ok(outputs.named().map(|(_, tensor)| tensor.clone()).collect())
}

/// The answers of requests that come while the only slot is taken, and how many runs they had.
fn answers(model: &Path, batching: bool) -> (Vec<Answer>, u64) {
    let gate = Gate::new();
    let engine = engine(model, batching, &gate);
    let session = engine.open_session(&TenantId::default()).unwrap();
    let (sent, replies) = channel();
    let submit = |session: &Session, request, number: u64| {
        let sent = sent.clone();
        // Nobody cancels it.
        let _ = session.submit(request, Box::new(move |reply: Reply| sent.send((number, reply)).unwrap()));
    };
    let held = session.open("gate", None).unwrap();
    let byte =
        Tensor { data_type: DataType::Uint8, shape: Shape::new(&[1]).unwrap(), data: Buffer::from(vec![0]) };
    let input = NamedTensor { name: "data".into(), tensor: byte };
    submit(&session, Request { inputs: vec![input], ..Request::new(held) }, REQUESTS);
    gate.wait_for_arrivals(1);
    let name = model.file_stem().unwrap().to_str().unwrap();
    let handle = session.open(name, None).unwrap();
    let signature = engine.store().find(name).unwrap().bind(None).unwrap().signature.clone();
    for number in 0..REQUESTS {
        let inputs = inputs(&signature, 7 + number);
        submit(&session, Request { inputs, ..Request::new(handle) }, number);
    }
    gate.open();
    let mut answers: Vec<(u64, Reply)> = replies.iter().take(REQUESTS as usize + 1).collect();
    answers.sort_by_key(|(number, _)| *number);
    answers.pop();
    (answers.into_iter().map(|(_, reply)| answer(reply)).collect(), engine.devices()[0].runs - 1)
}

fn floats(tensor: &Tensor) -> Vec<f64> {
    let bytes = tensor.data.to_private();
    bytes.chunks_exact(4).map(|four| f64::from(f32::from_le_bytes(four.try_into().unwrap()))).collect()
}

fn compare(model: &Path, alone: &Answer, together: &Answer) {
    let (alone, together) = match (alone, together) {
        (Ok(alone), Ok(together)) => (alone, together),
        (alone, together) => {
            return assert_eq!(alone.as_ref().err(), together.as_ref().err(), "{}", model.display());
        }
    };
    assert_eq!(alone.len(), together.len(), "{}", model.display());
    for (alone, together) in alone.iter().zip(together) {
        assert_eq!((alone.data_type, alone.shape), (together.data_type, together.shape));
        if alone.data_type != DataType::Fp32 {
            assert_eq!(alone.data.to_private(), together.data.to_private(), "{}", model.display());
            continue;
        }
        let (alone, together) = (floats(alone), floats(together));
        let largest = alone.iter().fold(0.0f64, |largest, value| largest.max(value.abs()));
        for (alone, together) in alone.iter().zip(&together) {
            assert!(
                (alone - together).abs() <= TOLERANCE * largest,
                "{}: {alone} and {together}",
                model.display()
            );
        }
    }
}

/// Compares all answers, and gives how many were outputs, and the runs.
fn check(model: &Path) -> (u64, u64) {
    let (alone, alone_runs) = answers(model, false);
    let (together, runs) = answers(model, true);
    assert_eq!(alone_runs, REQUESTS);
    assert_eq!(alone.len(), together.len());
    alone.iter().zip(&together).for_each(|(alone, together)| compare(model, alone, together));
    let worked = alone.iter().filter(|answer| answer.is_ok()).count();
    println!("{}: {worked} of {REQUESTS} answers, {runs} runs", model.display());
    (worked as u64, runs)
}

#[test]
fn each_model_of_the_test_set_answers_the_same() {
    test_models().iter().for_each(|model| {
        // One fails on what its own branches make of an input that is no sound.
        let fails = model.file_stem().is_some_and(|name| name == "silero_vad_16k_op15");
        assert_eq!(check(model).0, if fails { 0 } else { REQUESTS }, "{}", model.display());
    });
}

#[test]
fn requests_that_certainly_share_runs_answer_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let model = dir.path().join("mlp.onnx");
    std::fs::write(&model, onnx::mlp(3, 512)).unwrap();
    let (worked, runs) = check(&model);
    assert_eq!(worked, REQUESTS);
    assert!(runs < REQUESTS, "{runs} runs: nothing was shared");
}
