// SPDX-License-Identifier: Apache-2.0
//! Answers, for whoever waits for them.
//!
//! There is no thread of our own. Of those who wait, one receives: it hands the others their answers, and its place
//! on when it has its own. So a single caller waits for its answer directly, with nobody in between.
//!
//! With async callers there is one thread that receives all the time ([`Board::serve`]), because a task can't.
//!
//! A request that nobody waits for any more keeps its tensors here until its answer comes: until then the daemon may
//! read and write them.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use diolkos_types::BuildSpread;

use crate::error::Error;

/// Whatever must stay until an answer comes.
pub(crate) trait Keep: Send {
    /// The answer never comes. The daemon may be there although the connection is not, and a job of the request may still
    /// write its outputs: their place is not to be used again.
    fn give_up(self: Box<Self>);
}

/// Nothing.
impl Keep for () {
    fn give_up(self: Box<Self>) {}
}

/// See [`Keep`].
pub(crate) type Kept = Box<dyn Keep>;

/// What a wait for an answer needs of the thing that answers come from.
pub(crate) trait Source<A> {
    /// Receives one answer, or gives up at `until`. An error ends the connection.
    fn receive(&self, until: Option<Instant>) -> Result<Option<(u64, A)>, Error>;
}

enum Entry<A> {
    /// With the task to wake, if it is one that waits.
    Waiting(Option<Waker>),
    Arrived(A),
    Abandoned {
        kept: Kept,
    },
}

struct State<A> {
    entries: HashMap<u64, Entry<A>, BuildSpread>,
    receiving: bool,
    /// How many sleep until the one who receives is done.
    sleeping: usize,
    /// Why nothing comes any more.
    ended: Option<Error>,
}

impl<A> State<A> {
    /// At the end: the tasks that wait. What was kept for answers that do not come is given up.
    fn take_leave(&mut self) -> Vec<Waker> {
        for (_, entry) in self.entries.extract_if(|_, entry| matches!(entry, Entry::Abandoned { .. })) {
            if let Entry::Abandoned { kept } = entry {
                kept.give_up();
            }
        }
        let tasks = self.entries.values_mut().filter_map(|entry| match entry {
            Entry::Waiting(task) => task.take(),
            _ => None,
        });
        tasks.collect()
    }
}

/// The board of one connection.
pub(crate) struct Board<A> {
    state: Mutex<State<A>>,
    changed: Condvar,
    /// Set with the reason, so that asking whether there is one takes no lock.
    over: AtomicBool,
}

impl<A> Default for Board<A> {
    fn default() -> Board<A> {
        let state = State { entries: HashMap::default(), receiving: false, sleeping: 0, ended: None };
        Board { state: Mutex::new(state), changed: Condvar::new(), over: AtomicBool::new(false) }
    }
}

impl<A> Board<A> {
    fn lock(&self) -> MutexGuard<'_, State<A>> {
        // Nothing below panics while it holds the lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Enters a request that is about to be sent.
    pub(crate) fn enter(&self, id: u64) -> Result<(), Error> {
        let mut state = self.lock();
        if let Some(ended) = &state.ended {
            return Err(ended.clone());
        }
        state.entries.insert(id, Entry::Waiting(None));
        Ok(())
    }

    /// Takes a request off that was not sent after all.
    pub(crate) fn withdraw(&self, id: u64) {
        self.lock().entries.remove(&id);
    }

    /// Nobody waits for this request any more; `kept` is dropped when its answer comes.
    pub(crate) fn abandon(&self, id: u64, kept: Kept) {
        let mut state = self.lock();
        match (state.entries.remove(&id), &state.ended) {
            (Some(Entry::Waiting(_)), None) => drop(state.entries.insert(id, Entry::Abandoned { kept })),
            (Some(Entry::Waiting(_)), Some(_)) => kept.give_up(),
            // With the answer there, nobody uses it any more.
            _ => {}
        }
    }

    /// Why nothing comes any more, if it is so.
    pub(crate) fn ended(&self) -> Option<Error> {
        // Pairs with the stores below, each after the reason was set.
        if self.over.load(Ordering::Acquire) { self.lock().ended.clone() } else { None }
    }

    /// Ends it: whoever waits is told why, and nobody is taken in any more.
    pub(crate) fn end(&self, error: &Error) {
        let mut state = self.lock();
        state.ended.get_or_insert_with(|| error.clone());
        self.over.store(true, Ordering::Release);
        let tasks = state.take_leave();
        self.changed.notify_all();
        drop(state);
        tasks.into_iter().for_each(Waker::wake);
    }

    /// Waits for an answer until `until`. `Ok(None)`: it did not come, and may still come.
    pub(crate) fn wait(
        &self,
        id: u64,
        until: Option<Instant>,
        source: &impl Source<A>,
    ) -> Result<Option<A>, Error> {
        let mut state = self.lock();
        let mut looked = false;
        loop {
            if let Some(Entry::Arrived(_)) = state.entries.get(&id) {
                let Some(Entry::Arrived(answer)) = state.entries.remove(&id) else {
                    unreachable!("it was just seen")
                };
                return Ok(Some(answer));
            }
            if let Some(ended) = &state.ended {
                return Err(ended.clone());
            }
            // Even who can't wait at all looks once.
            let late = until.is_some_and(|until| until <= Instant::now());
            if late && (looked || state.receiving) {
                return Ok(None);
            }
            looked = true;
            let mut mine = None;
            state = if state.receiving {
                self.sleep(state, until)
            } else {
                self.receive_for(Some(id), &mut mine, state, until, source)
            };
            if mine.is_some() {
                return Ok(mine);
            }
        }
    }

    /// The answer for a task, which is woken when it has come. Somebody has to receive.
    pub(crate) fn poll(&self, id: u64, context: &mut Context<'_>) -> Poll<Result<A, Error>> {
        let mut state = self.lock();
        if let Some(Entry::Arrived(_)) = state.entries.get(&id) {
            let Some(Entry::Arrived(answer)) = state.entries.remove(&id) else {
                unreachable!("it was just seen")
            };
            return Poll::Ready(Ok(answer));
        }
        if let Some(ended) = &state.ended {
            return Poll::Ready(Err(ended.clone()));
        }
        if let Some(Entry::Waiting(task)) = state.entries.get_mut(&id) {
            *task = Some(context.waker().clone());
        }
        Poll::Pending
    }

    /// Receives until the end.
    pub(crate) fn serve(&self, source: &impl Source<A>) {
        while self.pass_one(None, source).is_ok() {}
    }

    /// Takes in one answer, whoever it is for, or waits until somebody else has, or until then.
    pub(crate) fn pass_one(&self, until: Option<Instant>, source: &impl Source<A>) -> Result<(), Error> {
        let state = self.lock();
        let state =
            if state.receiving { self.sleep(state, until) } else { self.receive(state, until, source) };
        state.ended.clone().map_or(Ok(()), Err)
    }

    /// Takes in answers that are there already, without waiting: what they free can be used.
    pub(crate) fn reap(&self, source: &impl Source<A>) {
        let now = Some(Instant::now());
        let mut state = self.lock();
        while !state.receiving && state.ended.is_none() && !state.entries.is_empty() {
            let waiting = |state: &State<A>| {
                state.entries.values().filter(|entry| !matches!(entry, Entry::Arrived(_))).count()
            };
            let left = waiting(&state);
            state = self.receive(state, now, source);
            if waiting(&state) == left {
                break;
            }
        }
    }

    fn sleep<'a>(
        &'a self,
        mut state: MutexGuard<'a, State<A>>,
        until: Option<Instant>,
    ) -> MutexGuard<'a, State<A>> {
        state.sleeping += 1;
        state = match until {
            None => self.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
            Some(until) => {
                let left = until.saturating_duration_since(Instant::now());
                self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0
            }
        };
        state.sleeping -= 1;
        state
    }

    /// Receives one answer with the board unlocked, and puts it where it belongs.
    fn receive<'a>(
        &'a self,
        state: MutexGuard<'a, State<A>>,
        until: Option<Instant>,
        source: &impl Source<A>,
    ) -> MutexGuard<'a, State<A>> {
        self.receive_for(None, &mut None, state, until, source)
    }

    /// The same for one who waits for `own`, whose answer goes to `mine` directly.
    fn receive_for<'a>(
        &'a self,
        own: Option<u64>,
        mine: &mut Option<A>,
        mut state: MutexGuard<'a, State<A>>,
        until: Option<Instant>,
        source: &impl Source<A>,
    ) -> MutexGuard<'a, State<A>> {
        state.receiving = true;
        drop(state);
        let received = source.receive(until);
        let mut state = self.lock();
        state.receiving = false;
        let mut done_with = None;
        let mut tasks = Vec::new();
        match received {
            Ok(Some((id, answer))) if Some(id) == own => {
                state.entries.remove(&id);
                *mine = Some(answer);
            }
            Ok(Some((id, answer))) => match state.entries.get_mut(&id) {
                Some(entry @ Entry::Waiting(_)) => {
                    let before = std::mem::replace(entry, Entry::Arrived(answer));
                    if let Entry::Waiting(Some(task)) = before {
                        tasks.push(task);
                    }
                }
                Some(Entry::Abandoned { .. }) => done_with = state.entries.remove(&id),
                // An answer to nothing that was asked. The daemon is trusted, so nobody is harmed.
                Some(Entry::Arrived(_)) | None => {}
            },
            Ok(None) => {}
            Err(error) => {
                state.ended.get_or_insert(error);
                self.over.store(true, Ordering::Release);
                tasks = state.take_leave();
            }
        }
        if state.sleeping > 0 {
            self.changed.notify_all();
        }
        if done_with.is_none() && tasks.is_empty() {
            return state;
        }
        // Outside of the lock: a task may look at its answer at once, and on this thread.
        drop(state);
        drop(done_with);
        tasks.into_iter().for_each(Waker::wake);
        self.lock()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::mpsc;
    use std::time::Duration;

    use super::*;

    /// Says what became of it.
    struct Fated(mpsc::Sender<&'static str>);

    impl Keep for Fated {
        fn give_up(self: Box<Self>) {
            self.0.send("given up").unwrap();
        }
    }

    impl Drop for Fated {
        fn drop(&mut self) {
            // The test looks as far as it likes.
            let _ = self.0.send("dropped");
        }
    }

    struct Fake(Mutex<mpsc::Receiver<(u64, &'static str)>>);

    impl Source<&'static str> for Fake {
        fn receive(&self, until: Option<Instant>) -> Result<Option<(u64, &'static str)>, Error> {
            let receiver = self.0.lock().unwrap();
            let received = match until {
                None => receiver.recv().map_err(|_| mpsc::RecvTimeoutError::Disconnected),
                Some(until) => receiver.recv_timeout(until.saturating_duration_since(Instant::now())),
            };
            match received {
                Ok(answer) => Ok(Some(answer)),
                Err(mpsc::RecvTimeoutError::Timeout) => Ok(None),
                Err(mpsc::RecvTimeoutError::Disconnected) => Err(Error::lost("gone")),
            }
        }
    }

    fn fake() -> (mpsc::Sender<(u64, &'static str)>, Fake) {
        let (send, receive) = mpsc::channel();
        (send, Fake(Mutex::new(receive)))
    }

    #[test]
    fn each_gets_its_own_whatever_the_order() {
        let (send, source) = fake();
        let (board, source) = (Arc::new(Board::default()), Arc::new(source));
        for id in 0..20 {
            board.enter(id).unwrap();
        }
        let waiting: Vec<_> = (0..20)
            .map(|id| {
                let (board, source) = (board.clone(), source.clone());
                std::thread::spawn(move || board.wait(id, None, &*source).unwrap().unwrap())
            })
            .collect();
        for id in (0..20).rev() {
            send.send((id, if id % 2 == 0 { "even" } else { "odd" })).unwrap();
        }
        for (id, thread) in waiting.into_iter().enumerate() {
            assert_eq!(thread.join().unwrap(), if id % 2 == 0 { "even" } else { "odd" });
        }
    }

    #[test]
    fn the_end_is_told_to_everybody_and_what_arrived_is_kept() {
        let (send, source) = fake();
        let board = Board::default();
        board.enter(1).unwrap();
        board.enter(2).unwrap();
        send.send((2, "two")).unwrap();
        drop(send);
        assert!(matches!(board.wait(1, None, &source), Err(Error::Lost { .. })));
        assert_eq!(board.wait(2, None, &source).unwrap(), Some("two"));
        assert!(board.enter(3).is_err());
    }

    #[test]
    fn what_is_kept_is_dropped_when_the_answer_comes_and_given_up_if_it_never_does() {
        let (send, source) = fake();
        let board = Board::default();
        let (fate, told) = mpsc::channel();
        board.enter(1).unwrap();
        board.abandon(1, Box::new(Fated(fate.clone())));
        board.reap(&source);
        assert!(told.try_recv().is_err(), "it is kept");
        send.send((1, "late")).unwrap();
        board.reap(&source);
        assert_eq!(told.try_recv(), Ok("dropped"));
        board.enter(2).unwrap();
        board.enter(3).unwrap();
        board.abandon(2, Box::new(Fated(fate.clone())));
        board.end(&Error::lost("closed"));
        assert_eq!((told.try_recv(), told.try_recv()), (Ok("given up"), Ok("dropped")));
        board.abandon(3, Box::new(Fated(fate)));
        assert_eq!((told.try_recv(), told.try_recv()), (Ok("given up"), Ok("dropped")));
    }

    #[test]
    fn a_wait_ends_in_time_and_can_go_on() {
        let (send, source) = fake();
        let board = Board::default();
        board.enter(1).unwrap();
        let until = Some(Instant::now() + Duration::from_millis(5));
        assert_eq!(board.wait(1, until, &source).unwrap(), None);
        send.send((1, "one")).unwrap();
        assert_eq!(board.wait(1, None, &source).unwrap(), Some("one"));
    }
}
