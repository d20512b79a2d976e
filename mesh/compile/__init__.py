# SPDX-License-Identifier: Apache-2.0
"""The compiler: from everything known to the rows of one node.

::

    MeshState ─┬─ claims ──────▶ who owns an address or VIP that two things claim
               ├─ workloads ───▶ a group of rows for each workload ┐
               └─ services ────▶ a group of rows for each service  ┴─▶ pipeline ─▶ Tables

A group depends on its inputs alone and is kept while they stay the same, so that a change costs
what it touches. ``ids`` gives the numbers. Pure: no I/O, no clock, no chance; the agent calls it
after applying events and offers the Tables to its sinks.
"""

from mesh.compile.ids import IdTable, IdTableError
from mesh.compile.node import NodeConfig, SameNode
from mesh.compile.pipeline import Compiler, compile_mesh

__all__ = ["Compiler", "IdTable", "IdTableError", "NodeConfig", "SameNode", "compile_mesh"]
