# SPDX-License-Identifier: Apache-2.0
"""The process that asks the authority: it comes when needed, and whatever happens to it is said."""

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from pki_loopback import client, fetch, settings
from pki_world import CURL, WEB, config, running_ca, write_token

from agent.errors import PkiError
from agent.pki.ca_process import CaProcess

pytestmark = pytest.mark.usefixtures("token")

PATIENCE = 20.0


@pytest.fixture
def token(tmp_path):
    return write_token(tmp_path / "token")


def children(parent=None):
    """The process ids of a process's children that still run."""
    parent = os.getpid() if parent is None else parent
    found = set()
    for task in Path(f"/proc/{parent}/task").iterdir():
        with contextlib.suppress(FileNotFoundError):  # the thread has ended
            found |= set(map(int, (task / "children").read_text().split()))
    return {pid for pid in found if runs(pid)}


def runs(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


async def eventually(found):
    until = time.monotonic() + PATIENCE
    while not (value := found()):
        assert time.monotonic() < until
        await asyncio.sleep(0.05)
    return value


@contextlib.contextmanager
def silent_authority():
    """Takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


async def anchored(tmp_path):
    """Leave a trust anchor there."""
    async with running_ca(config(tmp_path)):
        pass


async def test_one_process_serves_all_and_goes_when_idle(tmp_path):
    before = children()
    async with (
        running_ca(config(tmp_path)) as port,
        CaProcess(settings(tmp_path, port), idle_seconds=0.3) as made,
    ):
        assert children() == before, "it is started by the first request"
        await asyncio.gather(*(fetch(made, identity) for identity in (CURL, WEB) * 5))
        [first] = children() - before
        await eventually(lambda: children() == before)
        await fetch(made)
        [second] = children() - before
        assert second != first
    assert children() == before, "the end of the block is its end"


async def test_it_dies_within_a_call(tmp_path):
    await anchored(tmp_path)
    before = children()
    with silent_authority() as port:
        async with client(tmp_path, port) as made:
            calls = [asyncio.ensure_future(fetch(made, who)) for who in (CURL, WEB)]
            [child] = await eventually(lambda: children() - before)
            os.kill(child, signal.SIGKILL)
            for call in calls:
                with pytest.raises(PkiError, match=rf"127\.0\.0\.1:{port} was ended by signal 9"):
                    await call
            assert children() == before


async def test_the_next_call_starts_another(tmp_path):
    before = children()
    async with running_ca(config(tmp_path)) as port, client(tmp_path, port) as made:
        await fetch(made)
        [child] = children() - before
        os.kill(child, signal.SIGKILL)
        await eventually(lambda: not runs(child))
        with contextlib.suppress(PkiError):  # it may not have been noticed yet
            await fetch(made)
        assert (await fetch(made)).identity == CURL


async def test_it_hangs(tmp_path):
    before = children()
    async with (
        running_ca(config(tmp_path)) as port,
        CaProcess(settings(tmp_path, port, timeout_seconds=0.5), start_seconds=PATIENCE) as made,
    ):
        await fetch(made)
        [child] = children() - before
        os.kill(child, signal.SIGSTOP)
        made._seconds = 0.5
        with pytest.raises(PkiError, match=r"did not answer within 0\.5 s and was ended"):
            await fetch(made)
        await eventually(lambda: not runs(child))
        made._seconds = PATIENCE
        assert (await fetch(made)).identity == CURL


@pytest.mark.parametrize(
    ("program", "said"),
    [
        ("print('no json')", "something that is no answer"),
        ("print('[]')", "something that is no answer"),
        ("print('{}')", "something that is no answer"),
        ("print('x' * 5_000_000)", "something that is no answer"),
        ('print(\'{"id": 1, "chain": [7]}\')', "an answer that is none"),
        ("print('{\"id\": 1}')", "an answer that is none"),
        ("sys.exit('no module named grpc')", "ended with 1: no module named grpc"),
        ("sys.exit(0)", "ended with 0"),
        ("sys.stdout.close(); os.close(1); input(); input(); input()", "was ended by signal 9"),
    ],
)
async def test_it_answers_wrongly(tmp_path, program, said):
    before = children()
    text = f"import os, sys; input(); input(); {program}; sys.stdout.flush(); input()"
    command = [sys.executable, "-c", text]
    async with CaProcess(settings(tmp_path, 1), command=command) as made:
        with pytest.raises(PkiError, match=said):
            await fetch(made)
        await eventually(lambda: children() == before)


async def test_it_cannot_be_started(tmp_path):
    async with CaProcess(settings(tmp_path, 1), command=["/nowhere/at/all"]) as made:
        with pytest.raises(PkiError, match="cannot be started: No such file"):
            await fetch(made)


async def test_the_authority_is_down(tmp_path):
    await anchored(tmp_path)
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        async with client(tmp_path, unused.getsockname()[1]) as made:
            with pytest.raises(PkiError, match=r"nothing listens there; is `nodemesh ca` running"):
                await fetch(made)


async def test_an_authority_that_says_nothing(tmp_path):
    await anchored(tmp_path)
    with silent_authority() as port:
        async with client(tmp_path, port, timeout_seconds=0.5) as made:
            with pytest.raises(PkiError, match=r"did not answer within 0\.5 s: a firewall"):
                await fetch(made)


async def test_its_log_is_ours(tmp_path, caplog):
    caplog.set_level("INFO")
    async with running_ca(config(tmp_path)) as port, client(tmp_path, port) as made:
        await fetch(made)
        anchor = tmp_path / "ca" / "root-cert.pem"
        anchor.write_text(anchor.read_text() + "\n")
        await fetch(made)
    [changed] = [r for r in caplog.records if r.getMessage() == "the trust anchor changed"]
    assert changed.fields == {"file": str(anchor)}


async def test_the_end_of_the_block_gives_open_calls_up(tmp_path):
    await anchored(tmp_path)
    before = children()
    with silent_authority() as port:
        async with client(tmp_path, port) as made:
            call = asyncio.ensure_future(fetch(made))
            await eventually(lambda: children() - before)
        with pytest.raises(PkiError, match="the process that asks the authority"):
            await call
    assert children() == before


_PARENT = """
import asyncio, sys
from datetime import timedelta
from pathlib import Path
from agent.pki.ca_process import CaProcess
from agent.pki.ca_settings import CaSettings
from mesh.model.identity import Identity

async def main():
    given = CaSettings(address=sys.argv[1], trust_anchor=Path(sys.argv[2]), token_file=None)
    async with CaProcess(given) as made:
        identity = Identity("cluster.local", "a", "b")
        await made.create_certificate(identity, "csr", lifetime=timedelta(hours=1))

asyncio.run(main())
"""


@pytest.mark.parametrize("state", ["running", "stopped"])
async def test_no_orphan_stays_when_the_agent_is_killed(tmp_path, state):
    await anchored(tmp_path)
    anchor = str(tmp_path / "ca" / "root-cert.pem")
    with silent_authority() as port:
        command = [sys.executable, "-c", _PARENT, f"127.0.0.1:{port}", anchor]
        parent = await asyncio.create_subprocess_exec(*command)
        try:
            [child] = await eventually(lambda: children(parent.pid))
            # It has said whose child it is, and read its settings, once it dials.
            await eventually(lambda: f":{port:04X} 01" in Path("/proc/net/tcp").read_text())
            if state == "stopped":
                os.kill(child, signal.SIGSTOP)
        finally:
            parent.kill()
            await parent.wait()
        await eventually(lambda: not runs(child))


def test_an_agent_never_loads_grpc():
    check = "import agent.app, sys; print(sorted({'grpc', 'google.protobuf'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
