# SPDX-License-Identifier: Apache-2.0
"""How many look-ups a verdict takes is bounded, whatever policies there are, and written down."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
WORDS = {"eight": 8}


def body(source: str, name: str) -> str:
    """A function of the kernel's style: from its name to the brace in the first column."""
    found = re.search(rf"^inline_only [^;{{]*\b{name}\(.*?^}}", source, re.DOTALL | re.MULTILINE)
    assert found, name
    return found[0]


def test_a_verdict_takes_at_most_as_many_lookups_as_the_documentation_says() -> None:
    decide, common = ((ROOT / "bpf" / name).read_text() for name in ("decide.c", "common.c"))
    once = {name: body(decide, name).count(".lookup(") for name in ("subject_of", "match_rules")}
    once["current_generation"] = body(common, "current_generation").count(".lookup(")
    whole = body(decide, "decide")
    called = sum(whole.count(f"{name}(") * count for name, count in once.items())
    most = called + whole.count(".lookup(")
    assert not re.search(r"\b(for|while)\b", whole), "a loop would take more"
    loops = re.findall(r"\bfor\b.*?;\n", body(decide, "match_rules"), re.DOTALL)
    assert loops
    assert not any(".lookup(" in loop for loop in loops)
    for path in ("bpf/decide.c", "docs/performance.md"):
        said = re.search(r"[Aa]t most (\w+) look-ups", (ROOT / path).read_text())
        assert said is not None, path
        assert WORDS[said[1]] == most, path
