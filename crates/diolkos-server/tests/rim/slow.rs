// SPDX-License-Identifier: Apache-2.0
//! Clients that are slow on purpose. Timeouts are short, and the tests wait for what must happen; none of
//! them says how soon.

use std::time::{Duration, Instant};

use tokio::io::AsyncWriteExt as _;

use crate::support::{Client, Fixture, start};

const SHORT: &str =
    "[limits]\nheader_timeout = \"150ms\"\nidle_timeout = \"300ms\"\nbody_timeout = \"150ms\"\n";

/// Sends a byte now and then, until the daemon has had enough.
async fn trickle(client: &mut Client) {
    let mut ticks = tokio::time::interval(Duration::from_millis(20));
    loop {
        ticks.tick().await;
        if client.stream.write_all(b"x").await.is_err() {
            return;
        }
    }
}

async fn expired(fixture: &Fixture, reason: &str) -> f64 {
    fixture.metric(&format!("diolkos_connections_expired_total{{reason=\"{reason}\"}}")).await
}

#[tokio::test]
async fn a_header_that_does_not_end_is_told_so() {
    let fixture = start(SHORT).await;
    for start in ["G", "GET /v2 HTTP/1.1\r\nHost: d\r\n", "PRI * HTTP/2.0\r\n"] {
        let began = Instant::now();
        let mut client = fixture.connect().await;
        client.send(start).await;
        let reply = client.reply().await.unwrap();
        assert_eq!(reply.status, 408, "{reply:?}");
        assert!(reply.body.contains("limits.header_timeout"), "{reply:?}");
        assert!(began.elapsed() >= Duration::from_millis(150));
        client.closed().await;
    }
    assert_eq!(expired(&fixture, "header").await, 3.0);
    fixture.daemon.shutdown().await;
}

#[tokio::test]
async fn a_trickled_header_gains_nothing() {
    let fixture = start(SHORT).await;
    let mut client = fixture.connect().await;
    client.send("GET /v2 HTTP/1.1\r\nx: ").await;
    trickle(&mut client).await;
    assert_eq!(expired(&fixture, "header").await, 1.0);
    // The same between two requests of one connection.
    let mut client = fixture.connect().await;
    client.get("/v2/health/live").await.unwrap();
    client.send("GET /v2 HTTP/1.1\r\nx: ").await;
    trickle(&mut client).await;
    assert_eq!(expired(&fixture, "header").await, 2.0);
    fixture.daemon.shutdown().await;
}

#[tokio::test]
async fn a_silent_connection_is_closed() {
    let fixture = start(SHORT).await;
    let began = Instant::now();
    let mut silent = fixture.connect().await;
    let mut used = fixture.connect().await;
    used.get("/v2/health/live").await.unwrap();
    silent.closed().await;
    used.closed().await;
    assert!(began.elapsed() >= Duration::from_millis(300));
    assert_eq!(expired(&fixture, "idle").await, 2.0);
    fixture.daemon.shutdown().await;
}

#[tokio::test]
async fn a_silent_http2_connection_is_closed() {
    let fixture = start(SHORT).await;
    let mut client = fixture.connect().await;
    // The preface and empty settings; then half of a frame header.
    client.send("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\u{4}\0\0\0\0\0\0\0").await;
    client.closed().await;
    assert_eq!(expired(&fixture, "idle").await, 1.0);
    fixture.daemon.shutdown().await;
}

const POST: &str = "POST /v2/models/copy/infer HTTP/1.1\r\nHost: d\r\nContent-Length: 100000\r\n\r\n";

#[tokio::test]
async fn a_body_that_does_not_come_is_told_so() {
    let fixture = start(SHORT).await;
    for part in ["", "{\"inputs\":"] {
        let mut client = fixture.connect().await;
        client.send(POST).await;
        client.send(part).await;
        let reply = client.reply().await.unwrap();
        assert_eq!(reply.status, 408, "{reply:?}");
        assert!(reply.body.contains("limits.body_timeout"), "{reply:?}");
    }
    let mut client = fixture.connect().await;
    client.send(POST).await;
    trickle(&mut client).await;
    assert_eq!(client.reply().await.map(|reply| reply.status), Some(408));
    assert_eq!(fixture.metric("diolkos_body_memory_bytes").await, 0.0);
    fixture.daemon.shutdown().await;
}

#[tokio::test]
async fn a_client_that_does_not_read_is_cut_off() {
    let fixture = start("[limits]\nbody_timeout = \"150ms\"\n").await;
    let mut client = fixture.connect().await;
    // More than the buffers of a socket take.
    let values = vec!["255"; 1 << 20].join(",");
    client.send_infer("copy", &values).await;
    // Writing ends when the daemon closes its side; until then it waits or fills a buffer.
    while client.stream.write_all(&[b' '; 4096]).await.is_ok() {}
    assert_eq!(expired(&fixture, "reply").await, 1.0);
    fixture.daemon.shutdown().await;
}

#[tokio::test]
async fn slow_clients_do_not_hold_up_others() {
    let fixture = start("limits.connections_max = 64\n").await;
    let mut slow = Vec::new();
    for _ in 0..32 {
        let mut header = fixture.connect().await;
        header.send("GET / HTTP/1.1\r\n").await;
        let mut body = fixture.connect().await;
        body.send(POST).await;
        slow.push((header, body));
    }
    let mut client = fixture.connect().await;
    for round in 0..50 {
        let reply = client.infer("copy", &round.to_string()).await.unwrap();
        assert_eq!(reply.status, 200, "{reply:?}");
        assert!(reply.body.contains(&format!("[{round}]")), "{reply:?}");
    }
    drop(slow);
    fixture.daemon.shutdown().await;
}

#[tokio::test]
async fn bodies_that_need_too_much_memory_are_told_to_wait() {
    let fixture = start("[limits]\nrequest_memory_max = \"64KiB\"\nrequests_memory_max = \"64KiB\"\n").await;
    let mut client = fixture.connect().await;
    client.send(POST).await;
    // The daemon may answer and close before all of it is sent.
    let _ = client.stream.write_all(&vec![b' '; 100_000]).await;
    let reply = client.reply().await.unwrap();
    assert_eq!((reply.status, reply.header("retry-after")), (503, Some("1")), "{reply:?}");
    assert_eq!(fixture.metric("diolkos_body_memory_bytes").await, 0.0);
    fixture.daemon.shutdown().await;
}
