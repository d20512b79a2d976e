# SPDX-License-Identifier: Apache-2.0
"""The errors of the agent, as one tree.

::

    MeshError                (mesh.model.errors; ModelError hangs there too)
    ├── ConfigError          a setting or the mesh file is not usable
    ├── LockError            another agent of this node runs already
    ├── DataplaneError       the kernel half
    │   ├── LoadError            a program did not compile or was refused by the verifier
    │   ├── AbiMismatchError     pinned maps have another layout than this agent
    │   ├── AttachError          a hook could not be attached
    │   ├── MapError             a map could not be read or written
    │   └── NetlinkError         an address, rule or route could not be set in a pod
    ├── PkiError             certificates
    │   ├── CsrRejectedError     the authority refused to issue
    │   ├── SvidExpiredError     no valid certificate is left for an identity
    │   └── SvidInvalidError     certificate, key and roots do not fit (agent.pki.svid)
    ├── TunnelError          the Rust core
    └── AdminError           an agent could not be asked, or refused what was asked

The text of every error is a sentence for the person on call, with the likely cause where it is
known. A vendor's exception stops at its doorway and is chained as the cause. A refused connection
is not an error: it is a numbered :class:`mesh.reasons.Reason`.
"""

from mesh.model.errors import MeshError

__all__ = [
    "AbiMismatchError",
    "AdminError",
    "AttachError",
    "ConfigError",
    "CsrRejectedError",
    "DataplaneError",
    "LoadError",
    "LockError",
    "MapError",
    "MeshError",
    "NetlinkError",
    "PkiError",
    "SvidExpiredError",
    "TunnelError",
]


class ConfigError(MeshError):
    """A setting or the mesh file is unusable; the text names the field and, in a file, the line."""


class LockError(MeshError):
    """Another agent of the same node holds the lock of the state directory."""


class DataplaneError(MeshError):
    """The kernel half refused something."""


class LoadError(DataplaneError):
    """A BPF program did not compile, or was refused by the verifier; ends with its words."""


class AbiMismatchError(DataplaneError):
    """A pinned map or struct has another layout than this agent was built for."""


class AttachError(DataplaneError):
    """A hook could not be attached, or the kernel lacks it; the text names the feature."""


class MapError(DataplaneError):
    """A BPF map could not be read or written; a full map is named."""


class NetlinkError(DataplaneError):
    """An address, rule, route or sysctl could not be set in a pod's network namespace."""


class PkiError(MeshError):
    """A certificate could not be had."""


class CsrRejectedError(PkiError):
    """The authority refused to issue; asking again without a change will not help."""


class SvidExpiredError(PkiError):
    """No valid certificate is left for an identity."""


class TunnelError(MeshError):
    """The Rust core could not be started, or one of its workers died."""


class AdminError(MeshError):
    """The admin socket of an agent could not be reached, or answered with a refusal."""
