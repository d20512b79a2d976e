# SPDX-License-Identifier: Apache-2.0
"""Between Python values and the bytes of the kernel's structs."""

import ctypes
import socket
from ipaddress import IPv4Address, IPv6Address
from typing import TypeVar

from agent.abi.structs import Address

__all__ = [
    "UNSPECIFIED",
    "address_bytes",
    "decode",
    "decode_address",
    "decode_port",
    "encode",
    "encode_address",
    "encode_port",
]

_V4_PREFIX = bytes(10) + b"\xff\xff"
_Mirror = TypeVar("_Mirror", bound=ctypes.Structure)

UNSPECIFIED = bytes(16)
"""Sixteen zero bytes: no address."""


def encode_address(address: IPv4Address | IPv6Address | None) -> "ctypes.Array[ctypes.c_uint8]":
    """``struct address``; None is all zero."""
    return Address() if address is None else Address.from_buffer_copy(address_bytes(address))


def address_bytes(address: IPv4Address | IPv6Address) -> bytes:
    """The bytes of a ``struct address``, which has no member but them."""
    packed = address.packed
    return packed if len(packed) == 16 else _V4_PREFIX + packed


def decode_address(
    field: "ctypes.Array[ctypes.c_uint8] | bytes",
) -> IPv4Address | IPv6Address | None:
    """The address in a ``struct address``; None where it is all zero."""
    raw = bytes(field)
    if raw == UNSPECIFIED:
        return None
    return IPv4Address(raw[12:]) if raw.startswith(_V4_PREFIX) else IPv6Address(raw)


def encode_port(port: int) -> int:
    """Host to network order, for a ``__be16`` member."""
    return socket.htons(port)


def decode_port(field: int) -> int:
    """Network to host order, from a ``__be16`` member."""
    return socket.ntohs(field)


def encode(mirror: ctypes.Structure) -> bytes:
    """The bytes of a mirror."""
    return bytes(mirror)


def decode(kind: type[_Mirror], raw: bytes) -> _Mirror:
    """A mirror from the bytes of the kernel; ValueError where they are too few."""
    return kind.from_buffer_copy(raw)
