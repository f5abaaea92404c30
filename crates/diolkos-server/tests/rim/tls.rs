// SPDX-License-Identifier: Apache-2.0
//! TLS: certificates say who it is, bad ones say nothing, and new ones are taken up without a restart.

use std::sync::Arc;
use std::time::Duration;

use diolkos_server::daemon::ReadSettings;
use diolkos_server::{BoundAddress, Daemon, Deps, Settings, TokenHash};
use rcgen::date_time_ymd;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::certificates::{Ca, Signed, ca, client_config, sign, write_server_certificate};
use crate::support::{self, Fixture};

/// A daemon with these settings and one TLS address; its certificates are of `ca`.
async fn daemon(ca: &Ca, listen: &str, rest: &str) -> Fixture {
    let dir = tempfile::tempdir().unwrap();
    write_server_certificate(dir.path(), ca);
    std::fs::write(dir.path().join("ca.pem"), ca.pem()).unwrap();
    let text = format!(
        "listen = [{{ address = \"tcp:127.0.0.1:0\", tls = {{ certificate = \"server.pem\", key = \"server.key\", client_ca = \"ca.pem\" }}{listen} }}]\naudit.file = \"audit.jsonl\"\n{rest}"
    );
    let file = dir.path().join("d.toml");
    std::fs::write(&file, text).unwrap();
    Settings::check(&file).unwrap();
    let gate = Arc::default();
    let settings = Settings::load(&file).unwrap();
    let read: ReadSettings = Box::new(move || Settings::load(&file));
    let daemon = Daemon::start(settings, Deps { read_settings: Some(read), ..support::deps(&gate) });
    let daemon = daemon.await.unwrap();
    daemon.wait_ready().await;
    Fixture { daemon, dir, gate }
}

async fn tcp(fixture: &Fixture) -> TcpStream {
    let BoundAddress::Tcp(address) = fixture.daemon.addresses()[0].clone() else { panic!("tcp") };
    TcpStream::connect(address).await.unwrap()
}

async fn connect(
    fixture: &Fixture,
    ca: &Ca,
    client: Option<&Signed>,
) -> std::io::Result<TlsStream<TcpStream>> {
    let config = client_config(ca, client, "http/1.1");
    let name = ServerName::try_from("localhost").unwrap();
    TlsConnector::from(Arc::new(config)).connect(name, tcp(fixture).await).await
}

/// A whole exchange; with TLS 1.3 a client learns with the first answer that its certificate is no good.
async fn ask(
    fixture: &Fixture,
    ca: &Ca,
    client: Option<&Signed>,
    path: &str,
    token: Option<&str>,
) -> Result<(u16, String), String> {
    let mut stream = connect(fixture, ca, client).await.map_err(|error| error.to_string())?;
    let header = token.map(|token| format!("Authorization: Bearer {token}\r\n")).unwrap_or_default();
    let request = format!("GET {path} HTTP/1.1\r\nHost: d\r\n{header}Connection: close\r\n\r\n");
    // A peer that is refused may be told before it has asked.
    let _ = stream.write_all(request.as_bytes()).await;
    let mut text = String::new();
    stream.read_to_string(&mut text).await.map_err(|error| error.to_string())?;
    Ok((text.split(' ').nth(1).ok_or("nothing came")?.parse().unwrap(), text))
}

fn audit(fixture: &Fixture) -> String {
    std::fs::read_to_string(fixture.dir.path().join("audit.jsonl")).unwrap_or_default()
}

const LEASES: &str = "\
[tenants.a]\ncertificates = [\"dns:a.sandbox\"]\nleases.all = { kind = \"compute\", operations = [\"copy\"] }\n\
[tenants.b]\ncertificates = [\"uri:spiffe://node/b\"]\nleases.all = { kind = \"compute\", operations = [\"gate\"] }\n";

#[tokio::test]
async fn certificates_say_who_it_is_and_bad_ones_say_nothing() {
    let (ca, other_ca) = (ca(), ca());
    let token = diolkos_server::new_token().unwrap();
    // They are b's: its table is the last one.
    let rest = format!("{LEASES}tokens = [\"{}\"]\n", TokenHash::of(&token));
    let fixture = daemon(&ca, "", &rest).await;
    let ask = async |client: Option<&Signed>, path: &str, token: Option<&str>| {
        ask(&fixture, &ca, client, path, token).await
    };
    let a = sign(&ca, &["dns:A.sandbox"], |_| {});
    let b = sign(&ca, &["uri:spiffe://node/b", "dns:x"], |_| {});
    assert_eq!(ask(Some(&a), "/v2/models/copy", None).await.unwrap().0, 200);
    let theirs = ask(Some(&a), "/v2/models/gate", None).await.unwrap();
    let nobodys = ask(Some(&a), "/v2/models/gatf", None).await.unwrap();
    assert_eq!(theirs.0, 404);
    assert_eq!(theirs.1.lines().last().unwrap().replace("gate", "gatf"), nobodys.1.lines().last().unwrap());
    assert_eq!(ask(Some(&b), "/v2/models/gate", None).await.unwrap().0, 200);
    assert_eq!(ask(Some(&b), "/v2/models/copy", None).await.unwrap().0, 404);
    // Without one: a token, or nobody.
    assert_eq!(ask(None, "/v2/models/gate", Some(&token)).await.unwrap().0, 200);
    assert_eq!(ask(None, "/v2/models/gate", None).await.unwrap().0, 401);
    // In order, and still nobody's: a subject is no name, and a wildcard is no pattern.
    let subject = sign(&ca, &["dns:c.sandbox"], |params| {
        params.distinguished_name.push(rcgen::DnType::CommonName, "a.sandbox");
    });
    for nobody in [subject, sign(&ca, &["dns:*.sandbox"], |_| {}), sign(&ca, &["uri:dns:a.sandbox"], |_| {})]
    {
        assert_eq!(ask(Some(&nobody), "/v2/models/copy", None).await.unwrap().0, 401);
    }
    let both = sign(&ca, &["dns:a.sandbox", "uri:spiffe://node/b"], |_| {});
    let (code, text) = ask(Some(&both), "/v2/models/copy", None).await.unwrap();
    assert!(code == 403 && text.contains("or two tenants'"), "{text}");
    // Expired, not yet, of somebody else's CA, or self-signed: no connection at all.
    let expired = sign(&ca, &["dns:a.sandbox"], |params| params.not_after = date_time_ymd(2020, 1, 1));
    let early = sign(&ca, &["dns:a.sandbox"], |params| params.not_before = date_time_ymd(2200, 1, 1));
    let foreign = sign(&other_ca, &["dns:a.sandbox"], |_| {});
    for (bad, alert) in
        [(&expired, "CertificateExpired"), (&early, "CertificateExpired"), (&foreign, "received fatal alert")]
    {
        let error = ask(Some(bad), "/v2/models/copy", None).await.unwrap_err();
        assert!(error.contains(alert), "{error} is not {alert}");
    }
    // A certificate that is somebody else's is of no use without its key.
    let stolen = Signed { chain: a.chain.clone(), ..sign(&ca, &["dns:x"], |_| {}) };
    assert!(ask(Some(&stolen), "/v2/models/copy", None).await.is_err());
    let audit = audit(&fixture);
    assert!(audit.contains("certificate expired") && audit.contains("\"action\":\"connect\""), "{audit}");
    fixture.daemon.shutdown().await;
}

#[tokio::test]
async fn where_the_address_is_a_tenants_own_a_certificate_is_what_lets_in() {
    let ca = ca();
    let fixture = daemon(&ca, ", tenant = \"a\"", LEASES).await;
    assert!(ask(&fixture, &ca, None, "/v2/models/copy", None).await.is_err());
    let any = sign(&ca, &["dns:whoever"], |_| {});
    assert_eq!(ask(&fixture, &ca, Some(&any), "/v2/models/copy", None).await.unwrap().0, 200);
    let b = sign(&ca, &["uri:spiffe://node/b"], |_| {});
    assert_eq!(ask(&fixture, &ca, Some(&b), "/v2/models/gate", None).await.unwrap().0, 404, "it is a there");
    fixture.daemon.shutdown().await;
}

#[tokio::test]
async fn a_new_certificate_is_taken_up_and_a_bad_one_is_not() {
    let ca = ca();
    let fixture = daemon(&ca, "", LEASES).await;
    let a = sign(&ca, &["dns:a.sandbox"], |_| {});
    let shown = async || {
        let stream = connect(&fixture, &ca, Some(&a)).await.unwrap();
        let certificate = stream.get_ref().1.peer_certificates().unwrap()[0].clone();
        (stream, certificate)
    };
    let (mut before, first) = shown().await;
    let second = write_server_certificate(fixture.dir.path(), &ca);
    fixture.daemon.reload().await;
    assert_eq!(shown().await.1, second);
    assert_ne!(first, second);
    let key = fixture.dir.path().join("server.key");
    std::fs::write(&key, sign(&ca, &["dns:other"], |_| {}).key_pem).unwrap();
    fixture.daemon.reload().await;
    assert_eq!(shown().await.1, second, "the key is another one's");
    std::fs::write(&key, "nothing").unwrap();
    fixture.daemon.reload().await;
    assert_eq!(shown().await.1, second);
    let text = audit(&fixture);
    assert!(text.contains("can't be used together") && text.contains("has no private key in PEM"), "{text}");
    // Whoever was connected still is.
    before.write_all(b"GET /v2/models/copy HTTP/1.1\r\nHost: d\r\n\r\n").await.unwrap();
    let mut start = [0; 12];
    before.read_exact(&mut start).await.unwrap();
    assert_eq!(&start, b"HTTP/1.1 200");
    fixture.daemon.shutdown().await;
}

#[tokio::test]
async fn large_bodies_go_both_ways() {
    let ca = ca();
    let fixture = daemon(&ca, "", LEASES).await;
    let a = sign(&ca, &["dns:a.sandbox"], |_| {});
    let mut stream = connect(&fixture, &ca, Some(&a)).await.unwrap();
    let payload: Vec<u8> = (0..3_000_000u32).map(|at| (at % 251) as u8).collect();
    let head = format!(
        "{{\"inputs\":[{{\"name\":\"x\",\"shape\":[{0}],\"datatype\":\"UINT8\",\"parameters\":{{\"binary_data_size\":{0}}}}}],\"parameters\":{{\"binary_data_output\":true}}}}",
        payload.len()
    );
    let request = format!(
        "POST /v2/models/copy/infer HTTP/1.1\r\nHost: d\r\nConnection: close\r\nInference-Header-Content-Length: {}\r\nContent-Length: {}\r\n\r\n{head}",
        head.len(),
        head.len() + payload.len()
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    stream.write_all(&payload).await.unwrap();
    stream.flush().await.unwrap();
    let mut reply = Vec::new();
    stream.read_to_end(&mut reply).await.unwrap();
    assert!(reply.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&reply[..200]));
    assert!(reply.ends_with(&payload));
    fixture.daemon.shutdown().await;
}

#[tokio::test]
async fn whoever_does_not_shake_hands_is_cut() {
    let ca = ca();
    let fixture = daemon(
        &ca,
        "",
        &format!("limits.header_timeout = \"200ms\"\nlimits.body_timeout = \"500ms\"\n{LEASES}"),
    )
    .await;
    // Says nothing.
    let mut silent = tcp(&fixture).await;
    // Says half of it.
    let mut half = tcp(&fixture).await;
    half.write_all(&[22, 3, 1, 2, 0, 1]).await.unwrap();
    // Speaks something else.
    let mut plain = tcp(&fixture).await;
    plain.write_all(b"GET /v2/models/copy HTTP/1.1\r\nHost: d\r\n\r\n").await.unwrap();
    for (stream, name) in [(&mut silent, "silent"), (&mut half, "half"), (&mut plain, "plain")] {
        let mut rest = Vec::new();
        // Reset or closed.
        let _ =
            tokio::time::timeout(Duration::from_secs(20), stream.read_to_end(&mut rest)).await.expect(name);
        assert!(!rest.starts_with(b"HTTP"), "{name}: {rest:?}");
    }
    // A reply that is not taken: it waits within TLS, and that is no less in the way.
    let a = sign(&ca, &["dns:a.sandbox"], |_| {});
    let mut stream = connect(&fixture, &ca, Some(&a)).await.unwrap();
    let request = "GET /v2 HTTP/1.1\r\nHost: d\r\n\r\n".repeat(200);
    let stuck = async {
        loop {
            stream.write_all(request.as_bytes()).await?;
        }
        #[expect(unreachable_code, reason = "says what the block's error is")]
        std::io::Result::Ok(())
    };
    let ended = tokio::time::timeout(Duration::from_secs(30), stuck).await;
    assert!(ended.expect("the connection is cut").is_err());
    fixture.daemon.shutdown().await;
}

#[test]
fn settings_say_what_is_wrong_with_the_files() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("d.toml");
    let check = |tls: &str| {
        std::fs::write(&file, format!("listen = [{{ address = \"tcp:0.0.0.0:0\", {tls} }}]\n")).unwrap();
        Settings::check(&file).map_err(|error| error.to_string())
    };
    let files = "tls = { certificate = \"server.pem\", key = \"server.key\" }";
    let error = check(files).unwrap_err();
    assert!(
        error.contains("server.pem` can't be read (No such file")
            || error.contains("server.key` can't be read (No such"),
        "{error}"
    );
    write_server_certificate(dir.path(), &ca());
    check(files).unwrap();
    std::fs::copy(dir.path().join("server.pem"), dir.path().join("server.key")).unwrap();
    assert!(check(files).unwrap_err().contains("server.key` has no private key in PEM"));
    let error = check(&format!("insecure = true, {files}")).unwrap_err();
    assert!(error.contains("has `tls`, and `insecure` says the opposite"), "{error}");
    let error = check("tls = { certificate = \"c\", key = \"k\", ca = \"x\" }").unwrap_err();
    assert!(error.contains("unknown field `ca`"), "{error}");
}
