// SPDX-License-Identifier: Apache-2.0
//! Triton's `system_shared_memory` extension: tensors in POSIX shared memory that a client made and registered.
//!
//! ```text
//! register ──key──> file (opened, looked at) ──> table of the client ──> region
//! infer ──name──> piece of a region ──pread──> private memory ──> oip::infer ──> outputs ──pwrite──> piece
//! ```
//!
//! | module | its one job |
//! |---|---|
//! | `file` | from a key to a file that this peer may use |
//! | `region` | copying in and out of a file that may shrink meanwhile |
//! | `left` | what goes on counting when a region is gone, because the daemon made its pages |
//! | `table` | regions by name |
//! | `owner` | whose tables there are, and how much they hold |
//! | `mounts` | whether a process has our shared memory at all |
//! | `limits` | every bound that is no setting |
//!
//! Invariants:
//!
//! * A client finds its own regions only. Others' are to it as if they were not there. A client process that the
//!   transport proves has a table of its own; all others share one by tenant and user, because their requests
//!   come over several connections.
//! * A user is served its own files only, and a peer whose user is not known none. A process that the transport names
//!   must have the directory among its own mounts as well.
//! * Nothing is mapped. Bytes are copied once, charged to the memory of bodies, before anything looks at them.
//! * A region's file is closed when it is unregistered and no request uses it any more; one that outputs were written to, when
//!   nobody else has it.

mod file;
mod left;
mod limits;
mod mounts;
mod owner;
mod region;
mod table;

use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use diolkos_backend::Buffer;
use diolkos_types::{Code, Status, TenantId};

pub(crate) use self::file::file_name;
use self::owner::Owners;
use self::region::{Piece, Region};
use self::table::Table;
use crate::limits::REFUSE_RETRY_SECONDS;
use crate::listen::Budget;
use crate::oip::offload::{self, OwnTurn};
use crate::settings::Settings;

/// The uid that stands for users who are unknown in this user namespace; many may share it, so it proves nothing
/// (`/proc/sys/kernel/overflowuid`; nobody changes it).
const OVERFLOW_UID: u32 = 65534;

fn is_somebody(uid: u32) -> bool {
    uid != OVERFLOW_UID
}

/// The beginning of a name that a client gave, for messages.
fn shown(text: &str) -> std::str::EscapeDebug<'_> {
    text[..text.floor_char_boundary(limits::NAME_BYTES_MAX + 1)].escape_debug()
}

/// What a client wants to register.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Registration {
    /// The name for the region.
    pub(crate) name: String,
    /// The name of the shared memory.
    pub(crate) key: String,
    /// Where the region begins in it.
    pub(crate) offset: u64,
    /// The region's size.
    pub(crate) bytes: u64,
}

/// A registered region, as a client is told of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Listed {
    /// Its name.
    pub(crate) name: Box<str>,
    /// The name of the shared memory.
    pub(crate) key: Box<str>,
    /// Where it begins in it.
    pub(crate) offset: u64,
    /// Its size.
    pub(crate) bytes: u64,
}

impl Listed {
    fn of(region: &Region) -> Listed {
        let Region { name, key, offset, bytes, .. } = region;
        Listed { name: name.clone(), key: key.clone(), offset: *offset, bytes: *bytes }
    }
}

/// Where a tensor lies or goes: a part of a region.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// The region's name.
    pub(crate) region: Box<str>,
    /// Where it begins in the region.
    pub(crate) offset: u64,
    /// Its size.
    pub(crate) bytes: u64,
}

/// What all sessions of a daemon share.
#[derive(Debug)]
pub(crate) struct SystemMemory {
    /// `None`: the extension is off.
    directory: Option<PathBuf>,
    /// What one request may take in.
    request_bytes_max: u64,
    owners: Owners,
}

impl SystemMemory {
    /// As the settings say.
    pub(crate) fn new(settings: &Settings) -> SystemMemory {
        let directory = &settings.shared_memory.directory;
        SystemMemory {
            directory: (!directory.as_os_str().is_empty()).then(|| directory.clone()),
            request_bytes_max: settings.limits.request_memory_max.get(),
            owners: Owners::new(settings.shared_memory.bytes_max.get()),
        }
    }
}

/// Whose a session is.
#[derive(Debug)]
pub(crate) struct Holder {
    /// The tenant.
    pub(crate) tenant: TenantId,
    /// Its user, where the transport proved one.
    pub(crate) uid: Option<u32>,
    /// Its process, where the transport names one: it must have the directory of shared memory itself.
    pub(crate) pid: Option<i32>,
    /// Whether all connections of the client process share the session.
    pub(crate) is_process: bool,
    /// How long what it registered stays when its connections share no session.
    pub(crate) linger: Duration,
    /// What is copied is charged to it.
    pub(crate) budget: Arc<Budget>,
}

/// One session's access to its regions.
#[derive(Debug)]
pub(crate) struct SessionMemory {
    /// `None`: this session has no such thing.
    daemon: Option<Arc<SystemMemory>>,
    uid: Option<u32>,
    pid: Option<i32>,
    tenant: TenantId,
    is_process: bool,
    linger: Duration,
    budget: Arc<Budget>,
    table: OnceLock<Arc<Table>>,
    /// Its turn at what may wait for a file.
    turn: OwnTurn,
}

impl SessionMemory {
    /// For a session of this holder.
    pub(crate) fn new(daemon: Arc<SystemMemory>, holder: Holder) -> SessionMemory {
        let Holder { tenant, uid, pid, is_process, linger, budget } = holder;
        let uid = uid.filter(|&uid| is_somebody(uid));
        let (table, turn) = Default::default();
        SessionMemory { daemon: Some(daemon), uid, pid, tenant, is_process, linger, budget, table, turn }
    }

    /// For a session without regions.
    pub(crate) fn none() -> SessionMemory {
        let (tenant, linger, table, turn) = Default::default();
        let budget = Budget::new(0);
        SessionMemory {
            daemon: None,
            uid: None,
            pid: None,
            tenant,
            is_process: false,
            linger,
            budget,
            table,
            turn,
        }
    }

    /// Whether this session may use the extension.
    pub(crate) fn is_offered(&self) -> bool {
        self.directory().is_some() && self.uid.is_some()
    }

    fn directory(&self) -> Option<&PathBuf> {
        self.daemon.as_ref()?.directory.as_ref()
    }

    /// The daemon, the user and its table, if this session may have one.
    fn access(&self) -> Result<(&Arc<SystemMemory>, u32, &Arc<Table>), Status> {
        let Some(daemon) = self.daemon.as_ref().filter(|daemon| daemon.directory.is_some()) else {
            return Err(Status::new(
                Code::Unsupported,
                "the system_shared_memory extension is not offered here; send the data itself",
            ));
        };
        let uid = self.uid.ok_or_else(|| {
            Status::new(
                Code::PermissionDenied,
                "the system_shared_memory extension is for peers whose user is known, and over this connection yours is \
                 not; connect to a unix socket",
            )
        })?;
        let table = self.table.get_or_init(|| daemon.owners.table(&self.tenant, uid, self.is_process));
        Ok((daemon, uid, table))
    }

    /// Registers a region.
    pub(crate) async fn register(&self, wanted: Registration) -> Result<(), Status> {
        let (daemon, uid, table) = self.access()?;
        let (daemon, table, pid) = (daemon.clone(), table.clone(), self.pid);
        offload::waiting(&self.turn, move || {
            let directory = daemon.directory.as_deref().expect("access is only given where there is one");
            // Root in one container is the same uid as root in another.
            if pid.is_some_and(|pid| !mounts::sees(pid, directory)) {
                return Err(file::refusal(file::OpenError::NotThere, &wanted.name, &wanted.key));
            }
            table.register(directory, uid, &wanted)
        })
        .await
    }

    /// Forgets the region with this name, or for no name every region. Those that are not there are fine.
    pub(crate) async fn unregister(&self, name: Option<&str>) -> Result<(), Status> {
        let (_, _, table) = self.access()?;
        match name {
            Some(name) => table.unregister(name),
            None => table.unregister_all(),
        }
        Ok(())
    }

    /// The region with this name, or for no name every region.
    pub(crate) async fn list(&self, name: Option<&str>) -> Result<Vec<Listed>, Status> {
        let (_, _, table) = self.access()?;
        match name {
            Some(name) => {
                table.find(name).map(|region| vec![Listed::of(&region)]).ok_or_else(|| unknown(name))
            }
            None => Ok(table.list()),
        }
    }

    async fn pieces(&self, places: &[(String, Place)]) -> Result<Vec<Piece>, Status> {
        let (_, _, table) = self.access()?;
        let piece = |(tensor, place): &(String, Place)| {
            let region = table.find(&place.region).ok_or_else(|| {
                let unknown = unknown(&place.region);
                Status::new(unknown.code(), format!("{tensor}: {}", unknown.message()))
            })?;
            region.piece(tensor, place.offset, place.bytes)
        };
        places.iter().map(piece).collect()
    }

    /// Copies what lies at these places, each with what messages call it; `turn` is the session's turn at
    /// long conversions.
    pub(crate) async fn fetch(
        &self,
        turn: &OwnTurn,
        places: &[(String, Place)],
    ) -> Result<(Vec<Bytes>, Charge), Status> {
        let pieces = self.pieces(places).await?;
        let (daemon, _, _) = self.access()?;
        let bytes = pieces.iter().fold(0u64, |sum, piece| sum.saturating_add(piece.bytes() as u64));
        if bytes > daemon.request_bytes_max {
            return Err(Status::new(
                Code::TooLarge,
                format!(
                    "the inputs in regions have {bytes} bytes, and a request may have {} (`limits.request_memory_max`)",
                    daemon.request_bytes_max
                ),
            ));
        }
        // Charged by the work: whoever goes away meanwhile must not have it done for nothing.
        let budget = self.budget.clone();
        offload::run(turn, usize::try_from(bytes).unwrap_or(usize::MAX), move || {
            let charge = Charge::new(budget, bytes)?;
            let data = pieces.iter().map(|piece| piece.read().map(Bytes::from));
            Ok((data.collect::<Result<_, _>>()?, charge))
        })
        .await
    }

    /// Where outputs are to go. Held from before the request runs, so that it does not run for nothing.
    pub(crate) async fn targets(&self, places: &[(String, Place)]) -> Result<Targets, Status> {
        Ok(Targets(self.pieces(places).await?))
    }

    /// Writes outputs, each with its name, to the targets in their order.
    pub(crate) async fn store(
        &self,
        targets: Targets,
        outputs: Vec<(Box<str>, Buffer)>,
    ) -> Result<(), Status> {
        for (piece, (name, data)) in targets.0.iter().zip(&outputs) {
            if data.len() > piece.bytes() {
                return Err(Status::invalid(format!(
                    "output `{name}` has {} bytes, and its place in region `{}` has {} (`shared_memory_byte_size`)",
                    data.len(),
                    shown(piece.region()),
                    piece.bytes()
                )));
            }
        }
        let bytes = outputs.iter().map(|(_, data)| data.len() as u64).sum();
        let charge = Charge::new(self.budget.clone(), bytes)?;
        offload::waiting(&self.turn, move || {
            let _charge = charge;
            targets.0.iter().zip(&outputs).try_for_each(|(piece, (_, data))| piece.write(data))
        })
        .await
    }
}

impl Drop for SessionMemory {
    fn drop(&mut self) {
        let Some(table) = self.table.take() else { return };
        // The sessions of processes linger themselves.
        if self.is_process || self.linger.is_zero() || table.is_empty() {
            return;
        }
        // Without a runtime nobody is left who could come back.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            let linger = self.linger;
            runtime.spawn(async move {
                tokio::time::sleep(linger).await;
                drop(table);
            });
        }
    }
}

fn unknown(name: &str) -> Status {
    let message = format!("there is no shared memory region '{}'; register it first", shown(name));
    Status::new(Code::NotFound, message)
}

/// Places for outputs.
#[derive(Debug)]
pub(crate) struct Targets(Vec<Piece>);

/// Memory charged as that of bodies is; given back when it is dropped.
#[derive(Debug)]
pub(crate) struct Charge {
    budget: Arc<Budget>,
    bytes: u64,
}

impl Charge {
    fn new(budget: Arc<Budget>, bytes: u64) -> Result<Charge, Status> {
        if budget.charge(bytes) {
            return Ok(Charge { budget, bytes });
        }
        Err(Status::busy(
            "no memory for the tensors in regions now; try again",
            Duration::from_secs(REFUSE_RETRY_SECONDS),
        ))
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.budget.release(self.bytes);
    }
}

#[cfg(test)]
mod tests;
