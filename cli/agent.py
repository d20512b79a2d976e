# SPDX-License-Identifier: Apache-2.0
"""``nodemesh agent``: the agent of one node, in the foreground."""

import argparse
from pathlib import Path

from agent.config import AccessLogSettings, AgentConfig, ListenSettings, Paths

__all__ = ["add_arguments", "parse_config", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command; defaults and reasons stand in ``agent.config``."""
    parser.add_argument("mesh_file", type=Path, metavar="MESH.YAML", help="the mesh file; watched")
    parser.add_argument("--node", required=True, help="name of this node in the mesh file")
    parser.add_argument(
        "--state-dir", type=Path, help="admin socket, ids and lock (default: /run/nodemesh/NODE)"
    )
    parser.add_argument(
        "--cache-dir",
        type=Path,
        default=Path("/var/cache/nodemesh"),
        help="compiled kernel programs (default: %(default)s)",
    )
    listen = parser.add_argument_group("ports and metrics")
    listen.add_argument("--listen", default="", metavar="ADDRESS", help="default: every address")
    listen.add_argument(
        "--metrics-port", type=int, default=15020, help="0 disables (default: %(default)s)"
    )
    listen.add_argument(
        "--readiness-port", type=int, default=15021, help="0 disables (default: %(default)s)"
    )
    listen.add_argument(
        "--series-grace-seconds",
        type=float,
        default=300.0,
        help="how long the metrics of a removed workload stay (default: %(default)s)",
    )
    logs = parser.add_argument_group("logs")
    logs.add_argument(
        "--log-level",
        choices=("debug", "info", "warning", "error"),
        default="info",
        help="of the agent's own log, on standard error (default: %(default)s)",
    )
    logs.add_argument(
        "--log-format", choices=("text", "json"), default="text", help="default: %(default)s"
    )
    logs.add_argument(
        "--access-log-sample",
        type=float,
        default=1.0,
        metavar="SHARE",
        help="share of orderly closed connections in the access log, 0 to 1 (default: 1); "
        "failures are always written",
    )
    logs.add_argument("--access-log", type=Path, metavar="FILE", help="default: standard output")
    parser.add_argument(
        "--drain-seconds",
        type=float,
        default=5.0,
        help="how long open connections may finish after SIGTERM (default: %(default)s)",
    )


def parse_config(args: argparse.Namespace) -> AgentConfig:
    """Settings from parsed arguments. ConfigError names a field that cannot be."""
    paths = Paths(args.state_dir.absolute()) if args.state_dir else Paths.of_node(args.node)
    return AgentConfig(
        node=args.node,
        mesh_file=args.mesh_file.absolute(),
        paths=paths,
        cache_dir=args.cache_dir,
        listen=ListenSettings(
            address=args.listen,
            metrics_port=args.metrics_port,
            readiness_port=args.readiness_port,
        ),
        access_log=AccessLogSettings(sample=args.access_log_sample, path=args.access_log),
        log_level=args.log_level,
        log_format=args.log_format,
        drain_seconds=args.drain_seconds,
        series_grace_seconds=args.series_grace_seconds,
    )


def run(args: argparse.Namespace) -> int:
    """Run until SIGTERM or SIGINT; 0 after an orderly drain."""
    config = parse_config(args)
    from agent.app import main  # noqa: PLC0415 - heavy; wrong settings should be told at once

    return main(config)
