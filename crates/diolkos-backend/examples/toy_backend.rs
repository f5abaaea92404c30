// SPDX-License-Identifier: Apache-2.0
//! A complete toy backend: it loads `*.upper` files and upper-cases text.
//!
//! `docs/howto-add-a-backend.md` walks through this file. Run it with
//! `cargo run -p diolkos-backend --example toy_backend`; test it with
//! `cargo nextest run -p diolkos-backend --examples`.

#![forbid(unsafe_code)]

use std::error::Error;
use std::sync::Arc;

use diolkos_backend::conformance::{SampleModel, Suite, run_once};
use diolkos_backend::{
    Backend, Format, LoadError, LoadOptions, ModelFiles, Operation, RunError, Tensor, Work,
};
use diolkos_types::{BytesElements, DataType, Dim, Shape, Signature, TensorSpec, push_bytes_element};

const NAME: &str = "upper";

/// The first line of every `*.upper` file.
const MAGIC: &str = "upper 1";

/// Step 1: the backend. It says what it loads, and turns files into operations.
struct UpperBackend;

impl Backend for UpperBackend {
    fn name(&self) -> &'static str {
        NAME
    }

    fn formats(&self) -> &[Format] {
        &[Format { extension: "upper", platform: "upper_toy" }]
    }

    fn load(&self, files: &ModelFiles, options: &LoadOptions) -> Result<Arc<dyn Operation>, LoadError> {
        let suffix = parse(files.entry_contents()?)?;
        let operation = Upper::new(suffix, options.variable_dim_max);
        let (needed, limit) = (operation.resident_bytes(), options.resident_bytes_max);
        if needed > limit {
            return Err(LoadError::TooLarge { needed, limit });
        }
        Ok(Arc::new(operation))
    }
}

/// Step 2: the parser, a plain function over hostile bytes. After the magic line comes a suffix that is
/// appended to every element.
fn parse(contents: &[u8]) -> Result<String, LoadError> {
    let invalid = |reason: &str| LoadError::Invalid { reason: reason.into() };
    let text = std::str::from_utf8(contents).map_err(|_| invalid("it is not UTF-8 text"))?;
    match text.split_once('\n') {
        Some((MAGIC, suffix)) => Ok(suffix.trim_end().into()),
        Some(_) | None => Err(invalid("line 1 must be `upper 1`")),
    }
}

/// Step 3: the operation. It holds what was loaded and never changes, so any number of threads may run it.
struct Upper {
    signature: Signature,
    suffix: String,
}

impl Upper {
    fn new(suffix: String, variable_dim_max: u64) -> Upper {
        let spec = |name| TensorSpec::new(name, DataType::Bytes, &[Dim::Variable { max: variable_dim_max }]);
        Upper {
            signature: Signature { inputs: [spec("text")].into(), outputs: [spec("upper")].into() },
            suffix,
        }
    }

    fn payload(&self, payload: &[u8]) -> Result<Vec<u8>, RunError> {
        let mut out = Vec::with_capacity(payload.len());
        for (index, element) in BytesElements::new(payload).enumerate() {
            let element = element.map_err(|error| RunError::InvalidInput {
                tensor: "text".into(),
                reason: format!("is damaged: {error}"),
            })?;
            let mut element = element.to_ascii_uppercase();
            element.extend_from_slice(self.suffix.as_bytes());
            push_bytes_element(&mut out, &element).map_err(|_| RunError::InvalidInput {
                tensor: "text".into(),
                reason: format!("has an element {index} that is too long for a suffix"),
            })?;
        }
        Ok(out)
    }
}

impl Operation for Upper {
    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn resident_bytes(&self) -> u64 {
        self.suffix.len() as u64
    }

    /// The length of text is not in its shape, so this can't be told.
    fn peak_bytes(&self, _shapes: &[Option<Shape>], _input_bytes: u64) -> Option<u64> {
        None
    }

    fn run(&self, work: &mut Work) -> Result<(), RunError> {
        work.check_cancelled()?;
        let Some(input) = work.input(0) else {
            return Err(RunError::InvalidInput { tensor: "text".into(), reason: "is missing".into() });
        };
        // `to_private` copies once if a tenant could still write the memory, and not at all otherwise.
        let (shape, payload) = (input.shape, input.data.to_private());
        work.compute_begins();
        let upper = self.payload(&payload)?;
        work.compute_ends();
        if work.wants(0) {
            work.output(&self.signature, 0, DataType::Bytes, shape, upper.len())?.give(upper);
        }
        Ok(())
    }
}

/// Step 4: the suite. `Suite` finds what was forgotten.
fn sample() -> SampleModel {
    SampleModel::new("shout", ModelFiles::single("shout.upper", &b"upper 1\n!"[..]))
}

/// `hello` and `world`, shouted.
fn shout() -> Result<Vec<String>, Box<dyn Error>> {
    let files = ModelFiles::single("shout.upper", &b"upper 1\n!"[..]);
    let options = LoadOptions { variable_dim_max: 16, resident_bytes_max: 1 << 20 };
    let operation = UpperBackend.load(&files, &options)?;
    let mut payload = Vec::new();
    for word in ["hello", "world"] {
        push_bytes_element(&mut payload, word.as_bytes())?;
    }
    let text = Tensor { data_type: DataType::Bytes, shape: Shape::new(&[2])?, data: payload.into() };
    let outputs = run_once(&*operation, vec![Some(text)])?;
    let upper = outputs.into_iter().flatten().next().ok_or("no output was given")?.data.to_private();
    BytesElements::new(&upper).map(|element| Ok(String::from_utf8(element?.to_vec())?)).collect()
}

fn main() -> Result<(), Box<dyn Error>> {
    println!("{}", shout()?.join(" "));
    let report = Suite::for_backend(Arc::new(UpperBackend)).model(sample()).run();
    println!("{report}");
    if report.failed().is_empty() { Ok(()) } else { Err("the toy backend does not conform".into()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_shouts() {
        assert_eq!(shout().unwrap(), ["HELLO!", "WORLD!"]);
    }

    #[test]
    fn it_says_what_is_wrong_with_a_file() {
        let error = parse(b"lower 1\n").unwrap_err();
        assert_eq!(error.to_string(), "not a valid model: line 1 must be `upper 1`");
    }

    #[test]
    fn it_conforms() {
        Suite::for_backend(Arc::new(UpperBackend)).model(sample()).run().assert_conforms();
    }
}
