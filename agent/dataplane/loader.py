# SPDX-License-Identifier: Apache-2.0
"""Programs and maps into the kernel, and the programs onto the node's cgroup.

An attachment is a pinned bpf_link: it outlives the agent, and a new program takes the old one's
place without a moment between.
"""

import contextlib
import ctypes
import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path

from agent.abi.structs import NonceSecret
from agent.dataplane import bpf, kernel
from agent.dataplane.compiler import ensure_programs
from agent.dataplane.layout import MAPS, PROGRAMS, Pins, ProgramSpec
from agent.errors import AttachError

__all__ = ["Loaded", "load"]


@dataclass(slots=True)
class Loaded:
    """Open fds of this node's maps and of the guard; ``close`` leaves the pins in place."""

    pins: Pins
    cgroup: Path
    compiled: bool
    """Whether the programs had to be compiled; False: the pins of an earlier run were adopted."""

    guard_fd: int
    guard_id: int
    """The kernel's number of the guard program: filters with another are of another version."""

    maps: dict[str, int] = field(default_factory=dict)

    def close(self) -> None:
        """Closes every fd; safe to call twice."""
        for fd in (self.guard_fd, *self.maps.values()):
            if fd >= 0:
                os.close(fd)
        self.guard_fd = -1
        self.maps.clear()


def _attach(spec: ProgramSpec, program: int, links: Path, cgroup: Path, cgroup_fd: int) -> None:
    """Makes the link ``spec.pin`` run ``program`` for ``cgroup``; leaves a right one alone."""
    pin = links / spec.pin
    if pin.exists():
        link = bpf.obj_get(str(pin))
        try:
            info = bpf.link_info(link)
            if info.cgroup_id == kernel.cgroup_id(cgroup):
                if info.program_id != bpf.program_id(program):
                    bpf.link_update(link, program)
                return
        finally:
            os.close(link)
        pin.unlink()  # the cgroup was removed and made again, or is another one now
    link = bpf.link_create(program, cgroup_fd, spec.attach_type)
    try:
        bpf.obj_pin(link, str(pin))
    except AttachError:
        bpf.link_detach(link)
        raise
    finally:
        os.close(link)


def _attach_all(pins: Pins, programs: Path, cgroup: Path) -> None:
    pins.links.mkdir(exist_ok=True)
    cgroup_fd = os.open(cgroup, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for spec in PROGRAMS:
            if spec.attach_type < 0:
                continue
            program = bpf.obj_get(str(programs / spec.pin))
            try:
                _attach(spec, program, pins.links, cgroup, cgroup_fd)
            finally:
                os.close(program)
    finally:
        os.close(cgroup_fd)


def _remove_other_versions(pins: Pins, programs: Path) -> None:
    """Only pins: what is still attached somewhere (a pod's filter) lives until it is replaced."""
    for directory in pins.root.glob("programs-*"):
        if directory != programs:
            with contextlib.suppress(FileNotFoundError):
                shutil.rmtree(directory)


def _ensure_secret(fd: int) -> None:
    """Draws the secret of the nonces where there is none: it is as old as the map, and stays in it.

    It is in no log and no answer of the agent; only root can read the map.
    """
    size, nobody = ctypes.sizeof(NonceSecret), bytes(ctypes.sizeof(NonceSecret))
    if bpf.map_lookup(fd, bytes(4), size) in (None, nobody):
        bpf.map_update(fd, bytes(4), os.urandom(size))


def load(pins: Pins, cgroup_name: str | None) -> Loaded:
    """Compiles or adopts, attaches, and opens what the agent needs.

    Raises LoadError, AbiMismatchError or AttachError with one sentence first.
    """
    kernel.check_kernel()
    kernel.check_btf()
    cgroup = kernel.find_cgroup(cgroup_name)
    kernel.agent_cgroup_id(cgroup)
    kernel.ensure_bpffs(pins.bpffs)
    for directory in (pins.node_root.parent, pins.node_root, pins.root):
        kernel.make_private(directory)
    programs, compiled = ensure_programs(pins)
    guard = bpf.obj_get(str(programs / "guard_ingress"))
    loaded = Loaded(pins, cgroup, compiled, guard, bpf.program_id(guard))
    try:
        for name in MAPS:
            loaded.maps[name] = bpf.obj_get(str(pins.maps / name))
        _ensure_secret(loaded.maps["nonce_secrets"])
        _attach_all(pins, programs, cgroup)
        _remove_other_versions(pins, programs)
    except BaseException:
        loaded.close()
        raise
    return loaded
