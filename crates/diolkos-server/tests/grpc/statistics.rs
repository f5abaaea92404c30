// SPDX-License-Identifier: Apache-2.0
//! Statistics of a model over gRPC: a tenant sees what it did itself, and whoever may read metrics sees everybody.

use diolkos_server::grpc::pb::{ModelStatistics, ModelStatisticsRequest};
use tonic::Code;

use crate::support::{Client, named, start};

const TENANTS: &str = "\
listen = [{ address = \"unix:DIR/a.sock\", tenant = \"a\" }, { address = \"unix:DIR/b.sock\", tenant = \"b\" }, { address = \"unix:DIR/operator.sock\", tenant = \"operator\" }]
[tenants.a]
leases.all = { kind = \"compute\", operations = [\"echo\"] }
[tenants.b]
leases.all = { kind = \"compute\", operations = [\"echo\"] }
[tenants.operator]
metrics = true
leases.all = { kind = \"compute\", operations = [\"echo\"] }
";

/// What is told of `echo`, asked by its name and for all that there is.
async fn told(client: &mut Client) -> [ModelStatistics; 2] {
    let mut told = Vec::new();
    for name in ["echo", ""] {
        let request = ModelStatisticsRequest { name: name.into(), version: String::new() };
        let mut stats = client.model_statistics(request).await.unwrap().into_inner().model_stats;
        assert_eq!(stats.len(), 1);
        // Told by two clocks, so it moves by a millisecond; that it is 0 is exact.
        stats[0].last_inference = stats[0].last_inference.min(1);
        told.append(&mut stats);
    }
    told.try_into().unwrap()
}

fn counts(stats: &ModelStatistics) -> [u64; 4] {
    let of = stats.inference_stats.unwrap();
    [of.success.unwrap().count, of.fail.unwrap().count, stats.inference_count, stats.execution_count]
}

/// Requests that succeed, and one that does not.
async fn use_it(client: &mut Client, successes: u64) {
    for _ in 0..successes {
        client.model_infer(named("echo", "x")).await.unwrap();
    }
    let mut wrong = named("echo", "x");
    wrong.inputs[0].shape = vec![9];
    assert_eq!(client.model_infer(wrong).await.unwrap_err().code(), Code::InvalidArgument);
}

#[tokio::test]
async fn what_others_do_does_not_show_in_statistics() {
    let fixture = start(TENANTS).await;
    let (mut a, mut b) = (fixture.client_at("a.sock").await, fixture.client_at("b.sock").await);
    let mut operator = fixture.client_at("operator.sock").await;
    let unused = told(&mut a).await;
    use_it(&mut b, 3).await;
    assert_eq!(told(&mut a).await, unused);
    assert_eq!((counts(&unused[0]), unused[0].last_inference), ([0; 4], 0));
    use_it(&mut a, 1).await;
    let used = told(&mut a).await;
    use_it(&mut b, 2).await;
    assert_eq!(told(&mut a).await, used);
    assert_eq!(counts(&used[0]), [1, 1, 1, 1]);
    assert_eq!(counts(&told(&mut b).await[0]), [5, 2, 5, 5]);
    let all = told(&mut operator).await;
    assert_eq!((counts(&all[0]), counts(&all[1])), ([6, 3, 6, 6], [6, 3, 6, 6]));
    fixture.end().await;
}
