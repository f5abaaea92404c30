// SPDX-License-Identifier: Apache-2.0
//! The other process: it gives back whatever it gets, in the barest way that the system has, or is a client that has
//! just been started.
//!
//! Its standard input is a unix socket. Over it come what it needs; its end is the peer's.

use std::io::{IoSlice, Read as _, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use clap::{Args, ValueEnum};
use diolkos_shm::mapping::Mapping;
use diolkos_shm::pass;
use diolkos_shm::region::{Pages, Region};
use diolkos_shm::segment::Segment as _;
use rustix::event::{EventfdFlags, eventfd};
use rustix::thread::futex;

use super::super::children::{cannot, this_program};
use super::fresh;
use crate::exit::{Exit, Failure};

/// What the peer does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Role {
    /// Reads an eventfd and writes another.
    Event,
    /// The same, with some work in between.
    Busy,
    /// Waits on a futex and wakes another.
    Futex,
    /// Reads 64 bytes and writes them.
    Socket,
    /// Opens the model and asks once, through the channel.
    Channel,
    /// Loads the model and asks once, in this process.
    Alone,
}

/// `bench-peer`.
#[derive(Debug, Args)]
pub struct PeerArgs {
    /// What to do
    pub role: Role,
    /// The daemon, or the model file
    pub at: Option<String>,
    /// Name of the model
    pub model: Option<String>,
}

/// How long a busy peer works.
pub(super) const WORK: Duration = Duration::from_millis(1);

/// Tells the peer to end.
const END: u64 = 1 << 32;
const END_WORD: u32 = 2;
/// Words of the futex: ours and its.
const THERE: usize = 0;
const BACK: usize = 128;

pub(super) fn run(args: &PeerArgs) -> Result<Exit, Failure> {
    let failed = |error: std::io::Error| cannot("be the other process", &error);
    match args.role {
        Role::Event | Role::Busy => {
            let work = if args.role == Role::Busy { WORK } else { Duration::ZERO };
            let (_, mut fds) = receive().map_err(failed)?;
            let (Some(back), Some(there)) = (fds.pop(), fds.pop()) else {
                return Err(Failure::usage("no events"));
            };
            loop {
                let mut count = [0; 8];
                rustix::io::read(&there, &mut count).map_err(|error| failed(error.into()))?;
                if u64::from_ne_bytes(count) >= END {
                    return Ok(Exit::Ok);
                }
                let until = Instant::now() + work;
                while Instant::now() < until {
                    std::hint::spin_loop();
                }
                rustix::io::write(&back, &1u64.to_ne_bytes()).map_err(|error| failed(error.into()))?;
            }
        }
        Role::Futex => {
            let (_, mut fds) = receive().map_err(failed)?;
            let Some(file) = fds.pop() else { return Err(Failure::usage("no memory")) };
            let region = Region::open(file, 1 << 20).map_err(|error| cannot("map memory", &error))?;
            let memory = region.mapping();
            loop {
                let told = wait_word(memory.word(THERE)).map_err(failed)?;
                if told == END_WORD {
                    return Ok(Exit::Ok);
                }
                wake_word(memory.word(BACK), 1).map_err(failed)?;
            }
        }
        Role::Socket => {
            let mut socket = stdin().map_err(failed)?;
            let mut bytes = [0; 64];
            while socket.read_exact(&mut bytes).is_ok() {
                socket.write_all(&bytes).map_err(failed)?;
            }
            Ok(Exit::Ok)
        }
        Role::Channel | Role::Alone => {
            let (Some(at), Some(model)) = (&args.at, &args.model) else {
                return Err(Failure::usage("which daemon, and which model?"));
            };
            let told = if args.role == Role::Channel {
                fresh::ask_daemon(at, model)?
            } else {
                fresh::ask_alone(at)?
            };
            println!("{told}");
            Ok(Exit::Ok)
        }
    }
}

fn stdin() -> std::io::Result<UnixStream> {
    Ok(std::io::stdin().as_fd().try_clone_to_owned()?.into())
}

fn receive() -> std::io::Result<(usize, Vec<OwnedFd>)> {
    let mut fds = Vec::new();
    let length = pass::receive(stdin()?, &mut [0; 1], &mut fds)?;
    Ok((length, fds))
}

/// Waits until a word is not 0, and takes what it is.
fn wait_word(word: &AtomicU32) -> std::io::Result<u32> {
    loop {
        match word.swap(0, Ordering::Acquire) {
            0 => match futex::wait(word, futex::Flags::empty(), 0, None) {
                Ok(()) | Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            },
            told => return Ok(told),
        }
    }
}

fn wake_word(word: &AtomicU32, value: u32) -> std::io::Result<()> {
    word.store(value, Ordering::Release);
    futex::wake(word, futex::Flags::empty(), 1)?;
    Ok(())
}

/// A peer that gives back, as this process sees it.
pub(super) struct Peer {
    child: Child,
    way: Way,
}

enum Way {
    Event { there: OwnedFd, back: OwnedFd },
    Futex { memory: Arc<Mapping> },
    Socket(UnixStream),
}

impl Peer {
    /// Starts one.
    pub(super) fn start(role: Role) -> Result<Peer, Failure> {
        let failed = |error: std::io::Error| cannot("start another process", &error);
        let (ours, theirs) = UnixStream::pair().map_err(failed)?;
        let name = role.to_possible_value().expect("every role has a name");
        let mut command = Command::new(this_program().map_err(failed)?);
        command.args(["bench-peer", name.get_name()]).stdin(Stdio::from(OwnedFd::from(theirs)));
        let child = command.spawn().map_err(failed)?;
        let send = |fds: &[OwnedFd]| {
            let borrowed: Vec<_> = fds.iter().map(OwnedFd::as_fd).collect();
            pass::send(&ours, &[IoSlice::new(b"x")], &borrowed).map_err(failed)
        };
        let way = match role {
            Role::Event | Role::Busy => {
                let event = || eventfd(0, EventfdFlags::CLOEXEC).map_err(|error| failed(error.into()));
                let (there, back) = (event()?, event()?);
                let clone = |fd: &OwnedFd| fd.try_clone().map_err(failed);
                send(&[clone(&there)?, clone(&back)?])?;
                Way::Event { there, back }
            }
            Role::Futex => {
                let region =
                    Region::create(4096, Pages::Ordinary).map_err(|error| cannot("make memory", &error))?;
                send(&[region.as_fd().try_clone_to_owned().map_err(failed)?])?;
                Way::Futex { memory: region.mapping().clone() }
            }
            Role::Socket => Way::Socket(ours),
            Role::Channel | Role::Alone => return Err(Failure::usage("this role gives nothing back")),
        };
        Ok(Peer { child, way })
    }

    /// Its process.
    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// There and back.
    pub(super) fn call(&mut self) -> Result<(), Failure> {
        let failed = |error: std::io::Error| cannot("reach the other process", &error);
        match &mut self.way {
            Way::Event { there, back } => {
                rustix::io::write(&*there, &1u64.to_ne_bytes()).map_err(|error| failed(error.into()))?;
                rustix::io::read(&*back, &mut [0; 8]).map_err(|error| failed(error.into()))?;
            }
            Way::Futex { memory } => {
                wake_word(memory.word(THERE), 1).map_err(failed)?;
                wait_word(memory.word(BACK)).map_err(failed)?;
            }
            Way::Socket(socket) => {
                let mut bytes = [1; 64];
                socket.write_all(&bytes).map_err(failed)?;
                socket.read_exact(&mut bytes).map_err(failed)?;
            }
        }
        Ok(())
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // It ends by itself or is ended; either way there is nothing more to do about a failure.
        match &self.way {
            Way::Event { there, .. } => drop(rustix::io::write(there, &END.to_ne_bytes())),
            Way::Futex { memory } => drop(wake_word(memory.word(THERE), END_WORD)),
            Way::Socket(_) => {}
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
