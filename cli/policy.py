# SPDX-License-Identifier: Apache-2.0
"""``nodemesh policy``: try policies before they are in force."""

import argparse
import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from agent.errors import AdminError, ConfigError
from cli.client import AdminClient, find_node
from cli.output import add_output_argument, format_age, print_data

if TYPE_CHECKING:
    from agent.policy_check import Checked, Outcome
    from agent.saved_state import SavedState

__all__ = ["add_arguments", "run"]

REFUSED: Final = 3
"""Exit status where something that was seen would be refused, as of ``nodemesh explain``."""

_PROTOCOLS: Final = {1: "ICMP", 6: "TCP", 17: "UDP", 58: "ICMP", 132: "SCTP"}
_SHOWN: Final = 100


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the verbs."""
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    check = verbs.add_parser(
        "check",
        help="say what is wrong with policies, and what would become of recent connections",
        description="Read policies as an agent would, and say every mistake with file, line and "
        "field. Then try them on the connections that an agent has seen in the last hour: which "
        "would be refused, which allowed, and by what. Exit status: 0 fine, 1 a policy is wrong "
        "or does not fit, 3 something that was allowed would be refused.",
    )
    check.add_argument(
        "files",
        nargs="+",
        type=Path,
        metavar="FILE",
        help="a file of policies, a directory of them, or a mesh file; what is in force from the "
        "same file is taken to be replaced",
    )
    check.add_argument(
        "--state", type=Path, metavar="FILE", help="try them on what `policy state` has saved"
    )
    check.add_argument(
        "--node",
        action="append",
        default=[],
        help="ask this node's agent; may be given again (default: the only one here, if any)",
    )
    check.add_argument("--offline", action="store_true", help="ask nobody: only read the files")
    add_output_argument(check)
    state = verbs.add_parser(
        "state",
        help="print what an agent knows, for `policy check --state`",
        description="Print the workloads, the policies and the connections of the last hour that "
        "an agent knows, as JSON.",
    )
    state.add_argument("--node", help="ask this node's agent (default: the only one here)")


def run(args: argparse.Namespace) -> int:
    """Run a verb."""
    if args.verb == "state":
        print(json.dumps(AdminClient(find_node(args.node)).get("/policy/state")))
        return 0
    return _check(args)


def _check(args: argparse.Namespace) -> int:
    from agent.policy_check import check_files, outcome_of  # noqa: PLC0415 - reads YAML: heavy

    checked = check_files(args.files)
    states, note = ([], "") if checked.problems else _states(args)
    outcome = outcome_of(checked, states) if states else None
    if args.output != "table":
        print_data(_data(checked, outcome, note), args.output)
    else:
        for line in _lines(checked, outcome, note):
            print(line)
        for sentence in _mistakes(checked, outcome):
            print(sentence, file=sys.stderr)
    if checked.problems or (outcome is not None and outcome.problems):
        return 1
    return REFUSED if outcome is not None and outcome.refused else 0


def _states(args: argparse.Namespace) -> "tuple[list[SavedState], str]":
    """What to try them on; or a sentence that says why there is nothing."""
    from agent.saved_state import read_state  # noqa: PLC0415 - heavy

    if args.offline:
        return [], ""
    if args.state is not None:
        try:
            value = json.loads(args.state.read_bytes())
        except OSError as error:
            raise ConfigError(f"{args.state} cannot be read: {error.strerror or error}") from error
        except ValueError as error:
            raise ConfigError(f"{args.state} is no JSON: {error}") from error
        return [read_state(value, str(args.state))], ""
    nodes = list(args.node)
    if not nodes:
        try:
            nodes = [find_node(None)]
        except AdminError as error:
            return [], str(error)
    found = [read_state(AdminClient(node).get("/policy/state"), node) for node in nodes]
    return found, ""


def _mistakes(checked: "Checked", outcome: "Outcome | None") -> Iterator[str]:
    yield from checked.problems
    if outcome is not None:
        for problem in outcome.problems:
            yield f"the policies cannot come into force: {problem}"


def _lines(checked: "Checked", outcome: "Outcome | None", note: str) -> Iterator[str]:
    for one in checked.policies:
        rules = f"{one['rules']} rule{'' if one['rules'] == 1 else 's'}"
        place = f"{one['file']}:{one['line']}"
        yield f"{one['kind']} {one['namespace']}/{one['name']}  {rules}  {place}"
        for warning in one["warnings"]:
            yield f"  warning: {warning}"
    if note:
        yield f"Not tried on any connections: {note}"
    if outcome is None:
        return
    for warning in outcome.warnings:
        yield f"warning: {warning}"
    yield from _changes(outcome.refused, "would now be refused")
    yield from _changes(outcome.allowed, "would now be allowed")
    if not (outcome.refused or outcome.allowed or outcome.problems):
        yield f"Of {outcome.tried} connections seen in the last hour none would change."


def _changes(changes: Sequence[Mapping[str, Any]], what: str) -> Iterator[str]:
    if not changes:
        return
    count = len(changes)
    yield f"{count} connection{'' if count == 1 else 's'} seen in the last hour {what}:"
    for one in changes[:_SHOWN]:
        ago = format_age(max(0.0, time.time() - one["last_seen"]))
        times = f"{one['count']} time{'' if one['count'] == 1 else 's'}, last {ago} ago"
        yield f"  {_end(one, 'source')} -> {_end(one, 'destination')}  ({times})"
        causes = [_cause(cause) for cause in one["because"]] or ["no policy that is known"]
        yield f"    {one['direction']}: {one['reason']}, because of {'; '.join(causes[:5])}"
    if count > _SHOWN:
        yield f"  and {count - _SHOWN} more (-o json shows all)"


def _end(change: Mapping[str, Any], side: str) -> str:
    name = change[f"{side}_workload"] or change[side]
    if side == "source":
        return str(name)
    protocol = _PROTOCOLS.get(change["protocol"], str(change["protocol"]))
    host = f"[{name}]" if ":" in name else name
    return f"{host}:{change['port']}/{protocol}"


def _cause(cause: Mapping[str, Any]) -> str:
    rule = f" {cause['rule']}" if cause["rule"] else ""
    return f"{cause['policy']}{rule} ({cause['file']}:{cause['line']})"


def _data(checked: "Checked", outcome: "Outcome | None", note: str) -> dict[str, Any]:
    found: dict[str, Any] = {
        "policies": checked.policies,
        "problems": [*checked.problems, *(outcome.problems if outcome is not None else ())],
        "effect": None,
        "note": note,
    }
    if outcome is not None:
        effect = {"tried": outcome.tried, "refused": outcome.refused, "allowed": outcome.allowed}
        found["effect"] = {**effect, "warnings": outcome.warnings}
    return found
