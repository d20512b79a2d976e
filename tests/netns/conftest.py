# SPDX-License-Identifier: Apache-2.0
"""Labs for the tests: one with agents for the whole session; a bare one where a test makes it."""

import os
from collections.abc import Iterator

import pytest
from netns_support import Lab, make_lab

from lab.errors import MissingError
from lab.host import check_machine


@pytest.fixture(scope="session", autouse=True)
def _machine() -> None:
    """Skip, saying what is missing, where no lab can be."""
    try:
        check_machine(("ip", "nsenter", "ss", "curl", "nginx", "socat", "tcpdump", "bpftool"))
    except MissingError as error:
        pytest.skip(str(error))


@pytest.fixture
def lab_name() -> str:
    """A name that no other run on this machine has."""
    return f"nmt-{os.getpid():x}"


@pytest.fixture(scope="session")
def lab() -> Iterator[Lab]:
    """The lab that most tests share, with agents. A test that breaks it mends it."""
    made = make_lab(f"nmt-{os.getpid():x}-s")
    try:
        made.cluster.start_mesh()
        yield made
    finally:
        made.cluster.close()
