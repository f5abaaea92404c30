// SPDX-License-Identifier: Apache-2.0
//! The same inputs in every kind of memory that the engine may hand over.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use bytes::Bytes;
use diolkos_types::DataType;

use crate::conformance::runs::{Answered, Ending, Setup, Subject, run};
use crate::conformance::{Case, Check, Report};
use crate::{Buffer, SharedMemory};

/// Bytes of foreign data before and after the payload: reading past either end shows in the answer.
const MARGIN: usize = 5;

/// Stands for a region that a tenant mapped.
struct FakeRegion {
    bytes: Vec<u8>,
    /// What each copy adds to every byte: a tenant that writes while the daemon reads.
    restless: Option<AtomicU8>,
}

impl SharedMemory for FakeRegion {
    fn len(&self) -> usize {
        self.bytes.len()
    }

    fn copy_to(&self, offset: usize, dst: &mut [u8]) {
        dst.copy_from_slice(&self.bytes[offset..][..dst.len()]);
        if let Some(shift) = &self.restless {
            let shift = shift.fetch_add(1, Ordering::Relaxed);
            dst.iter_mut().for_each(|byte| *byte = byte.wrapping_add(shift));
        }
    }
}

fn shared(payload: &[u8], restless: bool) -> Buffer {
    let mut bytes = vec![0xa5; MARGIN];
    bytes.extend_from_slice(payload);
    bytes.extend_from_slice(&[0xa5; MARGIN]);
    let region = FakeRegion { bytes, restless: restless.then(AtomicU8::default) };
    Buffer::shared(Arc::new(region), MARGIN, payload.len()).expect("the payload lies inside its region")
}

/// Three extents whose borders fall inside elements where they can; the middle one is shared.
fn extents(payload: &[u8]) -> Buffer {
    let first = payload.len() / 3;
    let second = (first * 2 + 1).min(payload.len());
    let parts = [
        Buffer::from(payload[..first].to_vec()),
        shared(&payload[first..second], false),
        Buffer::from(payload[second..].to_vec()),
    ];
    Buffer::concat(&parts).expect("the parts of a payload are as long as the payload")
}

/// Private memory whose address is `remainder` more than a multiple of eight.
fn at_remainder(payload: &[u8], remainder: usize) -> Buffer {
    let mut room = Vec::with_capacity(payload.len() + 8);
    let address = room.as_ptr() as usize;
    let offset = (remainder + 8 - address % 8) % 8;
    room.resize(offset, 0xa5);
    room.extend_from_slice(payload);
    Buffer::from(Bytes::from(room).slice(offset..))
}

fn with_memory(case: &Case, place: impl Fn(&[u8], DataType) -> Buffer) -> Case {
    let mut case = case.clone();
    for tensor in case.inputs.iter_mut().flatten() {
        tensor.data = place(&tensor.data.to_private(), tensor.data_type);
    }
    case
}

pub(super) fn kinds(report: &mut Report, subject: &Subject<'_>) {
    if subject.signature.inputs.is_empty() {
        for check in [Check::SharedMemory, Check::Extents, Check::Alignment] {
            report.skip(subject.label, check, "it takes no inputs");
        }
        return;
    }
    let same = |answered: &Answered, place: &dyn Fn(&[u8], DataType) -> Buffer| {
        let case = with_memory(&answered.case, place);
        run(subject.operation, &case, Setup::PLAIN).ending.must_be(&answered.answer)
    };
    subject.compare_each(report, Check::SharedMemory, |answered| {
        same(answered, &|payload, _| shared(payload, false))?;
        never_still(subject, answered)
    });
    subject.compare_each(report, Check::Extents, |answered| same(answered, &|payload, _| extents(payload)));
    subject.compare_each(report, Check::Alignment, |answered| {
        [1, 2, 3, 4, 7].into_iter().try_for_each(|remainder| {
            same(answered, &|payload, _| at_remainder(payload, remainder))
                .map_err(|text| format!("at an address of 8n + {remainder}: {text}"))
        })
    });
}

/// Memory that changes between two reads must not make it panic; which answer it gives is the tenant's loss.
/// `BYTES` stay as they are: their lengths steer control flow, so the engine copies them before anything
/// reads them.
fn never_still(subject: &Subject<'_>, answered: &Answered) -> Result<(), String> {
    let case =
        with_memory(&answered.case, |payload, data_type| shared(payload, data_type != DataType::Bytes));
    match run(subject.operation, &case, Setup::PLAIN).ending {
        Ending::Panicked(text) => Err(format!("panicked when the memory changed under it: {text}")),
        Ending::Answer(_) | Ending::Refused(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_holds_the_payload() {
        for length in [0, 1, 2, 3, 4, 17] {
            let payload: Vec<u8> = (0..length).collect();
            assert_eq!(&shared(&payload, false).to_private()[..], &payload[..]);
            assert_eq!(&extents(&payload).to_private()[..], &payload[..]);
            assert_eq!(extents(&payload).as_slice().is_some(), payload.is_empty());
            for remainder in 0..8 {
                let buffer = at_remainder(&payload, remainder);
                let slice = buffer.as_slice().unwrap();
                assert_eq!(slice, &payload[..]);
                assert!(payload.is_empty() || slice.as_ptr() as usize % 8 == remainder);
            }
        }
        let restless = shared(&[1, 2], true);
        assert_ne!(restless.to_private(), restless.to_private());
    }
}
