// SPDX-License-Identifier: Apache-2.0
//! An opened model, and requests to it.

use std::fmt;
use std::num::NonZeroU64;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use diolkos_shm::arena::ALIGNMENT;
use diolkos_types::{DataType, Dim, HandleId, Signature, TensorSpec};
use diolkos_wire::{CloseModel, Infer, Message, OpenModel, Place, ResultPlace, TensorRef};

use crate::client::{Client, Core};
use crate::connection::{Connection, unexpected};
use crate::error::Error;
use crate::pending::{Asked, Pending, Reply, RequestOptions, Unanswered};
use crate::tensor::AnyTensor;

/// Room for outputs whose size the model leaves open, until a first answer has told it.
const ROOM_BYTES_FIRST: u64 = 64 << 10;

/// Outputs in a region begin on such a boundary.
const RESULT_ALIGNMENT: u64 = 64;

/// A model, opened. Cheap to clone.
#[derive(Clone)]
pub struct Model {
    inner: Arc<Inner>,
}

struct Inner {
    core: Arc<Core>,
    name: String,
    version: Option<NonZeroU64>,
    opened: Mutex<Arc<Opened>>,
    /// Most bytes that the outputs of a request needed, where the signature does not tell.
    needed: AtomicU64,
}

/// The model on one connection.
pub(crate) struct Opened {
    pub(crate) generation: u64,
    pub(crate) handle: HandleId,
    pub(crate) version: u64,
    pub(crate) signature: Arc<Signature>,
}

impl Model {
    pub(crate) fn open(core: Arc<Core>, name: &str, version: Option<NonZeroU64>) -> Result<Model, Error> {
        let opened = core.surely(|connection| open_on(connection, name, version))?;
        let inner = Inner {
            core,
            name: name.to_owned(),
            version,
            opened: Mutex::new(Arc::new(opened)),
            needed: AtomicU64::new(ROOM_BYTES_FIRST),
        };
        Ok(Model { inner: Arc::new(inner) })
    }

    fn lock(&self) -> MutexGuard<'_, Arc<Opened>> {
        // Nothing below panics while it holds the lock.
        self.inner.opened.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.inner.name
    }

    /// The version that was current when it was opened.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.lock().version
    }

    /// What it takes.
    #[must_use]
    pub fn inputs(&self) -> Vec<TensorSpec> {
        self.lock().signature.inputs.to_vec()
    }

    /// What it gives.
    #[must_use]
    pub fn outputs(&self) -> Vec<TensorSpec> {
        self.lock().signature.outputs.to_vec()
    }

    /// Sends a request and waits for its reply. Inputs are given by name, in any order.
    pub fn infer<N, T>(&self, inputs: impl IntoIterator<Item = (N, T)>) -> Result<Reply, Error>
    where
        N: AsRef<str>,
        T: Into<AnyTensor>,
    {
        self.submit(inputs)?.wait()
    }

    /// Sends a request. Many can be under way at once.
    pub fn submit<N, T>(&self, inputs: impl IntoIterator<Item = (N, T)>) -> Result<Pending, Error>
    where
        N: AsRef<str>,
        T: Into<AnyTensor>,
    {
        self.submit_with(inputs, RequestOptions::default())
    }

    /// Sends a request with options.
    pub fn submit_with<N, T>(
        &self,
        inputs: impl IntoIterator<Item = (N, T)>,
        options: RequestOptions,
    ) -> Result<Pending, Error>
    where
        N: AsRef<str>,
        T: Into<AnyTensor>,
    {
        Ok(self.try_submit(inputs, options)?)
    }

    /// Sends a request with options. If it can't be sent, the error gives its tensors back.
    pub fn try_submit<N, T>(
        &self,
        inputs: impl IntoIterator<Item = (N, T)>,
        options: RequestOptions,
    ) -> Result<Pending, Unanswered>
    where
        N: AsRef<str>,
        T: Into<AnyTensor>,
    {
        let opened = self.lock().clone();
        let signature = &*opened.signature;
        let mut wrong = None;
        let mut place = |specs: &[TensorSpec], name: &str, what: &str| {
            position(specs, name, what, &self.inner.name).unwrap_or_else(|error| {
                wrong.get_or_insert(error);
                u16::MAX
            })
        };
        let inputs = inputs
            .into_iter()
            .map(|(name, tensor)| (place(&signature.inputs, name.as_ref(), "input"), tensor.into()))
            .collect();
        let outputs = options
            .outputs
            .as_ref()
            .map(|names| names.iter().map(|name| place(&signature.outputs, name, "output")).collect());
        let asked = Asked { opened, inputs, outputs, options, room: None };
        match wrong {
            Some(error) => Err(asked.unanswered(error)),
            None => Pending::send(self.clone(), asked),
        }
    }

    /// What it was opened through.
    pub(crate) fn core(&self) -> &Core {
        &self.inner.core
    }

    /// Where a tensor is in the regions that the daemon knows of this client.
    pub(crate) fn extent(&self, tensor: &AnyTensor, on: &Opened) -> Option<diolkos_wire::Extent> {
        self.inner.core.extent(&tensor.storage, on.generation)
    }

    /// The model on this connection, opened anew if the connection is.
    pub(crate) fn opened_on(&self, connection: &Arc<Connection>) -> Result<Arc<Opened>, Error> {
        let known = self.lock().clone();
        if known.generation == connection.generation {
            return Ok(known);
        }
        let opened = open_on(connection, &self.inner.name, self.inner.version)?;
        if *opened.signature != *known.signature {
            return Err(Error::Changed { name: self.inner.name.clone() });
        }
        let opened = Arc::new(opened);
        *self.lock() = opened.clone();
        Ok(opened)
    }

    /// A request as a message.
    pub(crate) fn infer_message(&self, asked: &Asked, shared: bool) -> Infer {
        let (opened, RequestOptions { class, timeout, params, .. }) = (&*asked.opened, &asked.options);
        let inputs = asked.inputs.iter().map(|(index, tensor)| {
            let place = match self.extent(tensor, opened).filter(|_| shared) {
                Some(extent) => Place::Region(extent),
                None => Place::Stream { length: tensor.bytes().len() as u64 },
            };
            TensorRef { index: *index, data_type: tensor.data_type, shape: tensor.shape, place }
        });
        let room = asked.room.as_ref().filter(|_| shared).and_then(|room| room.extent());
        Infer {
            class: *class,
            // A microsecond at least: zero would mean none.
            timeout_us: timeout.map(|timeout| {
                let micros = u64::try_from(timeout.as_micros()).unwrap_or(u64::MAX);
                NonZeroU64::new(micros).unwrap_or(NonZeroU64::MIN)
            }),
            params: params.clone(),
            inputs: inputs.collect(),
            outputs: asked.outputs.clone(),
            results: room.map_or(ResultPlace::Stream, ResultPlace::Region),
            ..Infer::new(opened.handle)
        }
    }

    /// Whether sending a request whose inputs have so many bytes, all together, would wait now: see
    /// [`Client::would_wait_for`]. For `copied_bytes` of them memory is needed first.
    #[must_use]
    pub fn would_wait(&self, input_bytes: usize, copied_bytes: usize) -> bool {
        let opened = self.lock().clone();
        let room = self.room_for(&opened.signature, input_bytes as u64, None);
        // Each tensor begins on a boundary of its own.
        let tensors = opened.signature.inputs.len() + opened.signature.outputs.len();
        let bytes = room.saturating_add(copied_bytes).saturating_add(tensors * ALIGNMENT);
        Client::of(&self.inner.core).would_wait_for(bytes)
    }

    /// Room to offer for the outputs.
    pub(crate) fn room_bytes(
        &self,
        signature: &Signature,
        inputs: &[(u16, AnyTensor)],
        wanted: Option<&[u16]>,
    ) -> usize {
        let taken = inputs.iter().map(|(_, tensor)| tensor.bytes().len() as u64).sum();
        self.room_for(signature, taken, wanted)
    }

    fn room_for(&self, signature: &Signature, taken: u64, wanted: Option<&[u16]>) -> usize {
        let all = 0..signature.outputs.len();
        let wanted = all
            .filter(|index| wanted.is_none_or(|wanted| wanted.iter().any(|&one| usize::from(one) == *index)));
        let mut sum = 0u64;
        for index in wanted {
            match fixed_bytes(&signature.outputs[index]) {
                Some(bytes) => sum = sum.next_multiple_of(RESULT_ALIGNMENT).saturating_add(bytes),
                None => {
                    // Many operations give as much as they take.
                    let guess = self.inner.needed.load(Ordering::Relaxed).max(taken + RESULT_ALIGNMENT);
                    return usize::try_from(guess).unwrap_or(usize::MAX);
                }
            }
        }
        usize::try_from(sum).unwrap_or(usize::MAX)
    }

    /// Remembers how much room outputs needed.
    pub(crate) fn needs(&self, bytes: u64) {
        // Relaxed: it is a guess.
        self.inner.needed.fetch_max(bytes, Ordering::Relaxed);
    }
}

fn open_on(connection: &Arc<Connection>, name: &str, version: Option<NonZeroU64>) -> Result<Opened, Error> {
    let open = OpenModel { name: name.into(), version, operation: "".into() };
    match connection.call(&Message::OpenModel(open))?.into_message()? {
        Message::ModelOpened(opened) => Ok(Opened {
            generation: connection.generation,
            handle: opened.handle,
            version: opened.version,
            signature: Arc::new(opened.signature),
        }),
        other => Err(unexpected(&other)),
    }
}

/// Bytes of a tensor whose type and dimensions are all fixed.
fn fixed_bytes(spec: &TensorSpec) -> Option<u64> {
    let dims = spec.dims.as_ref().filter(|_| !spec.any_type)?;
    let elements = dims.iter().try_fold(1u64, |product, dim| match dim {
        Dim::Fixed(length) => product.checked_mul(*length),
        Dim::Variable { .. } => None,
    })?;
    elements.checked_mul(element_bytes(spec.data_type)?)
}

fn element_bytes(data_type: DataType) -> Option<u64> {
    data_type.element_bytes().map(|bytes| bytes as u64)
}

fn position(specs: &[TensorSpec], name: &str, what: &str, model: &str) -> Result<u16, Error> {
    let found = specs.iter().position(|spec| &*spec.name == name);
    found.and_then(|index| u16::try_from(index).ok()).ok_or_else(|| {
        let known: Vec<_> = specs.iter().map(|spec| format!("`{}`", spec.name)).collect();
        let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
        Error::invalid(format!("model `{model}` has no {what} `{name}`; it has {known}"))
    })
}

impl fmt::Debug for Model {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Model({} version {})", self.inner.name, self.version())
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        let opened = self.opened.get_mut().unwrap_or_else(PoisonError::into_inner).clone();
        let Some(connection) = self.core.current() else { return };
        if connection.generation == opened.generation && connection.ended().is_none() {
            connection.tell(&Message::CloseModel(CloseModel { handle: opened.handle }));
        }
    }
}
