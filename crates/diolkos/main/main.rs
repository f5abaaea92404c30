// SPDX-License-Identifier: Apache-2.0
//! The `diolkos` executable: the library beside it, and an allocator.

#![deny(unsafe_code)]

#[allow(unsafe_code, reason = "an allocator is an unsafe trait, and mimalloc is C")]
mod allocator;

#[global_allocator]
static ALLOCATOR: allocator::GivesBack = allocator::GivesBack;

fn main() -> std::process::ExitCode {
    diolkos::main()
}
