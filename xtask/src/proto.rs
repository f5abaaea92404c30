// SPDX-License-Identifier: Apache-2.0
//! `cargo xtask proto`: turns `inference.proto` into Rust, without protoc.
//!
//! The result is committed, so that building Diolkos needs neither this compiler nor its dependencies.
//! A test here says when the committed file is older than the `.proto`.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

const PROTO_DIR: &str = "crates/diolkos-server/proto";
const PROTO_FILE: &str = "inference.proto";
const GENERATED_DIR: &str = "crates/diolkos-server/src/grpc/pb";
/// prost names the file after the package.
const GENERATED_FILE: &str = "inference.rs";

const HEADER: &str = "// SPDX-License-Identifier: Apache-2.0
//! Generated from `proto/inference.proto` by `cargo xtask proto`; change that file instead.

";

/// Why nothing was generated.
#[derive(Debug)]
pub(crate) enum ProtoError {
    /// The `.proto` file has a mistake.
    Compile(Box<protox::Error>),
    /// A file can't be read or written.
    Io {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

impl std::fmt::Display for ProtoError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            // The debug form of this error carries file, line and column.
            ProtoError::Compile(error) => write!(f, "{error:?}"),
            ProtoError::Io { path, source } => write!(f, "{}: {source}", path.display()),
        }
    }
}

impl std::error::Error for ProtoError {}

/// Generates the committed file anew and returns its path.
pub(crate) fn generate(root: &Path) -> Result<PathBuf, ProtoError> {
    generate_into(root, &root.join(GENERATED_DIR))
}

fn generate_into(root: &Path, out_dir: &Path) -> Result<PathBuf, ProtoError> {
    let descriptors = protox::compile([PROTO_FILE], [root.join(PROTO_DIR)])
        .map_err(|error| ProtoError::Compile(Box::new(error)))?;
    let path = out_dir.join(GENERATED_FILE);
    let at_path = |source| ProtoError::Io { path: path.clone(), source };
    fs::create_dir_all(out_dir).map_err(at_path)?;
    tonic_prost_build::configure()
        // Payloads stay in the memory they were received in.
        .bytes(".")
        // Bounds what a message may decode to; see there.
        .codec_path("crate::grpc::codec::BoundedCodec")
        .out_dir(out_dir)
        .compile_fds(descriptors)
        .map_err(at_path)?;
    let generated = fs::read_to_string(&path).map_err(at_path)?;
    // A `.rs` file that is a module of its own may carry `//!`, one that is included may not; prost
    // begins with a plain comment, so ours goes in front.
    fs::write(&path, format!("{HEADER}{generated}")).map_err(at_path)?;
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_committed_file_is_what_the_proto_says() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        let scratch = std::env::temp_dir().join(format!("diolkos-xtask-proto-{}", std::process::id()));
        let fresh = generate_into(root, &scratch).unwrap_or_else(|error| panic!("{error}"));
        let fresh = fs::read_to_string(fresh).unwrap();
        fs::remove_dir_all(&scratch).unwrap();
        let committed = fs::read_to_string(root.join(GENERATED_DIR).join(GENERATED_FILE)).unwrap();
        let line = fresh.lines().zip(committed.lines()).position(|(a, b)| a != b);
        assert!(
            fresh == committed,
            "{GENERATED_DIR}/{GENERATED_FILE} differs from {PROTO_DIR}/{PROTO_FILE} from line {:?} on: \
             run `cargo xtask proto` and commit the result",
            line.map(|index| index + 1)
        );
    }
}
