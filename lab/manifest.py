# SPDX-License-Identifier: Apache-2.0
"""The manifest: what a lab made, written down before it is made.

``/run/nodemesh/lab-<name>/manifest.json``. Teardown removes what stands there and nothing else.
"""

import contextlib
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

from lab.errors import LabError
from lab.host import BPFFS, NETNS_DIR, cgroup2_mount
from lab.spec import LabSpec

__all__ = ["Manifest", "all_labs", "lab_dir", "load_manifest", "plan_manifest"]

RUN = Path("/run/nodemesh")


def lab_dir(name: str) -> Path:
    """Return the directory that holds a lab's manifest, mesh.yaml, logs and state."""
    return RUN / f"lab-{name}"


@dataclass(frozen=True, slots=True)
class Manifest:
    """Everything a lab makes that outlives its processes. ``owner`` is [pid, start time]."""

    name: str
    owner: list[int]
    netns: list[str]
    cgroup: str
    nodes: list[str]

    @property
    def path(self) -> Path:
        """Where it is stored."""
        return lab_dir(self.name) / "manifest.json"

    @property
    def cgroup_path(self) -> Path:
        """The lab's cgroup in the file system."""
        return cgroup2_mount() / self.cgroup

    @property
    def pin_paths(self) -> list[Path]:
        """Where the agents of the lab's nodes pin maps, programs and links."""
        return [BPFFS / "nodemesh" / node for node in self.nodes]

    @property
    def state_paths(self) -> list[Path]:
        """Where the agents of the lab's nodes keep their sockets and ids."""
        return [RUN / node for node in self.nodes]

    def left(self) -> list[str]:
        """Name what of it exists now."""
        found = [f"netns {name}" for name in self.netns if (NETNS_DIR / name).exists()]
        found += [f"cgroup {path}" for path in [self.cgroup_path] if path.exists()]
        found += [f"pins {path}" for path in self.pin_paths if path.exists()]
        found += [f"state {path}" for path in self.state_paths if path.exists()]
        return found

    def owner_alive(self) -> bool:
        """Say whether the process that made the lab still runs."""
        pid, started = self.owner
        return pid > 0 and start_time(pid) == started

    def save(self) -> None:
        """Write it, whole or not at all."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        part = self.path.with_suffix(".part")
        part.write_text(json.dumps(asdict(self), indent=2) + "\n")
        part.replace(self.path)

    def disown(self) -> "Manifest":
        """Return it without an owner: a lab left running on purpose."""
        return Manifest(self.name, [0, 0], self.netns, self.cgroup, self.nodes)


def start_time(pid: int) -> int:
    """Return the start time of a process in clock ticks since boot (proc(5)); 0 if it is gone."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
    return 0


def plan_manifest(spec: LabSpec) -> Manifest:
    """Say what building ``spec`` will make."""
    nodes = [node.name for node in spec.real_nodes]
    netns = [spec.node_netns(node) for node in nodes]
    netns += [spec.pod_netns(pod.key) for pod in spec.pods]
    owner = [os.getpid(), start_time(os.getpid())]
    return Manifest(spec.name, owner, netns, spec.cgroup, nodes)


def load_manifest(name: str) -> Manifest | None:
    """Read the manifest of a lab, None if there is none; LabError if it is damaged."""
    path = lab_dir(name) / "manifest.json"
    try:
        return Manifest(**json.loads(path.read_text()))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError) as error:
        raise LabError(f"{path} is damaged: {error}") from error


def all_labs() -> list[str]:
    """Name every lab that has a manifest on this machine."""
    return sorted(path.parent.name[4:] for path in RUN.glob("lab-*/manifest.json"))
