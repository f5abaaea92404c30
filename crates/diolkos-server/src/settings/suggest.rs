// SPDX-License-Identifier: Apache-2.0
//! "Did you mean": the known key that is nearest to an unknown one.

/// Names longer than this are not compared; the table below is quadratic in them.
const NAME_MAX: usize = 64;

/// The nearest of `known`, when one is near enough that it was probably meant.
pub(super) fn nearest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    if name.len() > NAME_MAX {
        return None;
    }
    let (distance, nearest) = known.into_iter().map(|known| (distance(name, known), known)).min()?;
    (distance <= 1 + name.chars().count() / 3).then_some(nearest)
}

/// Insertions, removals and replacements that turn one name into the other.
fn distance(from: &str, to: &str) -> usize {
    let to: Vec<char> = to.chars().collect();
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (index, letter) in from.chars().enumerate() {
        let mut above_left = std::mem::replace(&mut row[0], index + 1);
        for (column, &other) in to.iter().enumerate() {
            let replaced = above_left + usize::from(letter != other);
            above_left = row[column + 1];
            row[column + 1] = replaced.min(row[column] + 1).min(above_left + 1);
        }
    }
    row[to.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_what_was_meant_and_nothing_else() {
        let known = ["listen", "linger", "limits"];
        assert_eq!(nearest("lsten", known), Some("listen"));
        assert_eq!(nearest("limit", known), Some("limits"));
        assert_eq!(nearest("colour", known), None);
        assert_eq!(nearest(&"l".repeat(1000), known), None);
    }
}
