// SPDX-License-Identifier: Apache-2.0
//! Evaluates tract's symbolic dimensions without overflow.
//!
//! tract's own evaluation multiplies 64-bit integers unchecked, and here the factors come from requests.

use tract_onnx::prelude::{Symbol, TDim};

/// Lengths of symbols.
#[derive(Debug, Default)]
pub(crate) struct Lengths(Vec<(Symbol, u64)>);

impl Lengths {
    /// Binds a symbol; `false` if it already has another length.
    pub(crate) fn bind(&mut self, symbol: &Symbol, length: u64) -> bool {
        match self.of(symbol) {
            Some(known) => known == length,
            None => {
                self.0.push((symbol.clone(), length));
                true
            }
        }
    }

    fn of(&self, symbol: &Symbol) -> Option<u64> {
        self.0.iter().find(|(known, _)| known == symbol).map(|&(_, length)| length)
    }

    /// The value of a dimension; `None` if it overflows or has an unbound symbol.
    pub(crate) fn eval(&self, dim: &TDim) -> Option<i128> {
        let all = |dims: &[TDim]| dims.iter().map(|d| self.eval(d)).collect::<Option<Vec<i128>>>();
        match dim {
            TDim::Val(value) => Some(i128::from(*value)),
            TDim::Sym(symbol) => self.of(symbol).map(i128::from),
            TDim::Add(terms) => all(terms)?.into_iter().try_fold(0i128, i128::checked_add),
            TDim::Mul(factors) => all(factors)?.into_iter().try_fold(1i128, i128::checked_mul),
            TDim::MulInt(factor, inner) => self.eval(inner)?.checked_mul(i128::from(*factor)),
            TDim::Div(inner, divisor) => self.eval(inner)?.checked_div(i128::from(*divisor)),
            TDim::Broadcast(dims) => {
                let lengths = all(dims)?;
                lengths.iter().copied().find(|&length| length != 1).or(lengths.first().copied())
            }
            TDim::Max(dims) => all(dims)?.into_iter().max(),
            TDim::Min(dims) => all(dims)?.into_iter().min(),
            TDim::Ge(left, right) => Some(i128::from(self.eval(left)? >= self.eval(right)?)),
            TDim::Eq(left, right) => Some(i128::from(self.eval(left)? == self.eval(right)?)),
        }
    }

    /// Bytes of a tensor with these dimensions.
    pub(crate) fn bytes(&self, dims: &[TDim], element_bytes: usize) -> Option<u64> {
        let mut bytes = element_bytes as u128;
        for dim in dims {
            // A dimension below zero has no tensor; tract will say so.
            bytes = bytes.checked_mul(u128::try_from(self.eval(dim)?.max(0)).ok()?)?;
        }
        u64::try_from(bytes).ok()
    }
}

#[cfg(test)]
mod tests {
    use tract_onnx::prelude::SymbolScope;

    use super::*;

    #[test]
    fn evaluates_without_overflow() {
        let scope = SymbolScope::default();
        let (n, m) = (scope.sym("n"), scope.sym("m"));
        let mut lengths = Lengths::default();
        assert!(lengths.bind(&n, 6) && lengths.bind(&n, 6) && !lengths.bind(&n, 7));
        let dim = (TDim::from(n.clone()) * 5 + 1) / 2;
        assert_eq!(lengths.eval(&dim), Some(15));
        assert_eq!(lengths.eval(&TDim::from(m.clone())), None);
        assert!(lengths.bind(&m, u64::MAX));
        let huge = vec![TDim::from(m.clone()), TDim::from(m.clone()), TDim::from(m)];
        assert_eq!(lengths.bytes(&huge, 8), None);
        assert_eq!(lengths.bytes(&[dim, TDim::Val(2)], 4), Some(120));
    }
}
