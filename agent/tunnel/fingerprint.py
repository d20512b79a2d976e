# SPDX-License-Identifier: Apache-2.0
"""Whether the built core is that of the sources beside it.

An editable install runs Python from the working tree, but Rust from the last build: without a check
a change in ``hbone/`` would seem to have no effect.
"""

import zlib
from pathlib import Path

__all__ = ["source_fingerprint"]

_CRATES = ("core", "proto", "python", "sys", "tls")


def source_fingerprint(workspace: Path) -> str | None:
    """What ``_hbone.build_fingerprint()`` says if built now; None without sources (a wheel).

    The same computation stands in ``hbone/python/build.rs``, where it is described.

    Raises:
        OSError: a source file cannot be read.

    """
    if not (workspace / "Cargo.toml").is_file():
        return None
    files = [workspace / "Cargo.toml", workspace / "Cargo.lock"]
    for crate in _CRATES:
        files += [workspace / crate / "Cargo.toml", workspace / crate / "build.rs"]
        files += (workspace / crate / "src").rglob("*.rs")
    named = sorted((file.relative_to(workspace).as_posix(), file) for file in files)
    crc, length = 0, 0
    for name, file in named:
        if file.is_file():
            text = name.encode() + b"\0" + file.read_bytes() + b"\0"
            crc = zlib.crc32(text, crc)
            length += len(text)
    return f"{crc:08x}{length:08x}"
