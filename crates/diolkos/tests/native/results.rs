// SPDX-License-Identifier: Apache-2.0
//! Where the outputs of a request go: a place in a region, that the client names.

use diolkos_client::types::{Code, DataType, HandleId, Shape};
use diolkos_shm::region::Region;
use diolkos_shm::segment::Segment as _;
use diolkos_wire::{
    EntryBody, Extent, Failed, Infer, Inferred, Message, Place, ResultPlace, RingEntry, TensorRef,
};

use crate::raw::{Raw, receive, send};
use crate::support::Fixture;

const REGION: u16 = 1;

/// What nobody has written to.
const UNTOUCHED: u8 = 0xa5;

struct Asker {
    raw: Raw,
    region: Region,
    asked: u64,
}

fn extent(offset: usize, length: usize) -> Extent {
    Extent { region: REGION, offset: offset as u64, length: length as u64 }
}

fn bytes_at(offset: usize, length: usize) -> TensorRef {
    let shape = Shape::new(&[length as u64]).unwrap();
    TensorRef { index: 0, data_type: DataType::Uint8, shape, place: Place::Region(extent(offset, length)) }
}

impl Asker {
    fn new(fixture: &Fixture, len: usize) -> Asker {
        let raw = Raw::new(&fixture.socket, 8);
        let region = raw.register(REGION, len);
        Asker { raw, region, asked: 7 }
    }

    fn write(&self, offset: usize, bytes: &[u8]) {
        self.region.mapping().write(offset, bytes);
    }

    fn read(&self, offset: usize, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        self.region.mapping().read(offset, &mut bytes);
        bytes
    }

    /// Asks by the stream or by the ring.
    fn ask(&mut self, by_ring: bool, infer: &Infer) -> Result<Inferred, Failed> {
        self.asked += 1;
        let message = Message::Infer(infer.clone());
        let answer = if by_ring {
            let entry = self.raw.entry_of(self.asked, &message);
            self.raw.put(&entry);
            let entry = self.raw.take().unwrap();
            assert_eq!(entry.id, self.asked);
            self.message(&entry)
        } else {
            send(&self.raw.stream, self.asked, &message, &[]);
            receive(&self.raw.stream, &mut Vec::new()).1
        };
        match answer {
            Message::Inferred(inferred) => Ok(inferred),
            Message::Failed(failed) => Err(failed),
            other => panic!("{other:?}"),
        }
    }

    fn message(&self, entry: &RingEntry) -> Message {
        match &entry.body {
            EntryBody::Inline(body) => entry.message(body.as_bytes()).unwrap(),
            &EntryBody::Slot { slot, length } => {
                let slots = &self.raw.opened.slots;
                let at = slots.offset + u64::from(slot) * u64::from(slots.bytes);
                let mut body = vec![0; length as usize];
                self.raw.memory.read(at as usize, &mut body);
                entry.message(&body).unwrap()
            }
        }
    }
}

fn infer(handle: HandleId, input: TensorRef, results: Extent) -> Infer {
    Infer { inputs: vec![input], results: ResultPlace::Region(results), ..Infer::new(handle) }
}

/// Positions of the outputs, and where they are.
fn places(inferred: &Inferred) -> Vec<(u16, Place)> {
    inferred.outputs.iter().map(|output| (output.index, output.place)).collect()
}

#[test]
fn outputs_lie_in_the_wanted_order_and_nothing_else_is_touched() {
    let fixture = Fixture::start("");
    let mut asker = Asker::new(&fixture, 1 << 20);
    let minmax = asker.raw.open("minmax");
    for by_ring in [true, false] {
        asker.write(0, &[9, 3, 200, 7]);
        for (wanted, expected) in
            [(None, [3, 200]), (Some(vec![0, 1]), [3, 200]), (Some(vec![1, 0]), [200, 3])]
        {
            asker.write(4000, &[UNTOUCHED; 400]);
            let order = wanted.clone().unwrap_or(vec![0, 1]);
            let request = Infer { outputs: wanted, ..infer(minmax, bytes_at(0, 4), extent(4096, 65)) };
            let inferred = asker.ask(by_ring, &request).unwrap();
            let place = |offset| Place::Region(extent(offset, 1));
            assert_eq!(places(&inferred), [(order[0], place(4096)), (order[1], place(4160))]);
            let mut around = vec![UNTOUCHED; 400];
            (around[96], around[160]) = (expected[0], expected[1]);
            assert_eq!(asker.read(4000, 400), around, "by ring: {by_ring}");
        }
    }
}

#[test]
fn too_small_a_place_is_told_with_what_is_needed() {
    let fixture = Fixture::start("");
    let mut asker = Asker::new(&fixture, 1 << 20);
    let minmax = asker.raw.open("minmax");
    for by_ring in [true, false] {
        asker.write(4000, &[UNTOUCHED; 400]);
        for length in [0, 1, 64] {
            let failed =
                asker.ask(by_ring, &infer(minmax, bytes_at(0, 4), extent(4096, length))).unwrap_err();
            assert_eq!((failed.code, failed.needed.map(u64::from)), (Code::TooLarge, Some(65)));
        }
        assert_eq!(asker.read(4160, 200), [UNTOUCHED; 200], "nothing lies behind the place");
    }
}

/// A client may use the memory of its input for the results: these are written once all of it has been read.
#[test]
fn results_may_lie_where_the_input_does() {
    const LENGTH: usize = 300_000;
    let fixture = Fixture::start("");
    let mut asker = Asker::new(&fixture, 1 << 20);
    let echo = asker.raw.open("echo");
    let payload: Vec<u8> = (0..LENGTH).map(|at| (at % 251) as u8).collect();
    for by_ring in [true, false] {
        for to in [0, 1, 100_000, 299_999, 300_000] {
            asker.write(0, &payload);
            let inferred = asker.ask(by_ring, &infer(echo, bytes_at(0, LENGTH), extent(to, LENGTH))).unwrap();
            assert_eq!(places(&inferred), [(0, Place::Region(extent(to, LENGTH)))]);
            assert!(asker.read(to, LENGTH) == payload, "an echo to {to}, by ring: {by_ring}");
        }
    }
}
