// SPDX-License-Identifier: Apache-2.0
//! Data types of tensor elements, named as the Open Inference Protocol names them.

use core::fmt;
use core::str::FromStr;

/// The type of every element of a tensor.
///
/// All but [`DataType::Bytes`] have a fixed element size and a little-endian, row-major payload.
/// `Bytes` elements are each a `u32` little-endian length followed by that many bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum DataType {
    /// One byte, 0 or 1.
    Bool = 1,
    /// 8-bit unsigned integer.
    Uint8 = 2,
    /// 16-bit unsigned integer.
    Uint16 = 3,
    /// 32-bit unsigned integer.
    Uint32 = 4,
    /// 64-bit unsigned integer.
    Uint64 = 5,
    /// 8-bit signed integer.
    Int8 = 6,
    /// 16-bit signed integer.
    Int16 = 7,
    /// 32-bit signed integer.
    Int32 = 8,
    /// 64-bit signed integer.
    Int64 = 9,
    /// IEEE 754 binary16.
    Fp16 = 10,
    /// IEEE 754 binary32.
    Fp32 = 11,
    /// IEEE 754 binary64.
    Fp64 = 12,
    /// The upper 16 bits of a binary32.
    Bf16 = 13,
    /// Variable-length byte strings.
    Bytes = 14,
}

impl DataType {
    /// Every data type, in the order of their numbers.
    pub const ALL: [DataType; 14] = [
        DataType::Bool,
        DataType::Uint8,
        DataType::Uint16,
        DataType::Uint32,
        DataType::Uint64,
        DataType::Int8,
        DataType::Int16,
        DataType::Int32,
        DataType::Int64,
        DataType::Fp16,
        DataType::Fp32,
        DataType::Fp64,
        DataType::Bf16,
        DataType::Bytes,
    ];

    /// Size of one element in bytes, or `None` for [`DataType::Bytes`], whose elements differ in size.
    #[must_use]
    pub const fn element_bytes(self) -> Option<usize> {
        match self {
            DataType::Bool | DataType::Uint8 | DataType::Int8 => Some(1),
            DataType::Uint16 | DataType::Int16 | DataType::Fp16 | DataType::Bf16 => Some(2),
            DataType::Uint32 | DataType::Int32 | DataType::Fp32 => Some(4),
            DataType::Uint64 | DataType::Int64 | DataType::Fp64 => Some(8),
            DataType::Bytes => None,
        }
    }

    /// Size in bytes of a payload of `elements` elements; `None` on overflow and for [`DataType::Bytes`].
    #[must_use]
    pub fn payload_bytes(self, elements: u64) -> Option<usize> {
        let bytes = elements.checked_mul(self.element_bytes()? as u64)?;
        usize::try_from(bytes).ok()
    }

    /// The Open Inference Protocol's name, such as `FP32`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            DataType::Bool => "BOOL",
            DataType::Uint8 => "UINT8",
            DataType::Uint16 => "UINT16",
            DataType::Uint32 => "UINT32",
            DataType::Uint64 => "UINT64",
            DataType::Int8 => "INT8",
            DataType::Int16 => "INT16",
            DataType::Int32 => "INT32",
            DataType::Int64 => "INT64",
            DataType::Fp16 => "FP16",
            DataType::Fp32 => "FP32",
            DataType::Fp64 => "FP64",
            DataType::Bf16 => "BF16",
            DataType::Bytes => "BYTES",
        }
    }
}

impl fmt::Display for DataType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// A name that is no data type of the Open Inference Protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "unknown data type; known are BOOL, UINT8, UINT16, UINT32, UINT64, INT8, INT16, INT32, INT64, FP16, FP32, FP64, BF16, BYTES"
)]
pub struct UnknownDataType;

impl FromStr for DataType {
    type Err = UnknownDataType;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        DataType::ALL.into_iter().find(|t| t.name() == name).ok_or(UnknownDataType)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip() {
        for data_type in DataType::ALL {
            assert_eq!(data_type.name().parse(), Ok(data_type));
        }
        assert_eq!("fp32".parse::<DataType>(), Err(UnknownDataType));
    }

    #[test]
    fn payload_size_refuses_overflow() {
        assert_eq!(DataType::Fp32.payload_bytes(3), Some(12));
        assert_eq!(DataType::Fp32.payload_bytes(u64::MAX / 2), None);
        assert_eq!(DataType::Bytes.payload_bytes(1), None);
    }
}
