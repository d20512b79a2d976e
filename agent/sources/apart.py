# SPDX-License-Identifier: Apache-2.0
"""Parses a mesh file in a process of its own, so that an agent pays for the result only.

10,000 workloads take a second of CPU and 100 MB to parse and check. In a thread of the agent they
would take turns with everything else that Python does there, and the memory would not come back.
"""

import io
import json
import pickle
import subprocess
from pathlib import Path
from typing import Final

from agent.children import child_command
from agent.sources.problems import MeshFileError, Problem
from agent.sources.settings import MeshFile

__all__ = ["parse_mesh_apart"]

_TIMEOUT_SECONDS: Final = 300.0
"""The largest file there may be takes a minute on a busy machine."""


def parse_mesh_apart(content: bytes, file: str, *, base: Path) -> MeshFile:
    """Do what ``parse_mesh`` does, in a process of its own. Raises MeshFileError.

    Blocks the calling thread, but not the interpreter.
    """
    request = json.dumps({"file": file, "base": str(base)}).encode() + b"\n"
    try:
        done = subprocess.run(
            child_command("agent.sources.read_child"),
            input=request + content,
            capture_output=True,
            timeout=_TIMEOUT_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise _unread(file, f"the process that reads it cannot run: {error}") from error
    if done.returncode != 0:
        last = done.stderr.decode(errors="replace").strip().splitlines()[-1:]
        raise _unread(
            file, f"the process that reads it ended with {done.returncode}: {''.join(last)}"
        )
    # What a child of ours wrote into a pipe that nobody else has.
    answer = io.BytesIO(done.stdout)
    problems: tuple[Problem, ...] = pickle.load(answer)  # noqa: S301
    if problems:
        raise MeshFileError(file, problems)
    mesh_file: MeshFile = pickle.load(answer)  # noqa: S301
    return mesh_file


def _unread(file: str, reason: str) -> MeshFileError:
    return MeshFileError(file, [Problem(1, 1, "", reason)])
