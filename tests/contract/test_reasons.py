# SPDX-License-Identifier: Apache-2.0
"""One number, one meaning, in Python, C, Rust and the documentation."""

import re
import runpy
from pathlib import Path

from mesh.reasons import EXPLANATIONS, Reason

ROOT = Path(__file__).resolve().parents[2]


def test_every_reason_is_explained() -> None:
    assert set(EXPLANATIONS) == set(Reason)


def test_c_has_the_same_numbers() -> None:
    text = (ROOT / "bpf/include/mesh_reasons.h").read_text()
    found = {m[1]: int(m[2]) for m in re.finditer(r"\bREASON_(\w+)\s*=\s*(\d+)", text)}
    assert found, "mesh_reasons.h names no reason"
    assert {name: Reason[name].value for name in found} == found


def test_rust_has_the_same_numbers() -> None:
    text = (ROOT / "hbone/proto/src/reason.rs").read_text()
    found = {
        re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", m[1]).upper(): int(m[2])
        for m in re.finditer(r"^\s+([A-Z]\w+)\s*=\s*(\d+),", text, re.MULTILINE)
    }
    assert found == {reason.name: reason.value for reason in Reason}


def test_the_page_is_what_the_code_says() -> None:
    render = runpy.run_path(str(ROOT / "scripts/reasons"))["render"]
    assert (ROOT / "docs/reasons.md").read_text() == render(), "run scripts/reasons"
