// SPDX-License-Identifier: Apache-2.0
//! The documents that every reader looks for, and the links between them.

use std::path::{Path, PathBuf};
use std::{fs, io};

const REQUIRED: &[&str] = &["README.md", "ARCHITECTURE.md", "CHANGELOG.md", "SECURITY.md", "LICENSE"];

/// Missing documents, and links in the Markdown files that lead to no file.
pub(super) fn check() -> io::Result<Vec<String>> {
    let root = crate::root();
    let mut problems: Vec<String> = REQUIRED
        .iter()
        .filter(|name| !root.join(name).is_file())
        .map(|name| format!("{name} does not exist"))
        .collect();
    for file in markdown_files(&root)? {
        let text = fs::read_to_string(&file)?;
        let folder = file.parent().unwrap_or(&root);
        for target in links(&text).filter(|target| !folder.join(target).exists()) {
            let file = file.strip_prefix(&root).unwrap_or(&file);
            problems.push(format!("{}: the link to '{target}' leads nowhere", file.display()));
        }
    }
    Ok(problems)
}

fn markdown_files(root: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = super::sources::files(&["docs", "examples"], "md")?;
    for entry in fs::read_dir(root)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "md") {
            files.push(path);
        }
    }
    Ok(files)
}

/// Targets of inline links to files, without fragments. Links with a scheme are not ours to check.
fn links(text: &str) -> impl Iterator<Item = &str> {
    text.split("](").skip(1).filter_map(|rest| {
        let target = rest.split([')', ' ', '\n']).next()?.split('#').next()?;
        (!target.is_empty() && !target.contains("://") && !target.starts_with("mailto:")).then_some(target)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_links_are_found_and_others_left_alone() {
        let text = "[a](docs/a.md#part) [b](https://example.org/b) [c](#here) ![d](d.svg \"title\")";
        assert_eq!(links(text).collect::<Vec<_>>(), ["docs/a.md", "d.svg"]);
    }
}
