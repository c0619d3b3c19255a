//! The memory that this process can still get: the system's free memory, or less if a limit leaves less.
//!
//! A container, a batch job or a systemd unit is a control group. Its limit is often far below the host's memory, and a
//! process that exceeds it is killed without a message. Groups are nested, and each one up to the root has its own
//! limit.

use std::fmt;
use std::path::{Path, PathBuf};

/// The memory that this process can still get.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AvailableMemory {
    /// The number of bytes of memory.
    pub bytes: u64,
    /// The number of bytes of memory and swap.
    pub with_swap_bytes: u64,
    /// The limit that determines [`AvailableMemory::bytes`].
    pub limited_by: MemoryLimit,
}

/// The limits on the memory of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum MemoryLimit {
    /// The memory of the machine.
    Machine,
    /// The limit of a control group: of a container, a batch job or a service.
    ControlGroup,
    /// RLIMIT_AS, which `ulimit -v` shows.
    AddressSpace,
    /// RLIMIT_DATA, which `ulimit -d` shows.
    Data,
}

impl fmt::Display for MemoryLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            MemoryLimit::Machine => "the memory of this machine",
            MemoryLimit::ControlGroup => {
                "the memory limit of this process's control group (container or batch job)"
            }
            MemoryLimit::AddressSpace => "the limit on this process's address space (RLIMIT_AS, `ulimit -v`)",
            MemoryLimit::Data => "the limit on this process's data (RLIMIT_DATA, `ulimit -d`)",
        })
    }
}

/// Returns the memory that is available now, or `None` if the system does not report it.
pub(crate) fn available() -> Option<AvailableMemory> {
    let mut available = available_below(Path::new("/"))?;
    #[cfg(unix)]
    for (limit, resource, used) in [
        (MemoryLimit::AddressSpace, rustix::process::Resource::As, "VmSize:"),
        (MemoryLimit::Data, rustix::process::Resource::Data, "VmData:"),
    ] {
        let Some(most) = rustix::process::getrlimit(resource).current else { continue };
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let left = most.saturating_sub(kilobytes(&status, used).unwrap_or(0));
        available.lower(limit, left, left);
    }
    Some(available)
}

impl AvailableMemory {
    fn lower(&mut self, limited_by: MemoryLimit, bytes: u64, with_swap_bytes: u64) {
        if bytes < self.bytes {
            (self.bytes, self.limited_by) = (bytes, limited_by);
        }
        self.with_swap_bytes = self.with_swap_bytes.min(with_swap_bytes);
    }
}

/// Reads the memory of the machine and of its control groups, from the files below `root`.
fn available_below(root: &Path) -> Option<AvailableMemory> {
    let read = |path: &str| std::fs::read_to_string(root.join(path)).unwrap_or_default();
    let memory = read("proc/meminfo");
    let bytes = kilobytes(&memory, "MemAvailable:")?;
    let swap_bytes = kilobytes(&memory, "SwapFree:").unwrap_or(0);
    let mut available = AvailableMemory {
        bytes,
        with_swap_bytes: bytes.saturating_add(swap_bytes),
        limited_by: MemoryLimit::Machine,
    };
    let (groups, mounts) = (read("proc/self/cgroup"), read("proc/self/mountinfo"));
    for line in groups.lines() {
        // "0::/path" is version 2; "4:memory:/path" is version 1 with the memory controller.
        let mut fields = line.splitn(3, ':');
        let (Some(_), Some(controllers), Some(path)) = (fields.next(), fields.next(), fields.next()) else {
            continue;
        };
        let version = match controllers {
            "" => Version::Two,
            _ if controllers.split(',').any(|controller| controller == "memory") => Version::One,
            _ => continue,
        };
        for folder in folders(root, &mounts, version, path) {
            let (bytes, with_swap_bytes) = version.left(&folder, swap_bytes);
            available.lower(MemoryLimit::ControlGroup, bytes, with_swap_bytes);
        }
    }
    Some(available)
}

/// The version of the control groups.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Version {
    One,
    Two,
}

impl Version {
    /// Returns what the limits of one group leave: memory, and memory with swap. The group's file cache counts as free,
    /// because the system reclaims it.
    fn left(self, folder: &Path, swap_bytes: u64) -> (u64, u64) {
        let text = |name: &str| std::fs::read_to_string(folder.join(name)).unwrap_or_default();
        // "max" and a missing file mean no limit.
        let number = |name: &str| text(name).trim().parse::<u64>().ok();
        let stat = text("memory.stat");
        let stat = |key: &str| {
            let value = stat.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' '));
            value.and_then(|value| value.trim().parse::<u64>().ok()).unwrap_or(0)
        };
        let left = |limit: Option<u64>, used: Option<u64>, cache: u64| match limit {
            Some(limit) => limit.saturating_sub(used.unwrap_or(0).saturating_sub(cache)),
            None => u64::MAX,
        };
        match self {
            Version::One => {
                let cache = stat("total_inactive_file") + stat("total_active_file");
                let bytes = left(number("memory.limit_in_bytes"), number("memory.usage_in_bytes"), cache);
                // This limit covers memory and swap together.
                let both =
                    left(number("memory.memsw.limit_in_bytes"), number("memory.memsw.usage_in_bytes"), cache);
                (bytes.min(both), bytes.saturating_add(swap_bytes).min(both))
            }
            Version::Two => {
                let cache = stat("inactive_file") + stat("active_file") + stat("slab_reclaimable");
                // Above memory.high a group is not killed, but throttled until it is of no use.
                let limit = [number("memory.max"), number("memory.high")].into_iter().flatten().min();
                let bytes = left(limit, number("memory.current"), cache);
                let swap = left(number("memory.swap.max"), number("memory.swap.current"), 0);
                (bytes, bytes.saturating_add(swap.min(swap_bytes)))
            }
        }
    }
}

/// Returns the folders of a group and of its parents, as far as they are visible from here.
fn folders(root: &Path, mounts: &str, version: Version, group: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for line in mounts.lines() {
        // "36 35 98:0 /ROOT /MOUNT options [fields] - TYPE source OPTIONS"
        let Some((mount, kind)) = line.split_once(" - ") else { continue };
        let mut kind = kind.split(' ');
        let is_wanted = match (version, kind.next()) {
            (Version::Two, Some("cgroup2")) => true,
            (Version::One, Some("cgroup")) => {
                kind.nth(1).is_some_and(|options| options.split(',').any(|option| option == "memory"))
            }
            _ => false,
        };
        let mut mount = mount.split(' ').skip(3);
        let (true, Some(top), Some(point)) = (is_wanted, mount.next(), mount.next()) else { continue };
        let point = root.join(point.trim_start_matches('/'));
        // A container may see its own group as the root of the mount, under the path that the host gives it.
        let below = Path::new(group).strip_prefix(top).unwrap_or(Path::new(""));
        let below = if below.components().all(|part| matches!(part, std::path::Component::Normal(_))) {
            below
        } else {
            Path::new("")
        };
        found.extend(below.ancestors().map(|folder| point.join(folder)));
    }
    found
}

/// The bytes of a line such as `MemAvailable:   24173160 kB`.
fn kilobytes(text: &str, key: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(key))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MB: u64 = 1 << 20;

    /// Reads a tree of files: memory, memory with swap, and the limit. The host has 8,000 MB, and 1,000 MB of swap.
    fn available(files: &[(&str, &str)]) -> (u64, u64, MemoryLimit) {
        let root = tempfile::tempdir().expect("a folder");
        let host =
            format!("MemTotal: 9 kB\nMemAvailable: {} kB\nSwapFree: {} kB\n", 8_000 << 10, 1_000 << 10);
        for (path, text) in [&[("proc/meminfo", host.as_str())], files].concat() {
            let path = root.path().join(path);
            std::fs::create_dir_all(path.parent().expect("a parent")).expect("folders");
            std::fs::write(path, text).expect("a file");
        }
        let available = available_below(root.path()).expect("a host");
        (available.bytes / MB, available.with_swap_bytes / MB, available.limited_by)
    }

    const V2: (&str, &str) =
        ("proc/self/mountinfo", "31 23 0:27 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw\n");
    const V1: (&str, &str) = (
        "proc/self/mountinfo",
        "30 2 0:26 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n31 2 0:27 /docker/abc /sys/fs/cgroup/memory rw - cgroup \
         cgroup rw,memory\n",
    );

    #[test]
    fn without_groups_the_machine_counts() {
        assert_eq!(available(&[]), (8_000, 9_000, MemoryLimit::Machine));
        let root = tempfile::tempdir().expect("a folder");
        assert_eq!(available_below(root.path()), None, "nothing is reported");
    }

    #[test]
    fn nested_groups_of_version_2() {
        let group = ("proc/self/cgroup", "0::/jobs/one\n");
        let jobs = ("sys/fs/cgroup/jobs/memory.max", "314572800\n");
        let one = ("sys/fs/cgroup/jobs/one/memory.max", "max\n");
        // 300 MB for all jobs, which use 120 MB; 20 MB of that are cached files.
        let used = ("sys/fs/cgroup/jobs/memory.current", "125829120\n");
        let stat =
            ("sys/fs/cgroup/jobs/memory.stat", "anon 7\ninactive_file 10485760\nactive_file 10485760\n");
        assert_eq!(available(&[group, V2, jobs, one]), (300, 1_300, MemoryLimit::ControlGroup));
        assert_eq!(available(&[group, V2, jobs, one, used, stat]), (200, 1_200, MemoryLimit::ControlGroup));
        let no_swap = ("sys/fs/cgroup/jobs/one/memory.swap.max", "0\n");
        assert_eq!(
            available(&[group, V2, jobs, one, no_swap]).1,
            1_300,
            "a parent may swap, and this group may not"
        );
        let no_swap = ("sys/fs/cgroup/jobs/memory.swap.max", "0\n");
        assert_eq!(available(&[group, V2, jobs, one, no_swap]).1, 300);
        let high = ("sys/fs/cgroup/jobs/one/memory.high", "104857600\n");
        assert_eq!(available(&[group, V2, jobs, one, high]).0, 100, "it would be throttled");
        let large = ("sys/fs/cgroup/jobs/memory.max", "99999999999999\n");
        assert_eq!(available(&[group, V2, large]), (8_000, 9_000, MemoryLimit::Machine));
    }

    #[test]
    fn a_container_sees_its_group_as_the_root() {
        let limit = ("sys/fs/cgroup/memory/memory.limit_in_bytes", "314572800\n");
        // The host's path of the group is visible, or the container has its own namespace.
        for path in ["9:cpu:/x\n4:memory:/docker/abc\n0::/\n", "4:cpu,memory:/\n", "4:memory:/../other\n"] {
            assert_eq!(
                available(&[("proc/self/cgroup", path), V1, limit]),
                (300, 1_300, MemoryLimit::ControlGroup),
                "{path}"
            );
        }
        let group = ("proc/self/cgroup", "4:memory:/docker/abc/inner\n");
        let inner = ("sys/fs/cgroup/memory/inner/memory.limit_in_bytes", "209715200\n");
        assert_eq!(available(&[group, V1, limit, inner]).0, 200);
        let both = ("sys/fs/cgroup/memory/memory.memsw.limit_in_bytes", "419430400\n");
        assert_eq!(available(&[group, V1, limit, both]), (300, 400, MemoryLimit::ControlGroup));
        let none = ("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n");
        assert_eq!(available(&[group, V1, none]), (8_000, 9_000, MemoryLimit::Machine));
    }
}
