# SPDX-License-Identifier: Apache-2.0
"""Remove what a lab made: by its manifest, idempotent, also after a crash half way."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from lab.errors import LabError
from lab.host import BPFFS, NETNS_DIR, output
from lab.manifest import RUN, Manifest, lab_dir, load_manifest

__all__ = ["remove_lab"]


def remove_lab(name: str) -> bool:
    """Remove the lab; False if there was none. LabError naming whatever could not be removed.

    Order: processes, then what the agents left in the kernel, then namespaces, cgroups, files.
    The manifest goes last, so that a removal cut short can be repeated. Ctrl-C waits meanwhile.
    """
    held = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM, signal.SIGHUP})
    try:
        return _remove(name)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, held)


def _remove(name: str) -> bool:
    manifest = load_manifest(name)
    if manifest is None:
        return False
    _end_processes(manifest.cgroup_path)
    for node in manifest.nodes:
        _clean_node(manifest, node)
    for netns in manifest.netns:
        if (NETNS_DIR / netns).exists():
            output(["ip", "netns", "del", netns])
    _remove_cgroup(manifest.cgroup_path)
    for path in manifest.state_paths:
        shutil.rmtree(path, ignore_errors=True)
    if left := manifest.left():
        raise LabError(f"could not be removed: {', '.join(left)}")
    shutil.rmtree(lab_dir(name))
    for parent in (RUN, BPFFS / "nodemesh"):
        with contextlib.suppress(OSError):
            parent.rmdir()
    return True


def _end_processes(cgroup: Path, patience_seconds: float = 3) -> None:
    """Ask the lab's processes to end, then kill the cgroup (cgroup.kill, kernel 5.14)."""
    for pid in processes(cgroup):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + patience_seconds
    while processes(cgroup) and time.monotonic() < deadline:
        time.sleep(0.02)
    with contextlib.suppress(OSError):
        (cgroup / "cgroup.kill").write_text("1")
    deadline = time.monotonic() + patience_seconds
    while processes(cgroup) and time.monotonic() < deadline:
        time.sleep(0.02)


def processes(cgroup: Path) -> list[int]:
    """Return the processes of a cgroup and of all below it."""
    found: list[int] = []
    for folder, _, _ in os.walk(cgroup):
        with contextlib.suppress(OSError):
            found += [int(pid) for pid in (Path(folder) / "cgroup.procs").read_text().split()]
    return [pid for pid in found if pid and not _is_zombie(pid)]


def _is_zombie(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except OSError:
        return True


def _clean_node(manifest: Manifest, node: str) -> None:
    """Let the product clean up after its own agent, then remove pins that are left all the same.

    A failure of the command is no reason to leave the rest: what is left is reported at the end.
    """
    pins = [path for path in manifest.pin_paths if path.name == node and path.exists()]
    states = [path for path in manifest.state_paths if path.name == node and path.exists()]
    if not pins and not states:
        return
    with contextlib.suppress(OSError, subprocess.TimeoutExpired):
        subprocess.run(
            [sys.executable, "-m", "cli.main", "cleanup", "--node", node],
            cwd=Path(__file__).resolve().parent.parent,
            capture_output=True,
            timeout=30,
            check=False,
        )
    for path in pins:
        for folder, _, files in os.walk(path, topdown=False):
            for file in files:
                (Path(folder) / file).unlink(missing_ok=True)
            with contextlib.suppress(OSError):
                Path(folder).rmdir()


def _remove_cgroup(cgroup: Path) -> None:
    """Remove it and all below; a cgroup whose last process just died may be busy for a moment."""
    deadline = time.monotonic() + 3
    while cgroup.exists():
        for folder, _, _ in os.walk(cgroup, topdown=False):
            with contextlib.suppress(OSError):
                Path(folder).rmdir()
        if time.monotonic() > deadline:
            return
        if cgroup.exists():
            time.sleep(0.05)
