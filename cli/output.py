# SPDX-License-Identifier: Apache-2.0
"""How the looking commands print: aligned columns for people, JSON or YAML for programs."""

import argparse
import json
import re
import sys
from collections.abc import Iterable, Sequence
from typing import Any

__all__ = [
    "add_output_argument",
    "format_age",
    "format_bytes",
    "format_microseconds",
    "format_table",
    "print_data",
]


def add_output_argument(parser: argparse.ArgumentParser) -> None:
    """Describe ``-o``."""
    parser.add_argument(
        "-o",
        "--output",
        choices=("table", "json", "yaml"),
        default="table",
        help="table for people (default), json or yaml with every field for programs",
    )


def format_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Columns two spaces apart, as wide as their widest cell; an empty cell shows ``-``."""
    cells = [list(header), *([cell or "-" for cell in row] for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(header))]
    lines = (
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in cells
    )
    return "\n".join(lines)


def print_data(value: Any, output: str) -> None:
    """Print a value as ``json`` or ``yaml``."""
    if output == "json":
        print(json.dumps(value, indent=2))
        return
    import yaml  # noqa: PLC0415 - slow to import, and rarely needed

    class Dumper(yaml.SafeDumper):
        """Quotes also what is a number to readers of YAML 1.2 only, like 1e3 or 0o17."""

    number = re.compile(r"[-+]?[0-9]+[eE][-+]?[0-9]+$|[-+]?0o[0-7]+$")
    Dumper.add_implicit_resolver("tag:yaml.org,2002:float", number, list("-+0123456789"))
    yaml.dump(
        value, sys.stdout, Dumper, sort_keys=False, default_flow_style=False, allow_unicode=True
    )


def format_bytes(count: int) -> str:
    """``17``, ``4.2k``, ``200M``: powers of 1000, three digits at most."""
    value = float(count)
    for unit in ("", "k", "M", "G", "T"):
        if value < 999.5 or unit == "T":
            return f"{value:.0f}{unit}" if not unit or value >= 9.95 else f"{value:.1f}{unit}"
        value /= 1000
    raise AssertionError


def format_microseconds(count: int) -> str:
    """``340us``, ``1.8ms``, ``12s``; empty for 0, which means not measured."""
    if count == 0:
        return ""
    if count < 1000:
        return f"{count}us"
    if count < 1_000_000:
        return f"{count / 1000:.1f}ms"
    return format_age(count / 1_000_000)


def format_age(seconds: float) -> str:
    """``45s``, ``12m``, ``3h20m``, ``5d4h``; negative values get a minus."""
    if seconds < 0:
        return f"-{format_age(-seconds)}"
    whole = int(seconds)
    if whole < 120:
        return f"{whole}s"
    if whole < 7200:
        return f"{whole // 60}m"
    if whole < 172_800:
        return f"{whole // 3600}h{whole % 3600 // 60}m"
    return f"{whole // 86_400}d{whole % 86_400 // 3600}h"
