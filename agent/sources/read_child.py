# SPDX-License-Identifier: Apache-2.0
"""Parses one mesh file and ends: neither the parser nor what it needs is ever resident in an agent.

Standard input: a line of JSON, ``{"file", "base"}``, then the content. Standard output: the
problems found (a pickled tuple), then, if there are none, the MeshFile. Only ``apart`` runs it.
"""

import json
import pickle
import sys
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
        pickle.dump((), sys.stdout.buffer, pickle.HIGHEST_PROTOCOL)
        pickle.dump(mesh_file, sys.stdout.buffer, pickle.HIGHEST_PROTOCOL)
    sys.stdout.buffer.flush()
