// SPDX-License-Identifier: Apache-2.0
//! A client that says and writes whatever it likes.

use std::io::{IoSlice, Read as _, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use diolkos_client::types::HandleId;
use diolkos_shm::mapping::Mapping;
use diolkos_shm::pass;
use diolkos_shm::region::{Pages, Region, seal_writes};
use diolkos_shm::segment::Segment as _;
use diolkos_wire::{
    Bell, ChannelOpened, CommitRegion, EntryBody, Features, HEADER_BYTES, Header, Hello, Infer, InlineBody,
    Limits, Message, OpenChannel, OpenModel, PREFACE, Part, RegisterRegion, RingEntry, Token, VERSION,
    encode_frame,
};

pub(crate) struct Raw {
    pub(crate) stream: UnixStream,
    pub(crate) opened: ChannelOpened,
    pub(crate) memory: Arc<Mapping>,
    pub(crate) bell: OwnedFd,
    pub(crate) noop: HandleId,
    /// Requests put in, and answers taken out.
    pub(crate) sent: u32,
    pub(crate) taken: u32,
}

/// The region that they lie in.
const RINGS: u16 = 60;

/// Words of a ring by their distance from its beginning.
pub(crate) const TAIL: usize = 0;
pub(crate) const HEAD: usize = 128;
pub(crate) const SLEEPING: usize = 256;
const ENTRIES: usize = 384;

pub(crate) fn send(stream: &UnixStream, id: u64, message: &Message, descriptors: &[OwnedFd]) {
    let frame = encode_frame(id, Part::Last, message).unwrap();
    let borrowed: Vec<_> = descriptors.iter().map(OwnedFd::as_fd).collect();
    assert_eq!(pass::send(stream, &[IoSlice::new(&frame)], &borrowed).unwrap(), frame.len());
}

pub(crate) fn receive(mut stream: &UnixStream, descriptors: &mut Vec<OwnedFd>) -> (u64, Message) {
    let mut head = [0; HEADER_BYTES];
    let first = pass::receive(stream, &mut head, descriptors).unwrap();
    stream.read_exact(&mut head[first..]).unwrap();
    let header = Header::decode(&head, &Limits::default()).unwrap();
    let mut body = vec![0; header.length as usize];
    stream.read_exact(&mut body).unwrap();
    let message = header.message(&body).unwrap();
    stream.read_exact(&mut vec![0; header.payload as usize]).unwrap();
    (header.id, message)
}

pub(crate) fn hello(socket: &Path) -> UnixStream {
    let mut stream = UnixStream::connect(socket).unwrap();
    stream.write_all(&PREFACE).unwrap();
    let features = Features::SHARED_MEMORY.union(Features::EVENTFD);
    let hello = Hello {
        version_min: VERSION,
        version_max: VERSION,
        features,
        client: "raw".into(),
        token: Token::default(),
        tenant: "".into(),
    };
    send(&stream, 1, &Message::Hello(hello), &[]);
    let (id, welcome) = receive(&stream, &mut Vec::new());
    assert!(matches!((id, &welcome), (1, Message::Welcome(_))), "{welcome:?}");
    stream
}

/// Tells of a region, without saying that it is complete.
pub(crate) fn register(stream: &UnixStream, number: u16, region: &Region) {
    let file = region.as_fd().try_clone_to_owned().unwrap();
    let register = RegisterRegion { region: number, length: region.mapping().len() as u64 };
    send(stream, 4, &Message::RegisterRegion(register), &[file]);
    assert_eq!(receive(stream, &mut Vec::new()).1, Message::Done);
}

pub(crate) fn commit(stream: &UnixStream, number: u16) -> Message {
    send(stream, 5, &Message::CommitRegion(CommitRegion { region: number }), &[]);
    receive(stream, &mut Vec::new()).1
}

/// A new region that the daemon may use.
fn lend(stream: &UnixStream, number: u16, len: usize) -> Region {
    let region = Region::create_whole(len, Pages::Ordinary).unwrap();
    register(stream, number, &region);
    seal_writes(&region).unwrap();
    assert_eq!(commit(stream, number), Message::Done);
    region
}

impl Raw {
    pub(crate) fn new(socket: &Path, entries: u32) -> Raw {
        let stream = hello(socket);
        let open = OpenChannel { entries, slot_bytes: 4096, replies: Bell::Event, region: RINGS };
        let region = lend(&stream, RINGS, open.lay_out().segment_bytes as usize);
        send(&stream, 2, &Message::OpenChannel(open), &[]);
        let mut descriptors = Vec::new();
        let (_, answer) = receive(&stream, &mut descriptors);
        let Message::ChannelOpened(opened) = answer else { panic!("{answer:?}") };
        let mut descriptors = descriptors.into_iter();
        let bell = descriptors.next().unwrap();
        let memory = region.mapping().clone();
        let mut raw = Raw {
            stream,
            opened,
            memory,
            bell,
            noop: HandleId { slot: 0, generation: 0 },
            sent: 0,
            taken: 0,
        };
        raw.noop = raw.open("noop");
        raw
    }

    pub(crate) fn open(&self, name: &str) -> HandleId {
        let open = OpenModel { name: name.into(), version: None, operation: "".into() };
        send(&self.stream, 3, &Message::OpenModel(open), &[]);
        let (_, answer) = receive(&self.stream, &mut Vec::new());
        let Message::ModelOpened(opened) = answer else { panic!("{answer:?}") };
        opened.handle
    }

    pub(crate) fn register(&self, number: u16, len: usize) -> Region {
        lend(&self.stream, number, len)
    }

    fn requests(&self) -> usize {
        self.opened.submissions.offset as usize
    }

    fn answers(&self) -> usize {
        self.opened.completions.offset as usize
    }

    /// The offset of a word of a ring: 0 = that of requests, 1 = that of answers.
    pub(crate) fn word(&self, ring: usize, word: usize) -> usize {
        [self.requests(), self.answers()][ring] + word
    }

    pub(crate) fn entry_of(&self, id: u64, message: &Message) -> [u8; 64] {
        let body = message.encode().unwrap();
        let body = match InlineBody::new(&body) {
            Some(inline) => EntryBody::Inline(inline),
            None => {
                let slot = (id % u64::from(self.opened.slots.count)) as u32;
                let at = self.opened.slots.offset + u64::from(slot) * u64::from(self.opened.slots.bytes);
                self.memory.write(at as usize, &body);
                EntryBody::Slot { slot, length: body.len() as u32 }
            }
        };
        RingEntry { kind: message.kind().number(), part: Part::Last, id, body }.encode()
    }

    pub(crate) fn noop_entry(&self, id: u64) -> [u8; 64] {
        self.entry_of(id, &Message::Infer(Infer::new(self.noop)))
    }

    /// Puts any 64 bytes into the ring of requests.
    pub(crate) fn put(&mut self, entry: &[u8; 64]) {
        let place = self.sent % self.opened.submissions.entries;
        self.memory.write(self.requests() + ENTRIES + place as usize * 64, entry);
        self.sent = self.sent.wrapping_add(1);
        self.memory.word(self.requests() + TAIL).store(self.sent, Ordering::Release);
        self.ring();
    }

    pub(crate) fn ring(&self) {
        let _ = rustix::io::write(&self.bell, &1u64.to_ne_bytes());
    }

    /// Takes an answer out, or finds that the daemon cut the connection.
    pub(crate) fn take(&mut self) -> Option<RingEntry> {
        let until = Instant::now() + Duration::from_secs(30);
        loop {
            let tail = self.memory.word(self.answers() + TAIL).load(Ordering::Acquire);
            if tail != self.taken {
                let mut entry = [0; 64];
                let place = self.taken % self.opened.completions.entries;
                self.memory.read(self.answers() + ENTRIES + place as usize * 64, &mut entry);
                self.taken = self.taken.wrapping_add(1);
                self.memory.word(self.answers() + HEAD).store(self.taken, Ordering::Release);
                return Some(RingEntry::decode(&entry, &self.opened.slots).unwrap());
            }
            if self.is_cut() {
                return None;
            }
            assert!(Instant::now() < until, "neither an answer nor an end came");
            std::thread::yield_now();
        }
    }

    pub(crate) fn is_cut(&self) -> bool {
        self.stream.set_nonblocking(true).unwrap();
        let read = (&self.stream).read(&mut [0; 64]);
        self.stream.set_nonblocking(false).unwrap();
        matches!(read, Ok(0))
            || matches!(read, Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset)
    }
}
