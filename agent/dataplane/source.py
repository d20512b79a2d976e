# SPDX-License-Identifier: Apache-2.0
"""The C sources of the kernel half, joined into the one text that BCC compiles.

BCC rewrites map accesses only in the text that it is given, not inside an included header; so the
``.c`` files are joined with ``#line`` marks, which keeps file and line true in every message.
"""

from pathlib import Path

__all__ = ["PARTS", "bpf_directory", "include_directory", "joined_source"]

PARTS = (
    "common.c",
    "decide.c",
    "dial.c",
    "connect.c",
    "udp.c",
    "hooks.c",
    "bind.c",
    "flows.c",
    "packet.c",
    "nonce.c",
    "peering.c",
    "node.c",
    "refuse.c",
    "upkeep.c",
    "inspect.c",
    "outgoing.c",
    "plain.c",
    "guard.c",
    "recheck.c",
    "seal.c",
)
"""The parts in the order in which they are joined: each uses only what stands before it."""


def bpf_directory() -> Path:
    """Where the C sources are: ``bpf/`` beside the ``agent`` package, or packed inside it."""
    packages = Path(__file__).resolve().parent.parent
    for candidate in (packages.parent / "bpf", packages / "bpf"):
        if (candidate / PARTS[0]).is_file():
            return candidate
    raise FileNotFoundError(f"The BPF sources are not beside the agent package ({packages}).")


def include_directory() -> Path:
    """Where mesh_types.h and its siblings are."""
    return bpf_directory() / "include"


def joined_source(directory: Path | None = None) -> str:
    """All parts as one text; every line keeps its own file and number."""
    home = bpf_directory() if directory is None else directory
    texts = (f'#line 1 "bpf/{part}"\n{(home / part).read_text()}' for part in PARTS)
    return "\n".join(texts)
