# SPDX-License-Identifier: Apache-2.0
"""Parses one mesh file and ends: neither the parser nor what it needs is ever resident in an agent.

Standard input: a line of JSON, ``{"file", "base", "portion"}``, then the content. Standard output:
the problems found (a pickled tuple), then, if there are none, the MeshFile without workloads, and
these in tuples of at most so many, the last one empty. Only ``apart`` runs it.
"""

import json
import pickle
import sys
from dataclasses import replace
from pathlib import Path

from agent.sources.convert import parse_mesh
from agent.sources.problems import MeshFileError

__all__ = ["main"]


def main() -> None:
    """Read the request, write the answer."""
    request = json.loads(sys.stdin.buffer.readline())
    content = sys.stdin.buffer.read()
    try:
        mesh_file = parse_mesh(content, request["file"], base=Path(request["base"]))
    except MeshFileError as error:
        pickle.dump(error.problems, sys.stdout.buffer, pickle.HIGHEST_PROTOCOL)
    else:
        portion, workloads = request["portion"], mesh_file.workloads
        parts = [workloads[at : at + portion] for at in range(0, len(workloads), portion)]
        for value in ((), replace(mesh_file, workloads=()), *parts, ()):
            pickle.dump(value, sys.stdout.buffer, pickle.HIGHEST_PROTOCOL)
    sys.stdout.buffer.flush()
