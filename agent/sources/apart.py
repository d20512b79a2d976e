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

__all__ = ["parse_mesh_apart", "parse_policies_apart"]

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
    request = {"file": file, "base": str(base), "portion": portion}
    answer = _ask(file, request, content)
    mesh_file: MeshFile = pickle.load(answer)  # noqa: S301
    keeper = Keeper(have)
    workloads: list[Workload] = []
    while part := pickle.load(answer):  # noqa: S301
        workloads += keeper.workloads(part)
    return replace(keeper.rest(mesh_file), workloads=tuple(workloads))


def parse_policies_apart(file: str, *, base: Path, have: MeshFile) -> MeshFile:
    """``have`` with the policies that its ``policyFiles`` hold now. Raises MeshFileError.

    For an edit of a policy: of 10,000 workloads, that did not change, nothing is read.
    """
    inline = have.policies[: have.inline_policies]
    request = {
        "file": file,
        "base": str(base),
        "places": have.policy_places,
        "known": [
            (one.key.kind, one.namespace, one.name, one.origin.file, one.origin.line)
            for one in inline
        ],
    }
    policies, digest = pickle.load(_ask(file, request, b""))  # noqa: S301
    fresh = replace(have, policies=inline + policies, policy_digest=digest)
    return Keeper(have).rest(fresh)


def _ask(file: str, request: object, content: bytes) -> io.BytesIO:
    """What a child answers, if it found no problem. Raises MeshFileError."""
    try:
        done = subprocess.run(
            child_command("agent.sources.read_child"),
            input=json.dumps(request).encode() + b"\n" + content,
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
    problems, places = pickle.load(answer)  # noqa: S301
    if problems:
        raise MeshFileError(file, problems, places=places)
    return answer


def _unread(file: str, reason: str) -> MeshFileError:
    return MeshFileError(file, [Problem(1, 1, "", reason)])
