// SPDX-License-Identifier: Apache-2.0
//! The machine and the build that numbers belong to.

use std::fs;
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::procfs::kilobytes;

/// What numbers depend on.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Host {
    /// Processor, as it calls itself.
    pub(crate) cpu: String,
    /// Logical processors that this process may use.
    pub(crate) cores: usize,
    /// Main memory in bytes.
    pub(crate) memory_bytes: u64,
    /// Kernel release.
    pub(crate) kernel: String,
    /// Frequency governor of the first processor, where one is to be seen.
    pub(crate) governor: Option<String>,
    /// Whether it is a virtual machine.
    pub(crate) virtualized: bool,
    /// Compiler that built this executable.
    pub(crate) rustc: String,
    /// Source of this executable, as git describes the working directory.
    pub(crate) commit: String,
    /// Whether the build was for measuring.
    pub(crate) optimized: bool,
    /// When, in seconds since 1970.
    pub(crate) unix_time: u64,
}

impl Host {
    /// This machine, now.
    pub(crate) fn look() -> Host {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let cpuinfo = read("/proc/cpuinfo");
        let governor = read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor");
        Host {
            cpu: cpu_name(&cpuinfo).unwrap_or("unknown").to_owned(),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            memory_bytes: kilobytes(&read("/proc/meminfo"), "MemTotal:").unwrap_or(0),
            kernel: rustix::system::uname().release().to_string_lossy().into_owned(),
            governor: Some(governor.trim().to_owned()).filter(|governor| !governor.is_empty()),
            virtualized: is_virtual(&cpuinfo),
            rustc: compiler().unwrap_or_else(|| "unknown".into()),
            commit: printed("git", &["describe", "--always", "--dirty", "--abbrev=12"])
                .unwrap_or_else(|| "unknown".into()),
            optimized: !cfg!(debug_assertions),
            unix_time: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs()),
        }
    }

    /// For a page.
    pub(crate) fn sentence(&self) -> String {
        format!(
            "{}, {} cores{}, Linux {}, {} MB of memory; rustc {}; source `{}`; {}.",
            self.cpu,
            self.cores,
            if self.virtualized { " of a virtual machine" } else { "" },
            self.kernel,
            self.memory_bytes / 1_000_000,
            self.rustc,
            self.commit,
            utc(self.unix_time),
        )
    }
}

fn cpu_name(cpuinfo: &str) -> Option<&str> {
    let field = |name| cpuinfo.lines().find_map(move |line| line.strip_prefix(name)?.split_once(':'));
    field("model name").or_else(|| field("CPU part")).map(|(_, value)| value.trim())
}

fn is_virtual(cpuinfo: &str) -> bool {
    let flags = cpuinfo.lines().find(|line| line.starts_with("flags"));
    flags.is_some_and(|line| line.split_ascii_whitespace().any(|flag| flag == "hypervisor"))
}

/// What the compiler wrote into this executable about itself; the one on the path may be another.
fn compiler() -> Option<String> {
    let bytes = fs::read(std::env::current_exe().ok()?).ok()?;
    find_compiler(&bytes)
}

fn find_compiler(bytes: &[u8]) -> Option<String> {
    // In two pieces, so that this text itself is not what is found.
    let needle = [&b"rustc version"[..], b" "].concat();
    let mut found = bytes.windows(needle.len()).enumerate().filter(|(_, window)| *window == needle);
    found.find_map(|(at, _)| {
        let text = &bytes[at + needle.len()..];
        let end = text.iter().position(|byte| !(0x20..0x7f).contains(byte)).filter(|end| *end < 100)?;
        text[0].is_ascii_digit().then(|| String::from_utf8_lossy(&text[..end]).into_owned())
    })
}

fn printed(program: &str, args: &[&str]) -> Option<String> {
    let output = Command::new(program).args(args).output().ok().filter(|output| output.status.success())?;
    Some(String::from_utf8(output.stdout).ok()?.trim().to_owned()).filter(|text| !text.is_empty())
}

/// A time as `2026-11-23 18:04 UTC`.
pub(crate) fn utc(unix_time: u64) -> String {
    let (days, seconds) = (unix_time / 86_400, unix_time % 86_400);
    let (year, month, day) = civil(days);
    format!("{year}-{month:02}-{day:02} {:02}:{:02} UTC", seconds / 3600, seconds / 60 % 60)
}

/// Year, month and day, so many days after 1970-01-01.
fn civil(mut days: u64) -> (u64, u64, u64) {
    let leap = |year: u64| year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    let mut year = 1970;
    while days >= 365 + u64::from(leap(year)) {
        days -= 365 + u64::from(leap(year));
        year += 1;
    }
    let february = 28 + u64::from(leap(year));
    let mut month = 1;
    for length in [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30] {
        if days < length {
            break;
        }
        days -= length;
        month += 1;
    }
    (year, month, days + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates() {
        assert_eq!(utc(0), "1970-01-01 00:00 UTC");
        assert_eq!(utc(951_782_399), "2000-02-28 23:59 UTC");
        assert_eq!(utc(951_782_400), "2000-02-29 00:00 UTC");
        assert_eq!(utc(1_798_761_599), "2026-12-31 23:59 UTC");
        assert_eq!(utc(1_798_761_600), "2027-01-01 00:00 UTC");
    }

    #[test]
    fn reads_cpuinfo() {
        let text = "processor\t: 0\nmodel name\t: Some CPU @ 3 GHz\nflags\t\t: fpu hypervisor sse\n";
        assert_eq!((cpu_name(text), is_virtual(text)), (Some("Some CPU @ 3 GHz"), true));
        assert_eq!((cpu_name(""), is_virtual("flags : nohypervisor\n")), (None, false));
    }

    #[test]
    fn finds_the_compiler_in_an_executable() {
        let needle = ["rustc version", " "].concat();
        let bytes = format!("x{needle}{{}}\0{needle}1.95.0 (abc 2026-04-14)\0y");
        assert_eq!(find_compiler(bytes.as_bytes()).as_deref(), Some("1.95.0 (abc 2026-04-14)"));
        assert_eq!(find_compiler(needle.as_bytes()), None);
    }

    #[test]
    fn this_host_can_be_described() {
        let host = Host::look();
        assert!(host.cores > 0 && host.memory_bytes > 0 && host.unix_time > 1_700_000_000);
        assert!(!host.cpu.is_empty() && !host.kernel.is_empty());
    }
}
