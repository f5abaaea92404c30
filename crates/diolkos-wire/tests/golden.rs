// SPDX-License-Identifier: Apache-2.0
//! One frame of every kind, byte by byte. A client in another language reads the same files.
//!
//! A file that differs means that the protocol changed: then it needs a new version, or the change is a
//! mistake. `DIOLKOS_BLESS=1 cargo test -p diolkos-wire --test golden` writes the files anew.

#![allow(clippy::unwrap_used)] // A test may panic.

use std::collections::BTreeSet;
use std::fs;
use std::num::NonZeroU64;
use std::path::{Path, PathBuf};

use diolkos_types::{Code, DataType, Dim, HandleId, Param, Params, Shape, Signature, TensorSpec};
use diolkos_wire::*;

const HANDLE: HandleId = HandleId { slot: 3, generation: 1 };

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
}

fn fp32(index: u16, dims: &[u64], place: Place) -> TensorRef {
    TensorRef { index, data_type: DataType::Fp32, shape: Shape::new(dims).unwrap(), place }
}

fn infer() -> Infer {
    let mut params = Params::new();
    params.set("alpha", Param::Double(0.5));
    params.set("flag", Param::Bool(true));
    params.set("int", Param::Int(-2));
    params.set("mode", Param::Text("fast".into()));
    params.set("uint", Param::Uint(7));
    Infer {
        class: Class::Interactive,
        timeout_us: NonZeroU64::new(1500),
        order: NonZeroU64::new(9),
        params,
        inputs: vec![
            fp32(0, &[1, 3, 2, 2], Place::Stream { length: 48 }),
            fp32(1, &[4], Place::Region(Extent { region: 2, offset: 4096, length: 16 })),
        ],
        outputs: Some(vec![1, 0]),
        results: ResultPlace::Region(Extent { region: 2, offset: 8192, length: 640 }),
        ..Infer::new(HANDLE)
    }
}

fn signature() -> Signature {
    let mut any = TensorSpec::any_shape("extra", DataType::Bytes);
    any.optional = true;
    any.any_type = true;
    let x = TensorSpec::new("x", DataType::Fp32, &[Dim::Variable { max: 8 }, Dim::Fixed(3)]);
    Signature {
        inputs: vec![x, any].into(),
        outputs: vec![TensorSpec::new("y", DataType::Int64, &[Dim::Fixed(1)])].into(),
    }
}

/// A message of this kind that has something in every field.
fn example(kind: Kind) -> Message {
    let timing = Timing { queue_ns: 1000, copy_in_ns: 200, compute_ns: 30_000, copy_out_ns: 40 };
    match kind {
        Kind::Hello => Message::Hello(Hello {
            version_min: 1,
            version_max: 2,
            features: Features::SHARED_MEMORY.union(Features::FUTEX),
            client: "example".into(),
            token: Token(b"secret".as_slice().into()),
            tenant: "web".into(),
        }),
        Kind::Goodbye => Message::Goodbye,
        Kind::Health => Message::Health,
        Kind::Cancel => Message::Cancel,
        Kind::OpenChannel => Message::OpenChannel(OpenChannel {
            entries: 64,
            slot_bytes: 4096,
            replies: Bell::Futex,
            region: 63,
        }),
        Kind::RegisterRegion => Message::RegisterRegion(RegisterRegion { region: 2, length: 1 << 20 }),
        Kind::CloseRegion => Message::CloseRegion(CloseRegion { region: 2 }),
        Kind::CommitRegion => Message::CommitRegion(CommitRegion { region: 2 }),
        Kind::OpenModel => Message::OpenModel(OpenModel {
            name: "digits".into(),
            version: NonZeroU64::new(2),
            operation: "run".into(),
        }),
        Kind::CloseModel => Message::CloseModel(CloseModel { handle: HANDLE }),
        Kind::Infer => Message::Infer(infer()),
        Kind::Load => Message::Load(Load { name: "digits".into() }),
        Kind::Unload => Message::Unload(Unload { name: "größe".into() }),
        Kind::List => Message::List,
        Kind::Stats => Message::Stats(Stats { name: "".into() }),
        Kind::Welcome => Message::Welcome(Welcome {
            version: VERSION,
            features: Features::SHARED_MEMORY,
            limits: Limits::default(),
            server: "diolkos 0.1.0".into(),
        }),
        Kind::HealthReply => Message::HealthReply(HealthReply { live: true, ready: false }),
        Kind::ChannelOpened => Message::ChannelOpened(ChannelOpened {
            segment_bytes: 272_384,
            submissions: RingPlace { offset: 0, entries: 64 },
            completions: RingPlace { offset: 4480, entries: 64 },
            slots: SlotsPlace { offset: 8960, count: 64, bytes: 4096 },
            requests: Bell::Event,
            replies: Bell::Futex,
        }),
        Kind::ModelOpened => {
            Message::ModelOpened(ModelOpened { handle: HANDLE, version: 2, signature: signature() })
        }
        Kind::Inferred => Message::Inferred(Inferred {
            version: 2,
            timing,
            outputs: vec![
                fp32(1, &[], Place::Stream { length: 4 }),
                fp32(0, &[1, 10], Place::Region(Extent { region: 2, offset: 8192, length: 40 })),
            ],
        }),
        Kind::Models => Message::Models(Models {
            models: vec![
                ModelEntry {
                    name: "digits".into(),
                    version: NonZeroU64::new(2),
                    state: ModelState::Ready,
                    reason: "".into(),
                },
                ModelEntry {
                    name: "broken".into(),
                    version: None,
                    state: ModelState::Failed,
                    reason: "no version".into(),
                },
            ],
        }),
        Kind::StatsReply => Message::StatsReply(StatsReply {
            models: vec![StatsEntry {
                name: "digits".into(),
                version: 2,
                succeeded: 10,
                failed: 1,
                executions: 5,
                timing,
            }],
        }),
        Kind::Done => Message::Done,
        Kind::Failed => Message::Failed(Failed {
            code: Code::Busy,
            retry_after_us: NonZeroU64::new(50_000),
            needed: NonZeroU64::new(4096),
            message: "the queue is full; try again later".into(),
        }),
    }
}

/// Holds bytes against a file, or writes the file. The comment says what they are.
fn compare(name: &str, comment: &str, bytes: &[u8]) {
    let path = folder().join(format!("{name}.hex"));
    let lines: Vec<String> = bytes
        .chunks(16)
        .map(|line| line.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(" "))
        .collect();
    let text = format!("# {comment}\n{}\n", lines.join("\n"));
    if std::env::var_os("DIOLKOS_BLESS").is_some() {
        fs::create_dir_all(folder()).unwrap();
        fs::write(&path, &text).unwrap();
    }
    let golden = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    assert_eq!(text, golden, "{} differs", path.display());
}

/// The bytes of a file.
fn bytes_of(name: &str) -> Vec<u8> {
    let text = fs::read_to_string(folder().join(format!("{name}.hex"))).unwrap();
    let digits = text.lines().filter(|line| !line.starts_with('#')).flat_map(str::split_whitespace);
    digits.map(|byte| u8::from_str_radix(byte, 16).unwrap()).collect()
}

/// `ModelOpened` is `model_opened`.
fn file_name(kind: Kind) -> String {
    let mut name = String::new();
    for letter in format!("{kind:?}").chars() {
        if letter.is_uppercase() && !name.is_empty() {
            name.push('_');
        }
        name.extend(letter.to_lowercase());
    }
    name
}

fn id_of(kind: Kind) -> u64 {
    if kind == Kind::Goodbye { 0 } else { 7 }
}

#[test]
fn frames() {
    for &kind in Kind::ALL {
        let message = example(kind);
        assert_eq!(message.kind(), kind);
        let (id, part) = (id_of(kind), if kind == Kind::Models { Part::More } else { Part::Last });
        let payload = message.stream_bytes().unwrap();
        let frame = encode_frame(id, part, &message).unwrap();
        let comment = format!("{kind:?}: id {id}, {payload} bytes of payload follow, part {part:?}");
        compare(&file_name(kind), &comment, &frame);

        let golden = bytes_of(&file_name(kind));
        let (head, body) = golden.split_first_chunk::<HEADER_BYTES>().unwrap();
        let header = Header::decode(head, &Limits::default()).unwrap();
        assert_eq!((header.id, header.part), (id, part));
        assert_eq!(header.message(body), Ok(message));
    }
}

#[test]
fn ring_entries() {
    let message = example(Kind::CloseModel);
    let body = EntryBody::Inline(InlineBody::new(&message.encode().unwrap()).unwrap());
    let kind = message.kind().number();
    let inline = RingEntry { kind, part: Part::Last, id: 7, body };
    compare("entry_inline", "ring entry: CloseModel, id 7, its body in the entry", &inline.encode());

    let body = EntryBody::Slot { slot: 5, length: 104 };
    let in_slot = RingEntry { kind: Kind::Infer.number(), part: Part::Last, id: 8, body };
    compare("entry_slot", "ring entry: Infer, id 8, its body of 104 bytes in slot 5", &in_slot.encode());

    let slots = SlotsPlace { offset: 0, count: 6, bytes: 128 };
    for (name, entry) in [("entry_inline", inline), ("entry_slot", in_slot)] {
        let bytes: [u8; ENTRY_BYTES] = bytes_of(name).try_into().unwrap();
        assert_eq!(RingEntry::decode(&bytes, &slots), Ok(entry));
    }
}

#[test]
fn preface() {
    compare("preface", "what a client sends before its first frame", &PREFACE);
}

#[test]
fn no_file_is_left_over() {
    let mut known: BTreeSet<String> = Kind::ALL.iter().map(|&kind| file_name(kind)).collect();
    known.extend(["entry_inline", "entry_slot", "preface"].map(str::to_owned));
    for entry in fs::read_dir(folder()).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        assert!(known.contains(&name), "{} belongs to no message", path.display());
    }
}
