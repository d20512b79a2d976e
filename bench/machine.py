# SPDX-License-Identifier: Apache-2.0
"""What the figures were made on: a few lines above the table."""

import os
import platform
import re
from pathlib import Path

from bench.envoy import envoy_binary
from bench.topology import CONGESTION_CONTROL
from lab.host import output

__all__ = ["describe_hardware", "describe_machine"]


def describe_hardware() -> str:
    """Return a sentence about processor, memory, kernel and load."""
    cpu = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    memory = re.search(r"^MemTotal:\s+(\d+)", Path("/proc/meminfo").read_text(), re.MULTILINE)
    gigabytes = int(memory[1]) * 1024 / 1e9 if memory else 0
    load = " ".join(f"{value:.1f}" for value in os.getloadavg())
    hardware = f"{cpu[1] if cpu else platform.machine()}, {os.cpu_count()} CPUs, {gigabytes:.0f} GB"
    return f"Machine: {hardware}, Linux {platform.release()}; load average before: {load}."


def describe_machine() -> list[str]:
    """Return sentences about processor, kernel, programs and what was set."""
    envoy, iperf3 = _version([str(envoy_binary()), "--version"]), _version(["iperf3", "--version"])
    nginx = _version(["nginx", "-v"])
    return [
        describe_hardware(),
        f"Programs: Envoy {envoy}, iperf3 {iperf3}, nginx {nginx} (1 worker), wrk (1 thread).",
        f"Congestion control: {CONGESTION_CONTROL} in every namespace. Each proxy: 1 worker.",
    ]


def _version(command: list[str]) -> str:
    """Return the first thing that looks like a version in what the program says."""
    found = re.search(r"\d+\.\d+(\.\d+)?", output(command).rpartition("version:")[2])
    return found[0] if found else "of unknown version"
