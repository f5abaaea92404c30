// SPDX-License-Identifier: Apache-2.0
//! `--input`: files become tensors of the type and shape that a model wants.
//!
//! What a file is is told from its first bytes rather than its name. Nothing is converted silently into
//! another element type: JSON numbers must fit the model's type, and arrays of numpy keep theirs, so that the
//! daemon says what does not fit. Shapes are adapted only where nothing can be meant otherwise ([`fit`]).

mod image;
mod json;
mod npy;

use std::path::Path;

use diolkos_types::{DataType, Shape};

pub use image::{Fit, ImageOptions, Layout};
pub use npy::write as write_npy;

use crate::exit::Failure;
use crate::tensor::Value;

/// What a model says of one of its inputs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Name.
    pub name: String,
    /// Element type.
    pub data_type: DataType,
    /// Dimensions, -1 where they vary. A lone -1 may stand for any shape.
    pub dims: Vec<i64>,
}

/// Largest file that is read.
const FILE_BYTES_MAX: u64 = 4 << 30;

/// Why a file is no tensor.
#[derive(Debug, thiserror::Error)]
pub enum InputError {
    /// Neither npy, JSON, PNG nor JPEG.
    #[error("it is neither a .npy array, JSON, a PNG nor a JPEG")]
    UnknownFormat,
    /// The array can't be used.
    #[error("{0}")]
    Npy(String),
    /// The JSON can't be used.
    #[error("{0}")]
    Json(String),
    /// The picture can't be used.
    #[error("{0}")]
    Image(String),
}

/// Reads all `--input` arguments, each `name=file`, `name=[1,2]`, or only the part behind `=` where the
/// model has one input.
pub fn read_all(
    arguments: &[String],
    wanted: &[Wanted],
    images: &ImageOptions,
) -> Result<Vec<Value>, Failure> {
    let mut values: Vec<Value> = Vec::with_capacity(arguments.len());
    for argument in arguments {
        let (wanted, source) = split(argument, wanted)?;
        if values.iter().any(|value| value.name == wanted.name) {
            return Err(Failure::usage(format!("the input `{}` is given twice", wanted.name)));
        }
        values.push(read(wanted, source, images)?);
    }
    Ok(values)
}

fn split<'a>(argument: &'a str, wanted: &'a [Wanted]) -> Result<(&'a Wanted, &'a str), Failure> {
    // A name may contain `=`, so the longest one that fits counts.
    let named = wanted.iter().filter_map(|wanted| {
        let source = argument.strip_prefix(wanted.name.as_str())?.strip_prefix('=')?;
        Some((wanted, source))
    });
    if let Some(found) = named.max_by_key(|(wanted, _)| wanted.name.len()) {
        return Ok(found);
    }
    match wanted {
        [] => Err(Failure::usage("the model takes no inputs").help("leave --input out")),
        [only] if !argument.contains('=') || Path::new(argument).exists() => Ok((only, argument)),
        _ => {
            let names: Vec<String> = wanted.iter().map(|wanted| format!("`{}`", wanted.name)).collect();
            Err(Failure::usage(format!("--input {argument} names no input of the model"))
                .note(format!("its inputs are {}", names.join(", ")))
                .help("write --input NAME=FILE, with one of these names"))
        }
    }
}

fn read(wanted: &Wanted, source: &str, images: &ImageOptions) -> Result<Value, Failure> {
    let told = |error: InputError| {
        Failure::usage(format!("input `{}`: {source} can't be used", wanted.name)).because(&error)
    };
    if source.trim_start().starts_with('[') {
        return json::read(source.as_bytes(), wanted).map_err(told);
    }
    let contents = read_file(Path::new(source)).map_err(|error| {
        let failure = Failure::usage(format!("input `{}`: can't read {source}", wanted.name)).because(&error);
        failure.help("write NAME=FILE with a .npy, .json, .png or .jpg file, or NAME=[1,2,3]")
    })?;
    decode(&contents, wanted, images).map_err(told)
}

fn read_file(path: &Path) -> std::io::Result<Vec<u8>> {
    use std::io::Read as _;
    let mut contents = Vec::new();
    let file = std::fs::File::open(path)?;
    file.take(FILE_BYTES_MAX + 1).read_to_end(&mut contents)?;
    if contents.len() as u64 > FILE_BYTES_MAX {
        return Err(std::io::Error::other(format!("it has more than {FILE_BYTES_MAX} bytes")));
    }
    Ok(contents)
}

/// Turns the contents of a file into the tensor that is wanted.
pub fn decode(contents: &[u8], wanted: &Wanted, images: &ImageOptions) -> Result<Value, InputError> {
    match contents {
        [0x93, b'N', b'U', b'M', b'P', b'Y', ..] => npy::read(contents, wanted),
        [0x89, b'P', b'N', b'G', ..] | [0xff, 0xd8, ..] => image::read(contents, wanted, images),
        _ => {
            let first = contents.iter().find(|byte| !byte.is_ascii_whitespace());
            match first {
                Some(b'[' | b'{' | b'"' | b'-' | b'0'..=b'9' | b't' | b'f') => json::read(contents, wanted),
                _ => Err(InputError::UnknownFormat),
            }
        }
    }
}

/// The shape that is sent, for data of shape `given` when a model wants `dims`.
///
/// A missing batch dimension is added, and a flat list takes the model's shape if that leaves no choice.
/// Everything else is sent as it is, and the daemon says what does not fit.
fn fit(given: Shape, dims: &[i64]) -> Shape {
    let fits = |lengths: &[u64], dims: &[i64]| {
        lengths.len() == dims.len()
            && lengths.iter().zip(dims).all(|(&length, &dim)| dim < 0 || u64::try_from(dim) == Ok(length))
    };
    if dims == [-1] || fits(given.dims(), dims) {
        return given;
    }
    if let [-1 | 1, rest @ ..] = dims
        && fits(given.dims(), rest)
    {
        let lengths: Vec<u64> = std::iter::once(1).chain(given.dims().iter().copied()).collect();
        return Shape::new(&lengths).unwrap_or(given);
    }
    match given.dims() {
        [count] => spread(*count, dims).unwrap_or(given),
        _ => given,
    }
}

/// `count` elements in the shape `dims`, of which at most one may be open.
fn spread(count: u64, dims: &[i64]) -> Option<Shape> {
    let fixed = dims.iter().filter_map(|&dim| u64::try_from(dim).ok());
    let product = fixed.into_iter().try_fold(1u64, u64::checked_mul)?;
    let open = dims.iter().filter(|dim| **dim < 0).count();
    let rest = match open {
        0 if product == count => 1,
        1 if product > 0 && count.is_multiple_of(product) => count / product,
        _ => return None,
    };
    let lengths: Vec<u64> = dims.iter().map(|&dim| u64::try_from(dim).unwrap_or(rest)).collect();
    Shape::new(&lengths).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(name: &str, dims: &[i64]) -> Wanted {
        Wanted { name: name.into(), data_type: DataType::Fp32, dims: dims.into() }
    }

    #[test]
    fn shapes_are_adapted_only_without_a_choice() {
        let fit = |given: &[u64], dims: &[i64]| fit(Shape::new(given).unwrap(), dims).to_string();
        assert_eq!(fit(&[3, 4], &[-1, 4]), "[3,4]");
        assert_eq!(fit(&[3, 4], &[-1, 3, 4]), "[1,3,4]");
        assert_eq!(fit(&[3, 4], &[2, 3, 4]), "[3,4]");
        assert_eq!(fit(&[12], &[1, 3, 4]), "[1,3,4]");
        assert_eq!(fit(&[24], &[-1, 3, 4]), "[2,3,4]");
        assert_eq!(fit(&[25], &[-1, 3, 4]), "[25]");
        assert_eq!(fit(&[24], &[-1, -1, 4]), "[24]");
        assert_eq!(fit(&[7, 7], &[-1]), "[7,7]");
        assert_eq!(fit(&[5], &[-1, 0]), "[5]");
        assert_eq!(fit(&[5], &[i64::MAX, i64::MAX]), "[5]");
    }

    #[test]
    fn an_argument_names_an_input_or_is_the_only_one() {
        let two = [wanted("a", &[-1]), wanted("a=b", &[-1])];
        assert_eq!(split("a=b=x.npy", &two).unwrap().0.name, "a=b");
        assert_eq!(split("a=c", &two).unwrap(), (&two[0], "c"));
        let error = split("c=x", &two).unwrap_err().render(crate::term::Paint::PLAIN);
        assert!(error.contains("`a`, `a=b`"), "{error}");
        assert_eq!(split("x.npy", &two[..1]).unwrap(), (&two[0], "x.npy"));
        assert!(split("b=x.npy", &two[..1]).is_err());
        assert!(split("x.npy", &[]).is_err());
    }

    #[test]
    fn inline_json_and_repeated_names() {
        let one = [wanted("x", &[-1, 2])];
        let values = read_all(&["x=[1, 2]".into()], &one, &ImageOptions::default()).unwrap();
        assert_eq!(values[0].shape.dims(), [1, 2]);
        let error =
            read_all(&["x=[1,2]".into(), "[3,4]".into()], &one, &ImageOptions::default()).unwrap_err();
        assert!(error.render(crate::term::Paint::PLAIN).contains("given twice"));
    }

    #[test]
    fn unknown_contents_are_refused() {
        let error = decode(b"PK\x03\x04", &wanted("x", &[-1]), &ImageOptions::default()).unwrap_err();
        assert!(matches!(error, InputError::UnknownFormat));
        assert!(decode(b"", &wanted("x", &[-1]), &ImageOptions::default()).is_err());
    }
}
