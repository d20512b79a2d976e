# SPDX-License-Identifier: Apache-2.0
"""Which policies judge a pod, and the rules that they make for it."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from mesh.compile.policy.authorization import authorization_rules, strict_rules
from mesh.compile.policy.network import NamedPorts, egress_rules, ingress_rules
from mesh.compile.policy.rules import Rule
from mesh.model.authorization_policy import Action, AuthorizationPolicy
from mesh.model.network_policy import NetworkPolicy, PolicyTypes
from mesh.model.peer_authentication import MtlsMode, PeerAuthentication
from mesh.model.policies import Policy
from mesh.model.workload import Workload

__all__ = ["Book", "Judgement", "Selected"]


@dataclass(frozen=True, slots=True)
class Judgement:
    """The rules for one direction of a pod, in order, and what must be permitted."""

    rules: tuple[Rule, ...] = ()
    isolated: bool = False
    allow_needed: bool = False
    dry_allow_needed: bool = False

    @property
    def is_empty(self) -> bool:
        """Whether no policy judges."""
        return not (self.rules or self.isolated or self.allow_needed or self.dry_allow_needed)


@dataclass(frozen=True, slots=True)
class Selected:
    """The policies that select a pod; equal ones give equal rules to pods with equal ports."""

    network: tuple[NetworkPolicy, ...]
    authorization: tuple[AuthorizationPolicy, ...]
    mode: PeerAuthentication | None
    """The one whose mode holds."""
    port_modes: PeerAuthentication | None

    def ingress(self, subject: Workload) -> Judgement:
        """What judges that which the pod receives."""
        rules: list[Rule] = list(strict_rules(self.mode, self.port_modes))
        for authorization in self.authorization:
            rules += authorization_rules(authorization)
        isolating = [one for one in self.network if PolicyTypes.INGRESS in one.types]
        for network in isolating:
            rules += ingress_rules(network, subject)
        return Judgement(
            rules=_ordered(rules),
            isolated=bool(isolating),
            allow_needed=self._allows(dry_run=False),
            dry_allow_needed=self._allows(dry_run=True),
        )

    def egress(self, named: NamedPorts) -> Judgement:
        """What judges that which the pod sends: NetworkPolicies alone."""
        isolating = [one for one in self.network if PolicyTypes.EGRESS in one.types]
        rules = [rule for network in isolating for rule in egress_rules(network, named)]
        return Judgement(rules=_ordered(rules), isolated=bool(isolating))

    def _allows(self, *, dry_run: bool) -> bool:
        return any(
            one.action is Action.ALLOW and one.dry_run == dry_run for one in self.authorization
        )


class Book:
    """Policies by where they hold, so that a pod is compared with those of its namespace only."""

    def __init__(self, policies: Iterable[Policy], root_namespace: str) -> None:
        self._root = root_namespace
        self._network: Mapping[str, list[NetworkPolicy]] = defaultdict(list)
        self._authorization: Mapping[str, list[AuthorizationPolicy]] = defaultdict(list)
        self._authentication: Mapping[str, list[PeerAuthentication]] = defaultdict(list)
        for policy in sorted(policies, key=lambda one: one.key):
            match policy:
                case NetworkPolicy():
                    self._network[policy.namespace].append(policy)
                case AuthorizationPolicy():
                    if not policy.targets_waypoint:
                        self._authorization[policy.namespace].append(policy)
                case PeerAuthentication():
                    self._authentication[policy.namespace].append(policy)

    def select(self, workload: Workload) -> Selected:
        """The policies for one pod."""
        namespace, labels = workload.namespace, workload.labels
        places = (namespace,) if namespace == self._root else (namespace, self._root)
        own = self._own_authentication(workload)
        mode = next((one for one in self._modes(own, namespace) if _says(one)), None)
        return Selected(
            network=tuple(
                one for one in self._network.get(namespace, ()) if one.pods.match(labels)
            ),
            authorization=tuple(
                one
                for place in places
                for one in self._authorization.get(place, ())
                if labels.match(one.selector)
            ),
            mode=mode,
            port_modes=own,
        )

    def _own_authentication(self, workload: Workload) -> PeerAuthentication | None:
        """The first, by name, of its namespace whose selector matches (Istio takes the oldest)."""
        for one in self._authentication.get(workload.namespace, ()):
            if len(one.selector) and workload.labels.match(one.selector):
                return one
        return None

    def _modes(
        self, own: PeerAuthentication | None, namespace: str
    ) -> Iterable[PeerAuthentication | None]:
        yield own
        yield self._wide(namespace)
        yield self._wide(self._root)

    def _wide(self, namespace: str) -> PeerAuthentication | None:
        wide = (one for one in self._authentication.get(namespace, ()) if not len(one.selector))
        return next(wide, None)


def _says(policy: PeerAuthentication | None) -> bool:
    return policy is not None and policy.mode is not MtlsMode.UNSET


def _ordered(rules: list[Rule]) -> tuple[Rule, ...]:
    return tuple(sorted(rules, key=lambda rule: rule.order))
