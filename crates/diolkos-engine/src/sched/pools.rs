// SPDX-License-Identifier: Apache-2.0
//! A device's slots, divided into pools: one scheduler for each, and slots that they lend each other. As pure as these.
//!
//! A pool that lends gives a slot that is idle to one in which somebody waits. The loan is for one run: when that ends, the slot is its
//! owner's again, who uses it for what waits there, and only if nothing does is it lent anew. So whoever lends waits for one run of
//! somebody else at most, and whoever does not lend for none.
//!
//! ```text
//!            somebody waits elsewhere               run of the borrower
//!  idle ─────────────────────────────────> lent ────────────────────────> idle, and its owner's
//!    ^  └─ owner's job ─> taken ─ Finish ─┐                                │
//!    └────────────────────────────────────┴────────────────────────────────┘
//! ```
//!
//! Invariants, checked by the property tests:
//!
//! * On the slots of a pool there are never more runs than it has slots, and only its own where it does not lend.
//! * No slot that may be lent is idle while a job waits in any pool whose tenant may run another.
//! * No run of a pool that lends is held up meanwhile.
//! * A slot whose owner has somebody waiting is the owner's when its run ends.
//! * Pools of which none lends are schedulers that know nothing of each other.

use std::cmp::Reverse;
use std::collections::HashMap;

use diolkos_types::{BuildSpread, JobId};

use super::{Action, Event, Nanos, SchedConfig, Scheduler, TenantKey};

/// What to do, and where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Planned {
    /// What.
    pub action: Action,
    /// For what is about a run: the pool whose slot it has.
    pub slot: usize,
}

#[derive(Debug)]
struct Pool {
    scheduler: Scheduler,
    lends: bool,
    /// When it wants to be woken.
    wake_at: Option<Nanos>,
    /// Which loan of all was its last.
    borrowed_last: u64,
}

/// The pools of one device.
#[derive(Debug)]
pub struct Pools {
    pools: Vec<Pool>,
    /// Of runs on slots that are lent: the job that each began with, and whose slot it has.
    loans: HashMap<JobId, usize, BuildSpread>,
    loans_made: u64,
    /// What the alarm is set to.
    alarm: Option<Nanos>,
    /// What one scheduler said, before it is known where that is.
    said: Vec<Action>,
}

impl Pools {
    /// Idle pools; at least one.
    #[must_use]
    pub fn new(configs: &[SchedConfig]) -> Pools {
        assert!(!configs.is_empty(), "a device without pools can run nothing");
        let pool = |config: &SchedConfig| Pool {
            scheduler: Scheduler::new(*config),
            lends: config.lends,
            wake_at: None,
            borrowed_last: 0,
        };
        Pools {
            pools: configs.iter().map(pool).collect(),
            loans: HashMap::default(),
            loans_made: 0,
            alarm: None,
            said: Vec::new(),
        }
    }

    /// The scheduler of one pool, for looking at it.
    #[must_use]
    pub fn of(&self, pool: usize) -> &Scheduler {
        &self.pools[pool].scheduler
    }

    /// The schedulers of all.
    pub fn each(&self) -> impl Iterator<Item = &Scheduler> {
        self.pools.iter().map(|pool| &pool.scheduler)
    }

    /// Jobs that wait in any pool.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.each().map(Scheduler::waiting).sum()
    }

    /// Whether what a step does depends on the time.
    #[must_use]
    pub fn needs_time(&self) -> bool {
        self.each().any(Scheduler::needs_time)
    }

    /// Of a job that runs: whose it is, and what it was charged when it began.
    #[must_use]
    pub fn charged(&self, job: JobId) -> Option<(TenantKey, Nanos)> {
        self.each().find_map(|scheduler| scheduler.charged(job))
    }

    /// Takes in what happened in a pool, and appends what to do about it to `plan`. A `Tick` is for all pools.
    pub fn step(&mut self, now: Nanos, pool: usize, event: Event, plan: &mut Vec<Planned>) {
        match event {
            Event::Taken(_) => {
                self.pools[pool].scheduler.step(now, event, &mut self.said);
                debug_assert!(self.said.is_empty(), "nothing follows from it");
                return;
            }
            Event::Tick => self.tick(now, plan),
            Event::Finish(job, _) => match self.loans.remove(&job) {
                Some(lender) => self.ends_on_loan(now, pool, lender, event, plan),
                None => self.step_one(now, pool, event, plan),
            },
            Event::Arrive(_) => {
                // With a slot that another one has idle, nobody is sent to the queue, or away.
                let full = self.pools[pool].scheduler.is_full();
                match self.lender_for(pool).filter(|_| full) {
                    Some(lender) => {
                        self.with_loan(now, lender, pool, plan, |scheduler, said| {
                            scheduler.step(now, event, said);
                        });
                    }
                    None => self.step_one(now, pool, event, plan),
                }
            }
            Event::Cancel(_) => self.step_one(now, pool, event, plan),
        }
        while let Some((lender, borrower)) = self.next_loan() {
            self.with_loan(now, lender, borrower, plan, |scheduler, said| scheduler.settle(now, said));
        }
        self.let_go(plan);
        self.set_alarm(pool, plan);
    }

    fn step_one(&mut self, now: Nanos, pool: usize, event: Event, plan: &mut Vec<Planned>) {
        self.pools[pool].scheduler.step(now, event, &mut self.said);
        self.tell(pool, plan);
    }

    fn tick(&mut self, now: Nanos, plan: &mut Vec<Planned>) {
        // It went off, so it is set no more.
        self.alarm = None;
        for pool in 0..self.pools.len() {
            if self.pools[pool].wake_at.is_some_and(|at| at <= now) {
                self.pools[pool].wake_at = None;
                self.step_one(now, pool, Event::Tick, plan);
            }
        }
    }

    /// A run ends on a slot that is another pool's.
    fn ends_on_loan(
        &mut self,
        now: Nanos,
        borrower: usize,
        lender: usize,
        event: Event,
        plan: &mut Vec<Planned>,
    ) {
        // First, or the borrower would use the slot again.
        self.pools[borrower].scheduler.give_back();
        self.step_one(now, borrower, event, plan);
        self.pools[lender].scheduler.take_back(now, &mut self.said);
        self.tell(lender, plan);
    }

    /// Lets a pool do something with a slot of another one. It is a loan if a run began with it.
    fn with_loan(
        &mut self,
        now: Nanos,
        lender: usize,
        borrower: usize,
        plan: &mut Vec<Planned>,
        act: impl FnOnce(&mut Scheduler, &mut Vec<Action>),
    ) {
        self.pools[lender].scheduler.lend();
        self.pools[borrower].scheduler.borrow();
        act(&mut self.pools[borrower].scheduler, &mut self.said);
        // All other slots were taken, so there is one at most.
        let began = self.said.iter().find_map(|action| match action {
            Action::Start(head) | Action::RunHere(head) => Some(*head),
            _ => None,
        });
        match began {
            Some(head) => {
                self.loans.insert(head, lender);
                self.loans_made += 1;
                self.pools[borrower].borrowed_last = self.loans_made;
                self.tell(borrower, plan);
            }
            None => {
                self.pools[borrower].scheduler.give_back();
                self.tell(borrower, plan);
                self.pools[lender].scheduler.take_back(now, &mut self.said);
                self.tell(lender, plan);
            }
        }
    }

    /// Appends what a pool's scheduler said to the plan.
    fn tell(&mut self, pool: usize, plan: &mut Vec<Planned>) {
        for action in self.said.drain(..) {
            let slot = match action {
                Action::WakeAt(at) => {
                    self.pools[pool].wake_at = Some(at);
                    continue;
                }
                _ if self.loans.is_empty() => pool,
                Action::Start(head)
                | Action::RunHere(head)
                | Action::Join(_, head)
                | Action::Hold(head)
                | Action::Go(head) => self.loans.get(&head).copied().unwrap_or(pool),
                Action::Refuse(..) | Action::Expire(_) | Action::Cancelled(_) => pool,
            };
            plan.push(Planned { action, slot });
        }
    }

    /// Another pool that has a slot to lend: the one with the most of them.
    fn lender_for(&self, borrower: usize) -> Option<usize> {
        let idle = |(_, pool): &(usize, &Pool)| pool.scheduler.slots() - pool.scheduler.slots_used();
        let pools = self.pools.iter().enumerate();
        let lenders =
            pools.filter(|(index, pool)| *index != borrower && pool.lends && !pool.scheduler.is_full());
        lenders.max_by_key(|pool| (idle(pool), Reverse(pool.0))).map(|(index, _)| index)
    }

    /// Who could lend, and who wants: whoever borrowed longest ago goes first.
    fn next_loan(&self) -> Option<(usize, usize)> {
        if self.pools.len() == 1 {
            return None;
        }
        let pools = self.pools.iter().enumerate();
        let wanting = pools.filter(|(_, pool)| pool.scheduler.wants_slot());
        let (borrower, _) = wanting.min_by_key(|(_, pool)| pool.borrowed_last)?;
        Some((self.lender_for(borrower)?, borrower))
    }

    /// Nobody holds up a slot that somebody else could borrow.
    fn let_go(&mut self, plan: &mut Vec<Planned>) {
        if self.pools.len() == 1 || !self.each().any(Scheduler::wants_slot) {
            return;
        }
        for pool in 0..self.pools.len() {
            if self.pools[pool].lends {
                self.pools[pool].scheduler.let_go(&mut self.said);
                self.tell(pool, plan);
            }
        }
    }

    fn set_alarm(&mut self, pool: usize, plan: &mut Vec<Planned>) {
        let next = self.pools.iter().filter_map(|pool| pool.wake_at).min();
        if next != self.alarm {
            self.alarm = next;
            plan.extend(next.map(|at| Planned { action: Action::WakeAt(at), slot: pool }));
        }
    }
}
