// SPDX-License-Identifier: Apache-2.0
//! What the daemon tells the child: one frame, little-endian, read from a sealed memory file.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Seek as _, Write};

use bytes::Bytes;
use diolkos_backend::{LoadOptions, ModelFiles};
use rustix::fs::{MemfdFlags, SealFlags};

use super::super::limits::{EXTERNAL_FILES_MAX, FILE_NAME_BYTES_MAX, FILES_PER_VERSION_MAX};
use super::{Rehearsal, RehearsalLimits};

const MAGIC: &[u8; 8] = b"DLKSREH1";

/// The part of the frame that comes before the model, so that limits stand before the first of its bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) parent: u64,
    pub(super) memory_max: u64,
    pub(super) cpu_s: u64,
    pub(super) variable_dim_max: u64,
    pub(super) resident_bytes_max: u64,
}

impl Head {
    pub(super) fn options(&self) -> LoadOptions {
        LoadOptions { variable_dim_max: self.variable_dim_max, resident_bytes_max: self.resident_bytes_max }
    }
}

/// A memory file that holds the frame, sealed and rewound.
pub(super) fn memory_file(model: &Rehearsal<'_>, limits: &RehearsalLimits) -> io::Result<File> {
    let fd = rustix::fs::memfd_create("diolkos-rehearsal", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    let mut file = File::from(fd);
    write(&mut file, model, limits)?;
    file.rewind()?;
    rustix::fs::fcntl_add_seals(
        &file,
        SealFlags::WRITE | SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL,
    )?;
    Ok(file)
}

pub(super) fn write(to: &mut impl Write, model: &Rehearsal<'_>, limits: &RehearsalLimits) -> io::Result<()> {
    let cpu_s = limits.cpu_max.as_secs() + u64::from(limits.cpu_max.subsec_nanos() > 0);
    let numbers = [
        u64::from(std::process::id()),
        limits.memory_max,
        cpu_s.max(1),
        model.options.variable_dim_max,
        model.options.resident_bytes_max,
    ];
    to.write_all(MAGIC)?;
    numbers.iter().try_for_each(|number| to.write_all(&number.to_le_bytes()))?;
    text(to, model.backend)?;
    text(to, &model.files.entry)?;
    to.write_all(&(model.files.files.len() as u64).to_le_bytes())?;
    for (name, contents) in &model.files.files {
        text(to, name)?;
        to.write_all(&(contents.len() as u64).to_le_bytes())?;
        to.write_all(contents)?;
    }
    Ok(())
}

fn text(to: &mut impl Write, text: &str) -> io::Result<()> {
    to.write_all(&(text.len() as u64).to_le_bytes())?;
    to.write_all(text.as_bytes())
}

pub(super) fn read_head(from: &mut impl Read) -> io::Result<Head> {
    let mut magic = [0; 8];
    from.read_exact(&mut magic)?;
    if magic != *MAGIC {
        return Err(invalid("the frame has another version"));
    }
    Ok(Head {
        parent: number(from)?,
        memory_max: number(from)?,
        cpu_s: number(from)?,
        variable_dim_max: number(from)?,
        resident_bytes_max: number(from)?,
    })
}

/// The backend's name and the files.
pub(super) fn read_model(from: &mut impl Read) -> io::Result<(String, ModelFiles)> {
    let backend = read_text(from)?;
    let entry = read_text(from)?;
    let count = number(from)?;
    if count > (FILES_PER_VERSION_MAX + EXTERNAL_FILES_MAX) as u64 {
        return Err(invalid("the frame has too many files"));
    }
    let mut files = BTreeMap::new();
    for _ in 0..count {
        let name = read_text(from)?;
        let size = number(from)?;
        let mut contents = Vec::new();
        let reserved = usize::try_from(size).ok().map(|size| contents.try_reserve_exact(size));
        if !matches!(reserved, Some(Ok(()))) {
            return Err(io::ErrorKind::OutOfMemory.into());
        }
        from.take(size).read_to_end(&mut contents)?;
        if contents.len() as u64 != size {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        files.insert(name, Bytes::from(contents));
    }
    Ok((backend, ModelFiles { entry, files }))
}

fn number(from: &mut impl Read) -> io::Result<u64> {
    let mut bytes = [0; 8];
    from.read_exact(&mut bytes)?;
    Ok(u64::from_le_bytes(bytes))
}

fn read_text(from: &mut impl Read) -> io::Result<String> {
    let length = number(from)?;
    if length > FILE_NAME_BYTES_MAX as u64 {
        return Err(invalid("a name in the frame is too long"));
    }
    let mut bytes = vec![0; length as usize];
    from.read_exact(&mut bytes)?;
    String::from_utf8(bytes).map_err(|_| invalid("a name in the frame is not UTF-8"))
}

fn invalid(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}
