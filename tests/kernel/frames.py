# SPDX-License-Identifier: Apache-2.0
"""Frames of one's own making, and the ways by which a process can put them on the wire."""

import contextlib
import ctypes
import errno
import mmap
import os
import socket
import struct
from ipaddress import ip_address

from tests.kernel.pods import Pod

IPV4, ARP, VLAN, IPV6 = 0x0800, 0x0806, 0x8100, 0x86DD
TCP, UDP, ICMP, ICMPV6, GRE, SCTP = 6, 17, 1, 58, 47, 132
SYN, ACK, RST = 0x02, 0x10, 0x04
MORE = 0x2000
"""The bit of an IPv4 header that says that more fragments follow."""

_libc = ctypes.CDLL(None, use_errno=True)


def checksum(data: bytes) -> int:
    """RFC 1071."""
    data += b"\0" * (len(data) % 2)
    total = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def _sealed(source: str, target: str, protocol: int, packet: bytes, at: int) -> bytes:
    """With the checksum, which stands ``at`` that place, over the pseudo header too."""
    ends = ip_address(source).packed + ip_address(target).packed
    pseudo = ends + struct.pack(">II", len(packet), protocol)
    total = checksum(pseudo + packet)
    return packet[:at] + struct.pack(">H", total) + packet[at + 2 :]


def ethernet(source: str, target: str, kind: int, packet: bytes) -> bytes:
    """Addresses in their usual spelling."""
    macs = b"".join(bytes.fromhex(mac.replace(":", "")) for mac in (target, source))
    return macs + struct.pack(">H", kind) + packet


def tagged(kind: int, packet: bytes, identifier: int = 0) -> bytes:
    """What follows a VLAN ethertype: the tag, then the packet."""
    return struct.pack(">HH", identifier, kind) + packet


def ipv4(
    source: str,
    target: str,
    protocol: int,
    payload: bytes,
    *,
    options: bytes = b"",
    place: int = 0,
    number: int = 1,
) -> bytes:
    """``place`` holds the fragment's flags and offset."""
    options += b"\0" * (-len(options) % 4)
    size = 20 + len(options)
    ends = socket.inet_aton(source) + socket.inet_aton(target)
    header = struct.pack(
        ">BBHHHBBH", 0x40 | size // 4, 0, size + len(payload), number, place, 64, protocol, 0
    )
    header += ends + options
    return header[:10] + struct.pack(">H", checksum(header)) + header[12:] + payload


def ipv6(source: str, target: str, protocol: int, payload: bytes, hops: int = 64) -> bytes:
    """``payload`` begins with the header that ``protocol`` names."""
    ends = ip_address(source).packed + ip_address(target).packed
    return struct.pack(">IHBB", 0x60000000, len(payload), protocol, hops) + ends + payload


def udp(source: tuple[str, int], target: tuple[str, int], payload: bytes) -> bytes:
    """A datagram of either family."""
    packet = struct.pack(">HHHH", source[1], target[1], 8 + len(payload), 0) + payload
    return _sealed(source[0], target[0], UDP, packet, 6)


def tcp(
    source: tuple[str, int],
    target: tuple[str, int],
    flags: int,
    payload: bytes = b"",
    *,
    options: bytes = b"",
    sequence: int = 1,
    acknowledged: int = 0,
) -> bytes:
    """A segment of either family."""
    options += b"\0" * (-len(options) % 4)
    length = (20 + len(options)) // 4 << 4
    packet = struct.pack(
        ">HHIIBBHHH", source[1], target[1], sequence, acknowledged, length, flags, 1000, 0, 0
    )
    return _sealed(source[0], target[0], TCP, packet + options + payload, 16)


def icmp(kind: int, code: int, body: bytes) -> bytes:
    """``body`` follows type, code and checksum."""
    packet = struct.pack(">BBH", kind, code, 0) + body
    return packet[:2] + struct.pack(">H", checksum(packet)) + packet[4:]


def icmpv6(source: str, target: str, kind: int, body: bytes) -> bytes:
    """``body`` follows type, code (0) and checksum."""
    return _sealed(source, target, ICMPV6, struct.pack(">BBH", kind, 0, 0) + body, 2)


def arp(operation: int, mac: str, sender: str, target_mac: str, target: str) -> bytes:
    """RFC 826, of Ethernet and IPv4."""
    first, second = (bytes.fromhex(one.replace(":", "")) for one in (mac, target_mac))
    return (
        struct.pack(">HHBBH", 1, IPV4, 6, 4, operation)
        + first
        + socket.inet_aton(sender)
        + second
        + socket.inet_aton(target)
    )


def send(*frames: bytes, protocol: int = IPV4, mark: int = 0, bypass: bool = False) -> None:
    """By AF_PACKET; ``protocol`` is what the sender says that it is. Runs in the pod."""
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as raw:
        raw.bind(("eth0", protocol))
        if mark:
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, mark)
        if bypass:
            raw.setsockopt(263, 20, 1)  # SOL_PACKET, PACKET_QDISC_BYPASS
        for frame in frames:
            with contextlib.suppress(OSError):  # a guard that refuses says ENOBUFS
                raw.send(frame)


def send_with_32_bit_bypass(frame: bytes) -> bool:
    """PACKET_QDISC_BYPASS by ``int 0x80``; False where the kernel has no 32-bit system calls."""
    code = mmap.mmap(-1, 4096, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x40, prot=7)
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as raw:
        raw.bind(("eth0", IPV4))
        start = ctypes.addressof(ctypes.c_char.from_buffer(code))
        code[2048:2052] = struct.pack("<I", 1)
        numbers = (raw.fileno(), 263, 20, start + 2048, 4)
        loads = (b"\xbb", b"\xb9", b"\xba", b"\xbe", b"\xbf")  # ebx, ecx, edx, esi, edi
        body = b"\x53" + b"\xb8" + struct.pack("<I", 366)  # push rbx; setsockopt of i386
        for load, number in zip(loads, numbers, strict=True):
            body += load + struct.pack("<I", number)
        body += b"\xcd\x80\x5b\xc3"  # int 0x80; pop rbx; ret
        code[: len(body)] = body
        if ctypes.CFUNCTYPE(ctypes.c_int)(start)() != 0:
            return False
        assert raw.getsockopt(263, 20) == 1
        raw.send(frame)
    return True


def send_by_xdp(frame: bytes) -> str:
    """By a send-only AF_XDP socket; "sent", or what the kernel lacks."""
    fd = _libc.socket(44, socket.SOCK_RAW, 0)
    if fd < 0:
        return errno.errorcode[ctypes.get_errno()]
    memory = mmap.mmap(-1, 64 * 4096)
    start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    region = struct.pack("QQIIII", start, 64 * 4096, 4096, 0, 0, 0)
    options = [(4, region), *((which, struct.pack("i", 64)) for which in (5, 6, 3))]
    for which, value in options:  # XDP_UMEM_REG, and the sizes of the rings
        if _libc.setsockopt(fd, 283, which, value, len(value)):
            return errno.errorcode[ctypes.get_errno()]
    offsets, size = ctypes.create_string_buffer(128), ctypes.c_uint32(128)
    assert _libc.getsockopt(fd, 283, 1, offsets, ctypes.byref(size)) == 0
    producer, _, descriptors, _ = struct.unpack("16Q", offsets.raw)[4:8]
    ring = mmap.mmap(fd, descriptors + 64 * 16, offset=0x80000000)
    address = struct.pack("HHIII", 44, 2, socket.if_nametoindex("eth0"), 0, 0)
    if _libc.bind(fd, address, 16):
        return errno.errorcode[ctypes.get_errno()]
    memory[: len(frame)] = frame
    ring[descriptors : descriptors + 16] = struct.pack("QII", 0, len(frame), 0)
    ring[producer : producer + 4] = struct.pack("I", 1)
    assert _libc.sendto(fd, None, 0, socket.MSG_DONTWAIT, None, 0) >= 0
    os.close(fd)
    return "sent"


class Tap:
    """Everything that reaches a pod's link, before its guard."""

    def __init__(self, pod: Pod) -> None:
        def make() -> socket.socket:
            tap = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
            tap.bind(("eth0", 3))
            return tap

        self.socket = pod.inside(make)

    def saw(self, tag: bytes, timeout: float = 0.2) -> bool:
        """Has a frame come with these bytes in it?"""
        self.socket.settimeout(timeout)
        try:
            while True:
                if tag in self.socket.recv(9000):
                    return True
        except TimeoutError:
            return False

    def close(self) -> None:
        self.socket.close()
