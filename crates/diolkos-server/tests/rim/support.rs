// SPDX-License-Identifier: Apache-2.0
//! A daemon with two operations, and a client that speaks just enough HTTP/1.1 to misbehave in it.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex};

use diolkos_backend::{Operation, RunError, Work};
use diolkos_engine::store::NoRehearsal;
use diolkos_server::{Address, BoundAddress, Builtin, Daemon, Deps, Settings};
use diolkos_types::{DataType, Shape, Signature, TensorSpec};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

/// Whether `gate` lets jobs through, and how many have come to it.
#[derive(Default)]
pub(crate) struct Gate {
    state: Mutex<(bool, usize)>,
    changed: Condvar,
}

impl Gate {
    /// Lets everybody through, now and later.
    pub(crate) fn open(&self) {
        self.state.lock().unwrap().0 = true;
        self.changed.notify_all();
    }

    /// Waits until so many jobs have come to the gate.
    pub(crate) async fn wait_for(self: &Arc<Self>, count: usize) {
        let gate = self.clone();
        let wait = move || {
            let mut state = gate.state.lock().unwrap();
            while state.1 < count {
                state = gate.changed.wait(state).unwrap();
            }
        };
        tokio::task::spawn_blocking(wait).await.unwrap();
    }

    fn pass(&self) {
        let mut state = self.state.lock().unwrap();
        state.1 += 1;
        self.changed.notify_all();
        while !state.0 {
            state = self.changed.wait(state).unwrap();
        }
    }
}

/// `x: UINT8 [-1]` in, `y` the same out; waits at the gate if it has one.
struct Copy {
    signature: Signature,
    gate: Option<Arc<Gate>>,
}

impl Copy {
    fn new(gate: Option<Arc<Gate>>) -> Arc<Copy> {
        let spec = |name| TensorSpec::any_shape(name, DataType::Uint8);
        Arc::new(Copy {
            signature: Signature { inputs: [spec("x")].into(), outputs: [spec("y")].into() },
            gate,
        })
    }
}

impl Operation for Copy {
    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn resident_bytes(&self) -> u64 {
        0
    }

    fn peak_bytes(&self, shapes: &[Option<Shape>], _input_bytes: u64) -> Option<u64> {
        shapes.first().copied().flatten()?.elements()
    }

    fn run(&self, work: &mut Work) -> Result<(), RunError> {
        work.compute_begins();
        if let Some(gate) = &self.gate {
            gate.pass();
        }
        let x = work.take_input(0).ok_or(RunError::Cancelled)?;
        work.compute_ends();
        let bytes = x.data.len();
        work.output(&self.signature, 0, x.data_type, x.shape, bytes)?.give(x.data);
        Ok(())
    }
}

/// A daemon, the directory it lives in, and its gate.
pub(crate) struct Fixture {
    pub(crate) daemon: Daemon,
    pub(crate) dir: tempfile::TempDir,
    pub(crate) gate: Arc<Gate>,
}

pub(crate) fn builtins(gate: &Arc<Gate>) -> Vec<Builtin> {
    let builtin =
        |name: &str, operation: Arc<Copy>| Builtin { name: name.into(), summary: "y = x".into(), operation };
    vec![builtin("copy", Copy::new(None)), builtin("gate", Copy::new(Some(gate.clone())))]
}

pub(crate) fn deps(gate: &Arc<Gate>) -> Deps {
    Deps {
        backends: Vec::new(),
        builtins: builtins(gate),
        rehearser: Box::new(NoRehearsal),
        read_settings: None,
    }
}

/// Starts a daemon on a unix socket in a directory of its own.
pub(crate) async fn start(settings: &str) -> Fixture {
    start_with(settings, |_, deps| deps).await
}

pub(crate) async fn start_with(settings: &str, adapt: impl FnOnce(&Path, Deps) -> Deps) -> Fixture {
    let dir = tempfile::tempdir().unwrap();
    let gate = Arc::new(Gate::default());
    let mut settings = Settings::parse(settings, Path::new("/test.toml")).unwrap();
    settings.listen.push(Address::Unix(socket(dir.path())).into());
    if settings.engine.slots == 0 {
        settings.engine.slots = 2;
    }
    let daemon = Daemon::start(settings, adapt(dir.path(), deps(&gate))).await.unwrap();
    daemon.wait_ready().await;
    Fixture { daemon, dir, gate }
}

pub(crate) fn socket(dir: &Path) -> PathBuf {
    dir.join("d.sock")
}

impl Fixture {
    pub(crate) async fn connect(&self) -> Client {
        Client::connect(&socket(self.dir.path())).await
    }

    pub(crate) async fn get(&self, path: &str) -> Reply {
        let mut client = self.connect().await;
        client.get(path).await.unwrap()
    }

    /// The value of one line of `/metrics`; 0 if it is not there.
    pub(crate) async fn metric(&self, name: &str) -> f64 {
        let text = self.get("/metrics").await.body;
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.map_or(0.0, |value| value.parse().unwrap())
    }

    pub(crate) fn tcp(&self) -> std::net::SocketAddr {
        let tcp = |address: &BoundAddress| match address {
            BoundAddress::Tcp(address) => Some(*address),
            BoundAddress::Unix(_) | BoundAddress::Vsock(_) => None,
        };
        self.daemon.addresses().iter().find_map(tcp).unwrap()
    }
}

#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Reply {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let lines = self.head.lines().filter_map(|line| line.split_once(": "));
        lines.into_iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }
}

/// A connection, and what came over it and was not read yet.
pub(crate) struct Client {
    pub(crate) stream: UnixStream,
    read: Vec<u8>,
}

impl Client {
    pub(crate) async fn connect(path: &Path) -> Client {
        Client::over(UnixStream::connect(path).await.unwrap())
    }

    pub(crate) fn over(stream: UnixStream) -> Client {
        Client { stream, read: Vec::new() }
    }

    pub(crate) async fn send(&mut self, text: &str) {
        self.stream.write_all(text.as_bytes()).await.unwrap();
    }

    pub(crate) async fn get(&mut self, path: &str) -> Option<Reply> {
        self.send(&format!("GET {path} HTTP/1.1\r\nHost: d\r\n\r\n")).await;
        self.reply().await
    }

    pub(crate) async fn send_infer(&mut self, model: &str, values: &str) {
        let count = values.split(',').count();
        let body = format!(
            "{{\"inputs\":[{{\"name\":\"x\",\"shape\":[{count}],\"datatype\":\"UINT8\",\"data\":[{values}]}}]}}"
        );
        let length = body.len();
        self.send(&format!(
            "POST /v2/models/{model}/infer HTTP/1.1\r\nHost: d\r\nContent-Length: {length}\r\n\r\n{body}"
        ))
        .await;
    }

    pub(crate) async fn infer(&mut self, model: &str, values: &str) -> Option<Reply> {
        self.send_infer(model, values).await;
        self.reply().await
    }

    /// The next reply, or `None` if the connection ends before one.
    pub(crate) async fn reply(&mut self) -> Option<Reply> {
        let head_ends = loop {
            match self.read.windows(4).position(|window| window == b"\r\n\r\n") {
                Some(at) => break at + 4,
                None => self.more().await?,
            }
        };
        let head = String::from_utf8(self.read[..head_ends].to_vec()).unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        let mut reply = Reply { status, head, body: String::new() };
        let length: usize = reply.header("content-length").map_or(0, |length| length.parse().unwrap());
        while self.read.len() < head_ends + length {
            self.more().await?;
        }
        reply.body = String::from_utf8(self.read[head_ends..head_ends + length].to_vec()).unwrap();
        self.read.drain(..head_ends + length);
        Some(reply)
    }

    /// Waits for more bytes; `None` at the end of the connection.
    async fn more(&mut self) -> Option<()> {
        match self.stream.read_buf(&mut self.read).await {
            Ok(0) | Err(_) => None,
            Ok(_) => Some(()),
        }
    }

    /// Waits until the daemon closed the connection.
    pub(crate) async fn closed(&mut self) {
        while self.more().await.is_some() {}
    }
}
