# SPDX-License-Identifier: Apache-2.0
"""AuthorizationPolicies out of a mesh file (Istio's security API, AuthorizationPolicy).

Fields that only HTTP can answer are kept by their names: the compiler decides what layer 4 makes of
a rule that has them, and says so.
"""

import re
from difflib import get_close_matches
from typing import Final

from agent.sources.policy_fields import Fields, Raw
from agent.sources.problems import FieldPath
from mesh.model.authorization_policy import (
    Action,
    AuthorizationPolicy,
    AuthorizationRule,
    Match,
    MatchKind,
    Operation,
    Source,
)

__all__ = ["authorization_policy"]

_DRY_RUN: Final = "istio.io/dry-run"
_TRUE: Final = ("true", "True", "TRUE", "t", "T", "1", True)
_FALSE: Final = ("false", "False", "FALSE", "f", "F", "0", False)
_SOURCE_LAYER7: Final = ("requestPrincipals", "notRequestPrincipals")
_SOURCE: Final = (
    *("principals", "notPrincipals", "namespaces", "notNamespaces"),
    *("serviceAccounts", "notServiceAccounts", "ipBlocks", "notIpBlocks"),
    *("remoteIpBlocks", "notRemoteIpBlocks"),
    *_SOURCE_LAYER7,
)
_OPERATION_LAYER7: Final = ("hosts", "notHosts", "methods", "notMethods", "paths", "notPaths")
_CONDITION_LAYER7: Final = re.compile(
    r"request\.headers\[.+\]|request\.auth\.(principal|audiences|presenter|claims(\[.+?\])+)"
    r"|connection\.sni|experimental\.envoy\.filters\..+"
)
_CONDITIONS: Final = (
    *("source.ip", "remote.ip", "source.namespace", "source.principal", "source.serviceAccount"),
    *("destination.port", "request.headers[NAME]", "request.auth.principal"),
    *("request.auth.audiences", "request.auth.presenter", "request.auth.claims[NAME]"),
    *("connection.sni", "experimental.envoy.filters.NAME"),
)
"""Istio, "Authorization Policy Conditions"."""
_OPERATION: Final = ("ports", "notPorts", *_OPERATION_LAYER7)


def authorization_policy(
    fields: Fields, raw: Raw, namespace: str, name: str, path: FieldPath
) -> AuthorizationPolicy | None:
    """One policy; what is wrong with it is in ``fields.problems``."""
    where = (*path, "spec")
    known = ("selector", "targetRef", "targetRefs", "rules", "action", "provider")
    spec = fields.mapping(raw.get("spec"), where, known)
    selector = fields.mapping(spec.get("selector"), (*where, "selector"), ("matchLabels",))
    place = (*where, "selector", "matchLabels")
    targets = "targetRef" in spec or "targetRefs" in spec
    fields.items(spec, "targetRefs", where, filled=True)
    if "targetRef" in spec and not (isinstance(spec["targetRef"], dict) and spec["targetRef"]):
        fields.refuse((*where, "targetRef"), "must be a mapping that names a target")
    if targets and "selector" in spec:
        fields.refuse((*where, "selector"), "cannot stand beside targetRefs")
    action = fields.choice(spec, "action", where, [one.value for one in Action]) or "ALLOW"
    return AuthorizationPolicy(
        namespace=namespace,
        name=name,
        action=Action(action),
        selector=fields.labels(selector.get("matchLabels"), place),
        dry_run=_dry_run(fields, raw, path),
        targets_waypoint=targets,
        rules=tuple(
            _rule(fields, one, namespace, at) for one, at in fields.items(spec, "rules", where)
        ),
        origin=fields.origin(path),
    )


def _dry_run(fields: Fields, raw: Raw, path: FieldPath) -> bool:
    """The annotation, as Istio reads a truth value (Go's strconv.ParseBool)."""
    metadata = raw.get("metadata")
    if not isinstance(metadata, dict):
        return False
    where = (*path, "metadata", "annotations")
    annotations = metadata.get("annotations")
    if annotations is not None and not isinstance(annotations, dict):
        fields.refuse(where, "must be a mapping")
        return False
    value = (annotations or {}).get(_DRY_RUN, "false")
    if value not in (*_TRUE, *_FALSE):
        fields.refuse((*where, _DRY_RUN), 'must be "true" or "false"')
    return value in _TRUE


def _rule(fields: Fields, value: object, namespace: str, path: FieldPath) -> AuthorizationRule:
    raw = fields.mapping(value, path, ("from", "to", "when"))
    sources: list[Source] = []
    for one, place in fields.items(raw, "from", path, filled=True):
        inner = fields.mapping(one, place, ("source",))
        if not inner.get("source"):
            fields.refuse(place, "must hold a source with at least one field")
        sources.append(_source(fields, inner.get("source"), namespace, (*place, "source")))
    operations: list[Operation] = []
    for one, place in fields.items(raw, "to", path, filled=True):
        inner = fields.mapping(one, place, ("operation",))
        if not inner.get("operation"):
            fields.refuse(place, "must hold an operation with at least one field")
        operations.append(_operation(fields, inner.get("operation"), (*place, "operation")))
    conditions: list[Source | Operation] = []
    layer7: list[str] = []
    for one, place in fields.items(raw, "when", path, filled=True):
        inner = fields.mapping(one, place, ("key", "values", "notValues"))
        key = fields.text(inner, "key", place)
        if not inner.get("values") and not inner.get("notValues"):
            fields.refuse(place, "needs values or notValues")
        condition = _condition(fields, key, inner, namespace, place)
        if condition is None:
            _layer7(fields, inner, ("values", "notValues"), place)
            layer7.append(key)
        else:
            conditions.append(condition)
    return AuthorizationRule(
        sources=tuple(sources),
        operations=tuple(operations),
        conditions=tuple(conditions),
        layer7=tuple(layer7),
        origin=fields.origin(path),
    )


def _source(fields: Fields, value: object, namespace: str, path: FieldPath) -> Source:
    raw = fields.mapping(value, path, _SOURCE)
    return Source(
        principals=_principals(fields, raw, "principals", path),
        not_principals=_principals(fields, raw, "notPrincipals", path),
        namespaces=_matches(fields, raw, "namespaces", path),
        not_namespaces=_matches(fields, raw, "notNamespaces", path),
        service_accounts=_accounts(fields, raw, "serviceAccounts", namespace, path),
        not_service_accounts=_accounts(fields, raw, "notServiceAccounts", namespace, path),
        ip_blocks=fields.networks(raw, "ipBlocks", path, filled=True),
        not_ip_blocks=fields.networks(raw, "notIpBlocks", path, filled=True),
        remote_ip_blocks=fields.networks(raw, "remoteIpBlocks", path, filled=True),
        not_remote_ip_blocks=fields.networks(raw, "notRemoteIpBlocks", path, filled=True),
        layer7=_layer7(fields, raw, _SOURCE_LAYER7, path),
    )


def _operation(fields: Fields, value: object, path: FieldPath) -> Operation:
    raw = fields.mapping(value, path, _OPERATION)
    return Operation(
        ports=_ports(fields, raw, "ports", path),
        not_ports=_ports(fields, raw, "notPorts", path),
        layer7=_layer7(fields, raw, _OPERATION_LAYER7, path),
    )


def _condition(
    fields: Fields, key: str, raw: Raw, namespace: str, path: FieldPath
) -> Source | Operation | None:
    """What layer 4 can answer of ``when`` (Istio, "Authorization Policy Conditions")."""
    found: Source | Operation | None = None
    match key:
        case "source.ip":
            found = Source(
                ip_blocks=fields.networks(raw, "values", path, filled=True),
                not_ip_blocks=fields.networks(raw, "notValues", path, filled=True),
            )
        case "remote.ip":
            found = Source(
                remote_ip_blocks=fields.networks(raw, "values", path, filled=True),
                not_remote_ip_blocks=fields.networks(raw, "notValues", path, filled=True),
            )
        case "source.namespace":
            found = Source(
                namespaces=_matches(fields, raw, "values", path),
                not_namespaces=_matches(fields, raw, "notValues", path),
            )
        case "source.principal":
            found = Source(
                principals=_principals(fields, raw, "values", path),
                not_principals=_principals(fields, raw, "notValues", path),
            )
        case "source.serviceAccount":
            found = Source(
                service_accounts=_accounts(fields, raw, "values", namespace, path),
                not_service_accounts=_accounts(fields, raw, "notValues", namespace, path),
            )
        case "destination.port":
            found = Operation(
                ports=_ports(fields, raw, "values", path),
                not_ports=_ports(fields, raw, "notValues", path),
            )
        case "destination.ip":
            fields.refuse(
                (*path, "key"),
                "destination.ip is not supported: a policy is selected by the workload it protects",
            )
        case _:
            _check_key(fields, key, path)
    return found


def _check_key(fields: Fields, key: str, path: FieldPath) -> None:
    """A key that nobody knows is a slip; taken for layer 7, a DENY rule would refuse too much."""
    if not key or _CONDITION_LAYER7.fullmatch(key):
        return
    close = get_close_matches(key, _CONDITIONS, n=1)
    hint = f"did you mean {close[0]}?" if close else f"known are {', '.join(_CONDITIONS)}"
    fields.refuse((*path, "key"), f"unknown condition {key[:80]!r}; {hint}")


def _layer7(fields: Fields, raw: Raw, keys: tuple[str, ...], path: FieldPath) -> tuple[str, ...]:
    """Those of the fields that stand there; what they hold is checked, and a waypoint's affair."""
    return tuple(key for key in keys if fields.texts(raw, key, path, filled=True))


def _ports(fields: Fields, raw: Raw, key: str, path: FieldPath) -> tuple[int, ...]:
    found = (
        fields.port(value, place) for value, place in fields.items(raw, key, path, filled=True)
    )
    return tuple(port for port in found if port is not None)


def _matches(fields: Fields, raw: Raw, key: str, path: FieldPath) -> tuple[Match, ...]:
    return tuple(_match(text) for text in fields.texts(raw, key, path, filled=True))


def _principals(fields: Fields, raw: Raw, key: str, path: FieldPath) -> tuple[Match, ...]:
    """With and without the scheme, as both are found."""
    texts = fields.texts(raw, key, path, filled=True)
    return tuple(_match(text.removeprefix("spiffe://")) for text in texts)


def _match(text: str) -> Match:
    if text == "*":
        return Match(MatchKind.PRESENCE)
    if text.endswith("*"):
        return Match(MatchKind.PREFIX, text[:-1])
    if text.startswith("*"):
        return Match(MatchKind.SUFFIX, text[1:])
    return Match(MatchKind.EXACT, text)


def _accounts(
    fields: Fields, raw: Raw, key: str, namespace: str, path: FieldPath
) -> tuple[str, ...]:
    """``namespace/name``, or a name of the policy's own namespace."""
    texts = fields.texts(raw, key, path, filled=True)
    for index, text in enumerate(texts):
        if "*" in text or text.count("/") > 1 or not all(text.split("/")):
            fields.refuse((*path, key, index), f"{text!r} is not namespace/name or a name")
    return tuple(text if "/" in text else f"{namespace}/{text}" for text in texts)
