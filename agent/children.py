# SPDX-License-Identifier: Apache-2.0
"""Short-lived processes of our own Python: for what only a moment needs, and an agent never again.

A child imports what it needs from where we did, and nothing from where it happens to stand.
"""

import ctypes
import json
import signal
import sys
from typing import Final

__all__ = ["child_command", "die_with_parent"]

_PR_SET_PDEATHSIG: Final = 1
"""Of prctl(2)."""

_START: Final = (
    "import importlib, json, sys; sys.path[:] = json.loads(sys.argv[1]);"
    " importlib.import_module(sys.argv[2]).main()"
)


def child_command(module: str) -> list[str]:
    """The command that calls ``main()`` of a module in a process of its own."""
    return [sys.executable, "-I", "-c", _START, json.dumps(sys.path), module]


def die_with_parent() -> None:
    """Let the kernel kill this process when its parent ends, also if it hangs or was stopped.

    For a child whose parent started it from its main thread: the signal comes at the end of the
    thread that started it (PR_SET_PDEATHSIG(2const)).
    """
    libc = ctypes.CDLL(None)
    if hasattr(libc, "prctl"):
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
