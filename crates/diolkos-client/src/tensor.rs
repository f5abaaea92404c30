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
}

impl<T> From<Tensor<T>> for AnyTensor {
    fn from(tensor: Tensor<T>) -> AnyTensor {
        tensor.any
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
