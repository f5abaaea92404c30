// SPDX-License-Identifier: Apache-2.0
//! Shared libraries that later backends could use: whether they are there, never opened.

use std::path::{Path, PathBuf};

use super::Finding;

/// Name for people, and how the file's name begins.
const LIBRARIES: [(&str, &str); 6] = [
    ("ONNX Runtime", "libonnxruntime.so"),
    ("LiteRT", "libLiteRt.so"),
    ("TensorFlow", "libtensorflow_cc.so"),
    ("LibTorch", "libtorch_cpu.so"),
    ("CUDA driver", "libcuda.so"),
    ("OpenCL", "libOpenCL.so"),
];

/// Where the dynamic linker looks on the distributions we know, after `LD_LIBRARY_PATH`.
const DIRECTORIES: [&str; 8] = [
    "/usr/local/lib",
    "/usr/lib",
    "/usr/lib64",
    "/lib",
    "/lib64",
    "/usr/lib/x86_64-linux-gnu",
    "/usr/lib/aarch64-linux-gnu",
    "/usr/local/cuda/lib64",
];

pub(super) fn examine() -> Vec<Finding> {
    let mut directories: Vec<PathBuf> = std::env::var_os("LD_LIBRARY_PATH")
        .map(|paths| std::env::split_paths(&paths).filter(|path| !path.as_os_str().is_empty()).collect())
        .unwrap_or_default();
    directories.extend(DIRECTORIES.map(PathBuf::from));
    let found: Vec<String> = LIBRARIES
        .iter()
        .filter_map(|(name, begins)| Some(format!("{name} ({})", find(begins, &directories)?.display())))
        .collect();
    let found = if found.is_empty() { "none".to_owned() } else { found.join(", ") };
    vec![Finding::ok("libraries", format!("{found}; this build uses none of them"))]
}

fn find(begins: &str, directories: &[PathBuf]) -> Option<PathBuf> {
    directories.iter().find_map(|directory| find_in(begins, directory))
}

fn find_in(begins: &str, directory: &Path) -> Option<PathBuf> {
    let entries = std::fs::read_dir(directory).ok()?;
    let mut names: Vec<PathBuf> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(begins)))
        .collect();
    names.sort();
    names.into_iter().next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_a_library_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let directories = [dir.path().join("missing"), dir.path().to_path_buf()];
        assert_eq!(find("libonnxruntime.so", &directories), None);
        std::fs::write(dir.path().join("libonnxruntime.so.1.20"), "").unwrap();
        assert_eq!(find("libonnxruntime.so", &directories), Some(dir.path().join("libonnxruntime.so.1.20")));
    }
}
