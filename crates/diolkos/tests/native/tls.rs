// SPDX-License-Identifier: Apache-2.0
//! The native channel over TLS: who it is, who is trusted, and both ways at once.

use std::io::Write as _;
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use diolkos_client::{Client, Error, Memory, Options, TlsFiles};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection};

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

/// A server that shakes hands, and then does what it is told.
fn serves(
    fixture: &Fixture,
    then: impl FnOnce(&mut ServerConnection, &mut TcpStream) + Send + 'static,
) -> String {
    let file = fixture.dir().join("server.pem");
    let chain: Vec<_> = CertificateDer::pem_file_iter(&file).unwrap().map(Result::unwrap).collect();
    let key = PrivateKeyDer::from_pem_file(&file).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("tls:localhost:{}", listener.local_addr().unwrap().port());
    std::thread::spawn(move || {
        let (mut tcp, _) = listener.accept().unwrap();
        let mut session = ServerConnection::new(Arc::new(config)).unwrap();
        while session.is_handshaking() {
            session.complete_io(&mut tcp).unwrap();
        }
        then(&mut session, &mut tcp);
    });
    address
}

#[test]
fn what_comes_behind_the_end_is_nobodys() {
    let fixture = fixture();
    let (told, done) = std::sync::mpsc::channel::<()>();
    let address = serves(&fixture, move |session, tcp| {
        let mut records = Vec::new();
        session.send_close_notify();
        session.write_tls(&mut records).unwrap();
        // In one read of the client's.
        records.extend([0; 16 << 10]);
        tcp.write_all(&records).unwrap();
        // The connection stays until the client is done with it.
        let _ = done.recv();
    });
    let options = Options { tls: fixture.trusting(), reconnect: Duration::ZERO, ..Options::default() };
    assert!(Client::connect_with(&address, options).is_err());
    drop(told);
}

#[test]
fn a_handshake_that_goes_on_for_ever_ends_in_time() {
    let fixture = fixture();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("tls:localhost:{}", listener.local_addr().unwrap().port());
    std::thread::spawn(move || {
        let (mut tcp, _) = listener.accept().unwrap();
        // A record of the handshake that comes byte by byte.
        let _ = tcp.write_all(&[22, 3, 3, 0x40, 0]);
        while tcp.write_all(&[0]).is_ok() {
            std::thread::sleep(Duration::from_millis(5));
        }
    });
    let connect = Duration::from_millis(100);
    let options =
        Options { tls: fixture.trusting(), connect, reconnect: Duration::ZERO, ..Options::default() };
    let error = Client::connect_with(&address, options).unwrap_err();
    assert!(matches!(error, Error::Connect { .. }), "{error:?}");
}

#[test]
fn memory_is_private_over_tls() {
    let fixture = fixture();
    let tls = shows(&fixture, "ca.pem", "client.pem");
    let options = Options { tls, memory: Memory::Shared, ..Options::default() };
    let client = Client::connect_with(&fixture.tls, options).unwrap();
    assert!(!client.shares_memory());
}
