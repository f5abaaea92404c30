// SPDX-License-Identifier: Apache-2.0
//! The example model and its images, carried inside the executable.

use std::io;
use std::path::Path;

macro_rules! example {
    ($($path:tt)+) => {
        include_bytes!(concat!("../../../../../examples/digits/", $($path)+))
    };
}

macro_rules! images {
    ($($name:literal)*) => {
        &[$((concat!($name, ".png"), example!(concat!("images/", $name, ".png")))),*]
    };
}

/// Name of the model.
pub(super) const MODEL: &str = "digits";

const MODEL_FILES: &[(&str, &[u8])] = &[
    ("models/digits/1/model.onnx", example!("models/digits/1/model.onnx")),
    ("models/digits/config.pbtxt", example!("models/digits/config.pbtxt")),
    ("models/digits/labels.txt", example!("models/digits/labels.txt")),
];

/// Name and contents; the digit behind `_` is the true one.
pub(super) const IMAGES: &[(&str, &[u8])] = images![
    "00_0" "01_0" "02_0" "03_0" "04_1" "05_1" "06_1" "07_1" "08_2" "09_2"
    "10_2" "11_2" "12_3" "13_3" "14_3" "15_3" "16_4" "17_4" "18_4" "19_4"
    "20_5" "21_5" "22_5" "23_5" "24_6" "25_6" "26_6" "27_6" "28_7" "29_7"
    "30_7" "31_7" "32_8" "33_8" "34_8" "35_8" "36_9" "37_9" "38_9" "39_9"
];

/// The digit that an image shows, from its name.
pub(super) fn label_of(name: &str) -> Option<u32> {
    name.strip_suffix(".png")?.rsplit_once('_')?.1.parse().ok()
}

/// Writes `models/` and `images/` into a directory.
pub(super) fn write(dir: &Path) -> io::Result<()> {
    std::fs::create_dir_all(dir.join("models/digits/1"))?;
    std::fs::create_dir_all(dir.join("images"))?;
    for (name, contents) in MODEL_FILES {
        std::fs::write(dir.join(name), contents)?;
    }
    for (name, contents) in IMAGES {
        std::fs::write(dir.join("images").join(name), contents)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_is_the_directory() {
        let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/digits/images");
        let mut names: Vec<String> = std::fs::read_dir(dir)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        assert_eq!(names, IMAGES.iter().map(|(name, _)| *name).collect::<Vec<_>>());
        assert!(names.iter().all(|name| label_of(name).is_some_and(|label| label < 10)));
    }

    #[test]
    fn everything_is_written() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path()).unwrap();
        assert_eq!(std::fs::read_dir(dir.path().join("images")).unwrap().count(), IMAGES.len());
        assert!(dir.path().join("models/digits/1/model.onnx").metadata().unwrap().len() > 10_000);
    }
}
