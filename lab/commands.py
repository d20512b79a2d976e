# SPDX-License-Identifier: Apache-2.0
"""The commands of the lab: `nodemesh lab up|down|status` and `nodemesh demo`."""

import argparse
import signal
import sys
from collections.abc import Callable
from types import FrameType

from lab.cluster import Cluster
from lab.errors import LabError
from lab.manifest import load_manifest
from lab.spec import DEFAULT_NAME, default_spec
from lab.teardown import remove_lab

__all__ = ["add_demo_arguments", "add_lab_arguments", "main", "run_demo", "run_lab"]


def add_lab_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe `nodemesh lab`."""
    _add_verbs(parser.add_subparsers(dest="lab_verb", required=True, metavar="VERB"))


def _add_verbs(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    for verb, text in (
        ("up", "build the cluster, start the authority and the agents, leave them running"),
        ("down", "remove a lab and everything it made, also one that crashed half way"),
        ("status", "say what of a lab exists"),
    ):
        sub = verbs.add_parser(verb, help=text)
        sub.add_argument(
            "--name", default=DEFAULT_NAME, help="the lab's name (default: %(default)s)"
        )
        if verb == "up":
            sub.add_argument(
                "--bare", action="store_true", help="only namespaces and links, no processes"
            )


def add_demo_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe `nodemesh demo`."""
    parser.add_argument(
        "--name", default=DEFAULT_NAME, help="the lab's name (default: %(default)s)"
    )
    parser.add_argument(
        "--keep", action="store_true", help="leave the lab running and say how to look inside"
    )
    parser.add_argument("--no-figures", action="store_true", help="skip the measurement")


def _guarded(work: Callable[[], int]) -> int:
    """Run a command: an error of the lab is one sentence, SIGTERM is like Ctrl-C, status 130."""

    def stop(_signal: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGHUP, stop)
    try:
        return work()
    except LabError as error:
        print(f"nodemesh: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("nodemesh: interrupted; everything made was removed", file=sys.stderr)
        return 130


def run_lab(args: argparse.Namespace) -> int:
    """Run `nodemesh lab …`; return the exit status."""
    verbs = {"up": _up, "down": _down, "status": _status}
    return _guarded(lambda: verbs[args.lab_verb](args))


def _up(args: argparse.Namespace) -> int:
    cluster = Cluster.up(default_spec(args.name))
    try:
        if not args.bare:
            cluster.start_mesh()
        cluster.manifest.disown().save()
    except BaseException:
        cluster.close()
        raise
    print(f"The lab {args.name!r} is up; its files are in {cluster.dir}")
    print(f"Remove it with: nodemesh lab down --name {args.name}")
    return 0


def _down(args: argparse.Namespace) -> int:
    removed = remove_lab(args.name)
    print(f"The lab {args.name!r} was removed." if removed else f"There is no lab {args.name!r}.")
    return 0


def _status(args: argparse.Namespace) -> int:
    manifest = load_manifest(args.name)
    if manifest is None:
        print(f"There is no lab {args.name!r}.")
        return 1
    print("\n".join(manifest.left()))
    return 0


def run_demo(args: argparse.Namespace) -> int:
    """Run `nodemesh demo`; return the exit status."""
    from lab.demo import demo  # noqa: PLC0415 - `lab down` must work whatever the demo needs

    return _guarded(lambda: demo(args.name, keep=args.keep, figures=not args.no_figures))


def main(argv: list[str] | None = None) -> int:
    """Run the lab's commands without the rest of the product: `python -m lab`."""
    parser = argparse.ArgumentParser(prog="python -m lab", description=__doc__)
    verbs = parser.add_subparsers(dest="lab_verb", required=True, metavar="VERB")
    _add_verbs(verbs)
    add_demo_arguments(verbs.add_parser("demo", help="the whole story in a minute"))
    args = parser.parse_args(argv)
    return run_demo(args) if args.lab_verb == "demo" else run_lab(args)
