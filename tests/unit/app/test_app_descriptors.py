# SPDX-License-Identifier: Apache-2.0
"""The limit of descriptors, in a process of its own: it cannot be raised back."""

import subprocess
import sys

import pytest

_RAISE = """
import logging, resource, sys
logging.basicConfig(format="%(message)s")
from agent.descriptors import raise_descriptor_limit
resource.setrlimit(resource.RLIMIT_NOFILE, (256, int(sys.argv[1])))
limit = raise_descriptor_limit()
assert limit == resource.getrlimit(resource.RLIMIT_NOFILE)[0]
print(limit)
"""


@pytest.mark.parametrize("hard", [1024, 4096])
def test_the_soft_limit_becomes_the_hard_one_and_little_is_said(hard: int) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _RAISE, str(hard)], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == str(hard)
    assert f"only {hard} file descriptors" in done.stderr
