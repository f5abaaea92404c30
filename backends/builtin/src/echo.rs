// SPDX-License-Identifier: Apache-2.0
//! `echo`: answers with its input, of any type and shape.
//!
//! Private memory is handed back as it is, in as many pieces as it came. Shared memory is copied once; where the client has
//! named a place for the answer, part by part, so that a large tensor goes through the caches and not through memory a second
//! time.

use diolkos_backend::{Operation, RunError, Work};
use diolkos_types::{DataType, Shape, Signature, TensorSpec};

/// See the module.
#[derive(Clone, Debug)]
pub struct Echo {
    signature: Signature,
}

impl Echo {
    /// The operation.
    #[must_use]
    pub fn new() -> Echo {
        let spec = || TensorSpec { any_type: true, ..TensorSpec::any_shape("data", DataType::Uint8) };
        Echo { signature: Signature { inputs: [spec()].into(), outputs: [spec()].into() } }
    }
}

impl Default for Echo {
    fn default() -> Echo {
        Echo::new()
    }
}

impl Operation for Echo {
    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn resident_bytes(&self) -> u64 {
        0
    }

    /// A private copy, where the input is not private already.
    fn peak_bytes(&self, _shapes: &[Option<Shape>], input_bytes: u64) -> Option<u64> {
        Some(input_bytes)
    }

    fn run(&self, work: &mut Work) -> Result<(), RunError> {
        work.check_cancelled()?;
        let Some(input) = work.take_input(0) else {
            return Err(RunError::InvalidInput {
                tensor: "data".into(),
                reason: "is missing; send it".into(),
            });
        };
        work.computes_nothing();
        if work.wants(0) {
            let bytes = input.data.len();
            work.output(&self.signature, 0, input.data_type, input.shape, bytes)?.give(input.data);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use diolkos_backend::conformance::run_once;
    use diolkos_backend::{Buffer, Tensor};
    use proptest::prelude::*;

    use super::*;

    fn echo(data: Buffer) -> Buffer {
        let shape = Shape::new(&[data.len() as u64]).unwrap();
        let input = Tensor { data_type: DataType::Uint8, shape, data };
        let output = run_once(&Echo::new(), vec![Some(input)]).unwrap().remove(0).unwrap();
        assert_eq!((output.data_type, output.shape), (DataType::Uint8, shape));
        output.data
    }

    #[test]
    fn private_memory_is_handed_back_without_a_copy() {
        let data = Buffer::from(vec![1, 2, 3]);
        let address = data.as_slice().unwrap().as_ptr();
        assert_eq!(echo(data).as_slice().unwrap().as_ptr(), address);
        let pieces = [vec![1, 2], vec![3]].map(Buffer::from);
        let echoed = echo(Buffer::concat(&pieces).unwrap());
        let given: Vec<_> = echoed.to_private_pieces().map(|piece| piece.as_ptr()).collect();
        assert_eq!(given, pieces.map(|piece| piece.as_slice().unwrap().as_ptr()));
    }

    proptest! {
        #[test]
        fn gives_the_bytes_it_got(one: Vec<u8>, two: Vec<u8>) {
            let joined = Buffer::concat(&[one.clone().into(), two.clone().into()]).unwrap();
            prop_assert_eq!(&echo(joined).to_private()[..], &[one, two].concat()[..]);
        }
    }
}
