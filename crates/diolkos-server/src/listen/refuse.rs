// SPDX-License-Identifier: Apache-2.0
//! Telling a client that it can't come in: one short reply, then the end.

use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::Semaphore;

use super::peer::Peer;
use super::socket::Socket;
use crate::limits;

/// Why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// Every connection that may be is, and is busy.
    Full,
    /// Its tenant connects too often.
    Rate,
    /// The engine has no session left.
    Sessions,
    /// TLS was not agreed on, or the certificate that was shown is no good. There is nobody to tell more than TLS itself does.
    Handshake,
    /// Who this is is nobody that the settings name.
    Forbidden(Unproven),
}

/// What is known of a peer that is nobody.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unproven {
    /// A certificate, which no tenant has, or two have.
    Certificate,
    /// Its user, which no tenant has.
    Uid(u32),
    /// Its machine, which no tenant has.
    Cid(u32),
    /// Not even that.
    Nothing,
    /// Its listening address is for a tenant that is gone.
    Gone,
}

impl Refusal {
    /// Label in metrics.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Refusal::Full => "connections",
            Refusal::Rate => "rate",
            Refusal::Sessions => "sessions",
            Refusal::Handshake => "handshake",
            Refusal::Forbidden(_) => "forbidden",
        }
    }

    fn reply(self) -> String {
        let retry = format!("Retry-After: {}\r\n", limits::REFUSE_RETRY_SECONDS);
        let (status, extra, message) = match self {
            Refusal::Full => (
                "503 Service Unavailable",
                retry.as_str(),
                "every connection that limits.connections_max allows is busy; try again".to_owned(),
            ),
            Refusal::Rate => (
                "429 Too Many Requests",
                retry.as_str(),
                "your tenant connects more often than it may (`connection_rate`); keep connections open"
                    .to_owned(),
            ),
            Refusal::Sessions => (
                "503 Service Unavailable",
                retry.as_str(),
                "too many sessions are open; try again".to_owned(),
            ),
            Refusal::Handshake => ("400 Bad Request", "", "TLS was not agreed on".into()),
            Refusal::Forbidden(unproven) => ("403 Forbidden", "", unproven.message()),
        };
        reply(status, extra, &message)
    }
}

impl Unproven {
    /// Of a peer that nobody claims.
    pub(super) fn of(peer: &Peer) -> Unproven {
        match peer {
            Peer { of_listener: Some(_), .. } => Unproven::Gone,
            Peer { certificate: Some(_), .. } => Unproven::Certificate,
            Peer { uid: Some(uid), .. } => Unproven::Uid(*uid),
            Peer { cid: Some(cid), .. } => Unproven::Cid(*cid),
            _ => Unproven::Nothing,
        }
    }

    fn message(self) -> String {
        match self {
            Unproven::Certificate => {
                "your certificate is in order and is nobody's here, or two tenants'; the operator of this daemon can \
                 name it in the settings (tenants.NAME.certificates)"
                    .into()
            }
            Unproven::Uid(uid) => format!(
                "uid {uid} may not use this daemon; its operator can name it in the settings (tenants.NAME.uids)"
            ),
            Unproven::Cid(cid) => format!(
                "the machine with CID {cid} may not use this daemon; its operator can name it in the settings (tenants.NAME.cids)"
            ),
            Unproven::Nothing => {
                "nothing proves who you are: use a unix socket, or ask the operator of this daemon for a \
                                  token, a certificate or `anonymous` in its settings"
                    .into()
            }
            Unproven::Gone => "the tenant of this address is gone from the settings of this daemon".into(),
        }
    }
}

/// A whole HTTP/1.1 reply. `message` must be free of quotes and control characters.
fn reply(status: &str, extra: &str, message: &str) -> String {
    let body = format!("{{\"error\":\"{message}\"}}");
    format!(
        "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n{extra}Connection: close\r\n\r\n{body}",
        body.len()
    )
}

/// Tells clients in the background, so many at once; past that they are closed unheard.
#[derive(Clone, Debug)]
pub(super) struct Refuser(Arc<Semaphore>);

impl Default for Refuser {
    fn default() -> Refuser {
        Refuser(Arc::new(Semaphore::new(limits::REFUSING_MAX)))
    }
}

impl Refuser {
    pub(super) fn refuse(&self, socket: Socket, refusal: Refusal) {
        let Ok(permit) = self.0.clone().try_acquire_owned() else { return };
        tokio::spawn(async move {
            farewell(socket, &refusal.reply()).await;
            drop(permit);
        });
    }
}

/// Tells a client whose header took too long.
pub(super) async fn too_slow<S: AsyncRead + AsyncWrite + Unpin>(socket: S) {
    let message = "the request's header did not arrive within limits.header_timeout";
    farewell(socket, &reply("408 Request Timeout", "", message)).await;
}

/// Sends a reply and waits for the client to close, for a moment: closing a socket with unread bytes
/// would reset the connection, and the reply might be lost on the way.
async fn farewell<S: AsyncRead + AsyncWrite + Unpin>(mut socket: S, reply: &str) {
    let talk = async {
        socket.write_all(reply.as_bytes()).await?;
        socket.shutdown().await?;
        let mut rest = [0; 1024];
        while socket.read(&mut rest).await? > 0 {}
        std::io::Result::Ok(())
    };
    // However it ends, the socket is closed now; the client's side of it is its own business.
    let _ = tokio::time::timeout(limits::REFUSE_TIMEOUT, talk).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_are_well_formed() {
        let unproven =
            [Unproven::Certificate, Unproven::Uid(7), Unproven::Cid(7), Unproven::Nothing, Unproven::Gone];
        let unproven = unproven.map(Refusal::Forbidden);
        for refusal in [Refusal::Full, Refusal::Sessions].into_iter().chain(unproven) {
            let reply = refusal.reply();
            let (head, body) = reply.split_once("\r\n\r\n").unwrap();
            assert!(head.contains(&format!("Content-Length: {}", body.len())), "{reply}");
            assert_eq!(head.contains("Retry-After: 1"), refusal.name() != "forbidden", "{reply}");
            serde_json::from_str::<serde_json::Value>(body).unwrap();
        }
    }
}
