# SPDX-License-Identifier: Apache-2.0
"""The real authority and provider over time: lives that end, servers that go, files that change."""

import asyncio
import json
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random

import pytest
from pki_loopback import client, fetch, settings
from pki_world import CURL, WEB, Root, config, running_ca, write_token

from agent.pki.open import FilesSettings, open_provider
from agent.pki.provider import SvidUpdated
from wire.x509 import parse_certificates

pytestmark = pytest.mark.usefixtures("token")


@pytest.fixture
def token(tmp_path):
    return write_token(tmp_path / "token")


async def test_roots_overlap_while_one_is_replaced(tmp_path):
    extra = Root(now=datetime.now(UTC)).certificate
    async with running_ca(config(tmp_path)) as port, client(tmp_path, port) as made:
        roots = tmp_path / "ca" / "root-cert.pem"
        roots.write_text(roots.read_text() + extra.pem)
        for _ in range(60):
            if len((svid := await fetch(made)).roots) == 2:
                break
            await asyncio.sleep(0.1)
        assert svid.roots[1] == extra.der


async def test_a_lived_out_server_certificate_is_replaced(tmp_path):
    """A life of 2 s: without renewal a handshake after 3 s would fail."""
    async with running_ca(config(tmp_path, max_lifetime=timedelta(seconds=2))) as port:
        async with client(tmp_path, port) as made:
            await fetch(made)
        await asyncio.sleep(3)
        async with client(tmp_path, port) as made:
            assert (await fetch(made)).identity == CURL


async def test_rotation_in_real_time(tmp_path):
    """Certificates of 3 s for 5 s: at every moment there is a valid one."""
    async with running_ca(config(tmp_path)) as port:
        options = settings(tmp_path, port, lifetime=timedelta(seconds=3))
        async with (
            open_provider(options, random=Random(1)) as provider,
            asyncio.TaskGroup() as group,
        ):
            provider.want([CURL, WEB])
            running = group.create_task(provider.run())
            for _ in range(2):
                await asyncio.wait_for(provider.updates.get(), 5)
            serials, end = set(), time.monotonic() + 5
            while time.monotonic() < end:
                svid = provider.current(CURL)
                assert svid is not None
                assert svid.not_after > datetime.now(UTC)
                serials.add(svid.serial)
                await asyncio.sleep(0.02)
            running.cancel()
    assert len(serials) >= 3


async def test_the_authority_goes_and_comes_back(tmp_path):
    """Down at the start, then up, then down: the SVID stays, the reason is told."""
    async with running_ca(config(tmp_path)) as port:
        pass  # it has a port and a root now, and is gone again
    options = settings(tmp_path, port, lifetime=timedelta(seconds=6))
    async with open_provider(options, random=Random(1)) as provider, asyncio.TaskGroup() as group:
        running = group.create_task(provider.run())
        provider.want([CURL])
        event = await asyncio.wait_for(provider.updates.get(), 10)
        assert "nothing listens there" in event.reason
        async with running_ca(config(tmp_path, port=port)):
            while not isinstance(event, SvidUpdated):
                event = await asyncio.wait_for(provider.updates.get(), 20)
        first = event.svid
        event = await asyncio.wait_for(provider.updates.get(), 10)
        assert "cannot be used" in event.reason
        assert provider.current(CURL) is first, "the old one serves while it is valid"
        running.cancel()


async def test_the_files_provider_opens(tmp_path):
    written = Root(now=datetime.now(UTC)).write(
        tmp_path / "shop" / "curl", CURL, now=datetime.now(UTC)
    )
    async with (
        open_provider(FilesSettings(tmp_path)) as provider,
        asyncio.TaskGroup() as group,
    ):
        provider.want([CURL])
        running = group.create_task(provider.run())
        assert await asyncio.wait_for(provider.updates.get(), 5) == SvidUpdated(written)
        running.cancel()


async def test_without_settings_the_reason_is_told():
    async with open_provider(None) as provider, asyncio.TaskGroup() as group:
        provider.want([CURL])
        running = group.create_task(provider.run())
        event = await asyncio.wait_for(provider.updates.get(), 5)
        assert "agent.certificates" in event.reason
        running.cancel()


def test_the_command_starts_and_ends(tmp_path):
    """The process as `nodemesh ca` runs it: makes its files, serves, ends on SIGTERM with 0."""
    script = (
        "import argparse, sys\n"
        "from control.ca.command import add_arguments, main\n"
        "parser = argparse.ArgumentParser(); add_arguments(parser)\n"
        "sys.exit(main(parser.parse_args()))\n"
    )
    root = tmp_path / "public" / "root.pem"
    root.parent.mkdir()
    process = subprocess.Popen(
        [
            sys.executable,
            "-c",
            script,
            "--listen",
            "127.0.0.1:0",
            "--state-dir",
            tmp_path / "ca",
            "--root-file",
            root,
            "--max-lifetime",
            "1h",
        ],
        stderr=subprocess.PIPE,
        cwd=Path(__file__).parents[3],
    )
    try:
        for _ in range(200):
            if root.exists():
                break
            time.sleep(0.05)
        assert len(parse_certificates(root.read_bytes())) == 1
        time.sleep(0.5)
        assert process.poll() is None
    finally:
        process.terminate()
        _, errors = process.communicate(timeout=10)
    assert process.returncode == 0, errors
    token = tmp_path / "ca" / "token"
    assert token.stat().st_mode & 0o777 == 0o600
    assert len(token.read_text().strip()) >= 43
    assert json.dumps(token.read_text().strip()) not in errors.decode()
