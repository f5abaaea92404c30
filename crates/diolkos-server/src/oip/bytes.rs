// SPDX-License-Identifier: Apache-2.0
//! Lists of byte strings as the payload of a `BYTES` tensor.

use diolkos_types::{Status, push_bytes_element};

/// Appends one element of the tensor `name`.
pub(crate) fn push(payload: &mut Vec<u8>, name: &str, index: u64, element: &[u8]) -> Result<(), Status> {
    push_bytes_element(payload, element).map_err(|_| {
        Status::invalid(format!(
            "input `{name}`: element {index} has {} bytes and one element may have {}",
            element.len(),
            u32::MAX
        ))
    })
}

#[cfg(test)]
mod tests {
    use diolkos_types::BytesElements;

    use super::*;

    #[test]
    fn elements_stand_behind_their_length() {
        let mut payload = Vec::new();
        push(&mut payload, "x", 0, b"ab").unwrap();
        push(&mut payload, "x", 1, b"").unwrap();
        assert_eq!(payload, [2, 0, 0, 0, b'a', b'b', 0, 0, 0, 0]);
        assert_eq!(BytesElements::count_checked(&payload), Ok(2));
    }
}
