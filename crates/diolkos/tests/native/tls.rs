// SPDX-License-Identifier: Apache-2.0
//! The native channel over TLS: who it is, who is trusted, and both ways at once.

use std::sync::Arc;
use std::time::{Duration, Instant};

use diolkos_client::{Client, Error, Memory, Options, TlsFiles};

use crate::support::Fixture;

const TENANTS: &str = "[tenants.me]\nuids = [UID]\n[tenants.remote]\ncertificates = [\"dns:client\"]\n\
    leases.all = { kind = \"compute\", operations = [\"echo\", \"gate\"] }\n";

fn fixture() -> Fixture {
    let uid = rustix::process::geteuid().as_raw().to_string();
    Fixture::start(&TENANTS.replace("UID", &uid))
}

fn shows(fixture: &Fixture, ca: &str, certificate: &str) -> TlsFiles {
    let file = |name: &str| Some(fixture.dir().join(name));
    TlsFiles { ca: file(ca), certificate: file(certificate), key: None }
}

fn connect(fixture: &Fixture, tls: TlsFiles) -> Result<Client, Error> {
    Client::connect_with(&fixture.tls, Options { tls, reconnect: Duration::ZERO, ..Options::default() })
}

#[test]
fn a_certificate_says_who_it_is() {
    let fixture = fixture();
    let client = connect(&fixture, shows(&fixture, "ca.pem", "client.pem")).unwrap();
    let names: Vec<String> =
        client.models().unwrap().into_iter().map(|model| model.name.to_string()).collect();
    assert_eq!(names, ["echo", "gate"], "what the lease of `remote` allows, and not that of the user");
    let tenants = fixture.engine().tenants();
    assert!(tenants.iter().any(|tenant| tenant.id.name() == "remote" && tenant.sessions == 1), "{tenants:?}");
}

#[test]
fn who_is_not_trusted_is_not_connected_to() {
    let fixture = fixture();
    let untrusted = connect(&fixture, shows(&fixture, "other-ca.pem", "client.pem")).unwrap_err();
    assert!(matches!(untrusted, Error::Connect { .. }), "{untrusted:?}");
    assert!(connect(&fixture, shows(&fixture, "ca.pem", "forged.pem")).is_err());
    let none = connect(&fixture, shows(&fixture, "ca.pem", "nowhere.pem")).unwrap_err();
    assert!(none.to_string().contains("tls:localhost"), "{none}");
    // Another name than the certificate's.
    let tls = shows(&fixture, "ca.pem", "client.pem");
    let named = fixture.tls.replace("localhost", "127.0.0.1");
    assert!(Client::connect_with(&named, Options { tls, ..Options::default() }).is_err());
}

#[test]
fn many_send_and_receive_at_once() {
    let fixture = fixture();
    let client = Arc::new(connect(&fixture, shows(&fixture, "ca.pem", "client.pem")).unwrap());
    std::thread::scope(|scope| {
        for number in 0..4u8 {
            let client = client.clone();
            scope.spawn(move || {
                let echo = client.open("echo").unwrap();
                // More than sockets keep, both ways.
                for bytes in [0usize, 1, 16_384, 3 << 20] {
                    let mut tensor = client.tensor::<u8>(&[bytes as u64]).unwrap();
                    tensor.fill(number);
                    let reply = echo.infer([("data", tensor)]).unwrap();
                    let data = reply.output(0).unwrap().values::<u8>().unwrap();
                    assert!(data.len() == bytes && data.iter().all(|byte| *byte == number));
                }
            });
        }
    });
}

#[test]
fn waiting_ends_when_it_is_to_end() {
    let fixture = fixture();
    let client = connect(&fixture, shows(&fixture, "ca.pem", "client.pem")).unwrap();
    let gate = client.open("gate").unwrap();
    let tensor = client.tensor::<u8>(&[1]).unwrap();
    let mut pending = gate.submit([("data", tensor)]).unwrap();
    let began = Instant::now();
    assert!(pending.try_wait(Duration::from_millis(30)).unwrap().is_none());
    assert!(began.elapsed() >= Duration::from_millis(30));
    fixture.gate.open();
    pending.wait().unwrap();
}

#[test]
fn a_daemon_that_goes_is_noticed() {
    let mut fixture = fixture();
    let client = connect(&fixture, shows(&fixture, "ca.pem", "client.pem")).unwrap();
    let echo = client.open("echo").unwrap();
    fixture.stop();
    let tensor = client.tensor::<u8>(&[1]).unwrap();
    assert!(echo.infer([("data", tensor)]).is_err());
}

#[test]
fn memory_is_private_over_tls() {
    let fixture = fixture();
    let tls = shows(&fixture, "ca.pem", "client.pem");
    let options = Options { tls, memory: Memory::Shared, ..Options::default() };
    let client = Client::connect_with(&fixture.tls, options).unwrap();
    assert!(!client.shares_memory());
}
