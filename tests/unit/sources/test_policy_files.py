# SPDX-License-Identifier: Apache-2.0
"""Policies in files of their own: what is read, how it is watched, what is said of mistakes."""

# ruff: noqa: ASYNC110, ASYNC240 - a test may wait by looking, and its files are small
import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from mesh_text import GOOD

from agent.sources import apart
from agent.sources import file as file_module
from agent.sources.file import FileSource, read_mesh_file
from agent.sources.problems import MeshFileError
from mesh.model.events import Event, PolicyAdded, PolicyRemoved
from mesh.model.network_policy import NetworkPolicy
from mesh.model.policy import Origin, PolicyKind, PolicyName

NP = """\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: %s, namespace: shop}
spec:
  podSelector: {}
  ingress:
    - from: [{podSelector: {}}]
"""

PRINTED = """\
apiVersion: v1
items:
- apiVersion: networking.k8s.io/v1
  kind: NetworkPolicy
  metadata:
    annotations:
      kubectl.kubernetes.io/last-applied-configuration: |
        {"apiVersion":"networking.k8s.io/v1","kind":"NetworkPolicy"}
    creationTimestamp: "2026-01-01T00:00:00Z"
    generation: 3
    labels: {team: a}
    managedFields:
    - apiVersion: networking.k8s.io/v1
      fieldsType: FieldsV1
      fieldsV1: {"f:spec": {"f:podSelector": {}}}
      manager: kubectl
      operation: Update
      time: "2026-01-01T00:00:00Z"
    name: printed
    namespace: shop
    resourceVersion: "812"
    uid: 6f4e9a4e-4a86-4ff2-9ae6-5c8b2f5b9c11
  spec:
    podSelector: {}
    policyTypes: [Ingress]
  status: {}
- apiVersion: security.istio.io/v1
  kind: PeerAuthentication
  metadata: {creationTimestamp: null, name: default, namespace: shop}
  spec: {mtls: {mode: STRICT}}
  status: {conditions: []}
kind: List
metadata:
  resourceVersion: ""
"""


def name(text: str) -> PolicyName:
    return PolicyName(PolicyKind.NETWORK_POLICY, "shop", text)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A mesh file that names a file and a directory."""
    path = tmp_path / "mesh.yaml"
    path.write_text(GOOD + "policyFiles: [one.yaml, more]\n")
    (tmp_path / "one.yaml").write_text(NP % "one")
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "two.yaml").write_text(f"---\n{NP % 'two'}---\n{NP % 'three'}---\n")
    return path


def names(path: Path) -> list[str]:
    return [policy.name for policy in read_mesh_file(path).policies]


def complaints(path: Path) -> list[str]:
    with pytest.raises(MeshFileError) as caught:
        read_mesh_file(path)
    return str(caught.value).replace(f"{path.parent}/", "").splitlines()


def test_files_directories_and_documents_are_read_in_order(path: Path) -> None:
    more = path.parent / "more"
    (more / "printed.yml").write_text(PRINTED)
    (more / "plain.json").write_text('{"kind": "List", "apiVersion": "v1", "items": []}')
    for ignored in (".hidden.yaml", "note.txt"):
        (more / ignored).write_text("nonsense: [")
    (more / "inner.yaml").mkdir()
    assert "plain.json:1: holds no policy" in complaints(path)[0]
    (more / "plain.json").unlink()
    assert names(path) == ["one", "printed", "default", "two", "three"]


def test_a_policy_says_where_it_and_its_rules_stand(path: Path) -> None:
    three = read_mesh_file(path).policies[-1]
    file = str(path.parent / "more" / "two.yaml")
    assert isinstance(three, NetworkPolicy)
    assert three.origin == Origin(file, 10)
    assert three.ingress[0].origin == Origin(file, 16)


def test_every_mistake_of_every_file_is_told_with_file_line_and_field(path: Path) -> None:
    (path.parent / "one.yaml").write_text((NP % "one").replace("ingress:", "ingres:"))
    (path.parent / "more" / "a.yaml").write_text("a: [")
    (path.parent / "more" / "b.yaml").write_bytes(b"kind: \xff")
    (path.parent / "more" / "two.yaml").write_text(
        f"{NP % 'two'}---\n{(NP % 'three').replace('metadata:', 'meta:')}---\n- 1\n---\n"
        + PRINTED.replace("mode: STRICT", "mode: STRIKT")
    )
    path.write_text(path.read_text().replace("one.yaml,", "one.yaml, away.yaml,"))
    assert complaints(path) == [
        'mesh.yaml:22: policyFiles[1]: "away.yaml" cannot be read: no such file or directory',
    ]
    path.write_text(path.read_text().replace(" away.yaml,", ""))
    modes = "must be UNSET or DISABLE or PERMISSIVE or STRICT"
    assert complaints(path) == [
        "more/a.yaml:2: not YAML: did not find expected node content",
        "more/b.yaml:1: the file is not UTF-8 text",
        'more/two.yaml:9: metadata: the field "name" is missing',
        "more/two.yaml:11: meta: unknown field; did you mean metadata?",
        "more/two.yaml:17: must be a mapping, not [1]",
        f"more/two.yaml:48: items[1].spec.mtls.mode: {modes}, not 'STRIKT'",
        "one.yaml:6: spec.ingres: unknown field; did you mean ingress?",
    ]


def test_a_name_counts_once_over_all_files(path: Path) -> None:
    inline = "policies: [{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: "
    inline += "{name: two, namespace: shop}, spec: {podSelector: {}}}]\n"
    path.write_text(path.read_text() + inline)
    (path.parent / "more" / "x.yaml").write_text(NP % "one" + "---\n" + NP % "one")
    assert complaints(path) == [
        f"more/two.yaml:4: metadata.name: NetworkPolicy shop/two is at {path}:23 too".replace(
            f"{path.parent}/", ""
        ),
        "more/x.yaml:3: metadata.name: NetworkPolicy shop/one is at one.yaml:1 too",
        "more/x.yaml:11: metadata.name: NetworkPolicy shop/one is at one.yaml:1 too",
    ]


def test_the_same_file_twice_is_read_once(path: Path) -> None:
    path.write_text(path.read_text().replace("[one.yaml,", "[one.yaml, more/two.yaml,"))
    assert names(path) == ["one", "two", "three"]


@pytest.mark.parametrize(
    ("metadata", "sentence"),
    [
        ("{name: A}", "metadata.name: 'A' is not a name (RFC 1123 subdomain"),
        (f"{{name: {'a' * 254}}}", "is not a name"),
        ("{name: a..b}", "is not a name"),
        ("{name: a, namespace: a.b}", "metadata.namespace: 'a.b' is not a namespace"),
        ("{name: 5}", "metadata.name: must be text"),
        ("{namespace: a}", 'metadata: the field "name" is missing'),
        ("{name: a, labels: [1]}", "metadata.labels: must be a mapping of labels"),
        ("{name: a, annotations: {x: 1}}", "metadata.annotations.x: must be text"),
        ("{name: a, spec: 1}", "metadata.spec: unknown field"),
    ],
)
def test_names_are_those_of_kubernetes(path: Path, metadata: str, sentence: str) -> None:
    (path.parent / "one.yaml").write_text(
        (NP % "one").replace("{name: one, namespace: shop}", metadata)
    )
    (said,) = complaints(path)
    assert said.startswith("one.yaml:3: ")
    assert sentence in said


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("kind: List", "kind: List\nitem: []", "item: unknown field; did you mean items?"),
        ("apiVersion: v1", "apiVersion: v2", "apiVersion: must be v1, not 'v2'"),
        ("kind: PeerAuthentication", "kind: List", "items[1].kind: must be NetworkPolicy or"),
        ("uid: 6f4e", "uids: 6f4e", "items[0].metadata.uids: unknown field; did you mean uid?"),
    ],
)
def test_a_list_is_read_as_strictly(path: Path, old: str, new: str, sentence: str) -> None:
    assert PRINTED.count(old) == 1
    (path.parent / "one.yaml").write_text(PRINTED.replace(old, new))
    (said,) = complaints(path)
    assert sentence in said


class Watched:
    """A running source and what it queued."""

    def __init__(self, path: Path) -> None:
        self.source = FileSource(path, poll_seconds=0.02, settle_seconds=0.05)
        self.source.load()
        self.queue: asyncio.Queue[Event] = asyncio.Queue()

    def taken(self) -> list[Event]:
        return [self.queue.get_nowait() for _ in range(self.queue.qsize())]

    async def until(self, holds: Callable[[], bool]) -> None:
        async with asyncio.timeout(10):
            while not holds():
                await asyncio.sleep(0.01)

    async def events(self, count: int) -> list[Event]:
        await self.until(lambda: self.queue.qsize() >= count)
        await asyncio.sleep(0.05)
        return self.taken()

    async def refusal(self) -> str:
        await self.until(lambda: self.source.status.last_error is not None)
        return str(self.source.status.last_error)


@contextlib.asynccontextmanager
async def watching(path: Path, *, events: int = 8) -> AsyncIterator[Watched]:
    watched = Watched(path)
    task = asyncio.get_running_loop().create_task(watched.source.run(watched.queue))
    try:
        await watched.events(events)
        yield watched
    finally:
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


async def test_an_edit_of_a_policy_file_is_the_only_event_and_the_mesh_file_is_not_parsed(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_arguments: object, **_more: object) -> None:
        raise AssertionError

    async with watching(path) as watched:
        monkeypatch.setattr(file_module, "parse_mesh_apart", never)
        new = path.parent / "more" / "two.yaml.tmp"
        text = (path.parent / "more" / "two.yaml").read_text()
        new.write_text(text.replace("- from: [{podSelector: {}}]", "- {}", 1))
        new.replace(path.parent / "more" / "two.yaml")
        (event,) = await watched.events(1)
        assert isinstance(event, PolicyAdded)
        assert event.policy.key == name("two")
        assert watched.source.current == read_mesh_file(path)


async def test_files_of_a_directory_come_and_go(path: Path) -> None:
    async with watching(path) as watched:
        extra = path.parent / "more" / "extra.yaml"
        extra.write_text(NP % "extra")
        (event,) = await watched.events(1)
        assert isinstance(event, PolicyAdded)
        assert event.policy.key == name("extra")
        extra.unlink()
        assert await watched.events(1) == [PolicyRemoved(name("extra"))]
        (path.parent / "more" / "two.yaml").unlink()
        assert set(await watched.events(2)) == {
            PolicyRemoved(name("two")),
            PolicyRemoved(name("three")),
        }


async def test_a_bad_policy_file_changes_nothing_until_it_is_good_again(path: Path) -> None:
    async with watching(path) as watched:
        before = watched.source.current
        one = path.parent / "one.yaml"
        one.write_text((NP % "one").replace("podSelector: {}", "podSelektor: {}", 1))
        said = await watched.refusal()
        assert f"{one}:5: spec.podSelektor: unknown field; did you mean podSelector?" in said
        # What is good is not taken either: one edit may lean on another.
        (path.parent / "more" / "extra.yaml").write_text(NP % "extra")
        await asyncio.sleep(0.5)
        assert watched.source.current is before
        assert watched.taken() == []
        one.write_text(NP % "one")
        (event,) = await watched.events(1)
        assert isinstance(event, PolicyAdded)
        assert event.policy.key == name("extra")
        assert watched.source.status.last_error is None


async def test_a_named_file_that_is_away_is_a_mistake_and_takes_nothing_away(path: Path) -> None:
    async with watching(path) as watched:
        one = path.parent / "one.yaml"
        one.unlink()
        assert await watched.refusal() == (
            f'{path}:22: policyFiles[0]: "one.yaml" cannot be read: no such file or directory'
        )
        assert watched.taken() == []
        one.write_text(NP % "one")
        await watched.until(lambda: watched.source.status.last_error is None)
        assert watched.taken() == []


async def test_a_file_that_the_mesh_file_names_before_it_exists(path: Path) -> None:
    async with watching(path) as watched:
        path.write_text(path.read_text().replace("[one.yaml,", "[one.yaml, late.yaml,"))
        assert '"late.yaml" cannot be read' in await watched.refusal()
        (path.parent / "late.yaml").write_text(NP % "late")
        (event,) = await watched.events(1)
        assert isinstance(event, PolicyAdded)
        assert event.policy.key == name("late")
        path.write_text(GOOD)
        assert len(await watched.events(4)) == 4
        (path.parent / "one.yaml").write_text("not looked at any more: [")
        await asyncio.sleep(0.3)
        assert watched.source.status.last_error is None


async def test_a_swapped_configmap_volume(path: Path) -> None:
    (path.parent / "more" / "two.yaml").unlink()
    volume = path.parent / "more"
    for version, policy in (("..1", "x"), ("..2", "y")):
        (volume / version).mkdir()
        (volume / version / "p.yaml").write_text(NP % policy)
    (volume / "..data").symlink_to("..1")
    (volume / "p.yaml").symlink_to("..data/p.yaml")
    path.write_text(GOOD + "policyFiles: [more, one.yaml]\n")
    assert names(path) == ["x", "one"]
    async with watching(path, events=7) as watched:
        (volume / "..new").symlink_to("..2")
        (volume / "..new").replace(volume / "..data")
        added, removed = await watched.events(2)
        assert isinstance(added, PolicyAdded)
        assert (added.policy.key, removed) == (name("y"), PolicyRemoved(name("x")))


def test_only_policies_apart_is_what_a_whole_reading_gives(path: Path) -> None:
    have = apart.parse_mesh_apart(path.read_bytes(), str(path), base=path.parent)
    (path.parent / "one.yaml").write_text(NP % "uno")
    found = apart.parse_policies_apart(str(path), base=path.parent, have=have)
    assert found == read_mesh_file(path)
    assert found.workloads is have.workloads
    assert found.policies[1] is have.policies[1]
