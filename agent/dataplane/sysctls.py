# SPDX-License-Identifier: Apache-2.0
"""The sysctls of a pod that let its apps see a client's true address (ip-sysctl.rst).

The dial to the app carries a mark; accepted sockets must answer with it (tcp_fwmark_accept), and so
must a RST or an ICMP error (fwmark_reflect), else they leave towards the real client.
"""

from enum import IntFlag
from pathlib import Path
from typing import Final

from agent.errors import NetlinkError

__all__ = ["SysctlFlag", "restore_sysctls", "set_sysctls", "unset_sysctls"]


class SysctlFlag(IntFlag):
    """Which sysctls were 0 before us: kept in ``guarded_pod.flags`` for as long as it takes."""

    FWMARK_ACCEPT = 1
    REFLECT_V4 = 2
    REFLECT_V6 = 4


_PATHS: Final = {
    SysctlFlag.FWMARK_ACCEPT: Path("/proc/sys/net/ipv4/tcp_fwmark_accept"),
    SysctlFlag.REFLECT_V4: Path("/proc/sys/net/ipv4/fwmark_reflect"),
    SysctlFlag.REFLECT_V6: Path("/proc/sys/net/ipv6/fwmark_reflect"),
}


def _write(path: Path, value: str) -> None:
    try:
        path.write_text(value, encoding="ascii")
    except OSError as error:
        raise NetlinkError(f"{path} cannot be set in a pod: {error}.") from error


def unset_sysctls() -> SysctlFlag:
    """What would have to be set in the network namespace of this thread."""
    flags = SysctlFlag(0)
    for flag, path in _PATHS.items():
        if path.exists() and path.read_text(encoding="ascii").strip() == "0":
            flags |= flag
    return flags


def set_sysctls() -> None:
    """Sets them all to 1; where IPv6 is absent, its own is not there to be set."""
    for flag in unset_sysctls():
        _write(_PATHS[flag], "1")


def restore_sysctls(changed: SysctlFlag) -> None:
    """Puts back to 0 what unset_sysctls() had named before set_sysctls()."""
    for flag, path in _PATHS.items():
        if flag in changed and path.exists():
            _write(path, "0")
