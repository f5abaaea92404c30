// SPDX-License-Identifier: Apache-2.0
//! "Did you mean": the known name that is nearest to an unknown one.

/// Names longer than this are not compared; nobody mistypes by accident that long.
const NAME_MAX: usize = 64;

/// ` (did you mean `x`?)` for the nearest of `known`, or nothing when none is near.
pub(crate) fn did_you_mean<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> String {
    let near =
        known.into_iter().filter(|known| known.len() <= NAME_MAX).map(|known| (distance(name, known), known));
    match near.min() {
        Some((distance, known)) if distance < name.chars().count().min(2 + name.len() / 4) => {
            format!(" (did you mean `{known}`?)")
        }
        _ => String::new(),
    }
}

/// Insertions, removals and replacements that turn one into the other.
fn distance(a: &str, b: &str) -> usize {
    if a.len() > NAME_MAX || b.len() > NAME_MAX {
        return usize::MAX;
    }
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, a) in a.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, &b) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(a != b);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn measures_and_suggests() {
        assert_eq!(distance("kitten", "sitting"), 3);
        assert_eq!(distance("", "abc"), 3);
        assert_eq!(
            did_you_mean("max_batchsize", ["name", "max_batch_size"]),
            " (did you mean `max_batch_size`?)"
        );
        assert_eq!(did_you_mean("zzzzzz", ["name", "input"]), "");
        assert_eq!(did_you_mean(&"x".repeat(1000), ["name"]), "");
        assert_eq!(did_you_mean("x", []), "");
    }
}
