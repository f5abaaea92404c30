// SPDX-License-Identifier: Apache-2.0
//! What happens when things take long or break: clients that go away, timeouts, a full daemon, failing backends.

use diolkos_backend::faulty::{Gate, RunFailure};

use super::*;

fn body() -> Value {
    json!({"inputs": [{"name": "data", "shape": [1], "datatype": "UINT8", "data": [1]}]})
}

/// Awaits a condition that another thread brings about.
pub(super) async fn until(mut holds: impl FnMut() -> bool) {
    while !holds() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_client_that_goes_away_takes_its_waiting_job_along() {
    let gate = Gate::new();
    let plan = Plan::always(RunFault::Hold(gate.clone()));
    let front = Front::with(Options { faults: plan.clone(), ..Options::default() });
    let path = "/v2/models/faulty/infer";
    let runs = tokio::spawn(front.send("POST", path, &[], body().to_string()));
    until(|| gate.waiting() == 1).await;
    let waits = tokio::spawn(front.send("POST", path, &[], body().to_string()));
    until(|| front.app.engine.devices()[0].waiting == 1).await;
    // The client goes away.
    waits.abort();
    assert!(waits.await.unwrap_err().is_cancelled());
    until(|| front.app.engine.devices()[0].waiting == 0).await;
    gate.open();
    assert_eq!(runs.await.unwrap().status, 200);
    assert_eq!(front.infer("faulty", &body()).await.status, 200);
    assert_eq!(plan.begun(), 2, "the first and the last ran, and the one in between never did");
    let stats = front.get("/v2/models/faulty/stats").await.json();
    assert_eq!(stats["model_stats"][0]["inference_stats"]["fail"]["count"], 1);
}

#[tokio::test]
async fn a_request_past_its_timeout_never_runs() {
    let gate = Gate::new();
    let plan = Plan::always(RunFault::Hold(gate.clone()));
    let front = Front::with(Options { faults: plan.clone(), ..Options::default() });
    let path = "/v2/models/faulty/infer";
    let runs = tokio::spawn(front.send("POST", path, &[], body().to_string()));
    until(|| gate.waiting() == 1).await;
    let mut late = body();
    late["parameters"] = json!({"timeout": 1, "priority": 1});
    assert!(front.infer("faulty", &late).await.error(504).contains("deadline"));
    gate.open();
    assert_eq!(runs.await.unwrap().status, 200);
    assert_eq!(plan.begun(), 1);
}

#[tokio::test]
async fn a_full_daemon_says_when_to_come_back() {
    let gate = Gate::new();
    let faults = Plan::always(RunFault::Hold(gate.clone()));
    let front = Front::with(Options { faults, requests_memory_max: 1500, ..Options::default() });
    let request =
        json!({"inputs": [{"name": "data", "shape": [500], "datatype": "UINT8", "data": vec![0; 500]}]});
    let runs = tokio::spawn(front.send("POST", "/v2/models/faulty/infer", &[], request.to_string()));
    until(|| gate.waiting() == 1).await;
    let busy = front.infer("faulty", &request).await;
    assert_eq!(busy.header("retry-after"), Some("1"));
    assert!(busy.error(429).contains("bytes"));
    gate.open();
    assert_eq!(runs.await.unwrap().status, 200);
    assert_eq!(front.infer("faulty", &request).await.status, 200);
}

#[tokio::test]
async fn failures_of_the_backend_have_their_status() {
    let faults = vec![
        RunFault::Panic,
        RunFault::WithoutOutputs,
        RunFault::Fail(RunFailure::ALL[0]),
        RunFault::Fail(RunFailure::ALL[1]),
        RunFault::Fail(RunFailure::ALL[2]),
        RunFault::Fail(RunFailure::ALL[3]),
        RunFault::Fail(RunFailure::ALL[4]),
        RunFault::Fail(RunFailure::ALL[5]),
    ];
    let count = faults.len();
    let front = Front::with(Options { faults: Plan::script(faults, RunFault::None), ..Options::default() });
    let mut statuses = Vec::new();
    for _ in 0..count {
        let answer = front.infer("faulty", &body()).await;
        assert!(answer.json()["error"].is_string());
        statuses.push(answer.status);
    }
    assert_eq!(statuses[..2], [500, 500]);
    let mut failures = statuses[2..].to_vec();
    failures.sort_unstable();
    assert_eq!(failures, [400, 400, 413, 499, 500, 501], "one for each kind of failure");
    assert_eq!(front.infer("faulty", &body()).await.status, 200, "and the next one is served");
}

#[tokio::test]
async fn a_draining_daemon_refuses_work() {
    let front = Front::start();
    front.app.engine.begin_drain();
    assert!(front.infer("echo", &body()).await.error(503).contains("shutting down"));
    assert_eq!(front.get("/v2/health/ready").await.status, 503);
}
