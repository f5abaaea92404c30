// SPDX-License-Identifier: Apache-2.0
//! Two tenants, one of them hostile: on sockets of their own, and with tokens on TCP.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use diolkos_server::daemon::ReadSettings;
use diolkos_server::{BoundAddress, Daemon, Deps, Settings, TokenHash};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::support::{self, Client, Fixture, Reply, start_with};

pub(crate) fn settings(dir: &Path, tenants: &str) -> String {
    let dir = dir.display();
    format!(
        "listen = [{{ address = \"unix:{dir}/a.sock\", tenant = \"a\" }}, {{ address = \"unix:{dir}/b.sock\", tenant = \"b\", mode = \"0666\" }}, \"tcp:127.0.0.1:0\"]\naudit.file = \"audit.jsonl\"\n{tenants}"
    )
}

/// A daemon with these tenants, sockets `a.sock` and `b.sock`, TCP, and a file that is read again on reload.
pub(crate) async fn tenants(tenants: &str) -> Fixture {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("d.toml");
    std::fs::write(&file, settings(dir.path(), tenants)).unwrap();
    let gate = Arc::default();
    let settings = Settings::load(&file).unwrap();
    let read: ReadSettings = Box::new(move || Settings::load(&file));
    let deps = Deps { read_settings: Some(read), ..support::deps(&gate) };
    let daemon = Daemon::start(settings, deps).await.unwrap();
    daemon.wait_ready().await;
    Fixture { daemon, dir, gate }
}

pub(crate) async fn connect(fixture: &Fixture, tenant: &str) -> Client {
    Client::connect(&fixture.dir.path().join(format!("{tenant}.sock"))).await
}

fn audit(fixture: &Fixture) -> Vec<serde_json::Value> {
    let text = std::fs::read_to_string(fixture.dir.path().join("audit.jsonl")).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// A whole HTTP/1.1 exchange over TCP.
pub(crate) async fn over_tcp(fixture: &Fixture, path: &str, authorization: Option<&str>) -> (u16, String) {
    let address = fixture.daemon.addresses().iter().find_map(|address| match address {
        BoundAddress::Tcp(address) => Some(*address),
        BoundAddress::Unix(_) | BoundAddress::Vsock(_) => None,
    });
    let mut stream = TcpStream::connect(address.unwrap()).await.unwrap();
    let header = authorization.map(|value| format!("Authorization: {value}\r\n")).unwrap_or_default();
    let request = format!("GET {path} HTTP/1.1\r\nHost: d\r\n{header}Connection: close\r\n\r\n");
    // A peer that is refused may be told before it has asked.
    let _ = stream.write_all(request.as_bytes()).await;
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    (text.split(' ').nth(1).unwrap().parse().unwrap(), text)
}

const BOTH: &str = "\
[tenants.a]
[tenants.a.leases.all]
kind = \"compute\"
operations = [\"copy\"]
[tenants.b]
[tenants.b.leases.all]
kind = \"compute\"
operations = [\"gate\", \"secret*\"]
";

fn same_but_for_the_name(one: &Reply, name: &str, other: &Reply, other_name: &str) {
    assert_eq!(one.status, other.status, "{one:?} {other:?}");
    assert_eq!(one.body.replace(name, other_name), other.body);
    let headers = |reply: &Reply| {
        let lines = reply.head.lines().filter(|line| !line.to_lowercase().starts_with("content-length"));
        lines.filter(|line| !line.to_lowercase().starts_with("date")).map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(headers(one), headers(other));
}

#[tokio::test]
async fn what_belongs_to_the_other_does_not_exist() {
    let fixture = tenants(BOTH).await;
    let mut hostile = connect(&fixture, "a").await;
    for (method, suffix, body) in [
        ("GET", "", ""),
        ("GET", "/ready", ""),
        ("GET", "/config", ""),
        ("GET", "/stats", ""),
        ("GET", "/versions/1", ""),
        ("GET", "/versions/9", ""),
        ("GET", "/versions/1/ready", ""),
        ("GET", "/versions/1/stats", ""),
        ("POST", "/infer", "{\"inputs\":[]}"),
        ("POST", "/versions/1/infer", "{\"inputs\":[]}"),
        (
            "POST",
            "/infer",
            "{\"inputs\":[{\"name\":\"x\",\"shape\":[1],\"datatype\":\"UINT8\",\"data\":[1]}]}",
        ),
    ] {
        let mut ask = async |model: &str| {
            let length = body.len();
            let path = format!("/v2/models/{model}{suffix}");
            hostile
                .send(&format!(
                    "{method} {path} HTTP/1.1\r\nHost: d\r\nContent-Length: {length}\r\n\r\n{body}"
                ))
                .await;
            hostile.reply().await.unwrap()
        };
        let (theirs, nobodys) = (ask("gate").await, ask("nope").await);
        assert!(theirs.status >= 400, "{method} {suffix}: {theirs:?}");
        same_but_for_the_name(&theirs, "gate", &nobodys, "nope");
    }
    // Our own routes, and those that change something.
    for path in ["/v2/diolkos/models/gate", "/v2/diolkos/models/nope"] {
        assert_eq!(hostile.get(path).await.unwrap().status, 404);
    }
    for model in ["gate", "nope", "copy"] {
        hostile
            .send(&format!(
                "POST /v2/repository/models/{model}/unload HTTP/1.1\r\nHost: d\r\nContent-Length: 0\r\n\r\n"
            ))
            .await;
        assert_eq!(hostile.reply().await.unwrap().status, 403);
    }
    let all = hostile.get("/v2/models/stats").await.unwrap().body;
    assert!(all.contains("\"copy\"") && !all.contains("gate"), "{all}");
    hostile.send("POST /v2/repository/index HTTP/1.1\r\nHost: d\r\nContent-Length: 2\r\n\r\n{}").await;
    let index = hostile.reply().await.unwrap().body;
    assert!(index.contains("\"copy\"") && !index.contains("gate"), "{index}");
    let metrics = hostile.get("/metrics").await.unwrap();
    assert!(metrics.status == 403 && !metrics.body.contains("gate"), "{metrics:?}");
    let status = hostile.get("/v2/diolkos/status").await.unwrap().body;
    assert!(status.contains("\"name\":\"a\"") && !status.contains("busy_ns"), "{status}");
    // A claim to be somebody else counts for nothing.
    hostile.send("GET /v2/models/gate HTTP/1.1\r\nHost: b\r\nAuthorization: Bearer b\r\nX-Tenant: b\r\nX-Forwarded-For: b\r\n\r\n").await;
    assert_eq!(hostile.reply().await.unwrap().status, 404);
    assert_eq!(hostile.infer("copy", "7").await.unwrap().status, 200, "and it is served as before");
    let audit = audit(&fixture);
    let of = |action: &str| {
        let lines = audit.iter().filter(|line| line["action"] == action);
        lines
            .map(|line| (line["tenant"].clone(), line["object"].clone(), line["result"].clone()))
            .collect::<Vec<_>>()
    };
    assert_eq!(of("unload")[0], ("a".into(), "gate".into(), "permission_denied".into()), "{audit:?}");
    assert_eq!(of("metrics").len(), 1, "{audit:?}");
    fixture.daemon.shutdown().await;
}

#[tokio::test]
async fn sockets_have_modes_of_their_own() {
    let fixture = tenants(BOTH).await;
    let mode = |name: &str| {
        let file = fixture.dir.path().join(name);
        file.metadata().unwrap().permissions().mode() & 0o777
    };
    assert_eq!((mode("a.sock"), mode("b.sock")), (0o600, 0o666));
    fixture.daemon.shutdown().await;
}

#[tokio::test]
async fn tokens_say_who_it_is_on_tcp() {
    let (token, other) = (diolkos_server::new_token().unwrap(), diolkos_server::new_token().unwrap());
    let lease = |tenant: &str, operation: &str| {
        format!("leases.all = {{ kind = \"compute\", operations = [\"{operation}\"] }} # {tenant}\n")
    };
    let with = |hash: &TokenHash| {
        format!(
            "[tenants.a]\ntokens = [\"{hash}\"]\n{}[tenants.b]\n{}",
            lease("a", "copy"),
            lease("b", "gate")
        )
    };
    let fixture = tenants(&with(&TokenHash::of(&token))).await;
    let ask = async |path: &str, token: Option<&str>| {
        let header = token.map(|token| format!("Bearer {token}"));
        over_tcp(&fixture, path, header.as_deref()).await
    };
    assert_eq!(ask("/v2/models/copy", Some(&token)).await.0, 200);
    assert_eq!(ask("/v2/models/gate", Some(&token)).await.0, 404);
    let (code, text) = ask("/v2/models/copy", None).await;
    assert!(code == 401 && text.to_lowercase().contains("www-authenticate: bearer"), "{text}");
    for wrong in [&*other, "", "x", &token[..71], &token.to_uppercase(), &TokenHash::of(&token).to_string()] {
        assert_eq!(ask("/v2/models/copy", Some(wrong)).await.0, 401, "{wrong}");
    }
    assert_eq!(over_tcp(&fixture, "/v2/models/copy", Some("Basic abc")).await.0, 401);
    // A token that was taken back is worth nothing on the next request, and the new one is good at once.
    let file = fixture.dir.path().join("d.toml");
    std::fs::write(&file, settings(fixture.dir.path(), &with(&TokenHash::of(&other)))).unwrap();
    fixture.daemon.reload().await;
    assert_eq!(ask("/v2/models/copy", Some(&token)).await.0, 401);
    assert_eq!(ask("/v2/models/copy", Some(&other)).await.0, 200);
    fixture.daemon.shutdown().await;
}

#[tokio::test]
async fn leases_change_without_a_restart_and_without_losing_anybody() {
    let fixture = tenants(BOTH).await;
    let (mut a, mut b) = (connect(&fixture, "a").await, connect(&fixture, "b").await);
    assert_eq!(a.infer("copy", "7").await.unwrap().status, 200);
    assert_eq!(b.get("/v2/models/gate").await.unwrap().status, 200);
    let file = fixture.dir.path().join("d.toml");
    let swapped = BOTH.replace("copy", "x").replace("gate", "copy");
    std::fs::write(&file, settings(fixture.dir.path(), &swapped)).unwrap();
    fixture.daemon.reload().await;
    assert_eq!(a.infer("copy", "7").await.unwrap().status, 404);
    assert_eq!(b.infer("copy", "7").await.unwrap().status, 200);
    // A file that is wrong changes nothing.
    std::fs::write(&file, "[tenants.a]\nrate = 3").unwrap();
    fixture.daemon.reload().await;
    assert_eq!(b.infer("copy", "7").await.unwrap().status, 200);
    // A tenant that is gone loses the connection that it has, and is refused on new ones.
    let one = "[tenants.b]\nleases.all = { kind = \"compute\", operations = [\"copy\"] }\n";
    std::fs::write(
        &file,
        format!(
            "listen = [{{ address = \"unix:{}/b.sock\", tenant = \"b\" }}]\n{one}",
            fixture.dir.path().display()
        ),
    )
    .unwrap();
    fixture.daemon.reload().await;
    a.closed().await;
    let refused = connect(&fixture, "a").await.reply().await.unwrap();
    assert_eq!(refused.status, 403, "{refused:?}");
    assert_eq!(b.infer("copy", "7").await.unwrap().status, 200);
    fixture.daemon.shutdown().await;
}

#[tokio::test]
async fn a_rate_is_told_with_the_time_to_wait() {
    let limited = BOTH.replace("[tenants.a]\n", "[tenants.a]\nrate = \"1/h\"\nburst = 2\n");
    let fixture = tenants(&limited).await;
    let mut a = connect(&fixture, "a").await;
    for _ in 0..2 {
        assert_eq!(a.infer("copy", "7").await.unwrap().status, 200);
    }
    let reply = a.infer("copy", "7").await.unwrap();
    let wait: u64 = reply.header("retry-after").unwrap().parse().unwrap();
    assert!(reply.status == 429 && (3500..=3600).contains(&wait), "{reply:?}");
    assert!(reply.body.contains("rate"), "{reply:?}");
    let line = audit(&fixture).pop().unwrap();
    assert_eq!(
        (&line["tenant"], &line["action"], &line["result"]),
        (&"a".into(), &"infer".into(), &"busy".into())
    );
    // A large body is not even read: the answer comes before it is sent.
    let length = 60 << 20;
    a.send(&format!("POST /v2/models/copy/infer HTTP/1.1\r\nHost: d\r\nContent-Length: {length}\r\n\r\n"))
        .await;
    assert_eq!(a.reply().await.unwrap().status, 429);
    assert_eq!(connect(&fixture, "b").await.get("/v2/health/live").await.unwrap().status, 200);
    fixture.daemon.shutdown().await;
}

#[tokio::test]
async fn bytes_have_a_rate_too() {
    let limited = BOTH.replace("[tenants.a]\n", "[tenants.a]\nbytes_rate = \"1KiB/s\"\n");
    let fixture = tenants(&limited).await;
    let mut a = connect(&fixture, "a").await;
    let values = vec!["7"; 4 << 10].join(",");
    // Larger than a second's, and paid for by waiting.
    assert_eq!(a.infer("copy", &values).await.unwrap().status, 200);
    let reply = a.infer("copy", "7").await.unwrap();
    let wait: u64 = reply.header("retry-after").unwrap().parse().unwrap();
    assert!(reply.status == 429 && (5..=8).contains(&wait), "{reply:?}");
    assert!(reply.body.contains("`bytes_rate`"), "{reply:?}");
    assert_eq!(audit(&fixture).pop().unwrap()["result"], "busy");
    // What is refused is not charged, not even read, and others have a rate of their own.
    let length = 60 << 20;
    a.send(&format!("POST /v2/models/copy/infer HTTP/1.1\r\nHost: d\r\nContent-Length: {length}\r\n\r\n"))
        .await;
    let reply = a.reply().await.unwrap();
    assert!(
        reply.status == 429 && reply.header("retry-after").unwrap().parse::<u64>().unwrap() <= wait,
        "{reply:?}"
    );
    fixture.gate.open();
    assert_eq!(connect(&fixture, "b").await.infer("gate", &values).await.unwrap().status, 200);
    fixture.daemon.shutdown().await;
}

#[tokio::test]
async fn a_body_without_room_is_not_read_and_costs_its_rate() {
    let limited = BOTH
        .replace("[tenants.a]\n", "[tenants.a]\nrate = \"1/h\"\nburst = 2\nrequests_memory_max = \"1MiB\"\n");
    let fixture = tenants(&limited).await;
    let length = 60 << 20;
    let head = format!("POST /v2/models/copy/infer HTTP/1.1\r\nHost: d\r\nContent-Length: {length}\r\n\r\n");
    for expected in [503, 503, 429] {
        let mut a = connect(&fixture, "a").await;
        a.send(&head).await;
        assert_eq!(a.reply().await.unwrap().status, expected);
    }
    fixture.daemon.shutdown().await;
}

#[tokio::test]
async fn a_bridge_speaks_for_others_and_nobody_else_does() {
    // The operator may look after tenants, and nobody does that for it.
    let more = "\
[tenants.c]
admin = true
leases.all = { kind = \"compute\", operations = [\"copy\"] }
";
    let bridge = BOTH.replace("[tenants.a]\n", "[tenants.a]\nacts_for = [\"b\", \"c\", \"gone\"]\n") + more;
    let fixture = tenants(&bridge).await;
    let ask = |path: &str, tenant: &str| {
        format!("GET {path} HTTP/1.1\r\nHost: d\r\nX-Diolkos-Tenant: {tenant}\r\n\r\n")
    };
    let mut a = connect(&fixture, "a").await;
    assert_eq!(a.get("/v2/models/gate").await.unwrap().status, 404);
    a.send(&ask("/v2/models/gate", "b")).await;
    assert_eq!(a.reply().await.unwrap().status, 200);
    a.send(&ask("/v2/diolkos/status", "b")).await;
    let status = a.reply().await.unwrap().body;
    assert!(status.contains("\"name\":\"b\""), "{status}");
    assert_eq!(a.get("/v2/models/gate").await.unwrap().status, 404, "and is itself without the header");
    // Nobody of that name, and somebody whom it may not speak for.
    a.send(&ask("/v2/models/gate", "gone")).await;
    let gone = a.reply().await.unwrap();
    a.send(&ask("/v2/models/gate", "a")).await;
    let own = a.reply().await.unwrap();
    assert_eq!((gone.status, &gone.body), (403, &own.body));
    a.send(&ask("/v2/diolkos/tenants", "c")).await;
    assert_eq!(a.reply().await.unwrap().status, 403);
    let mut b = connect(&fixture, "b").await;
    b.send(&ask("/v2/models/copy", "a")).await;
    let refused = b.reply().await.unwrap();
    assert_eq!((refused.status, &refused.body), (403, &own.body));
    fixture.daemon.shutdown().await;
}

#[tokio::test]
async fn connections_are_counted_for_each() {
    let limited = BOTH.replace("[tenants.a]\n", "[tenants.a]\nconnections_max = 2\n");
    let fixture = tenants(&limited).await;
    let mut b = connect(&fixture, "b").await;
    assert_eq!(b.get("/v2/health/live").await.unwrap().status, 200);
    let mut clients = Vec::new();
    for _ in 0..5 {
        let mut client = connect(&fixture, "a").await;
        assert_eq!(client.get("/v2/health/live").await.unwrap().status, 200);
        clients.push(client);
    }
    // Those of its own that were idle for longest have made room.
    for client in &mut clients[..3] {
        client.closed().await;
    }
    for client in &mut clients[3..] {
        assert_eq!(client.get("/v2/health/live").await.unwrap().status, 200);
    }
    assert_eq!(b.get("/v2/health/live").await.unwrap().status, 200, "and not somebody else's");
    fixture.daemon.shutdown().await;
}

#[tokio::test]
async fn whoever_connects_too_often_waits_or_is_refused() {
    let us = rustix::process::geteuid().as_raw();
    let limited = BOTH
        .replace("[tenants.a]\n", "[tenants.a]\nconnection_rate = \"1/h\"\n")
        .replace("[tenants.b]\n", &format!("[tenants.b]\nconnection_rate = \"1/h\"\nuids = [{us}]\n"));
    let fixture = tenants(&limited).await;
    for _ in 0..16 {
        let mut client = connect(&fixture, "a").await;
        assert_eq!(client.get("/v2/health/live").await.unwrap().status, 200);
    }
    // On its own socket nobody takes it: it is connected as far as the kernel is concerned, and nothing comes.
    let mut late = connect(&fixture, "a").await;
    late.send("GET /v2/health/live HTTP/1.1\r\nHost: d\r\n\r\n").await;
    let nothing = tokio::time::timeout(std::time::Duration::from_millis(200), late.reply()).await;
    assert!(nothing.is_err(), "{nothing:?}");
    // On TCP, where others come as well, it is told.
    for expected in (0..16).map(|_| 200).chain([429]) {
        let (status, text) = over_tcp(&fixture, "/v2/health/live", None).await;
        assert_eq!(status, expected, "{text}");
    }
    fixture.daemon.shutdown().await;
}

#[tokio::test]
async fn connections_with_tokens_are_counted_too() {
    let token = diolkos_server::new_token().unwrap();
    let hash = TokenHash::of(&token);
    let fixture =
        tenants(&format!("[tenants.a]\ntokens = [\"{hash}\"]\nconnections_max = 1\n[tenants.b]\n")).await;
    let ask = format!("GET /v2/health/live HTTP/1.1\r\nHost: d\r\nAuthorization: Bearer {token}\r\n\r\n");
    let connect = async || {
        let mut stream = TcpStream::connect(fixture.tcp()).await.unwrap();
        stream.write_all(ask.as_bytes()).await.unwrap();
        let mut first = [0; 12];
        stream.read_exact(&mut first).await.unwrap();
        assert_eq!(&first, b"HTTP/1.1 200");
        stream
    };
    let mut first = connect().await;
    let _second = connect().await;
    // The first one, which is idle, has made room.
    let mut rest = Vec::new();
    first.read_to_end(&mut rest).await.unwrap();
    fixture.daemon.shutdown().await;
}

#[tokio::test]
async fn whoever_proves_nothing_is_refused() {
    // Users that no process here has.
    let fixture = tenants("[tenants.a]\n[tenants.b]\nuids = [4000000000]\n").await;
    let (code, text) = over_tcp(&fixture, "/v2/health/live", None).await;
    assert!(code == 403 && text.contains("tenants.NAME.uids"), "{text}");
    let line = audit(&fixture).pop().unwrap();
    assert_eq!((&line["action"], &line["result"]), (&"connect".into(), &"permission_denied".into()));
    assert!(line["peer"].as_str().unwrap().starts_with("tcp uid "), "{line}");
    fixture.daemon.shutdown().await;
    let fixture = tenants("anonymous = \"b\"\n[tenants.a]\n[tenants.b]\n").await;
    assert_eq!(over_tcp(&fixture, "/v2/health/live", None).await.0, 200);
    fixture.daemon.shutdown().await;
    // The kernel says whose a TCP connection within the host is.
    let us = rustix::process::geteuid().as_raw();
    let fixture = tenants(&format!("[tenants.a]\n[tenants.b]\nuids = [{us}]\n")).await;
    let (code, text) = over_tcp(&fixture, "/v2/diolkos/status", None).await;
    assert!(code == 200 && text.contains("\"name\":\"b\""), "{text}");
    fixture.daemon.shutdown().await;
}

/// Where control groups of version 2 are, if this test may make one there.
fn make_cgroup(name: &str) -> Option<Cgroup> {
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
    let root = mounts.lines().find_map(|line| {
        let mut words = line.split(' ').skip(1);
        let (at, kind) = (words.next()?, words.next()?);
        (kind == "cgroup2").then(|| PathBuf::from(at))
    })?;
    let dir = root.join(format!("{name}-{}", std::process::id()));
    std::fs::create_dir(&dir).ok()?;
    Some(Cgroup { path: format!("/{}", dir.file_name()?.to_str()?), dir })
}

struct Cgroup {
    dir: PathBuf,
    path: String,
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // Its processes have ended; the kernel may need a moment to notice.
        for _ in 0..200 {
            if std::fs::remove_dir(&self.dir).is_ok() {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
    }
}

#[tokio::test]
async fn a_control_group_comes_before_the_user() {
    let has_curl = std::process::Command::new("curl").arg("--version").output().is_ok();
    let Some(group) = make_cgroup("diolkos-test").filter(|_| has_curl) else {
        eprintln!("skipped: no curl, or no control group can be made here");
        return;
    };
    let us = rustix::process::geteuid().as_raw();
    let settings =
        format!("[tenants.user]\nuids = [{us}]\n[tenants.group]\ncgroups = [\"{}*\"]\n", group.path);
    let fixture = start_with(&settings, |_, deps| deps).await;
    let ask = format!(
        "echo $$ > {}/cgroup.procs && exec curl -s --unix-socket {} http://d/v2/diolkos/status",
        group.dir.display(),
        support::socket(fixture.dir.path()).display()
    );
    let asked = move || std::process::Command::new("sh").args(["-c", &ask]).output().unwrap();
    let asked = tokio::task::spawn_blocking(asked).await.unwrap();
    let told = String::from_utf8(asked.stdout).unwrap();
    assert!(told.contains("\"name\":\"group\""), "{told}");
    let status = fixture.get("/v2/diolkos/status").await.body;
    assert!(status.contains("\"name\":\"user\""), "{status}");
    fixture.daemon.shutdown().await;
}
