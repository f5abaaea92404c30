// SPDX-License-Identifier: Apache-2.0
//! Virtual machines are told by their context ids (CIDs).
//!
//! A kernel without vsock's loopback device has nobody who could connect, and then these tests say so and pass.
//! `cargo xtask vm` runs them in a virtual machine that has it, where `DIOLKOS_TEST_VSOCK` says that it must be there, and
//! `DIOLKOS_TEST_VSOCK_RELAY` names a port of the host that connects back: to a port that it is told, from CID 2.

use std::io::Write as _;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use diolkos_server::{BoundAddress, TokenHash};
use diolkos_shm::vsock::{self, VsockAddr};

use crate::support::{Client, Fixture, start};

const PATIENCE: Option<Duration> = Some(Duration::from_secs(10));

fn loopback() -> bool {
    let must = std::env::var_os("DIOLKOS_TEST_VSOCK").is_some();
    let found = vsock::listen(VsockAddr { cid: vsock::LOCAL, port: 0 }, 1);
    if let Err(error) = &found {
        assert!(!must, "no loopback device: {error}");
        eprintln!("skipped: this kernel has no loopback device for vsock ({error})");
    }
    found.is_ok()
}

fn port(fixture: &Fixture) -> u32 {
    let vsock = |address: &BoundAddress| match address {
        BoundAddress::Vsock(address) => Some(address.port),
        _ => None,
    };
    fixture.daemon.addresses().iter().find_map(vsock).unwrap()
}

fn client(stream: UnixStream) -> Client {
    stream.set_nonblocking(true).unwrap();
    Client::over(tokio::net::UnixStream::from_std(stream).unwrap())
}

/// A connection from this machine, whose CID is 1 on its own loopback device.
fn from_here(fixture: &Fixture) -> Client {
    let to = VsockAddr { cid: vsock::LOCAL, port: port(fixture) };
    client(vsock::connect_stream(to, PATIENCE).unwrap().into())
}

/// A connection from the host, whose CID is 2, if there is one that connects back.
fn from_host(fixture: &Fixture) -> Option<Client> {
    let Ok(relay) = std::env::var("DIOLKOS_TEST_VSOCK_RELAY") else {
        eprintln!("skipped in part: no host connects back");
        return None;
    };
    let to = VsockAddr { cid: vsock::HOST, port: relay.parse().unwrap() };
    let mut stream = UnixStream::from(vsock::connect_stream(to, PATIENCE).unwrap());
    writeln!(stream, "{}", port(fixture)).unwrap();
    Some(client(stream))
}

const TWO: &str = "listen = [\"vsock:any:0\"]\n\
    [tenants.here]\ncids = [1]\nleases.all = { kind = \"compute\", operations = [\"copy\"] }\n\
    [tenants.host]\ncids = [2]\nleases.all = { kind = \"compute\", operations = [\"gate\"] }\n";

#[tokio::test]
async fn a_machine_is_known_by_its_cid() {
    if !loopback() {
        return;
    }
    let fixture = start(TWO).await;
    let mut here = from_here(&fixture);
    assert_eq!(here.infer("copy", "1,2").await.unwrap().status, 200);
    let status = here.get("/v2/diolkos/status").await.unwrap().body;
    assert!(status.contains("\"name\":\"here\"") && !status.contains("\"name\":\"host\""), "{status}");
    // What is said of the other machine's model, and of one that nobody has, differs in the name only.
    let (theirs, nobodys) = (here.infer("gate", "1").await.unwrap(), here.infer("nope", "1").await.unwrap());
    assert_eq!((theirs.status, theirs.body.replace("gate", "nope")), (404, nobodys.body));
    let list = here.get("/v2/models/stats").await.unwrap().body;
    assert!(list.contains("copy") && !list.contains("gate"), "{list}");
    let Some(mut host) = from_host(&fixture) else { return };
    fixture.gate.open();
    assert_eq!(host.infer("gate", "1,2").await.unwrap().status, 200);
    assert_eq!(host.infer("copy", "1").await.unwrap().status, 404);
    let status = host.get("/v2/diolkos/status").await.unwrap().body;
    assert!(status.contains("\"name\":\"host\"") && !status.contains("\"name\":\"here\""), "{status}");
}

#[tokio::test]
async fn nothing_else_that_a_machine_shows_counts() {
    if !loopback() {
        return;
    }
    let uid = rustix::process::geteuid().as_raw();
    let settings = format!(
        "listen = [\"vsock:any:0\"]\n[tenants.one]\ncids = [7]\ntokens = [\"{}\"]\nuids = [{uid}]\n",
        TokenHash::of("secret")
    );
    let fixture = start(&settings).await;
    // Nobody's machine, whatever it says and whoever it is within itself.
    let mut here = from_here(&fixture);
    here.send("GET /v2 HTTP/1.1\r\nHost: d\r\nAuthorization: Bearer secret\r\nX-Diolkos-Tenant: one\r\n\r\n")
        .await;
    let reply = here.reply().await.unwrap();
    assert_eq!(reply.status, 403);
    assert!(reply.body.contains("CID 1 may not use this daemon") && !reply.body.contains("one"), "{reply:?}");
}

#[tokio::test]
async fn an_address_may_be_one_tenants_own() {
    if !loopback() {
        return;
    }
    let fixture = start(
        "listen = [{ address = \"vsock:local:0\", tenant = \"one\" }]\n[tenants.one]\n[tenants.two]\ncids = [1]\n",
    )
    .await;
    let status = from_here(&fixture).get("/v2/diolkos/status").await.unwrap().body;
    assert!(status.contains("\"name\":\"one\""), "{status}");
}

#[tokio::test]
async fn nothing_is_left_of_a_machine_that_goes() {
    if !loopback() {
        return;
    }
    let fixture = start(TWO).await;
    let engine = fixture.daemon.engine();
    let mut clients: Vec<Client> = (0..20).map(|_| from_here(&fixture)).collect();
    for client in &mut clients {
        assert_eq!(client.infer("copy", "1").await.unwrap().status, 200);
    }
    // Half of a request, and nobody who would read an answer.
    for client in &mut clients {
        client
            .send("POST /v2/models/copy/infer HTTP/1.1\r\nHost: d\r\nContent-Length: 1000000\r\n\r\n{\"inp")
            .await;
    }
    assert_eq!(engine.sessions(), 20);
    drop(clients);
    let gone = async {
        while engine.sessions() > 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), gone).await.unwrap();
}
