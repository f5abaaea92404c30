// SPDX-License-Identifier: Apache-2.0
//! Turns: a connection moves so many bytes, and then others have their turn on its thread.
//!
//! A client that sends as fast as it is read keeps its socket readable for ever, and the thread that reads from it busy; so does one that
//! takes an answer as fast as it is written. tokio's own turns count calls and not bytes, and 128 calls that each empty a unix socket
//! are 26 MB, while nobody else on the thread is served.

use std::task::{Context, Poll};

use crate::limits::TURN_BYTES;

/// What a connection has moved in its turn.
#[derive(Debug, Default)]
pub(crate) struct Turns {
    moved: usize,
}

impl Turns {
    /// Ready if the turn is not over yet; else it is now, and the task will be polled again after others.
    pub(super) fn poll_turn(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.moved < TURN_BYTES {
            return Poll::Ready(());
        }
        self.moved = 0;
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Counts what was moved; `None` = the connection waits, so that others have their turn already.
    pub(super) fn count(&mut self, moved: Option<usize>) {
        self.moved = moved.map_or(0, |moved| self.moved.saturating_add(moved));
    }

    /// The same for code that reads or writes by itself: lets others have their turn when it is time.
    pub(crate) async fn moved(&mut self, bytes: usize) {
        self.count(Some(bytes));
        if self.moved >= TURN_BYTES {
            self.moved = 0;
            tokio::task::yield_now().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    /// How many turns of somebody else pass while a connection moves so many bytes in such pieces.
    fn turns_of_others(pieces: usize, bytes: usize, waits_every: Option<usize>) -> usize {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let mut turns = Turns::default();
        runtime.block_on(async {
            let mut passed = 0;
            for piece in 0..pieces {
                poll_fn(|cx| {
                    let turn = turns.poll_turn(cx);
                    passed += usize::from(turn.is_pending());
                    turn
                })
                .await;
                let waits = waits_every.is_some_and(|every| piece % every == every - 1);
                turns.count((!waits).then_some(bytes));
            }
            passed
        })
    }

    #[test]
    fn bytes_count_and_waiting_is_a_turn_for_others() {
        assert_eq!(turns_of_others(1 + 64, TURN_BYTES / 4, None), 16);
        assert_eq!(turns_of_others(65, 1, None), 0);
        assert_eq!(turns_of_others(1 + 8, 3 * TURN_BYTES, None), 8, "a piece is moved as a whole");
        assert_eq!(turns_of_others(64, TURN_BYTES / 4, Some(3)), 0);
    }

    #[test]
    fn code_that_moves_by_itself_yields_as_often() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let yields = runtime.block_on(async {
            let mut turns = Turns::default();
            let (mut polls, mut moving) = (
                0,
                Box::pin(async {
                    for _ in 0..64 {
                        turns.moved(TURN_BYTES / 4).await;
                    }
                }),
            );
            poll_fn(|cx| {
                polls += 1;
                moving.as_mut().poll(cx)
            })
            .await;
            polls - 1
        });
        assert_eq!(yields, 16);
    }
}
