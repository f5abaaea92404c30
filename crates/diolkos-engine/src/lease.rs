// SPDX-License-Identifier: Apache-2.0
//! What a tenant may use: its policy, with one lease for each device that it has a share of.
//!
//! What no lease allows does not exist for the tenant: it is answered in the same words as a name that nobody ever
//! heard of.

use std::time::Duration;

use crate::rate::{ByteRate, Rate};
use crate::sched::{Class, Share};
use crate::store::ModelEntry;

/// Everything that a tenant may have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Requests; `None` = as many as it sends.
    pub rate: Option<Rate>,
    /// Bytes that its requests bring; `None` = as many as it sends.
    pub bytes_rate: Option<ByteRate>,
    /// Sessions that may be open at once.
    pub sessions_max: u64,
    /// Bytes that its requests in flight may need.
    pub requests_memory_max: u64,
    /// Bytes that the regions it registered may have.
    pub regions_memory_max: u64,
    /// Bytes of weights that may be in memory because it asked for them.
    pub models_memory_max: u64,
    /// Deadlines later than this are brought forward to it, and a request without one gets it.
    pub deadline_max: Option<Duration>,
    /// Whether its requests may be in one run with those of others.
    pub batch_with_others: bool,
    /// Whether it may load and unload installed models, which others use as well.
    pub may_load: bool,
    /// What it may use of which device; the first one that names the device counts.
    pub leases: Vec<Lease>,
}

impl Policy {
    /// No limit of its own: what a program gets that has the engine in its own process.
    #[must_use]
    pub fn everything() -> Policy {
        Policy {
            rate: None,
            bytes_rate: None,
            sessions_max: u64::MAX,
            requests_memory_max: u64::MAX,
            regions_memory_max: u64::MAX,
            models_memory_max: u64::MAX,
            deadline_max: None,
            batch_with_others: true,
            may_load: true,
            leases: vec![Lease::everything()],
        }
    }

    /// Nothing at all, for a tenant that is no longer served.
    #[must_use]
    pub fn nothing() -> Policy {
        Policy {
            sessions_max: 0,
            requests_memory_max: 0,
            regions_memory_max: 0,
            models_memory_max: 0,
            may_load: false,
            leases: Vec::new(),
            ..Policy::everything()
        }
    }

    /// Whether any lease allows a model or operation, so that it exists for the tenant.
    #[must_use]
    pub fn shows(&self, entry: &ModelEntry) -> bool {
        self.leases.iter().any(|lease| lease.allows(entry))
    }

    /// The lease for a device.
    pub(crate) fn lease_on(&self, device: &str) -> Option<&Lease> {
        self.leases.iter().find(|lease| lease.device.as_deref().is_none_or(|name| name == device))
    }
}

/// A share of a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// Name of the device; `None` = every device that no earlier lease names.
    pub device: Option<Box<str>>,
    /// Name of the pool of its slots; `None`, or one that is not there = the first.
    pub pool: Option<Box<str>>,
    /// Models that may be run.
    pub models: Patterns,
    /// Built-in operations that may be run.
    pub operations: Patterns,
    /// The most urgent class that its jobs may have.
    pub class: Class,
    /// Jobs that may run at once, and wait.
    pub share: Share,
}

impl Lease {
    /// All of every device.
    #[must_use]
    pub fn everything() -> Lease {
        Lease {
            device: None,
            pool: None,
            models: Patterns::all(),
            operations: Patterns::all(),
            class: Class::Interactive,
            share: Share::ALL,
        }
    }

    /// Whether it allows a model or operation.
    #[must_use]
    pub fn allows(&self, entry: &ModelEntry) -> bool {
        let patterns = if entry.is_builtin() { &self.operations } else { &self.models };
        patterns.match_any(entry.name())
    }
}

/// Names, in which `*` stands for any text and `?` for any one character.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Patterns(Vec<Box<str>>);

impl Patterns {
    /// Matches every name.
    #[must_use]
    pub fn all() -> Patterns {
        Patterns(vec!["*".into()])
    }

    /// Matches what one of these matches; none of them match nothing.
    pub fn new(patterns: impl IntoIterator<Item = impl Into<Box<str>>>) -> Patterns {
        Patterns(patterns.into_iter().map(Into::into).collect())
    }

    /// Whether one of them matches.
    #[must_use]
    pub fn match_any(&self, name: &str) -> bool {
        self.0.iter().any(|pattern| &**pattern == "*" || matches(pattern, name))
    }
}

/// Whether `pattern` matches the whole of `name`. Takes at most the product of their lengths: when the rest does not
/// match, only the last `*` is tried again, one character further.
#[must_use]
pub fn matches(pattern: &str, name: &str) -> bool {
    let (pattern, name): (Vec<char>, Vec<char>) = (pattern.chars().collect(), name.chars().collect());
    let (mut p, mut n) = (0, 0);
    let mut retry: Option<(usize, usize)> = None;
    while n < name.len() {
        match pattern.get(p) {
            Some('*') => {
                retry = Some((p + 1, n));
                p += 1;
            }
            Some(&c) if c == '?' || c == name[n] => {
                p += 1;
                n += 1;
            }
            _ => match retry {
                Some((after_star, from)) => {
                    retry = Some((after_star, from + 1));
                    (p, n) = (after_star, from + 1);
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|&c| c == '*')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn stars_and_question_marks() {
        for (pattern, name, expected) in [
            ("digits", "digits", true),
            ("digits", "digits2", false),
            ("digits*", "digits2", true),
            ("*net*", "mobilenet_v2", true),
            ("*net", "mobilenet_v2", false),
            ("a*b*c", "a-b-b-c", true),
            ("a*b*c", "a-c-b", false),
            ("?", "é", true),
            ("?", "", false),
            ("", "", true),
            ("*", "", true),
            ("**a", "ba", true),
        ] {
            assert_eq!(matches(pattern, name), expected, "{pattern} and {name}");
        }
    }

    #[test]
    fn the_first_lease_that_names_the_device_counts() {
        let on = |device: Option<&str>, running_max| Lease {
            device: device.map(Into::into),
            share: Share { running_max, waiting_max: 0, ..Share::ALL },
            ..Lease::everything()
        };
        let policy = Policy { leases: vec![on(Some("gpu"), 1), on(None, 2)], ..Policy::everything() };
        assert_eq!(policy.lease_on("gpu").unwrap().share.running_max, 1);
        assert_eq!(policy.lease_on("cpu").unwrap().share.running_max, 2);
        assert!(Policy::nothing().lease_on("cpu").is_none());
    }

    /// The textbook's definition.
    fn plain(pattern: &[char], name: &[char]) -> bool {
        match (pattern.split_first(), name.split_first()) {
            (None, None) => true,
            (Some(('*', rest)), _) => plain(rest, name) || (!name.is_empty() && plain(pattern, &name[1..])),
            (Some((&p, pattern)), Some((&n, name))) => (p == '?' || p == n) && plain(pattern, name),
            _ => false,
        }
    }

    proptest! {
        #[test]
        fn agrees_with_the_definition(pattern in "[ab*?]{0,8}", name in "[ab]{0,8}") {
            let chars = |text: &str| text.chars().collect::<Vec<_>>();
            prop_assert_eq!(matches(&pattern, &name), plain(&chars(&pattern), &chars(&name)));
        }
    }
}
