// SPDX-License-Identifier: Apache-2.0
//! Names the shared library for the loader: programs that were linked with one of this name find no other.

#![deny(unsafe_code)]

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    // The number rises with a change that programs must be compiled again for: docs/c-api.md, "Versions".
    println!("cargo::rustc-cdylib-link-arg=-Wl,-soname,libdiolkos.so.0");
}
