# SPDX-License-Identifier: Apache-2.0
"""Run programs inside a pod or on a node: in its netns, and in its cgroup before they start.

A tiny shell joins the cgroup (writing 0 to cgroup.procs moves the writer, cgroups(7)) and then
becomes nsenter, which becomes the program: the program's first socket already has the pod's
cgroup, as under a container runtime. No process stays between.
"""

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lab.errors import CommandError, LabError
from lab.host import NETNS_DIR, cgroup2_mount, tail
from lab.spec import LabSpec

__all__ = ["Done", "Place", "Process", "node_place", "pod_place", "wait_until"]

_ENTER = (
    "cgroup=$1 netns=$2; shift 2; "
    'echo 0 > "$cgroup/cgroup.procs" && exec nsenter --net="$netns" -- "$@"'
)


@dataclass(frozen=True, slots=True)
class Done:
    """How a program ended."""

    status: int
    stdout: str
    stderr: str
    seconds: float


@dataclass(frozen=True, slots=True)
class Place:
    """Where programs run: a netns and a cgroup."""

    name: str
    netns: Path
    cgroup: Path

    def argv(self, command: Sequence[str]) -> list[str]:
        """Return the command line that starts ``command`` here."""
        return ["sh", "-c", _ENTER, "enter", str(self.cgroup), str(self.netns), *command]

    def run(
        self,
        command: Sequence[str],
        *,
        stdin: str = "",
        timeout: float = 30,
        check: bool = True,
        env: Mapping[str, str] | None = None,
    ) -> Done:
        """Run to the end (``timeout`` seconds at most); CommandError unless it ends with 0."""
        began = time.monotonic()
        process = subprocess.Popen(
            self.argv(command),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            env={**os.environ, **(env or {})},
            start_new_session=True,
        )
        try:
            stdout, stderr = process.communicate(stdin, timeout=timeout)
        except subprocess.TimeoutExpired as error:
            raise CommandError(list(command), -1, f"no end after {timeout:g} s") from error
        finally:
            if process.poll() is None:
                _kill_group(process)
        done = Done(process.returncode, stdout, stderr, time.monotonic() - began)
        if check and done.status:
            raise CommandError(list(command), done.status, f"{stdout}{stderr}")
        return done

    def start(
        self, command: Sequence[str], *, log: Path, env: Mapping[str, str] | None = None
    ) -> "Process":
        """Start a program that stays; it writes to ``log`` (appended)."""
        with log.open("ab") as out:
            process = subprocess.Popen(
                self.argv(command),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                env={**os.environ, **(env or {})},
                start_new_session=True,
            )
        return Process(process, list(command), log)


def _kill_group(process: "subprocess.Popen[str] | subprocess.Popen[bytes]") -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


class Process:
    """A program that stays: an agent, a server, a capture."""

    def __init__(self, popen: "subprocess.Popen[bytes]", command: list[str], log: Path) -> None:
        self.popen = popen
        self.command = command
        self.log = log

    @property
    def pid(self) -> int:
        """Its process id (the shell and nsenter became the program, so it is the program's)."""
        return self.popen.pid

    @property
    def running(self) -> bool:
        """Whether it has not ended yet."""
        return self.popen.poll() is None

    def require_running(self) -> None:
        """LabError with the end of its log if it has ended."""
        if self.running:
            return
        said = tail(self.log)
        for line in reversed(said.splitlines()):
            # The product says in one sentence why it cannot run.
            if line.startswith("nodemesh: "):
                raise LabError(line.removeprefix("nodemesh: "))
        raise LabError(
            f"`{' '.join(self.command)}` ended with status {self.popen.returncode}:\n{said}"
        )

    def stop(self, patience_seconds: float = 10) -> int:
        """End it with SIGTERM, with SIGKILL after the patience; return its status."""
        if self.running:
            self.popen.terminate()
        try:
            return self.popen.wait(patience_seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            return self.popen.returncode

    def kill(self) -> None:
        """End it and its children as kill -9 does, and wait until it is gone."""
        _kill_group(self.popen)


def pod_place(spec: LabSpec, key: str) -> Place:
    """Return the inside of the pod ``namespace/name``."""
    return Place(key, NETNS_DIR / spec.pod_netns(key), cgroup2_mount() / spec.pod_cgroup(key))


def node_place(spec: LabSpec, node: str, part: str = "host") -> Place:
    """Return the node itself; ``part`` is its cgroup: agent, or host for everything else."""
    cgroup = cgroup2_mount() / spec.node_cgroup(node) / part
    return Place(f"{node}/{part}", NETNS_DIR / spec.node_netns(node), cgroup)


def wait_until(
    test: Callable[[], bool], *, seconds: float, what: str, alive: Sequence[Process] = ()
) -> None:
    """Wait until ``test`` holds; LabError naming ``what`` when it does not in time.

    A process of ``alive`` that ends meanwhile ends the wait with its log.
    """
    deadline = time.monotonic() + seconds
    while not test():
        for process in alive:
            process.require_running()
        if time.monotonic() > deadline:
            logs = "".join(f"\n--- {p.log}\n{tail(p.log)}" for p in alive)
            raise LabError(f"{what}: not within {seconds:g} s{logs}")
        time.sleep(0.02)
