// SPDX-License-Identifier: Apache-2.0
//! Kernel, cores, memory, limits, cgroup, shared memory, devices.

use std::path::Path;

use rustix::process::{Resource, getrlimit};

use super::Finding;
use crate::term;

/// Open files that the default settings may need: 4096 connections, and room for models and libraries.
const FILES_WANTED: u64 = 8192;

/// Kernels older than this lack `pidfd_open`, which proving who is at the other end of a socket needs.
const KERNEL_OLDEST: (u32, u32) = (5, 4);

/// Kernels from this on have everything that later sandboxes use (Landlock's first version).
const KERNEL_WANTED: (u32, u32) = (5, 13);

pub(super) fn examine() -> Vec<Finding> {
    vec![
        kernel(),
        cores(),
        memory(),
        cgroup(),
        open_files(),
        locked_memory(),
        shared_memory(),
        accelerators(),
    ]
}

fn kernel() -> Finding {
    let name = rustix::system::uname();
    let release = name.release().to_string_lossy().into_owned();
    let found =
        format!("{} {release} {}", name.sysname().to_string_lossy(), name.machine().to_string_lossy());
    match version(&release) {
        Some(version) if version < KERNEL_OLDEST => Finding::fail("kernel", found, "use Linux 5.4 or newer"),
        Some(version) if version < KERNEL_WANTED => {
            Finding::warn("kernel", found, "Linux 5.13 or newer has Landlock, which keeps workers in")
        }
        _ => Finding::ok("kernel", found),
    }
}

/// The first two numbers of a release.
fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

fn cores() -> Finding {
    let usable = std::thread::available_parallelism().map_or(1, usize::from);
    let features = cpu_features();
    let found =
        format!("{usable} usable{}{}", if features.is_empty() { "" } else { ", " }, features.join(" "));
    if cfg!(target_arch = "x86_64") && !features.contains(&"avx2") {
        return Finding::warn(
            "cores",
            found,
            "without AVX2 models run several times slower; look for a newer CPU, or for a virtual machine that hides it",
        );
    }
    Finding::ok("cores", found)
}

#[cfg(target_arch = "x86_64")]
fn cpu_features() -> Vec<&'static str> {
    let found = [
        ("avx2", std::arch::is_x86_feature_detected!("avx2")),
        ("fma", std::arch::is_x86_feature_detected!("fma")),
        ("avx512f", std::arch::is_x86_feature_detected!("avx512f")),
    ];
    found.into_iter().filter(|(_, there)| *there).map(|(name, _)| name).collect()
}

#[cfg(not(target_arch = "x86_64"))]
fn cpu_features() -> Vec<&'static str> {
    Vec::new()
}

/// A line `Name:   123 kB` of /proc/meminfo, in bytes.
fn meminfo(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

fn memory() -> Finding {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let (Some(total), Some(available)) = (meminfo(&text, "MemTotal"), meminfo(&text, "MemAvailable")) else {
        return Finding::warn("memory", "unknown", "mount /proc, which says how much there is");
    };
    let found = format!("{} available of {}", term::bytes(available), term::bytes(total));
    if available < 512 << 20 {
        return Finding::warn(
            "memory",
            found,
            "end something, or lower models.memory_max and limits.requests_memory_max",
        );
    }
    Finding::ok("memory", found)
}

fn cgroup() -> Finding {
    let own = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let Some(path) = own.lines().find_map(|line| line.strip_prefix("0::")) else {
        return Finding::warn(
            "cgroup",
            "no cgroup v2",
            "boot with systemd.unified_cgroup_hierarchy=1: tenants are told apart by cgroup later",
        );
    };
    let directory = format!("/sys/fs/cgroup{path}");
    let limit = |name: &str| {
        std::fs::read_to_string(Path::new(&directory).join(name)).map(|text| text.trim().to_owned())
    };
    let mut found = format!("v2, {path}");
    for (name, what) in [("memory.max", "memory"), ("cpu.max", "cpu")] {
        match limit(name) {
            Ok(value) if value != "max" && !value.starts_with("max ") => {
                found += &format!(", {what} {value}")
            }
            _ => {}
        }
    }
    Finding::ok("cgroup", found)
}

fn open_files() -> Finding {
    let limit = getrlimit(Resource::Nofile);
    // None is how rustix spells "no limit".
    let soft = limit.current.unwrap_or(u64::MAX);
    let found = format!("{} open files", number(limit.current));
    if soft >= FILES_WANTED {
        return Finding::ok("nofile", found);
    }
    Finding::warn(
        "nofile",
        found,
        format!(
            "raise it to {FILES_WANTED}: `ulimit -n {FILES_WANTED}`, or LimitNOFILE= in a systemd unit; 4096 connections need it"
        ),
    )
}

fn locked_memory() -> Finding {
    let limit = getrlimit(Resource::Memlock);
    let found = limit.current.map_or("unlimited".into(), term::bytes);
    if limit.current.unwrap_or(u64::MAX) >= 64 << 20 {
        return Finding::ok("memlock", found);
    }
    Finding::warn(
        "memlock",
        found,
        "nothing needs it yet; accelerators will: `ulimit -l unlimited`, or LimitMEMLOCK=infinity",
    )
}

fn number(limit: Option<u64>) -> String {
    limit.map_or("unlimited".into(), |limit| limit.to_string())
}

fn shared_memory() -> Finding {
    match rustix::fs::statvfs("/dev/shm") {
        Ok(stat) => {
            let bytes = |blocks: u64| term::bytes(blocks.saturating_mul(stat.f_frsize));
            let found = format!("/dev/shm, {} free of {}", bytes(stat.f_bavail), bytes(stat.f_blocks));
            if stat.f_bavail.saturating_mul(stat.f_frsize) < 64 << 20 {
                return Finding::warn(
                    "shm",
                    found,
                    "clients put tensors there; give the container a larger one (--shm-size)",
                );
            }
            Finding::ok("shm", found)
        }
        Err(errno) => Finding::warn(
            "shm",
            format!("/dev/shm: {errno}"),
            "mount a tmpfs at /dev/shm; clients with shared memory need it",
        ),
    }
}

fn accelerators() -> Finding {
    let devices = ["/dev/nvidia0", "/dev/kfd", "/dev/dri/renderD128", "/dev/accel/accel0"];
    let there: Vec<&str> = devices.into_iter().filter(|device| Path::new(device).exists()).collect();
    if there.is_empty() {
        return Finding::ok("accelerator", "none; models run on the CPU");
    }
    Finding::ok("accelerator", format!("{} (this build does not use it yet)", there.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_kernels_texts() {
        assert_eq!(version("6.1.0-18-amd64"), Some((6, 1)));
        assert_eq!(version("5.15"), Some((5, 15)));
        assert_eq!(version("weird"), None);
        let text = "MemTotal:       16384 kB\nMemAvailable:      7 kB\nHugePages_Total: 0\n";
        assert_eq!(meminfo(text, "MemAvailable"), Some(7168));
        assert_eq!(meminfo(text, "MemFree"), None);
        assert_eq!(meminfo(text, "HugePages_Total"), None);
    }
}
