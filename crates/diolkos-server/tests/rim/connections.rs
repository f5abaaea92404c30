// SPDX-License-Identifier: Apache-2.0
//! Who gets in, who makes room, and what everybody shares.

use std::sync::Arc;

use diolkos_server::{Address, Daemon, DaemonError, Settings};
use http_body_util::{BodyExt as _, Empty};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::UnixStream;

use crate::support::{self, Client, Gate, socket, start};

#[tokio::test]
async fn the_longest_idle_connection_makes_room() {
    let fixture = start("limits.connections_max = 2").await;
    let mut first = fixture.connect().await;
    assert_eq!(first.get("/v2/health/live").await.unwrap().status, 200);
    let mut second = fixture.connect().await;
    assert_eq!(second.get("/v2/health/live").await.unwrap().status, 200);
    let mut third = fixture.connect().await;
    assert_eq!(third.get("/v2/health/live").await.unwrap().status, 200);
    first.closed().await;
    assert_eq!(second.get("/v2/health/live").await.unwrap().status, 200);
    // Half a header is idle, too.
    second.send("GET /v2/health").await;
    third.get("/v2/health/live").await.unwrap();
    let mut fourth = fixture.connect().await;
    assert_eq!(fourth.get("/v2/health/live").await.unwrap().status, 200);
    second.closed().await;
    drop(fourth);
    assert!(third.get("/metrics").await.unwrap().body.contains("diolkos_connections_evicted_total 2"));
    fixture.daemon.shutdown().await;
}

#[tokio::test]
async fn when_all_are_busy_the_newcomer_is_told() {
    let fixture = start("limits.connections_max = 2").await;
    let mut busy = Vec::new();
    for _ in 0..2 {
        let mut client = fixture.connect().await;
        client.send_infer("gate", "7").await;
        busy.push(client);
    }
    fixture.gate.wait_for(2).await;
    let mut newcomer = fixture.connect().await;
    let reply = newcomer.reply().await.unwrap();
    assert_eq!((reply.status, reply.header("retry-after")), (503, Some("1")), "{reply:?}");
    assert!(reply.body.contains("limits.connections_max"), "{reply:?}");
    newcomer.closed().await;
    fixture.gate.open();
    for client in &mut busy {
        let reply = client.reply().await.unwrap();
        assert_eq!(reply.status, 200, "{reply:?}");
        assert!(reply.body.contains("[7]"), "{reply:?}");
    }
    drop(busy);
    assert_eq!(fixture.metric("diolkos_connections_refused_total{reason=\"connections\"}").await, 1.0);
    fixture.daemon.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_connections_each_get_their_own_answer() {
    const CLIENTS: usize = 1000;
    let fixture = start("").await;
    let files = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    if files.is_some_and(|files| files < 2 * CLIENTS as u64 + 100) {
        eprintln!(
            "SKIPPED: {files:?} open files are too few for {CLIENTS} connections, both ends in one process"
        );
        return;
    }
    let path = Arc::new(socket(fixture.dir.path()));
    // All are connected before the first one asks, so all are open at once.
    let barrier = Arc::new(tokio::sync::Barrier::new(CLIENTS));
    let mut clients = tokio::task::JoinSet::new();
    for number in 0..CLIENTS {
        let (path, barrier) = (path.clone(), barrier.clone());
        clients.spawn(async move {
            let mut client = Client::connect(&path).await;
            barrier.wait().await;
            for round in 0..3 {
                let values = format!("{},{},{}", number / 256, number % 256, round);
                let reply = client.infer("copy", &values).await.unwrap();
                assert_eq!(reply.status, 200, "{reply:?}");
                assert!(reply.body.replace(' ', "").contains(&format!("[{values}]")), "{reply:?}");
            }
        });
    }
    while let Some(client) = clients.join_next().await {
        client.unwrap();
    }
    assert_eq!(
        fixture.metric("diolkos_requests_total{model=\"copy\",version=\"1\",code=\"ok\"}").await,
        3000.0
    );
    assert_eq!(fixture.metric("diolkos_connections_evicted_total").await, 0.0);
    fixture.daemon.shutdown().await;
}

#[tokio::test]
async fn connections_of_one_process_share_a_session() {
    let fixture = start("").await;
    let mut clients = Vec::new();
    for _ in 0..5 {
        let mut client = fixture.connect().await;
        client.get("/v2/health/live").await.unwrap();
        clients.push(client);
    }
    assert_eq!(fixture.metric("diolkos_sessions_open").await, 1.0);
    drop(clients);
    fixture.daemon.shutdown().await;
}

#[tokio::test]
async fn tcp_gets_a_session_for_each_connection() {
    let fixture = start("listen = [\"tcp:127.0.0.1:0\"]").await;
    let before = fixture.metric("diolkos_sessions_open").await;
    let first = reqless_get(fixture.tcp()).await;
    let second = reqless_get(fixture.tcp()).await;
    assert_eq!(fixture.metric("diolkos_sessions_open").await, before + 2.0);
    drop((first, second));
    fixture.daemon.shutdown().await;
}

/// A TCP connection that asked one question.
async fn reqless_get(address: std::net::SocketAddr) -> tokio::net::TcpStream {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    stream.write_all(b"GET /v2/health/live HTTP/1.1\r\nHost: d\r\n\r\n").await.unwrap();
    let mut start = [0; 12];
    stream.read_exact(&mut start).await.unwrap();
    assert_eq!(&start, b"HTTP/1.1 200");
    stream
}

#[tokio::test]
async fn http2_with_prior_knowledge_is_served_on_the_same_socket() {
    let fixture = start("").await;
    let stream = UnixStream::connect(socket(fixture.dir.path())).await.unwrap();
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    let connection = tokio::spawn(connection);
    for _ in 0..3 {
        let request =
            hyper::Request::get("http://d/v2/health/live").body(Empty::<bytes::Bytes>::new()).unwrap();
        let reply = sender.send_request(request).await.unwrap();
        assert_eq!((reply.status().as_u16(), reply.version()), (200, hyper::Version::HTTP_2));
        reply.into_body().collect().await.unwrap();
    }
    // Draining says good-bye, and the connection ends without an error.
    fixture.daemon.shutdown().await;
    connection.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_trace_comes_back() {
    let fixture = start("").await;
    let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let mut client = fixture.connect().await;
    client.send(&format!("GET /v2 HTTP/1.1\r\nHost: d\r\ntraceparent: {trace}\r\n\r\n")).await;
    assert_eq!(client.reply().await.unwrap().header("traceparent"), Some(trace));
    client.send("GET /v2 HTTP/1.1\r\nHost: d\r\ntraceparent: 00-x\r\n\r\n").await;
    assert_eq!(client.reply().await.unwrap().header("traceparent"), None);
    fixture.daemon.shutdown().await;
}

#[tokio::test]
async fn one_path_serves_one_daemon() {
    let fixture = start("").await;
    let path = socket(fixture.dir.path());
    let mut settings = Settings::default();
    settings.listen.push(Address::Unix(path.clone()).into());
    let second = Daemon::start(settings.clone(), support::deps(&Arc::new(Gate::default()))).await;
    let error = second.unwrap_err();
    assert!(matches!(&error, DaemonError::Listen(_)), "{error:?}");
    assert!(error.to_string().contains(&path.display().to_string()), "{error}");
    assert_eq!(fixture.get("/v2/health/live").await.status, 200);
    fixture.daemon.shutdown().await;
    assert_eq!(std::fs::read_dir(fixture.dir.path()).unwrap().count(), 0, "socket and lock are gone");
}

#[tokio::test]
async fn a_byte_behind_a_request_does_not_hide_that_the_client_left() {
    let fixture = start("engine.slots = 1\nlisten = [\"tcp:127.0.0.1:0\"]").await;
    let engine = fixture.daemon.engine().clone();
    let mut running = fixture.connect().await;
    running.send_infer("gate", "1").await;
    fixture.gate.wait_for(1).await;
    // The second is more than one read takes.
    for behind in ["G".to_owned(), "x".repeat(100_000)] {
        let mut leaving = fixture.connect().await;
        leaving.send_infer("gate", "2").await;
        leaving.send(&behind).await;
        until_jobs(&engine, 2).await;
        drop(leaving);
        until_jobs(&engine, 1).await;
    }
    let mut leaving = tokio::net::TcpStream::connect(fixture.tcp()).await.unwrap();
    let body = r#"{"inputs":[{"name":"x","shape":[1],"datatype":"UINT8","data":[3]}]}"#;
    let head =
        format!("POST /v2/models/gate/infer HTTP/1.1\r\nHost: d\r\nContent-Length: {}\r\n", body.len());
    let text = format!("{head}\r\n{body}G");
    tokio::io::AsyncWriteExt::write_all(&mut leaving, text.as_bytes()).await.unwrap();
    until_jobs(&engine, 2).await;
    drop(leaving);
    until_jobs(&engine, 1).await;
    fixture.gate.open();
    assert_eq!(running.reply().await.unwrap().status, 200);
    drop(engine);
    fixture.daemon.shutdown().await;
}

async fn until_jobs(engine: &diolkos_engine::Engine, jobs: usize) {
    while engine.jobs() != jobs {
        tokio::task::yield_now().await;
    }
}
