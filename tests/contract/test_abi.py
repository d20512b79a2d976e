# SPDX-License-Identifier: Apache-2.0
"""Every mirrored struct has the size and offsets that a C compiler gives the original."""

import shutil
import subprocess
from pathlib import Path

import pytest

from agent.abi.layout import MIRRORS, layout_of, parse_probe, probe_source
from agent.dataplane.source import include_directory

_HEADERS = ("mesh_types.h", "mesh_policy.h")
_COMPILER = shutil.which("clang") or shutil.which("cc")


@pytest.mark.skipif(_COMPILER is None, reason="needs a C compiler")
def test_mirrors_match_the_c_layout(tmp_path: Path) -> None:
    source, binary = tmp_path / "probe.c", tmp_path / "probe"
    source.write_text(probe_source())
    include = str(include_directory())
    command = [str(_COMPILER), "-Wall", "-Werror", "-I", include, str(source), "-o", str(binary)]
    subprocess.run(command, check=True)
    output = subprocess.run([str(binary)], check=True, capture_output=True, text=True).stdout
    assert parse_probe(output) == layout_of()


def _headers() -> str:
    return "\n".join((include_directory() / name).read_text() for name in _HEADERS)


def test_every_c_struct_has_a_mirror() -> None:
    text = _headers()
    structs = {line.split()[1] for line in text.splitlines() if line.startswith("struct ")}
    assert structs - {"address"} == set(MIRRORS)


def test_every_member_is_mirrored() -> None:
    text = _headers()
    for name, mirror in MIRRORS.items():
        body = text.split(f"struct {name} {{\n")[1].split("\n};")[0]
        members = [line.split(";")[0].split()[-1] for line in body.splitlines() if ";" in line]
        members = [member.split("[")[0] for member in members]
        assert members == [field[0] for field in mirror._fields_], name
