// SPDX-License-Identifier: Apache-2.0
//! Payload: where the bytes of a tensor lie, and who may still write them.
//!
//! Only host-private memory is ever seen as a slice. Memory that a tenant can still write offers
//! copies and nothing else, because a `&[u8]` whose bytes change is undefined behaviour, and because a
//! length that was checked once must not be read twice.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;

/// Memory that somebody outside the daemon may write at any time.
///
/// Contract for implementors:
///
/// * `len` never changes, and every byte below it stays mapped while the value lives.
/// * `copy_to` fills all of `dst`. The caller has checked `offset + dst.len() <= len`; an implementation
///   checks again and panics, because reaching past the end is our mistake and never a tenant's.
pub trait SharedMemory: Send + Sync {
    /// Size in bytes.
    fn len(&self) -> usize;

    /// Whether it has no bytes.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Copies `dst.len()` bytes that start at `offset`.
    fn copy_to(&self, offset: usize, dst: &mut [u8]);

    /// Copies `length` bytes that start at `offset` to the end of `dst`. Implementations that can should not fill
    /// the new room with zeroes first: for large tensors that costs about half as much as the copy.
    fn append_to(&self, offset: usize, length: usize, dst: &mut Vec<u8>) {
        let end = dst.len();
        dst.resize(end + length, 0);
        self.copy_to(offset, &mut dst[end..]);
    }
}

/// Shared memory that is only passed on is copied in parts of so many bytes, through memory that stays in a core's own cache.
/// From 16 KiB to 1 MiB all were equally quick.
const PART_BYTES: usize = 32 << 10;

/// One contiguous piece of a payload.
#[derive(Clone)]
enum Extent {
    Private(Bytes),
    Shared { memory: Arc<dyn SharedMemory>, offset: usize, length: usize },
}

impl Extent {
    fn len(&self) -> usize {
        match self {
            Extent::Private(bytes) => bytes.len(),
            Extent::Shared { length, .. } => *length,
        }
    }

    fn copy_to(&self, dst: &mut [u8]) {
        match self {
            Extent::Private(bytes) => dst.copy_from_slice(bytes),
            Extent::Shared { memory, offset, .. } => memory.copy_to(*offset, dst),
        }
    }
}

/// The payload of one tensor: a list of extents, nearly always exactly one. Cheap to clone.
#[derive(Clone)]
pub struct Buffer {
    extents: Extents,
    len: usize,
}

#[derive(Clone)]
enum Extents {
    One(Extent),
    Many(Arc<[Extent]>),
}

impl Buffer {
    /// No bytes.
    #[must_use]
    pub const fn empty() -> Buffer {
        Buffer { extents: Extents::One(Extent::Private(Bytes::new())), len: 0 }
    }

    /// `length` bytes of shared memory that start at `offset`, or `None` if they do not all lie inside.
    #[must_use]
    pub fn shared(memory: Arc<dyn SharedMemory>, offset: usize, length: usize) -> Option<Buffer> {
        let end = offset.checked_add(length)?;
        if end > memory.len() {
            return None;
        }
        Some(Buffer { extents: Extents::One(Extent::Shared { memory, offset, length }), len: length })
    }

    /// The payloads one behind the other, without copying them. `None` if the length overflows.
    #[must_use]
    pub fn concat(parts: &[Buffer]) -> Option<Buffer> {
        if let [single] = parts {
            return Some(single.clone());
        }
        let len = parts.iter().try_fold(0usize, |sum, part| sum.checked_add(part.len))?;
        if len == 0 {
            return Some(Buffer::empty());
        }
        let extents = parts.iter().flat_map(|part| part.extents().iter().cloned()).collect();
        Some(Buffer { extents: Extents::Many(extents), len })
    }

    fn extents(&self) -> &[Extent] {
        match &self.extents {
            Extents::One(extent) => std::slice::from_ref(extent),
            Extents::Many(extents) => extents,
        }
    }

    /// Size in bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are no bytes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The bytes, if they are contiguous and nobody else can write them.
    #[must_use]
    pub fn as_slice(&self) -> Option<&[u8]> {
        match &self.extents {
            Extents::One(Extent::Private(bytes)) => Some(bytes),
            Extents::One(Extent::Shared { .. }) | Extents::Many(_) => None,
        }
    }

    /// Whether nobody else can write any of the bytes.
    #[must_use]
    pub fn is_private(&self) -> bool {
        self.extents().iter().all(|extent| matches!(extent, Extent::Private(_)))
    }

    /// Whether the payload is this very memory, from `offset` on. An empty one lies nowhere.
    #[must_use]
    pub fn lies_in(&self, memory: &dyn SharedMemory, offset: usize) -> bool {
        match &self.extents {
            Extents::One(Extent::Shared { memory: other, offset: at, .. }) => {
                *at == offset && std::ptr::addr_eq(Arc::as_ptr(other), memory)
            }
            Extents::One(Extent::Private(_)) | Extents::Many(_) => false,
        }
    }

    /// Fills `dst` with the payload.
    ///
    /// # Panics
    ///
    /// If `dst` is not exactly as long as the payload.
    pub fn copy_to(&self, dst: &mut [u8]) {
        assert_eq!(dst.len(), self.len, "the destination has another length than the payload");
        let mut rest = dst;
        for extent in self.extents() {
            let (head, tail) = rest.split_at_mut(extent.len());
            extent.copy_to(head);
            rest = tail;
        }
    }

    /// The payload in private memory: without a copy where it already is contiguous and private.
    #[must_use]
    pub fn to_private(&self) -> Bytes {
        match &self.extents {
            Extents::One(Extent::Private(bytes)) => bytes.clone(),
            Extents::One(Extent::Shared { .. }) | Extents::Many(_) => {
                let mut copy = Vec::with_capacity(self.len);
                for extent in self.extents() {
                    match extent {
                        // Not into zeroes: filling 602 kB twice was a fifth of a REST echo's CPU time.
                        Extent::Private(bytes) => copy.extend_from_slice(bytes),
                        Extent::Shared { memory, offset, length } => {
                            memory.append_to(*offset, *length, &mut copy);
                        }
                    }
                }
                copy.into()
            }
        }
    }

    /// Calls `take` with one part of the payload after the other: private ones as they are, and copies of others.
    pub(crate) fn for_each_part(&self, mut take: impl FnMut(&[u8])) {
        let mut copy = Vec::new();
        for extent in self.extents() {
            match extent {
                Extent::Private(bytes) => take(bytes),
                Extent::Shared { memory, offset, length } => {
                    copy.reserve_exact(PART_BYTES.min(*length));
                    for at in (0..*length).step_by(PART_BYTES) {
                        copy.clear();
                        memory.append_to(offset + at, PART_BYTES.min(length - at), &mut copy);
                        take(&copy);
                    }
                    copy.clear();
                }
            }
        }
    }

    /// The payload in private memory, piece by piece: private pieces as they are, others copied.
    pub fn to_private_pieces(&self) -> impl Iterator<Item = Bytes> + '_ {
        self.extents().iter().map(|extent| match extent {
            Extent::Private(bytes) => bytes.clone(),
            Extent::Shared { memory, offset, length } => {
                let mut copy = Vec::with_capacity(*length);
                memory.append_to(*offset, *length, &mut copy);
                copy.into()
            }
        })
    }
}

/// The pieces one behind the other, without copying them.
///
/// # Panics
///
/// If the length overflows, which takes more pieces of one memory than anybody has reason to name.
impl FromIterator<Bytes> for Buffer {
    fn from_iter<T: IntoIterator<Item = Bytes>>(pieces: T) -> Buffer {
        let mut pieces = pieces.into_iter();
        let (Some(first), second) = (pieces.next(), pieces.next()) else { return Buffer::empty() };
        let Some(second) = second else { return first.into() };
        let extents: Arc<[Extent]> = [first, second].into_iter().chain(pieces).map(Extent::Private).collect();
        let len = extents.iter().try_fold(0usize, |sum, extent| sum.checked_add(extent.len()));
        Buffer { extents: Extents::Many(extents), len: len.expect("the length of all pieces overflows") }
    }
}

impl From<Bytes> for Buffer {
    fn from(bytes: Bytes) -> Buffer {
        let len = bytes.len();
        Buffer { extents: Extents::One(Extent::Private(bytes)), len }
    }
}

impl From<Vec<u8>> for Buffer {
    fn from(bytes: Vec<u8>) -> Buffer {
        Bytes::from(bytes).into()
    }
}

impl fmt::Debug for Buffer {
    // The payload belongs to a tenant and has no place in a log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Buffer({} bytes in {} extents)", self.len, self.extents().len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Fake(Vec<u8>);

    impl SharedMemory for Fake {
        fn len(&self) -> usize {
            self.0.len()
        }

        fn copy_to(&self, offset: usize, dst: &mut [u8]) {
            dst.copy_from_slice(&self.0[offset..][..dst.len()]);
        }
    }

    #[test]
    fn shared_memory_is_only_copied() {
        let memory: Arc<dyn SharedMemory> = Arc::new(Fake((0..10).collect()));
        let buffer = Buffer::shared(memory.clone(), 2, 5).unwrap();
        assert!(buffer.as_slice().is_none());
        assert_eq!(&buffer.to_private()[..], &[2, 3, 4, 5, 6]);
        assert!(Buffer::shared(memory.clone(), 6, 5).is_none());
        assert!(Buffer::shared(memory, usize::MAX, 2).is_none());
    }

    #[test]
    fn concatenation_copies_nothing_until_asked() {
        let memory: Arc<dyn SharedMemory> = Arc::new(Fake(vec![7; 4]));
        let parts = [Buffer::from(vec![1, 2]), Buffer::empty(), Buffer::shared(memory, 1, 2).unwrap()];
        let joined = Buffer::concat(&parts).unwrap();
        assert!(joined.as_slice().is_none());
        assert_eq!(&joined.to_private()[..], &[1, 2, 7, 7]);
        let nothing = [Buffer::concat(&[]), Buffer::concat(&[Buffer::empty(), Buffer::empty()])];
        assert_eq!(nothing.map(|nothing| nothing.unwrap().as_slice().map(<[u8]>::len)), [Some(0); 2]);
        let pieces: Vec<Bytes> = joined.to_private_pieces().collect();
        assert_eq!(pieces, [&[1, 2][..], &[], &[7, 7]]);
        assert_eq!(pieces[0].as_ptr(), parts[0].as_slice().unwrap().as_ptr());
        let again: Buffer = pieces.iter().cloned().collect();
        assert_eq!(&again.to_private()[..], &[1, 2, 7, 7]);
        let one: Buffer = pieces.into_iter().take(1).collect();
        assert_eq!((one.as_slice(), Buffer::from_iter([]).len()), (Some(&[1, 2][..]), 0));
    }
}
