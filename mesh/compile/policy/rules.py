# SPDX-License-Identifier: Apache-2.0
"""A rule: one bit of a policy set, whatever policy it comes from."""

from dataclasses import dataclass, field
from typing import NamedTuple

from mesh.compile.policy.peers import ANYBODY, PeerTest
from mesh.compile.policy.ports import PortRange
from mesh.model.network_policy import IpNetwork
from mesh.model.policy import Origin, PolicyName
from mesh.tables import RuleKind

__all__ = ["ANYWHERE", "BlockTest", "Rule"]


class BlockTest(NamedTuple):
    """Addresses within any of ``within`` (empty: all) and within none of ``outside``."""

    within: tuple[IpNetwork, ...]
    outside: tuple[IpNetwork, ...]

    def holds(self, network: IpNetwork) -> bool:
        """Whether every address of a prefix is meant, or none; prefixes are cut so that one is."""
        return (not self.within or _holds_any(self.within, network)) and not _holds_any(
            self.outside, network
        )


ANYWHERE: tuple[BlockTest, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """Matches where every test of the peer, every test of its address and one port range does."""

    kind: RuleKind
    policy: PolicyName
    rule: str
    """Where in the policy, as people write a field: ``ingress[0].from[1]``."""
    peer: tuple[PeerTest, ...] = ANYBODY
    blocks: tuple[BlockTest, ...] = ANYWHERE
    ports: tuple[PortRange, ...] | None = None
    """None: every protocol. Empty: nothing."""
    origin: Origin = field(compare=False)
    """Not part of what the rule is: a line that moves changes no verdict."""

    @property
    def order(self) -> tuple[int, PolicyName]:
        """By kind, then by name of the policy; the rules of one policy keep their order."""
        return self.kind, self.policy


def _holds_any(networks: tuple[IpNetwork, ...], network: IpNetwork) -> bool:
    return any(
        one.version == network.version and network.subnet_of(one)  # type: ignore[arg-type]
        for one in networks
    )
