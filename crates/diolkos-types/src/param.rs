// SPDX-License-Identifier: Apache-2.0
//! Parameters: small named values that travel beside the tensors.

use alloc::boxed::Box;
use alloc::vec::Vec;

/// One parameter's value.
#[derive(Clone, Debug, PartialEq)]
pub enum Param {
    /// True or false.
    Bool(bool),
    /// A signed integer.
    Int(i64),
    /// An unsigned integer.
    Uint(u64),
    /// A floating-point number.
    Double(f64),
    /// Text.
    Text(Box<str>),
}

/// Named parameters, few enough that a list beats a map. The last one set with a name counts.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Params(Vec<(Box<str>, Param)>);

impl Params {
    /// No parameters.
    #[must_use]
    pub const fn new() -> Params {
        Params(Vec::new())
    }

    /// Sets `name`, replacing what it was.
    pub fn set(&mut self, name: &str, value: Param) {
        match self.0.iter_mut().find(|(known, _)| &**known == name) {
            Some((_, old)) => *old = value,
            None => self.0.push((name.into(), value)),
        }
    }

    /// The value of `name`.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Param> {
        self.0.iter().find(|(known, _)| &**known == name).map(|(_, value)| value)
    }

    /// The value of `name` as a whole number, where it is one and not negative.
    #[must_use]
    pub fn get_uint(&self, name: &str) -> Option<u64> {
        match self.get(name)? {
            Param::Int(value) => u64::try_from(*value).ok(),
            Param::Uint(value) => Some(*value),
            Param::Bool(_) | Param::Double(_) | Param::Text(_) => None,
        }
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Memory that they take, in bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let one = |(name, value): &(Box<str>, Param)| {
            let text = if let Param::Text(text) = value { text.len() } else { 0 };
            size_of::<(Box<str>, Param)>() + name.len() + text
        };
        self.0.iter().map(one).sum()
    }

    /// Names and values, in the order in which they were first set.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Param)> {
        self.0.iter().map(|(name, value)| (&**name, value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_one_counts() {
        let mut params = Params::new();
        params.set("priority", Param::Int(1));
        params.set("priority", Param::Uint(2));
        assert_eq!(params.get_uint("priority"), Some(2));
        assert_eq!(params.iter().count(), 1);
        params.set("priority", Param::Int(-1));
        assert_eq!(params.get_uint("priority"), None);
    }

    #[test]
    fn text_takes_memory() {
        let mut params = Params::new();
        assert_eq!(params.bytes(), 0);
        params.set("prompt", Param::Text("x".repeat(1000).into()));
        assert!((1006..1100).contains(&params.bytes()), "{}", params.bytes());
    }
}
