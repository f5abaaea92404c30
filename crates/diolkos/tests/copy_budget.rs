// SPDX-License-Identifier: Apache-2.0
//! The copy budget of the native channel: an input is copied once, to where its tenant can't write, and an output once
//! at most. Counted by the daemon's metric of bytes copied from and to regions, and by an allocator that counts: a copy
//! that the metric doesn't see needs a place, so it shows there.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::sync::atomic::{AtomicU64, Ordering};

use diolkos_client::{AnyTensor, Client, Model};

use crate::support::Fixture;

#[path = "native/certificates.rs"]
mod certificates;
#[allow(dead_code, reason = "other tests use the rest")]
#[path = "native/support.rs"]
mod support;

/// From this size on, allocations are counted.
const LARGE: usize = 64 << 10;

static LARGE_ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

/// The system's allocator, and a count.
struct Counting;

fn count(size: usize) {
    if size >= LARGE {
        LARGE_ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
    }
}

// SAFETY: every call is handed on as it is to `System`, which keeps the contract of `GlobalAlloc`.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        // SAFETY: the caller keeps the contract of this very function.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        // SAFETY: the caller keeps the contract of this very function.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(size);
        // SAFETY: the caller keeps the contract of this very function.
        unsafe { System.realloc(pointer, layout, size) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps the contract of this very function.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Bytes that the daemon has copied from and to regions.
fn copied(fixture: &Fixture) -> [u64; 2] {
    let mut stream = TcpStream::connect(fixture.tcp.strip_prefix("tcp:").unwrap()).unwrap();
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: daemon\r\nConnection: close\r\n\r\n").unwrap();
    let mut page = String::new();
    stream.read_to_string(&mut page).unwrap();
    ["in", "out"].map(|direction| {
        let name = format!("diolkos_channel_copied_bytes_total{{direction=\"{direction}\"}} ");
        let line = page.lines().find_map(|line| line.strip_prefix(&name));
        line.unwrap_or_else(|| panic!("{name} is not in {page}")).parse::<f64>().unwrap() as u64
    })
}

/// A request of an operation, what is copied for it, and large allocations that it may need.
struct Budget {
    operation: &'static str,
    inputs: Vec<(&'static str, Vec<u64>)>,
    bytes_in: u64,
    bytes_out: u64,
    allocations: u64,
}

fn budgets() -> Vec<Budget> {
    let floats = |dims: &[u64]| dims.iter().product::<u64>() * 4;
    let (a, b) = (vec![32, 2352], vec![2352, 32]);
    vec![
        Budget { operation: "noop", inputs: vec![], bytes_in: 0, bytes_out: 0, allocations: 0 },
        // It goes from one place to the other part by part.
        Budget {
            operation: "echo",
            inputs: vec![("data", vec![1 << 20])],
            bytes_in: 4 << 20,
            bytes_out: 4 << 20,
            allocations: 0,
        },
        Budget {
            operation: "minmax",
            inputs: vec![("data", vec![150_528])],
            bytes_in: 602_112,
            bytes_out: 0,
            allocations: 1,
        },
        // One for each matrix, and one where the library lays them out for its kernel; the product is small.
        Budget {
            operation: "blas.sgemm",
            bytes_in: floats(&a) + floats(&b),
            bytes_out: floats(&[32, 32]),
            inputs: vec![("A", a), ("B", b)],
            allocations: 3,
        },
    ]
}

fn inputs(client: &Client, model: &Model, budget: &Budget) -> Vec<(String, AnyTensor)> {
    let specs = model.inputs();
    let named = budget.inputs.iter().enumerate().map(|(at, (name, dims))| {
        let mut tensor = client.tensor::<f32>(dims).unwrap();
        tensor.fill(0.5);
        let known = specs.iter().any(|spec| &*spec.name == *name);
        (if known { (*name).to_owned() } else { specs[at].name.to_string() }, tensor.into())
    });
    named.collect()
}

#[test]
fn what_a_request_copies_and_allocates() {
    const REQUESTS: u64 = 50;
    let fixture = Fixture::start("");
    let client = fixture.client();
    for budget in budgets() {
        let model = client.open(budget.operation).unwrap();
        let mut tensors = Some(inputs(&client, &model, &budget));
        let names: Vec<String> = tensors.iter().flatten().map(|(name, _)| name.clone()).collect();
        let mut ask = |times: u64| {
            let mut out = 0;
            for _ in 0..times {
                let reply = model.infer(tensors.take().unwrap()).unwrap();
                out += reply.outputs().iter().map(|output| output.bytes().len() as u64).sum::<u64>();
                tensors = Some(names.iter().cloned().zip(reply.into_inputs()).collect());
            }
            out
        };
        // Buffers that are made once and kept: packed matrices, the room for outputs.
        ask(5);
        let (before, allocated) = (copied(&fixture), LARGE_ALLOCATIONS.load(Ordering::Relaxed));
        let out = ask(REQUESTS);
        let allocated = LARGE_ALLOCATIONS.load(Ordering::Relaxed) - allocated;
        let after = copied(&fixture);
        let operation = budget.operation;
        assert_eq!(after[0] - before[0], REQUESTS * budget.bytes_in, "{operation}: bytes copied in");
        assert_eq!(after[1] - before[1], out, "{operation}: bytes copied out are those of the outputs");
        if budget.bytes_out > 0 {
            assert_eq!(out, REQUESTS * budget.bytes_out, "{operation}");
        }
        assert_eq!(allocated, REQUESTS * budget.allocations, "{operation}: large allocations");
    }
}
