# SPDX-License-Identifier: Apache-2.0
"""What docs/attacks.md says of HTTP/2 names tests, tokens, limits and reasons that exist."""

import re
from pathlib import Path

import pytest

from mesh.reasons import Reason

ROOT = Path(__file__).resolve().parents[2]
ATTACKS = ROOT / "hbone/core/tests/attacks"
SECTION = (ROOT / "docs/attacks.md").read_text().partition("\n## HTTP/2\n")[2]
ROWS = re.findall(r"^\|(?! attack |-)(.+)\|$", SECTION, re.MULTILINE)


def source(folder: Path) -> str:
    return "\n".join(path.read_text() for path in sorted(folder.rglob("*.rs")))


def test_each_test_of_an_attack_is_in_the_table() -> None:
    tests = re.findall(r"#\[test\]\nfn (\w+)", source(ATTACKS))
    assert len(tests) > 50
    assert [name for name in tests if f"`{name}`" not in SECTION] == []


@pytest.mark.parametrize("row", ROWS)
def test_each_name_in_the_table_exists(row: str) -> None:
    code = source(ROOT / "hbone/core/tests") + source(ROOT / "hbone/proto/src")
    names = re.findall(r"`([a-zA-Z_]+)`", row)
    assert names
    assert [name for name in names if not re.search(rf"\b{name}\b", code)] == []


def test_the_reasons_are_those_of_the_mesh() -> None:
    told = re.findall(r"\b(\d+) `([a-z0-9]+(?:-[a-z0-9]+)+)`", SECTION)
    assert told
    named = {(r.value, r.name.lower().replace("_", "-")) for r in Reason}
    assert [t for t in told if (int(t[0]), t[1]) not in named] == []
