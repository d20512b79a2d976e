# SPDX-License-Identifier: Apache-2.0
"""What the lab needs of the machine: programs, root, mounts; and running a program to its end."""

import os
import shutil
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path

from lab.errors import CommandError, MissingError

__all__ = ["cgroup2_mount", "check_machine", "in_netns", "output", "run", "tail"]

NETNS_DIR = Path("/run/netns")
BPFFS = Path("/sys/fs/bpf")
_LOCALE = {"LC_ALL": "C.UTF-8"}
_PACKAGES = {
    "ip": "iproute2",
    "nsenter": "util-linux",
    "nginx": "nginx-light",
    "curl": "curl",
    "socat": "socat",
    "tcpdump": "tcpdump",
    "iperf3": "iperf3",
    "wrk": "wrk",
}
_CAP_NET_ADMIN = 12
_CAP_SYS_ADMIN = 21


def run(
    argv: Sequence[str], *, stdin: str | None = None, timeout: float = 60, check: bool = True
) -> str:
    """Run a program to its end; return stdout and stderr together. CommandError if it fails.

    ``timeout`` is in seconds; a program that takes longer is killed.
    """
    try:
        done = subprocess.run(
            list(argv),
            input=stdin if stdin is not None else "",
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=timeout,
            check=False,
            env=os.environ | _LOCALE,
        )
    except FileNotFoundError as error:
        raise MissingError(_missing(str(argv[0]))) from error
    except subprocess.TimeoutExpired as error:
        raise CommandError(list(argv), -1, f"no end after {timeout:g} s") from error
    if check and done.returncode:
        raise CommandError(list(argv), done.returncode, done.stdout)
    return done.stdout


def output(argv: Sequence[str]) -> str:
    """Run a program whatever its status; return what it said."""
    return run(argv, check=False)


def in_netns(netns: str, argv: Sequence[str]) -> list[str]:
    """Return the command that runs ``argv`` in a named netns, in the caller's cgroup."""
    return ["nsenter", f"--net={NETNS_DIR / netns}", *argv]


def tail(path: Path, lines: int = 15) -> str:
    """Return the last lines of a log, for a message about why its writer failed."""
    try:
        return "\n".join(path.read_text(errors="replace").splitlines()[-lines:])
    except OSError:
        return ""


def cgroup2_mount() -> Path:
    """Return where cgroup v2 is mounted (hybrid hosts: not /sys/fs/cgroup); else MissingError."""
    for line in Path("/proc/mounts").read_text().splitlines():
        _, where, kind, *_ = line.split()
        if kind == "cgroup2":
            return Path(where)
    raise MissingError("cgroup v2 is not mounted: mount -t cgroup2 none /sys/fs/cgroup/unified")


def _missing(program: str) -> str:
    package = _PACKAGES.get(program, program)
    return f"the program `{program}` is missing: apt-get install {package}"


def _has_capability(number: int) -> bool:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("CapEff:"):
            return bool(int(line.split()[1], 16) >> number & 1)
    return False


def check_machine(programs: Iterable[str] = ("ip", "nsenter")) -> None:
    """Raise MissingError with one sentence for the first thing this machine lacks."""
    if os.geteuid() != 0:
        raise MissingError("the lab needs root: it makes network namespaces, cgroups and mounts")
    if not (_has_capability(_CAP_SYS_ADMIN) and _has_capability(_CAP_NET_ADMIN)):
        raise MissingError(
            "CAP_SYS_ADMIN and CAP_NET_ADMIN are missing: run in a virtual machine or a "
            "privileged container"
        )
    # `su` without a dash leaves root with a user's PATH, and nginx and bpftool are not on it.
    os.environ["PATH"] = f"{os.environ.get('PATH', os.defpath)}:/usr/local/sbin:/usr/sbin:/sbin"
    for program in programs:
        if shutil.which(program) is None:
            raise MissingError(_missing(program))
    if not Path("/proc/net/if_inet6").exists():
        raise MissingError("IPv6 is disabled in this kernel: boot without ipv6.disable=1")
    if not Path("/proc/sys/net/ipv4/tcp_congestion_control").exists():
        raise MissingError("/proc/sys/net is missing: mount /proc")
    cgroup2_mount()


def ensure_bpffs() -> None:
    """Mount bpffs where the agents pin, if it is not mounted; MissingError if it cannot be."""
    for line in Path("/proc/mounts").read_text().splitlines():
        _, where, kind, *_ = line.split()
        if kind == "bpf" and where == str(BPFFS):
            return
    try:
        run(["mount", "-t", "bpf", "bpf", str(BPFFS)])
    except CommandError as error:
        raise MissingError(f"bpffs cannot be mounted at {BPFFS}: {error.output.strip()}") from error
