# SPDX-License-Identifier: Apache-2.0
"""Parses a mesh file in a process of its own, so that an agent pays for the result only.

10,000 workloads take a second of CPU and 100 MB to parse and check. In a thread of the agent they
would take turns with everything else that Python does there, and the memory would not come back.
"""

import io
import json
import pickle
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Final

from agent.children import child_command
from agent.sources.changes import Keeper
from agent.sources.problems import MAX_BYTES, MeshFileError, Problem
from agent.sources.settings import MeshFile
from mesh.model.workload import Workload

__all__ = ["parse_mesh_apart"]

_TIMEOUT_SECONDS: Final = 300.0
"""The largest file there may be takes a minute on a busy machine."""


_PORTION: Final = 256
"""Workloads that are taken over at a time where most are known already: what was read of those that
are is dropped before the next come, and leaves no holes in the memory of all of them."""


def parse_mesh_apart(
    content: bytes, file: str, *, base: Path, have: MeshFile | None = None
) -> MeshFile:
    """Do what ``parse_mesh`` does, in a process of its own. Raises MeshFileError.

    What is equal in ``have`` is the same object in the result. Blocks the calling thread, but not
    the interpreter.
    """
    # Objects that several workloads share are one within a portion.
    portion = MAX_BYTES if have is None else _PORTION
    request = json.dumps({"file": file, "base": str(base), "portion": portion}).encode() + b"\n"
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
    keeper = Keeper(have)
    workloads: list[Workload] = []
    while part := pickle.load(answer):  # noqa: S301
        workloads += keeper.workloads(part)
    return replace(keeper.rest(mesh_file), workloads=tuple(workloads))


def _unread(file: str, reason: str) -> MeshFileError:
    return MeshFileError(file, [Problem(1, 1, "", reason)])
