# SPDX-License-Identifier: Apache-2.0
"""How other tools name certificate, key and roots in a directory."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

__all__ = ["LAYOUTS", "FileSet", "Layout", "Stamp", "find_files", "stamp"]

Stamp = tuple[tuple[int, int, int, int], ...]
"""Device, inode, size and change time of each file: another one means another content."""


@dataclass(frozen=True, slots=True)
class Layout:
    """File names of one tool."""

    chain: str
    key: str
    roots: str


LAYOUTS: Final = (
    Layout("tls.crt", "tls.key", "ca.crt"),  # Kubernetes TLS secrets, cert-manager
    Layout("svid.pem", "svid_key.pem", "bundle.pem"),  # SPIRE agent's examples
    Layout("svid.pem", "svid_key.pem", "svid_bundle.pem"),  # spiffe-helper's defaults
    Layout("svid.0.pem", "svid.0.key", "bundle.0.pem"),  # spire-agent api fetch x509 -write
    Layout("cert-chain.pem", "key.pem", "root-cert.pem"),  # Istio's OUTPUT_CERTS
)


@dataclass(frozen=True, slots=True)
class FileSet:
    """The three files of one identity."""

    chain: Path
    key: Path
    roots: Path

    @property
    def all(self) -> tuple[Path, Path, Path]:
        """Return the three, chain first."""
        return (self.chain, self.key, self.roots)


def find_files(directory: Path) -> FileSet | None:
    """Return the files of the first layout that is complete there, None if none is."""
    for layout in LAYOUTS:
        files = FileSet(directory / layout.chain, directory / layout.key, directory / layout.roots)
        if all(path.is_file() for path in files.all):
            return files
    return None


def stamp(files: FileSet) -> Stamp:
    """Look at the files through symbolic links (kubelet swaps one). OSError if one is gone."""
    statuses = [path.stat() for path in files.all]
    return tuple((s.st_dev, s.st_ino, s.st_size, s.st_mtime_ns) for s in statuses)
