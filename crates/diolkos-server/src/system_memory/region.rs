// SPDX-License-Identifier: Apache-2.0
//! One region: a part of a file that its client may change, shrink and remove at any time.
//!
//! It is never mapped: a mapping of a file that shrinks kills its reader (SIGBUS). What is needed is copied
//! with `pread`, once, before anybody looks at it; a file that shrank gives fewer bytes, and an error.

use std::sync::Arc;

use diolkos_backend::Buffer;
use diolkos_types::{Code, Status};
use rustix::fs::fstat;
use rustix::io::{Errno, pread, pwrite};

use super::left::Held;
use super::shown;

/// A registered region. Closed when nobody uses it any more.
#[derive(Debug)]
pub(super) struct Region {
    pub(super) name: Box<str>,
    pub(super) key: Box<str>,
    /// Where it begins in the file.
    pub(super) offset: u64,
    /// Its size. Offset and size together lay within the file when it was registered.
    pub(super) bytes: u64,
    pub(super) held: Held,
}

/// A part of a region.
#[derive(Clone, Debug)]
pub(super) struct Piece {
    region: Arc<Region>,
    /// Where it begins in the file.
    at: u64,
    bytes: usize,
}

impl Region {
    /// A part of it for `tensor`, which messages name.
    pub(super) fn piece(self: &Arc<Self>, tensor: &str, offset: u64, bytes: u64) -> Result<Piece, Status> {
        let fits = offset.checked_add(bytes).is_some_and(|end| end <= self.bytes);
        let (true, Ok(length)) = (fits, usize::try_from(bytes)) else {
            return Err(Status::invalid(format!(
                "{tensor}: {bytes} bytes from byte {offset} on (`shared_memory_byte_size`, `shared_memory_offset`) do not \
                 lie in region `{}`, which has {} bytes",
                shown(&self.name),
                self.bytes
            )));
        };
        // No overflow: it lies before the region's end, which lay in the file.
        Ok(Piece { region: self.clone(), at: self.offset + offset, bytes: length })
    }

    fn has_shrunk(&self) -> Status {
        let now = fstat(self.held.file()).map_or(0, |stat| stat.st_size);
        Status::invalid(format!(
            "region `{}` has shrunk: it goes from byte {} to byte {} of `{}`, which has {now} bytes now; unregister it \
             and register what there is",
            shown(&self.name),
            self.offset,
            self.offset + self.bytes,
            shown(&self.key),
        ))
    }

    fn failed(&self, what: &str, errno: Errno) -> Status {
        let name = shown(&self.name);
        match errno {
            // Its memory is made when it is first written, and here there was none.
            Errno::NOSPC | Errno::NOMEM | Errno::DQUOT => Status::new(
                Code::TooLarge,
                format!("region `{name}` has no room on its tmpfs: {what} it said `{errno}`"),
            ),
            _ => Status::invalid(format!("region `{name}` can't be used: {what} it said `{errno}`")),
        }
    }
}

impl Piece {
    /// How many bytes it has.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// The region's name.
    pub(super) fn region(&self) -> &str {
        &self.region.name
    }

    /// What is in it now, copied to where its client can't write.
    pub(super) fn read(&self) -> Result<Vec<u8>, Status> {
        let mut data = vec![0; self.bytes];
        let mut done = 0;
        while done < data.len() {
            match pread(self.region.held.file(), &mut data[done..], self.at + done as u64) {
                Ok(0) => return Err(self.region.has_shrunk()),
                Ok(count) => done += count,
                Err(Errno::INTR) => {}
                Err(errno) => return Err(self.region.failed("reading", errno)),
            }
        }
        Ok(data)
    }

    /// Writes to its beginning; `data` is no longer than the piece.
    pub(super) fn write(&self, data: &Buffer) -> Result<(), Status> {
        debug_assert!(data.len() <= self.bytes, "whoever calls this compared them");
        let size =
            fstat(self.region.held.file()).map_err(|errno| self.region.failed("looking at", errno))?.st_size;
        // Writing behind its end would make it grow again.
        if u64::try_from(size).is_ok_and(|size| size < self.at + data.len() as u64) {
            return Err(self.region.has_shrunk());
        }
        self.region.held.will_be_written();
        let mut at = self.at;
        for part in data.to_private_pieces() {
            let mut left = &part[..];
            while !left.is_empty() {
                match pwrite(self.region.held.file(), left, at) {
                    Ok(0) => return Err(self.region.failed("writing", Errno::NOSPC)),
                    Ok(count) => {
                        left = &left[count..];
                        at += count as u64;
                    }
                    Err(Errno::INTR) => {}
                    Err(errno) => return Err(self.region.failed("writing", errno)),
                }
            }
        }
        Ok(())
    }
}
