// SPDX-License-Identifier: Apache-2.0
//! What holds for every message, over frames and over ring entries.

use alloc::format;
use alloc::vec;
use alloc::vec::Vec;

use diolkos_types::{Code, DataType, Dim, HandleId, Param, Params, RANK_MAX, Shape, Signature, TensorSpec};
use proptest::collection;
use proptest::prelude::*;

use crate::cursor::{Item, Writer};
use crate::fuzz::{fuzz_entry, fuzz_message};
use crate::limits::*;
use crate::strategies::{long, message, of_kind};
use crate::*;

const HANDLE: HandleId = HandleId { slot: 1, generation: 2 };
const IMAGE: Extent = Extent { region: 1, offset: 0, length: 602_112 };

fn image(place: Place) -> TensorRef {
    TensorRef { index: 0, data_type: DataType::Fp32, shape: Shape::new(&[1, 3, 224, 224]).unwrap(), place }
}

fn body(message: &Message) -> Vec<u8> {
    message.encode().unwrap()
}

#[test]
fn a_usual_request_is_small() {
    let mut infer = Infer::new(HANDLE);
    infer.inputs.push(image(Place::Stream { length: IMAGE.length }));
    assert_eq!(body(&Message::Infer(infer.clone())).len(), 76);
    infer.inputs = vec![image(Place::Region(IMAGE))];
    infer.results = ResultPlace::Region(Extent { region: 1, offset: IMAGE.length, length: 4000 });
    assert_eq!(body(&Message::Infer(infer)).len(), 104);

    let shape = Shape::new(&[1, 1000]).unwrap();
    let outputs = vec![TensorRef { shape, ..image(Place::Region(IMAGE)) }];
    let inferred = Inferred { version: 1, timing: Timing::default(), outputs };
    assert_eq!(body(&Message::Inferred(inferred)).len(), 81);
}

proptest! {
    /// What a daemon sets aside for an answer is what it takes, and no less.
    #[test]
    fn the_length_of_an_answer_is_known_before(message in of_kind(Kind::Inferred)) {
        let Message::Inferred(mut inferred) = message else { panic!("{message:?}") };
        let ranks = || inferred.outputs.iter().map(|output| output.shape.rank());
        let most = Inferred::body_bytes_max(ranks());
        prop_assert!(body(&Message::Inferred(inferred.clone())).len() <= most);
        inferred.outputs.iter_mut().for_each(|output| output.place = Place::Region(IMAGE));
        prop_assert_eq!(body(&Message::Inferred(inferred)).len(), most);
    }
}

#[test]
fn the_largest_messages_are_as_large_as_the_limits_say() {
    let shape = Shape::new(&[u64::MAX; RANK_MAX]).unwrap();
    let mut params = Params::new();
    for index in 0..PARAMS_MAX {
        let name = format!("{index:0PARAM_NAME_BYTES_MAX$}");
        params.set(&name, Param::Text(long(PARAM_TEXT_BYTES_MAX)));
    }
    let inputs = vec![TensorRef { shape, ..image(Place::Region(IMAGE)) }; TENSORS_MAX];
    let outputs = Some(vec![0; TENSORS_MAX]);
    let results = ResultPlace::Region(IMAGE);
    let infer = Infer { params, inputs, outputs, results, ..Infer::new(HANDLE) };
    assert_eq!(body(&Message::Infer(infer)).len(), INFER_BYTES_MAX);

    let spec =
        TensorSpec::new(&long(TENSOR_NAME_BYTES_MAX), DataType::Fp32, &[Dim::Variable { max: 9 }; RANK_MAX]);
    let specs = vec![spec; TENSORS_MAX];
    let signature = Signature { inputs: specs.clone().into(), outputs: specs.into() };
    let opened = ModelOpened { handle: HANDLE, version: 1, signature };
    assert_eq!(body(&Message::ModelOpened(opened)).len(), MODEL_OPENED_BYTES_MAX);

    let (name, reason) = (long(MODEL_NAME_BYTES_MAX), long(REASON_BYTES_MAX));
    let entry = ModelEntry { name: name.clone(), version: None, state: ModelState::Failed, reason };
    let models = Models { models: vec![entry; PART_ENTRIES_MAX] };
    assert_eq!(body(&Message::Models(models)).len(), MODELS_BYTES_MAX);

    let entry =
        StatsEntry { name, version: 1, succeeded: 2, failed: 3, executions: 4, timing: Timing::default() };
    let reply = StatsReply { models: vec![entry; PART_ENTRIES_MAX] };
    assert_eq!(body(&Message::StatsReply(reply)).len(), STATS_REPLY_BYTES_MAX);
}

/// A wrong `BYTES_MIN` would refuse good lists, or allocate more than is there.
#[test]
fn the_smallest_entries_are_as_small_as_said() {
    fn check<T: Item>(item: T) {
        let mut out = Vec::new();
        let mut to = Writer::new(&mut out);
        item.write(&mut to);
        to.finish().unwrap();
        assert_eq!(out.len(), T::BYTES_MIN);
    }
    check(TensorRef { shape: Shape::SCALAR, ..image(Place::Stream { length: 0 }) });
    check(0u16);
    check(ModelEntry { name: "".into(), version: None, state: ModelState::Ready, reason: "".into() });
    let timing = Timing::default();
    check(StatsEntry { name: "".into(), version: 0, succeeded: 0, failed: 0, executions: 0, timing });
}

#[test]
fn numbers_of_small_enums_are_stable() {
    for (index, class) in Class::ALL.into_iter().enumerate() {
        assert_eq!(class as usize, index);
    }
    for (index, state) in ModelState::ALL.into_iter().enumerate() {
        assert_eq!(state as usize, index + 1);
    }
}

#[test]
fn an_unknown_kind_is_an_error_of_its_own() {
    let error = Message::decode(0x7000, &[1, 2, 3], 0).unwrap_err();
    assert_eq!(error, DecodeError::UnknownKind { given: 0x7000 });
    assert_eq!(error.code(), Code::Unsupported);
    assert_eq!(format!("{error}"), "unknown kind of message 0x7000");
}

#[test]
fn payload_is_held_against_the_tensors() {
    let mut infer = Infer::new(HANDLE);
    infer.inputs = vec![image(Place::Stream { length: 5 }); 2];
    let bytes = body(&Message::Infer(infer.clone()));
    let kind = Kind::Infer.number();
    assert!(Message::decode(kind, &bytes, 10).is_ok());
    assert_eq!(Message::decode(kind, &bytes, 0), Err(DecodeError::Payload { expected: 10, given: 0 }));
    let done = Message::decode(Kind::Done.number(), &[], 1);
    assert_eq!(done, Err(DecodeError::Payload { expected: 0, given: 1 }));

    infer.inputs = vec![image(Place::Stream { length: u64::MAX }); 2];
    let bytes = body(&Message::Infer(infer.clone()));
    assert_eq!(Message::decode(kind, &bytes, 0), Err(DecodeError::PayloadOverflow));
    let mut out = vec![7];
    let refused = append_frame(1, Part::Last, &Message::Infer(infer), &mut out);
    assert_eq!((refused, out), (Err(EncodeError::PayloadOverflow), vec![7]));
}

#[test]
fn a_list_is_as_large_as_what_is_there() {
    let kind = Kind::Models.number();
    let error = DecodeError::TooMany { what: "models", max: PART_ENTRIES_MAX, given: 65_535 };
    assert_eq!(Message::decode(kind, &[0xff, 0xff, 1, 2, 3], 0), Err(error));
    let error = DecodeError::Truncated { what: "models", needed: 1024 * 13, left: 3 };
    assert_eq!(Message::decode(kind, &[0, 4, 1, 2, 3], 0), Err(error));

    let mut infer = Infer::new(HANDLE);
    infer.inputs.push(image(Place::Region(IMAGE)));
    let bytes = body(&Message::Infer(infer));
    let Ok(Message::Infer(infer)) = Message::decode(Kind::Infer.number(), &bytes, 0) else {
        panic!("what was encoded does not decode");
    };
    assert_eq!(infer.inputs.capacity(), 1);
}

/// A queue of messages is as wide as the widest.
#[test]
fn a_message_is_small_in_memory() {
    assert!(size_of::<Message>() <= 160, "{} bytes", size_of::<Message>());
}

fn part() -> impl Strategy<Value = Part> {
    prop_oneof![Just(Part::Last), Just(Part::More)]
}

proptest! {
    #[test]
    fn frames_round_trip(message in message(), id in any::<u64>(), part in part()) {
        let frame = encode_frame(id, part, &message).unwrap();
        let (head, body) = frame.split_first_chunk().unwrap();
        let limits = Limits { payload_bytes_max: u64::MAX, ..Limits::default() };
        let header = Header::decode(head, &limits).unwrap();
        prop_assert_eq!((header.id, header.part, header.kind), (id, part, message.kind().number()));
        prop_assert_eq!(Some(header.payload), message.stream_bytes());
        prop_assert_eq!(header.message(body), Ok(message));
    }

    #[test]
    fn ring_entries_round_trip(message in message(), id in any::<u64>(), part in part(), slot in 0u32..9) {
        let bytes = body(&message);
        let length = bytes.len() as u32;
        let slots = SlotsPlace { offset: 0, count: 9, bytes: 1 << 20 };
        let place = InlineBody::new(&bytes).map_or(EntryBody::Slot { slot, length }, EntryBody::Inline);
        let entry = RingEntry { kind: message.kind().number(), part, id, body: place };
        let back = RingEntry::decode(&entry.encode(), &slots).unwrap();
        prop_assert_eq!(back, entry);
        if let EntryBody::Inline(inline) = &back.body {
            prop_assert_eq!(inline.as_bytes(), &bytes[..]);
        }
        match message.stream_bytes() {
            Some(0) => prop_assert_eq!(back.message(&bytes), Ok(message)),
            // Tensors on a stream can't come over a ring.
            _ => {
                let refused = matches!(back.message(&bytes), Err(DecodeError::Payload { .. }));
                prop_assert!(refused);
            }
        }
    }

    #[test]
    fn prefixes_and_trailing_bytes_are_refused(message in message(), more in any::<u8>()) {
        let (kind, payload) = (message.kind().number(), message.stream_bytes().unwrap());
        let mut bytes = body(&message);
        for length in 0..bytes.len() {
            prop_assert!(Message::decode(kind, &bytes[..length], payload).is_err(), "cut at {}", length);
        }
        bytes.push(more);
        prop_assert!(Message::decode(kind, &bytes, payload).is_err());
    }

    #[test]
    fn single_changes_never_panic(message in message(), at in any::<prop::sample::Index>(), bits in 1u8..) {
        let mut frame = encode_frame(1, Part::Last, &message).unwrap();
        fuzz_message(&frame);
        let at = at.index(frame.len());
        frame[at] ^= bits;
        fuzz_message(&frame);
    }

    #[test]
    fn arbitrary_frames_never_panic(
        kind in prop_oneof![prop::sample::select(Kind::ALL).prop_map(Kind::number), any::<u16>()],
        more in 0u16..2,
        id in any::<u64>(),
        body in collection::vec(prop_oneof![Just(0u8), 0..4u8, any::<u8>()], 0..200),
        noise in collection::vec(any::<u8>(), 0..100),
    ) {
        let part = if more == 1 { Part::More } else { Part::Last };
        let header = Header { length: body.len() as u32, kind, part, id, payload: 0 };
        fuzz_message(&[&header.encode()[..], &body].concat());
        fuzz_message(&noise);
    }

    #[test]
    fn arbitrary_entries_never_panic(
        message in message(),
        at in 0..ENTRY_BYTES,
        bits in any::<u8>(),
        noise in collection::vec(any::<u8>(), 0..100),
    ) {
        let bytes = body(&message);
        let length = bytes.len() as u32;
        let place = InlineBody::new(&bytes).map_or(EntryBody::Slot { slot: 3, length }, EntryBody::Inline);
        let mut entry = RingEntry { kind: message.kind().number(), part: Part::Last, id: 1, body: place }.encode();
        fuzz_entry(&[&entry[..], &[4, 255], &bytes].concat());
        entry[at] ^= bits;
        fuzz_entry(&[&entry[..], &[4, 255], &bytes].concat());
        fuzz_entry(&noise);
    }
}
