# SPDX-License-Identifier: Apache-2.0
"""security.istio.io/v1 PeerAuthentication: whether a workload takes TCP that proves no identity."""

from dataclasses import dataclass
from enum import StrEnum, unique

from mesh.model.labels import NO_LABELS, Labels
from mesh.model.policy import Origin, PolicyKind, PolicyName

__all__ = ["MtlsMode", "PeerAuthentication"]


@unique
class MtlsMode(StrEnum):
    """PeerAuthentication.MutualTLS.Mode. UNSET asks the next wider policy."""

    UNSET = "UNSET"
    DISABLE = "DISABLE"
    PERMISSIVE = "PERMISSIVE"
    STRICT = "STRICT"


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerAuthentication:
    """One PeerAuthentication. Port modes mean something only with a selector, as in Istio."""

    namespace: str
    name: str
    selector: Labels = NO_LABELS
    mode: MtlsMode = MtlsMode.UNSET
    port_modes: tuple[tuple[int, MtlsMode], ...] = ()
    """Of single ports of the workload; each port once."""
    origin: Origin

    @property
    def key(self) -> PolicyName:
        """Kind, namespace and name."""
        return PolicyName(PolicyKind.PEER_AUTHENTICATION, self.namespace, self.name)
