// SPDX-License-Identifier: Apache-2.0
//! Outputs of a model for people: a table with the first values, and the best classes where it looks like some.

use std::fmt::Write as _;

use diolkos_types::DataType;
use serde::Serialize;

use crate::tensor::{Value, significant};
use crate::term::{Lean, Paint, Table};

/// How many values of an output are shown.
const VALUES_SHOWN: usize = 6;

/// One of the best classes.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Class {
    pub(super) index: usize,
    pub(super) score: f64,
    /// Its name, if the model has names.
    pub(super) label: Option<String>,
}

/// The `count` best classes of an output, if it looks like the scores of one thing: one row of
/// floating-point numbers, at least two.
pub(super) fn best(value: &Value, labels: Option<&[String]>, count: usize) -> Option<Vec<Class>> {
    let float = matches!(value.data_type, DataType::Fp16 | DataType::Bf16 | DataType::Fp32 | DataType::Fp64);
    let long = value.shape.dims().iter().filter(|length| **length != 1).count();
    if !float || long != 1 || count == 0 {
        return None;
    }
    let scores = value.numbers().filter(|scores| scores.len() >= 2)?;
    let mut classes: Vec<(usize, f64)> = scores.into_iter().enumerate().collect();
    // A NaN is no best class, and the first of equals wins.
    let key = |score: f64| if score.is_nan() { f64::NEG_INFINITY } else { score };
    classes.sort_by(|a, b| key(b.1).total_cmp(&key(a.1)).then(a.0.cmp(&b.0)));
    let class =
        |(index, score)| Class { index, score, label: labels.and_then(|labels| labels.get(index).cloned()) };
    Some(classes.into_iter().take(count).map(class).collect())
}

/// A table of outputs.
pub(super) fn outputs(values: &[Value], paint: Paint) -> String {
    let mut table = Table::new(&[
        ("OUTPUT", Lean::Left),
        ("TYPE", Lean::Left),
        ("SHAPE", Lean::Left),
        ("VALUES", Lean::Left),
    ]);
    for value in values {
        let shape = value.shape.to_string();
        table.row(vec![value.name.clone(), value.data_type.to_string(), shape, first_values(value)], None);
    }
    let mut out = Vec::new();
    table.write(&mut out, paint).expect("writing to memory does not fail");
    String::from_utf8(out).expect("cells are text")
}

fn first_values(value: &Value) -> String {
    let shown: Vec<String> = value.elements().take(VALUES_SHOWN).map(|element| element.show()).collect();
    let total = value.shape.elements().unwrap_or(0);
    let mut text = shown.join(" ");
    if total > VALUES_SHOWN as u64 {
        // Writing to a String can't fail.
        let _ = write!(text, " … ({total})");
    }
    text
}

/// The best classes of one output, a line each.
pub(super) fn classes(output: &str, classes: &[Class]) -> String {
    let mut text = format!("{output}, best first:\n");
    for class in classes {
        let label = class.label.as_ref().map(|label| format!("  {label}")).unwrap_or_default();
        // Writing to a String can't fail.
        let _ = writeln!(text, "{:>10}  {:>5}{label}", significant(class.score), class.index);
    }
    text
}

#[cfg(test)]
mod tests {
    use diolkos_types::Shape;

    use super::*;

    fn value(numbers: &[f32], dims: &[u64]) -> Value {
        let data: Vec<u8> = numbers.iter().flat_map(|x| x.to_le_bytes()).collect();
        Value {
            name: "y".into(),
            data_type: DataType::Fp32,
            shape: Shape::new(dims).unwrap(),
            data: data.into(),
        }
    }

    #[test]
    fn the_best_classes_with_their_names() {
        let scores = value(&[0.1, 0.7, f32::NAN, 0.7], &[1, 4]);
        let labels: Vec<String> = ["a", "b", "c"].map(Into::into).into();
        let best = best(&scores, Some(&labels), 3).unwrap();
        let shown: Vec<_> = best.iter().map(|class| (class.index, class.label.as_deref())).collect();
        assert_eq!(shown, [(1, Some("b")), (3, None), (0, Some("a"))]);
    }

    #[test]
    fn only_one_row_of_numbers_looks_like_scores() {
        assert!(best(&value(&[1.0, 2.0], &[2]), None, 1).is_some());
        assert!(best(&value(&[1.0, 2.0], &[1, 1, 1, 2]), None, 1).is_some());
        assert!(best(&value(&[1.0; 4], &[2, 2]), None, 1).is_none());
        assert!(best(&value(&[1.0], &[1, 1]), None, 1).is_none());
        assert!(best(&value(&[1.0, 2.0], &[2]), None, 0).is_none());
    }

    #[test]
    fn a_long_output_is_cut_short() {
        let text = outputs(&[value(&[0.5; 9], &[3, 3])], Paint::PLAIN);
        assert!(text.contains("[3,3]  0.5 0.5 0.5 0.5 0.5 0.5 … (9)"), "{text}");
    }
}
