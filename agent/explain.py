# SPDX-License-Identifier: Apache-2.0
"""Why one workload may or may not reach another: what this node's kernel says, by which rules.

An agent holds the policies of its own pods only. So the sender's node says whether it may send, the
receiver's whether it may enter; about the other half of a connection between nodes, the other
node's agent has to be asked.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from agent.dataplane.verdicts import Question, Verdict
from mesh.model.address import IpAddress, family_of, parse_address
from mesh.model.errors import InvalidAddressError
from mesh.model.service import Protocol, Service, ServiceName
from mesh.model.workload import Workload
from mesh.reasons import EXPLANATIONS, Reason
from mesh.state import MeshState
from mesh.tables import Route, RuleKey, RuleKind, RuleRow, Tables, WorkloadId

__all__ = ["WORST_FIRST", "Explainer"]

WORST_FIRST: Final = ("refused", "unknown", "allowed")
"""Of the verdicts of both directions, the first of these is that of the connection."""

_SHOWN: Final = 20
_PROTOCOLS: Final[Mapping[str, int]] = {"TCP": 6, "UDP": 17, "SCTP": 132, "ICMP": 1}

_WANTED: Final[Mapping[Reason, RuleKind]] = {
    Reason.NETWORK_POLICY: RuleKind.NETWORK,
    Reason.NO_ALLOW_RULE: RuleKind.ALLOW,
}
"""For a refusal that comes of a lack: the kind of rule that would have permitted."""


@dataclass(frozen=True, slots=True)
class _End:
    """One side: a workload, or just an address."""

    workload: Workload | None
    addresses: tuple[IpAddress, ...]

    def address_like(self, other: "_End") -> IpAddress | None:
        families = {family_of(address) for address in other.addresses}
        return next((one for one in self.addresses if family_of(one) in families), None)


class Explainer:
    """Answers questions about the state and the Tables in force."""

    def __init__(
        self, state: MeshState, tables: Tables, node: str, ask: Callable[[Question], Verdict]
    ) -> None:
        self._state = state
        self._tables = tables
        self._node = node
        self._ask = ask

    def explain(
        self, source: str, target: str, *, port: int | str, protocol: str = "TCP"
    ) -> dict[str, Any]:
        """Everything there is to say.

        ``source`` and ``target`` are ``namespace/name`` or addresses; ``target`` may be a service,
        and ``port`` the name of one of its ports, or of the target pod's.
        Raises ValueError for what does not exist.
        """
        wire = _wire_protocol(protocol)
        sender = self._end(source)
        service, receiver, number = self._target(target, port, protocol)
        here = receiver.address_like(sender)
        there = sender.address_like(receiver)
        if here is None or there is None:
            raise ValueError(f"{source} and {target} have no address of one family")
        halves = [
            self._half(sender, receiver, here, number, wire, egress=True),
            self._half(receiver, sender, there, number, wire, egress=False),
        ]
        verdicts = {half["verdict"] for half in halves}
        return {
            "source": self._describe(sender, there),
            "destination": {**self._describe(receiver, here), "port": number, "service": service},
            "protocol": protocol,
            "route": self._route_of(sender, receiver, here, protocol),
            "attested": self._attested(sender, receiver, wire),
            "directions": halves,
            "verdict": next(one for one in WORST_FIRST if one in verdicts),
        }

    def verdict(
        self, source: str, target: str, *, port: int, protocol: str, egress: bool
    ) -> Verdict | None:
        """What the policy of one end says now, of two addresses or workloads, without explanation.

        None where that end's policies are not here. Raises ValueError as explain() does.
        """
        sender, receiver = self._end(source), self._end(target)
        subject, peer = (sender, receiver) if egress else (receiver, sender)
        address = peer.address_like(subject)
        if address is None:
            raise ValueError(f"{source} and {target} have no address of one family")
        return self._judge(subject, peer, address, port, _wire_protocol(protocol), egress=egress)

    def rule(self, key: RuleKey | None) -> dict[str, Any] | None:
        """A rule that a verdict names, if it names one."""
        row = None if key is None else self._tables.rules.get(key)
        return None if row is None else _rule(row)

    def _end(self, text: str) -> _End:
        workload = self._workload(text)
        if workload is not None:
            return _End(workload, workload.addresses)
        try:
            address = parse_address(text)
        except InvalidAddressError:
            raise ValueError(f"{text!r} is no workload (namespace/name) and no address") from None
        for uid in self._state.workloads_by_address[address]:
            return _End(self._state.workloads[uid], (address,))
        return _End(None, (address,))

    def _workload(self, text: str) -> Workload | None:
        namespace, _, name = text.partition("/")
        for uid in self._state.workloads_by_namespace[namespace]:
            if self._state.workloads[uid].name == name:
                return self._state.workloads[uid]
        return None

    def _target(self, text: str, port: int | str, protocol: str) -> tuple[str, _End, int]:
        """The service that was named, if one was, an endpoint of it, and the endpoint's port."""
        namespace, _, name = text.partition("/")
        service = self._state.services.get(ServiceName(namespace, name))
        wanted = Protocol[protocol] if protocol in Protocol.__members__ else Protocol.ANY
        if service is None or self._workload(text) is not None:
            end = self._end(text)
            return "", end, _own_port(text, end.workload, port, wanted)
        number = _service_port(service, port, wanted)
        for frontend in self._tables.frontends.values():
            key = frontend.key
            if key.address not in service.vips or (key.port, key.protocol) != (number, wanted):
                continue
            for endpoint in self._tables.endpoints.values():
                if endpoint.key.frontend_id == frontend.frontend_id:
                    return text, self._end(str(endpoint.address)), endpoint.port
            raise ValueError(f"service {text} has no endpoint for port {port}")
        ports = ", ".join(f"{one.port} {one.name}".rstrip() for one in service.ports)
        raise ValueError(f"service {text} has no {protocol} port {port}; it has {ports}")

    def _describe(self, end: _End, address: IpAddress) -> dict[str, Any]:
        workload = end.workload
        if workload is None:
            return {"workload": "", "address": str(address), "identity": "", "node": ""}
        return {
            "workload": f"{workload.namespace}/{workload.name}",
            "address": str(address),
            "identity": str(workload.identity),
            "node": workload.node,
        }

    def _route_of(self, sender: _End, receiver: _End, address: IpAddress, protocol: str) -> str:
        """How the sender's node sends it on: only TCP of an enrolled pod is ever captured."""
        row = self._tables.workloads.get(address)
        if row is not None and row.route is Route.DENY:
            return "deny"
        if protocol != "TCP" or not self._enrolled(sender) or not self._enrolled(receiver):
            return "direct"
        ends = [end.workload.node for end in (sender, receiver) if end.workload is not None]
        if ends[0] == self._node:
            return self._route(address)
        # The rows of this node are not those of the sender's.
        return "tunnel" if len(set(ends)) > 1 else "direct"

    def _enrolled(self, end: _End) -> bool:
        row = self._tables.workloads.get(end.addresses[0])
        return end.workload is not None and row is not None and row.enrolled

    def _route(self, address: IpAddress) -> str:
        row = self._tables.workloads.get(address)
        return "direct" if row is None else row.route.name.lower()

    def _attested(self, sender: _End, receiver: _End, protocol: int) -> str:
        """How the receiver knows who sends."""
        if protocol != _PROTOCOLS["TCP"] or not (
            self._enrolled(sender) and self._enrolled(receiver)
        ):
            return "no"
        nodes = {end.workload.node for end in (sender, receiver) if end.workload is not None}
        direct = len(nodes) == 1 and self._route(receiver.addresses[0]) == Route.DIRECT.name.lower()
        return "nonce" if direct else "certificate"

    def _half(
        self,
        subject: _End,
        peer: _End,
        address: IpAddress,
        port: int,
        protocol: int,
        *,
        egress: bool,
    ) -> dict[str, Any]:
        verdict = self._judge(subject, peer, address, port, protocol, egress=egress)
        answer = self._unjudged(subject) if verdict is None else self._answer(verdict)
        return {"direction": "egress" if egress else "ingress", **answer}

    def _judge(
        self,
        subject: _End,
        peer: _End,
        address: IpAddress,
        port: int,
        protocol: int,
        *,
        egress: bool,
    ) -> Verdict | None:
        number = self._number(subject)
        row = self._tables.subjects.get(number)
        if row is None or not row.judged:
            return None
        question = Question(
            subject=number,
            peer=self._number(peer),
            address=address,
            port=port,
            protocol=protocol,
            egress=egress,
            attested=not egress and self._attested(peer, subject, protocol) != "no",
        )
        return self._ask(question)

    def _unjudged(self, subject: _End) -> dict[str, Any]:
        """What there is to say of somebody whose policies are not here."""
        workload = subject.workload
        if workload is not None and workload.node != self._node:
            detail = f"its policies are known on its own node: ask --node {workload.node}"
            return {"verdict": "unknown", "node": workload.node, "detail": detail}
        return {"verdict": "allowed", "detail": "not a pod of the mesh, so nothing judges it here"}

    def _number(self, end: _End) -> WorkloadId:
        for address in end.addresses:
            row = self._tables.workloads.get(address)
            if row is not None:
                return row.workload_id
        return WorkloadId(0)

    def _answer(self, verdict: Verdict) -> dict[str, Any]:
        rule = self._tables.rules.get(verdict.rule) if verdict.rule is not None else None
        refused = verdict.reason is not Reason.NONE
        wanted = _WANTED.get(verdict.reason)
        rules = [row for key, row in self._tables.rules.items() if key.set_id == verdict.set_id]
        return {
            "verdict": "refused" if refused else "allowed",
            "reason": verdict.reason.text,
            "explanation": EXPLANATIONS[verdict.reason] if refused else "",
            "generation": verdict.generation,
            "policy_set": int(verdict.set_id),
            "peer_class": verdict.peer_class,
            "rules": len(rules),
            "decided_by": self.rule(verdict.rule),
            "would_permit": [_rule(row) for row in rules if row.kind is wanted][:_SHOWN],
            "dry_run_would_refuse": verdict.dry_deny,
            "detail": _detail(verdict, rule),
        }


def _wire_protocol(protocol: str) -> int:
    """Its number. Raises ValueError."""
    if protocol not in _PROTOCOLS:
        raise ValueError(f"protocol must be one of {', '.join(_PROTOCOLS)}, not {protocol!r}")
    return _PROTOCOLS[protocol]


def _own_port(text: str, workload: Workload | None, port: int | str, protocol: Protocol) -> int:
    """The number of a pod's port. Raises ValueError where it has none of that name."""
    if isinstance(port, int):
        return port
    number = None if workload is None else workload.port_named(port, protocol)
    if number is None:
        names = () if workload is None else workload.ports
        known = ", ".join(f"{one.name} ({one.port}/{one.protocol.name})" for one in names)
        raise ValueError(f"{text} has no {protocol.name} port {port!r}; it has {known or 'none'}")
    return number


def _service_port(service: Service, port: int | str, protocol: Protocol) -> int | None:
    """The number of a service's port; None where it has none of that name."""
    if isinstance(port, int):
        return port
    found = (one.port for one in service.ports if (one.name, one.protocol) == (port, protocol))
    return next(found, None)


def _rule(row: RuleRow) -> dict[str, Any]:
    return {
        "policy": str(row.policy),
        "rule": row.rule,
        "kind": row.kind.name.lower(),
        "file": row.origin.file,
        "line": row.origin.line,
    }


def _detail(verdict: Verdict, rule: RuleRow | None) -> str:
    if rule is not None:
        return f"{rule.policy} {rule.rule} ({rule.origin})"
    if verdict.reason is Reason.NONE:
        return "no policy selects the pod in this direction" if not verdict.set_id else ""
    return ""
