# SPDX-License-Identifier: Apache-2.0
"""``nodemesh events``: what was refused lately, or every verdict as it happens."""

import argparse
import json
import sys
import time
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import urlencode

from cli.client import AdminClient, find_node
from cli.output import add_output_argument, print_data

__all__ = ["add_arguments", "run"]

_PROGRAM_OUTPUTS: Final = {"json", "yaml"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what the command takes."""
    parser.add_argument(
        "-f",
        "--follow",
        action="store_true",
        help="go on, with verdicts as they happen; as JSON, one a line",
    )
    parser.add_argument(
        "--verdict",
        choices=("denied", "allowed", "dry-run"),
        help="only these; what is allowed is told with --follow only",
    )
    parser.add_argument(
        "--from", dest="source", metavar="FROM", help="only from this namespace/name or address"
    )
    parser.add_argument(
        "--to",
        dest="target",
        metavar="TO",
        help="only to this namespace/name of a pod or service, or this address",
    )
    parser.add_argument(
        "-n", "--limit", type=int, default=100, help="most, without --follow (default: %(default)s)"
    )
    parser.add_argument(
        "--node", help="ask this node's agent (default: the only one that runs on this machine)"
    )
    add_output_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Ask and print."""
    client = AdminClient(find_node(args.node))
    asked = {"verdict": args.verdict, "from": args.source, "to": args.target, "limit": args.limit}
    query = urlencode({name: value for name, value in asked.items() if value})
    if args.follow:
        for value in client.follow(f"/events/follow?{query}"):
            _print_live(value, args.output)
    found = client.get(f"/events?{query}")
    if args.output in _PROGRAM_OUTPUTS:
        print_data(found, args.output)
    else:
        print("\n".join(_line(event) for event in found) or "Nothing was refused lately.")
    return 0


def _print_live(value: Mapping[str, Any], output: str) -> None:
    if output == "json":
        print(json.dumps(value), flush=True)
    elif output == "yaml":
        print("---")
        print_data(value, output)
        sys.stdout.flush()
    elif "lost" in value:
        print(f"         {_lost(value['lost'])}", flush=True)
    else:
        print(_line(value), flush=True)


def _line(event: Mapping[str, Any]) -> str:
    when = time.strftime("%H:%M:%S", time.localtime(event["time"]))
    source = _end(event["source_workload"], event["source"])
    target = _end(event["destination_workload"], event["destination"])
    parts = [
        when,
        f"{event['verdict'].upper():<7}",
        f"{event['direction']:<8}",
        f"{source} -> {target}",
        event["protocol"],
        event["reason"],
    ]
    rule = event.get("rule")
    if rule:
        parts.append(f"{rule['policy']} {rule['rule']} ({rule['file']}:{rule['line']})")
    if event["detail"]:
        parts.append(event["detail"])
    return "  ".join(part for part in parts if part)


def _end(workload: str, address: str) -> str:
    return f"{workload} ({address})" if workload and address else workload or address or "?"


def _lost(counts: Mapping[str, int]) -> str:
    where = ", ".join(f"{count} by the {name}" for name, count in counts.items() if count)
    return f"verdicts were lost: {where}"
