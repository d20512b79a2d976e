# SPDX-License-Identifier: Apache-2.0
"""What the running kernel and its mounts offer; a missing thing is named in one sentence."""

import contextlib
import ctypes
import os
import re
import stat
from pathlib import Path

from agent.errors import AttachError, LoadError

__all__ = [
    "agent_cgroup_id",
    "cgroup2_mount",
    "cgroup_id",
    "check_btf",
    "check_kernel",
    "ensure_bpffs",
    "ensure_headers",
    "find_cgroup",
    "has_mptcp",
    "make_private",
]

KERNEL_FLOOR = (6, 1)
"""The oldest kernel with everything that the programs call; tested under 6.1, 6.12 and 6.18."""

_libc = ctypes.CDLL(None, use_errno=True)


def check_kernel(release: str | None = None) -> None:
    """Raises LoadError where the kernel is older than the floor, saying what it lacks."""
    text = os.uname().release if release is None else release
    found = re.match(r"(\d+)\.(\d+)", text)
    if found is None:
        raise LoadError(f'The kernel release "{text}" cannot be read.')
    version = (int(found[1]), int(found[2]))
    if version < KERNEL_FLOOR:
        lacks = (
            "bpf_get_netns_cookie in sockops programs (5.15) and bpf_set_retval in sock_addr ones"
            if version < (5, 15)
            else "bpf_set_retval in sock_addr programs"
        )
        raise LoadError(
            f"Linux {text} is too old: nodemesh needs {KERNEL_FLOOR[0]}.{KERNEL_FLOOR[1]} or later;"
            f" this kernel lacks {lacks}."
        )


def check_btf(path: Path = Path("/sys/kernel/btf/vmlinux")) -> None:
    """Raises LoadError where the kernel cannot say what its structs look like.

    Socket storage and the look at MPTCP sockets need it.
    """
    if not path.exists():
        raise LoadError(
            f"This kernel was built without CONFIG_DEBUG_INFO_BTF ({path} is missing); nodemesh"
            " keeps its state in BPF socket storage, which needs it."
        )


def make_private(directory: Path) -> None:
    """Makes a directory of root's under bpffs, or finds it to be one.

    Everybody may write to the top of bpffs. Raises AttachError for a directory or link that
    somebody else made there: whoever owns a directory can put other maps in the place of ours.
    """
    with contextlib.suppress(FileExistsError):
        directory.mkdir(mode=0o700)
    found = directory.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
        raise AttachError(f"{directory} was made by somebody else (uid {found.st_uid}).")
    if found.st_mode & 0o022:
        directory.chmod(0o700)


def has_mptcp() -> bool:
    """Whether the kernel knows MPTCP: without it, the helper that finds such a socket is absent."""
    return Path("/proc/sys/net/mptcp").is_dir()


def _mounts(kind: str) -> list[Path]:
    fields = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    return [
        Path(field[1].encode().decode("unicode_escape")) for field in fields if field[2] == kind
    ]


def ensure_bpffs(path: Path) -> None:
    """Mounts bpffs at ``path`` where it is not yet."""
    if path in _mounts("bpf"):
        return
    path.mkdir(parents=True, exist_ok=True)
    if _libc.mount(b"bpf", os.fsencode(path), b"bpf", 0, None) != 0:
        error = os.strerror(ctypes.get_errno())
        raise LoadError(f"bpffs cannot be mounted at {path}: {error}. nodemesh must run as root.")


def cgroup2_mount() -> Path:
    """Where cgroup v2 is mounted: /sys/fs/cgroup, or /sys/fs/cgroup/unified on hybrid hosts."""
    mounts = _mounts("cgroup2")
    if not mounts:
        raise AttachError("cgroup v2 is not mounted; nodemesh attaches its programs to one.")
    return mounts[0]


def find_cgroup(name: str | None) -> Path:
    """The directory of the cgroup that holds this node's pods.

    ``name`` is absolute or relative to the cgroup v2 mount; None looks for what kubelet makes.
    """
    mount = cgroup2_mount()
    candidates = ["kubepods.slice", "kubepods"] if name is None else [name]
    for candidate in candidates:
        directory = mount / candidate
        if directory.is_dir():
            return directory
    wanted = " or ".join(candidates)
    raise AttachError(f"There is no cgroup {wanted} under {mount}; set nodes[].cgroup.")


def cgroup_id(directory: Path) -> int:
    """The kernel's number of a cgroup: its inode (kernfs ids are 64 bit)."""
    return directory.stat().st_ino


def agent_cgroup_id(attached: Path) -> int:
    """The number of our own cgroup, whose sockets are never captured.

    Raises AttachError where pods share it: exempting it would exempt them.
    """
    lines = Path("/proc/self/cgroup").read_text().splitlines()
    entries = [line.split(":", 2) for line in lines]
    own = next((path for number, _, path in entries if number == "0"), "/")
    directory = cgroup2_mount() / own.lstrip("/")
    if directory == attached:
        raise AttachError(
            f"The agent runs in the cgroup {attached} of the pods themselves, so their sockets"
            " cannot be told from its own; give the agent or the pods a cgroup of their own."
        )
    return cgroup_id(directory)


def ensure_headers(modules: Path = Path("/lib/modules"), sources: Path = Path("/usr/src")) -> None:
    """Makes BCC find kernel headers for a kernel whose package has none.

    The programs use UAPI types only, so any installed headers do. Debian splits them in two
    packages: ``build`` is the flavour's, ``source`` the common one. Raises LoadError where there
    are none at all.
    """
    home = modules / os.uname().release
    if (home / "build").exists():
        return
    flavours = sorted(sources.glob("linux-headers-*-*[!n]"), reverse=True)
    for flavour in flavours:
        common = sources / (flavour.name.rsplit("-", 1)[0] + "-common")
        if not (flavour / "Makefile").exists() or not common.is_dir():
            continue
        home.mkdir(parents=True, exist_ok=True)
        for name, target in (("build", flavour), ("source", common)):
            with contextlib.suppress(FileExistsError):
                (home / name).symlink_to(target)
        return
    raise LoadError(
        f"There are no kernel headers under {home}/build or {sources}; on Debian install"
        " linux-headers-amd64 (any version: only UAPI types are used)."
    )
