// SPDX-License-Identifier: Apache-2.0
//! The `diolkos` executable. All it does is in the library beside it.

#![forbid(unsafe_code)]

fn main() -> std::process::ExitCode {
    diolkos::main()
}
