# SPDX-License-Identifier: Apache-2.0
"""``nodemesh explain``: why a connection is allowed or refused, with the rule and its line."""

import argparse
from collections.abc import Iterator, Mapping
from typing import Any, Final
from urllib.parse import urlencode

from agent.errors import AdminError
from cli.client import AdminClient, find_node
from cli.output import add_output_argument, print_data

__all__ = ["add_arguments", "run"]

STATUS: Final = {"allowed": 0, "refused": 3, "unknown": 4}
"""Exit status by verdict; 1 is for what could not be asked at all."""

_WORST_FIRST: Final = ("refused", "unknown", "allowed")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what the command takes."""
    parser.add_argument("source", metavar="FROM", help="namespace/name of a pod, or an address")
    parser.add_argument(
        "target", metavar="TO", help="namespace/name of a pod or a service, or an address"
    )
    parser.add_argument(
        "--port", default="0", help="port of TO (of a service, its own), by number or by name"
    )
    parser.add_argument(
        "--protocol", default="TCP", type=str.upper, choices=("TCP", "UDP", "SCTP", "ICMP")
    )
    parser.add_argument("--node", help="ask this node's agent; by default the only one here")
    add_output_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Ask, print, and return the status of the verdict."""
    query = urlencode(
        {
            "from": args.source,
            "to": args.target,
            "port": args.port,
            "protocol": args.protocol,
        }
    )
    path = f"/explain?{query}"
    found = AdminClient(find_node(args.node)).get(path)
    found["directions"] = [_from_its_node(half, path) for half in found["directions"]]
    verdicts = {half["verdict"] for half in found["directions"]}
    found["verdict"] = next(one for one in _WORST_FIRST if one in verdicts)
    if args.output == "table":
        print("\n".join(_lines(found)))
    else:
        print_data(found, args.output)
    return STATUS[found["verdict"]]


def _from_its_node(half: Mapping[str, Any], path: str) -> Mapping[str, Any]:
    """A half that only another node's agent knows, from that agent if it runs on this machine."""
    if half["verdict"] != "unknown" or not half.get("node"):
        return half
    try:
        found = AdminClient(half["node"]).get(path)
    except AdminError:
        return half
    theirs = (one for one in found["directions"] if one["direction"] == half["direction"])
    return next(({**one, "node": half["node"]} for one in theirs), half)


def _lines(found: Mapping[str, Any]) -> Iterator[str]:
    source, target = found["source"], found["destination"]
    where = f"{_name(target)}:{target['port']}/{found['protocol']}"
    yield f"{found['verdict'].upper()}  {_name(source)} -> {where}"
    for title, end in (("from", source), ("to", target)):
        identity = end["identity"] or "no identity"
        yield f"  {title:<10}{end['address']}  {identity}  {end['node']}".rstrip()
    if target["service"]:
        yield f"  {'service':<10}{target['service']}, by one of its endpoints"
    yield f"  {'route':<10}{found['route']}"
    yield f"  {'proof':<10}{_PROOF[found['attested']]}"
    for half in found["directions"]:
        yield from _half(half)


_PROOF: Final = {
    "certificate": "the tunnel's certificate",
    "nonce": "the kernel of the node that both are on",
    "no": "none: only what the address claims",
}


def _half(half: Mapping[str, Any]) -> Iterator[str]:
    reason = half["reason"] if half["verdict"] == "refused" else ""
    yield f"  {half['direction']:<10}{half['verdict']}  {reason}".rstrip(" ")
    if half.get("node") and half["verdict"] != "unknown":
        yield f"            asked of {half['node']}"
    if half.get("explanation"):
        yield f"            {half['explanation']}"
    if half.get("detail"):
        yield f"            {half['detail']}"
    if half.get("rules"):
        yield (
            f"            set {half['policy_set']} with {half['rules']} rules, peer class "
            f"{half['peer_class']}, generation {half['generation']}"
        )
    permits = half.get("would_permit") or ()
    if permits:
        yield "            rules that could permit it, and do not match:"
    for rule in permits:
        yield f"              {rule['policy']} {rule['rule']} ({rule['file']}:{rule['line']})"
    if half.get("dry_run_would_refuse"):
        yield "            a policy in dry run would refuse it"


def _name(end: Mapping[str, Any]) -> str:
    return str(end["workload"] or end["address"])
