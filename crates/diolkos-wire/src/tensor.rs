// SPDX-License-Identifier: Apache-2.0
//! A tensor of a request or an answer: its type, its shape, and where its bytes are.

use diolkos_types::{DataType, HandleId, RANK_MAX, Shape};

use crate::cursor::{Item, Reader, Wire, Writer};
use crate::error::{DecodeError, EncodeError};

/// A piece of a registered region.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Number of the region, as it was registered.
    pub region: u16,
    /// Where the piece begins.
    pub offset: u64,
    /// Bytes of it.
    pub length: u64,
}

impl Extent {
    /// Whether it lies inside a region of so many bytes.
    #[must_use]
    pub fn lies_within(&self, region_bytes: u64) -> bool {
        self.offset.checked_add(self.length).is_some_and(|end| end <= region_bytes)
    }
}

impl Wire for Extent {
    fn write(&self, to: &mut Writer<'_>) {
        let Extent { region, offset, length } = *self;
        if !self.lies_within(u64::MAX) {
            to.refuse(EncodeError::Extent { region, offset, length });
        }
        to.u16(region);
        to.u64(offset);
        to.u64(length);
    }

    fn read(from: &mut Reader<'_>) -> Result<Extent, DecodeError> {
        let extent =
            Extent { region: from.u16("region")?, offset: from.u64("offset")?, length: from.u64("length")? };
        let Extent { region, offset, length } = extent;
        if extent.lies_within(u64::MAX) {
            Ok(extent)
        } else {
            Err(DecodeError::Extent { region, offset, length })
        }
    }
}

/// Where the bytes of a tensor are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// In the payload behind the message, after the tensors before this one, without gaps.
    Stream {
        /// Bytes of the tensor.
        length: u64,
    },
    /// In a region.
    Region(Extent),
}

pub(crate) const STREAM: u8 = 0;
pub(crate) const REGION: u8 = 1;

impl Wire for Place {
    fn write(&self, to: &mut Writer<'_>) {
        match self {
            Place::Stream { length } => {
                to.u8(STREAM);
                to.u64(*length);
            }
            Place::Region(extent) => {
                to.u8(REGION);
                extent.write(to);
            }
        }
    }

    fn read(from: &mut Reader<'_>) -> Result<Place, DecodeError> {
        match from.u8("place")? {
            STREAM => Ok(Place::Stream { length: from.u64("length")? }),
            REGION => Ok(Place::Region(Extent::read(from)?)),
            given => Err(DecodeError::UnknownNumber { what: "place", given, first: STREAM, last: REGION }),
        }
    }
}

/// One tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TensorRef {
    /// Position in the inputs, or in the outputs, of the signature that the handle was opened with.
    pub index: u16,
    /// Type of its elements.
    pub data_type: DataType,
    /// Lengths of its dimensions.
    pub shape: Shape,
    /// Where its bytes are.
    pub place: Place,
}

impl TensorRef {
    /// Bytes that a tensor of so many dimensions takes in a message, at most: with a place in a region.
    #[must_use]
    pub(crate) const fn bytes_max(rank: usize) -> usize {
        // Index, type and rank; lengths; which place, and region, offset and length.
        (2 + 1 + 1) + 8 * rank + (1 + 2 + 8 + 8)
    }
}

impl Wire for TensorRef {
    fn write(&self, to: &mut Writer<'_>) {
        to.u16(self.index);
        self.data_type.write(to);
        self.shape.write(to);
        self.place.write(to);
    }

    fn read(from: &mut Reader<'_>) -> Result<TensorRef, DecodeError> {
        Ok(TensorRef {
            index: from.u16("index")?,
            data_type: DataType::read(from)?,
            shape: Shape::read(from)?,
            place: Place::read(from)?,
        })
    }
}

impl Item for TensorRef {
    // A scalar on the stream: index, type, rank, place, length.
    const BYTES_MIN: usize = 2 + 1 + 1 + 1 + 8;
}

/// Payload that these tensors take on a stream; `None` where 64 bits can't hold the sum.
pub(crate) fn stream_bytes(tensors: &[TensorRef]) -> Option<u64> {
    tensors.iter().try_fold(0u64, |sum, tensor| match tensor.place {
        Place::Stream { length } => sum.checked_add(length),
        Place::Region(_) => Some(sum),
    })
}

impl Wire for DataType {
    fn write(&self, to: &mut Writer<'_>) {
        to.u8(*self as u8);
    }

    fn read(from: &mut Reader<'_>) -> Result<DataType, DecodeError> {
        from.choice("data_type", 1, &DataType::ALL)
    }
}

impl Wire for Shape {
    fn write(&self, to: &mut Writer<'_>) {
        // Lossless: a shape has at most RANK_MAX dimensions.
        to.u8(self.rank() as u8);
        self.dims().iter().for_each(|&length| to.u64(length));
    }

    fn read(from: &mut Reader<'_>) -> Result<Shape, DecodeError> {
        let mut lengths = [0; RANK_MAX];
        let lengths = &mut lengths[..rank(from)?];
        from.u64s("shape", lengths)?;
        Shape::new(lengths).map_err(|_| too_deep(lengths.len()))
    }
}

/// Number of dimensions, which is at most [`RANK_MAX`].
pub(crate) fn rank(from: &mut Reader<'_>) -> Result<usize, DecodeError> {
    let rank = usize::from(from.u8("rank")?);
    if rank <= RANK_MAX { Ok(rank) } else { Err(too_deep(rank)) }
}

fn too_deep(given: usize) -> DecodeError {
    DecodeError::TooMany { what: "shape", max: RANK_MAX, given }
}

impl Wire for HandleId {
    fn write(&self, to: &mut Writer<'_>) {
        to.u32(self.slot);
        to.u32(self.generation);
    }

    fn read(from: &mut Reader<'_>) -> Result<HandleId, DecodeError> {
        Ok(HandleId { slot: from.u32("handle slot")?, generation: from.u32("handle generation")? })
    }
}

const _: () = assert!(RANK_MAX <= u8::MAX as usize);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_types_are_numbered_from_one() {
        for (index, data_type) in DataType::ALL.into_iter().enumerate() {
            assert_eq!(data_type as usize, index + 1);
            assert_eq!(DataType::read(&mut Reader::new(&[data_type as u8])), Ok(data_type));
        }
    }

    #[test]
    fn deep_shapes_are_refused_before_their_lengths_are_read() {
        assert_eq!(
            Shape::read(&mut Reader::new(&[17])),
            Err(DecodeError::TooMany { what: "shape", max: RANK_MAX, given: 17 })
        );
        assert_eq!(
            Shape::read(&mut Reader::new(&[2, 0])),
            Err(DecodeError::Truncated { what: "shape", needed: 16, left: 1 })
        );
    }

    #[test]
    fn extents_end_inside_their_region() {
        let extent = Extent { region: 1, offset: 8, length: 8 };
        assert!(extent.lies_within(16) && !extent.lies_within(15));
        let wild = Extent { offset: u64::MAX, length: 1, ..extent };
        assert!(!wild.lies_within(u64::MAX));
        let bytes: alloc::vec::Vec<u8> = [&[1, 0][..], &[0xff; 8], &1u64.to_le_bytes()].concat();
        assert_eq!(
            Extent::read(&mut Reader::new(&bytes)),
            Err(DecodeError::Extent { region: 1, offset: u64::MAX, length: 1 })
        );
    }

    #[test]
    fn stream_bytes_refuse_overflow() {
        let tensor = |place| TensorRef { index: 0, data_type: DataType::Uint8, shape: Shape::SCALAR, place };
        let stream = |length| tensor(Place::Stream { length });
        let region = tensor(Place::Region(Extent { region: 0, offset: 0, length: 9 }));
        assert_eq!(stream_bytes(&[stream(1), region, stream(2)]), Some(3));
        assert_eq!(stream_bytes(&[stream(u64::MAX), stream(1)]), None);
    }
}
