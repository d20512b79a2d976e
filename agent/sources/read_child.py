# SPDX-License-Identifier: Apache-2.0
"""Parses one mesh file and ends: neither the parser nor what it needs is ever resident in an agent.

Standard input: a line of JSON, ``{"file", "base", "portion"}``, then the content. Standard output:
the problems found and the policy files that are named (a pickled pair), then, if there are none of
the former, the MeshFile without workloads, and these in tuples of at most so many, the last one
empty. With ``{"file", "base", "places", "known"}`` only the policy files are read: then their
policies and digest follow. Only ``apart`` runs it.
"""

import json
import pickle
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from agent.sources.convert import parse_mesh
from agent.sources.places import PolicyPlace
from agent.sources.policy_files import parse_policies
from agent.sources.problems import MeshFileError
from mesh.model.policy import Origin, PolicyKind, PolicyName

__all__ = ["main"]


def main() -> None:
    """Read the request, write the answer."""
    request = json.loads(sys.stdin.buffer.readline())
    try:
        values = list(_policies(request) if "places" in request else _mesh(request))
    except MeshFileError as error:
        values = [(error.problems, error.places)]
    for value in values:
        pickle.dump(value, sys.stdout.buffer, pickle.HIGHEST_PROTOCOL)
    sys.stdout.buffer.flush()


def _mesh(request: dict[str, Any]) -> Iterator[object]:
    content = sys.stdin.buffer.read()
    mesh_file = parse_mesh(content, request["file"], base=Path(request["base"]))
    portion, workloads = request["portion"], mesh_file.workloads
    yield (), mesh_file.policy_places
    yield replace(mesh_file, workloads=())
    for at in range(0, len(workloads), portion):
        yield workloads[at : at + portion]
    yield ()


def _policies(request: dict[str, Any]) -> Iterator[object]:
    places = tuple(PolicyPlace(*place) for place in request["places"])
    known = {
        PolicyName(PolicyKind(kind), namespace, name): Origin(file, line)
        for kind, namespace, name, file, line in request["known"]
    }
    found = parse_policies(request["file"], Path(request["base"]), places, known)
    yield (), places
    yield found
