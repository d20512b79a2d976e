# SPDX-License-Identifier: Apache-2.0
"""``nodemesh lab``: the cluster of network namespaces."""

from lab.commands import add_lab_arguments as add_arguments
from lab.commands import run_lab as run

__all__ = ["add_arguments", "run"]
