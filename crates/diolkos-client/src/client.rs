// SPDX-License-Identifier: Apache-2.0
//! What a program calls.

use std::fmt;
use std::num::NonZeroU64;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use diolkos_types::{DataType, Shape};
use diolkos_wire::{Load, Message, ModelState, Stats, Timing, Unload};

use crate::connection::{Connection, Target, unexpected};
use crate::error::Error;
use crate::memory::{Regions, Storage};
use crate::model::Model;
use crate::options::{Memory, Options};
use crate::tensor::{AnyTensor, Element, Tensor};

/// Between two attempts to connect again: at first, and at most.
const RETRY_FIRST: Duration = Duration::from_millis(10);
const RETRY_MAX: Duration = Duration::from_millis(500);

/// A daemon, as a client sees it. Cheap to clone, and for many threads at once.
#[derive(Clone)]
pub struct Client {
    core: Arc<Core>,
}

/// What clones of a client, its models and its requests share.
pub(crate) struct Core {
    target: Target,
    options: Options,
    regions: Regions,
    current: Mutex<Option<Arc<Connection>>>,
    /// Held by whoever connects, so that nobody has to wait for the lock of `current` meanwhile.
    connecting: Mutex<()>,
    closed: AtomicBool,
}

/// A model that the daemon has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelInfo {
    /// Its name.
    pub name: String,
    /// A version of it; `None` for one without any.
    pub version: Option<u64>,
    /// What it does.
    pub state: ModelState,
    /// Why it does not serve, if it does not.
    pub reason: String,
}

/// What a model did so far.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelStats {
    /// Its name.
    pub name: String,
    /// Which version.
    pub version: u64,
    /// Requests that succeeded.
    pub succeeded: u64,
    /// Requests that did not.
    pub failed: u64,
    /// Runs.
    pub executions: u64,
    /// Where the time of all of them went.
    pub timing: Timing,
}

/// How the daemon is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Health {
    /// It answers.
    pub live: bool,
    /// Every model named at its start was loaded, or failed to be.
    pub ready: bool,
}

impl Client {
    /// Connects to `unix:PATH`, `tcp:HOST:PORT`, `vsock:CID:PORT`, or `env`: what `DIOLKOS_ENDPOINT` says, or the default socket.
    pub fn connect(address: &str) -> Result<Client, Error> {
        Client::connect_with(address, Options::default())
    }

    /// Connects with options.
    pub fn connect_with(address: &str, options: Options) -> Result<Client, Error> {
        Client::open_target(Target::Remote(address.parse()?), options)
    }

    /// A client of an endpoint in this process, such as an engine's (`diolkos_engine::Engine::endpoint`). Its calls are
    /// those of any other; tensors are handed over as they are.
    #[cfg(feature = "local")]
    #[must_use]
    pub fn local(endpoint: impl diolkos_backend::endpoint::Endpoint + 'static) -> Client {
        let options = Options { memory: Memory::Private, reconnect: Duration::ZERO, ..Options::default() };
        let opened = Client::open_target(Target::Local(Arc::new(endpoint)), options);
        opened.expect("there is nothing to connect to that could be missing")
    }

    pub(crate) fn of(core: &Arc<Core>) -> Client {
        Client { core: core.clone() }
    }

    fn open_target(target: Target, options: Options) -> Result<Client, Error> {
        let regions = Regions::new(options.region_bytes, options.pages());
        let connection = Connection::open(&target, &options, 0)?;
        let current = Mutex::new(Some(Arc::new(connection)));
        let (connecting, closed) = (Mutex::new(()), AtomicBool::new(false));
        Ok(Client { core: Arc::new(Core { target, options, regions, current, connecting, closed }) })
    }

    /// Ends the connection of this client, its clones and models. Whoever waits gets [`Error::Lost`], and so does
    /// whoever asks later. Tensors and replies stay as they are.
    pub fn close(&self) {
        self.core.close();
    }

    /// Whether sending a request would wait now: for the connection, which is lost, or for an answer, because as many
    /// requests are under way as may be.
    #[must_use]
    pub fn would_wait(&self) -> bool {
        self.core.current().is_none_or(|connection| connection.ended().is_some() || connection.is_full())
    }

    /// The same for memory of so many bytes: whether getting it would wait, because the daemon has to be asked for more.
    #[must_use]
    pub fn would_wait_for(&self, bytes: usize) -> bool {
        self.would_wait()
            || self.core.current().is_none_or(|connection| {
                connection.shares_memory() && !self.core.regions.have_room(bytes, connection.generation)
            })
    }

    /// Whether as many requests are under way as may be. While there is no connection there are none.
    #[cfg(feature = "local")]
    pub(crate) fn is_full(&self) -> bool {
        self.core.current().is_some_and(|connection| connection.ended().is_none() && connection.is_full())
    }

    /// Whether tensors lie in memory that the daemon shares.
    #[must_use]
    pub fn shares_memory(&self) -> bool {
        self.core.current().is_some_and(|connection| connection.shares_memory())
    }

    /// Opens a model or a built-in operation.
    pub fn open(&self, name: &str) -> Result<Model, Error> {
        Model::open(self.core.clone(), name, None)
    }

    /// Opens one version of a model.
    pub fn open_version(&self, name: &str, version: u64) -> Result<Model, Error> {
        let version = NonZeroU64::new(version).ok_or_else(|| Error::invalid("versions begin at 1"))?;
        Model::open(self.core.clone(), name, Some(version))
    }

    /// A tensor to fill, where the daemon can read it. Its elements are whatever was there before.
    pub fn tensor<T: Element>(&self, shape: &[u64]) -> Result<Tensor<T>, Error> {
        let shape = shape_of(shape)?;
        let bytes = payload_bytes(T::DATA_TYPE, &shape);
        let bytes = bytes.ok_or_else(|| Error::invalid(format!("a tensor of shape {shape} is too large")))?;
        Ok(Tensor::new(self.any(T::DATA_TYPE, shape, bytes)?))
    }

    /// A tensor of whatever type, of so many bytes: `BYTES`, for instance, whose elements have lengths of their own.
    pub fn tensor_of(&self, data_type: DataType, shape: &[u64], bytes: usize) -> Result<AnyTensor, Error> {
        let shape = shape_of(shape)?;
        if let Some(expected) = payload_bytes(data_type, &shape)
            && expected != bytes
        {
            return Err(Error::invalid(format!(
                "a tensor of {data_type} and shape {shape} has {expected} bytes, and {bytes} were asked for"
            )));
        }
        self.any(data_type, shape, bytes)
    }

    fn any(&self, data_type: DataType, shape: Shape, bytes: usize) -> Result<AnyTensor, Error> {
        let storage = match self.core.options.memory {
            Memory::Private => Storage::try_private(bytes)?,
            Memory::Shared => self.core.surely(|connection| self.core.storage(connection, bytes))?,
        };
        Ok(AnyTensor { data_type, shape, storage })
    }

    /// The models that there are.
    pub fn models(&self) -> Result<Vec<ModelInfo>, Error> {
        let mut models = Vec::new();
        for part in self.core.call(&Message::List)? {
            let Message::Models(part) = part else { return Err(unexpected(&part)) };
            models.extend(part.models.into_iter().map(|entry| ModelInfo {
                name: entry.name.into(),
                version: entry.version.map(NonZeroU64::get),
                state: entry.state,
                reason: entry.reason.into(),
            }));
        }
        Ok(models)
    }

    /// What a model did so far, or all of them.
    pub fn stats(&self, name: Option<&str>) -> Result<Vec<ModelStats>, Error> {
        let ask = Message::Stats(Stats { name: name.unwrap_or_default().into() });
        let mut stats = Vec::new();
        for part in self.core.call(&ask)? {
            let Message::StatsReply(part) = part else { return Err(unexpected(&part)) };
            stats.extend(part.models.into_iter().map(|entry| ModelStats {
                name: entry.name.into(),
                version: entry.version,
                succeeded: entry.succeeded,
                failed: entry.failed,
                executions: entry.executions,
                timing: entry.timing,
            }));
        }
        Ok(stats)
    }

    /// Loads a model that is installed, where the daemon lets clients do that.
    pub fn load(&self, name: &str) -> Result<(), Error> {
        self.core.done(&Message::Load(Load { name: name.into() }))
    }

    /// Unloads a model, where the daemon lets clients do that.
    pub fn unload(&self, name: &str) -> Result<(), Error> {
        self.core.done(&Message::Unload(Unload { name: name.into() }))
    }

    /// How the daemon is.
    pub fn health(&self) -> Result<Health, Error> {
        match self.core.call(&Message::Health)?.pop() {
            Some(Message::HealthReply(reply)) => Ok(Health { live: reply.live, ready: reply.ready }),
            Some(other) => Err(unexpected(&other)),
            None => Err(Error::lost("the daemon sent an empty answer")),
        }
    }
}

/// Bytes of a tensor whose elements all have one size.
fn payload_bytes(data_type: DataType, shape: &Shape) -> Option<usize> {
    shape.elements().and_then(|elements| data_type.payload_bytes(elements))
}

fn shape_of(shape: &[u64]) -> Result<Shape, Error> {
    Shape::new(shape).map_err(|error| Error::invalid(error.to_string()))
}

impl Core {
    fn lock(&self) -> MutexGuard<'_, Option<Arc<Connection>>> {
        // Nothing below panics while it holds the lock.
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The connection that there is, alive or not.
    pub(crate) fn current(&self) -> Option<Arc<Connection>> {
        self.lock().clone()
    }

    /// The connection, or why it is lost and the generation of the next one.
    fn alive(&self) -> Result<Arc<Connection>, (u64, Error)> {
        match &*self.lock() {
            Some(connection) => match connection.ended() {
                None => Ok(connection.clone()),
                Some(ended) => Err((connection.generation + 1, ended)),
            },
            None => Err((0, Error::lost("there is none"))),
        }
    }

    /// A new connection, unless there is one. Whoever comes meanwhile waits for the one who connects.
    fn connection(&self, until: Instant) -> Result<Arc<Connection>, Error> {
        let _connecting = self.connecting.lock().unwrap_or_else(PoisonError::into_inner);
        let (generation, mut error) = match self.alive() {
            Ok(connection) => return Ok(connection),
            Err(lost) => lost,
        };
        let mut pause = RETRY_FIRST;
        while Instant::now() < until && !self.closed.load(Ordering::Relaxed) {
            match Connection::open(&self.target, &self.options, generation) {
                Ok(connection) => {
                    let connection = Arc::new(connection);
                    let mut current = self.lock();
                    if self.closed.load(Ordering::Relaxed) {
                        break;
                    }
                    *current = Some(connection.clone());
                    return Ok(connection);
                }
                // A daemon that is being restarted is not there for a moment, or not ready to serve.
                Err(failed @ (Error::Connect { .. } | Error::Lost { .. })) => error = failed,
                Err(refused) => return Err(refused),
            }
            std::thread::sleep(pause.min(until.saturating_duration_since(Instant::now())));
            pause = (pause * 2).min(RETRY_MAX);
        }
        if self.closed.load(Ordering::Relaxed) { Err(closed()) } else { Err(error) }
    }

    /// Does something over the connection. If that is lost meanwhile, does it again over a new one.
    pub(crate) fn surely<T>(
        &self,
        mut act: impl FnMut(&Arc<Connection>) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let mut until = None;
        loop {
            // The clock is asked only if it is needed: it is a good part of an empty call.
            let mut until = || *until.get_or_insert_with(|| Instant::now() + self.options.reconnect);
            let connection = match self.alive() {
                Ok(connection) => connection,
                Err(_) => self.connection(until())?,
            };
            let error = match act(&connection) {
                Err(error @ Error::Lost { .. }) => error,
                // It was refused because the daemon goes away; the next connection finds the one that comes after it.
                Err(error @ Error::Refused(_)) if connection.is_leaving() => error,
                result => return result,
            };
            let until = until();
            if Instant::now() >= until {
                return Err(error);
            }
        }
    }

    fn close(&self) {
        // Relaxed: whoever connects looks at it with the lock of `current`, which is before or after it is taken here.
        self.closed.store(true, Ordering::Relaxed);
        if let Some(connection) = &*self.lock() {
            connection.close(&closed());
        }
    }

    /// Where bytes are in the regions of a connection.
    pub(crate) fn extent(&self, storage: &Storage, generation: u64) -> Option<diolkos_wire::Extent> {
        self.regions.extent(storage, generation)
    }

    /// Moves a tensor from a region of an earlier connection to one of this; where it is shared, that is a copy for this
    /// request. Without room it stays where it is, and goes over the stream.
    pub(crate) fn bring(&self, connection: &Arc<Connection>, tensor: &mut AnyTensor) -> Result<(), Error> {
        if !self.regions.are_of_earlier(&tensor.storage, connection.generation) {
            return Ok(());
        }
        match self.storage(connection, tensor.storage.bytes().len()) {
            Ok(mut storage) => {
                storage.bytes_mut().copy_from_slice(tensor.storage.bytes());
                tensor.storage = storage;
                Ok(())
            }
            Err(lost @ Error::Lost { .. }) => Err(lost),
            Err(_) => Ok(()),
        }
    }

    /// Memory for a tensor.
    pub(crate) fn storage(&self, connection: &Arc<Connection>, bytes: usize) -> Result<Storage, Error> {
        if !connection.shares_memory() {
            return Storage::try_private(bytes);
        }
        connection.reap();
        let (generation, limits) = (connection.generation, connection.limits());
        self.regions.take(bytes, generation, &limits, |number, arena| connection.register(number, arena))
    }

    fn call(&self, message: &Message) -> Result<Vec<Message>, Error> {
        let answer = self.surely(|connection| connection.call(message))?;
        match answer.parts.last() {
            Some(Message::Failed(failed)) => Err(Error::Refused(failed.clone().into())),
            _ => Ok(answer.parts),
        }
    }

    fn done(&self, message: &Message) -> Result<(), Error> {
        match self.call(message)?.pop() {
            Some(Message::Done) => Ok(()),
            Some(other) => Err(unexpected(&other)),
            None => Err(Error::lost("the daemon sent an empty answer")),
        }
    }
}

fn closed() -> Error {
    Error::lost("this client was closed")
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Client({})", self.core.target)
    }
}
