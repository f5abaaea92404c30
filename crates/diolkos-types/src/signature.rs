// SPDX-License-Identifier: Apache-2.0
//! Signatures: which tensors an operation takes and gives.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::fmt;

use crate::{DataType, Shape};

/// One dimension of a declared tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dim {
    /// Always this length.
    Fixed(u64),
    /// Any length from 0 to `max`.
    Variable {
        /// Longest length that admission lets through.
        max: u64,
    },
}

impl Dim {
    /// The protocol's number: the length, or -1 where it varies.
    #[must_use]
    pub fn to_signed(self) -> i64 {
        match self {
            Dim::Fixed(length) => i64::try_from(length).unwrap_or(i64::MAX),
            Dim::Variable { .. } => -1,
        }
    }
}

impl fmt::Display for Dim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.to_signed(), f)
    }
}

/// A tensor that an operation takes or gives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorSpec {
    /// Name, unique among the inputs or among the outputs.
    pub name: Box<str>,
    /// Element type.
    pub data_type: DataType,
    /// Dimensions, outermost first; `None` where the operation takes any rank.
    pub dims: Option<Box<[Dim]>>,
    /// The operation runs without it.
    pub optional: bool,
    /// The operation takes every element type, and `data_type` is only the one it advertises.
    pub any_type: bool,
}

/// How a shape fails to fit a [`TensorSpec`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mismatch {
    /// Another number of dimensions.
    Rank,
    /// Dimension `index` has another length than the fixed one.
    Length {
        /// Which dimension, from 0.
        index: usize,
    },
    /// Variable dimension `index` is longer than its maximum.
    TooLong {
        /// Which dimension, from 0.
        index: usize,
        /// Longest length allowed.
        max: u64,
    },
}

impl TensorSpec {
    /// A tensor with these dimensions.
    #[must_use]
    pub fn new(name: &str, data_type: DataType, dims: &[Dim]) -> TensorSpec {
        TensorSpec { name: name.into(), data_type, dims: Some(dims.into()), optional: false, any_type: false }
    }

    /// A tensor of any rank and shape.
    #[must_use]
    pub fn any_shape(name: &str, data_type: DataType) -> TensorSpec {
        TensorSpec { name: name.into(), data_type, dims: None, optional: false, any_type: false }
    }

    /// Whether a tensor of this type fits.
    #[must_use]
    pub fn takes_type(&self, data_type: DataType) -> bool {
        self.any_type || self.data_type == data_type
    }

    /// Whether `shape` fits.
    pub fn check_shape(&self, shape: &Shape) -> Result<(), Mismatch> {
        let Some(dims) = self.dims.as_deref() else { return Ok(()) };
        if dims.len() != shape.rank() {
            return Err(Mismatch::Rank);
        }
        for (index, (&dim, &length)) in dims.iter().zip(shape.dims()).enumerate() {
            match dim {
                Dim::Fixed(fixed) if fixed != length => return Err(Mismatch::Length { index }),
                Dim::Variable { max } if length > max => return Err(Mismatch::TooLong { index, max }),
                Dim::Fixed(_) | Dim::Variable { .. } => {}
            }
        }
        Ok(())
    }

    /// The dimensions as the protocol writes them (-1 where they vary); any rank is written `[-1]`.
    #[must_use]
    pub fn signed_dims(&self) -> Vec<i64> {
        match self.dims.as_deref() {
            Some(dims) => dims.iter().map(|d| d.to_signed()).collect(),
            None => alloc::vec![-1],
        }
    }
}

/// The dimensions alone, as `[-1,3,224,224]`.
impl fmt::Display for TensorSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(dims) = self.dims.as_deref() else { return f.write_str("[any shape]") };
        f.write_str("[")?;
        for (index, dim) in dims.iter().enumerate() {
            if index > 0 {
                f.write_str(",")?;
            }
            write!(f, "{dim}")?;
        }
        f.write_str("]")
    }
}

/// Which tensors an operation takes and gives, in its own order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Signature {
    /// What it takes.
    pub inputs: Box<[TensorSpec]>,
    /// What it gives.
    pub outputs: Box<[TensorSpec]>,
}

impl Signature {
    /// Position of the input with this name.
    #[must_use]
    pub fn input_index(&self, name: &str) -> Option<usize> {
        self.inputs.iter().position(|spec| &*spec.name == name)
    }

    /// Position of the output with this name.
    #[must_use]
    pub fn output_index(&self, name: &str) -> Option<usize> {
        self.outputs.iter().position(|spec| &*spec.name == name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checks_rank_length_and_maximum() {
        let spec = TensorSpec::new("x", DataType::Fp32, &[Dim::Variable { max: 8 }, Dim::Fixed(3)]);
        let check = |dims: &[u64]| spec.check_shape(&Shape::new(dims).unwrap());
        assert_eq!(check(&[8, 3]), Ok(()));
        assert_eq!(check(&[0, 3]), Ok(()));
        assert_eq!(check(&[3]), Err(Mismatch::Rank));
        assert_eq!(check(&[1, 4]), Err(Mismatch::Length { index: 1 }));
        assert_eq!(check(&[9, 3]), Err(Mismatch::TooLong { index: 0, max: 8 }));
        assert_eq!(alloc::format!("{spec}"), "[-1,3]");
    }
}
