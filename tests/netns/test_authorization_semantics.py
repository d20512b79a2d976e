# SPDX-License-Identifier: Apache-2.0
"""AuthorizationPolicy at layer 4 and PeerAuthentication as Istio has them, with real traffic.

Every case of the tables in ``semantics/`` is checked on one node and across, over v4 and v6.
"""

import os

import pytest
from semantics_support import run, semantics_of, table

pytestmark = pytest.mark.netns


@pytest.fixture(scope="module")
def semantics():
    yield from semantics_of(f"nmt-a{os.getpid():x}")


@table("actions.yaml")
def test_what_policies_come_to(semantics, case):
    run(semantics, case)


@table("sources.yaml")
def test_what_a_rule_asks(semantics, case):
    run(semantics, case)


@table("peer_authentication.yaml")
def test_who_has_to_prove_an_identity(semantics, case):
    run(semantics, case)
