# SPDX-License-Identifier: Apache-2.0
"""Programs and maps into the kernel, and the programs onto the node's cgroup.

An attachment is a pinned bpf_link: it outlives the agent, and a new program takes the old one's
place without a moment between.
"""

import contextlib
import ctypes
import os
import shutil
import sys
from dataclasses import dataclass, field
from pathlib import Path

from agent.abi.structs import NonceSecret
from agent.dataplane import bpf, kernel
from agent.dataplane.compiler import ensure_programs
from agent.dataplane.layout import HELD_PROGRAMS, MAPS, PROGRAMS, TAIL_CALLS, Pins, ProgramSpec
from agent.errors import AttachError

__all__ = ["Loaded", "load", "remove_other_versions"]


@dataclass(slots=True)
class Loaded:
    """Open fds of this node's maps and programs; ``close`` leaves the pins in place."""

    pins: Pins
    directory: Path
    """The pins of this version of the programs."""

    cgroup: Path
    compiled: bool
    """Whether the programs had to be compiled; False: the pins of an earlier run were adopted."""

    programs: dict[str, int] = field(default_factory=dict)
    """Those that hang on interfaces or are called by hand, by their pins."""

    maps: dict[str, int] = field(default_factory=dict)

    def close(self) -> None:
        """Closes every fd; safe to call twice."""
        for fd in (*self.programs.values(), *self.maps.values()):
            os.close(fd)
        self.programs.clear()
        self.maps.clear()

    def program(self, pin: str) -> tuple[int, int]:
        """A program's fd, and the kernel's number: filters with another are of another version."""
        return self.programs[pin], bpf.program_id(self.programs[pin])


def _attach(spec: ProgramSpec, program: int, links: Path, cgroup: Path) -> None:
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
    cgroup_fd = os.open(cgroup, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        link = bpf.link_create(program, cgroup_fd, spec.attach_type)
    finally:
        os.close(cgroup_fd)
    try:
        bpf.obj_pin(link, str(pin))
    except AttachError:
        bpf.link_detach(link)
        raise
    finally:
        os.close(link)


def _attach_all(pins: Pins, programs: Path, cgroup: Path) -> None:
    pins.links.mkdir(exist_ok=True)
    for spec in PROGRAMS:
        if spec.attach_type < 0:
            continue
        program = bpf.obj_get(str(programs / spec.pin))
        try:
            _attach(
                spec, program, pins.links, kernel.cgroup2_mount() if spec.everywhere else cgroup
            )
        finally:
            os.close(program)


def remove_other_versions(loaded: Loaded) -> None:
    """The pins of other versions, once no filter of theirs hangs anywhere.

    Not before: with the pin of its map of programs, a guard loses its second half.
    """
    for directory in loaded.pins.root.glob("programs-*"):
        if directory != loaded.directory:
            with contextlib.suppress(FileNotFoundError):
                shutil.rmtree(directory)


def _ensure_secret(fd: int) -> None:
    """Draws the secret of the nonces where there is none: it is as old as the map, and stays in it.

    It is in no log and no answer of the agent; only root can read the map.
    """
    size, nobody = ctypes.sizeof(NonceSecret), bytes(ctypes.sizeof(NonceSecret))
    if bpf.map_lookup(fd, bytes(4), size) in (None, nobody):
        bpf.map_update(fd, bytes(4), os.urandom(size))


def _set_tail_calls(programs: Path) -> None:
    """The second halves of packet programs, before a first half is on any interface."""
    table = bpf.obj_get(str(programs / "guard_programs"))
    try:
        for pin, place in TAIL_CALLS.items():
            program = bpf.obj_get(str(programs / pin))
            try:
                bpf.map_update(table, _u32(place), _u32(program))
            finally:
                os.close(program)
    finally:
        os.close(table)


def _u32(number: int) -> bytes:
    return number.to_bytes(4, sys.byteorder)


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
    loaded = Loaded(pins, programs, cgroup, compiled)
    try:
        for name in HELD_PROGRAMS:
            loaded.programs[name] = bpf.obj_get(str(programs / name))
        for name in MAPS:
            loaded.maps[name] = bpf.obj_get(str(pins.maps / name))
        _ensure_secret(loaded.maps["nonce_secrets"])
        _set_tail_calls(programs)
        _attach_all(pins, programs, cgroup)
    except BaseException:
        loaded.close()
        raise
    return loaded
