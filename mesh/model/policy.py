# SPDX-License-Identifier: Apache-2.0
"""What all policies have in common: a name, a place where each rule is written, a selector."""

from dataclasses import dataclass
from enum import StrEnum, unique

from mesh.model.errors import InvalidPolicyError
from mesh.model.labels import NO_LABELS, Labels

__all__ = [
    "EVERYTHING",
    "LabelSelector",
    "Operator",
    "Origin",
    "PolicyKind",
    "PolicyName",
    "Requirement",
]


@unique
class PolicyKind(StrEnum):
    """The kind of a policy as it is spelt in YAML."""

    NETWORK_POLICY = "NetworkPolicy"
    AUTHORIZATION_POLICY = "AuthorizationPolicy"
    PEER_AUTHENTICATION = "PeerAuthentication"


@dataclass(frozen=True, slots=True, order=True)
class PolicyName:
    """The key of a policy."""

    kind: PolicyKind
    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.kind.value} {self.namespace}/{self.name}"


@dataclass(frozen=True, slots=True, order=True)
class Origin:
    """Where something is written; ``line`` counts from 1, 0 where there is no file."""

    file: str
    line: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}" if self.line else self.file


@unique
class Operator(StrEnum):
    """How a requirement compares (metav1.LabelSelectorOperator)."""

    IN = "In"
    NOT_IN = "NotIn"
    EXISTS = "Exists"
    DOES_NOT_EXIST = "DoesNotExist"


@dataclass(frozen=True, slots=True, order=True)
class Requirement:
    """One matchExpressions entry (metav1.LabelSelectorRequirement)."""

    key: str
    operator: Operator
    values: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        needs_values = self.operator in (Operator.IN, Operator.NOT_IN)
        if needs_values != bool(self.values):
            wants = "at least one value" if needs_values else "no values"
            raise InvalidPolicyError(
                f"operator {self.operator.value} on {self.key!r} takes {wants}", value=self.values
            )

    def match(self, labels: Labels) -> bool:
        """Whether labels meet it. NotIn is met where the key is missing, as in Kubernetes."""
        value = labels.get(self.key)
        match self.operator:
            case Operator.IN:
                return value in self.values
            case Operator.NOT_IN:
                return value not in self.values
            case Operator.EXISTS:
                return value is not None
            case Operator.DOES_NOT_EXIST:
                return value is None


@dataclass(frozen=True, slots=True)
class LabelSelector:
    """metav1.LabelSelector: every label and every expression must match; empty matches all."""

    labels: Labels = NO_LABELS
    expressions: tuple[Requirement, ...] = ()

    def match(self, labels: Labels) -> bool:
        """Whether something with these labels is selected."""
        return labels.match(self.labels) and all(one.match(labels) for one in self.expressions)

    @property
    def keys(self) -> frozenset[str]:
        """The label keys it looks at."""
        return frozenset(key for key, _ in self.labels.items()) | {
            one.key for one in self.expressions
        }


EVERYTHING = LabelSelector()
