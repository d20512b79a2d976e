# SPDX-License-Identifier: Apache-2.0
"""Enrolling pods: sockets, network settings and rows, in an order that leaves no gap.

::

    enrol     sockets ─ guarded_pods ─ sysctls, rules, guard ─ device_captures ─ enrollments
    un-enrol  enrollments ─ device_captures ─ sockets ─ guard, rules, sysctls ─ guarded_pods

Until the last step of enrolment the pod's traffic is as before; from the first of un-enrolment it
is again. ``guarded_pods`` is the memory: an agent that finds a pod there without having it under
care adopts it, with the capture ports it had, or finishes what another began to undo.
"""

import logging
import os
from dataclasses import replace
from pathlib import Path

from agent.dataplane import netns, visit
from agent.dataplane.listeners import PortConflictError, close_all, stop_listening
from agent.dataplane.loader import Loaded
from agent.dataplane.netlink import list_interfaces
from agent.dataplane.podmaps import PodMaps, kept_ports
from agent.dataplane.pods import EnrolledPod, EnrollmentState
from agent.dataplane.sysctls import SysctlFlag
from agent.errors import MapError, NetlinkError
from mesh.model.workload import WorkloadUid
from mesh.tables import EnrollmentRow

__all__ = ["Enroller"]

log = logging.getLogger(__name__)


class Enroller:
    """Every pod of this node that should be captured, and how far it has come."""

    def __init__(self, loaded: Loaded) -> None:
        self._loaded = loaded
        self._maps = PodMaps(loaded.maps)
        self.pods: dict[WorkloadUid, EnrolledPod] = {}

    def ensure(self, row: EnrollmentRow) -> EnrolledPod:
        """Enrols the pod, or finds it enrolled; never raises for what is the pod's fault."""
        have = self.pods.get(row.key)
        if have is not None and have.is_captured:
            if have.row == row and _same_netns(row.netns, have.netns_fd):
                return have
            if _same_sockets(have.row, row) and _same_netns(row.netns, have.netns_fd):
                return self._renumber(have, row)
            self._release(have)
        pod = self._try_enrol(row)
        if not pod.is_captured and (have is None or have.detail != pod.detail):
            log.warning("workload %s is not captured: %s", row.key, pod.detail)
        self.pods[row.key] = pod
        return pod

    def _try_enrol(self, row: EnrollmentRow) -> EnrolledPod:
        try:
            return self._enrol(row)
        except FileNotFoundError as error:
            return EnrolledPod(row, EnrollmentState.NETNS_GONE, str(error))
        except PortConflictError as error:
            return EnrolledPod(row, EnrollmentState.PORT_CONFLICT, str(error))
        except (NetlinkError, MapError, OSError) as error:
            return EnrolledPod(row, EnrollmentState.FAILED, str(error))

    def _enrol(self, row: EnrollmentRow) -> EnrolledPod:
        fd = netns.open_netns(row.netns)
        sockets: visit.Sockets | None = None
        slot, flags = 0, SysctlFlag(0)
        try:
            cookie = netns.netns_cookie(fd)
            known = self._maps.guarded().get(cookie)
            kept = None
            if known is not None:
                slot, flags, kept = known[0], SysctlFlag(known[1].flags), kept_ports(known[1])
            sockets = netns.run_in_netns(fd, lambda: visit.open_sockets(row.addresses, kept))
            flags |= sockets.unset
            slot = slot or self._maps.free_slot()
            self._maps.put_guarded(slot, cookie, row.workload_id, sockets.ports, flags)
            guard_fd, guard_id = self._loaded.guard_fd, self._loaded.guard_id
            netns.run_in_netns(fd, lambda: visit.apply_network(guard_fd, guard_id, slot))
            plan = sockets.plan
            self._maps.put_device_captures(cookie, plan.devices)
            self._maps.put_enrollment(
                cookie, row.workload_id, plan.capture4, plan.capture6, sockets.ports
            )
        except BaseException:
            self._abandon(fd, sockets, slot, flags)
            raise
        return EnrolledPod(
            row=row,
            state=EnrollmentState.CAPTURED,
            netns_fd=fd,
            netns_cookie=cookie,
            capture_listeners=sockets.capture,
            capture_addresses=tuple(sockets.plan.addresses),
            inbound_listeners=sockets.inbound,
            capture_ports=sockets.ports,
            slot=slot,
        )

    def _abandon(
        self, fd: int, sockets: visit.Sockets | None, slot: int, flags: SysctlFlag
    ) -> None:
        """A failed enrolment leaves the pod as it would be without us."""
        try:
            if slot:
                cookie = netns.netns_cookie(fd)
                self._undo(cookie, slot, flags, fd)
        except (NetlinkError, MapError) as error:
            log.warning("undoing a failed enrolment: %s", error)
        finally:
            if sockets is not None:
                close_all((*sockets.capture, *sockets.inbound))
            os.close(fd)

    def _renumber(self, have: EnrolledPod, row: EnrollmentRow) -> EnrolledPod:
        """Another id or identity for the same pod: its sockets stay."""
        plan = visit.plan_capture(row.addresses, netns.run_in_netns(have.netns_fd, list_interfaces))
        known = self._maps.guarded().get(have.netns_cookie)
        flags = SysctlFlag(known[1].flags) if known else SysctlFlag(0)
        cookie, ports = have.netns_cookie, have.capture_ports
        self._maps.put_guarded(have.slot, cookie, row.workload_id, ports, flags)
        self._maps.put_enrollment(cookie, row.workload_id, plan.capture4, plan.capture6, ports)
        pod = replace(have, row=row)
        self.pods[row.key] = pod
        return pod

    def remove(self, uid: WorkloadUid) -> EnrolledPod | None:
        """Un-enrols a pod; None where there is no such pod."""
        have = self.pods.pop(uid, None)
        if have is None:
            return None
        if have.is_captured:
            self._release(have)
        return EnrolledPod(have.row, EnrollmentState.REMOVED)

    def _release(self, pod: EnrolledPod) -> None:
        known = self._maps.guarded().get(pod.netns_cookie)
        flags = SysctlFlag(known[1].flags) if known else SysctlFlag(0)
        self._maps.remove_enrollment(pod.netns_cookie)
        stop_listening((*pod.capture_listeners, *pod.inbound_listeners))
        try:
            self._undo(pod.netns_cookie, pod.slot, flags, pod.netns_fd)
        except NetlinkError as error:
            log.warning("un-enrolling %s: %s", pod.uid, error)
        finally:
            os.close(pod.netns_fd)

    def _undo(self, cookie: int, slot: int, flags: SysctlFlag, fd: int | None) -> None:
        self._maps.remove_enrollment(cookie)
        if fd is not None:
            netns.run_in_netns(fd, lambda: visit.undo(flags))
        self._maps.remove_guarded(slot, cookie)

    def remove_strangers(self) -> int:
        """Un-enrols what an earlier agent enrolled and nobody wants any more; returns how many."""
        ours = {pod.netns_cookie for pod in self.pods.values() if pod.is_captured}
        strangers = {key: value for key, value in self._maps.guarded().items() if key not in ours}
        for cookie in self._maps.enrolled_cookies() - ours:
            self._maps.remove_enrollment(cookie)
        found_count = len(strangers)
        if not strangers:
            return 0
        for fd in netns.all_namespaces():
            found = strangers.pop(cookie := netns.netns_cookie(fd), None)
            if found is not None:
                self._undo(cookie, found[0], SysctlFlag(found[1].flags), fd)
        for cookie, (slot, _pod) in strangers.items():  # their namespaces are gone
            self._undo(cookie, slot, SysctlFlag(0), None)
        return found_count

    def reconcile(self, *, deep: bool) -> list[EnrolledPod]:
        """Tries again what has failed, notices a namespace that is gone; returns what changed.

        ``deep`` also visits every pod and puts back a guard that somebody took away.
        """
        changed: list[EnrolledPod] = []
        for have in list(self.pods.values()):
            if have.is_captured and _same_netns(have.row.netns, have.netns_fd):
                pod = self._visit_again(have) if deep else have
            else:
                pod = self.ensure(have.row)
            if pod != have:
                changed.append(pod)
        return changed

    def _visit_again(self, pod: EnrolledPod) -> EnrolledPod:
        """Puts back what somebody took away; listens on the addresses of new interfaces too."""
        guard_fd, guard_id, slot = self._loaded.guard_fd, self._loaded.guard_id, pod.slot
        own, ports, known = pod.addresses, pod.capture_ports, pod.capture_addresses
        try:
            netns.run_in_netns(pod.netns_fd, lambda: visit.apply_network(guard_fd, guard_id, slot))
            plan, added = netns.run_in_netns(
                pod.netns_fd, lambda: visit.open_more_sockets(own, ports, known)
            )
        except NetlinkError as error:
            log.warning("looking after workload %s: %s", pod.uid, error)
            return pod
        self._maps.put_device_captures(pod.netns_cookie, plan.devices)
        if not added:
            return pod
        changed = replace(
            pod,
            capture_listeners=(*pod.capture_listeners, *added),
            capture_addresses=(*known, *(one for one in plan.addresses if one not in known)),
        )
        self.pods[pod.uid] = changed
        return changed

    def close(self) -> None:
        """Closes every fd and leaves every row and setting in place."""
        for pod in self.pods.values():
            if pod.is_captured:
                close_all((*pod.capture_listeners, *pod.inbound_listeners))
                os.close(pod.netns_fd)
        self.pods.clear()


def _same_netns(path: str, fd: int) -> bool:
    try:
        at_path, held = Path(path).stat(), os.fstat(fd)
    except OSError:
        return False
    return (at_path.st_dev, at_path.st_ino) == (held.st_dev, held.st_ino)


def _same_sockets(one: EnrollmentRow, other: EnrollmentRow) -> bool:
    return (one.netns, one.addresses) == (other.netns, other.addresses)
