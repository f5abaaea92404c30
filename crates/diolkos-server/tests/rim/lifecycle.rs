// SPDX-License-Identifier: Apache-2.0
//! Reloading and draining.

use std::path::Path;

use diolkos_server::{Deps, Settings};
use tokio::net::UnixStream;

use crate::support::{self, socket, start, start_with};

/// Reads `settings.toml` of the fixture's directory on reload.
fn rereads(dir: &Path, deps: Deps) -> Deps {
    let file = dir.join("settings.toml");
    Deps { read_settings: Some(Box::new(move || Settings::load(&file))), ..deps }
}

#[tokio::test]
async fn a_bad_file_changes_nothing() {
    let fixture = start_with("limits.connections_max = 7", rereads).await;
    let before = fixture.daemon.settings();
    std::fs::write(fixture.dir.path().join("settings.toml"), "[limits]\nconections_max = 9\n").unwrap();
    fixture.daemon.reload().await;
    assert_eq!(fixture.daemon.settings(), before);
    assert_eq!(fixture.metric("diolkos_settings_reloads_total{result=\"failed\"}").await, 1.0);
    assert_eq!(fixture.metric("diolkos_settings_reloads_total{result=\"ok\"}").await, 0.0);
    fixture.daemon.shutdown().await;
}

#[tokio::test]
async fn a_good_file_takes_effect_where_it_can() {
    let fixture = start_with("", rereads).await;
    let before = fixture.daemon.settings();
    let file = "engine.slots = 9\n[limits]\nconnections_max = 1\n";
    std::fs::write(fixture.dir.path().join("settings.toml"), file).unwrap();
    fixture.daemon.reload().await;
    let after = fixture.daemon.settings();
    assert_eq!((after.limits.connections_max, after.engine.slots), (1, before.engine.slots));
    assert_eq!(after.listen, before.listen);
    // In force for the next connections.
    let mut first = fixture.connect().await;
    assert_eq!(first.get("/v2/health/live").await.unwrap().status, 200);
    let mut second = fixture.connect().await;
    assert_eq!(second.get("/v2/health/live").await.unwrap().status, 200);
    first.closed().await;
    drop(second);
    fixture.daemon.shutdown().await;
}

#[tokio::test]
async fn draining_finishes_what_is_in_flight_and_takes_nothing_new() {
    let fixture = start("").await;
    let path = socket(fixture.dir.path());
    let mut idle = fixture.connect().await;
    idle.get("/v2/health/ready").await.unwrap();
    let mut busy = fixture.connect().await;
    busy.send_infer("gate", "3").await;
    fixture.gate.wait_for(1).await;
    let shutdown = tokio::spawn(fixture.daemon.shutdown());
    // The idle one ends, which says that draining began; the listener closed before.
    idle.closed().await;
    assert!(UnixStream::connect(&path).await.is_err());
    assert!(!shutdown.is_finished(), "a request is in flight");
    fixture.gate.open();
    let reply = busy.reply().await.unwrap();
    assert_eq!(reply.status, 200, "{reply:?}");
    assert!(reply.body.contains("[3]"), "{reply:?}");
    busy.closed().await;
    shutdown.await.unwrap();
}

#[tokio::test]
async fn the_drain_timeout_cuts_what_is_left() {
    let fixture = start("shutdown.drain_timeout = \"100ms\"").await;
    let mut busy = fixture.connect().await;
    busy.send_infer("gate", "3").await;
    fixture.gate.wait_for(1).await;
    let shutdown = tokio::spawn(fixture.daemon.shutdown());
    assert!(busy.reply().await.is_none(), "the connection ends without a reply");
    shutdown.await.unwrap();
    fixture.gate.open();
}

#[tokio::test]
async fn the_engine_is_gone_after_shutdown() {
    let fixture = start("").await;
    let engine = fixture.daemon.engine().clone();
    assert_eq!(fixture.get("/v2/health/live").await.status, 200);
    fixture.daemon.shutdown().await;
    assert!(engine.is_draining());
    assert_eq!((engine.jobs(), engine.sessions()), (0, 0));
}

#[tokio::test]
async fn tcp_away_from_loopback_is_refused_even_by_name() {
    let mut settings = Settings::default();
    settings.listen.push(diolkos_server::Address::Tcp { host: "0".into(), port: 0 }.into());
    let gate = std::sync::Arc::default();
    let error = diolkos_server::Daemon::start(settings, support::deps(&gate)).await.unwrap_err();
    assert!(
        error.to_string().starts_with("`tcp:0:0` is not on loopback (it is 0.0.0.0), and TCP"),
        "{error}"
    );
}
