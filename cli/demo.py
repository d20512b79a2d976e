# SPDX-License-Identifier: Apache-2.0
"""``nodemesh demo``: the lab with traffic and a story."""

from lab.commands import add_demo_arguments as add_arguments
from lab.commands import run_demo as run

__all__ = ["add_arguments", "run"]
