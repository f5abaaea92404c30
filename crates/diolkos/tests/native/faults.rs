// SPDX-License-Identifier: Apache-2.0
//! What goes wrong, and harms nobody else.

use std::future::IntoFuture as _;
use std::time::Duration;

use diolkos_client::types::Code;
use diolkos_client::{AnyTensor, Client, Error, Options};

use crate::support::{Fixture, eventually};

const NONE: [(&str, AnyTensor); 0] = [];

#[test]
fn a_client_goes_on_when_the_daemon_was_restarted() {
    let fixture = Fixture::start("");
    let clients = [fixture.client(), {
        let options = Options { memory: diolkos_client::Memory::Private, ..Options::default() };
        Client::connect_with(&fixture.unix(), options).unwrap()
    }];
    let models: Vec<_> = clients.iter().map(|client| client.open("echo").unwrap()).collect();
    // Built before, and sent after.
    let tensors: Vec<_> = clients
        .iter()
        .map(|client| {
            let mut tensor = client.tensor::<u16>(&[3]).unwrap();
            tensor.copy_from_slice(&[1, 2, 3]);
            tensor
        })
        .collect();
    let _fixture = fixture.restart();
    for (model, tensor) in models.iter().zip(tensors) {
        let reply = model.infer([("data", tensor)]).unwrap();
        assert_eq!(reply.output(0).unwrap().values::<u16>().unwrap(), [1, 2, 3]);
    }
}

/// Mappings of memory files in this process, which has the daemon in it.
fn mapped_regions() -> usize {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    maps.lines().filter(|line| line.contains("memfd:diolkos")).count()
}

/// A daemon writes only into what was made for its connection; what earlier ones left can be read and sent.
#[test]
fn tensors_outlive_their_connection_and_regions_do_not_pile_up() {
    let mut fixture = Fixture::start("");
    let client = fixture.client();
    let echo = client.open("echo").unwrap();
    let mut input = client.tensor::<u32>(&[1000]).unwrap();
    input.fill(7);
    let mut tensor = AnyTensor::from(input);
    let mut replies = Vec::new();
    let mut mapped = Vec::new();
    for _ in 0..5 {
        // The input moves to a region of the connection that there is.
        let reply = echo.infer([("data", tensor)]).unwrap();
        assert!(client.shares_memory());
        assert_eq!(reply.output(0).unwrap().values::<u32>().unwrap(), [7; 1000]);
        mapped.push(mapped_regions());
        fixture = fixture.restart();
        assert_eq!(reply.output(0).unwrap().values::<u32>().unwrap(), [7; 1000], "it is still there");
        replies = reply.outputs().to_vec();
        tensor = reply.into_inputs().remove(0);
    }
    assert_eq!(replies.len(), 1);
    // A region and rings on each side, and the region of the last outputs; a daemon that is just gone may have some.
    assert!(mapped[4] <= mapped[1] + 2, "{mapped:?}");
}

/// A tensor that is shared can't move, and one that is too long for the stream must not be sent over it.
#[test]
fn shared_and_large_tensors_outlive_their_connection_too() {
    let fixture = Fixture::start("");
    let client = fixture.client();
    let minmax = client.open("minmax").unwrap();
    let mut input = client.tensor::<u8>(&[2 << 20]).unwrap();
    input.fill(7);
    let shared = AnyTensor::from(input).share();
    let fixture = fixture.restart_with("limits.body_bytes_max = \"1MiB\"");
    for _ in 0..3 {
        let reply = minmax.infer([("data", AnyTensor::from(shared.clone()))]).unwrap();
        assert_eq!(reply.output(0).unwrap().bytes(), [7]);
    }
    // Not from shared memory at all.
    let options = Options { memory: diolkos_client::Memory::Private, ..Options::default() };
    let private = Client::connect_with(&fixture.unix(), options).unwrap();
    let input = private.tensor::<u8>(&[2 << 20]).unwrap();
    let error = private.open("minmax").unwrap().infer([("data", input)]).unwrap_err();
    assert!(error.to_string().contains("`limits.body_bytes_max`"), "{error}");
    private.open("noop").unwrap().infer(NONE).unwrap();
}

#[test]
fn without_reconnecting_the_loss_is_told() {
    let mut fixture = Fixture::start("");
    let options = Options { reconnect: std::time::Duration::ZERO, ..Options::default() };
    let client = Client::connect_with(&fixture.unix(), options).unwrap();
    let noop = client.open("noop").unwrap();
    fixture.stop();
    let error = noop.infer(NONE).unwrap_err();
    assert!(matches!(error, Error::Lost { .. } | Error::Refused(_)), "{error}");
    let error = Client::connect(&fixture.unix()).unwrap_err();
    assert!(error.to_string().contains("diolkos serve"), "{error}");
}

#[test]
fn the_end_of_a_client_gives_everything_back() {
    let fixture = Fixture::start("engine.slots = 1");
    let before = fixture.engine().sessions();
    for _ in 0..20 {
        let client = fixture.client();
        let gate = client.open("gate").unwrap();
        let pending: Vec<_> = (0..10)
            .map(|_| gate.submit([("data", client.tensor::<u8>(&[100_000]).unwrap())]).unwrap())
            .collect();
        drop((gate, client, pending));
        fixture.gate.open();
        fixture.gate.close();
    }
    fixture.gate.open();
    let engine = fixture.engine();
    eventually("an idle engine", || engine.jobs() == 0 && engine.request_memory_used() == 0);
    eventually("the end of all sessions", || engine.sessions() == before);
}

#[test]
fn a_model_whose_outputs_need_more_room_is_asked_again() {
    let fixture = Fixture::start("");
    let client = fixture.client();
    let echo = client.open("echo").unwrap();
    for elements in [1u64, 100_000, 3_000_000] {
        let tensor = client.tensor::<f64>(&[elements]).unwrap();
        let reply = echo.infer([("data", tensor)]).unwrap();
        assert_eq!(reply.output(0).unwrap().bytes().len() as u64, elements * 8);
    }
}

#[test]
fn more_than_the_regions_may_hold_is_refused_here() {
    let fixture =
        Fixture::start("limits.requests_memory_max = \"128MiB\"\nlimits.request_memory_max = \"100MiB\"");
    let client = fixture.client();
    let error = client.tensor::<u8>(&[200 << 20]).unwrap_err();
    assert!(matches!(error, Error::Memory { .. }), "{error}");
    let first = client.tensor::<u8>(&[50 << 20]).unwrap();
    let second = client.tensor::<u8>(&[50 << 20]).unwrap();
    assert!(matches!(client.tensor::<u8>(&[50 << 20]), Err(Error::Memory { .. })));
    drop(first);
    client.tensor::<u8>(&[50 << 20]).unwrap();
    drop(second);
    let error = client.open("unknown").unwrap_err();
    assert_eq!(error.code(), Some(Code::NotFound));
}

#[test]
fn a_task_goes_on_when_the_daemon_was_restarted() {
    let fixture = Fixture::start("");
    let client = fixture.client();
    let gate = client.open("gate").unwrap();
    let echo = client.open("echo").unwrap();
    let mut tensor = client.tensor::<i16>(&[2]).unwrap();
    tensor.copy_from_slice(&[-1, 7]);
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    // Under way when the daemon goes; whether it was answered before or is asked again, the answer is the same.
    let pending = gate.submit([("data", tensor)]).unwrap();
    fixture.gate.wait_for_arrivals(1);
    let fixture = fixture.restart();
    fixture.gate.open();
    let reply = runtime.block_on(pending.into_future()).unwrap();
    assert_eq!(reply.output(0).unwrap().values::<i16>().unwrap(), [-1, 7]);
    let tensor = client.tensor::<i16>(&[2]).unwrap();
    runtime.block_on(echo.submit([("data", tensor)]).unwrap().into_future()).unwrap();
}

#[test]
fn a_daemon_that_says_nothing_is_given_up_in_time() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("d.sock");
    // It listens, and never takes a connection.
    let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    let options = Options { connect: Duration::from_millis(50), ..Options::default() };
    let error = Client::connect_with(&format!("unix:{}", socket.display()), options).unwrap_err();
    assert!(matches!(error, Error::Connect { .. }), "{error}");
    assert!(error.to_string().contains("says nothing"), "{error}");
}

#[test]
fn cancellations_leave_room_for_requests() {
    let fixture = Fixture::start("[engine]\nslots = 1");
    // A connection that is lost is an error here, and not made again.
    let options = Options { in_flight: 8, reconnect: Duration::ZERO, ..Options::default() };
    let client = Client::connect_with(&fixture.unix(), options).unwrap();
    let gate = client.open("gate").unwrap();
    let ask = || {
        let mut data = client.tensor::<u8>(&[4]).unwrap();
        data.fill(1);
        gate.submit([("data", data)]).unwrap()
    };
    let rounds = 50;
    for round in 0..rounds {
        let held = ask();
        fixture.gate.wait_for_arrivals(2 * round + 1);
        // These wait for the slot. As many are cancelled as the ring has entries for requests.
        for _ in 0..3 {
            let pending: Vec<_> = (0..7).map(|_| ask()).collect();
            drop(pending);
        }
        // One that is held, three times seven, and below one more.
        eventually("all have come, and those that wait are cancelled", || {
            let device = &fixture.engine().devices()[0];
            device.arrived == 23 * round + 22 && device.waiting == 0
        });
        fixture.gate.open();
        held.wait().unwrap();
        ask().wait().unwrap();
        fixture.gate.close();
    }
    let stats = client.stats(Some("gate")).unwrap();
    assert_eq!(stats[0].executions, 2 * rounds, "what was cancelled while it waited never ran");
    fixture.gate.open();
}

#[test]
fn an_async_request_that_is_dropped_is_cancelled() {
    let fixture = Fixture::start("[engine]\nslots = 1");
    let client = fixture.client();
    let gate = client.open("gate").unwrap();
    let ask = || {
        let mut data = client.tensor::<u8>(&[4]).unwrap();
        data.fill(1);
        gate.submit([("data", data)]).unwrap()
    };
    let held = ask();
    fixture.gate.wait_for_arrivals(1);
    let mut waits = Box::pin(ask().into_future());
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    assert!(waits.as_mut().poll(&mut context).is_pending());
    eventually("it waits", || fixture.engine().devices()[0].waiting == 1);
    drop(waits);
    eventually("it is cancelled", || fixture.engine().devices()[0].waiting == 0);
    fixture.gate.open();
    held.wait().unwrap();
}

#[test]
fn a_daemon_ends_although_an_operation_does_not() {
    let mut fixture = Fixture::start("[engine]\nslots = 1\n[shutdown]\ndrain_timeout = \"50ms\"");
    let client =
        Client::connect_with(&fixture.unix(), Options { reconnect: Duration::ZERO, ..Options::default() });
    let client = client.unwrap();
    let gate = client.open("gate").unwrap();
    let mut data = client.tensor::<u8>(&[4]).unwrap();
    data.fill(1);
    let pending = gate.submit([("data", data)]).unwrap();
    fixture.gate.wait_for_arrivals(1);
    assert_eq!(fixture.engine().devices()[0].ran_here, 1, "a poll thread runs it");
    fixture.stop_without_opening();
    assert!(pending.wait().is_err());
    fixture.gate.open();
}
