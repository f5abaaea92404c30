// SPDX-License-Identifier: Apache-2.0
//! What a caller is told of its jobs.

use diolkos_backend::faulty::Gate;

use super::faults::until;
use super::*;

fn scheduled(answer: &Answer) -> std::collections::HashMap<String, String> {
    let text = answer.header("x-diolkos-schedule").expect("it was asked for");
    let pairs = text.split(';').map(|pair| pair.split_once('=').unwrap());
    pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

#[tokio::test]
async fn whoever_asks_is_told_what_was_done_with_its_job() {
    let front = Front::start();
    let body =
        json!({"inputs": [{"name": "data", "shape": [2], "datatype": "UINT8", "data": [1, 2]}]}).to_string();
    let path = "/v2/models/echo/infer";
    let silent = front.send("POST", path, &[], body.clone()).await;
    assert_eq!((silent.status, silent.header("x-diolkos-schedule")), (200, None));
    let answer = front.send("POST", path, &[("x-diolkos-explain", "1")], body).await;
    assert_eq!(answer.status, 200);
    let told = scheduled(&answer);
    assert_eq!((told["waited_for"].as_str(), told["together"].as_str()), ("nothing", "1"), "{told:?}");
    let job = &told["job"];
    let ended = front.get(&format!("/v2/diolkos/jobs/{job}")).await.json();
    assert_eq!(
        (&ended["state"], &ended["model"], &ended["failed"]),
        (&json!("ended"), &json!("echo"), &json!(null))
    );
    assert_eq!(ended["device_ns"].to_string(), told["device"]);
    let all = front.get("/v2/diolkos/jobs").await.json();
    assert_eq!(all["jobs"].as_array().unwrap().len(), 2);
    assert_eq!(all["jobs"][1], ended);
}

#[tokio::test]
async fn what_is_not_there_or_not_ones_own_is_not_found() {
    let front = Front::start();
    for job in ["1", "0", "18446744073709551616", "x", "-1"] {
        let text = front.get(&format!("/v2/diolkos/jobs/{job}")).await.error(404);
        assert!(text.contains("no such job of yours"), "{text}");
    }
    assert!(front.get("/v2/diolkos/jobs?tenant=web").await.error(404).contains("no such tenant"));
    assert_eq!(front.get("/v2/diolkos/jobs").await.json(), json!({"jobs": []}));
}

#[tokio::test]
async fn an_error_says_what_was_done_with_its_job() {
    let gate = Gate::new();
    let front =
        Front::with(Options { faults: Plan::always(RunFault::Hold(gate.clone())), ..Options::default() });
    let body = |timeout: Option<u64>| {
        let parameters = timeout.map_or(json!({}), |timeout| json!({"timeout": timeout, "priority": 1}));
        let inputs = json!([{"name": "data", "shape": [2], "datatype": "UINT8", "data": [1, 2]}]);
        json!({"inputs": inputs, "parameters": parameters}).to_string()
    };
    let path = "/v2/models/faulty/infer";
    let runs = tokio::spawn(front.send("POST", path, &[], body(None)));
    until(|| gate.waiting() == 1).await;
    let late = front.send("POST", path, &[("x-diolkos-explain", "1")], body(Some(2000))).await;
    let told = scheduled(&late);
    assert_eq!(
        (late.status, told["together"].as_str(), told["device"].as_str()),
        (504, "0", "0"),
        "{told:?}"
    );
    let silent = front.send("POST", path, &[], body(Some(1))).await;
    assert_eq!((silent.status, silent.header("x-diolkos-schedule")), (504, None));
    // What never became a job has nothing to tell.
    let wrong = front.send("POST", "/v2/models/nope/infer", &[("x-diolkos-explain", "1")], body(None)).await;
    assert_eq!((wrong.status, wrong.header("x-diolkos-schedule")), (404, None));
    let shapeless = json!({"inputs": [{"name": "date", "shape": [1], "datatype": "UINT8", "data": [1]}]});
    let wrong = front.send("POST", path, &[("x-diolkos-explain", "1")], shapeless.to_string()).await;
    assert_eq!((wrong.status, wrong.header("x-diolkos-schedule")), (400, None));
    gate.open();
    assert_eq!(runs.await.unwrap().status, 200);
}
