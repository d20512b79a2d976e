# SPDX-License-Identifier: Apache-2.0
"""An agent whose Rust core is not that of the sources beside it does not start."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from agent.tunnel import _hbone
from agent.tunnel.core import require_core
from agent.tunnel.fingerprint import source_fingerprint

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """Python, the sources of the core, and the core as it is built here."""
    leave = shutil.ignore_patterns("target", "fuzz", "__pycache__", "*.so")
    for folder in ("agent", "mesh", "cli", "wire", "hbone"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=leave)
    built = Path(_hbone.__file__)
    (tmp_path / "agent" / "tunnel" / built.name).symlink_to(built)
    return tmp_path


def start(checkout: Path) -> subprocess.CompletedProcess[str]:
    """Start an agent there; with these sources it gets as far as its state directory, a file."""
    blocked = checkout / "no-directory"
    blocked.touch()
    arguments = ["mesh.yaml", "--node", "n", "--state-dir", str(blocked)]
    return subprocess.run(
        [sys.executable, "-m", "cli", "agent", *arguments],
        cwd=checkout,
        env={**os.environ, "PYTHONPATH": str(checkout)},
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_core_of_these_sources_is_taken(checkout: Path) -> None:
    require_core()
    done = start(checkout)
    assert "cannot use the state directory" in done.stderr
    assert done.returncode == 1


@pytest.mark.parametrize("change", ["edited", "added", "removed"])
def test_a_core_of_other_sources_is_refused(checkout: Path, change: str) -> None:
    sources = checkout / "hbone"
    crate = sources / "sys" / "src"
    one = min(crate.glob("*.rs"))
    match change:
        case "edited":
            one.write_text(one.read_text() + "\n")
        case "added":
            (crate / "new.rs").touch()
        case _:
            one.unlink()
    done = start(checkout)
    assert done.returncode == 1
    assert done.stderr == (
        f"nodemesh: the Rust core was built from other sources than those in {sources} "
        f"(fingerprint {_hbone.build_fingerprint()}, not {source_fingerprint(sources)}): "
        "run `make setup`, which builds it anew\n"
    )


def test_without_sources_there_is_nothing_to_compare(checkout: Path) -> None:
    shutil.rmtree(checkout / "hbone")
    assert "cannot use the state directory" in start(checkout).stderr
