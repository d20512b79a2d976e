# SPDX-License-Identifier: Apache-2.0
"""From C to pinned programs: fingerprint, child process, staging directory, rename.

Maps outlive program versions: a new program is compiled against the pins of the old maps. A half
made version never has its final name, so what has one is whole.
"""

import hashlib
import json
import os
import re
import shutil
import subprocess
from pathlib import Path

from agent.dataplane import bpf, compile_child, kernel
from agent.dataplane.layout import MAPS, PROGRAMS, VERSION_MAPS, Pins
from agent.dataplane.source import include_directory, joined_source
from agent.errors import AbiMismatchError, LoadError

__all__ = ["check_maps", "ensure_programs", "fingerprint"]

SYSTEM_PYTHON = "/usr/bin/python3"
"""The interpreter that has BCC (Debian: python3-bpfcc)."""

COMPILE_TIMEOUT_SECONDS = 300.0
"""2 s on a fast machine; emulated ones need a hundred times that."""


def _flags() -> list[str]:
    """No -Werror: BCC's prologue draws in kernel headers, and newer ones warn under its clang."""
    flags = ["-Wall", f"-I{include_directory()}"]
    if not kernel.has_mptcp():
        flags.append("-DMESH_NO_MPTCP")
    return flags


def fingerprint() -> str:
    """Names a program version: a hash of sources, headers, flags and kernel release."""
    digest = hashlib.sha256()
    headers = sorted(include_directory().glob("*.h"))
    parts = [joined_source(), *(header.read_text() for header in headers), *_flags()]
    for part in (*parts, os.uname().release, os.uname().version):
        digest.update(part.encode() + b"\0")
    return digest.hexdigest()[:16]


def check_maps(directory: Path) -> None:
    """Raises AbiMismatchError that lists every pinned map that is not what this agent expects."""
    problems: list[str] = []
    for name, spec in MAPS.items():
        path = directory / name
        if not path.exists():
            continue
        fd = bpf.obj_get(str(path))
        try:
            info = bpf.map_info(fd)
        finally:
            os.close(fd)
        found = (info.type, info.key_size, info.value_size)
        wanted = (spec.type, spec.key_size, spec.value_size)
        if found != wanted:
            problems.append(f"{name} has (type, key, value) {found}, wanted {wanted}")
    if problems:
        raise AbiMismatchError(
            f"The maps pinned under {directory} have another layout than this agent: "
            + "; ".join(problems)
            + ". Run `nodemesh cleanup` to remove them, or start the agent that made them."
        )


def _run_child(maps: Path, programs: Path) -> None:
    request = {
        "text": joined_source(),
        "cflags": [*_flags(), f'-DMESH_PIN_DIR="{maps}"', f'-DMESH_PROGRAM_DIR="{programs}"'],
        "directory": str(programs),
        "programs": [[one.pin, one.function, one.type, one.attach_type] for one in PROGRAMS],
    }
    command = [os.environ.get("NODEMESH_BCC_PYTHON", SYSTEM_PYTHON), "-I", compile_child.__file__]
    try:
        done = subprocess.run(
            command,
            input=json.dumps(request),
            capture_output=True,
            text=True,
            timeout=COMPILE_TIMEOUT_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise LoadError(f"The BPF compiler process cannot run: {error}") from error
    try:
        answer = json.loads(done.stdout)
    except ValueError as error:
        raise LoadError(
            f"The BPF compiler process ended with {done.returncode}: {done.stderr.strip()[-2000:]}"
        ) from error
    if not answer["ok"]:
        raise LoadError(_explain(answer["stage"], answer["program"], answer["detail"]))


def _explain(stage: str, program: str, detail: str) -> str:
    """One sentence first: a helper that the kernel lacks is named."""
    lacking = re.search(
        r"(?:unknown func|program of this type cannot use helper) (bpf_\w+)", detail
    )
    if lacking:
        return f"This kernel lacks {lacking[1]} for the program {program}.\n{detail}"
    if stage == "import":
        return detail
    subject = f"the program {program}" if program else "the BPF sources"
    return f"Cannot {stage} {subject}.\n{detail}"


def _remove_leftovers(pins: Pins) -> None:
    for path in pins.root.glob("*-new"):
        shutil.rmtree(path)


def _is_whole(programs: Path, maps: Path) -> bool:
    pins = [programs / one.pin for one in PROGRAMS]
    pins += [programs / name for name in VERSION_MAPS]
    pins += [maps / name for name in MAPS]
    return all(pin.exists() for pin in pins)


def ensure_programs(pins: Pins) -> tuple[Path, bool]:
    """The directory of this version's programs, and whether it had to be compiled.

    Raises LoadError, and AbiMismatchError before anything is touched.
    """
    check_maps(pins.maps)
    programs = pins.programs(fingerprint())
    if _is_whole(programs, pins.maps):
        return programs, False
    kernel.ensure_headers()
    pins.root.mkdir(parents=True, exist_ok=True)
    _remove_leftovers(pins)
    if programs.exists():
        shutil.rmtree(programs)
    fresh = not pins.maps.exists()
    maps = pins.maps.with_name("maps-new") if fresh else pins.maps
    staging = programs.with_name(programs.name + "-new")
    maps.mkdir(exist_ok=True)
    staging.mkdir()
    try:
        _run_child(maps, staging)
        if fresh:
            check_maps(maps)
            maps.rename(pins.maps)
        staging.rename(programs)
    except BaseException:
        _remove_leftovers(pins)
        raise
    return programs, True
