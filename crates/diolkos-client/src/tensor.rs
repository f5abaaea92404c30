// SPDX-License-Identifier: Apache-2.0
//! Values to send, and values that came.

use std::fmt;
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut, Range};
use std::sync::Arc;

use bytemuck::Pod;
use diolkos_types::{BytesElements, DataType, Shape};

use crate::error::Error;
use crate::memory::Storage;

/// A Rust type that is an element of tensors.
pub trait Element: Pod + sealed::Sealed {
    /// The data type that it is.
    const DATA_TYPE: DataType;
}

mod sealed {
    pub trait Sealed {}
}

macro_rules! elements {
    ($($rust:ty => $data_type:ident,)*) => {$(
        impl sealed::Sealed for $rust {}

        impl Element for $rust {
            const DATA_TYPE: DataType = DataType::$data_type;
        }
    )*};
}

elements! {
    u8 => Uint8, u16 => Uint16, u32 => Uint32, u64 => Uint64,
    i8 => Int8, i16 => Int16, i32 => Int32, i64 => Int64,
    f32 => Fp32, f64 => Fp64,
}

/// A tensor of elements of one type, to be filled and sent. It is a slice of its elements, row by row.
pub struct Tensor<T> {
    any: AnyTensor,
    element: PhantomData<T>,
}

impl<T: Element> Tensor<T> {
    pub(crate) fn new(any: AnyTensor) -> Tensor<T> {
        debug_assert_eq!(any.data_type, T::DATA_TYPE);
        Tensor { any, element: PhantomData }
    }

    /// Its dimensions.
    #[must_use]
    pub fn shape(&self) -> &[u64] {
        self.any.shape.dims()
    }
}

impl<T: Element> Deref for Tensor<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        bytemuck::cast_slice(self.any.bytes())
    }
}

impl<T: Element> DerefMut for Tensor<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        bytemuck::cast_slice_mut(self.any.bytes_mut())
    }
}

impl<T> fmt::Debug for Tensor<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.any.fmt(f)
    }
}

/// A tensor of whatever type, to be filled and sent.
#[derive(Debug)]
pub struct AnyTensor {
    pub(crate) data_type: DataType,
    pub(crate) shape: Shape,
    pub(crate) storage: Storage,
}

impl AnyTensor {
    /// Type of its elements.
    #[must_use]
    pub fn data_type(&self) -> DataType {
        self.data_type
    }

    /// Its dimensions.
    #[must_use]
    pub fn shape(&self) -> &[u64] {
        self.shape.dims()
    }

    /// Its elements row by row, little-endian; those of `BYTES` each behind its `u32` length.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        self.storage.bytes()
    }

    /// The same, to be written. They are whatever was there before: fill all of them.
    #[must_use]
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        self.storage.bytes_mut()
    }

    /// Gives up writing it, so that many requests can read it where it is.
    #[must_use]
    pub fn share(self) -> SharedTensor {
        let AnyTensor { data_type, shape, storage } = self;
        let range = 0..storage.bytes().len();
        SharedTensor { data_type, shape, storage: Arc::new(storage), range }
    }
}

impl<T> From<Tensor<T>> for AnyTensor {
    fn from(tensor: Tensor<T>) -> AnyTensor {
        tensor.any
    }
}

/// A tensor that any number of requests can read where it is, at the same time: weights, or the output of one model
/// as the input of the next. Its memory is used again once its clones and parts, and the requests with one of them,
/// have ended.
#[derive(Clone)]
pub struct SharedTensor {
    data_type: DataType,
    shape: Shape,
    storage: Arc<Storage>,
    range: Range<usize>,
}

impl SharedTensor {
    /// Type of its elements.
    #[must_use]
    pub fn data_type(&self) -> DataType {
        self.data_type
    }

    /// Its dimensions.
    #[must_use]
    pub fn shape(&self) -> &[u64] {
        self.shape.dims()
    }

    /// Its elements row by row, little-endian; those of `BYTES` each behind its `u32` length.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.storage.bytes()[self.range.clone()]
    }

    /// Some of its bytes as a tensor of their own.
    pub fn part(
        &self,
        data_type: DataType,
        shape: &[u64],
        range: Range<usize>,
    ) -> Result<SharedTensor, Error> {
        let shape = Shape::new(shape).map_err(|error| Error::invalid(error.to_string()))?;
        let fits = range.start <= range.end && range.end <= self.range.len();
        let wanted = match data_type {
            DataType::Bytes => Some(range.len()),
            _ => shape.elements().and_then(|elements| data_type.payload_bytes(elements)),
        };
        if !fits || wanted != Some(range.len()) {
            let have = self.range.len();
            return Err(Error::invalid(format!(
                "bytes {range:?} of a tensor of {have} bytes are none of {data_type} and shape {shape}"
            )));
        }
        let range = self.range.start + range.start..self.range.start + range.end;
        Ok(SharedTensor { data_type, shape, storage: self.storage.clone(), range })
    }
}

impl From<SharedTensor> for AnyTensor {
    fn from(tensor: SharedTensor) -> AnyTensor {
        let SharedTensor { data_type, shape, storage, range } = tensor;
        AnyTensor { data_type, shape, storage: Storage::Part { of: storage, range } }
    }
}

impl fmt::Debug for SharedTensor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SharedTensor({} {})", self.data_type, self.shape)
    }
}

/// An output. It lies where the daemon put it, and its memory is used again once all outputs of its reply are dropped.
#[derive(Clone)]
pub struct Output {
    pub(crate) name: Arc<str>,
    pub(crate) data_type: DataType,
    pub(crate) shape: Shape,
    pub(crate) results: Arc<Storage>,
    pub(crate) range: Range<usize>,
}

impl Output {
    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Type of its elements.
    #[must_use]
    pub fn data_type(&self) -> DataType {
        self.data_type
    }

    /// Its dimensions.
    #[must_use]
    pub fn shape(&self) -> &[u64] {
        self.shape.dims()
    }

    /// Its elements row by row, little-endian; those of `BYTES` each behind its `u32` length.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.results.bytes()[self.range.clone()]
    }

    /// The same where it is, to be an input.
    #[must_use]
    pub fn share(&self) -> SharedTensor {
        let Output { data_type, shape, results, range, .. } = self.clone();
        SharedTensor { data_type, shape, storage: results, range }
    }

    /// Its elements, if they are of this type.
    pub fn values<T: Element>(&self) -> Result<&[T], Error> {
        if self.data_type != T::DATA_TYPE {
            return Err(Error::invalid(format!(
                "output `{}` has elements of {}, and {} were asked for",
                self.name,
                self.data_type,
                T::DATA_TYPE
            )));
        }
        bytemuck::try_cast_slice(self.bytes()).map_err(|_| {
            Error::lost(format!("output `{}` does not lie on a boundary of its elements", self.name))
        })
    }

    /// The elements of a `BYTES` output.
    pub fn strings(&self) -> Result<Vec<&[u8]>, Error> {
        if self.data_type != DataType::Bytes {
            return Err(Error::invalid(format!("output `{}` has elements of {}", self.name, self.data_type)));
        }
        BytesElements::new(self.bytes())
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| Error::lost(format!("output `{}`: {error}", self.name)))
    }
}

impl fmt::Debug for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Output({} {} {})", self.name, self.data_type, self.shape)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_has_as_many_bytes_as_its_shape_says() {
        let shape = Shape::new(&[6]).unwrap();
        let mut any = AnyTensor { data_type: DataType::Uint16, shape, storage: Storage::private(12) };
        any.bytes_mut().iter_mut().zip(0..).for_each(|(byte, at)| *byte = at);
        let whole = any.share();
        let part = whole.part(DataType::Uint16, &[2, 2], 2..10).unwrap();
        assert_eq!((part.shape(), part.bytes()), (&[2u64, 2][..], &[2, 3, 4, 5, 6, 7, 8, 9][..]));
        let deeper = part.part(DataType::Uint8, &[3], 1..4).unwrap();
        assert_eq!(deeper.bytes(), [3, 4, 5]);
        assert_eq!(AnyTensor::from(deeper).bytes(), [3, 4, 5]);
        assert!(whole.part(DataType::Bytes, &[7], 0..0).unwrap().bytes().is_empty());
        for (shape, range) in [(&[2u64][..], 0..3), (&[6], 1..13), (&[u64::MAX, 2], 0..8), (&[1; 17], 0..2)] {
            assert!(whole.part(DataType::Uint16, shape, range).is_err(), "{shape:?}");
        }
        #[expect(clippy::reversed_empty_ranges, reason = "that is what is tried")]
        let reversed = 4..2;
        assert!(whole.part(DataType::Bytes, &[1], reversed).is_err());
    }
}
