# SPDX-License-Identifier: Apache-2.0
"""``nodemesh``: reads the command line and hands over to the command's module."""

import argparse
import importlib
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol, cast

from mesh.model.errors import MeshError

__all__ = ["main"]


@dataclass(frozen=True, slots=True)
class _Command:
    """A command by name; ``module`` is imported only if the command is given."""

    name: str
    module: str
    help: str
    description: str = ""


class _Module(Protocol):
    def add_arguments(self, parser: argparse.ArgumentParser) -> None: ...
    def run(self, args: argparse.Namespace) -> int: ...


_COMMANDS: Final = (
    _Command(
        "agent",
        "cli.agent",
        "run the agent of one node",
        "Run the agent of one node in the foreground, as root. It enrols the pods that the mesh "
        "file puts on the node, and follows the file's changes. SIGTERM drains and ends it; what "
        "it pinned in the kernel stays, so that a new agent takes over without a gap.",
    ),
    _Command(
        "ca",
        "cli.ca",
        "run the certificate authority",
        "Run the certificate authority that the agents of a mesh ask for certificates.",
    ),
    _Command(
        "cleanup",
        "cli.cleanup",
        "remove what an agent left in the kernel",
        "Remove everything that the agent of a node put into the kernel and into its state "
        "directory: programs, maps, links, rules and routes in pods. The agent must not run.",
    ),
    _Command("status", "cli.show", "say how an agent is doing"),
    _Command("workloads", "cli.show", "list the workloads that an agent knows"),
    _Command("services", "cli.show", "list the services that an agent knows"),
    _Command(
        "connections",
        "cli.show",
        "list connections with path, identities and bytes",
        "List the connections of a node's pods: open tunnelled ones and, with --recent, those that "
        "ended lately on any path. Path is kernel (same node, forwarded by the kernel), tunnel "
        "(HBONE, mutual TLS) or passthrough (one end is outside the mesh).",
    ),
    _Command("certificates", "cli.show", "list the certificates that an agent holds"),
    _Command(
        "explain",
        "cli.explain",
        "say why a connection is allowed or refused",
        "Ask the kernel of a node what its policy says of a connection, and name the rule that "
        "decides with its file and line. A node answers for its own pods: the sender's says "
        "whether it may send, the receiver's whether it may enter; an agent on this machine that "
        "knows the other half is asked too. Exit status: 0 allowed, 3 refused, 4 not known, for "
        "the agent of the other node could not be asked.",
    ),
    _Command(
        "policy",
        "cli.policy",
        "try policies before they are in force",
        "Check policies, and say which of the connections of the last hour they would refuse.",
    ),
    _Command("policies", "cli.show", "list the policies that an agent knows, and whom they select"),
    _Command(
        "events",
        "cli.events",
        "tell what is refused, as it happens",
        "Tell which connections and packets of a node's pods were refused, by what and why; with "
        "--follow as it happens, and what is allowed too.",
    ),
    _Command("tunnels", "cli.show", "list the open HBONE connections of a node"),
    _Command("config", "cli.config", "check a mesh file"),
    _Command(
        "lab",
        "cli.lab",
        "build and remove a small cluster of network namespaces",
        "A cluster of network namespaces on this machine, to try nodemesh in: two nodes, pods, "
        "services. Needs root.",
    ),
    _Command(
        "demo",
        "cli.demo",
        "show the whole story on this machine",
        "Build a lab, send real traffic through it, show which path each connection took and which "
        "identity was proven, and remove everything again.",
    ),
)

_EPILOG: Final = (
    "Exit status: 0 done, 1 it did not work (one sentence says why), 2 wrong usage. "
    "Looking commands ask the agent's admin socket in /run/nodemesh/NODE and need root."
)


def _parser(words: Sequence[str]) -> argparse.ArgumentParser:
    """Build the parser; only the command that ``words`` names is imported."""
    parser = argparse.ArgumentParser(
        prog="nodemesh",
        description="An eBPF ambient-mesh node agent: identity, encryption and insight without "
        "sidecars.",
        epilog=_EPILOG,
    )
    parser.add_argument("--version", action="store_true", help="print the version and exit")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", title="commands")
    chosen = next((word for word in words if not word.startswith("-")), "")
    for command in _COMMANDS:
        sub = commands.add_parser(
            command.name,
            help=command.help,
            description=command.description or f"{command.help[0].upper()}{command.help[1:]}.",
        )
        if command.name == chosen:
            module = cast("_Module", importlib.import_module(command.module))
            module.add_arguments(sub)
            sub.set_defaults(run=module.run)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return the exit status."""
    words = list(sys.argv[1:] if argv is None else argv)
    parser = _parser(words)
    args = parser.parse_args(words)
    if args.version:
        print(f"nodemesh {_version()}")
        return 0
    if args.command is None:
        parser.print_help()
        return 2
    try:
        return int(args.run(args))
    except MeshError as error:
        print(f"nodemesh: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:
        # The reader (head, less) has seen enough; keep the interpreter from complaining at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        return 130


def _version() -> str:
    from agent.config import agent_version  # noqa: PLC0415 - rarely needed

    return agent_version()


if __name__ == "__main__":
    sys.exit(main())
