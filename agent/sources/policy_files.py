# SPDX-License-Identifier: Apache-2.0
"""Policies in files of their own, as kubectl takes and prints them.

A file holds one object or several documents, each an object or a ``kind: List`` of them. A name
counts once over all files, and every mistake of every file is told.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from agent.sources.places import PolicyPlace, Written, digest_of, read_policy_texts
from agent.sources.policies import claim, read_policy
from agent.sources.policy_fields import Fields
from agent.sources.problems import FieldPath, MeshFileError, Problem
from agent.sources.yaml_text import parse_documents
from mesh.model.policies import Policy
from mesh.model.policy import Origin, PolicyName

__all__ = ["parse_policies", "read_policies"]

_LIST: Final = ("apiVersion", "kind", "metadata", "items")


def parse_policies(
    file: str, base: Path, places: Sequence[PolicyPlace], known: Mapping[PolicyName, Origin]
) -> tuple[tuple[Policy, ...], bytes]:
    """Everything that ``policyFiles`` of a mesh file names, and the digest of what was read.

    ``known`` are the policies of the mesh file itself. Raises MeshFileError.
    """
    texts = read_policy_texts(file, base, places)
    policies, problems = read_policies(texts, known)
    if problems:
        raise MeshFileError(file, problems, places=tuple(places))
    return tuple(policies), digest_of(texts)


def read_policies(
    texts: Iterable[Written], known: Mapping[PolicyName, Origin]
) -> tuple[list[Policy], list[Problem]]:
    """The policies of these files that are in order, and every problem of the others."""
    seen = dict(known)
    policies: list[Policy] = []
    problems: list[Problem] = []
    for written in texts:
        documents, found = parse_documents(written.content, written.name)
        objects = 0
        for document in documents:
            fields = Fields(document)
            for raw, path in _objects(fields, document.value):
                objects += 1
                policy = read_policy(fields, raw, path)
                if policy is not None and claim(fields, policy, path, seen):
                    policies.append(policy)
            found += fields.problems
        if not objects and not found:
            # Else a file that is only half written would take policies away.
            found.append(Problem(1, 1, "", "holds no policy; to take policies away, remove it"))
        problems += (replace(problem, file=written.name) for problem in found)
    return policies, problems


def _objects(fields: Fields, value: Any) -> Iterator[tuple[Any, FieldPath]]:
    """Those of one document; of one that is empty, as after a last ``---``, none."""
    if value is None:
        return
    if not isinstance(value, dict) or value.get("kind") != "List":
        yield value, ()
        return
    raw = fields.mapping(value, (), _LIST)
    if fields.choice(raw, "apiVersion", (), ("v1",)) is None and "apiVersion" not in raw:
        fields.refuse((), 'the field "apiVersion" is missing')
    if "items" not in raw:
        fields.refuse((), 'the field "items" is missing')
    yield from fields.items(raw, "items", ())
