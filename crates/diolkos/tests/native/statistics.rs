// SPDX-License-Identifier: Apache-2.0
//! Statistics of a model over the native channel: a tenant sees what it did itself, and whoever may read metrics sees
//! everybody.

use diolkos_client::{AnyTensor, Client, Memory, ModelStats, Options};

use crate::support::Fixture;
use crate::tenants::connect;

const NONE: [(&str, AnyTensor); 0] = [];

const TENANTS: &str = "\
listen = [{ address = \"unix:DIR/a.sock\", tenant = \"a\" }, { address = \"unix:DIR/b.sock\", tenant = \"b\" }, { address = \"unix:DIR/operator.sock\", tenant = \"operator\" }]
[tenants.a]
leases.all = { kind = \"compute\", operations = [\"noop\", \"echo\"] }
[tenants.b]
leases.all = { kind = \"compute\", operations = [\"noop\", \"echo\"] }
[tenants.operator]
metrics = true
leases.all = { kind = \"compute\", operations = [\"noop\", \"echo\"] }
";

fn told(client: &Client) -> Vec<ModelStats> {
    let mut all = client.stats(None).unwrap();
    for name in ["noop", "echo"] {
        all.extend(client.stats(Some(name)).unwrap());
    }
    all
}

/// What succeeded, failed and ran, of `noop` and of `echo`.
fn counts(client: &Client) -> [[u64; 3]; 2] {
    ["noop", "echo"].map(|name| {
        let of = &client.stats(Some(name)).unwrap()[0];
        [of.succeeded, of.failed, of.executions]
    })
}

/// Requests for `noop` that succeed, and one for `echo` that does not.
fn use_it(client: &Client, successes: usize) {
    let noop = client.open("noop").unwrap();
    (0..successes).for_each(|_| drop(noop.infer(NONE).unwrap()));
    client.open("echo").unwrap().infer(NONE).unwrap_err();
}

#[test]
fn what_others_do_does_not_show_in_statistics() {
    let fixture = Fixture::start(TENANTS);
    let of = |tenant, memory| connect(&fixture, tenant, Options { memory, ..Options::default() });
    let (a, operator) = (of("a", Memory::Shared), of("operator", Memory::Shared));
    // Through the ring, and over the stream.
    let hostile = [of("b", Memory::Shared), of("b", Memory::Private)];
    let unused = told(&a);
    // So many that the operation is known to be short.
    hostile.iter().for_each(|client| use_it(client, 100));
    assert_eq!(told(&a), unused);
    assert_eq!(counts(&a), [[0; 3]; 2]);
    use_it(&a, 3);
    let used = told(&a);
    hostile.iter().for_each(|client| use_it(client, 2));
    assert_eq!(told(&a), used);
    assert_eq!(counts(&a), [[3, 0, 3], [0, 1, 0]]);
    assert_eq!(counts(&hostile[0]), [[204, 0, 204], [0, 4, 0]]);
    assert_eq!(counts(&operator), [[207, 0, 207], [0, 5, 0]]);
}
