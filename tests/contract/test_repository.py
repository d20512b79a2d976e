# SPDX-License-Identifier: Apache-2.0
"""What holds of every file: a licence line, a bearable length, no path of anybody's machine."""

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCES = (".py", ".pyi", ".rs", ".c", ".h", ".sh", ".proto")

# Longer than this, two nouns share a file.
MAX_LINES = 400


def tracked() -> list[Path]:
    out = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        check=True,
        capture_output=True,
    ).stdout
    return [ROOT / name for name in out.decode().split("\0") if name and (ROOT / name).is_file()]


def sources() -> list[Path]:
    return [path for path in tracked() if path.suffix in SOURCES and "_pb2" not in path.name]


def test_every_source_says_its_licence() -> None:
    kernel, rest = "GPL-2.0-only OR BSD-2-Clause", "Apache-2.0"
    wrong = []
    for path in sources():
        licence = kernel if path.is_relative_to(ROOT / "bpf") else rest
        if f"SPDX-License-Identifier: {licence}" not in path.read_text()[:400]:
            wrong.append(str(path.relative_to(ROOT)))
    assert not wrong


def test_no_source_is_too_long() -> None:
    long = {
        str(path.relative_to(ROOT)): lines
        for path in sources()
        if (lines := len(path.read_text().splitlines())) > MAX_LINES
    }
    assert not long


@pytest.mark.parametrize(
    "pattern", [r"/home/\w", r"/root/", r"/work/", r"\bTODO\b|\bFIXME\b|\bXXX\b"]
)
def test_no_path_of_a_machine_and_no_unfinished_mark(pattern: str) -> None:
    found = []
    for path in tracked():
        if path.suffix == ".lock" or path == Path(__file__):
            continue
        try:
            text = path.read_text()
        except UnicodeDecodeError:
            continue
        found += [f"{path.relative_to(ROOT)}: {m[0]}" for m in re.finditer(pattern, text)]
    assert not found
