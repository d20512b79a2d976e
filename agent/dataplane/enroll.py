# SPDX-License-Identifier: Apache-2.0
"""Enrolling pods: sockets, network settings and rows, in an order that leaves no gap.

::

    enrol     sockets ─ guarded_pods ─ sysctls, rules, guard ─ device_captures ─ enrollments
    change    new sockets ─ as above, the row in one update ─ old sockets
    un-enrol  enrollments ─ device_captures ─ sockets ─ guard, rules, sysctls ─ guarded_pods

Until the last step of enrolment the pod's traffic is as before; from the first of un-enrolment it
is again; between the two there is no moment in which it is not captured. ``guarded_pods`` is the
memory: an agent that finds a pod there without having it under care adopts it, with the capture
ports it had, or finishes what another began to undo. What cannot be adopted yet stays captured:
its connections are refused.
"""

import logging
import os
import time
from collections.abc import Callable, Iterable, Iterator
from collections.abc import Set as AbstractSet
from dataclasses import replace
from ipaddress import IPv6Address
from pathlib import Path
from typing import TypeVar

from agent.abi.structs import GuardedPod
from agent.dataplane import netns, visit
from agent.dataplane.listeners import PortConflictError, close_all, stop_listening
from agent.dataplane.loader import Loaded
from agent.dataplane.netlink import Interface
from agent.dataplane.podmaps import PodMaps, kept_ports, known_flags
from agent.dataplane.pods import EnrolledPod, EnrollmentState
from agent.dataplane.sysctls import SysctlFlag
from agent.dataplane.visit import Guard, Sockets
from agent.dataplane.watch import PodWatch
from agent.errors import MapError, NetlinkError
from mesh.model.address import IpAddress
from mesh.model.workload import WorkloadUid
from mesh.tables import EnrollmentRow

__all__ = ["Enroller"]

Result = TypeVar("Result")

log = logging.getLogger(__name__)


class Enroller:
    """Every pod of this node that should be captured, and how far it has come."""

    def __init__(self, loaded: Loaded, node_netns: int) -> None:
        """``node_netns`` is an fd of the node's network namespace, the caller's to close."""
        self._loaded = loaded
        self._node_netns = node_netns
        self._maps = PodMaps(loaded.maps)
        self._own_netns = netns.own_netns_cookie()
        self._wanted: dict[WorkloadUid, EnrollmentRow] = {}
        self.pods: dict[WorkloadUid, EnrolledPod] = {}
        self.watch = PodWatch()

    # A pod that should be enrolled

    def ensure(
        self, row: EnrollmentRow, gone: AbstractSet[WorkloadUid] = frozenset()
    ) -> EnrolledPod:
        """Enrols the pod, or finds it enrolled; never raises for what is the pod's fault.

        ``gone`` are uids that nobody wants any more: a pod of theirs may be this one, renamed.
        """
        self._wanted[row.key] = row
        have = self.pods.get(row.key) or self._inherit(row, gone)
        if have is not None and have.is_captured and _same_netns(row.netns, have.netns_fd):
            if have.row != row:
                pod = self._follow(have, row)
            else:
                pod = replace(have, detail="") if have.detail else have
        else:
            pod = self._enrol_or_explain(row)
            if have is not None and have.is_captured:
                self._release(have)
        if pod.detail and (have is None or have.detail != pod.detail):
            log.warning("workload %s is %s: %s", row.key, pod.state.value, pod.detail)
        self.pods[row.key] = pod
        self._watch(pod)
        return pod

    def _inherit(self, row: EnrollmentRow, gone: AbstractSet[WorkloadUid]) -> EnrolledPod | None:
        for uid in gone & self.pods.keys():
            pod = self.pods[uid]
            if pod.is_captured and _same_netns(row.netns, pod.netns_fd):
                self._forget(uid)
                return pod
        return None

    def _watch(self, pod: EnrolledPod) -> None:
        if not pod.is_captured:
            self.watch.remove(pod.uid)
            return
        try:
            self.watch.add(pod.uid, pod.netns_fd)
        except (NetlinkError, OSError) as error:
            log.warning("workload %s is looked after only now and then: %s", pod.uid, error)

    def _forget(self, uid: WorkloadUid) -> EnrolledPod | None:
        self._wanted.pop(uid, None)
        self.watch.remove(uid)
        return self.pods.pop(uid, None)

    def _enrol_or_explain(self, row: EnrollmentRow) -> EnrolledPod:
        try:
            fd = netns.open_netns(row.netns)
        except FileNotFoundError as error:
            return EnrolledPod(row, EnrollmentState.NETNS_GONE, str(error))
        except NetlinkError as error:
            return EnrolledPod(row, EnrollmentState.FAILED, str(error))
        cookie, known = 0, None
        try:
            cookie = netns.netns_cookie(fd)
            self._refuse_claimed(row, cookie)
            known = self._maps.guarded().get(cookie)
            return self._enrol(row, fd, cookie, known)
        except Exception as error:  # noqa: BLE001 # one strange pod must not stop the others
            os.close(fd)
            state, detail = _explain(error)
            if known is None:
                return EnrolledPod(row, state, detail)
            detail += " Its connections are refused until then."
            return EnrolledPod(row, state, detail, netns_cookie=cookie)

    def _refuse_claimed(self, row: EnrollmentRow, cookie: int) -> None:
        """A network namespace belongs to one pod; the node's own to none."""
        if cookie == self._own_netns:
            raise NetlinkError(f"{row.netns} is the node's own network, which cannot be captured.")
        for other in self.pods.values():
            if other.is_captured and other.netns_cookie == cookie and other.uid != row.key:
                raise NetlinkError(f"{row.netns} is enrolled already, as {other.uid}.")

    def _enrol(
        self, row: EnrollmentRow, fd: int, cookie: int, known: tuple[int, GuardedPod] | None
    ) -> EnrolledPod:
        """Owns ``fd`` if it returns. Raises after undoing what was new."""
        kept = None if known is None else kept_ports(known[1])
        # Whoever reached the listeners of the agent before us was reset with them.
        self._maps.forget_records(cookie, before_ns=time.monotonic_ns())
        sockets = netns.run_in_netns(fd, lambda: visit.open_sockets(row.addresses, kept))
        slot, flags = 0, sockets.unset
        try:
            if known is not None:
                slot, flags = known[0], flags | known_flags(known[1])
            slot = slot or self._maps.free_slot()
            pod = EnrolledPod(row, EnrollmentState.CAPTURED, "", fd, cookie, slot=slot)
            return self._point_at(pod, sockets, flags)
        except BaseException:
            close_all((*sockets.capture_fds, *sockets.inbound_fds))
            if slot and known is None:
                self._undo_quietly(cookie, slot, flags, fd)
            raise

    def _point_at(self, pod: EnrolledPod, sockets: Sockets, flags: SysctlFlag) -> EnrolledPod:
        """Everything that leads to the sockets, the enrollment row last. Can be repeated."""
        guard = self._guard(pod.slot)
        cookie, number = pod.netns_cookie, pod.workload_id
        plan, ports = sockets.plan, sockets.ports
        self._maps.put_guarded(pod.slot, cookie, number, ports, flags, fail_open=pod.row.fail_open)
        missing, stamped = netns.run_in_netns(
            pod.netns_fd, lambda: visit.apply_network(guard, pod.addresses)
        )
        if missing and pod.capture_listeners:
            log.warning("workload %s had lost a guard of its network; it is back", pod.uid)
        ends = self._on_node(lambda: visit.host_ends(stamped))
        sending = set(_sending_addresses(pod.addresses, ends))
        self._maps.put_addresses(pod.slot, number, sending)
        self._on_node(lambda: visit.seal(guard, ends))
        if len(ends) < len(stamped):
            log.info("workload %s has no seal: its link has no end on the node", pod.uid)
        self._maps.put_device_captures(cookie, plan.devices)
        self._maps.put_enrollment(
            cookie, number, plan.capture4, plan.capture6, ports, fail_open=pod.row.fail_open
        )
        return replace(
            pod,
            plan=plan,
            capture_listeners=sockets.capture_fds,
            capture_addresses=tuple(sockets.capture),
            inbound_listeners=sockets.inbound_fds,
            capture_ports=ports,
        )

    # A pod that is enrolled and changes

    def _follow(self, have: EnrolledPod, row: EnrollmentRow) -> EnrolledPod:
        """The enrolled pod with a changed row; as it was, with a detail, where that fails."""
        try:
            if have.addresses == row.addresses:
                return self._renumber(have, row)
            return self._refresh(have, row, strict=True)
        except Exception as error:  # noqa: BLE001 # one strange pod must not stop the others
            detail = f"A change was not followed: {_explain(error)[1]}"
            return replace(have, row=replace(have.row, key=row.key), detail=detail)

    def _renumber(self, have: EnrolledPod, row: EnrollmentRow) -> EnrolledPod:
        """Another id or identity for the same pod: nothing of its network is touched."""
        cookie, plan, ports = have.netns_cookie, have.plan, have.capture_ports
        flags = self._flags(have)
        number, fail_open = row.workload_id, row.fail_open
        self._maps.renumber_addresses(have.slot, number)
        self._maps.put_guarded(have.slot, cookie, number, ports, flags, fail_open=fail_open)
        self._maps.put_enrollment(
            cookie, number, plan.capture4, plan.capture6, ports, fail_open=fail_open
        )
        return replace(have, row=row, detail="")

    def _refresh(self, have: EnrolledPod, row: EnrollmentRow, *, strict: bool) -> EnrolledPod:
        """Fits listeners, guards and rows to the addresses and interfaces that there are now.

        What is new stands before the row says so, what is old ends after it.
        """
        before = Sockets(
            have.plan, have.capture_ports, have.capture_at(), have.inbound_at(), SysctlFlag(0)
        )
        after = netns.run_in_netns(
            have.netns_fd, lambda: visit.reopen_sockets(before, row.addresses, strict=strict)
        )
        old = {*before.capture_fds, *before.inbound_fds}
        new = {*after.capture_fds, *after.inbound_fds}
        try:
            flags = self._flags(have) | after.unset
            pod = self._point_at(replace(have, row=row, detail=""), after, flags)
        except BaseException:
            close_all(new - old)
            raise
        stop_listening(old - new)
        return pod

    def _flags(self, pod: EnrolledPod) -> SysctlFlag:
        known = self._maps.guarded().get(pod.netns_cookie)
        return known_flags(known[1]) if known else SysctlFlag(0)

    def reconcile(self, *, deep: bool) -> list[EnrolledPod]:
        """Tries again what has failed, follows what has changed; returns which pods are new.

        Visited are pods whose network has told of a change; all of them if ``deep``.
        """
        changed: list[EnrolledPod] = []
        touched = self.watch.changed()
        for uid, have in list(self.pods.items()):
            row = self._wanted[uid]
            is_there = have.is_captured and _same_netns(row.netns, have.netns_fd)
            pod = have if is_there and have.row == row else self.ensure(row)
            if is_there and (deep or uid in touched):
                pod = self._visit_again(pod)
            if pod != have:
                changed.append(pod)
        return changed

    def _visit_again(self, pod: EnrolledPod) -> EnrolledPod:
        """Puts back what somebody took away; follows interfaces that came or went."""
        try:
            found = replace(self._refresh(pod, pod.row, strict=False), detail=pod.detail)
        except Exception as error:  # noqa: BLE001 # one strange pod must not stop the others
            log.warning("looking after workload %s: %s", pod.uid, _explain(error)[1])
            return pod
        if found == pod:
            return pod  # the same object: whoever has it need not look again
        self.pods[pod.uid] = found
        return found

    # A pod that should no longer be enrolled

    def remove(self, uid: WorkloadUid) -> EnrolledPod | None:
        """Un-enrols a pod; None where there is no such pod."""
        have = self._forget(uid)
        if have is None:
            return None
        if have.is_captured:
            self._release(have)
        return EnrolledPod(have.row, EnrollmentState.REMOVED)

    def _release(self, pod: EnrolledPod) -> None:
        flags = self._flags(pod)
        self._maps.remove_enrollment(pod.netns_cookie)
        stop_listening((*pod.capture_listeners, *pod.inbound_listeners))
        self._undo_quietly(pod.netns_cookie, pod.slot, flags, pod.netns_fd)
        os.close(pod.netns_fd)

    def _undo_quietly(self, cookie: int, slot: int, flags: SysctlFlag, fd: int) -> None:
        try:
            self._undo(cookie, slot, flags, fd)
        except (NetlinkError, MapError) as error:
            log.warning("un-enrolling a pod: %s", error)

    def _guard(self, slot: int) -> Guard:
        program = self._loaded.program
        return Guard(program("guard_ingress"), program("guard_egress"), program("seal"), slot)

    def _on_node(self, function: Callable[[], Result]) -> Result:
        return netns.run_in_netns(self._node_netns, function)

    def _undo(self, cookie: int, slot: int, flags: SysctlFlag, fd: int | None) -> None:
        self._maps.remove_enrollment(cookie)
        self._on_node(lambda: visit.unseal(self._guard(slot)))
        if fd is not None:
            netns.run_in_netns(fd, lambda: visit.undo(flags))
        self._maps.remove_guarded(slot, cookie)

    def remove_strangers(self) -> int:
        """Un-enrols what an earlier agent enrolled and nobody wants any more; returns how many."""
        ours = {pod.netns_cookie for pod in self.pods.values() if pod.netns_cookie}
        strangers = {key: value for key, value in self._maps.guarded().items() if key not in ours}
        for cookie in self._maps.enrolled_cookies() - ours:
            self._maps.remove_enrollment(cookie)
        found_count = len(strangers)
        if not strangers:
            return 0
        for fd in netns.all_namespaces():
            found = strangers.pop(cookie := netns.netns_cookie(fd), None)
            if found is not None:
                self._undo_quietly(cookie, found[0], known_flags(found[1]), fd)
        for cookie, (slot, _pod) in strangers.items():  # their namespaces are gone
            self._undo(cookie, slot, SysctlFlag(0), None)
        return found_count

    def close(self) -> None:
        """Closes every fd and leaves every row and setting in place."""
        for pod in self.pods.values():
            if pod.is_captured:
                close_all((*pod.capture_listeners, *pod.inbound_listeners))
                os.close(pod.netns_fd)
        self.pods.clear()
        self.watch.close()


def _explain(error: Exception) -> tuple[EnrollmentState, str]:
    if isinstance(error, PortConflictError):
        return EnrollmentState.PORT_CONFLICT, str(error)
    if isinstance(error, (NetlinkError, MapError, OSError)):
        return EnrollmentState.FAILED, str(error)
    log.error("a pod's network is not understood", exc_info=error)
    return EnrollmentState.FAILED, f"Its network is not understood ({error!r})."


def _sending_addresses(
    own: tuple[IpAddress, ...], ends: Iterable[tuple[int, Interface]]
) -> Iterator[tuple[int, IpAddress]]:
    """What may be sent over each link, by the number of its end on the node.

    The pod's addresses, and link-local ones of IPv6; over a further link also what that has. What
    a pod adds to the interface of its own addresses, which takes CAP_NET_ADMIN, is not its own.
    """
    for index, interface in ends:
        yield from ((index, one) for one in own)
        is_further = not any(one in own for one in interface.addresses)
        for one in interface.addresses:
            if is_further or (isinstance(one, IPv6Address) and one.is_link_local):
                yield index, one


def _same_netns(path: str, fd: int) -> bool:
    try:
        at_path, held = Path(path).stat(), os.fstat(fd)
    except OSError:
        return False
    return (at_path.st_dev, at_path.st_ino) == (held.st_dev, held.st_ino)
