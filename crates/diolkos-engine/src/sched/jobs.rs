// SPDX-License-Identifier: Apache-2.0
//! The jobs that a scheduler has: those that wait, and those that run.

use std::collections::HashMap;
use std::ops::{Index, IndexMut};

use diolkos_types::{BuildSpread, JobId};
use slab::Slab;

use super::class::Place;
use super::{Batching, Class, Nanos};

/// A job.
#[derive(Clone, Copy, Debug)]
pub(super) struct Job {
    pub(super) id: JobId,
    /// Number of its tenant ([`super::tenants::Tenants`]).
    pub(super) tenant: usize,
    pub(super) class: Class,
    /// Number of its tenant's flow in the class ([`super::class::ClassQueue`]).
    pub(super) flow: usize,
    /// Where it stands among its tenant's own, while it waits.
    pub(super) place: Place,
    /// What it takes if it runs alone.
    pub(super) alone: Nanos,
    pub(super) batch: Option<Batching>,
    /// Once it runs: what it was charged.
    pub(super) run: Option<Charged>,
}

/// What a running job was charged.
#[derive(Clone, Copy, Debug)]
pub(super) struct Charged {
    pub(super) cost: Nanos,
    /// Of its tenant, when it started.
    pub(super) weight: u32,
    /// It started because the floor of its class was due.
    pub(super) due: bool,
    /// It holds a slot. Those who joined it do not.
    pub(super) slot: bool,
}

/// Jobs, each with a number that is its own as long as it is here.
#[derive(Debug, Default)]
pub(super) struct Jobs {
    numbers: HashMap<JobId, u32, BuildSpread>,
    jobs: Slab<Job>,
    running: usize,
}

impl Jobs {
    /// Adds one. No other may have its id.
    pub(super) fn add(&mut self, job: Job) -> usize {
        let number = self.jobs.insert(job);
        self.running += usize::from(job.run.is_some());
        let known = self.numbers.insert(job.id, u32::try_from(number).expect("queues have bounds"));
        assert!(known.is_none(), "job {} arrived twice", job.id);
        number
    }

    /// Notes that one runs that waited.
    pub(super) fn runs(&mut self, number: usize, charged: Charged) {
        let before = self.jobs[number].run.replace(charged);
        assert!(before.is_none(), "job {} started twice", self.jobs[number].id);
        self.running += 1;
    }

    /// Takes one out.
    pub(super) fn remove(&mut self, number: usize) -> Job {
        let job = self.jobs.remove(number);
        self.numbers.remove(&job.id);
        self.running -= usize::from(job.run.is_some());
        job
    }

    /// The number of a job that waits or runs.
    pub(super) fn find(&self, id: JobId) -> Option<usize> {
        self.numbers.get(&id).map(|number| *number as usize)
    }

    /// Those that run.
    pub(super) fn running(&self) -> usize {
        self.running
    }

    /// Those that wait.
    pub(super) fn waiting(&self) -> usize {
        self.jobs.len() - self.running
    }

    /// Those that run, in no order.
    #[cfg(test)]
    pub(super) fn all_running(&self) -> impl Iterator<Item = JobId> {
        self.jobs.iter().filter(|(_, job)| job.run.is_some()).map(|(_, job)| job.id)
    }
}

impl Index<usize> for Jobs {
    type Output = Job;

    fn index(&self, number: usize) -> &Job {
        &self.jobs[number]
    }
}

impl IndexMut<usize> for Jobs {
    fn index_mut(&mut self, number: usize) -> &mut Job {
        &mut self.jobs[number]
    }
}
