# SPDX-License-Identifier: Apache-2.0
"""``nodemesh ca``: its options, and the process around :func:`control.ca.app.run`."""

import argparse
import asyncio
import contextlib
import ipaddress
import re
import signal
import socket
from datetime import timedelta
from pathlib import Path
from typing import Final

from control.ca.app import run
from control.ca.config import CaConfig
from wire.x509 import Curve

__all__ = ["add_arguments", "config_from", "main"]

_DURATION: Final = re.compile(r"(\d+)(s|m|h|d)")
_UNITS: Final = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the authority to a parser."""
    add = parser.add_argument
    add(
        "--listen",
        type=_host_and_port,
        default=("127.0.0.1", 15012),
        metavar="ADDRESS:PORT",
        help="where agents reach it (default 127.0.0.1:15012)",
    )
    add(
        "--state-dir",
        type=Path,
        default=Path("/var/lib/nodemesh/ca"),
        metavar="DIR",
        help="key and certificates; a root is made if it is empty (default %(default)s)",
    )
    add("--trust-domain", default="cluster.local", help="default %(default)s")
    add(
        "--token-file",
        type=Path,
        metavar="FILE",
        help="bootstrap tokens of the agents, mode 0600; made if missing (default DIR/token)",
    )
    add(
        "--name",
        action="append",
        default=[],
        metavar="NAME",
        help="another DNS name or address under which agents dial it; may be repeated",
    )
    add(
        "--root-file",
        type=Path,
        metavar="FILE",
        help="also publish the root certificates there, readable by everyone",
    )
    add(
        "--max-lifetime",
        type=_duration,
        default=timedelta(hours=24),
        metavar="24h",
        help="longest life of a certificate (default 24h)",
    )
    add(
        "--curve",
        type=Curve,
        choices=list(Curve),
        default=Curve.P256,
        help="of a root made here (default %(default)s)",
    )
    add(
        "--metrics",
        type=_host_and_port,
        metavar="ADDRESS:PORT",
        help="serve GET /metrics there (default: do not)",
    )


def config_from(arguments: argparse.Namespace) -> CaConfig:
    """Make the settings from parsed options. AuthorityError names one that cannot work."""
    host, port = arguments.listen
    return CaConfig(
        host=host,
        port=port,
        state_dir=arguments.state_dir,
        trust_domain=arguments.trust_domain,
        token_file=arguments.token_file or arguments.state_dir / "token",
        names=tuple(dict.fromkeys([*arguments.name, *_own_names(host)])),
        max_lifetime=arguments.max_lifetime,
        root_file=arguments.root_file,
        curve=arguments.curve,
        metrics=arguments.metrics,
    )


def main(arguments: argparse.Namespace) -> int:
    """Run until SIGINT or SIGTERM; the exit status. AuthorityError if it cannot start."""
    config = config_from(arguments)
    with contextlib.suppress(asyncio.CancelledError):
        asyncio.run(_until_signal(config))
    return 0


async def _until_signal(config: CaConfig) -> None:
    task = asyncio.current_task()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        if task is not None:
            loop.add_signal_handler(number, task.cancel)
    await run(config)


def _own_names(host: str) -> list[str]:
    """List the names that are true wherever it runs: the listening address, and the machine's."""
    names = ["localhost", "127.0.0.1", "::1"]
    if not _is_unspecified(host):
        names.insert(0, host)
    machine = socket.gethostname()
    return [*names, machine] if machine.isascii() and machine else names


def _is_unspecified(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_unspecified
    except ValueError:
        return False


def _host_and_port(text: str) -> tuple[str, int]:
    host, colon, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not colon or not host or not port.isdecimal() or int(port) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is not ADDRESS:PORT")
    return host, int(port)


def _duration(text: str) -> timedelta:
    match = _DURATION.fullmatch(text)
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not a time such as 60s, 30m, 24h or 7d")
    return timedelta(**{_UNITS[match[2]]: int(match[1])})
