// SPDX-License-Identifier: Apache-2.0
//! Sets of CPUs, written as Linux writes them: `0-3,8`.

use std::collections::BTreeSet;
use std::fmt;
use std::io;
use std::str::FromStr;

/// CPUs that threads may run on, by their numbers; at least one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CpuSet(BTreeSet<u16>);

/// Why a text is no set of CPUs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CpuSetError {
    /// Not what a set looks like.
    #[error("is no set of CPUs: numbers and ranges with commas between them, such as `0-3,8`")]
    Form,
    /// Linux counts no further.
    #[error("names a CPU past {}", CpuSet::LAST)]
    TooLarge,
    /// A range that ends before it begins.
    #[error("has a range that ends before it begins")]
    Backwards,
}

impl CpuSet {
    /// The last CPU that the system call for it knows.
    pub const LAST: u16 = (rustix::thread::CpuSet::MAX_CPU - 1) as u16;

    /// How many.
    #[must_use]
    #[allow(clippy::len_without_is_empty, reason = "there is at least one")]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether all of these are in another set.
    #[must_use]
    pub fn is_within(&self, other: &CpuSet) -> bool {
        self.0.is_subset(&other.0)
    }

    /// CPUs that the calling thread may run on; `None` if the system does not say.
    #[must_use]
    pub fn of_this_thread() -> Option<CpuSet> {
        let set = rustix::thread::sched_getaffinity(None).ok()?;
        let cpus: BTreeSet<u16> = (0..=CpuSet::LAST).filter(|cpu| set.is_set(usize::from(*cpu))).collect();
        (!cpus.is_empty()).then_some(CpuSet(cpus))
    }

    /// The calling thread runs on these from now on. Fails where none of them is there for this process.
    pub fn pin_this_thread(&self) -> io::Result<()> {
        let mut set = rustix::thread::CpuSet::new();
        self.0.iter().for_each(|cpu| set.set(usize::from(*cpu)));
        Ok(rustix::thread::sched_setaffinity(None, &set)?)
    }
}

impl FromStr for CpuSet {
    type Err = CpuSetError;

    fn from_str(text: &str) -> Result<CpuSet, CpuSetError> {
        let number = |text: &str| {
            let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
            if !digits {
                return Err(CpuSetError::Form);
            }
            text.parse::<u16>().ok().filter(|cpu| *cpu <= CpuSet::LAST).ok_or(CpuSetError::TooLarge)
        };
        let mut cpus = BTreeSet::new();
        for part in text.split(',').map(str::trim) {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let (first, last) = (number(first.trim())?, number(last.trim())?);
            if last < first {
                return Err(CpuSetError::Backwards);
            }
            cpus.extend(first..=last);
        }
        Ok(CpuSet(cpus))
    }
}

impl fmt::Display for CpuSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut ranges: Vec<(u16, u16)> = Vec::new();
        for &cpu in &self.0 {
            match ranges.last_mut() {
                Some((_, last)) if *last + 1 == cpu => *last = cpu,
                _ => ranges.push((cpu, cpu)),
            }
        }
        for (index, (first, last)) in ranges.into_iter().enumerate() {
            let comma = if index > 0 { "," } else { "" };
            if first == last { write!(f, "{comma}{first}")? } else { write!(f, "{comma}{first}-{last}")? }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn sets_are_written_as_linux_writes_them() {
        for (text, shown, len) in
            [("0", "0", 1), ("0-3,8", "0-3,8", 5), (" 3 , 1-2,2-4 ", "1-4", 4), ("1,3", "1,3", 2)]
        {
            let set: CpuSet = text.parse().unwrap();
            assert_eq!((set.to_string().as_str(), set.len()), (shown, len), "{text}");
        }
        for (text, error) in [
            ("", CpuSetError::Form),
            ("all", CpuSetError::Form),
            ("1,", CpuSetError::Form),
            ("-1", CpuSetError::Form),
            ("+1", CpuSetError::Form),
            ("3-1", CpuSetError::Backwards),
            ("9999", CpuSetError::TooLarge),
            ("0-99999999999", CpuSetError::TooLarge),
        ] {
            assert_eq!(text.parse::<CpuSet>(), Err(error), "{text}");
        }
    }

    #[test]
    fn a_thread_stays_where_it_is_pinned() {
        let allowed = CpuSet::of_this_thread().expect("Linux says so");
        let one: CpuSet = allowed.0.last().unwrap().to_string().parse().unwrap();
        let pinned = std::thread::spawn({
            let one = one.clone();
            move || one.pin_this_thread().map(|()| CpuSet::of_this_thread())
        });
        assert_eq!(pinned.join().unwrap().unwrap(), Some(one));
        assert_eq!(CpuSet::of_this_thread(), Some(allowed), "only that thread");
        let nowhere = CpuSet(BTreeSet::from([CpuSet::LAST]));
        assert!(std::thread::spawn(move || nowhere.pin_this_thread()).join().unwrap().is_err());
    }

    proptest! {
        #[test]
        fn what_is_shown_reads_back(cpus in proptest::collection::btree_set(0..=CpuSet::LAST, 1..40)) {
            let set = CpuSet(cpus);
            prop_assert_eq!(set.to_string().parse(), Ok(set));
        }

        #[test]
        fn any_text_is_a_set_or_a_reason(text in "[0-9,\\- ]{0,12}") {
            let _ = text.parse::<CpuSet>();
        }
    }
}
