// SPDX-License-Identifier: Apache-2.0
//! Tenants that come and go while the daemon runs.

use std::path::Path;
use std::sync::Arc;

use diolkos_server::daemon::ReadSettings;
use diolkos_server::{Daemon, Deps, Settings};
use serde_json::{Value, json};

use crate::support::{self, Client, Fixture, Reply, socket};

/// A daemon whose only tenant is `operator`, on `d.sock`, and the settings file that it reads again.
async fn start(more: &str) -> Fixture {
    let dir = tempfile::tempdir().unwrap();
    start_in(dir, more).await
}

async fn start_in(dir: tempfile::TempDir, more: &str) -> Fixture {
    let file = dir.path().join("d.toml");
    std::fs::write(&file, settings(dir.path(), more)).unwrap();
    let gate = Arc::default();
    let read_from = file.clone();
    let read: ReadSettings = Box::new(move || Settings::load(&read_from));
    let deps = Deps { read_settings: Some(read), ..support::deps(&gate) };
    let daemon = Daemon::start(Settings::load(&file).unwrap(), deps).await.unwrap();
    daemon.wait_ready().await;
    Fixture { daemon, dir, gate }
}

fn settings(dir: &Path, more: &str) -> String {
    format!(
        "listen = [{{ address = \"unix:{}\", tenant = \"operator\" }}, \"tcp:127.0.0.1:0\"]\n\
         tenants_file = \"added.toml\"\naudit.file = \"audit.jsonl\"\n\
         [tenants.operator]\nadmin = true\nmetrics = true\n{more}",
        socket(dir).display()
    )
}

async fn ask(client: &mut Client, method: &str, path: &str, body: &Value) -> Reply {
    let body = if body.is_null() { String::new() } else { body.to_string() };
    let length = body.len();
    client
        .send(&format!(
            "{method} /v2/diolkos/tenants{path} HTTP/1.1\r\nHost: d\r\nContent-Length: {length}\r\n\r\n{body}"
        ))
        .await;
    client.reply().await.unwrap()
}

fn web(dir: &Path) -> Value {
    json!({
        "sockets": [format!("unix:{}", dir.join("web.sock").display())],
        "socket_mode": "0666",
        "leases": {"all": {"kind": "compute", "operations": ["copy", "gate"]}},
    })
}

async fn connect(fixture: &Fixture, name: &str) -> Client {
    Client::connect(&fixture.dir.path().join(format!("{name}.sock"))).await
}

#[tokio::test]
async fn a_tenant_comes_and_goes_with_everything_it_has() {
    let fixture = start("").await;
    let mut operator = fixture.connect().await;
    let web = web(fixture.dir.path());
    let added = ask(&mut operator, "POST", "/web", &web).await;
    assert_eq!(added.status, 201, "{added:?}");
    let mut client = connect(&fixture, "web").await;
    assert_eq!(client.infer("copy", "7").await.unwrap().status, 200);
    let again = ask(&mut operator, "POST", "/web", &web).await;
    assert!(again.status == 409 && again.body.contains("tenant `web` is there already"), "{again:?}");

    let shown = ask(&mut operator, "GET", "/web", &Value::Null).await;
    let shown: Value = serde_json::from_str(&shown.body).unwrap();
    assert_eq!((&shown["origin"], &shown["settings"]["socket_mode"]), (&json!("added"), &json!("0666")));
    assert_eq!((&shown["usage"]["requests"], &shown["usage"]["connections"]), (&json!(1), &json!(1)));
    let all = ask(&mut operator, "GET", "", &Value::Null).await;
    let all: Vec<Value> = serde_json::from_str(&all.body).unwrap();
    assert_eq!(all.iter().map(|one| &one["name"]).collect::<Vec<_>>(), ["operator", "web"]);

    // One that is busy, and one that is idle.
    client.send_infer("gate", "7").await;
    fixture.gate.wait_for(1).await;
    let mut idle = connect(&fixture, "web").await;
    assert_eq!(idle.get("/v2/health/live").await.unwrap().status, 200);
    assert_eq!(ask(&mut operator, "DELETE", "/web", &Value::Null).await.status, 200);
    assert!(!fixture.dir.path().join("web.sock").exists(), "the socket is gone when the answer is there");
    client.closed().await;
    idle.closed().await;
    fixture.gate.open();
    while fixture.daemon.engine().sessions() > 1 {
        tokio::task::yield_now().await;
    }
    let names: Vec<_> = fixture.daemon.engine().tenants().into_iter().map(|tenant| tenant.id).collect();
    assert_eq!(names.len(), 1, "{names:?}");
    assert!(!fixture.get("/metrics").await.body.contains("tenant=\"web\""));
    assert_eq!(ask(&mut operator, "DELETE", "/web", &Value::Null).await.status, 404);

    // One of the same name is another one.
    assert_eq!(ask(&mut operator, "POST", "/web", &web).await.status, 201);
    let mut client = connect(&fixture, "web").await;
    let stats = client.get("/v2/models/copy/stats").await.unwrap().body;
    let stats: Value = serde_json::from_str(&stats).unwrap();
    assert_eq!(stats["model_stats"][0]["inference_count"], 0, "{stats}");
    fixture.daemon.shutdown().await;
}

#[tokio::test]
async fn tenants_that_came_and_went_leave_nothing_behind() {
    let fixture = start("").await;
    let mut operator = fixture.connect().await;
    let count = std::env::var("DIOLKOS_TENANTS").map_or(100, |text| text.parse().unwrap());
    let descriptors = || std::fs::read_dir("/proc/self/fd").unwrap().count();
    let mut before = None;
    for round in 0..count {
        let name = format!("/t{round}");
        assert_eq!(ask(&mut operator, "POST", &name, &web(fixture.dir.path())).await.status, 201);
        let mut client = connect(&fixture, "web").await;
        assert_eq!(client.infer("copy", "7").await.unwrap().status, 200);
        assert_eq!(ask(&mut operator, "DELETE", &name, &Value::Null).await.status, 200);
        client.closed().await;
        drop(client);
        if round == count.min(10) - 1 {
            before = Some(descriptors());
        }
    }
    while fixture.daemon.engine().sessions() > 1 {
        tokio::task::yield_now().await;
    }
    assert_eq!(fixture.daemon.engine().tenants().len(), 1);
    // Other tests of this process have descriptors, too; a leak would show as one for each tenant.
    assert!(descriptors() < before.unwrap() + count / 2, "{} before: {before:?}", descriptors());
    let stats = fixture.get("/v2/models/copy/stats").await;
    assert_eq!(stats.status, 404, "no lease of the operator's allows it");
    let metrics = fixture.get("/metrics").await.body;
    assert!(
        metrics.contains(&format!("nv_inference_count{{model=\"copy\",version=\"1\"}} {count}")),
        "{metrics}"
    );
    fixture.daemon.shutdown().await;
}

#[tokio::test]
async fn leases_of_added_tenants_change() {
    let fixture = start("").await;
    let mut operator = fixture.connect().await;
    assert_eq!(ask(&mut operator, "POST", "/web", &web(fixture.dir.path())).await.status, 201);
    let mut client = connect(&fixture, "web").await;
    let lease = json!({"kind": "compute", "operations": ["gate"]});
    let there = ask(&mut operator, "POST", "/web/leases/all", &lease).await;
    assert_eq!(there.status, 409, "{there:?}");
    assert_eq!(ask(&mut operator, "PUT", "/web/leases/all", &lease).await.status, 200);
    assert_eq!(client.infer("copy", "7").await.unwrap().status, 404, "the lease changed under it");
    let shown = ask(&mut operator, "GET", "/web/leases/all", &Value::Null).await.body;
    assert!(shown.contains("\"operations\":[\"gate\"]"), "{shown}");
    // A second one for the same devices.
    let wrong = ask(&mut operator, "POST", "/web/leases/more", &lease).await;
    assert!(wrong.status == 400 && wrong.body.contains("are both for all devices"), "{wrong:?}");
    let other = json!({"kind": "compute", "resource": "cpu", "operations": ["copy"]});
    assert_eq!(ask(&mut operator, "POST", "/web/leases/more", &other).await.status, 201);
    assert_eq!(client.infer("copy", "7").await.unwrap().status, 200);
    assert_eq!(ask(&mut operator, "DELETE", "/web/leases/more", &Value::Null).await.status, 200);
    assert_eq!(ask(&mut operator, "DELETE", "/web/leases/more", &Value::Null).await.status, 404);
    assert_eq!(client.infer("copy", "7").await.unwrap().status, 404);
    fixture.daemon.shutdown().await;
}

#[tokio::test]
async fn what_is_wrong_changes_nothing() {
    let fixture = start("[tenants.fixed]\nuids = [4000000000]\n").await;
    let mut operator = fixture.connect().await;
    let dir = fixture.dir.path().display().to_string();
    let file = format!("unix:{dir}/d.toml");
    for (path, body, status, expected) in [
        (
            "/web",
            json!({"rat": "1/s"}),
            400,
            "unknown key `tenants.web.rat`; did you mean `tenants.web.rate`?",
        ),
        ("/web", json!({"rate": 3}), 400, "expected a string"),
        ("/web", json!([]), 400, "JSON objects"),
        ("/web", json!({"uids": [4_000_000_000_u32]}), 400, "uid 4000000000 is tenant `fixed` already"),
        ("/a%2Fb", json!({}), 400, "is no name"),
        ("/web", json!({"sockets": ["unix:web.sock"]}), 400, "absolute"),
        ("/web", json!({"sockets": [file]}), 400, "exists and is no socket"),
        ("/web", json!({"sockets": [format!("unix:{dir}/none/web.sock")]}), 400, "can't listen on"),
        (
            "/web",
            json!({"sockets": [format!("unix:{}", socket(fixture.dir.path()).display())]}),
            400,
            "listened on twice",
        ),
        ("/default", json!({}), 400, "whoever runs the daemon"),
        ("/fixed", json!({}), 409, "stands in the settings file"),
        ("/fixed/leases/x", json!({"kind": "compute"}), 409, "stands in the settings file"),
        ("/none/leases/x", json!({"kind": "compute"}), 404, "there is no tenant `none`"),
    ] {
        let reply = ask(&mut operator, "PUT", path, &body).await;
        assert!(reply.status == status && reply.body.contains(expected), "{path} {body}: {reply:?}");
    }
    let names: Vec<_> = fixture.daemon.settings().tenants.keys().cloned().collect();
    assert_eq!(names, ["fixed", "operator"]);
    assert_eq!(ask(&mut operator, "DELETE", "/fixed", &Value::Null).await.status, 409);
    let length = "POST /v2/diolkos/tenants/web HTTP/1.1\r\nHost: d\r\nContent-Length: 1\r\n\r\n{";
    operator.send(length).await;
    assert_eq!(operator.reply().await.unwrap().status, 400);
    fixture.daemon.shutdown().await;
}

#[tokio::test]
async fn only_an_admin_on_a_unix_socket_may() {
    let us = rustix::process::geteuid().as_raw();
    let more = format!("uids = [{us}]\n");
    let fixture = start(&more).await;
    let mut operator = fixture.connect().await;
    assert_eq!(ask(&mut operator, "POST", "/web", &web(fixture.dir.path())).await.status, 201);
    let mut web = connect(&fixture, "web").await;
    for (method, path) in
        [("GET", ""), ("GET", "/web"), ("POST", "/x"), ("PUT", "/web"), ("DELETE", "/operator")]
    {
        let reply = ask(&mut web, method, path, &json!({})).await;
        assert!(
            reply.status == 403 && reply.body.contains("tenants.NAME.admin"),
            "{method} {path}: {reply:?}"
        );
    }
    // The same user, who is the operator, over TCP.
    let (status, text) = crate::tenants::over_tcp(&fixture, "/v2/diolkos/tenants", None).await;
    assert!(status == 403 && text.contains("unix sockets only"), "{text}");
    let audit = std::fs::read_to_string(fixture.dir.path().join("audit.jsonl")).unwrap();
    let lines: Vec<Value> = audit.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let of_web = lines.iter().filter(|line| line["tenant"] == "web" && line["action"] == "tenant");
    assert!(of_web.clone().count() > 0 && of_web.clone().all(|line| line["result"] == "permission_denied"));
    assert_eq!((&lines[0]["object"], &lines[0]["result"]), (&json!("put web"), &json!("ok")), "{audit}");
    fixture.daemon.shutdown().await;
}

#[tokio::test]
async fn what_was_added_outlives_the_daemon_and_the_file_takes_over() {
    let fixture = start("").await;
    let mut operator = fixture.connect().await;
    assert_eq!(ask(&mut operator, "POST", "/web", &web(fixture.dir.path())).await.status, 201);
    let Fixture { daemon, dir, .. } = fixture;
    daemon.shutdown().await;
    assert!(!dir.path().join("web.sock").exists());
    let fixture = start_in(dir, "").await;
    let mut client = connect(&fixture, "web").await;
    assert_eq!(client.infer("copy", "7").await.unwrap().status, 200, "it is there again, with its socket");

    // The operator writes it into the settings, without a socket.
    let more = "[tenants.web]\nleases.all = { kind = \"compute\", operations = [\"gate\"] }\n";
    let file = fixture.dir.path().join("d.toml");
    std::fs::write(&file, settings(fixture.dir.path(), more)).unwrap();
    fixture.daemon.reload().await;
    assert!(!fixture.dir.path().join("web.sock").exists());
    assert_eq!(client.infer("copy", "7").await.unwrap().status, 404, "on the connection that it has");
    let mut operator = fixture.connect().await;
    assert_eq!(ask(&mut operator, "PUT", "/web", &json!({})).await.status, 409);
    let kept = std::fs::read_to_string(fixture.dir.path().join("added.toml")).unwrap();
    assert!(!kept.contains("web"), "{kept}");

    // Sockets of tenants in the settings come and go on reload; a name that somebody else has is no reason to change anything.
    let with = format!("[tenants.web]\nsockets = [\"unix:{}/w2.sock\"]\n", fixture.dir.path().display());
    std::fs::write(&file, settings(fixture.dir.path(), &with)).unwrap();
    fixture.daemon.reload().await;
    assert_eq!(connect(&fixture, "w2").await.get("/v2/health/live").await.unwrap().status, 200);
    std::fs::write(&file, settings(fixture.dir.path(), "")).unwrap();
    fixture.daemon.reload().await;
    assert!(!fixture.dir.path().join("w2.sock").exists());
    client.closed().await;
    fixture.daemon.shutdown().await;
}

/// One whom the file names at start does not come back when the file drops it.
#[tokio::test]
async fn the_file_takes_over_at_start_too() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("added.toml"), "[tenants.web]\nuids = [4000000000]\n[tenants.other]\n")
        .unwrap();
    let fixture = start_in(dir, "[tenants.web]\n").await;
    assert!(fixture.daemon.settings().tenants["web"].uids.is_empty());
    std::fs::write(fixture.dir.path().join("d.toml"), settings(fixture.dir.path(), "")).unwrap();
    fixture.daemon.reload().await;
    let names: Vec<_> = fixture.daemon.settings().tenants.keys().cloned().collect();
    assert_eq!(names, ["operator", "other"]);
    fixture.daemon.shutdown().await;
}

/// The daemon's own user is not who happened to be called `default`.
#[tokio::test]
async fn a_tenant_named_default_does_not_become_the_operator() {
    let dir = tempfile::tempdir().unwrap();
    let named = format!(
        "listen = [{{ address = \"unix:{}\", tenant = \"default\" }}]\n[tenants.default]\n",
        socket(dir.path()).display()
    );
    let file = dir.path().join("d.toml");
    std::fs::write(&file, &named).unwrap();
    let read_from = file.clone();
    let read: ReadSettings = Box::new(move || Settings::load(&read_from));
    let gate = Arc::default();
    let deps = Deps { read_settings: Some(read), ..support::deps(&gate) };
    let daemon = Daemon::start(Settings::load(&file).unwrap(), deps).await.unwrap();
    daemon.wait_ready().await;
    let fixture = Fixture { daemon, dir, gate };
    let mut client = fixture.connect().await;
    assert_eq!(ask(&mut client, "GET", "", &Value::Null).await.status, 403);
    std::fs::write(&file, "").unwrap();
    fixture.daemon.reload().await;
    client.closed().await;
    fixture.daemon.shutdown().await;
}

#[tokio::test]
async fn without_settings_it_is_who_runs_the_daemon() {
    let fixture = support::start("linger = \"1s\"").await;
    let mut us = fixture.connect().await;
    assert_eq!(ask(&mut us, "POST", "/web", &web(fixture.dir.path())).await.status, 201);
    assert_eq!(us.infer("copy", "7").await.unwrap().status, 200, "and stays what it was");
    assert_eq!(ask(&mut us, "DELETE", "/default", &Value::Null).await.status, 409);
    assert_eq!(ask(&mut us, "DELETE", "/web", &Value::Null).await.status, 200);
    let all = ask(&mut us, "GET", "", &Value::Null).await.body;
    assert!(all.contains("\"origin\":\"default\"") && !all.contains("web"), "{all}");
    assert_eq!(us.infer("copy", "7").await.unwrap().status, 200);
    fixture.daemon.shutdown().await;
}
