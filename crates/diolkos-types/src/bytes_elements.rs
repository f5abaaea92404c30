// SPDX-License-Identifier: Apache-2.0
//! The payload of `BYTES` tensors: each element is a `u32` little-endian length and that many bytes.

use alloc::vec::Vec;

/// Why a payload is no list of `BYTES` elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BytesError {
    /// The payload ends inside an element's length or text.
    #[error("element {index} is cut off: it needs {needed} bytes and {left} are left")]
    Truncated {
        /// Which element, from 0.
        index: u64,
        /// Bytes that the element (or its length prefix) needs.
        needed: usize,
        /// Bytes that are left.
        left: usize,
    },
}

/// Walks over the elements of a `BYTES` payload; stops after the first error.
#[derive(Clone, Debug)]
pub struct BytesElements<'a> {
    rest: &'a [u8],
    index: u64,
}

impl<'a> BytesElements<'a> {
    /// The elements of this payload.
    #[must_use]
    pub fn new(payload: &'a [u8]) -> BytesElements<'a> {
        BytesElements { rest: payload, index: 0 }
    }

    /// Number of elements, if the whole payload is well formed.
    pub fn count_checked(payload: &[u8]) -> Result<u64, BytesError> {
        let mut elements = BytesElements::new(payload);
        for element in elements.by_ref() {
            element?;
        }
        Ok(elements.index)
    }

    fn take(&mut self, needed: usize) -> Result<&'a [u8], BytesError> {
        match self.rest.split_at_checked(needed) {
            Some((head, rest)) => {
                self.rest = rest;
                Ok(head)
            }
            None => {
                let left = self.rest.len();
                self.rest = &[];
                Err(BytesError::Truncated { index: self.index, needed, left })
            }
        }
    }

    fn element(&mut self) -> Result<&'a [u8], BytesError> {
        let mut prefix = [0u8; 4];
        prefix.copy_from_slice(self.take(4)?);
        let element = self.take(u32::from_le_bytes(prefix) as usize)?;
        self.index += 1;
        Ok(element)
    }
}

impl<'a> Iterator for BytesElements<'a> {
    type Item = Result<&'a [u8], BytesError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() { None } else { Some(self.element()) }
    }
}

/// Appends one element to a `BYTES` payload. Fails only for an element of 4 GiB or more.
pub fn push_bytes_element(payload: &mut Vec<u8>, element: &[u8]) -> Result<(), core::num::TryFromIntError> {
    let length = u32::try_from(element.len())?;
    payload.extend_from_slice(&length.to_le_bytes());
    payload.extend_from_slice(element);
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn says_where_it_is_cut_off() {
        let cut = [2, 0, 0, 0, b'o', b'k', 9, 0, 0, 0, b'x'];
        assert_eq!(
            BytesElements::count_checked(&cut),
            Err(BytesError::Truncated { index: 1, needed: 9, left: 1 })
        );
        assert_eq!(
            BytesElements::count_checked(&[0, 0]),
            Err(BytesError::Truncated { index: 0, needed: 4, left: 2 })
        );
    }

    proptest! {
        #[test]
        fn round_trip(elements in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..20), 0..10)) {
            let mut payload = Vec::new();
            for element in &elements {
                push_bytes_element(&mut payload, element).unwrap();
            }
            let back: Vec<Vec<u8>> = BytesElements::new(&payload).map(|e| e.unwrap().to_vec()).collect();
            prop_assert_eq!(back, elements.clone());
            prop_assert_eq!(BytesElements::count_checked(&payload), Ok(elements.len() as u64));
        }

        #[test]
        fn never_panics(payload in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = BytesElements::count_checked(&payload);
        }
    }
}
