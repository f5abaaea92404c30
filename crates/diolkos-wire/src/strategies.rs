// SPDX-License-Identifier: Apache-2.0
//! Messages of every kind, for property tests. A new kind does not compile without a strategy.

use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec::Vec;
use core::num::NonZeroU64;

use diolkos_types::{Code, DataType, Dim, HandleId, Param, Params, RANK_MAX, Shape, Signature, TensorSpec};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;

use crate::*;

/// A message of any kind.
pub(crate) fn message() -> impl Strategy<Value = Message> {
    select(Kind::ALL).prop_flat_map(of_kind)
}

/// A message of this kind.
pub(crate) fn of_kind(kind: Kind) -> BoxedStrategy<Message> {
    match kind {
        Kind::Hello => hello().prop_map(Message::Hello).boxed(),
        Kind::Goodbye => Just(Message::Goodbye).boxed(),
        Kind::Health => Just(Message::Health).boxed(),
        Kind::Cancel => Just(Message::Cancel).boxed(),
        Kind::OpenChannel => open_channel().prop_map(Message::OpenChannel).boxed(),
        Kind::RegisterRegion => any::<(u16, u64)>()
            .prop_map(|(region, length)| Message::RegisterRegion(RegisterRegion { region, length }))
            .boxed(),
        Kind::CloseRegion => {
            any::<u16>().prop_map(|region| Message::CloseRegion(CloseRegion { region })).boxed()
        }
        Kind::CommitRegion => {
            any::<u16>().prop_map(|region| Message::CommitRegion(CommitRegion { region })).boxed()
        }
        Kind::OpenModel => (text(), number(), text())
            .prop_map(|(name, version, operation)| Message::OpenModel(OpenModel { name, version, operation }))
            .boxed(),
        Kind::CloseModel => handle().prop_map(|handle| Message::CloseModel(CloseModel { handle })).boxed(),
        Kind::Infer => infer().prop_map(Message::Infer).boxed(),
        Kind::Load => text().prop_map(|name| Message::Load(Load { name })).boxed(),
        Kind::Unload => text().prop_map(|name| Message::Unload(Unload { name })).boxed(),
        Kind::List => Just(Message::List).boxed(),
        Kind::Stats => text().prop_map(|name| Message::Stats(Stats { name })).boxed(),
        Kind::Welcome => welcome().prop_map(Message::Welcome).boxed(),
        Kind::HealthReply => any::<(bool, bool)>()
            .prop_map(|(live, ready)| Message::HealthReply(HealthReply { live, ready }))
            .boxed(),
        Kind::ChannelOpened => channel_opened().prop_map(Message::ChannelOpened).boxed(),
        Kind::ModelOpened => (handle(), any::<u64>(), signature())
            .prop_map(|(handle, version, signature)| {
                Message::ModelOpened(ModelOpened { handle, version, signature })
            })
            .boxed(),
        Kind::Inferred => (any::<u64>(), timing(), vec(tensor_ref(), 0..4))
            .prop_map(|(version, timing, outputs)| Message::Inferred(Inferred { version, timing, outputs }))
            .boxed(),
        Kind::Models => {
            vec(model_entry(), 0..5).prop_map(|models| Message::Models(Models { models })).boxed()
        }
        Kind::StatsReply => {
            vec(stats_entry(), 0..5).prop_map(|models| Message::StatsReply(StatsReply { models })).boxed()
        }
        Kind::Done => Just(Message::Done).boxed(),
        Kind::Failed => (select(&Code::ALL[..]), number(), number(), text())
            .prop_map(|(code, retry_after_us, needed, message)| {
                Message::Failed(Failed { code, retry_after_us, needed, message })
            })
            .boxed(),
    }
}

fn text() -> impl Strategy<Value = Box<str>> {
    vec(prop_oneof!["[a-z./-]", "[é日🜁\0]"], 0..12).prop_map(|pieces| pieces.concat().into())
}

fn number() -> impl Strategy<Value = Option<NonZeroU64>> {
    prop_oneof![Just(0), any::<u64>()].prop_map(NonZeroU64::new)
}

fn handle() -> impl Strategy<Value = HandleId> {
    any::<(u32, u32)>().prop_map(|(slot, generation)| HandleId { slot, generation })
}

fn hello() -> impl Strategy<Value = Hello> {
    (any::<(u16, u16, u64)>(), text(), vec(any::<u8>(), 0..80), text()).prop_map(
        |((version_min, version_max, features), client, token, tenant)| Hello {
            version_min,
            version_max,
            features: Features(features),
            client,
            token: Token(token.into()),
            tenant,
        },
    )
}

fn welcome() -> impl Strategy<Value = Welcome> {
    let limits = any::<(u32, u64, u32, u16, u64, u64)>().prop_map(
        |(
            message_bytes_max,
            payload_bytes_max,
            in_flight_max,
            regions_max,
            region_bytes_max,
            regions_bytes_max,
        )| {
            Limits {
                message_bytes_max,
                payload_bytes_max,
                in_flight_max,
                regions_max,
                region_bytes_max,
                regions_bytes_max,
            }
        },
    );
    (any::<(u16, u64)>(), limits, text()).prop_map(|((version, features), limits, server)| Welcome {
        version,
        features: Features(features),
        limits,
        server,
    })
}

fn bell() -> impl Strategy<Value = Bell> {
    select(&Bell::ALL[..])
}

fn open_channel() -> impl Strategy<Value = OpenChannel> {
    (0u32..16, 1u32..1000, bell(), any::<u16>()).prop_map(|(power, lines, replies, region)| OpenChannel {
        entries: 1 << power,
        slot_bytes: lines * 64,
        replies,
        region,
    })
}

/// A layout without an overlap: rings and slots in any order, with gaps between them.
pub(crate) fn channel_opened() -> impl Strategy<Value = ChannelOpened> {
    let sizes = (0u32..6, 0u32..6, 1u32..6, 1u32..6);
    let order = Just([0usize, 1, 2]).prop_shuffle();
    (sizes, order, [0u64..3, 0..3, 0..3], 0u64..100, bell(), bell()).prop_map(
        |((submissions, completions, count, lines), order, gaps, rest, requests, replies)| {
            let mut opened = ChannelOpened {
                segment_bytes: 0,
                submissions: RingPlace { offset: 0, entries: 1 << submissions },
                completions: RingPlace { offset: 0, entries: 1 << completions },
                slots: SlotsPlace { offset: 0, count, bytes: lines * 64 },
                requests,
                replies,
            };
            let mut end = 0u64;
            for (which, gap) in order.into_iter().zip(gaps) {
                let start = (end + gap * 64).next_multiple_of(128);
                let bytes = match which {
                    0 => {
                        opened.submissions.offset = start;
                        opened.submissions.bytes()
                    }
                    1 => {
                        opened.completions.offset = start;
                        opened.completions.bytes()
                    }
                    _ => {
                        opened.slots.offset = start;
                        u64::from(count) * u64::from(lines) * 64
                    }
                };
                end = start + bytes;
            }
            opened.segment_bytes = end + rest;
            opened
        },
    )
}

fn extent() -> impl Strategy<Value = Extent> {
    any::<(u16, u32, u32)>().prop_map(|(region, offset, length)| Extent {
        region,
        offset: u64::from(offset),
        length: u64::from(length),
    })
}

fn place() -> impl Strategy<Value = Place> {
    prop_oneof![
        any::<u32>().prop_map(|length| Place::Stream { length: length.into() }),
        extent().prop_map(Place::Region),
    ]
}

fn data_type() -> impl Strategy<Value = DataType> {
    select(&DataType::ALL[..])
}

fn tensor_ref() -> impl Strategy<Value = TensorRef> {
    let shape = vec(any::<u64>(), 0..=RANK_MAX).prop_map(|dims| Shape::new(&dims).unwrap());
    (any::<u16>(), data_type(), shape, place()).prop_map(|(index, data_type, shape, place)| TensorRef {
        index,
        data_type,
        shape,
        place,
    })
}

fn params() -> impl Strategy<Value = Params> {
    let value = prop_oneof![
        any::<bool>().prop_map(Param::Bool),
        any::<i64>().prop_map(Param::Int),
        any::<u64>().prop_map(Param::Uint),
        any::<f64>().prop_map(Param::Double),
        text().prop_map(Param::Text),
    ];
    vec((text(), value), 0..4).prop_map(|list| {
        let mut params = Params::new();
        list.into_iter().for_each(|(name, value)| params.set(&name, value));
        params
    })
}

fn infer() -> impl Strategy<Value = Infer> {
    let results = prop_oneof![Just(ResultPlace::Stream), extent().prop_map(ResultPlace::Region)];
    let lists = (params(), vec(tensor_ref(), 0..4), option::of(vec(any::<u16>(), 0..4)));
    (handle(), select(&Class::ALL[..]), number(), number(), lists, results).prop_map(
        |(handle, class, timeout_us, order, (params, inputs, outputs), results)| Infer {
            handle,
            class,
            timeout_us,
            order,
            params,
            inputs,
            outputs,
            results,
        },
    )
}

fn timing() -> impl Strategy<Value = Timing> {
    any::<[u64; 4]>().prop_map(|[queue_ns, copy_in_ns, compute_ns, copy_out_ns]| Timing {
        queue_ns,
        copy_in_ns,
        compute_ns,
        copy_out_ns,
    })
}

fn specs() -> impl Strategy<Value = Box<[TensorSpec]>> {
    let dim =
        prop_oneof![any::<u64>().prop_map(Dim::Fixed), any::<u64>().prop_map(|max| Dim::Variable { max })];
    let dims = option::of(vec(dim, 0..=RANK_MAX));
    let spec = (text(), data_type(), dims, any::<(bool, bool)>()).prop_map(
        |(name, data_type, dims, (optional, any_type))| TensorSpec {
            name,
            data_type,
            dims: dims.map(Vec::into_boxed_slice),
            optional,
            any_type,
        },
    );
    vec(spec, 0..3).prop_map(Vec::into_boxed_slice)
}

fn signature() -> impl Strategy<Value = Signature> {
    (specs(), specs()).prop_map(|(inputs, outputs)| Signature { inputs, outputs })
}

fn model_entry() -> impl Strategy<Value = ModelEntry> {
    (text(), number(), select(&ModelState::ALL[..]), text())
        .prop_map(|(name, version, state, reason)| ModelEntry { name, version, state, reason })
}

fn stats_entry() -> impl Strategy<Value = StatsEntry> {
    (text(), any::<[u64; 4]>(), timing()).prop_map(
        |(name, [version, succeeded, failed, executions], timing)| StatsEntry {
            name,
            version,
            succeeded,
            failed,
            executions,
            timing,
        },
    )
}

/// Text of so many bytes.
pub(crate) fn long(bytes: usize) -> Box<str> {
    String::from_iter(core::iter::repeat_n('x', bytes)).into()
}
