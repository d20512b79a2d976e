# SPDX-License-Identifier: Apache-2.0
"""Reads a BPF ring buffer through its memory map (Documentation/bpf/ringbuf.rst).

A page for the consumer's position, which we write; a page for the producer's; then the data. The
kernel offers the data twice in a row, so that a record that wraps is whole. We map it once and join
such a record: what is mapped counts as ours in full, whether or not it was ever read.
"""

import ctypes
import mmap
import struct

__all__ = ["RingReader"]

_BUSY = 1 << 31
_DISCARDED = 1 << 30
_HEADER_BYTES = 8
_PAGE = mmap.PAGESIZE


class RingReader:
    """The only consumer of one ring buffer. Readable by epoll while records wait."""

    def __init__(self, fd: int, size: int) -> None:
        self.fd = fd
        self._size = size
        self._consumer = mmap.mmap(fd, _PAGE, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
        self._produced = mmap.mmap(fd, _PAGE + size, mmap.MAP_SHARED, mmap.PROT_READ, offset=_PAGE)
        # One 8-byte store: the kernel reads the position while we write it.
        self._position: ctypes.c_ulong | None = ctypes.c_ulong.from_buffer(self._consumer)

    def read(self, limit: int = 4096) -> list[bytes]:
        """At most ``limit`` records that are complete, oldest first."""
        records: list[bytes] = []
        if self._position is None:
            return records
        position = self._position.value
        (end,) = struct.unpack_from("@L", self._produced)
        while position < end and len(records) < limit:
            at = _PAGE + position % self._size
            (length,) = struct.unpack_from("@I", self._produced, at)
            if length & _BUSY:
                break
            size = length & ~_DISCARDED
            if not length & _DISCARDED:
                records.append(self._bytes(position + _HEADER_BYTES, size))
            position += (size + _HEADER_BYTES + 7) // 8 * 8
            self._position.value = position
        return records

    def _bytes(self, position: int, size: int) -> bytes:
        start = position % self._size
        first = min(size, self._size - start)
        record = self._produced[_PAGE + start : _PAGE + start + first]
        # A header is 8 bytes at a multiple of 8, so only what follows it can wrap.
        return record if first == size else record + self._produced[_PAGE : _PAGE + size - first]

    def close(self) -> None:
        """Unmaps; what was not read stays for the next reader."""
        self._position = None
        self._consumer.close()
        self._produced.close()
