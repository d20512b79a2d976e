# SPDX-License-Identifier: Apache-2.0
"""bpf(2) by ctypes: just what an agent needs that finds its programs pinned.

The layouts of ``union bpf_attr`` are those of include/uapi/linux/bpf.h; a shorter union than the
kernel's is valid. Every function raises MapError or AttachError with the kernel's errno in
``__cause__``.
"""

import ctypes
import errno
import os
import platform
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from agent.errors import AttachError, MapError

__all__ = [
    "LinkInfo",
    "MapInfo",
    "batch_items",
    "link_create",
    "link_detach",
    "link_fd",
    "link_ids",
    "link_info",
    "link_update",
    "map_create",
    "map_delete",
    "map_info",
    "map_lookup",
    "map_update",
    "obj_get",
    "obj_pin",
    "possible_cpus",
    "program_id",
    "program_name",
    "program_test_run",
]

_SYSCALL = {"x86_64": 321, "aarch64": 280, "riscv64": 280, "ppc64le": 361, "s390x": 351}
_libc = ctypes.CDLL(None, use_errno=True)

_MAP_CREATE, _MAP_LOOKUP, _MAP_UPDATE, _MAP_DELETE = 0, 1, 2, 3
_OBJ_PIN, _OBJ_GET, _PROG_TEST_RUN, _OBJ_INFO = 6, 7, 10, 15
_PROG_FD_BY_ID, _MAP_LOOKUP_BATCH = 13, 24
_LINK_CREATE, _LINK_UPDATE, _LINK_FD_BY_ID, _LINK_NEXT_ID, _LINK_DETACH = 28, 29, 30, 31, 34

ANY, NOEXIST, EXIST = 0, 1, 2
"""Flags of map_update()."""

PERCPU_TYPES = frozenset({5, 6, 10})
"""BPF_MAP_TYPE_PERCPU_HASH, PERCPU_ARRAY, LRU_PERCPU_HASH: a value holds one part per CPU."""


@dataclass(frozen=True, slots=True)
class MapInfo:
    """``struct bpf_map_info``, the part that says what a map is."""

    type: int
    id: int
    key_size: int
    value_size: int
    max_entries: int
    flags: int
    name: str

    @property
    def stored_value_size(self) -> int:
        """Bytes that a lookup returns: for per-CPU maps one 8-byte aligned part per CPU."""
        if self.type not in PERCPU_TYPES:
            return self.value_size
        return (self.value_size + 7) // 8 * 8 * possible_cpus()


@dataclass(frozen=True, slots=True)
class LinkInfo:
    """``struct bpf_link_info`` of a cgroup link."""

    type: int
    id: int
    program_id: int
    cgroup_id: int
    attach_type: int


def _bpf(command: int, attributes: "ctypes.Array[ctypes.c_char]") -> int:
    number = _SYSCALL[platform.machine()]
    result = _libc.syscall(
        ctypes.c_long(number), ctypes.c_int(command), attributes, ctypes.c_uint(len(attributes))
    )
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return int(result)


def _attributes(layout: str, *values: int) -> "ctypes.Array[ctypes.c_char]":
    packed = struct.pack("=" + layout, *values)
    return ctypes.create_string_buffer(packed.ljust(128, b"\0"), 128)


def _buffer(content: bytes | int) -> "ctypes.Array[ctypes.c_char]":
    if isinstance(content, int):
        return ctypes.create_string_buffer(content)
    return ctypes.create_string_buffer(content, len(content))


def possible_cpus() -> int:
    """How many parts a value of a per-CPU map has (/sys/devices/system/cpu/possible)."""
    global _possible_cpus  # noqa: PLW0603 # read once; the number cannot change
    if _possible_cpus == 0:
        text = Path("/sys/devices/system/cpu/possible").read_text(encoding="ascii")
        last = text.strip().replace("-", ",").split(",")[-1]
        _possible_cpus = int(last) + 1
    return _possible_cpus


_possible_cpus = 0


def obj_get(path: str) -> int:
    """A new fd of what is pinned at ``path``; the caller closes it."""
    name = _buffer(os.fsencode(path) + b"\0")
    try:
        return _bpf(_OBJ_GET, _attributes("QII", ctypes.addressof(name), 0, 0))
    except OSError as error:
        raise MapError(f"Nothing usable is pinned at {path}: {error.strerror}.") from error


def obj_pin(fd: int, path: str) -> None:
    """Pins a map, program or link at a path in bpffs that does not exist yet."""
    name = _buffer(os.fsencode(path) + b"\0")
    try:
        _bpf(_OBJ_PIN, _attributes("QII", ctypes.addressof(name), fd, 0))
    except OSError as error:
        raise AttachError(f"Cannot pin at {path}: {error.strerror}.") from error


def map_create(
    kind: int, *, key_size: int, value_size: int, max_entries: int, inner: int = 0
) -> int:
    """A map of no name that lives as long as its fd; ``inner`` is the pattern of a map of maps."""
    try:
        attributes = _attributes("6I", kind, key_size, value_size, max_entries, 0, inner)
        return _bpf(_MAP_CREATE, attributes)
    except OSError as error:
        raise MapError(f"Cannot make a BPF map: {error.strerror}.") from error


def map_lookup(fd: int, key: bytes, value_size: int) -> bytes | None:
    """The value under ``key``, or None."""
    raw_key, value = _buffer(key), _buffer(value_size)
    attributes = _attributes("IIQQQ", fd, 0, ctypes.addressof(raw_key), ctypes.addressof(value), 0)
    try:
        _bpf(_MAP_LOOKUP, attributes)
    except OSError as error:
        if error.errno == errno.ENOENT:
            return None
        raise MapError(f"Cannot read a BPF map: {error.strerror}.") from error
    return value.raw


def map_update(fd: int, key: bytes, value: bytes, flags: int = ANY) -> None:
    """Stores ``value``; MapError where the map is full or ``flags`` forbid it."""
    raw_key, raw_value = _buffer(key), _buffer(value)
    attributes = _attributes(
        "IIQQQ", fd, 0, ctypes.addressof(raw_key), ctypes.addressof(raw_value), flags
    )
    try:
        _bpf(_MAP_UPDATE, attributes)
    except OSError as error:
        if error.errno == errno.E2BIG:
            info = map_info(fd)
            raise MapError(f"The map {info.name} is full ({info.max_entries} entries).") from error
        raise MapError(f"Cannot write the map {map_info(fd).name}: {error.strerror}.") from error


def map_delete(fd: int, key: bytes) -> bool:
    """Removes the entry; False where there was none."""
    raw_key = _buffer(key)
    try:
        _bpf(_MAP_DELETE, _attributes("IIQQQ", fd, 0, ctypes.addressof(raw_key), 0, 0))
    except OSError as error:
        if error.errno == errno.ENOENT:
            return False
        raise MapError(f"A BPF map refuses to delete: {error.strerror}.") from error
    return True


def batch_items(fd: int, info: MapInfo, batch: int = 4096) -> Iterator[tuple[bytes, bytes]]:
    """Every entry of a hash map, read in batches: entries may come and go meanwhile."""
    size = info.stored_value_size
    token_in, token_out = _buffer(max(info.key_size, 4)), _buffer(max(info.key_size, 4))
    first, done = True, False
    while not done:
        keys, values = _buffer(info.key_size * batch), _buffer(size * batch)
        attributes = _attributes(
            "QQQQIIQQ",
            0 if first else ctypes.addressof(token_in),
            ctypes.addressof(token_out),
            ctypes.addressof(keys),
            ctypes.addressof(values),
            batch,
            fd,
            0,
            0,
        )
        try:
            _bpf(_MAP_LOOKUP_BATCH, attributes)
        except OSError as error:
            if error.errno == errno.ENOSPC:  # one bucket holds more than a batch
                batch *= 2
                continue
            if error.errno != errno.ENOENT:
                raise MapError(f"Cannot read the map {info.name}: {error.strerror}.") from error
            done = True
        (count,) = struct.unpack_from("=I", attributes, 32)
        first, token_in, token_out = False, token_out, token_in
        raw_keys, raw_values = keys.raw, values.raw
        for index in range(count):
            yield (
                raw_keys[index * info.key_size : (index + 1) * info.key_size],
                raw_values[index * size : (index + 1) * size],
            )


def _info(fd: int, size: int) -> bytes:
    raw = _buffer(size)
    _bpf(_OBJ_INFO, _attributes("IIQ", fd, size, ctypes.addressof(raw)))
    return raw.raw


def map_info(fd: int) -> MapInfo:
    """What a map is; raises MapError where ``fd`` is none."""
    try:
        raw = _info(fd, 40)
    except OSError as error:
        raise MapError(f"Not a BPF map: {error.strerror}.") from error
    kind, number, key_size, value_size, max_entries, flags = struct.unpack_from("=6I", raw)
    return MapInfo(
        kind, number, key_size, value_size, max_entries, flags, raw[24:40].split(b"\0")[0].decode()
    )


def program_id(fd: int) -> int:
    """The kernel's number of a loaded program."""
    return int(struct.unpack_from("=II", _info(fd, 8))[1])


def program_name(number: int) -> str:
    """The name of the program with this number; empty where it is gone."""
    try:
        fd = _bpf(_PROG_FD_BY_ID, _attributes("III", number, 0, 0))
    except OSError:
        return ""
    try:
        return _info(fd, 80)[64:80].split(b"\0")[0].decode()
    finally:
        os.close(fd)


def link_create(program: int, target: int, attach_type: int) -> int:
    """Attaches a program to a cgroup; the link lives as long as an fd or a pin of it."""
    try:
        return _bpf(_LINK_CREATE, _attributes("IIII", program, target, attach_type, 0))
    except OSError as error:
        raise AttachError(f"Cannot attach to the cgroup: {error.strerror}.") from error


def link_update(link: int, program: int) -> None:
    """Puts another program in the place of the link's, without a moment between."""
    try:
        _bpf(_LINK_UPDATE, _attributes("IIII", link, program, 0, 0))
    except OSError as error:
        raise AttachError(f"Cannot replace an attached program: {error.strerror}.") from error


def link_info(fd: int) -> LinkInfo:
    """What a link attaches where."""
    kind, number, program, _pad, cgroup, attach_type = struct.unpack_from("=IIIIQI", _info(fd, 64))
    return LinkInfo(kind, number, program, cgroup, attach_type)


def link_ids() -> Iterator[int]:
    """The number of every link in the kernel."""
    current = 0
    while True:
        attributes = _attributes("III", current, 0, 0)
        try:
            _bpf(_LINK_NEXT_ID, attributes)
        except OSError as error:
            if error.errno == errno.ENOENT:
                return
            raise AttachError(f"Cannot list BPF links: {error.strerror}.") from error
        (current,) = struct.unpack_from("=I", attributes, 4)
        yield current


def link_fd(number: int) -> int | None:
    """An fd of the link with this number; None where it is gone meanwhile."""
    try:
        return _bpf(_LINK_FD_BY_ID, _attributes("III", number, 0, 0))
    except OSError as error:
        if error.errno == errno.ENOENT:
            return None
        raise AttachError(f"Cannot open a BPF link: {error.strerror}.") from error


def link_detach(fd: int) -> None:
    """Detaches at once, whoever else holds the link."""
    try:
        _bpf(_LINK_DETACH, _attributes("I", fd))
    except OSError as error:
        raise AttachError(f"Cannot detach a BPF link: {error.strerror}.") from error


def program_test_run(program: int, data: bytes, repeat: int = 1) -> tuple[int, bytes]:
    """Runs a packet program on ``data``: its return value and the packet afterwards."""
    raw_in, raw_out = _buffer(data), _buffer(len(data) + 256)
    attributes = _attributes(
        "IIIIQQII",
        program,
        0,
        len(data),
        len(raw_out),
        ctypes.addressof(raw_in),
        ctypes.addressof(raw_out),
        repeat,
        0,
    )
    try:
        _bpf(_PROG_TEST_RUN, attributes)
    except OSError as error:
        raise AttachError(f"Cannot run a BPF program: {error.strerror}.") from error
    _program, result, _size_in, size_out = struct.unpack_from("=IIII", attributes)
    return result, raw_out.raw[:size_out]
