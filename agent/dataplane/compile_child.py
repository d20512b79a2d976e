# SPDX-License-Identifier: Apache-2.0
"""Compiles and loads the programs, pins them, and ends: LLVM is never resident in the agent.

Run by path under the system's Python, which has BCC; imports nothing else of nodemesh and is the
only file that imports bcc. Reads one JSON request from standard input, writes one JSON answer:

    {"text", "cflags", "directory", "programs": [[pin, function, type, attach type or -1], ...]}
    {"ok": true} | {"ok": false, "stage": "import|compile|load|pin", "program", "detail"}

BCC reports the compiler's and the verifier's words on C's standard error only: it is caught.
"""

import contextlib
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from typing import IO

LOG_TAIL_CHARACTERS = 4000


class StageError(Exception):
    """One stage failed; ``detail`` ends with the last words of the compiler or verifier."""

    def __init__(self, stage: str, program: str, detail: str) -> None:
        super().__init__(detail)
        self.stage = stage
        self.program = program
        self.detail = detail


@contextlib.contextmanager
def captured_stderr() -> Iterator[IO[bytes]]:
    """File descriptor 2 goes to a file for a while."""
    saved = os.dup(2)
    with tempfile.TemporaryFile() as log:
        os.dup2(log.fileno(), 2)
        try:
            yield log
        finally:
            os.dup2(saved, 2)
            os.close(saved)


def tail(log: IO[bytes]) -> str:
    """The end of what was written to standard error."""
    log.flush()
    log.seek(0)
    return log.read().decode(errors="replace")[-LOG_TAIL_CHARACTERS:].strip()


def compile_and_pin(request: dict) -> None:  # type: ignore[type-arg] # JSON, checked by use
    """Does what the request asks; raises StageError."""
    try:
        from bcc import BPF  # noqa: PLC0415 # its absence is an answer
        from bcc.libbcc import lib  # noqa: PLC0415
    except ImportError as error:
        raise StageError("import", "", f"BCC is missing (python3-bpfcc): {error}") from error
    with captured_stderr() as log:
        try:
            module = BPF(text=request["text"].encode(), cflags=request["cflags"])
        except Exception as error:
            raise StageError("compile", "", f"{error}\n{tail(log)}") from error
        for pin, function, kind, attach_type in request["programs"]:
            try:
                loaded = module.load_func(function.encode(), kind, None, attach_type)
            except Exception as error:
                raise StageError("load", pin, f"{error}\n{tail(log)}") from error
            path = f"{request['directory']}/{pin}"
            if lib.bpf_obj_pin(loaded.fd, path.encode()) != 0:
                raise StageError("pin", pin, f"cannot pin at {path}\n{tail(log)}")


def main() -> int:
    """Returns 0 also for a refusal that it could report."""
    request = json.load(sys.stdin)
    try:
        compile_and_pin(request)
        answer: dict[str, object] = {"ok": True}
    except StageError as error:
        answer = {
            "ok": False,
            "stage": error.stage,
            "program": error.program,
            "detail": error.detail,
        }
    json.dump(answer, sys.stdout)
    sys.stdout.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
