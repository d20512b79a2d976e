# SPDX-License-Identifier: Apache-2.0
"""``nodemesh status | workloads | services | connections | certificates | policies | tunnels``."""

import argparse
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from cli.client import AdminClient, find_node
from cli.output import (
    add_output_argument,
    format_age,
    format_bytes,
    format_microseconds,
    format_table,
    print_data,
)

__all__ = ["add_arguments", "run"]

Item = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class _Column:
    title: str
    cell: Callable[[Item], str]


def _text(key: str) -> Callable[[Item], str]:
    return lambda item: str(item.get(key, ""))


def _joined(key: str) -> Callable[[Item], str]:
    return lambda item: ",".join(str(value) for value in item.get(key, ()))


def _bytes(key: str) -> Callable[[Item], str]:
    return lambda item: format_bytes(int(item.get(key, 0)))


def _micro(key: str) -> Callable[[Item], str]:
    return lambda item: format_microseconds(int(item.get(key, 0)))


def _until(key: str) -> Callable[[Item], str]:
    def cell(item: Item) -> str:
        when = float(item.get(key) or 0)
        return format_age(when - time.time()) if when else ""

    return cell


def _identity(key: str) -> Callable[[Item], str]:
    return lambda item: str(item.get(key, "")).removeprefix("spiffe://")


def _end(address: str, workload: str) -> Callable[[Item], str]:
    def cell(item: Item) -> str:
        name = str(item.get(workload, ""))
        where = str(item.get(address, ""))
        return f"{name} ({where})" if name and where else name or where

    return cell


def _proof(item: Item) -> str:
    identity = str(item.get("source_identity", "")).removeprefix("spiffe://")
    if not identity:
        return ""
    return identity if item.get("attested") else f"{identity} (claimed)"


def _ended(item: Item) -> str:
    return "open" if item.get("open") else str(item.get("reason", ""))


def _ports(item: Item) -> str:
    return ",".join(
        f"{port['port']}/{port['protocol']}({port['endpoints']})" for port in item.get("ports", ())
    )


def _state(item: Item) -> str:
    state = str(item.get("state", ""))
    detail = str(item.get("detail", ""))
    return f"{state}: {detail}" if detail else state


def _place(item: Item) -> str:
    return f"{item['file']}:{item['line']}" if item.get("line") else str(item.get("file", ""))


def _sentences(key: str) -> Callable[[Item], str]:
    return lambda item: "; ".join(str(value) for value in item.get(key, ()))


_COLUMNS: Final[Mapping[str, tuple[_Column, ...]]] = {
    "workloads": (
        _Column("NAMESPACE", _text("namespace")),
        _Column("NAME", _text("name")),
        _Column("NODE", _text("node")),
        _Column("ADDRESSES", _joined("addresses")),
        _Column("IDENTITY", _identity("identity")),
        _Column("ROUTE", _text("route")),
        _Column("STATE", _state),
    ),
    "services": (
        _Column("NAMESPACE", _text("namespace")),
        _Column("NAME", _text("name")),
        _Column("VIPS", _joined("vips")),
        _Column("PORTS(ENDPOINTS)", _ports),
    ),
    "connections": (
        _Column("PATH", _text("path")),
        _Column("SEEN", _text("direction")),
        _Column("FROM", _end("source", "source_workload")),
        _Column("TO", _end("destination", "destination_workload")),
        _Column("DIALLED", _text("original_destination")),
        _Column("PROVEN IDENTITY", _proof),
        _Column("SENT", _bytes("bytes_sent")),
        _Column("RECEIVED", _bytes("bytes_received")),
        _Column("CONNECT", _micro("connect_us")),
        _Column("LASTED", _micro("duration_us")),
        _Column("END", _ended),
    ),
    "certificates": (
        _Column("IDENTITY", _identity("identity")),
        _Column("STATE", _state),
        _Column("SERIAL", _text("serial")),
        _Column("EXPIRES IN", _until("not_after")),
        _Column("RENEWAL IN", _until("renew_at")),
    ),
    "policies": (
        _Column("KIND", _text("kind")),
        _Column("NAMESPACE", _text("namespace")),
        _Column("NAME", _text("name")),
        _Column("PODS HERE", _joined("pods")),
        _Column("RULES", _text("rules")),
        _Column("WRITTEN AT", _place),
        _Column("WARNINGS", _sentences("warnings")),
    ),
    "tunnels": (
        _Column("SEEN", _text("direction")),
        _Column("WORKLOAD", _text("workload")),
        _Column("LOCAL", _text("local")),
        _Column("REMOTE", _text("remote")),
        _Column("PEER IDENTITY", _identity("peer_identity")),
        _Column("STREAMS", _text("streams")),
        _Column("AGE", _micro("age_us")),
        _Column("WORKER", _text("worker")),
    ),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe a looking command; which one, the parser's name says."""
    parser.add_argument(
        "--node", help="ask this node's agent (default: the only one that runs on this machine)"
    )
    add_output_argument(parser)
    if parser.prog.endswith(" connections"):
        parser.add_argument(
            "-r", "--recent", action="store_true", help="also those that ended lately, newest first"
        )
        parser.add_argument(
            "-n", "--limit", type=int, default=100, help="most ended ones (default: %(default)s)"
        )


def run(args: argparse.Namespace) -> int:
    """Ask and print."""
    client = AdminClient(find_node(args.node))
    path = f"/{args.command}"
    if getattr(args, "recent", False):
        path += f"?recent=1&limit={max(args.limit, 0)}"
    value = client.get(path)
    if args.output != "table":
        print_data(value, args.output)
    elif args.command == "status":
        print(_status(value))
    else:
        print(_table(args.command, value))
    return 0


def _table(command: str, items: Sequence[Item]) -> str:
    if not items:
        return f"No {command}."
    columns = _COLUMNS[command]
    return format_table(
        [column.title for column in columns],
        ([column.cell(item) for column in columns] for item in items),
    )


def _counts(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in values.items() if count)


def _policy(policy: Mapping[str, Any]) -> str:
    generation = f"generation {policy['generation']}"
    if policy["problem"]:
        return f"what is known does not fit, so that of before holds on: {generation}"
    known = _counts(policy["policies"]) or "none"
    made = f"{policy['rules']} rules in {policy['sets']} sets"
    return f"{known}; {made}; {generation}"


def _status(status: Mapping[str, Any]) -> str:
    ready = "ready" if status["ready"] else f"waiting for: {', '.join(status['pending'])}"
    core = status["core"]
    agent = (ready, f"version {status['version']}", f"process {status['pid']}")
    tunnels = f"{core['tunnels']} open on {core['workers']} workers"
    lines = [
        ("Node", f"{status['node']} (trust domain {status['trust_domain']})"),
        ("Agent", f"{'; '.join(agent)}, up {format_age(status['uptime_seconds'])}"),
        ("Pods", _counts(status["enrollments"]) or "none of the mesh on this node"),
        ("Certificates", _counts(status["certificates"]) or "none needed"),
        ("Tunnels", f"{tunnels}, {core['connections']} connections in them"),
        ("Rows", _counts(status["rows"]) or "none"),
    ]
    lines.append(("Policy", _policy(status["policy"])))
    for source in status["sources"]:
        state = source["error"] or ("in sync" if source["in_sync"] else "first reading")
        lines.append(("Source", f"{source['name']}: {state}, generation {source['generation']}"))
    lines.extend(("Trouble", sentence) for sentence in status["troubles"])
    width = max(len(name) for name, _ in lines) + 1
    return "\n".join(f"{name + ':':{width}} {text}" for name, text in lines)
