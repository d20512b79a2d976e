# SPDX-License-Identifier: Apache-2.0
"""``nodemesh ca``: the certificate authority, in the foreground."""

import argparse

from agent.telemetry.log import configure_logging
from control.ca.command import add_arguments as add_authority_arguments
from control.ca.command import main

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command: the authority's options, and how it logs."""
    add_authority_arguments(parser)
    parser.add_argument(
        "--log-level",
        choices=("debug", "info", "warning", "error"),
        default="info",
        help="of the log on standard error (default: %(default)s)",
    )
    parser.add_argument(
        "--log-format", choices=("text", "json"), default="text", help="default: %(default)s"
    )


def run(args: argparse.Namespace) -> int:
    """Run until SIGTERM or SIGINT."""
    configure_logging(level=args.log_level, as_json=args.log_format == "json")
    return main(args)
