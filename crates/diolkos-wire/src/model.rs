// SPDX-License-Identifier: Apache-2.0
//! Opening, loading and listing models.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::num::NonZeroU64;

use diolkos_types::{HandleId, Signature};

use crate::cursor::{Item, Reader, Wire, Writer};
use crate::error::DecodeError;
use crate::limits::{MODEL_NAME_BYTES_MAX, OPERATION_NAME_BYTES_MAX, PART_ENTRIES_MAX, REASON_BYTES_MAX};

/// Opens a model or a built-in operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenModel {
    /// Its name.
    pub name: Box<str>,
    /// Which version; `None` means whichever is current when a request comes.
    pub version: Option<NonZeroU64>,
    /// Which of its operations; empty means running it.
    pub operation: Box<str>,
}

impl Wire for OpenModel {
    fn write(&self, to: &mut Writer<'_>) {
        to.text("name", MODEL_NAME_BYTES_MAX, &self.name);
        to.nonzero(self.version);
        to.text("operation", OPERATION_NAME_BYTES_MAX, &self.operation);
    }

    fn read(from: &mut Reader<'_>) -> Result<OpenModel, DecodeError> {
        Ok(OpenModel {
            name: from.text("name", MODEL_NAME_BYTES_MAX)?.into(),
            version: from.nonzero("version")?,
            operation: from.text("operation", OPERATION_NAME_BYTES_MAX)?.into(),
        })
    }
}

/// Answers [`OpenModel`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelOpened {
    /// What to name it by from now on, on this connection.
    pub handle: HandleId,
    /// The version whose signature this is.
    pub version: u64,
    /// What it takes and gives. Requests name tensors by their position in it.
    pub signature: Signature,
}

impl Wire for ModelOpened {
    fn write(&self, to: &mut Writer<'_>) {
        self.handle.write(to);
        to.u64(self.version);
        self.signature.write(to);
    }

    fn read(from: &mut Reader<'_>) -> Result<ModelOpened, DecodeError> {
        Ok(ModelOpened {
            handle: HandleId::read(from)?,
            version: from.u64("version")?,
            signature: Signature::read(from)?,
        })
    }
}

/// Closes a handle. Requests that were admitted go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CloseModel {
    /// Which.
    pub handle: HandleId,
}

impl Wire for CloseModel {
    fn write(&self, to: &mut Writer<'_>) {
        self.handle.write(to);
    }

    fn read(from: &mut Reader<'_>) -> Result<CloseModel, DecodeError> {
        Ok(CloseModel { handle: HandleId::read(from)? })
    }
}

/// Loads a model, or loads anew what changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Load {
    /// Its name.
    pub name: Box<str>,
}

impl Wire for Load {
    fn write(&self, to: &mut Writer<'_>) {
        to.text("name", MODEL_NAME_BYTES_MAX, &self.name);
    }

    fn read(from: &mut Reader<'_>) -> Result<Load, DecodeError> {
        Ok(Load { name: from.text("name", MODEL_NAME_BYTES_MAX)?.into() })
    }
}

/// Unloads a model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unload {
    /// Its name.
    pub name: Box<str>,
}

impl Wire for Unload {
    fn write(&self, to: &mut Writer<'_>) {
        to.text("name", MODEL_NAME_BYTES_MAX, &self.name);
    }

    fn read(from: &mut Reader<'_>) -> Result<Unload, DecodeError> {
        Ok(Unload { name: from.text("name", MODEL_NAME_BYTES_MAX)?.into() })
    }
}

/// Whether a version of a model can serve.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum ModelState {
    /// It serves.
    Ready = 1,
    /// It is being loaded.
    Loading = 2,
    /// It is not loaded.
    Unavailable = 3,
    /// It could not be loaded.
    Failed = 4,
}

impl ModelState {
    /// Every state, in the order of their numbers, which begin at 1.
    pub const ALL: [ModelState; 4] =
        [ModelState::Ready, ModelState::Loading, ModelState::Unavailable, ModelState::Failed];
}

/// One version of a model, in a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelEntry {
    /// Name of the model.
    pub name: Box<str>,
    /// Which version; `None` where the model has none that could be named.
    pub version: Option<NonZeroU64>,
    /// Whether it can serve.
    pub state: ModelState,
    /// Why it can't; empty where it can.
    pub reason: Box<str>,
}

impl Wire for ModelEntry {
    fn write(&self, to: &mut Writer<'_>) {
        to.text("name", MODEL_NAME_BYTES_MAX, &self.name);
        to.nonzero(self.version);
        to.u8(self.state as u8);
        to.text("reason", REASON_BYTES_MAX, &self.reason);
    }

    fn read(from: &mut Reader<'_>) -> Result<ModelEntry, DecodeError> {
        Ok(ModelEntry {
            name: from.text("name", MODEL_NAME_BYTES_MAX)?.into(),
            version: from.nonzero("version")?,
            state: from.choice("state", 1, &ModelState::ALL)?,
            reason: from.text("reason", REASON_BYTES_MAX)?.into(),
        })
    }
}

impl Item for ModelEntry {
    // Nothing but numbers: length of the name, version, state, length of the reason.
    const BYTES_MIN: usize = 2 + 8 + 1 + 2;
}

/// Answers [`Message::List`](crate::Message::List), in as many parts as it takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Models {
    /// At most [`PART_ENTRIES_MAX`] versions.
    pub models: Vec<ModelEntry>,
}

impl Wire for Models {
    fn write(&self, to: &mut Writer<'_>) {
        to.list("models", PART_ENTRIES_MAX, &self.models);
    }

    fn read(from: &mut Reader<'_>) -> Result<Models, DecodeError> {
        Ok(Models { models: from.list("models", PART_ENTRIES_MAX)? })
    }
}
