// SPDX-License-Identifier: Apache-2.0
//! CPU time and memory as `/proc` tells them, and from that: how much of the machine others used.
//!
//! A measurement says little if somebody else's compiler had half of the machine meanwhile. Foreign load is
//! what all programs used less what this process and its children used. Interrupts are left out: those of
//! our own traffic can't be told from others'. All of this counts in clock ticks (10 ms, usually), so one
//! short round is some ticks off, and thresholds must leave room for that.

use std::fs;
use std::io;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Part of the machine's CPU time that others may use before a round does not count.
pub(crate) const FOREIGN_MAX: f64 = 0.05;

/// Part that the hypervisor may take away.
pub(crate) const STEAL_MAX: f64 = 0.02;

/// Ticks that the accounting itself may be off in one round.
const SLACK_TICKS: u64 = 3;

/// CPU time of the whole machine since boot, in ticks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Machine {
    /// In programs and in the kernel for them.
    pub(crate) programs: u64,
    /// In interrupts.
    pub(crate) interrupts: u64,
    /// Doing nothing.
    pub(crate) idle: u64,
    /// Taken by the hypervisor for other guests.
    pub(crate) steal: u64,
}

/// Reads the first line of `/proc/stat`.
pub(crate) fn parse_machine(text: &str) -> Option<Machine> {
    let line = text.lines().find(|line| line.starts_with("cpu "))?;
    let numbers: Vec<u64> =
        line.split_ascii_whitespace().skip(1).map_while(|number| number.parse().ok()).collect();
    // user nice system idle iowait irq softirq steal; guest time, behind it, is part of user time.
    let &[user, nice, system, idle, iowait, irq, softirq, steal, ..] = &numbers[..] else { return None };
    Some(Machine { programs: user + nice + system, interrupts: irq + softirq, idle: idle + iowait, steal })
}

/// Ticks that a process and its children that ended have used, from its `/proc/PID/stat`.
pub(crate) fn parse_process(text: &str) -> Option<u64> {
    // The second field is the program's name in parentheses, and may itself have any of both.
    let rest = &text[text.rfind(')')? + 1..];
    // utime, stime, cutime and cstime are fields 14 to 17 of all, and `rest` begins with the third.
    let ticks: Vec<u64> =
        rest.split_ascii_whitespace().skip(11).take(4).map_while(|number| number.parse().ok()).collect();
    (ticks.len() == 4).then(|| ticks.iter().sum())
}

/// What was used at one moment.
#[derive(Clone, Debug)]
pub(crate) struct Sample {
    machine: Machine,
    ours: u64,
}

impl Sample {
    /// Looks at the machine, this process, and these children.
    pub(crate) fn take(children: &[u32]) -> io::Result<Sample> {
        let ours = std::iter::once("self".to_owned()).chain(children.iter().map(u32::to_string));
        let mut ticks = 0;
        for process in ours {
            ticks += process_ticks(&process)?;
        }
        let text = fs::read_to_string("/proc/stat")?;
        let machine = parse_machine(&text).ok_or_else(|| malformed("/proc/stat"))?;
        Ok(Sample { machine, ours: ticks })
    }
}

/// CPU time that a process has used.
pub(crate) fn cpu_time(pid: u32) -> io::Result<Duration> {
    let ticks = process_ticks(&pid.to_string())?;
    Ok(Duration::from_secs_f64(ticks as f64 / rustix::param::clock_ticks_per_second() as f64))
}

fn process_ticks(process: &str) -> io::Result<u64> {
    let path = format!("/proc/{process}/stat");
    parse_process(&fs::read_to_string(&path)?).ok_or_else(|| malformed(&path))
}

fn malformed(path: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("{path} has another form than Linux gives it"))
}

/// What others used between two samples, as parts of all CPU time there was.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Foreign {
    /// By other programs.
    pub(crate) foreign: f64,
    /// By other guests of the hypervisor.
    pub(crate) steal: f64,
    /// By this process and its children.
    pub(crate) ours: f64,
    /// Whether that is little enough.
    pub(crate) clean: bool,
}

/// See [`Foreign`].
pub(crate) fn foreign(before: &Sample, after: &Sample) -> Foreign {
    let (a, b) = (&before.machine, &after.machine);
    let programs = b.programs.saturating_sub(a.programs);
    let interrupts = b.interrupts.saturating_sub(a.interrupts);
    let steal = b.steal.saturating_sub(a.steal);
    // Idle time may run backwards a little, as the kernel's manual says.
    let all = (programs + interrupts + steal + b.idle.saturating_sub(a.idle)).max(1);
    let ours = after.ours.saturating_sub(before.ours);
    let others = programs.saturating_sub(ours);
    let share = |ticks: u64| ticks as f64 / all as f64;
    let little = |ticks: u64, max: f64| ticks <= SLACK_TICKS || share(ticks) <= max;
    let clean = little(others, FOREIGN_MAX) && little(steal, STEAL_MAX);
    Foreign { foreign: share(others), steal: share(steal), ours: share(ours), clean }
}

/// Memory of a process, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Memory {
    /// All resident pages.
    pub(crate) rss: u64,
    /// The same with each page divided by the number of processes that have it.
    pub(crate) pss: u64,
}

/// Memory of a process now.
pub(crate) fn memory(pid: u32) -> io::Result<Memory> {
    let path = format!("/proc/{pid}/smaps_rollup");
    let text = fs::read_to_string(&path)?;
    let field = |name| kilobytes(&text, name).ok_or_else(|| malformed(&path));
    Ok(Memory { rss: field("Rss:")?, pss: field("Pss:")? })
}

/// A `Name:  123 kB` line, in bytes.
pub(crate) fn kilobytes(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    let number: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    number.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    const STAT: &str = "\
cpu  1000 20 300 5000 60 7 8 9 100 0
cpu0 500 10 150 2500 30 3 4 5 50 0
intr 1 2 3
";

    fn sample(programs: u64, idle: u64, steal: u64, ours: u64) -> Sample {
        Sample { machine: Machine { programs, interrupts: 0, idle, steal }, ours }
    }

    #[test]
    fn reads_the_machine() {
        let machine = Machine { programs: 1320, interrupts: 15, idle: 5060, steal: 9 };
        assert_eq!(parse_machine(STAT), Some(machine));
        assert_eq!(parse_machine("cpu  1 2 3\n"), None);
        assert_eq!(parse_machine(""), None);
    }

    #[test]
    fn reads_a_process_whatever_it_is_called() {
        let text = "42 (a ) b) S 1 42 42 0 -1 4194304 100 0 0 0 11 22 33 44 20 0 1 0 5 6 7";
        assert_eq!(parse_process(text), Some(110));
        assert_eq!(parse_process("42 (a S 1"), None);
        assert_eq!(parse_process("42 (a) S 1 2"), None);
    }

    #[test]
    fn what_is_not_ours_is_foreign() {
        // Of 200 ticks we used 120, somebody else 30.
        let seen = foreign(&sample(1000, 5000, 0, 300), &sample(1150, 5050, 0, 420));
        assert_eq!((seen.foreign, seen.ours, seen.steal, seen.clean), (0.15, 0.6, 0.0, false));
        // Ticks are rounded, so that we may seem to have used more than all did together.
        let seen = foreign(&sample(1000, 5000, 0, 300), &sample(1150, 5050, 0, 455));
        assert_eq!((seen.foreign, seen.clean), (0.0, true));
    }

    #[test]
    fn a_few_ticks_are_noise_and_more_are_not() {
        let round = |others: u64, steal: u64| {
            foreign(&sample(0, 0, 0, 0), &sample(10 + others, 30 - others - steal, steal, 10)).clean
        };
        assert!(round(3, 0) && !round(4, 0));
        assert!(round(0, 3) && !round(0, 4));
        // In a longer one, the same share is more ticks.
        assert!(foreign(&sample(0, 0, 0, 0), &sample(1050, 950, 0, 1000)).clean);
        assert!(!foreign(&sample(0, 0, 0, 0), &sample(1150, 850, 0, 1000)).clean);
        assert!(!foreign(&sample(0, 0, 0, 0), &sample(1000, 940, 60, 1000)).clean);
    }

    #[test]
    fn this_machine_can_be_sampled() {
        let sample = Sample::take(&[]).unwrap();
        assert!(sample.machine.programs > 0);
        let memory = memory(std::process::id()).unwrap();
        assert!(memory.rss > 100_000 && memory.pss > 0 && memory.pss <= memory.rss);
        assert!(Sample::take(&[u32::MAX]).is_err());
    }

    #[test]
    fn reads_kilobytes() {
        assert_eq!(kilobytes("MemFree: 3 kB\nMemTotal:   24681 kB\n", "MemTotal:"), Some(24681 * 1024));
        assert_eq!(kilobytes("MemTotal: x kB", "MemTotal:"), None);
    }
}
