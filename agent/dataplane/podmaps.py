# SPDX-License-Identifier: Apache-2.0
"""The maps that know single pods: enrollments, device_captures, guarded_pods, and their nonces."""

import ctypes
import sys
from collections.abc import Mapping
from collections.abc import Set as AbstractSet

from agent.abi import structs
from agent.abi.codec import decode_port, encode_address, encode_port
from agent.dataplane import bpf
from agent.dataplane.sysctls import SysctlFlag
from agent.errors import NetlinkError
from mesh.model.address import IpAddress

__all__ = ["PodMaps", "kept_ports", "known_flags"]

_MAX_SLOT = 0x7FFF


def _u64(number: int) -> bytes:
    return number.to_bytes(8, sys.byteorder)


def _u32(number: int) -> bytes:
    return number.to_bytes(4, sys.byteorder)


def _number(key: bytes) -> int:
    return int.from_bytes(key, sys.byteorder)


def _ports(ports: tuple[int, ...]) -> "ctypes.Array[ctypes.c_uint16]":
    return structs.CapturePorts(*(encode_port(port) for port in ports))


class PodMaps:
    """Typed access; every method can be repeated."""

    def __init__(self, maps: Mapping[str, int]) -> None:
        self._maps = maps

    def guarded(self) -> dict[int, tuple[int, structs.GuardedPod]]:
        """Netns cookie -> (slot, what is kept about the pod), of every pod ever begun."""
        found: dict[int, tuple[int, structs.GuardedPod]] = {}
        fd = self._maps["guarded_pods"]
        for key, value in bpf.batch_items(fd, bpf.map_info(fd)):
            pod = structs.GuardedPod.from_buffer_copy(value)
            found[pod.netns_cookie] = (_number(key), pod)
        return found

    def enrolled_cookies(self) -> set[int]:
        """The netns cookie of every captured pod."""
        fd = self._maps["enrollments"]
        return {_number(key) for key, _ in bpf.batch_items(fd, bpf.map_info(fd))}

    def free_slot(self) -> int:
        """The lowest slot that no pod has."""
        taken = {slot for slot, _ in self.guarded().values()}
        for slot in range(1, _MAX_SLOT + 1):
            if slot not in taken:
                return slot
        raise NetlinkError("There are more pods on this node than the guard can tell apart.")

    def put_guarded(
        self,
        slot: int,
        cookie: int,
        workload_id: int,
        ports: tuple[int, ...],
        flags: SysctlFlag,
        *,
        fail_open: bool,
    ) -> None:
        """Keeps what un-enrolment and the guard need."""
        notes = int(flags) | (structs.GUARDED_FAIL_OPEN if fail_open else 0)
        value = structs.GuardedPod(cookie, workload_id, notes, _ports(ports))
        bpf.map_update(self._maps["guarded_pods"], _u32(slot), bytes(value))

    def put_addresses(
        self, slot: int, workload_id: int, addresses: AbstractSet[tuple[int, IpAddress]]
    ) -> None:
        """The addresses that the pod may send from, each with its link's end on the node."""
        fd = self._maps["pod_addresses"]
        want = {
            bytes(structs.PodAddressKey(encode_address(one), slot, index))
            for index, one in addresses
        }
        for key in want:
            bpf.map_update(fd, key, _u32(workload_id))
        for key in self._address_keys(slot):
            if key not in want:
                bpf.map_delete(fd, key)

    def renumber_addresses(self, slot: int, workload_id: int) -> None:
        """The same addresses of a pod that has another number now."""
        for key in self._address_keys(slot):
            bpf.map_update(self._maps["pod_addresses"], key, _u32(workload_id))

    def _address_keys(self, slot: int) -> list[bytes]:
        fd = self._maps["pod_addresses"]
        keys = [key for key, _ in bpf.batch_items(fd, bpf.map_info(fd))]
        return [key for key in keys if structs.PodAddressKey.from_buffer_copy(key).slot == slot]

    def put_device_captures(
        self, cookie: int, captures: Mapping[tuple[int, int], IpAddress]
    ) -> None:
        """(ifindex, family) -> the capture address of sockets that are bound to the device."""
        fd = self._maps["device_captures"]
        want = {
            bytes(structs.DeviceCaptureKey(cookie, index, family)): bytes(encode_address(address))
            for (index, family), address in captures.items()
        }
        for key, value in want.items():
            bpf.map_update(fd, key, value)
        for key in self._device_keys(cookie):
            if key not in want:
                bpf.map_delete(fd, key)

    def _device_keys(self, cookie: int) -> list[bytes]:
        fd = self._maps["device_captures"]
        keys = [key for key, _ in bpf.batch_items(fd, bpf.map_info(fd))]
        return [key for key in keys if key.startswith(_u64(cookie))]

    def put_enrollment(
        self,
        cookie: int,
        workload_id: int,
        capture4: IpAddress | None,
        capture6: IpAddress | None,
        ports: tuple[int, ...],
        *,
        fail_open: bool,
    ) -> None:
        """From here on the pod's connections are captured."""
        flags = structs.ENROLLMENT_FAIL_OPEN if fail_open else 0
        value = structs.Enrollment(
            workload_id, flags, encode_address(capture4), encode_address(capture6), _ports(ports)
        )
        bpf.map_update(self._maps["enrollments"], _u64(cookie), bytes(value))

    def remove_enrollment(self, cookie: int) -> None:
        """From here on its new connections are its own affair."""
        bpf.map_delete(self._maps["enrollments"], _u64(cookie))
        for key in self._device_keys(cookie):
            bpf.map_delete(self._maps["device_captures"], key)

    def forget_records(self, cookie: int, *, before_ns: int | None) -> None:
        """Forgets what nobody will come for: records made before then (CLOCK_MONOTONIC), or all.

        One that stays poisons the next connection that gets its source port.
        """
        records = self._maps["flow_records"]
        for key, value in bpf.batch_items(records, bpf.map_info(records)):
            if key.startswith(_u64(cookie)):
                made = structs.FlowRecord.from_buffer_copy(value).created_ns
                if before_ns is None or made < before_ns:
                    bpf.map_delete(records, key)

    def remove_guarded(self, slot: int, cookie: int) -> None:
        """Forgets the pod, with the records that nobody came for: the last act of un-enrolment."""
        self.forget_records(cookie, before_ns=None)
        peerings = self._maps["peerings"]
        for key, _ in bpf.batch_items(peerings, bpf.map_info(peerings)):
            if key.startswith(_u64(cookie)):
                bpf.map_delete(peerings, key)
        for name in ("nonce_quotas", "nonces_aged", "peering_quotas", "peerings_aged"):
            bpf.map_delete(self._maps[name], _u64(cookie))
        self.put_addresses(slot, 0, set())
        bpf.map_delete(self._maps["guarded_pods"], _u32(slot))


def kept_ports(pod: structs.GuardedPod) -> tuple[int, ...]:
    """The capture ports that the pod has had."""
    return tuple(decode_port(port) for port in pod.capture_ports)


def known_flags(pod: structs.GuardedPod) -> SysctlFlag:
    """Which sysctls of the pod were 0 before us."""
    return SysctlFlag(pod.flags & ~structs.GUARDED_FAIL_OPEN)
