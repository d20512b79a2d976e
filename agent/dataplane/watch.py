# SPDX-License-Identifier: Apache-2.0
"""Which pods' networks have changed: an rtnetlink socket inside each, one descriptor for all.

An interface that comes after enrolment has no guard, so its capture ports could be reached from
outside; an address that goes would let captured connections leave the pod. Both must not wait for
the next round. What the messages say is not read: the visit that follows looks for itself.
"""

import contextlib
import errno
import os
import select
import socket
from typing import Final

from agent.dataplane import netns
from agent.errors import NetlinkError
from mesh.model.workload import WorkloadUid

__all__ = ["PodWatch"]

_LINK, _TC, _V4_ADDRESS, _V4_RULE, _V6_ADDRESS = 0x1, 0x8, 0x10, 0x80, 0x100
_GROUPS: Final = _LINK | _TC | _V4_ADDRESS | _V4_RULE | _V6_ADDRESS
"""RTMGRP_* (linux/rtnetlink.h): the multicast groups that are listened to."""

_MESSAGES_READ: Final = 1000
"""At most, of one pod and round: who makes more has changed something anyway."""


def _open() -> socket.socket:
    kind = socket.SOCK_RAW | socket.SOCK_NONBLOCK
    watcher = socket.socket(socket.AF_NETLINK, kind, socket.NETLINK_ROUTE)
    try:
        watcher.bind((0, _GROUPS))
    except OSError as error:
        watcher.close()
        raise NetlinkError(f"A pod's network cannot be watched: {error}.") from error
    return watcher


class PodWatch:
    """Pods under watch, by uid; a pod whose netns is another one is watched anew."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._watchers: dict[WorkloadUid, tuple[int, socket.socket]] = {}

    def fileno(self) -> int:
        """Readable while some pod has changed."""
        return self._epoll.fileno()

    def add(self, uid: WorkloadUid, netns_fd: int) -> None:
        """Watches the pod; nothing happens where it is watched already."""
        number = os.fstat(netns_fd).st_ino
        have = self._watchers.get(uid)
        if have is not None and have[0] == number:
            return
        self.remove(uid)
        watcher = netns.run_in_netns(netns_fd, _open)
        self._watchers[uid] = number, watcher
        self._epoll.register(watcher, select.EPOLLIN)

    def remove(self, uid: WorkloadUid) -> None:
        """Lets go of the pod's network namespace."""
        have = self._watchers.pop(uid, None)
        if have is not None:
            with contextlib.suppress(OSError):
                self._epoll.unregister(have[1])
            have[1].close()

    def changed(self) -> set[WorkloadUid]:
        """The pods that have changed since the last call."""
        ready = {fd for fd, _ in self._epoll.poll(0)} if self._watchers else set()
        found = set()
        for uid, (_, watcher) in self._watchers.items():
            if watcher.fileno() in ready:
                _drain(watcher)
                found.add(uid)
        return found

    def close(self) -> None:
        """Closes everything."""
        for uid in list(self._watchers):
            self.remove(uid)
        self._epoll.close()


def _drain(watcher: socket.socket) -> None:
    for _ in range(_MESSAGES_READ):
        try:
            watcher.recv(1, socket.MSG_TRUNC)
        except BlockingIOError:
            return
        except OSError as error:
            if error.errno != errno.ENOBUFS:  # messages were lost: that too says "changed"
                raise
