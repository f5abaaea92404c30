// SPDX-License-Identifier: Apache-2.0
//! What holds of every endpoint: the engine in this process, and a daemon elsewhere.

use std::sync::mpsc::{self, Receiver};
use std::time::{Duration, Instant};

use diolkos_backend::endpoint::{Cancel, Endpoint, Inferred, ModelState, NamedTensor, Request};
use diolkos_backend::{Buffer, Tensor};
use diolkos_client::types::{Code, DataType, HandleId, Shape, Status};
use diolkos_client::{Client, Error};

use crate::support::{Fixture, eventually};

fn endpoints(fixture: &Fixture) -> Vec<(&'static str, Box<dyn Endpoint>)> {
    vec![("in process", Box::new(fixture.endpoint())), ("elsewhere", Box::new(fixture.client().endpoint()))]
}

fn bytes(data: &[u8]) -> NamedTensor {
    let shape = Shape::new(&[data.len() as u64]).unwrap();
    let tensor = Tensor { data_type: DataType::Uint8, shape, data: Buffer::from(data.to_vec()) };
    NamedTensor { name: "data".into(), tensor }
}

type Results = Receiver<Result<Inferred, Status>>;

fn submit(endpoint: &dyn Endpoint, request: Request) -> (Box<dyn Cancel>, Results) {
    let (send, receive) = mpsc::channel();
    let cancel = endpoint.submit(request, Box::new(move |result| send.send(result).unwrap()));
    (cancel, receive)
}

fn code(results: &Results) -> Code {
    results.recv().unwrap().unwrap_err().code()
}

#[test]
fn a_request_is_answered_with_what_it_gave() {
    let fixture = Fixture::start("");
    for (what, endpoint) in endpoints(&fixture) {
        assert!(endpoint.is_ready(), "{what}");
        let opened = endpoint.open("echo", None).unwrap();
        assert_eq!(&*opened.signature.inputs[0].name, "data", "{what}");
        for length in [0, 1, 1000, 1 << 20] {
            let data: Vec<u8> = (0..length).map(|at| (at % 251) as u8).collect();
            let (_, results) =
                submit(&*endpoint, Request { inputs: vec![bytes(&data)], ..Request::new(opened.handle) });
            let inferred = results.recv().unwrap().unwrap();
            assert_eq!(inferred.version, opened.version, "{what}");
            let [output] = &inferred.outputs[..] else { panic!("{what}: echo gives one output") };
            assert_eq!((&*output.name, output.tensor.data.to_private() == data), ("data", true), "{what}");
        }
        endpoint.close(opened.handle);
        let (_, results) = submit(&*endpoint, Request::new(opened.handle));
        assert_eq!(code(&results), Code::NotFound, "{what}: a closed handle");
    }
}

#[test]
fn many_requests_at_once_each_get_their_own() {
    let fixture = Fixture::start("");
    for (what, endpoint) in endpoints(&fixture) {
        let opened = endpoint.open("echo", None).unwrap();
        let all: Vec<_> = (0..48u8)
            .map(|number| {
                let inputs = vec![bytes(&[number; 100])];
                submit(&*endpoint, Request { inputs, ..Request::new(opened.handle) }).1
            })
            .collect();
        for (number, results) in all.into_iter().enumerate() {
            let inferred = results.recv().unwrap().unwrap();
            assert_eq!(inferred.outputs[0].tensor.data.to_private()[..], [number as u8; 100], "{what}");
        }
    }
}

#[test]
fn what_can_not_be_is_refused_in_the_same_words() {
    let fixture = Fixture::start("");
    let mut said = Vec::new();
    for (what, endpoint) in endpoints(&fixture) {
        let unknown = endpoint.open("nothing", None).unwrap_err();
        let version = endpoint.open("echo", Some(9)).unwrap_err();
        assert_eq!((unknown.code(), version.code()), (Code::NotFound, Code::NotFound), "{what}");
        let opened = endpoint.open("echo", None).unwrap();
        let (_, results) = submit(&*endpoint, Request::new(opened.handle));
        let missing = results.recv().unwrap().unwrap_err();
        let (_, results) = submit(&*endpoint, Request::new(HandleId { slot: 77, generation: 0 }));
        assert_eq!(code(&results), Code::NotFound, "{what}");
        let late = Request {
            deadline: Some(Instant::now()),
            inputs: vec![bytes(b"x")],
            ..Request::new(opened.handle)
        };
        assert_eq!(code(&submit(&*endpoint, late).1), Code::DeadlineExceeded, "{what}");
        let row = endpoint.models().unwrap().into_iter().find(|row| &*row.name == "echo").unwrap();
        assert_eq!(row.state, ModelState::Ready, "{what}");
        assert_eq!(endpoint.stats(Some("nothing")).unwrap_err().code(), Code::NotFound, "{what}");
        said.push([unknown, version, missing].map(|status| status.message().to_owned()));
    }
    assert_eq!(said[0], said[1]);
}

#[test]
fn cancelling_ends_what_waits_and_does_nothing_after_the_end() {
    let fixture = Fixture::start("[engine]\nslots = 2");
    let slots = 2;
    for (round, (what, endpoint)) in endpoints(&fixture).into_iter().enumerate() {
        fixture.gate.close();
        let opened = endpoint.open("gate", None).unwrap();
        let ask = || Request { inputs: vec![bytes(b"abc")], ..Request::new(opened.handle) };
        // The slots are held; what comes then waits.
        let held: Vec<_> = (0..slots).map(|_| submit(&*endpoint, ask()).1).collect();
        fixture.gate.wait_for_arrivals(slots * (round as u64 + 1));
        let (cancel, waits) = submit(&*endpoint, ask());
        eventually("it waits", || fixture.engine().devices()[0].waiting == 1);
        cancel.cancel();
        assert_eq!(waits.recv().unwrap().unwrap_err().code(), Code::Cancelled, "{what}");
        eventually("it is off the queue", || fixture.engine().devices()[0].waiting == 0);
        cancel.cancel();
        fixture.gate.open();
        for results in held {
            results.recv().unwrap().unwrap();
        }
    }
}

#[test]
fn a_client_in_process_gives_tensors_back_without_a_copy() {
    let fixture = Fixture::start("");
    let client = Client::local(fixture.endpoint());
    let echo = client.open("echo").unwrap();
    let mut sent = client.tensor::<f32>(&[1 << 16]).unwrap();
    sent.fill(1.5);
    let place = sent.as_ptr();
    let reply = echo.infer([("data", sent)]).unwrap();
    let output = reply.output(0).unwrap();
    assert_eq!(output.values::<f32>().unwrap().as_ptr(), place, "an echo gives back what it was lent");
    // It is lent to the output still, so writing it now makes a copy; what was given stays as it was.
    let output = output.clone();
    let mut input = reply.into_inputs().pop().unwrap();
    input.bytes_mut().fill(0);
    assert!(output.values::<f32>().unwrap().iter().all(|&value| value == 1.5));
    // A request whose input nobody holds gives it back to be written in place.
    let minmax = client.open("minmax").unwrap();
    let mut sent = client.tensor::<f32>(&[1000]).unwrap();
    sent.fill(2.0);
    let place = sent.as_ptr().cast::<u8>();
    let name = minmax.inputs()[0].name.to_string();
    let mut input = minmax.infer([(name, sent)]).unwrap().into_inputs().pop().unwrap();
    assert_eq!(input.bytes_mut().as_ptr(), place);
}

#[test]
fn closing_a_client_in_process_ends_its_requests() {
    let fixture = Fixture::start("");
    let client = Client::local(fixture.endpoint());
    let gate = client.open("gate").unwrap();
    let mut data = client.tensor::<u8>(&[3]).unwrap();
    data.fill(1);
    let pending = gate.submit([("data", data)]).unwrap();
    fixture.gate.wait_for_arrivals(1);
    client.close();
    assert!(matches!(pending.wait_for(Duration::from_secs(30)), Err(Error::Lost { .. })));
    assert!(matches!(client.open("echo"), Err(Error::Lost { .. })));
    fixture.gate.open();
    drop((gate, client));
    eventually("its session is gone", || fixture.engine().sessions() == 0);
}
