//! How much memory this process may take: the machine's, or less where a control group says so (Linux).

use std::fs;
use std::path::Path;

/// Where control groups are mounted, in containers and out of them.
const GROUPS: &str = "/sys/fs/cgroup";

/// The bytes there are; `None` where the system does not tell.
pub(crate) fn available() -> Option<u64> {
    let machine = fs::read_to_string("/proc/meminfo").ok().and_then(|text| machine_bytes(&text));
    let group = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    least(machine, limits(&group, |path| fs::read_to_string(Path::new(GROUPS).join(path)).ok()))
}

/// The least of all bounds.
fn least(machine: Option<u64>, limits: impl IntoIterator<Item = u64>) -> Option<u64> {
    machine.into_iter().chain(limits).min()
}

/// `MemTotal: 24085432 kB`
fn machine_bytes(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.trim().strip_suffix(" kB")?.parse::<u64>().ok()?.checked_mul(1024)
}

/// The limits of the process's group and of all groups around it: version 2 (`memory.max`), and version 1, which shows a
/// container its own group at the root. "max", and version 1's word for it, a number near 2^63, are no bounds.
fn limits(own_groups: &str, read: impl Fn(&str) -> Option<String>) -> Vec<u64> {
    let own = own_groups.lines().find_map(|line| line.strip_prefix("0::/")).unwrap_or_default();
    let around = Path::new(own).ancestors().filter_map(Path::to_str);
    let files = around.map(|group| format!("{group}/memory.max")).chain(["memory/memory.limit_in_bytes".to_owned()]);
    files.filter_map(|file| read(file.trim_start_matches('/'))?.trim().parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_narrowest_group_around_the_process_counts() {
        let of = |own: &str, files: &[(&str, &str)]| {
            let read = |path: &str| files.iter().find(|(name, _)| *name == path).map(|(_, text)| (*text).to_owned());
            least(Some(24 << 30), limits(own, read))
        };
        let pod = "0::/kubepods.slice/pod.slice/container.scope\n";
        assert_eq!(of(pod, &[("kubepods.slice/pod.slice/container.scope/memory.max", "1073741824\n")]), Some(1 << 30));
        let both =
            [("kubepods.slice/pod.slice/container.scope/memory.max", "max\n"), ("kubepods.slice/memory.max", "5\n")];
        assert_eq!(of(pod, &both), Some(5));
        assert_eq!(of("0::/\n", &[("memory.max", "536870912\n")]), Some(512 << 20), "a namespace of its own");
        let old = "11:memory:/docker/abc\n";
        assert_eq!(of(old, &[("memory/memory.limit_in_bytes", "268435456\n")]), Some(256 << 20));
        assert_eq!(of(old, &[("memory/memory.limit_in_bytes", "9223372036854771712\n")]), Some(24 << 30));
        assert_eq!(of("", &[]), Some(24 << 30));
    }

    #[test]
    fn the_machine_tells_in_kibibytes() {
        assert_eq!(machine_bytes("MemTotal:       24085432 kB\nMemFree: 1 kB\n"), Some(24_085_432 * 1024));
        assert_eq!(machine_bytes("MemFree: 1 kB\n"), None);
        assert!(available().is_some(), "this machine tells");
    }
}
