# SPDX-License-Identifier: Apache-2.0
"""Labs for the tests: one with agents for the whole session; a bare one where a test makes it."""

import os
import time
from collections.abc import Iterator

import pytest
from netns_support import Lab, make_lab
from policy_support import taken

from lab.errors import MissingError
from lab.host import check_machine, tail
from lab.process import wait_until


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
def shared_lab() -> Iterator[Lab]:
    """The lab with agents that most tests share."""
    made = make_lab(f"nmt-s{os.getpid():x}")
    try:
        made.cluster.start_mesh()
        yield made
    finally:
        made.cluster.close()


@pytest.fixture
def lab(shared_lab: Lab) -> Iterator[Lab]:
    """The shared lab, with every agent alive before the test and after it."""
    for node, agent in shared_lab.cluster.agents.items():
        if not agent.running:
            shared_lab.cluster.start_agent(node)
    yield shared_lab
    dead = [node for node, agent in shared_lab.cluster.agents.items() if not agent.running]
    assert not dead, f"agents died: {dead}"


@pytest.fixture
def policies(lab):
    """Puts policies into force on every node, with a label on each pod that is its name."""

    def write(document):
        before = {node: taken(lab, node) for node in (lab.one, lab.two)}
        lab.cluster.write_mesh(document)
        wait_until(
            lambda: all(taken(lab, node) > count for node, count in before.items()),
            seconds=20,
            what="both agents to take the policies",
        )
        time.sleep(0.3)  # from the file to the kernel and the core

    def apply(*wanted, files=(), named=None):
        document = lab.cluster.document()
        for workload in document["workloads"]:
            # The time makes each content another, so that it can be seen to be taken.
            mine = {"pod": workload["name"], "at": str(time.monotonic_ns())}
            workload.setdefault("labels", {}).update(mine)
            if named:
                ports = [{"name": name, "port": port} for name, port in named.items()]
                workload["ports"] = ports
        document["policies"] = list(wanted)
        document["policyFiles"] = list(files)
        write(document)

    yield apply
    write(lab.cluster.document())


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """Show the end of the agents' logs beside a failure."""
    outcome = yield
    report = outcome.get_result()
    made = getattr(item, "funcargs", {}).get("shared_lab")
    if report.failed and made is not None:
        for node in made.cluster.agents:
            log = made.cluster.log(f"agent-{node}")
            report.sections.append((f"log of {node}", tail(log, 12)))
