# SPDX-License-Identifier: Apache-2.0
"""From policies to the rows that decide(): bit vectors, one bit for each rule of a policy set.

::

    policies ─ select ─▶ those of one pod ─ network, authorization, authentication ─▶ Rules
    Rules ─ sets ─▶ a set: head, class masks (peers), CIDR masks (blocks), port masks (ports)
    workloads ─ classes ─▶ the class of each peer

A rule matches where its peer, its address and its port do, so a set costs the sum of the three and
not their product. Rules of one kind fill whole words; the order of kinds and, within a kind, of
policy names is the order in which verdicts name them.
"""

from mesh.compile.policy.pipeline import PolicyCompiler, PolicyRows

__all__ = ["PolicyCompiler", "PolicyRows"]
