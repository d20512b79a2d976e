# SPDX-License-Identifier: Apache-2.0
"""NetworkPolicy as the Kubernetes documentation and e2e suite have it, with real traffic.

Every case of the tables in ``semantics/`` is checked on one node and across, over v4 and v6.
"""

import os

import pytest
from semantics_support import run, semantics_of, table

pytestmark = pytest.mark.netns


@pytest.fixture(scope="module")
def semantics():
    yield from semantics_of(f"nmt-n{os.getpid():x}")


@table("isolation.yaml")
def test_whom_a_policy_isolates(semantics, case):
    run(semantics, case)


@table("peers.yaml")
def test_who_a_peer_is(semantics, case):
    run(semantics, case)


@table("ports.yaml")
def test_which_ports_a_rule_means(semantics, case):
    run(semantics, case)


@table("together.yaml")
def test_policies_together_and_as_they_change(semantics, case):
    run(semantics, case)
