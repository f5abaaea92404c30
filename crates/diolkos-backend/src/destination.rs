// SPDX-License-Identifier: Apache-2.0
//! Where a client wants its outputs: memory that it reads, and that operations write them to as they are made.
//!
//! Outputs lie in it one behind the other, in the wanted order. So the place of one is known as soon as those before it are
//! claimed; an output that comes out of turn, or for which there is too little room, lies in private memory, and so do all
//! that follow. Whoever answers brings these to where they belong.

use std::fmt;
use std::sync::Arc;

use crate::{Buffer, SharedMemory};

/// Memory that results are written to.
///
/// Contract for implementors, on top of that of [`SharedMemory`]:
///
/// * `write` copies all of `data` to `offset`, unless nobody will read it any more. The caller has checked
///   `offset + data.len() <= len`; an implementation checks again and panics.
pub trait ResultMemory: SharedMemory {
    /// Copies `data` to `offset`.
    fn write(&self, offset: usize, data: &[u8]);
}

/// Each output begins at a multiple of so many bytes from the start: a cache line, and every element is aligned.
pub const RESULT_ALIGNMENT: usize = 64;

/// A piece of a client's memory that the outputs of one request go to. What lies in it counts only once the request has
/// succeeded.
#[derive(Clone)]
pub struct Destination {
    memory: Arc<dyn ResultMemory>,
    offset: usize,
    length: usize,
}

impl Destination {
    /// `length` bytes that start at `offset`, or `None` if they do not all lie inside.
    #[must_use]
    pub fn new(memory: Arc<dyn ResultMemory>, offset: usize, length: usize) -> Option<Destination> {
        let end = offset.checked_add(length)?;
        (end <= memory.len()).then_some(Destination { memory, offset, length })
    }
}

impl fmt::Debug for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Destination({} bytes)", self.length)
    }
}

/// A destination that is being filled.
#[derive(Debug)]
pub(crate) struct Filling {
    destination: Destination,
    /// Positions of the outputs in the signature, in the wanted order; `None` = as they are.
    order: Option<Box<[usize]>>,
    /// How many have their place.
    placed: usize,
    /// Where the next one goes, from the start; `None` = nowhere, because one came out of turn.
    next: Option<usize>,
}

impl Filling {
    pub(crate) fn new(destination: Destination, order: Option<&[usize]>) -> Filling {
        Filling { destination, order: order.map(Into::into), placed: 0, next: Some(0) }
    }

    /// The place of output `index`, if it is its turn and there is room.
    pub(crate) fn claim(&mut self, index: usize, bytes: usize) -> Option<Place> {
        let turn = match &self.order {
            Some(order) => order.get(self.placed) == Some(&index),
            None => self.placed == index,
        };
        let at = self.next.take().filter(|_| turn)?;
        let end = at.checked_add(bytes).filter(|&end| end <= self.destination.length)?;
        self.placed += 1;
        self.next = end.checked_next_multiple_of(RESULT_ALIGNMENT);
        let Destination { memory, offset, .. } = &self.destination;
        Some(Place { memory: memory.clone(), offset: offset + at, length: bytes })
    }
}

/// The place of one output.
pub(crate) struct Place {
    memory: Arc<dyn ResultMemory>,
    offset: usize,
    length: usize,
}

impl Place {
    /// Copies a payload of the place's length to it.
    pub(crate) fn fill(self, data: &Buffer) -> Buffer {
        let mut at = self.offset;
        data.for_each_part(|part| {
            self.memory.write(at, part);
            at += part.len();
        });
        self.filled()
    }

    /// The same, from a slice.
    pub(crate) fn fill_from(self, data: &[u8]) -> Buffer {
        self.memory.write(self.offset, data);
        self.filled()
    }

    fn filled(self) -> Buffer {
        Buffer::shared(self.memory, self.offset, self.length).expect("the destination lies inside its memory")
    }
}

impl fmt::Debug for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Place({} bytes)", self.length)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use diolkos_types::{DataType, Params, Shape, Signature, TensorSpec};
    use proptest::prelude::*;

    use super::*;
    use crate::{CancelFlag, Work};

    #[derive(Debug)]
    struct Fake(Mutex<Vec<u8>>);

    impl SharedMemory for Fake {
        fn len(&self) -> usize {
            self.0.lock().unwrap().len()
        }

        fn copy_to(&self, offset: usize, dst: &mut [u8]) {
            dst.copy_from_slice(&self.0.lock().unwrap()[offset..][..dst.len()]);
        }
    }

    impl ResultMemory for Fake {
        fn write(&self, offset: usize, data: &[u8]) {
            self.0.lock().unwrap()[offset..][..data.len()].copy_from_slice(data);
        }
    }

    fn fake(length: usize) -> Arc<Fake> {
        Arc::new(Fake(Mutex::new(vec![0xa5; length])))
    }

    fn signature(outputs: usize) -> Signature {
        let spec = |index| TensorSpec::any_shape(&format!("o{index}"), DataType::Uint8);
        Signature { inputs: [].into(), outputs: (0..outputs).map(spec).collect() }
    }

    fn give(work: &mut Work, signature: &Signature, index: usize, data: impl Into<Buffer>) {
        let data = data.into();
        let shape = Shape::new(&[data.len() as u64]).unwrap();
        work.output(signature, index, DataType::Uint8, shape, data.len()).unwrap().give(data);
    }

    fn work(destination: &Destination, order: Option<&[usize]>) -> Work {
        let wanted = order.map(|order| (0..3).map(|index| order.contains(&index)).collect());
        let work = Work::new(Vec::new(), wanted, Params::new(), u64::MAX, CancelFlag::new());
        work.going_to(Some(destination.clone()), order)
    }

    /// Which outputs lie in the memory, at these offsets.
    fn placed(work: Work, memory: &Arc<Fake>) -> Vec<Option<usize>> {
        let lies = |buffer: &Buffer| (0..memory.len()).find(|&at| buffer.lies_in(&**memory, at));
        work.into_outputs().iter().map(|output| lies(&output.as_ref()?.data)).collect()
    }

    #[test]
    fn outputs_lie_one_behind_the_other_in_the_wanted_order() {
        let (memory, signature) = (fake(300), signature(3));
        let destination = Destination::new(memory.clone(), 3, 200).unwrap();
        let mut in_order = work(&destination, None);
        for index in 0..3 {
            give(&mut in_order, &signature, index, vec![index as u8; 65]);
        }
        assert_eq!(placed(in_order, &memory), [Some(3), Some(131), None], "the third has no room");
        let mut turned = work(&destination, Some(&[2, 0]));
        give(&mut turned, &signature, 2, vec![2; 1]);
        give(&mut turned, &signature, 0, vec![9; 1]);
        assert_eq!(placed(turned, &memory), [Some(67), None, Some(3)]);
        let mut out_of_turn = work(&destination, Some(&[2, 0]));
        give(&mut out_of_turn, &signature, 0, vec![7; 1]);
        give(&mut out_of_turn, &signature, 2, vec![8; 1]);
        assert_eq!(placed(out_of_turn, &memory), [None, None, None]);
        let bytes = memory.0.lock().unwrap();
        assert_eq!((bytes[3], bytes[67], bytes[2], bytes[203]), (2, 9, 0xa5, 0xa5));
    }

    #[test]
    fn one_that_is_claimed_twice_has_no_second_place() {
        let (memory, signature) = (fake(300), signature(3));
        let destination = Destination::new(memory.clone(), 0, 300).unwrap();
        let mut twice = work(&destination, None);
        give(&mut twice, &signature, 0, vec![1; 9]);
        give(&mut twice, &signature, 0, vec![2; 9]);
        give(&mut twice, &signature, 1, vec![3; 9]);
        assert_eq!(placed(twice, &memory), [None, None]);
    }

    #[test]
    fn it_lies_inside_its_memory() {
        let memory = fake(10);
        assert!(Destination::new(memory.clone(), 4, 6).is_some());
        assert!(Destination::new(memory.clone(), 4, 7).is_none());
        assert!(Destination::new(memory, usize::MAX, 2).is_none());
    }

    proptest! {
        #[test]
        fn what_was_given_is_there(length in 0usize..100_000, cut in 0usize..100_000, shared: bool) {
            let payload: Vec<u8> = (0..length).map(|at| (at % 251) as u8).collect();
            let cut = cut.min(length);
            let tail = if shared {
                let foreign = Arc::new(Fake(Mutex::new(payload.clone())));
                Buffer::shared(foreign, cut, length - cut).unwrap()
            } else {
                payload[cut..].to_vec().into()
            };
            let given = Buffer::concat(&[payload[..cut].to_vec().into(), tail]).unwrap();
            let (memory, signature) = (fake(length + 7), signature(1));
            let destination = Destination::new(memory.clone(), 7, length).unwrap();
            let mut placed = work(&destination, None);
            give(&mut placed, &signature, 0, given.clone());
            let outputs = placed.into_outputs();
            prop_assert!(outputs[0].as_ref().unwrap().data.lies_in(&*memory, 7));
            prop_assert_eq!(&memory.0.lock().unwrap()[7..], &payload[..]);
            let mut nowhere = Work::new(Vec::new(), None, Params::new(), u64::MAX, CancelFlag::new());
            give(&mut nowhere, &signature, 0, given);
            let outputs = nowhere.into_outputs();
            let data = &outputs[0].as_ref().unwrap().data;
            prop_assert!(data.is_private());
            prop_assert_eq!(&data.to_private()[..], &payload[..]);
        }
    }
}
