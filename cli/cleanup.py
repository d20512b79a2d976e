# SPDX-License-Identifier: Apache-2.0
"""``nodemesh cleanup``: leave nothing of a node's agent behind."""

import argparse
import contextlib
import logging

from agent.config import Paths, check_node_name
from agent.dataplane.cleanup import cleanup
from agent.statefiles import hold_lock
from agent.telemetry.log import configure_logging

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command."""
    parser.add_argument("--node", required=True, help="name of the node")


def run(args: argparse.Namespace) -> int:
    """Remove everything. LockError while the node's agent runs; safe to repeat."""
    check_node_name(args.node)
    configure_logging(level="warning", as_json=False)
    paths = Paths.of_node(args.node)
    existed = paths.state_dir.exists()
    with hold_lock(paths):
        cleaned = cleanup(args.node)
        # With the pins gone their numbers mean nothing any more.
        ids = (paths.ids_file, paths.added_ids_file)
        for path in (*ids, paths.admin_socket, paths.lock_file):
            path.unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        paths.state_dir.rmdir()
        paths.state_dir.parent.rmdir()
    logging.shutdown()
    if not (existed or cleaned.pins):
        print(f"Nothing of node {args.node} was there.")
        return 0
    print(
        f"Removed what the agent of node {args.node} left: {cleaned.pods} pods un-enrolled, "
        f"{cleaned.links} hooks detached, pins and state files."
    )
    return 0
