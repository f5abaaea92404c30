// SPDX-License-Identifier: Apache-2.0
//! What a well-behaved client does.

use std::time::Duration;

use diolkos_client::types::{BytesElements, Code, DataType, push_bytes_element};
use diolkos_client::{AnyTensor, Client, Error, RequestOptions, Tensor};

use crate::support::Fixture;

/// No inputs, of a type that inference needs to know.
const NONE: [(&str, AnyTensor); 0] = [];

fn ramp(client: &Client, shape: &[u64]) -> Tensor<f32> {
    let mut tensor = client.tensor::<f32>(shape).unwrap();
    tensor.iter_mut().enumerate().for_each(|(at, value)| *value = at as f32);
    tensor
}

#[test]
fn every_way_gives_the_same_answers() {
    let fixture = Fixture::start("");
    for (way, client) in fixture.clients() {
        let apart = way.starts_with("stream") || way.starts_with("in process");
        assert_eq!(client.shares_memory(), !apart, "{way}");
        let health = client.health().unwrap();
        assert!(health.live && health.ready, "{way}");
        let noop = client.open("noop").unwrap();
        for _ in 0..200 {
            assert!(noop.infer(NONE).unwrap().outputs().is_empty(), "{way}");
        }
        let echo = client.open("echo").unwrap();
        // One that fits into a slot's neighbourhood, an empty one, one that is odd, one beyond every buffer.
        for shape in [&[2, 3][..], &[0], &[7, 11, 13], &[1 << 20]] {
            let sent = ramp(&client, shape);
            let expected = sent.to_vec();
            let reply = echo.infer([("data", sent)]).unwrap();
            let output = reply.output(0).unwrap();
            assert_eq!(
                (output.shape(), output.values::<f32>().unwrap()),
                (shape, &expected[..]),
                "{way} {shape:?}"
            );
            assert!(output.values::<i32>().unwrap_err().to_string().contains("FP32"));
            assert_eq!(reply.named("data").unwrap().name(), "data");
            // The same tensor again: it came back.
            let again = reply.into_inputs().pop().unwrap();
            let reply = echo.infer([("data", again)]).unwrap();
            assert_eq!(reply.output(0).unwrap().values::<f32>().unwrap(), expected, "{way}");
        }
    }
}

#[test]
fn strings_travel() {
    let fixture = Fixture::start("");
    for (way, client) in fixture.clients() {
        let mut bytes = Vec::new();
        for word in ["", "one", "δίολκος"] {
            push_bytes_element(&mut bytes, word.as_bytes()).unwrap();
        }
        let mut tensor = client.tensor_of(DataType::Bytes, &[3], bytes.len()).unwrap();
        tensor.bytes_mut().copy_from_slice(&bytes);
        let reply = client.open("echo").unwrap().infer([("data", tensor)]).unwrap();
        let output = reply.output(0).unwrap();
        assert_eq!(output.strings().unwrap(), [&b""[..], b"one", "δίολκος".as_bytes()], "{way}");
        assert_eq!(BytesElements::count_checked(output.bytes()), Ok(3));
    }
}

#[test]
fn many_are_under_way_and_each_gets_its_own() {
    let fixture = Fixture::start("");
    for (way, client) in fixture.clients() {
        let echo = client.open("echo").unwrap();
        let pending: Vec<_> = (0..300u32)
            .map(|number| {
                let mut tensor = client.tensor::<u32>(&[5]).unwrap();
                tensor.fill(number);
                echo.submit([("data", tensor)]).unwrap()
            })
            .collect();
        // Not in the order in which they were sent.
        for (number, pending) in pending.into_iter().enumerate().rev() {
            let reply = pending.wait().unwrap();
            assert_eq!(reply.output(0).unwrap().values::<u32>().unwrap(), [number as u32; 5], "{way}");
        }
    }
}

#[test]
fn many_threads_share_a_client() {
    let fixture = Fixture::start("");
    for (way, client) in fixture.clients() {
        std::thread::scope(|scope| {
            for thread in 0..8u64 {
                let client = client.clone();
                scope.spawn(move || {
                    let echo = client.open("echo").unwrap();
                    for round in 0..100 {
                        let mut tensor = client.tensor::<u64>(&[100]).unwrap();
                        tensor.fill(thread * 1000 + round);
                        let reply = echo.infer([("data", tensor)]).unwrap();
                        let expected = [thread * 1000 + round; 100];
                        assert_eq!(reply.output(0).unwrap().values::<u64>().unwrap(), expected, "{way}");
                    }
                });
            }
        });
    }
}

#[test]
fn models_are_listed_counted_and_refused_by_name() {
    let fixture = Fixture::start("");
    for (way, client) in fixture.clients() {
        let models = client.models().unwrap();
        assert!(
            models.iter().any(|model| model.name == "echo" && model.version == Some(1)),
            "{way}: {models:?}"
        );
        client.open("noop").unwrap().infer(NONE).unwrap();
        let stats = client.stats(Some("noop")).unwrap();
        assert!(stats[0].succeeded >= 1 && stats[0].name == "noop", "{way}: {stats:?}");
        let error = client.open("unknown").unwrap_err();
        assert_eq!(error.code(), Some(Code::NotFound), "{way}");
        // Who has the engine may change what it has.
        if way != "in process" {
            assert_eq!(client.load("echo").unwrap_err().code(), Some(Code::PermissionDenied), "{way}");
            assert_eq!(client.unload("echo").unwrap_err().code(), Some(Code::PermissionDenied), "{way}");
        }
        let echo = client.open_version("echo", 1).unwrap();
        assert_eq!((echo.version(), echo.inputs().len()), (1, 1));
        let error = echo.infer([("date", client.tensor::<u8>(&[1]).unwrap())]).unwrap_err();
        assert_eq!(error.to_string(), "model `echo` has no input `date`; it has `data`");
        let error = echo.infer(NONE).unwrap_err();
        assert_eq!(error.code(), Some(Code::InvalidArgument), "{way}: {error}");
    }
}

#[test]
fn wanted_outputs_come_in_the_wanted_order() {
    let fixture = Fixture::start("");
    for (way, client) in fixture.clients() {
        let minmax = client.open("minmax").unwrap();
        let names: Vec<String> = minmax.outputs().iter().map(|spec| spec.name.to_string()).collect();
        let input = minmax.inputs()[0].name.to_string();
        let mut data = client.tensor::<f64>(&[4]).unwrap();
        data.copy_from_slice(&[3.0, -1.0, 2.0, 5.0]);
        let options = RequestOptions {
            outputs: Some(names.iter().rev().cloned().collect()),
            ..RequestOptions::default()
        };
        let reply = minmax.submit_with([(input, data)], options).unwrap().wait().unwrap();
        assert!(names.len() > 1, "an order takes two at least");
        let given: Vec<_> = reply.outputs().iter().map(|output| output.name().to_owned()).collect();
        assert_eq!(given, names.into_iter().rev().collect::<Vec<_>>(), "{way}");
    }
}

#[test]
fn a_request_that_is_dropped_is_cancelled_and_its_memory_comes_back() {
    let fixture = Fixture::start("engine.slots = 1");
    for (way, client) in fixture.clients() {
        let gate = client.open("gate").unwrap();
        let sent = ramp(&client, &[1 << 18]);
        let held = gate.submit([("data", sent)]).unwrap();
        // This one waits behind it, and never runs.
        let waiting = gate.submit([("data", ramp(&client, &[1 << 18]))]).unwrap();
        drop(waiting);
        let error = held.wait_for(Duration::from_millis(30)).unwrap_err();
        assert!(matches!(error, Error::Timeout), "{way}: {error}");
        fixture.gate.open();
        // Whatever was in flight is answered, and the client goes on.
        let reply = gate.infer([("data", ramp(&client, &[3]))]).unwrap();
        assert_eq!(reply.output(0).unwrap().values::<f32>().unwrap(), [0.0, 1.0, 2.0], "{way}");
        fixture.gate.close();
    }
}

#[test]
fn a_deadline_that_passes_in_the_queue_is_told() {
    let fixture = Fixture::start("engine.slots = 1");
    let client = fixture.client();
    let gate = client.open("gate").unwrap();
    let held = gate.submit([("data", ramp(&client, &[1]))]).unwrap();
    let options = RequestOptions { timeout: Some(Duration::from_millis(5)), ..RequestOptions::default() };
    let late = gate.submit_with([("data", ramp(&client, &[1]))], options).unwrap();
    assert_eq!(late.wait().unwrap_err().code(), Some(Code::DeadlineExceeded));
    fixture.gate.open();
    held.wait().unwrap();
}

#[test]
fn tasks_wait_too() {
    let fixture = Fixture::start("");
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().unwrap();
    for (way, client) in fixture.clients() {
        let echo = client.open("echo").unwrap();
        let asking: Vec<_> = (0..100u32)
            .map(|number| {
                let (client, echo) = (client.clone(), echo.clone());
                runtime.spawn(async move {
                    let mut tensor = client.tensor::<u32>(&[1000]).unwrap();
                    tensor.fill(number);
                    let reply = echo.submit([("data", tensor)]).unwrap().await.unwrap();
                    reply.output(0).unwrap().values::<u32>().unwrap().to_vec()
                })
            })
            .collect();
        for (number, asked) in asking.into_iter().enumerate() {
            assert_eq!(runtime.block_on(asked).unwrap(), [number as u32; 1000], "{way}");
        }
        // Blocking callers beside them are answered by the thread that receives for tasks.
        assert!(client.open("noop").unwrap().infer(NONE).unwrap().outputs().is_empty());
        let error = runtime.block_on(echo.submit(NONE).unwrap().into_future()).unwrap_err();
        assert_eq!(error.code(), Some(Code::InvalidArgument), "{way}");
    }
}

#[test]
fn a_task_that_is_dropped_cancels_its_request() {
    let fixture = Fixture::start("engine.slots = 1");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    for (way, client) in fixture.clients() {
        let gate = client.open("gate").unwrap();
        let pending = gate.submit([("data", ramp(&client, &[1 << 16]))]).unwrap();
        let waited = runtime
            .block_on(async { tokio::time::timeout(Duration::from_millis(20), pending.into_future()).await });
        assert!(waited.is_err(), "{way}");
        fixture.gate.open();
        gate.infer([("data", ramp(&client, &[3]))]).unwrap();
        fixture.gate.close();
    }
}
