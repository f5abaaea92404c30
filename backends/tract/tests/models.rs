// SPDX-License-Identifier: Apache-2.0
//! Real models, if the machine has them, against answers of ONNX Runtime 1.32 for the same inputs.
//!
//! They lie in the directory that `DIOLKOS_TEST_MODELS` names, `../shared/models` beside the repository
//! unless told. Each test prints how long load and run took, and asserts nothing about it.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::Instant;

use diolkos_backend::{Operation, Tensor};
use diolkos_types::{DataType, Dim, Shape};

mod common;

use common::*;

fn models() -> PathBuf {
    match std::env::var_os("DIOLKOS_TEST_MODELS") {
        Some(directory) => directory.into(),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/models"),
    }
}

/// The model's bytes, or `None` with a line that says why.
fn contents(name: &str) -> Option<Vec<u8>> {
    let path = models().join(name);
    match std::fs::read(&path) {
        Ok(bytes) => Some(bytes),
        Err(error) => {
            println!("SKIPPED: {}: {error} (set DIOLKOS_TEST_MODELS)", path.display());
            None
        }
    }
}

fn loaded(name: &str) -> Option<Arc<dyn Operation>> {
    let bytes = contents(name)?;
    let begin = Instant::now();
    let operation = load_bytes(bytes).unwrap_or_else(|error| panic!("{name}: {error}"));
    println!("{name}: loaded in {:?}, {} bytes resident", begin.elapsed(), operation.resident_bytes());
    Some(operation)
}

/// Values in 0..1 that look random and are the same everywhere.
fn ramp(dims: &[u64]) -> Tensor {
    let elements = Shape::new(dims).ok().and_then(|shape| shape.elements()).expect("a small shape");
    let values: Vec<f32> = (0..elements).map(|i| ((i * 7919 + 13) % 1009) as f32 / 1009.0).collect();
    f32s(dims, &values)
}

fn timed(name: &str, operation: &dyn Operation, inputs: &[Tensor]) -> Vec<Tensor> {
    let outputs = run(operation, inputs.to_vec()).unwrap_or_else(|error| panic!("{name}: {error}"));
    let best = (0..5)
        .map(|_| {
            let begin = Instant::now();
            run(operation, inputs.to_vec()).expect("it ran before");
            begin.elapsed()
        })
        .min();
    let shapes: Vec<Option<Shape>> = inputs.iter().map(|tensor| Some(tensor.shape)).collect();
    println!("{name}: best of five {best:?}, predicted peak {:?}", operation.peak_bytes(&shapes, 0));
    outputs
}

fn close(given: &[f32], expected: &[f32]) {
    for (index, (g, e)) in given.iter().zip(expected).enumerate() {
        assert!((g - e).abs() <= 1e-4 + 1e-3 * e.abs(), "element {index}: {g}, expected {e}");
    }
}

fn argmax(values: &[f32]) -> usize {
    (0..values.len()).max_by(|&a, &b| values[a].total_cmp(&values[b])).expect("values")
}

fn sum(values: &[f32]) -> f32 {
    values.iter().map(|&v| f64::from(v)).sum::<f64>() as f32
}

#[test]
fn mnist() {
    let Some(operation) = loaded("mnist.onnx") else { return };
    let outputs = timed("mnist.onnx", &*operation, &[ramp(&[1, 1, 28, 28])]);
    let logits = values(&outputs[0]);
    close(&logits, &[-0.343_892_63, -0.425_705_88, -1.756_349, 0.031_906_907]);
    close(&logits[8..], &[2.382_311_8, -0.700_513_4]);
}

#[test]
fn mobilenet_with_quantised_weights_and_any_batch() {
    let name = "mobilenet_v2_1.0_224_dq.onnx";
    let Some(operation) = loaded(name) else { return };
    let batch = Dim::Variable { max: OPTIONS.variable_dim_max };
    assert_eq!(operation.signature().inputs[0].dims.as_deref().unwrap()[0], batch);
    timed(name, &*operation, &[ramp(&[1, 3, 224, 224])]);
    let outputs = timed(name, &*operation, &[ramp(&[2, 3, 224, 224])]);
    assert_eq!(outputs[0].shape.dims(), [2, 1001]);
    let probabilities = values(&outputs[0]);
    assert_eq!(argmax(&probabilities[..1001]), 905);
    close(&probabilities, &[6.598_244e-5, 6.270_179e-4, 1.152_295e-4]);
    close(&probabilities[2000..], &[1.122_968e-4, 1.995_555_6e-3]);
    close(&[sum(&probabilities)], &[2.0]);
}

#[test]
fn ultraface() {
    let name = "ultraface_rfb320.onnx";
    let Some(operation) = loaded(name) else { return };
    let outputs = timed(name, &*operation, &[ramp(&[1, 3, 240, 320])]);
    let (scores, boxes) = (values(&outputs[0]), values(&outputs[1]));
    close(&scores, &[0.924_087_05, 0.075_912_94, 0.935_941_64, 0.064_058_34]);
    close(&boxes, &[0.008_746_678, 0.010_610_522, 0.022_037_124, 0.032_235_466]);
    close(&boxes[17_678..], &[1.205_109_6, 1.245_673_3]);
    close(&[sum(&boxes)], &[8839.485]);
}

#[test]
fn silero_keeps_its_state_in_tensors() {
    let name = "silero_vad_op18_ifless.onnx";
    let Some(operation) = loaded(name) else { return };
    let by_name = |input: &str| match input {
        "input" => ramp(&[1, 576]),
        "state" => ramp(&[2, 1, 128]),
        _ => i64s(&[], &[16_000]),
    };
    let inputs: Vec<Tensor> = operation.signature().inputs.iter().map(|spec| by_name(&spec.name)).collect();
    let outputs = timed(name, &*operation, &inputs);
    close(&values(&outputs[0]), &[0.019_901_723]);
    let state = values(&outputs[1]);
    close(&state, &[0.156_441_93, -0.093_814_22, 0.846_852_54, 0.295_828_07]);
    close(&[sum(&state)], &[4.325_275_4]);
}

#[test]
fn bidirectional_lstm_of_any_batch_and_length() {
    let name = "byte_sb_bidi_lstm.onnx";
    let Some(operation) = loaded(name) else { return };
    let text: Vec<u8> = (0..100u32).map(|i| (i * 7919 % 256) as u8).collect();
    let input =
        Tensor { data_type: DataType::Uint8, shape: Shape::new(&[2, 50]).unwrap(), data: text.into() };
    let outputs = timed(name, &*operation, &[input]);
    assert_eq!(outputs[0].shape.dims(), [2, 50, 2]);
    let logits = values(&outputs[0]);
    close(&logits, &[-5.080_281_7, -2.523_023, -4.827_844, -1.802_380_2]);
    close(&logits[198..], &[-5.931_334_5, -0.117_395_4]);
    close(&[sum(&logits)], &[-676.0176]);
}

#[test]
fn fastestdet() {
    let name = "fastestdet_coco352.onnx";
    let Some(operation) = loaded(name) else { return };
    let outputs = timed(name, &*operation, &[ramp(&[1, 3, 352, 352])]);
    assert_eq!(outputs[0].shape.dims(), [1, 85, 22, 22]);
    let map = values(&outputs[0]);
    close(&map, &[0.009_994_298, 0.011_201_888, 0.008_646_876]);
    close(&[sum(&map)], &[137.803_1]);
}

/// The file with `If` nodes: whatever becomes of it, the answer is right or there is none.
#[test]
fn silero_with_branches() {
    let Some(bytes) = contents("silero_vad_16k_op15.onnx") else { return };
    let operation = match load_bytes(bytes) {
        Ok(operation) => operation,
        Err(error) => return println!("refused at load: {error}"),
    };
    let by_name = |input: &str| match input {
        "input" => ramp(&[1, 576]),
        "state" => ramp(&[2, 1, 128]),
        _ => i64s(&[], &[16_000]),
    };
    let inputs = operation.signature().inputs.iter().map(|spec| by_name(&spec.name)).collect();
    match run(&*operation, inputs) {
        Ok(outputs) => close(&values(&outputs[0]), &[0.019_901_78]),
        Err(error) => println!("refused at run: {error}"),
    }
}

#[test]
fn four_threads_get_the_same_answers_as_one() {
    let Some(operation) = loaded("mnist.onnx") else { return };
    let alone = values(&run(&*operation, vec![ramp(&[1, 1, 28, 28])]).unwrap()[0]);
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..50 {
                    let outputs = run(&*operation, vec![ramp(&[1, 1, 28, 28])]).unwrap();
                    assert_eq!(values(&outputs[0]), alone);
                }
            });
        }
    });
}

#[test]
fn a_real_model_cut_off_is_an_error() {
    let Some(bytes) = contents("mnist.onnx") else { return };
    for length in [0, 1, 100, bytes.len() / 2, bytes.len() - 1] {
        load_bytes(bytes[..length].to_vec()).map(|_| ()).unwrap_err();
    }
}
