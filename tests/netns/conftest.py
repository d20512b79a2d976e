# SPDX-License-Identifier: Apache-2.0
"""Labs for the tests: one for the whole session, with agents; more where a test breaks its own."""

import os

import pytest

from lab.errors import MissingError
from lab.host import check_machine


@pytest.fixture(scope="session", autouse=True)
def _machine() -> None:
    """Skip, saying what is missing, where no lab can be."""
    try:
        check_machine(("ip", "nsenter", "curl", "nginx", "socat", "tcpdump"))
    except MissingError as error:
        pytest.skip(str(error))


@pytest.fixture
def lab_name() -> str:
    """A name that no other run on this machine has."""
    return f"nmt-{os.getpid():x}"
