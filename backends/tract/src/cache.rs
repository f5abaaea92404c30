// SPDX-License-Identifier: Apache-2.0
//! A small least-recently-used map.
//!
//! It is searched from one end to the other: it has at most a few dozen entries, and each lookup
//! precedes a model's run.

/// Least recently used last.
#[derive(Debug)]
pub(crate) struct Lru<K, V> {
    entries: Vec<(K, V)>,
    capacity: usize,
}

impl<K: PartialEq, V: Clone> Lru<K, V> {
    /// An empty map that keeps at most `capacity` entries, and at least one.
    pub(crate) fn new(capacity: usize) -> Lru<K, V> {
        Lru { entries: Vec::new(), capacity: capacity.max(1) }
    }

    /// The value of `key`, which becomes the most recently used.
    pub(crate) fn get(&mut self, key: &K) -> Option<V> {
        let found = self.entries.iter().position(|(k, _)| k == key)?;
        self.entries[..=found].rotate_right(1);
        Some(self.entries[0].1.clone())
    }

    /// Adds or replaces `key`, and hands back what no longer fits, to be dropped outside the lock.
    pub(crate) fn put(&mut self, key: K, value: V) -> Option<V> {
        let replaced = self.entries.iter().position(|(k, _)| *k == key).map(|at| self.entries.remove(at).1);
        self.entries.insert(0, (key, value));
        if self.entries.len() > self.capacity { self.entries.pop().map(|(_, v)| v) } else { replaced }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forgets_what_was_used_longest_ago() {
        let mut lru = Lru::new(2);
        assert_eq!(lru.put(1, 'a'), None);
        assert_eq!(lru.put(2, 'b'), None);
        assert_eq!(lru.get(&1), Some('a'));
        assert_eq!(lru.put(3, 'c'), Some('b'));
        assert_eq!(lru.get(&2), None);
        assert_eq!(lru.put(1, 'd'), Some('a'));
        assert_eq!((lru.get(&1), lru.get(&3)), (Some('d'), Some('c')));
    }
}
