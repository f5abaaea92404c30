// SPDX-License-Identifier: Apache-2.0
//! The `diolkos` executable. All it does is in the library beside it.

#![forbid(unsafe_code)]

/// Tensors are large blocks that live for one request and are freed by another thread than the one that
/// made them. glibc gives such memory back to the system at once and faults it in again for the next
/// request, page by page: 70 to 100 faults and a third of the CPU time of a REST echo of 602 kB, with eight
/// clients on two cores. This one keeps it for a second and then gives it back.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    diolkos::main()
}
