// SPDX-License-Identifier: Apache-2.0
//! Every message of the native channel, over a stream. Regions and rings, for which a unix socket is needed, are tried in
//! `crates/diolkos/tests/native/`.

use diolkos_types::{Code, DataType, HandleId, Shape};
use diolkos_wire::{
    Bell, CloseModel, CloseRegion, CommitRegion, Extent, Features, HEADER_BYTES, Header, Hello, Infer, Kind,
    Limits, Load, Message, OpenChannel, OpenModel, PREFACE, Part, Place, RegisterRegion, ResultPlace, Stats,
    TensorRef, Token, Unload, VERSION, encode_frame,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::doors::{Claims, Connection, Door};
use crate::rest::Victim;
use crate::world::{NOBODY, SECRET, Who, World, world};

pub(crate) struct Native {
    pub(crate) connection: Connection,
    sent: u64,
}

impl Native {
    /// Connects, and says who it is; the daemon's answer comes with it.
    async fn greet(connection: Connection, claims: &Claims) -> (Native, Message) {
        let mut native = Native { connection, sent: 0 };
        native.connection.write_all(&PREFACE).await.unwrap();
        let hello = Hello {
            version_min: VERSION,
            version_max: VERSION,
            features: Features::SHARED_MEMORY,
            client: "border".into(),
            token: Token(claims.token.as_deref().unwrap_or_default().as_bytes().into()),
            tenant: claims.tenant.as_deref().unwrap_or_default().into(),
        };
        let mut answer = native.ask(&Message::Hello(hello), &[]).await;
        (native, answer.remove(0))
    }

    pub(crate) async fn connect(door: Door, world: &World, who: Who) -> Native {
        let connection = door.connect(world, who, "").await;
        let (native, answer) = Native::greet(connection, &door.claims(world, who)).await;
        assert!(matches!(answer, Message::Welcome(_)), "{door:?}: {answer:?}");
        native
    }

    async fn send(&mut self, message: &Message, payload: &[u8]) {
        self.sent += 1;
        let frame = encode_frame(self.sent, Part::Last, message).unwrap();
        self.connection.write_all(&frame).await.unwrap();
        self.connection.write_all(payload).await.unwrap();
        self.connection.flush().await.unwrap();
    }

    /// The answer, in all its parts.
    async fn ask(&mut self, message: &Message, payload: &[u8]) -> Vec<Message> {
        self.send(message, payload).await;
        let mut parts = Vec::new();
        loop {
            let mut head = [0; HEADER_BYTES];
            self.connection.read_exact(&mut head).await.unwrap();
            let header = Header::decode(&head, &Limits::default()).unwrap();
            let mut body = vec![0; header.length as usize];
            self.connection.read_exact(&mut body).await.unwrap();
            let mut payload = vec![0; header.payload as usize];
            self.connection.read_exact(&mut payload).await.unwrap();
            assert_eq!(header.id, self.sent, "one request at a time");
            parts.push(header.message(&body).unwrap());
            if header.part == Part::Last {
                return parts;
            }
        }
    }

    pub(crate) async fn open(&mut self, name: &str) -> HandleId {
        let answer = self.ask(&open(name, ""), &[]).await.remove(0);
        let Message::ModelOpened(opened) = answer else { panic!("{answer:?}") };
        opened.handle
    }

    pub(crate) async fn infer(&mut self, handle: HandleId) -> Message {
        self.ask(&infer(handle, Place::Stream { length: 2 }, ResultPlace::Stream), &[1, 2]).await.remove(0)
    }
}

fn open(name: &str, operation: &str) -> Message {
    Message::OpenModel(OpenModel { name: name.into(), version: None, operation: operation.into() })
}

pub(crate) fn infer(handle: HandleId, place: Place, results: ResultPlace) -> Message {
    let shape = Shape::new(&[2]).unwrap();
    let input = TensorRef { index: 0, data_type: DataType::Uint8, shape, place };
    Message::Infer(Infer { inputs: vec![input], results, ..Infer::new(handle) })
}

/// Numbers: the handle means something to the victim. No region does, since none can be registered over every stream; see
/// `handles_and_regions_of_the_other_mean_nothing` in `crates/diolkos/tests/native/` for one that does.
struct Numbers {
    handle: HandleId,
    region: u16,
}

/// Every request, about a name and about numbers; `own` is a handle of whoever asks.
fn requests(name: &str, numbers: &Numbers, own: HandleId) -> Vec<(Message, &'static [u8])> {
    let Numbers { handle, region } = *numbers;
    let extent = Extent { region, offset: 0, length: 2 };
    let stream = Place::Stream { length: 2 };
    let text = || Box::<str>::from(name);
    let versioned = OpenModel { name: text(), version: std::num::NonZeroU64::new(1), operation: "".into() };
    vec![
        (open(name, ""), &[]),
        (open(name, "run"), &[]),
        (Message::OpenModel(versioned), &[]),
        (Message::Load(Load { name: text() }), &[]),
        (Message::Unload(Unload { name: text() }), &[]),
        (Message::Stats(Stats { name: text() }), &[]),
        (infer(handle, stream, ResultPlace::Stream), &[1, 2]),
        (infer(handle, Place::Region(extent), ResultPlace::Stream), &[]),
        (infer(own, Place::Region(extent), ResultPlace::Stream), &[]),
        (infer(own, stream, ResultPlace::Region(extent)), &[1, 2]),
        (Message::CloseModel(CloseModel { handle }), &[]),
        (Message::CloseRegion(CloseRegion { region }), &[]),
        (Message::CommitRegion(CommitRegion { region }), &[]),
        // Without a descriptor.
        (Message::RegisterRegion(RegisterRegion { region, length: 4096 }), &[]),
    ]
}

#[tokio::test]
async fn nothing_of_another_tenant_shows_in_the_native_channel_and_nothing_changes() {
    for may_load in [true, false] {
        let world = world(may_load).await;
        for door in Door::all(&world) {
            let mut settled = Victim::settle(door, &world).await;
            let mut victim = Native::connect(door, &world, Who::Victim).await;
            let mut handles = Vec::new();
            for _ in 0..4 {
                handles.push(victim.open(SECRET).await);
            }
            assert!(matches!(victim.infer(handles[3]).await, Message::Inferred(_)), "{door:?}");
            let before = settled.sees().await;
            let mut hostile = Native::connect(door, &world, Who::Hostile).await;
            let own = hostile.open("echo").await;
            let theirs = Numbers { handle: handles[3], region: 3 };
            let nobodys = Numbers { handle: HandleId { slot: 700, generation: 0 }, region: 9 };
            let pairs = requests(SECRET, &theirs, own).into_iter().zip(requests(NOBODY, &nobodys, own));
            let mut tried = vec![Kind::Hello];
            for ((about_secret, payload), (about_nobody, same_payload)) in pairs {
                let told = format!("{:?}", hostile.ask(&about_secret, payload).await);
                let nothing = format!("{:?}", hostile.ask(&about_nobody, same_payload).await);
                let told = told.replace(SECRET, NOBODY).replace("region 3", "region 9");
                assert_eq!(told, nothing, "{door:?}: {about_secret:?}");
                assert!(told.starts_with("[Failed"), "{door:?}: {about_secret:?}: {told}");
                tried.push(about_secret.kind());
            }
            let rings = OpenChannel { entries: 8, slot_bytes: 4096, replies: Bell::Event, region: 3 };
            let nameless = [
                Message::List,
                Message::Stats(Stats { name: "".into() }),
                Message::Health,
                Message::OpenChannel(rings),
            ];
            for message in nameless {
                let told = format!("{:?}", hostile.ask(&message, &[]).await);
                assert!(!told.contains(SECRET), "{door:?}: {told}");
                tried.push(message.kind());
            }
            // These have no answer.
            hostile.send(&Message::Cancel, &[]).await;
            assert!(matches!(hostile.infer(own).await, Message::Inferred(_)), "{door:?}");
            hostile.send(&Message::Goodbye, &[]).await;
            tried.extend([Kind::Cancel, Kind::Goodbye]);
            let requests = Kind::ALL.iter().filter(|kind| kind.number() < 0x8000);
            let missing: Vec<&Kind> = requests.filter(|kind| !tried.contains(kind)).collect();
            assert!(missing.is_empty(), "{missing:?}");
            assert_eq!(settled.sees().await, before, "{door:?}");
            settled.uses_and_leaves().await;
            for handle in handles {
                assert!(matches!(victim.infer(handle).await, Message::Inferred(_)), "{door:?}");
            }
        }
        world.daemon.shutdown().await;
    }
}

#[tokio::test]
async fn who_one_says_to_be_counts_for_nothing_in_the_native_channel() {
    let world = world(false).await;
    for door in Door::all(&world).into_iter().filter(|door| *door != Door::Bridge) {
        let mut told_about = Vec::new();
        for name in [SECRET, NOBODY] {
            let claims = Claims { tenant: Some(name.into()), ..door.claims(&world, Who::Hostile) };
            let connection = door.connect(&world, Who::Hostile, "").await;
            told_about.push(Native::greet(connection, &claims).await.1);
        }
        let Message::Failed(failed) = &told_about[0] else { panic!("{door:?}: {told_about:?}") };
        assert_eq!(failed.code, Code::PermissionDenied, "{door:?}");
        assert_eq!(told_about[0], told_about[1], "{door:?}");
        // Where the kernel says who it is, a token that was stolen is nothing.
        if matches!(door, Door::UnixSocket | Door::UnixUser | Door::Machine) {
            let token = Some(world.tokens.of(Who::Victim).clone());
            let connection = door.connect(&world, Who::Hostile, "").await;
            let (mut native, answer) =
                Native::greet(connection, &Claims { token, ..Claims::default() }).await;
            if matches!(answer, Message::Welcome(_)) {
                let told = format!("{:?}", native.ask(&open(SECRET, ""), &[]).await);
                let nothing = format!("{:?}", native.ask(&open(NOBODY, ""), &[]).await);
                assert_eq!(told.replace(SECRET, NOBODY), nothing, "{door:?}");
            }
        }
    }
    world.daemon.shutdown().await;
}
