# SPDX-License-Identifier: Apache-2.0
"""The SipHash of the kernel half, built by a host compiler: against the paper, against Python."""

import ctypes
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from agent.dataplane.source import include_directory

_COMPILER = shutil.which("clang") or shutil.which("cc")
_MASK = (1 << 64) - 1
_WRAPPER = """
#include "siphash.h"
__u64 short_message(const __u64 *key, const __u64 *words, __u64 last)
{
	return siphash_2_4(key, words, 1, last);
}
__u64 nonce_message(const __u64 *key, const __u64 *words, __u64 last)
{
	return siphash_2_4(key, words, 3, last);
}
"""


def _siphash_2_4(key: bytes, message: bytes) -> int:
    """As in section 2 of "SipHash: a fast short-input PRF"."""

    def rotate(word: int, bits: int) -> int:
        return (word << bits | word >> (64 - bits)) & _MASK

    def rounds(count: int) -> None:
        for _ in range(count):
            v[0] = (v[0] + v[1]) & _MASK
            v[2] = (v[2] + v[3]) & _MASK
            v[1] = rotate(v[1], 13) ^ v[0]
            v[3] = rotate(v[3], 16) ^ v[2]
            v[0] = rotate(v[0], 32)
            v[2] = (v[2] + v[1]) & _MASK
            v[0] = (v[0] + v[3]) & _MASK
            v[1] = rotate(v[1], 17) ^ v[2]
            v[3] = rotate(v[3], 21) ^ v[0]
            v[2] = rotate(v[2], 32)

    halves = [int.from_bytes(key[:8], "little"), int.from_bytes(key[8:], "little")]
    start = b"somepseudorandomlygeneratedbytes"
    v = [int.from_bytes(start[i : i + 8], "big") ^ halves[i // 8 % 2] for i in range(0, 32, 8)]
    padded = message + bytes(7 - len(message) % 8) + bytes([len(message) & 0xFF])
    for at in range(0, len(padded), 8):
        word = int.from_bytes(padded[at : at + 8], "little")
        v[3] ^= word
        rounds(2)
        v[0] ^= word
    v[2] ^= 0xFF
    rounds(4)
    return v[0] ^ v[1] ^ v[2] ^ v[3]


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    if _COMPILER is None:
        pytest.skip("needs a C compiler")
    home = tmp_path_factory.mktemp("siphash")
    (home / "wrapper.c").write_text(_WRAPPER)
    include = str(include_directory())
    command = [_COMPILER, "-O2", "-Wall", "-Werror", "-shared", "-fPIC", "-I", include]
    subprocess.run([*command, str(home / "wrapper.c"), "-o", str(home / "it.so")], check=True)
    loaded = ctypes.CDLL(str(home / "it.so"))
    for function in (loaded.short_message, loaded.nonce_message):
        function.restype = ctypes.c_uint64
    return loaded


def _words(data: bytes) -> "ctypes.Array[ctypes.c_uint64]":
    return (ctypes.c_uint64 * (len(data) // 8)).from_buffer_copy(data)


def test_the_vector_of_the_paper(library: ctypes.CDLL) -> None:
    """Appendix A: key 00..0f, message 00..0e."""
    key, message = bytes(range(16)), bytes(range(15))
    assert _siphash_2_4(key, message) == 0xA129CA6149BE45E5
    last = int.from_bytes(message[8:] + b"\x0f", "little")
    words = _words(message[:8])
    found = library.short_message(_words(key), words, ctypes.c_uint64(last))
    assert found == 0xA129CA6149BE45E5


def test_messages_as_long_as_a_nonces_input(library: ctypes.CDLL) -> None:
    for _ in range(500):
        key, message = os.urandom(16), os.urandom(24)
        last = ctypes.c_uint64(24 << 56)
        found = library.nonce_message(_words(key), _words(message), last)
        assert found == _siphash_2_4(key, message)


def test_the_header_needs_nothing_of_the_kernel() -> None:
    text = Path(include_directory(), "siphash.h").read_text()
    assert [line for line in text.splitlines() if line.startswith("#include")] == [
        "#include <linux/types.h>"
    ]
