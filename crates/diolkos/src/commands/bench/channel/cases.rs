// SPDX-License-Identifier: Apache-2.0
//! What is measured, one call each: the machine at its barest, and the same work by every way that there is.

use std::path::Path;
use std::time::{Duration, Instant};

use diolkos_client::{Client, Options, Waiting};
use diolkos_types::{DataType, Shape};

use super::super::caller::{CallBlocking as _, Caller, Question, Route};
use super::super::children::{Server, cannot};
use super::super::inproc::{InprocCaller, Local};
use super::super::native::{NativeCaller, failed};
use super::super::payload::{self, Wish};
use super::super::{closed, procfs, runtime};
use super::apart::Apart;
use super::call_for;
use super::peer::{Peer, Role};
use super::results::Measured;
use super::turns::{Turn, in_turns};
use crate::exit::Failure;
use crate::tensor::Value;

/// Bytes of the tensor that image models commonly take.
pub(super) const IMAGE_BYTES: usize = 602_112;

/// Bytes of a large one.
pub(super) const LARGE_BYTES: usize = 64 << 20;

/// Clients at once, in the cases of many.
pub(super) const MANY: usize = 32;

/// Work that is not empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Work {
    /// A product of matrices that takes an image's bytes and gives 4 kB.
    Image,
    /// The example model with a batch of ten: about a millisecond.
    Short,
    /// MobileNet: tens of milliseconds.
    Long,
}

/// Images in the batch of [`Work::Short`], and bytes of each.
const BATCH: u64 = 10;
const DIGIT_BYTES: u64 = 8 * 8 * 4;

/// Bytes of the batch.
const BATCH_BYTES: usize = (BATCH * DIGIT_BYTES) as usize;

/// By which way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// The engine in this process.
    Inproc,
    /// The channel; both sides sleep at once.
    Blocking,
    /// The channel as it is.
    Adaptive,
    /// The channel; the client never sleeps.
    Polled,
    /// gRPC over a unix socket.
    Grpc,
}

impl Way {
    const fn name(self) -> &'static str {
        match self {
            Way::Inproc => "in process",
            Way::Blocking => "blocking",
            Way::Adaptive => "adaptive",
            Way::Polled => "polled",
            Way::Grpc => "gRPC over unix",
        }
    }
}

/// The barest ways to another process and back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Bare {
    Event,
    Futex,
    Socket,
    /// By events, with [`WORK`](super::peer::WORK) in between.
    Busy,
}

impl Bare {
    const ALL: [Bare; 4] = [Bare::Event, Bare::Futex, Bare::Socket, Bare::Busy];

    const fn name(self) -> &'static str {
        match self {
            Bare::Event => "eventfd ping-pong",
            Bare::Futex => "futex ping-pong",
            Bare::Socket => "unix socket ping-pong",
            Bare::Busy => "eventfd ping-pong with 1 ms of work",
        }
    }

    const fn role(self) -> Role {
        match self {
            Bare::Event => Role::Event,
            Bare::Futex => Role::Futex,
            Bare::Socket => Role::Socket,
            Bare::Busy => Role::Busy,
        }
    }
}

/// One thing that is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Case {
    /// There and back between two cores.
    Ping(Bare),
    /// The same between two that the kernel may put on one core.
    PingNear(Bare),
    /// Of the image, of the batch of the short work, of the large one.
    MemcpyImage,
    MemcpyBatch,
    MemcpyLarge,
    Empty(Way),
    /// By [`MANY`] clients at once.
    EmptyMany(Way),
    Work(Work, Way),
    /// Of [`LARGE_BYTES`].
    Echo,
}

impl Case {
    pub(super) const ALL: [Case; 28] = [
        Case::Ping(Bare::Event),
        Case::Ping(Bare::Futex),
        Case::Ping(Bare::Socket),
        Case::Ping(Bare::Busy),
        Case::PingNear(Bare::Event),
        Case::PingNear(Bare::Futex),
        Case::MemcpyImage,
        Case::MemcpyBatch,
        Case::MemcpyLarge,
        Case::Empty(Way::Inproc),
        Case::Empty(Way::Blocking),
        Case::Empty(Way::Adaptive),
        Case::Empty(Way::Polled),
        Case::Empty(Way::Grpc),
        Case::EmptyMany(Way::Adaptive),
        Case::EmptyMany(Way::Grpc),
        Case::Work(Work::Image, Way::Inproc),
        Case::Work(Work::Image, Way::Blocking),
        Case::Work(Work::Image, Way::Adaptive),
        Case::Work(Work::Image, Way::Polled),
        Case::Work(Work::Image, Way::Grpc),
        Case::Work(Work::Short, Way::Inproc),
        Case::Work(Work::Short, Way::Blocking),
        Case::Work(Work::Short, Way::Adaptive),
        Case::Work(Work::Long, Way::Inproc),
        Case::Work(Work::Long, Way::Blocking),
        Case::Work(Work::Long, Way::Adaptive),
        Case::Echo,
    ];

    /// What it is called in the results and on the page.
    pub(super) fn name(self) -> String {
        match self {
            Case::Ping(bare) => bare.name().into(),
            Case::PingNear(bare) => format!("{}, where the kernel puts it", bare.name()),
            Case::MemcpyImage => "memcpy of 602 kB".into(),
            Case::MemcpyBatch => "memcpy of 2.6 kB".into(),
            Case::MemcpyLarge => "memcpy of 64 MiB".into(),
            Case::Empty(way) => format!("empty call, {}", way.name()),
            Case::EmptyMany(way) => format!("empty call, {MANY} clients, {}", way.name()),
            Case::Work(Work::Image, way) => format!("602 kB in and 4 kB out, {}", way.name()),
            Case::Work(Work::Short, way) => format!("a model of 1 ms, {}", way.name()),
            Case::Work(Work::Long, way) => format!("MobileNet, {}", way.name()),
            Case::Echo => "echo of 64 MiB, adaptive".into(),
        }
    }
}

/// Everything that has to run.
pub(super) struct Bench {
    /// As [`Bare::ALL`].
    peers: Vec<Peer>,
    local: Local,
    /// With the models, each in an engine of its own.
    short: Local,
    long: Option<Local>,
    /// What is asked, and of which model.
    questions: [Option<Question>; 3],
    /// One that looks before it sleeps, and one that does not.
    adaptive: Server,
    blocking: Server,
    runtime: tokio::runtime::Runtime,
    source: Vec<u8>,
    target: Vec<u8>,
}

impl Bench {
    /// `mobilenet` is a file that need not be there.
    pub(super) fn start(example: &Path, mobilenet: &Path) -> Result<Bench, Failure> {
        let runtime = runtime(2)?;
        let peers = Bare::ALL.map(|bare| Peer::start(bare.role())).into_iter().collect::<Result<_, _>>()?;
        let (local, _) = Local::start(None)?;
        let (short, short_question) = model(example, Some(&[BATCH, 1, 8, 8]))?;
        let (long, long_question) = match mobilenet.exists().then(|| model(mobilenet, None)).transpose()? {
            Some((long, question)) => (Some(long), Some(question)),
            None => (None, None),
        };
        let mut files = vec![example.to_path_buf()];
        files.extend(long.as_ref().map(|_| mobilenet.to_path_buf()));
        let adaptive = runtime.block_on(Server::start_daemon(&files, &[]))?;
        let blocking = runtime.block_on(Server::start_daemon(&files, &["[channel]\nspin = \"0us\""]))?;
        // Written once, so that no page is made while it is copied.
        let (source, target) = (vec![7; LARGE_BYTES], vec![8; LARGE_BYTES]);
        let questions = [Some(product()), Some(short_question), long_question];
        Ok(Bench { peers, local, short, long, questions, adaptive, blocking, runtime, source, target })
    }

    /// What the work asks; `None` if its model is not there.
    fn question(&self, work: Work) -> Option<&Question> {
        self.questions[work as usize].as_ref()
    }

    /// Processes whose work is ours.
    pub(super) fn pids(&self) -> Vec<u32> {
        let servers = [&self.adaptive, &self.blocking].map(Server::pid);
        self.peers.iter().map(Peer::pid).chain(servers).collect()
    }

    /// One case, for so long; `None` for one of those that are measured in turns.
    pub(super) fn measure(&mut self, case: Case, length: Duration) -> Result<Option<Measured>, Failure> {
        let measured = match case {
            Case::Ping(bare) => {
                let peer = &mut self.peers[bare as usize];
                let _apart = Apart::keep(peer.pid())?;
                call_for(length, || peer.call())
            }
            Case::PingNear(bare) => {
                let peer = &mut self.peers[bare as usize];
                call_for(length, || peer.call())
            }
            Case::MemcpyImage => self.memcpy(IMAGE_BYTES, length),
            Case::MemcpyBatch => self.memcpy(BATCH_BYTES, length),
            Case::MemcpyLarge => self.memcpy(LARGE_BYTES, length),
            Case::Empty(way) => self.ask(&self.local, &payload::noop(), way, length),
            Case::EmptyMany(way) => self.many(way, length),
            Case::Work(work, way) => {
                let local = match work {
                    Work::Image => &self.local,
                    Work::Short => &self.short,
                    // In turns, see `measure_long`.
                    Work::Long => return Ok(None),
                };
                match self.question(work) {
                    Some(question) => self.ask(local, question, way, length),
                    None => return Ok(None),
                }
            }
            Case::Echo => self.ask(&self.local, &payload::echo_bytes(LARGE_BYTES), Way::Adaptive, 2 * length),
        };
        measured.map(Some)
    }

    /// Long work by every way, in turns; nothing if its model is not there.
    pub(super) fn measure_long(&self, length: Duration) -> Result<Vec<(String, Measured)>, Failure> {
        const WAYS: [Way; 3] = [Way::Inproc, Way::Blocking, Way::Adaptive];
        let Some((local, question)) = self.long.as_ref().zip(self.question(Work::Long)) else {
            return Ok(Vec::new());
        };
        let turns = WAYS.map(|way| self.turn(local, question, way)).into_iter();
        let measured = in_turns(turns.collect::<Result<_, Failure>>()?, length)?;
        let name = |way| Case::Work(Work::Long, way).name();
        Ok(WAYS.map(name).into_iter().zip(measured).collect())
    }

    fn turn<'a>(&'a self, local: &Local, question: &Question, way: Way) -> Result<Turn<'a>, Failure> {
        let cpu = move || self.cpu(way);
        if way == Way::Inproc {
            let mut caller = InprocCaller::open(local, question)?;
            return Ok(Turn::new(move || outcome(caller.call_blocking()), cpu));
        }
        let mut remote = NativeCaller::on(self.client(way)?, question)?;
        remote.call_patiently()?;
        Ok(Turn::new(move || remote.call_patiently(), cpu))
    }

    fn memcpy(&mut self, bytes: usize, length: Duration) -> Result<Measured, Failure> {
        call_for(length, || {
            self.target[..bytes].copy_from_slice(std::hint::black_box(&self.source[..bytes]));
            std::hint::black_box(&mut self.target);
            Ok(())
        })
    }

    fn server(&self, way: Way) -> &Server {
        if way == Way::Blocking { &self.blocking } else { &self.adaptive }
    }

    fn client(&self, way: Way) -> Result<Client, Failure> {
        let waiting = match way {
            Way::Blocking => Waiting::Blocking,
            Way::Polled => Waiting::Polling,
            Way::Adaptive | Way::Inproc | Way::Grpc => Waiting::Adaptive,
        };
        let options = Options { waiting, ..Options::default() };
        Client::connect_with(&self.server(way).unix.to_string(), options).map_err(failed)
    }

    fn ask(
        &self,
        local: &Local,
        question: &Question,
        way: Way,
        length: Duration,
    ) -> Result<Measured, Failure> {
        let mut before = self.cpu(way)?;
        let measured = match way {
            Way::Inproc => {
                let mut caller = InprocCaller::open(local, question)?;
                call_for(length, || outcome(caller.call_blocking()))?
            }
            Way::Grpc => self.grpc(question, 1, length)?,
            Way::Blocking | Way::Adaptive | Way::Polled => {
                let mut remote = NativeCaller::on(self.client(way)?, question)?;
                // What is done once for a region, such as bringing its pages in, is no part of a call.
                remote.call_patiently()?;
                remote.call_patiently()?;
                before = self.cpu(way)?;
                call_for(length, || remote.call_patiently())?
            }
        };
        self.with_cpu(measured, before, way, length)
    }

    fn many(&self, way: Way, length: Duration) -> Result<Measured, Failure> {
        let before = self.cpu(way)?;
        let question = payload::noop();
        let measured = match way {
            Way::Grpc => self.grpc(&question, MANY, length)?,
            _ => {
                let clients = (0..MANY).map(|_| self.client(way)).collect::<Result<Vec<_>, Failure>>()?;
                let begin = Instant::now() + length / 8;
                let rates = std::thread::scope(|scope| {
                    let threads: Vec<_> = clients
                        .into_iter()
                        .map(|client| {
                            let question = &question;
                            scope.spawn(move || {
                                let mut remote = NativeCaller::on(client, question)?;
                                std::thread::sleep(begin.saturating_duration_since(Instant::now()));
                                call_for(length, || remote.call_patiently())
                            })
                        })
                        .collect();
                    let joined = threads.into_iter().map(|thread| {
                        // A panic in a client is this program's mistake; let it show.
                        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
                    });
                    joined.collect::<Result<Vec<Measured>, Failure>>()
                })?;
                let mean = |number: fn(&Measured) -> f64| rates.iter().map(number).sum::<f64>() / MANY as f64;
                Measured {
                    p50_ns: mean(|measured| measured.p50_ns),
                    p99_ns: mean(|measured| measured.p99_ns),
                    rate: rates.iter().map(|measured| measured.rate).sum(),
                    cpu_ns: None,
                    daemon_cpu_ns: None,
                }
            }
        };
        self.with_cpu(measured, before, way, length)
    }

    fn grpc(&self, question: &Question, clients: usize, length: Duration) -> Result<Measured, Failure> {
        let route = Route::Grpc(self.adaptive.unix.clone());
        self.runtime.block_on(async {
            let callers = Caller::open_many(&route, question, clients).await?;
            let (_, closed) = closed::run(callers, length / 8, length).await;
            if closed.tally.failed() > 0 {
                return Err(Failure::failed("calls over gRPC failed"));
            }
            let summary = closed.tally.latencies().summary();
            let (p50_ns, p99_ns) = (summary.p50_ns as f64, summary.p99_ns as f64);
            Ok(Measured { p50_ns, p99_ns, rate: closed.rate(), cpu_ns: None, daemon_cpu_ns: None })
        })
    }

    /// CPU time of this process, and of the server.
    fn cpu(&self, way: Way) -> Result<[Duration; 2], Failure> {
        let own = procfs::cpu_time(std::process::id());
        let own = own.map_err(|error| cannot("read this process's CPU time", &error))?;
        Ok([own, self.server(way).cpu_time()?])
    }

    fn with_cpu(
        &self,
        measured: Measured,
        before: [Duration; 2],
        way: Way,
        length: Duration,
    ) -> Result<Measured, Failure> {
        let [own, daemon] = self.cpu(way)?;
        // Warming up is in it, with as many calls in its time.
        let calls = measured.rate * (length + length / 8).as_secs_f64();
        let per_call = |now: Duration, before| {
            let used: Duration = now.saturating_sub(before);
            used.as_nanos() as f64 / calls.max(1.0)
        };
        let daemon = per_call(daemon, before[1]);
        let cpu_ns = Some(per_call(own, before[0]) + daemon);
        Ok(Measured { cpu_ns, daemon_cpu_ns: Some(daemon), ..measured })
    }
}

fn outcome(outcome: super::super::caller::Outcome) -> Result<(), Failure> {
    match outcome {
        super::super::caller::Outcome::Ok => Ok(()),
        super::super::caller::Outcome::Failed(why) => Err(Failure::failed(why.to_string())),
    }
}

/// A model in an engine of its own, and what it is asked.
fn model(file: &Path, shape: Option<&[u64]>) -> Result<(Local, Question), Failure> {
    let (local, name) = Local::start(Some(file))?;
    let name = name.expect("a file was named, so a model was loaded");
    let shape = shape.map(|dims| Shape::new(dims).expect("it is a short list"));
    let wish = Wish { shape, ..Wish::default() };
    let question = payload::question(&name, &local.wanted(&name)?, &wish)?;
    Ok((local, question))
}

/// A product of two matrices of small numbers, which together have an image's bytes.
fn product() -> Question {
    let inner = IMAGE_BYTES as u64 / 4 / 64;
    let matrix = |name: &str, rows: u64, columns: u64| {
        let shape = Shape::new(&[rows, columns]).expect("two dimensions are a shape");
        let values = (0..rows * columns).flat_map(|at| ((at % 17) as f32 / 16.0).to_le_bytes());
        let data: Vec<u8> = values.collect();
        Value { name: name.into(), data_type: DataType::Fp32, shape, data: data.into() }
    };
    let inputs = vec![matrix("A", 32, inner), matrix("B", inner, 32)];
    Question { model: "blas.sgemm".into(), inputs, echoes: false }
}
