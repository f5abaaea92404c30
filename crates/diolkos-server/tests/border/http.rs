// SPDX-License-Identifier: Apache-2.0
//! HTTP/1.1 as far as an attacker needs it: requests are text that nothing corrects.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::doors::{Claims, Connection, Door};
use crate::world::{Who, World};

pub(crate) struct Http {
    connection: Connection,
    claims: Claims,
    read: Vec<u8>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// But for those that differ from one time to the next.
    pub(crate) headers: Vec<String>,
    pub(crate) body: String,
}

impl Answer {
    /// As if it had been about somebody else.
    pub(crate) fn renamed(mut self, from: &str, to: &str) -> Answer {
        self.body = self.body.replace(from, to);
        self.headers.iter_mut().for_each(|line| *line = line.replace(from, to));
        self
    }
}

impl Http {
    pub(crate) async fn connect(door: Door, world: &World, who: Who) -> Http {
        let connection = door.connect(world, who, "http/1.1").await;
        Http { connection, claims: door.claims(world, who), read: Vec::new() }
    }

    /// One that claims something.
    pub(crate) fn claiming(mut self, claims: Claims) -> Http {
        self.claims = claims;
        self
    }

    pub(crate) async fn ask(&mut self, method: &str, path: &str, body: &str) -> Answer {
        let mut text = format!("{method} {path} HTTP/1.1\r\nHost: d\r\nContent-Length: {}\r\n", body.len());
        for (name, value) in self.claims.headers() {
            text += &format!("{name}: {value}\r\n");
        }
        self.say(&format!("{text}\r\n{body}")).await;
        self.answer().await.unwrap_or_else(|| panic!("no answer to {method} {path}"))
    }

    pub(crate) async fn get(&mut self, path: &str) -> Answer {
        self.ask("GET", path, "").await
    }

    /// Says it as it stands.
    pub(crate) async fn say(&mut self, text: &str) {
        // A peer that is refused may be told before it has asked.
        let _ = self.connection.write_all(text.as_bytes()).await;
        let _ = self.connection.flush().await;
    }

    /// The next answer, or `None` if the connection ends before one.
    pub(crate) async fn answer(&mut self) -> Option<Answer> {
        let head_ends = loop {
            match self.read.windows(4).position(|window| window == b"\r\n\r\n") {
                Some(at) => break at + 4,
                None => self.more().await?,
            }
        };
        let head = String::from_utf8(self.read[..head_ends].to_vec()).unwrap().to_lowercase();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
        let length: usize = length.map_or(0, |length| length.parse().unwrap());
        while self.read.len() < head_ends + length {
            self.more().await?;
        }
        let body = String::from_utf8(self.read[head_ends..head_ends + length].to_vec()).unwrap();
        self.read.drain(..head_ends + length);
        let differs = |line: &&str| line.starts_with("date:") || line.starts_with("diolkos-timing");
        let headers = head.lines().filter(|line| !differs(line)).map(str::to_owned).collect();
        Some(Answer { status, headers, body })
    }

    async fn more(&mut self) -> Option<()> {
        match self.connection.read_buf(&mut self.read).await {
            Ok(0) | Err(_) => None,
            Ok(_) => Some(()),
        }
    }
}
