// SPDX-License-Identifier: Apache-2.0
//! A priority queue whose entries can be moved and taken out. Each has a small number of the caller's, such as a place in a
//! [`slab::Slab`], and the queue knows where that stands, so nothing is searched and nothing is allocated for an entry.

/// Children of a node: with four, a heap is half as deep as with two, and siblings share a cache line or two.
const WAYS: usize = 4;

/// A number that is not here.
const NOWHERE: u32 = u32::MAX;

/// Numbers by key, the least first.
#[derive(Clone, Debug)]
pub(super) struct Heap<K> {
    items: Vec<(K, u32)>,
    /// Of each number: where it stands in `items`.
    places: Vec<u32>,
}

impl<K> Default for Heap<K> {
    fn default() -> Heap<K> {
        Heap { items: Vec::new(), places: Vec::new() }
    }
}

impl<K: Ord + Copy> Heap<K> {
    /// Whether nothing is here.
    pub(super) fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// The least key, and whose it is.
    pub(super) fn first(&self) -> Option<(K, usize)> {
        self.items.first().map(|&(key, number)| (key, number as usize))
    }

    /// Gives a number a key, whether it had one or not.
    pub(super) fn set(&mut self, number: usize, key: K) {
        if self.places.len() <= number {
            self.places.resize(number + 1, NOWHERE);
        }
        let mut at = self.places[number] as usize;
        if self.places[number] == NOWHERE {
            at = self.items.len();
            self.items.push((key, u32::try_from(number).expect("numbers are small")));
            self.up(at);
        } else if key < self.items[at].0 {
            self.items[at].0 = key;
            self.up(at);
        } else {
            self.items[at].0 = key;
            self.down(at);
        }
    }

    /// Takes a number out, if it is here.
    pub(super) fn remove(&mut self, number: usize) {
        let Some(place) = self.places.get_mut(number).filter(|place| **place != NOWHERE) else { return };
        let at = std::mem::replace(place, NOWHERE) as usize;
        let last = self.items.pop().expect("it is here");
        let Some(gone) = self.items.get_mut(at) else { return };
        let rises = last.0 < gone.0;
        *gone = last;
        if rises { self.up(at) } else { self.down(at) }
    }

    /// Moves the item at a place to the front as far as it belongs.
    fn up(&mut self, mut at: usize) {
        let item = self.items[at];
        while at > 0 {
            let above = (at - 1) / WAYS;
            if self.items[above].0 <= item.0 {
                break;
            }
            self.put(at, self.items[above]);
            at = above;
        }
        self.put(at, item);
    }

    /// Moves the item at a place to the back as far as it belongs.
    fn down(&mut self, mut at: usize) {
        let item = self.items[at];
        loop {
            let first = at * WAYS + 1;
            let below = first..(first + WAYS).min(self.items.len());
            let Some(least) = below.min_by_key(|&below| self.items[below].0) else { break };
            if item.0 <= self.items[least].0 {
                break;
            }
            self.put(at, self.items[least]);
            at = least;
        }
        self.put(at, item);
    }

    fn put(&mut self, at: usize, item: (K, u32)) {
        self.items[at] = item;
        self.places[item.1 as usize] = at as u32;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_first_is_the_least_whatever_moves(moves in proptest::collection::vec((0usize..30, 0u32..50, 0u32..4), 0..300)) {
            let mut heap = Heap::default();
            let mut plain: BTreeMap<usize, (u32, usize)> = BTreeMap::new();
            for (number, key, what) in moves {
                if what == 0 {
                    heap.remove(number);
                    plain.remove(&number);
                } else {
                    // Two never have the same key, so that there is one order.
                    heap.set(number, (key, number));
                    plain.insert(number, (key, number));
                }
                let least = plain.iter().map(|(number, key)| (*key, *number)).min();
                prop_assert_eq!(heap.first(), least);
                prop_assert_eq!(heap.is_empty(), plain.is_empty());
            }
            let mut order = Vec::new();
            while let Some((key, number)) = heap.first() {
                order.push(key);
                heap.remove(number);
            }
            prop_assert!(order.is_sorted() && order.len() == plain.len());
        }
    }
}
