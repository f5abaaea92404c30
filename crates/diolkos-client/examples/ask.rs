// SPDX-License-Identifier: Apache-2.0
//! Asks a model once, with zeroes, and shows what it gives.
//!
//! ```text
//! cargo run -p diolkos-client --example ask -- env echo
//! ```
//!
//! As a static executable of little more than a megabyte, which runs in an empty container:
//!
//! ```text
//! RUSTFLAGS="-C target-feature=+crt-static" cargo build -p diolkos-client --example ask --profile small \
//!     --target x86_64-unknown-linux-gnu
//! ```

#![forbid(unsafe_code)]

use std::process::ExitCode;

use diolkos_client::{Client, Error};

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let (address, model, memory) = match &args[..] {
        [address, model] => (address, model, false),
        [address, model, flag] if flag == "--memory" => (address, model, true),
        _ => {
            eprintln!("usage: ask ADDRESS MODEL [--memory], such as: ask env echo");
            return ExitCode::from(2);
        }
    };
    match ask(address, model) {
        Ok(()) => {
            if memory {
                println!("{}", own_memory());
            }
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("ask: {error}");
            ExitCode::FAILURE
        }
    }
}

fn ask(address: &str, name: &str) -> Result<(), Error> {
    let client = Client::connect(address)?;
    let model = client.open(name)?;
    let mut inputs = Vec::new();
    for spec in model.inputs() {
        // An open dimension becomes 1.
        let dims: Vec<u64> = spec.signed_dims().iter().map(|&dim| u64::try_from(dim).unwrap_or(1)).collect();
        let elements: u64 = dims.iter().product();
        let bytes =
            usize::try_from(elements).unwrap_or(usize::MAX) * spec.data_type.element_bytes().unwrap_or(4);
        let mut tensor = client.tensor_of(spec.data_type, &dims, bytes)?;
        tensor.bytes_mut().fill(0);
        inputs.push((spec.name.to_string(), tensor));
    }
    let reply = model.infer(inputs)?;
    for output in reply.outputs() {
        println!(
            "{} {} {:?}: {} bytes",
            output.name(),
            output.data_type(),
            output.shape(),
            output.bytes().len()
        );
    }
    println!("version {}, computed in {} µs", reply.version, reply.timing.compute_ns / 1000);
    Ok(())
}

/// Bytes of this process that are resident and no shared memory file.
fn own_memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let kilobytes = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()
    };
    (kilobytes("RssAnon:").unwrap_or(0) + kilobytes("RssFile:").unwrap_or(0)) * 1024
}
