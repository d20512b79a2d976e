# SPDX-License-Identifier: Apache-2.0
"""Removes everything that an agent of this node has left in the kernel, and nothing else.

For ``nodemesh cleanup``, with no agent running: pods first (while the maps still say what was
changed in them), then the attachments, connect hooks before what answers for them, then the pins.
"""

import contextlib
import logging
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from agent.dataplane import bpf, filters, netns, visit
from agent.dataplane.compiler import check_maps
from agent.dataplane.layout import BPFFS, PROGRAMS, Pins
from agent.dataplane.podmaps import PodMaps, known_flags
from agent.errors import AbiMismatchError, DataplaneError, MapError

__all__ = ["Cleaned", "cleanup"]

log = logging.getLogger(__name__)

_CGROUP_LINK = 3
"""BPF_LINK_TYPE_CGROUP."""

_POD_MAPS = (
    "guarded_pods",
    "pod_addresses",
    "enrollments",
    "device_captures",
    "flow_records",
    "peerings",
    "nonce_quotas",
    "nonces_aged",
    "peering_quotas",
    "peerings_aged",
)


@dataclass(frozen=True, slots=True)
class Cleaned:
    """What was there to remove."""

    pods: int
    links: int
    pins: bool


def _open_maps(pins: Pins) -> dict[str, int]:
    return {name: bpf.obj_get(str(pins.maps / name)) for name in _POD_MAPS}


def _clean_pods(pins: Pins) -> int:
    """Undoes every enrolment that the maps know of."""
    try:
        check_maps(pins.maps)
        fds = _open_maps(pins)
    except (AbiMismatchError, MapError) as error:
        log.warning("the pods are left as they are: %s", error)
        return 0
    try:
        maps = PodMaps(fds)
        pods = maps.guarded()
        for cookie in maps.enrolled_cookies():
            maps.remove_enrollment(cookie)
        waiting, seals = dict(pods), _seals(pins)
        for fd in netns.all_namespaces() if waiting else ():
            found = waiting.pop(netns.netns_cookie(fd), None)
            if found is not None:
                flags = known_flags(found[1])
                _quietly(fd, partial(visit.undo, flags))
            else:
                _quietly(fd, partial(filters.remove_filters, program_ids=seals))
        return len(pods)
    finally:
        for fd in fds.values():
            os.close(fd)


def _seals(pins: Pins) -> set[int]:
    """The seal's number in every version: it hangs in the node's network and not in the pods'."""
    found: set[int] = set()
    for pin in pins.root.glob("programs-*/seal"):
        fd = bpf.obj_get(str(pin))
        try:
            found.add(bpf.program_id(fd))
        finally:
            os.close(fd)
    return found


def _quietly(fd: int, function: Callable[[], None]) -> None:
    try:
        netns.run_in_netns(fd, function)
    except DataplaneError as error:
        log.warning("cleaning up in a network namespace: %s", error)


def _remove_links(directory: Path) -> int:
    """Detaches what is pinned, and our programs on the same cgroups whose pin was lost."""
    cgroups: set[int] = set()
    removed = 0
    order = {spec.pin: number for number, spec in enumerate(PROGRAMS)}
    shared = {spec.pin for spec in PROGRAMS if spec.everywhere}  # with other nodes of a lab
    pins = sorted(directory.glob("*"), key=lambda pin: -order.get(pin.name, -1))
    for pin in pins:
        with contextlib.suppress(MapError):
            fd = bpf.obj_get(str(pin))
            try:
                if pin.name not in shared:
                    cgroups.add(bpf.link_info(fd).cgroup_id)
                bpf.link_detach(fd)
                removed += 1
            finally:
                os.close(fd)
        pin.unlink()
    return removed + _remove_orphans(cgroups - {0})


def _remove_orphans(cgroups: set[int]) -> int:
    ours = {spec.function[:15] for spec in PROGRAMS}
    removed = 0
    for number in list(bpf.link_ids()):
        fd = bpf.link_fd(number)
        if fd is None:
            continue
        try:
            info = bpf.link_info(fd)
            if info.type != _CGROUP_LINK or info.cgroup_id not in cgroups:
                continue
            if bpf.program_name(info.program_id) in ours:
                bpf.link_detach(fd)
                removed += 1
        finally:
            os.close(fd)
    return removed


def cleanup(node: str, *, bpffs: Path = BPFFS) -> Cleaned:
    """Leaves nothing of this node's dataplane behind; safe to repeat, or with nothing there."""
    pins = Pins(node, bpffs)
    if not pins.node_root.exists():
        return Cleaned(0, 0, pins=False)
    pods = _clean_pods(pins) if pins.maps.exists() else 0
    links = _remove_links(pins.links) if pins.links.exists() else 0
    shutil.rmtree(pins.node_root)
    with contextlib.suppress(OSError):
        pins.node_root.parent.rmdir()  # where this was the last node
    return Cleaned(pods, links, pins=True)
