# SPDX-License-Identifier: Apache-2.0
"""The commands of the lab: `nodemesh lab up|down|status` and `nodemesh demo`."""

import argparse
import os
import signal
import sys
from collections.abc import Callable
from types import FrameType

from lab.cluster import Cluster
from lab.errors import LabError
from lab.manifest import all_labs, load_manifest
from lab.process import pod_place
from lab.servers import start_servers
from lab.spec import DEFAULT_NAME, default_spec
from lab.teardown import remove_lab

__all__ = ["add_demo_arguments", "add_lab_arguments", "main", "run_demo", "run_lab"]


def add_lab_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe `nodemesh lab`."""
    _add_verbs(parser.add_subparsers(dest="lab_verb", required=True, metavar="VERB"))


def _add_verbs(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    named = argparse.ArgumentParser(add_help=False)
    named.add_argument("--name", default=DEFAULT_NAME, help="the lab's name (default: %(default)s)")
    up = verbs.add_parser(
        "up", parents=[named], help="build the cluster, start authority and agents, leave them"
    )
    up.add_argument("--bare", action="store_true", help="only namespaces and links, no processes")
    down = verbs.add_parser(
        "down", parents=[named], help="remove a lab and all it made, also one that crashed half way"
    )
    down.add_argument("--all", action="store_true", help="remove every lab that nobody is using")
    verbs.add_parser("status", parents=[named], help="say what of a lab exists")
    inside = verbs.add_parser("exec", parents=[named], help="run a program inside a pod")
    inside.add_argument("pod", help="namespace/name, such as shop/client")
    inside.add_argument("argv", nargs=argparse.REMAINDER, help="the program and its arguments")


def add_demo_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe `nodemesh demo`."""
    parser.add_argument(
        "--name", default=DEFAULT_NAME, help="the lab's name (default: %(default)s)"
    )
    parser.add_argument(
        "--keep", action="store_true", help="leave the lab running and say how to look inside"
    )
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--no-figures", action="store_true", help="skip the measurement")
    which.add_argument("--quick", action="store_true", help="measure, but only for a moment")
    which.add_argument("--figures-only", action="store_true", help="measure, for longer")


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
    verbs = {"up": _up, "down": _down, "status": _status, "exec": _exec}
    return _guarded(lambda: verbs[args.lab_verb](args))


def _up(args: argparse.Namespace) -> int:
    cluster = Cluster.up(default_spec(args.name))
    try:
        if not args.bare:
            start_servers(cluster)
            cluster.start_mesh()
        cluster.manifest.disown().save()
    except BaseException:
        cluster.close()
        raise
    print(f"The lab {args.name!r} is up; its files are in {cluster.dir}")
    print(f"Remove it with: nodemesh lab down --name {args.name}")
    return 0


def _down(args: argparse.Namespace) -> int:
    names = all_labs() if args.all else [args.name]
    for name in names:
        manifest = load_manifest(name)
        if args.all and manifest is not None and manifest.owner_alive():
            print(f"The lab {name!r} is in use by process {manifest.owner[0]}; it stays.")
            continue
        removed = remove_lab(name)
        print(f"The lab {name!r} was removed." if removed else f"There is no lab {name!r}.")
    return 0


def _exec(args: argparse.Namespace) -> int:
    if load_manifest(args.name) is None:
        raise LabError(f"there is no lab {args.name!r}")
    command = args.argv[1:] if args.argv[:1] == ["--"] else args.argv
    if not command:
        raise LabError("which program? nodemesh lab exec shop/client -- curl http://10.96.0.10/")
    argv = pod_place(default_spec(args.name), args.pod).argv(command)
    os.execvp(argv[0], argv)


def _status(args: argparse.Namespace) -> int:
    manifest = load_manifest(args.name)
    if manifest is None:
        print(f"There is no lab {args.name!r}.")
        return 1
    print("\n".join(manifest.left()))
    return 0


def run_demo(args: argparse.Namespace) -> int:
    """Run `nodemesh demo`; return the exit status."""
    # `lab down` needs nothing of the demo.
    from lab.demo import NO_FIGURES, QUICK, USUAL, demo, figures_only  # noqa: PLC0415

    if args.figures_only:
        return _guarded(lambda: figures_only(args.name))
    effort = NO_FIGURES if args.no_figures else QUICK if args.quick else USUAL
    return _guarded(lambda: demo(args.name, keep=args.keep, effort=effort))


def main(argv: list[str] | None = None) -> int:
    """Run the lab's commands without the rest of the product: `python -m lab`."""
    parser = argparse.ArgumentParser(prog="python -m lab", description=__doc__)
    verbs = parser.add_subparsers(dest="lab_verb", required=True, metavar="VERB")
    _add_verbs(verbs)
    add_demo_arguments(verbs.add_parser("demo", help="the whole story in a minute"))
    args = parser.parse_args(argv)
    return run_demo(args) if args.lab_verb == "demo" else run_lab(args)
