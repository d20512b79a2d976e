// SPDX-License-Identifier: Apache-2.0
//! How much memory this process may use before the kernel kills it.

use std::fs;
use std::path::Path;

/// Where cgroup2 is mounted (cgroups(7)); in a container the process is at its root.
const MOUNT: &str = "/sys/fs/cgroup";

/// Bytes, the smallest `memory.max` of the process' own cgroup and those above; `None` where nothing
/// bounds it, or where nothing says so.
pub(crate) fn memory_limit() -> Option<usize> {
    let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
    let group = groups.lines().find_map(|line| line.strip_prefix("0::/"))?;
    smallest(Path::new(MOUNT), Path::new(group))
}

fn smallest(mount: &Path, group: &Path) -> Option<usize> {
    let limit = |group: &Path| -> Option<usize> {
        let text = fs::read_to_string(mount.join(group).join("memory.max")).ok()?;
        text.trim().parse().ok()
    };
    group.ancestors().filter_map(limit).min()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_smallest_limit_above_counts() {
        let mount = std::env::temp_dir().join(format!("hbone-memory-{}", std::process::id()));
        fs::create_dir_all(mount.join("a/b/c")).unwrap();
        for (group, text) in [("a", "1000\n"), ("a/b", "max\n"), ("a/b/c", "4000\n")] {
            fs::write(mount.join(group).join("memory.max"), text).unwrap();
        }
        assert_eq!(smallest(&mount, Path::new("a/b/c")), Some(1000));
        fs::write(mount.join("a/memory.max"), "max\n").unwrap();
        assert_eq!(smallest(&mount, Path::new("a/b/c")), Some(4000));
        assert_eq!(smallest(&mount, Path::new("a/b")), None);
        fs::remove_dir_all(mount).unwrap();
    }
}
