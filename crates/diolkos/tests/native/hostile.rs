// SPDX-License-Identifier: Apache-2.0
//! Clients that break the rules: each is answered or cut off, and an honest one beside them notices nothing.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};

use diolkos_client::types::{Code, DataType, Shape};
use diolkos_client::{AnyTensor, Client};
use diolkos_shm::region::{Pages, Region, seal_writes};
use diolkos_shm::segment::Segment as _;
use diolkos_wire::{
    CloseRegion, CommitRegion, Extent, Infer, Kind, Limits, Message, OpenChannel, PREFACE, Place,
    ResultPlace, TensorRef,
};

use crate::raw::{HEAD, Raw, SLEEPING, TAIL, commit, hello, receive, register, send};
use crate::support::{Fixture, eventually};

const NONE: [(&str, AnyTensor); 0] = [];

/// Runs an attack while an honest client asks without pause, and every one of its answers has to be right.
fn beside_an_honest_client(fixture: &Fixture, attack: impl FnOnce()) {
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let honest = scope.spawn(|| {
            let client = fixture.client();
            let echo = client.open("echo").unwrap();
            let mut asked = 0u64;
            while !done.load(Ordering::Relaxed) || asked == 0 {
                let mut tensor = client.tensor::<u64>(&[9]).unwrap();
                tensor.fill(asked);
                let reply = echo.infer([("data", tensor)]).unwrap();
                assert_eq!(reply.output(0).unwrap().values::<u64>().unwrap(), [asked; 9]);
                asked += 1;
            }
        });
        // The honest one ends even if the attack fails.
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(attack));
        done.store(true, Ordering::Relaxed);
        honest.join().unwrap();
        outcome.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    });
}

/// A request that was put in before is answered, or the connection is cut; nothing else.
fn answered_or_cut(raw: &mut Raw) -> bool {
    raw.take().is_some()
}

#[test]
fn every_word_of_a_ring_may_lie() {
    let fixture = Fixture::start("");
    beside_an_honest_client(&fixture, || {
        for ring in [0, 1] {
            for word in [TAIL, HEAD, SLEEPING] {
                for lie in [1, 7, 8, 9, 1 << 16, 1 << 31, u32::MAX - 1, u32::MAX] {
                    let mut raw = Raw::new(&fixture.socket, 8);
                    raw.put(&raw.noop_entry(8));
                    assert!(answered_or_cut(&mut raw), "an honest request");
                    raw.memory.word(raw.word(ring, word)).store(lie, Ordering::SeqCst);
                    raw.ring();
                    if ring == 0 && word == TAIL && lie != 1 {
                        // More than was put in: impossible, or entries that are none.
                        eventually("the end of the connection", || raw.is_cut());
                        continue;
                    }
                    // Whatever it makes of that, it does not hang in it. Lies that it has no way to tell from
                    // truth leave the channel as it is.
                    let entry = raw.noop_entry(9);
                    if !raw.is_cut() && ring == 1 {
                        raw.put(&entry);
                    }
                }
            }
        }
    });
    assert_eq!(fixture.engine().jobs(), 0);
}

#[test]
fn every_bit_of_an_entry_may_be_wrong() {
    let fixture = Fixture::start("");
    beside_an_honest_client(&fixture, || {
        let mut raw = Raw::new(&fixture.socket, 8);
        let mut cuts = 0;
        for byte in 0..64 {
            for bit in 0..8 {
                let mut entry = raw.noop_entry(8 + u64::from(raw.sent % 8));
                entry[byte] ^= 1 << bit;
                raw.put(&entry);
                // A cancellation has no answer.
                if u16::from_le_bytes([entry[0], entry[1]]) == Kind::Cancel.number() {
                    continue;
                }
                if !answered_or_cut(&mut raw) {
                    cuts += 1;
                    raw = Raw::new(&fixture.socket, 8);
                }
            }
        }
        assert!(cuts > 0, "some of this can only be cut off");
    });
}

#[test]
fn every_byte_of_a_body_may_be_wrong() {
    let fixture = Fixture::start("");
    beside_an_honest_client(&fixture, || {
        let mut raw = Raw::new(&fixture.socket, 8);
        let echo = raw.open("echo");
        let region = raw.register(0, 8192);
        region.mapping().write(0, &[1; 64]);
        let extent = |offset| Extent { region: 0, offset, length: 64 };
        let shape = Shape::new(&[64]).unwrap();
        let input =
            TensorRef { index: 0, data_type: DataType::Uint8, shape, place: Place::Region(extent(0)) };
        let infer = Message::Infer(Infer {
            inputs: vec![input],
            results: ResultPlace::Region(extent(4096)),
            ..Infer::new(echo)
        });
        let length = infer.encode().unwrap().len();
        let slots = raw.opened.slots;
        for byte in 0..length {
            for flip in [1u8, 0x80, 0xff] {
                let id = 8 + u64::from(raw.sent % 8);
                let entry = raw.entry_of(id, &infer);
                let at = (slots.offset + (id % 8) * u64::from(slots.bytes)) as usize + byte;
                let mut changed = [0];
                raw.memory.read(at, &mut changed);
                raw.memory.write(at, &[changed[0] ^ flip]);
                raw.put(&entry);
                assert!(answered_or_cut(&mut raw), "a wrong body is answered: byte {byte}, {flip:#x}");
            }
        }
        // And the right one gives the right answer still.
        let id = 8 + u64::from(raw.sent % 8);
        let entry = raw.entry_of(id, &infer);
        raw.put(&entry);
        let answer = raw.take().unwrap();
        assert_eq!((answer.id, Kind::from_number(answer.kind)), (id, Some(Kind::Inferred)));
        let mut out = [0; 64];
        region.mapping().read(4096, &mut out);
        assert_eq!(out, [1; 64]);
    });
}

#[test]
fn a_slot_that_is_in_use_is_not_used_again() {
    let fixture = Fixture::start("engine.slots = 1");
    let mut raw = Raw::new(&fixture.socket, 4);
    let gate = raw.open("gate");
    let region = raw.register(0, 4096);
    let extent = Extent { region: 0, offset: 0, length: 8 };
    let shape = Shape::new(&[8]).unwrap();
    let input = TensorRef { index: 0, data_type: DataType::Uint8, shape, place: Place::Region(extent) };
    let infer = Infer { inputs: vec![input], results: ResultPlace::Region(extent), ..Infer::new(gate) };
    let entry = raw.entry_of(4, &Message::Infer(infer));
    raw.put(&entry);
    fixture.gate.wait_for_arrivals(1);
    raw.put(&raw.noop_entry(8));
    eventually("the end of the connection", || raw.is_cut());
    fixture.gate.open();
    eventually("an idle engine", || fixture.engine().jobs() == 0 && fixture.engine().sessions() == 0);
    drop(region);
}

#[test]
fn one_that_never_takes_its_answers_has_used_up_its_own_slots() {
    let fixture = Fixture::start("");
    beside_an_honest_client(&fixture, || {
        let mut raw = Raw::new(&fixture.socket, 4);
        for id in 4..200u64 {
            raw.put(&raw.noop_entry(id));
            // As many as the ring has entries are answered; the ring of answers is full then.
            if raw.is_cut() {
                break;
            }
            std::thread::yield_now();
        }
        eventually("the end of the connection", || raw.is_cut());
    });
    eventually("the end of all sessions", || fixture.engine().sessions() == 0);
}

#[test]
fn a_flood_of_rings_buys_looks_at_an_empty_ring() {
    let fixture = Fixture::start("");
    beside_an_honest_client(&fixture, || {
        let mut raw = Raw::new(&fixture.socket, 4);
        for _ in 0..100_000 {
            raw.ring();
        }
        // The counter at its end, where a ring more would be lost.
        let _ = rustix::io::write(&raw.bell, &(u64::MAX - 1).to_ne_bytes());
        raw.put(&raw.noop_entry(4));
        assert!(answered_or_cut(&mut raw));
    });
}

#[test]
fn a_region_that_is_closed_lives_as_long_as_the_jobs_that_use_it() {
    let fixture = Fixture::start("engine.slots = 1");
    let mut raw = Raw::new(&fixture.socket, 4);
    let gate = raw.open("gate");
    let region = raw.register(5, 8192);
    region.mapping().write(0, b"from the tenant!");
    let extent = |offset| Extent { region: 5, offset, length: 16 };
    let shape = Shape::new(&[16]).unwrap();
    let input = TensorRef { index: 0, data_type: DataType::Uint8, shape, place: Place::Region(extent(0)) };
    let infer = Infer { inputs: vec![input], results: ResultPlace::Region(extent(4096)), ..Infer::new(gate) };
    let entry = raw.entry_of(4, &Message::Infer(infer.clone()));
    raw.put(&entry);
    fixture.gate.wait_for_arrivals(1);
    send(&raw.stream, 9, &Message::CloseRegion(CloseRegion { region: 5 }), &[]);
    assert_eq!(receive(&raw.stream, &mut Vec::new()), (9, Message::Done));
    fixture.gate.open();
    let answer = raw.take().unwrap();
    assert_eq!(Kind::from_number(answer.kind), Some(Kind::Inferred));
    let mut out = [0; 16];
    region.mapping().read(4096, &mut out);
    assert_eq!(&out, b"from the tenant!");
    // It is gone for the next one.
    let entry = raw.entry_of(8, &Message::Infer(infer));
    raw.put(&entry);
    assert_eq!(Kind::from_number(raw.take().unwrap().kind), Some(Kind::Failed));
}

/// A region whose pages the daemon would have to make, or could be made to make, is not used at all; see
/// `tests/clients/memory.py` for what would come of it.
#[test]
fn a_region_with_holes_is_for_nothing() {
    let fixture = Fixture::start("");
    let mut raw = Raw::new(&fixture.socket, 4);
    let echo = raw.open("echo");
    let region = Region::create(64 << 10, Pages::Ordinary).unwrap();
    register(&raw.stream, 1, &region);
    let extent = |offset| Extent { region: 1, offset, length: 64 };
    let shape = Shape::new(&[64]).unwrap();
    let input = TensorRef { index: 0, data_type: DataType::Uint8, shape, place: Place::Region(extent(0)) };
    let infer = Infer { inputs: vec![input], results: ResultPlace::Region(extent(4096)), ..Infer::new(echo) };
    let infer = Message::Infer(infer);
    let refused = |raw: &mut Raw, id: u64, why: &str| {
        // By ring and by stream.
        let entry = raw.entry_of(id, &infer);
        raw.put(&entry);
        assert_eq!(Kind::from_number(raw.take().unwrap().kind), Some(Kind::Failed));
        send(&raw.stream, id, &infer, &[]);
        let (_, Message::Failed(failed)) = receive(&raw.stream, &mut Vec::new()) else { panic!("{why}") };
        assert!(failed.message.contains(why), "{}", failed.message);
    };
    refused(&mut raw, 4, "is registered and not committed");
    let cannot = |raw: &Raw, why: &str| {
        let Message::Failed(failed) = commit(&raw.stream, 1) else { panic!("{why}") };
        assert!(failed.message.contains(why), "{}", failed.message);
    };
    cannot(&raw, "F_SEAL_FUTURE_WRITE");
    register(&raw.stream, 1, &region);
    region.mapping().write(0, &[7; 8192]);
    seal_writes(&region).unwrap();
    cannot(&raw, "MADV_POPULATE_WRITE");
    refused(&mut raw, 8, "region 1 is not registered");
}

#[test]
fn nonsense_on_the_stream_is_answered_or_ends_it() {
    let fixture = Fixture::start("limits.body_bytes_max = \"1MiB\"\nlimits.body_timeout = \"1s\"");
    beside_an_honest_client(&fixture, || {
        // Before the greeting: nothing but its preface is understood.
        for opening in [&PREFACE[..1], b"\xc4IOLKOS\x01", b"\xc4\xc4\xc4\xc4\xc4\xc4\xc4\xc4\xc4"] {
            let mut stream = UnixStream::connect(&fixture.socket).unwrap();
            stream.write_all(opening).unwrap();
            stream.shutdown(std::net::Shutdown::Write).unwrap();
            assert_eq!(stream.read(&mut [0; 64]).unwrap_or(0), 0);
        }
        let stream = hello(&fixture.socket);
        let failed = |id: u64, message: &Message, code: Code| {
            send(&stream, id, message, &[]);
            let (answered, answer) = receive(&stream, &mut Vec::new());
            let Message::Failed(failed) = answer else { panic!("{answer:?}") };
            assert_eq!((answered, failed.code), (id, code), "{}", failed.message);
        };
        failed(2, &Message::Done, Code::InvalidArgument);
        let replies = diolkos_wire::Bell::Futex;
        let ring = |entries, slot_bytes| OpenChannel { entries, slot_bytes, replies, region: 0 };
        failed(3, &Message::OpenChannel(ring(1024, 4096)), Code::InvalidArgument);
        failed(4, &Message::OpenChannel(ring(4, 64)), Code::InvalidArgument);
        failed(5, &Message::OpenChannel(ring(4, 4096)), Code::NotFound);
        let register = diolkos_wire::RegisterRegion { region: 0, length: 1 };
        failed(5, &Message::RegisterRegion(register), Code::InvalidArgument);
        failed(6, &Message::CloseRegion(CloseRegion { region: 0 }), Code::NotFound);
        failed(6, &Message::CommitRegion(CommitRegion { region: 0 }), Code::NotFound);
        let nothing = diolkos_client::types::HandleId { slot: 9, generation: 9 };
        failed(7, &Message::Infer(Infer::new(nothing)), Code::NotFound);
        // A kind that nobody knows, with a body: skipped, answered, and the stream goes on.
        let mut frame = diolkos_wire::Header {
            length: 5,
            kind: 0x7777,
            part: diolkos_wire::Part::Last,
            id: 8,
            payload: 0,
        }
        .encode()
        .to_vec();
        frame.extend([1, 2, 3, 4, 5]);
        (&stream).write_all(&frame).unwrap();
        let (id, answer) = receive(&stream, &mut Vec::new());
        assert!(
            matches!((id, &answer), (8, Message::Failed(failed)) if failed.code == Code::Unsupported),
            "{answer:?}"
        );
        // A header that asks for more than there may be ends it.
        let huge = diolkos_wire::Header {
            length: u32::MAX,
            kind: 1,
            part: diolkos_wire::Part::Last,
            id: 9,
            payload: 0,
        };
        (&stream).write_all(&huge.encode()).unwrap();
        assert_eq!((&stream).read(&mut [0; 64]).unwrap_or(0), 0);
        // So does a message that does not go on.
        let stream = hello(&fixture.socket);
        (&stream).write_all(&[1, 2, 3]).unwrap();
        assert_eq!((&stream).read(&mut [0; 64]).unwrap_or(0), 0);
        assert!(Limits::default().message_bytes_max < u32::MAX);
    });
}

/// Not a test: what the process does that the next test kills.
#[test]
#[ignore = "the process that `a_client_that_is_killed_gives_everything_back` starts and kills"]
fn child_that_is_killed() {
    let client = Client::connect(&std::env::var("DIOLKOS_TEST_SOCKET").unwrap()).unwrap();
    let gate = client.open("gate").unwrap();
    let pending: Vec<_> =
        (0..10).map(|_| gate.submit([("data", client.tensor::<u8>(&[1 << 20]).unwrap())]).unwrap()).collect();
    println!("holding");
    for pending in pending {
        pending.wait().unwrap();
    }
    panic!("the gate was not to be opened");
}

#[test]
fn a_client_that_is_killed_gives_everything_back() {
    let fixture = Fixture::start("engine.slots = 1");
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "hostile::child_that_is_killed", "--ignored", "--nocapture"])
        .env("DIOLKOS_TEST_SOCKET", fixture.unix())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    fixture.gate.wait_for_arrivals(1);
    eventually("its requests", || fixture.engine().jobs() == 10);
    child.kill().unwrap();
    child.wait().unwrap();
    // Those that wait never run; the one that runs goes on, and keeps what it uses.
    eventually("the end of what waited", || fixture.engine().jobs() == 1);
    let client = fixture.client();
    client.open("noop").unwrap();
    fixture.gate.open();
    eventually("an idle engine", || {
        fixture.engine().jobs() == 0 && fixture.engine().request_memory_used() == 0
    });
    client.open("noop").unwrap().infer(NONE).unwrap();
}
