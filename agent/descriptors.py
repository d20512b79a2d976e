# SPDX-License-Identifier: Apache-2.0
"""How many file descriptors the agent may have: two for each tunnelled connection of the node."""

import logging
import resource
from pathlib import Path
from typing import Final

__all__ = ["descriptor_trouble", "raise_descriptor_limit"]

log = logging.getLogger(__name__)

_ENOUGH: Final = 65_536
"""Some 30,000 connections. Containers and shells start with 1024."""


def raise_descriptor_limit() -> int:
    """Raise the soft limit of this process to the hard one, and warn if that is little.

    Before the core starts: it divides what there is among the pods. Returns the limit in force.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
            soft = hard
        except (OSError, ValueError) as error:
            log.warning("the limit of file descriptors stays at %d: %s", soft, error)
    if soft != resource.RLIM_INFINITY and soft < _ENOUGH:
        log.warning(
            "only %d file descriptors are allowed; a node needs %d (ulimit -n, LimitNOFILE)",
            soft,
            _ENOUGH,
        )
    return soft


def descriptor_trouble() -> str | None:
    """Say so if more than half of the descriptors are in use: from there on pods get a share."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limit == resource.RLIM_INFINITY:
        return None
    used = sum(1 for _ in Path("/proc/self/fd").iterdir())
    if used <= limit // 2:
        return None
    return (
        f"{used} of {limit} file descriptors are in use; pods that hold many get no more "
        "(resource-limit): raise LimitNOFILE, or look for a pod that opens too many connections"
    )
