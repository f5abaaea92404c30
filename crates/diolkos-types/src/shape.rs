// SPDX-License-Identifier: Apache-2.0
//! Shapes: the lengths of a tensor's dimensions, outermost first.

use core::fmt;

/// Most dimensions a tensor may have.
///
/// TensorRT and TFLite stop at 8; the deepest tensors of the ONNX node suite have 8 too. Twice that
/// leaves room, and keeps a shape inline so that a request allocates nothing per tensor for it.
pub const RANK_MAX: usize = 16;

/// The lengths of a tensor's dimensions, outermost first. A scalar has rank 0 and one element.
#[derive(Clone, Copy)]
pub struct Shape {
    rank: u8,
    lengths: [u64; RANK_MAX],
}

/// The dimensions of a [`Shape`] as a slice.
pub type Dims = [u64];

/// Why a list of numbers is no shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ShapeError {
    /// More than [`RANK_MAX`] dimensions.
    #[error("has {rank} dimensions, and the limit is {RANK_MAX}")]
    RankTooHigh {
        /// How many were given.
        rank: usize,
    },
    /// A length below zero.
    #[error("dimension {index} is {length}, and a request's dimensions may not be negative")]
    Negative {
        /// Which dimension, from 0.
        index: usize,
        /// The length that was given.
        length: i64,
    },
}

impl Shape {
    /// The shape of a single value.
    pub const SCALAR: Shape = Shape { rank: 0, lengths: [0; RANK_MAX] };

    /// A shape with these lengths.
    pub fn new(lengths: &[u64]) -> Result<Shape, ShapeError> {
        let mut shape = Shape::SCALAR;
        for &length in lengths {
            shape.push(length).map_err(|_| ShapeError::RankTooHigh { rank: lengths.len() })?;
        }
        Ok(shape)
    }

    /// A shape from the signed lengths that protocols carry.
    pub fn from_signed(lengths: &[i64]) -> Result<Shape, ShapeError> {
        if lengths.len() > RANK_MAX {
            return Err(ShapeError::RankTooHigh { rank: lengths.len() });
        }
        let mut shape = Shape::SCALAR;
        for (index, &length) in lengths.iter().enumerate() {
            let length = u64::try_from(length).map_err(|_| ShapeError::Negative { index, length })?;
            shape.push(length)?;
        }
        Ok(shape)
    }

    /// Adds an innermost dimension.
    pub fn push(&mut self, length: u64) -> Result<(), ShapeError> {
        let rank = self.rank();
        let slot = self.lengths.get_mut(rank).ok_or(ShapeError::RankTooHigh { rank: rank + 1 })?;
        *slot = length;
        self.rank += 1;
        Ok(())
    }

    /// Number of dimensions.
    #[must_use]
    pub fn rank(&self) -> usize {
        usize::from(self.rank)
    }

    /// The lengths, outermost first.
    #[must_use]
    pub fn dims(&self) -> &Dims {
        &self.lengths[..self.rank()]
    }

    /// Number of elements, or `None` when the product does not fit 64 bits.
    ///
    /// A zero anywhere makes an empty tensor, whatever the other lengths are.
    #[must_use]
    pub fn elements(&self) -> Option<u64> {
        if self.dims().contains(&0) {
            return Some(0);
        }
        self.dims().iter().try_fold(1u64, |product, &length| product.checked_mul(length))
    }
}

impl PartialEq for Shape {
    fn eq(&self, other: &Shape) -> bool {
        self.dims() == other.dims()
    }
}

impl Eq for Shape {}

impl core::hash::Hash for Shape {
    fn hash<H: core::hash::Hasher>(&self, state: &mut H) {
        self.dims().hash(state);
    }
}

impl fmt::Debug for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[")?;
        for (index, length) in self.dims().iter().enumerate() {
            if index > 0 {
                f.write_str(",")?;
            }
            write!(f, "{length}")?;
        }
        f.write_str("]")
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec::Vec;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn scalars_and_empty_tensors() {
        assert_eq!(Shape::SCALAR.elements(), Some(1));
        assert_eq!(Shape::new(&[3, 0, u64::MAX, u64::MAX]).unwrap().elements(), Some(0));
    }

    #[test]
    fn refuses_negative_and_deep_shapes() {
        assert_eq!(Shape::from_signed(&[2, -1]), Err(ShapeError::Negative { index: 1, length: -1 }));
        assert_eq!(Shape::new(&[1; RANK_MAX + 1]), Err(ShapeError::RankTooHigh { rank: RANK_MAX + 1 }));
        assert_eq!(Shape::from_signed(&[-1; 40]), Err(ShapeError::RankTooHigh { rank: 40 }));
    }

    #[test]
    fn prints_like_the_protocol() {
        assert_eq!(alloc::format!("{}", Shape::new(&[1, 3, 224, 224]).unwrap()), "[1,3,224,224]");
    }

    proptest! {
        #[test]
        fn elements_agree_with_wide_arithmetic(dims in proptest::collection::vec(0u64..1 << 20, 0..6)) {
            let wide: u128 = dims.iter().map(|&d| u128::from(d)).product();
            prop_assert_eq!(Shape::new(&dims).unwrap().elements(), u64::try_from(wide).ok());
        }

        #[test]
        fn signed_and_unsigned_agree(dims in proptest::collection::vec(0i64..i64::MAX, 0..RANK_MAX)) {
            let unsigned: Vec<u64> = dims.iter().map(|&d| d as u64).collect();
            prop_assert_eq!(Shape::from_signed(&dims).unwrap(), Shape::new(&unsigned).unwrap());
        }
    }
}
