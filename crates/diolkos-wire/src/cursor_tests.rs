// SPDX-License-Identifier: Apache-2.0
//! Tests of the cursor: what is claimed is held against what is there.

use alloc::vec;

use super::*;

/// An entry of a list that remembers nothing.
#[derive(Debug, PartialEq)]
struct Wide(u64);

impl Wire for Wide {
    fn write(&self, to: &mut Writer<'_>) {
        to.u64(self.0);
    }

    fn read(from: &mut Reader<'_>) -> Result<Wide, DecodeError> {
        from.u64("wide").map(Wide)
    }
}

impl Item for Wide {
    const BYTES_MIN: usize = 8;
}

#[test]
fn a_claimed_count_allocates_nothing() {
    let mut from = Reader::new(&[0xff, 0xff, 1, 2, 3]);
    let refused = from.list::<Wide>("things", usize::MAX);
    assert_eq!(refused, Err(DecodeError::Truncated { what: "things", needed: 8 * 65_535, left: 3 }));

    let mut two = vec![2, 0];
    two.extend_from_slice(&[7; 16]);
    let things = Reader::new(&two).list::<Wide>("things", 2).unwrap();
    assert_eq!((things.len(), things.capacity()), (2, 2));
    assert_eq!(
        Reader::new(&two).list::<Wide>("things", 1),
        Err(DecodeError::TooMany { what: "things", max: 1, given: 2 })
    );
}

#[test]
fn a_claimed_length_is_held_against_the_limit_and_the_rest() {
    let bytes = [0xff, 0xff, 0xff, 0xff, 9];
    assert_eq!(
        Reader::new(&bytes).bytes("token", 4096),
        Err(DecodeError::TooLong { what: "token", max: 4096, given: 0xffff_ffff })
    );
    assert_eq!(
        Reader::new(&bytes).text("name", usize::MAX),
        Err(DecodeError::Truncated { what: "name", needed: 0xffff, left: 3 })
    );
    assert_eq!(
        Reader::new(&[3, 0, b'a', 0xff, b'b']).text("name", 3),
        Err(DecodeError::NotUtf8 { what: "name", at: 1 })
    );
}

#[test]
fn numbers_outside_the_known_ones_are_refused() {
    let all = ['a', 'b'];
    let choose = |byte| Reader::new(&[byte]).choice("letter", 1, &all);
    assert_eq!(choose(2), Ok('b'));
    for given in [0, 3, 255] {
        assert_eq!(
            choose(given),
            Err(DecodeError::UnknownNumber { what: "letter", given, first: 1, last: 2 })
        );
    }
    assert!(Reader::new(&[2]).bool("yes").is_err());
}

#[test]
fn a_refused_message_leaves_the_buffer_as_it_was() {
    let mut out = vec![1, 2];
    let mut to = Writer::new(&mut out);
    to.u64(3);
    to.text("name", 2, "abc");
    to.bytes("token", 0, b"x");
    assert_eq!(to.finish(), Err(EncodeError::TooLong { what: "name", max: 2, given: 3 }));
    assert_eq!(out, [1, 2]);

    let mut to = Writer::new(&mut out);
    to.list("things", 1, &[Wide(1), Wide(2)]);
    assert_eq!(to.finish(), Err(EncodeError::TooMany { what: "things", max: 1, given: 2 }));
    assert_eq!(out, [1, 2]);
}
