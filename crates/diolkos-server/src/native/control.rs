// SPDX-License-Identifier: Apache-2.0
//! The calls that are not inference: open, list, load, unload, stats, health.

use std::num::NonZeroU64;

use diolkos_engine::store::IndexState;
use diolkos_types::{Code, Status};
use diolkos_wire::limits::PART_ENTRIES_MAX;
use diolkos_wire::{
    Failed, HealthReply, Message, ModelEntry, ModelState, Models, OpenModel, StatsEntry, StatsReply, Timing,
};

use super::session::NativeSession;
use crate::app::App;
use crate::oip::repository::{self, LoadCall};
use crate::oip::{metadata, statistics};

/// The answer, in as many parts as it needs.
pub(super) async fn answer(app: &App, session: &NativeSession, message: Message) -> Vec<Message> {
    match answer_or_fail(app, session, message).await {
        Ok(parts) => parts,
        Err(status) => vec![Message::Failed(Failed::from(&status))],
    }
}

async fn answer_or_fail(
    app: &App,
    session: &NativeSession,
    message: Message,
) -> Result<Vec<Message>, Status> {
    let one = |message| Ok(vec![message]);
    match message {
        Message::Health => one(Message::HealthReply(HealthReply { live: true, ready: app.is_ready() })),
        Message::OpenModel(open) => open_model(session, open).await.map(|opened| vec![opened]),
        Message::CloseModel(close) => {
            session.close(close.handle)?;
            one(Message::Done)
        }
        Message::CloseRegion(close) => {
            session.regions.close(close.region)?;
            one(Message::Done)
        }
        Message::CommitRegion(commit) => {
            session.regions.commit(&session.client.turn, commit.region).await?;
            one(Message::Done)
        }
        Message::Load(load) => {
            let call = LoadCall { name: load.name.into(), config: None, files: Vec::new() };
            repository::load(app, &session.client, call).await?;
            one(Message::Done)
        }
        Message::Unload(unload) => {
            repository::unload(app, &session.client, &unload.name).await?;
            one(Message::Done)
        }
        Message::List => Ok(list(session)),
        Message::Stats(stats) => {
            let name = Some(&*stats.name).filter(|name| !name.is_empty());
            stats_of(app, session, name)
        }
        other => Err(Status::new(
            Code::InvalidArgument,
            format!("`{:?}` is no request that a client sends here", other.kind()),
        )),
    }
}

async fn open_model(session: &NativeSession, open: OpenModel) -> Result<Message, Status> {
    let OpenModel { name, version, operation } = open;
    if !matches!(&*operation, "" | "run") {
        return Err(Status::new(
            Code::Unsupported,
            format!("`{name}` has no operation `{}`; it has `run`", operation.escape_debug()),
        ));
    }
    let bound = metadata::bound(&session.client, &name, version.map(NonZeroU64::get)).await?;
    session.open(&name, version, &bound).map(Message::ModelOpened)
}

fn list(session: &NativeSession) -> Vec<Message> {
    let rows = repository::index(&session.client, false);
    let entries: Vec<ModelEntry> = rows
        .into_iter()
        .map(|row| ModelEntry {
            name: row.name,
            version: row.version.and_then(NonZeroU64::new),
            state: match row.state {
                IndexState::Ready => ModelState::Ready,
                IndexState::Loading => ModelState::Loading,
                IndexState::Unavailable if !row.reason.is_empty() => ModelState::Failed,
                IndexState::Unloading | IndexState::Unavailable => ModelState::Unavailable,
            },
            reason: cut(&row.reason, diolkos_wire::limits::REASON_BYTES_MAX).into(),
        })
        .collect();
    in_parts(&entries, |models| Message::Models(Models { models }))
}

fn stats_of(app: &App, session: &NativeSession, name: Option<&str>) -> Result<Vec<Message>, Status> {
    let all = statistics::statistics(app, &session.client, name, None)?;
    let entries: Vec<StatsEntry> = all
        .into_iter()
        .map(|stats| StatsEntry {
            name: stats.name.into(),
            version: stats.version,
            succeeded: stats.success.count,
            failed: stats.fail.count,
            executions: stats.execution_count,
            timing: Timing {
                queue_ns: stats.queue.ns,
                copy_in_ns: stats.compute_input.ns,
                compute_ns: stats.compute_infer.ns,
                copy_out_ns: stats.compute_output.ns,
            },
        })
        .collect();
    Ok(in_parts(&entries, |models| Message::StatsReply(StatsReply { models })))
}

/// A list that may be too long for one message. Even an empty one is an answer.
fn in_parts<T: Clone>(entries: &[T], message: impl Fn(Vec<T>) -> Message) -> Vec<Message> {
    if entries.is_empty() {
        return vec![message(Vec::new())];
    }
    entries.chunks(PART_ENTRIES_MAX).map(|part| message(part.to_vec())).collect()
}

fn cut(text: &str, bytes: usize) -> &str {
    &text[..text.floor_char_boundary(bytes)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_lists_come_in_parts() {
        let entry =
            ModelEntry { name: "m".into(), version: None, state: ModelState::Ready, reason: "".into() };
        let parts =
            |count| in_parts(&vec![entry.clone(); count], |models| Message::Models(Models { models }));
        assert_eq!((parts(0).len(), parts(1).len()), (1, 1));
        assert_eq!((parts(PART_ENTRIES_MAX).len(), parts(PART_ENTRIES_MAX + 1).len()), (1, 2));
    }

    #[test]
    fn reasons_are_cut_between_characters() {
        assert_eq!((cut("äöü", 3), cut("abc", 9)), ("ä", "abc"));
    }
}
