# SPDX-License-Identifier: Apache-2.0
"""SVIDs from a directory: every layout, hot reload, symlink swaps, bad edits."""

import asyncio
import contextlib
import time

import pytest
from pki_world import CURL, START, WEB, HandClock, Root

from agent.pki.files import FilesProvider
from agent.pki.layouts import LAYOUTS
from agent.pki.provider import SvidExpired, SvidFailed, SvidForgotten, SvidState, SvidUpdated
from wire.x509 import PrivateKey


@contextlib.asynccontextmanager
async def providing(directory):
    clock = HandClock()
    provider = FilesProvider(directory, clock=clock)
    task = asyncio.get_running_loop().create_task(provider.run())
    try:
        yield provider, clock
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def asleep(clock):
    """Wait until it has looked: in a real thread, so for real time."""
    for _ in range(5000):
        if clock.next_wake is not None:
            return
        await asyncio.sleep(0.001)
    raise AssertionError("it never finished looking")


async def look(provider, clock):
    """Let it look at least once more, and return what it told."""
    for _ in range(2):
        await asleep(clock)
        await clock.advance(1)
    await asleep(clock)
    return [provider.updates.get_nowait() for _ in range(provider.updates.qsize())]


def home(directory, identity=CURL):
    return directory / identity.namespace / identity.service_account


async def test_cert_managers_names(tmp_path):
    written = Root().write(home(tmp_path), CURL, now=START)
    async with providing(tmp_path) as (provider, clock):
        provider.want([CURL])
        assert await look(provider, clock) == [SvidUpdated(written)]
        assert provider.current(CURL) == written
        assert provider.status()[0].state is SvidState.VALID
        assert await look(provider, clock) == [], "nothing changed, nothing to tell"


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: f"{layout.chain}+{layout.roots}")
async def test_names_of_every_tool(tmp_path, layout):
    written = Root().write(tmp_path / "made", CURL, now=START)
    home(tmp_path).mkdir(parents=True)
    for made, name in (
        ("tls.crt", layout.chain),
        ("tls.key", layout.key),
        ("ca.crt", layout.roots),
    ):
        (tmp_path / "made" / made).replace(home(tmp_path) / name)
    async with providing(tmp_path) as (provider, clock):
        provider.want([CURL])
        assert await look(provider, clock) == [SvidUpdated(written)]


async def test_a_replaced_certificate_is_taken(tmp_path):
    root = Root()
    root.write(home(tmp_path), CURL, now=START)
    async with providing(tmp_path) as (provider, clock):
        provider.want([CURL])
        await look(provider, clock)
        newer = root.write(home(tmp_path), CURL, now=START)
        told = await look(provider, clock)
        assert told[-1] == SvidUpdated(newer)
        assert provider.current(CURL) == newer


async def test_a_swapped_link_is_seen(tmp_path):
    """As kubelet updates a mounted secret: ..data points to another directory."""
    root = Root()
    first = root.write(home(tmp_path) / "..1", CURL, now=START)
    second = root.write(home(tmp_path) / "..2", CURL, now=START)
    (home(tmp_path) / "..data").symlink_to("..1")
    for name in ("tls.crt", "tls.key", "ca.crt"):
        (home(tmp_path) / name).symlink_to(f"..data/{name}")
    async with providing(tmp_path) as (provider, clock):
        provider.want([CURL])
        assert await look(provider, clock) == [SvidUpdated(first)]
        (home(tmp_path) / "..new").symlink_to("..2")
        (home(tmp_path) / "..new").replace(home(tmp_path) / "..data")
        assert await look(provider, clock) == [SvidUpdated(second)]


@pytest.mark.parametrize(
    ("name", "data", "text"),
    [
        ("tls.crt", b"rubbish", "no PEM certificate"),
        ("tls.key", b"rubbish", "private key is not PEM"),
        ("ca.crt", b"", "no PEM certificate"),
        ("tls.key", PrivateKey.generate().to_pem(), "does not belong"),
        ("ca.crt", Root().certificate.pem.encode(), "does not lead to a root"),
    ],
    ids=["chain", "key", "roots", "other-key", "other-root"],
)
async def test_a_bad_edit_keeps_the_last_good_one(tmp_path, name, data, text):
    root = Root()
    good = root.write(home(tmp_path), CURL, now=START)
    async with providing(tmp_path) as (provider, clock):
        provider.want([CURL])
        await look(provider, clock)
        (home(tmp_path) / name).write_bytes(data)
        told = await look(provider, clock)
        assert [type(event) for event in told] == [SvidFailed], "once, not at every look"
        wrong = "tls.crt" if "does not lead" in text else name
        assert f"/{wrong}:" in told[0].reason
        assert text in told[0].reason
        assert provider.current(CURL) == good
        assert provider.status()[0].state is SvidState.RENEWAL_FAILING
        better = root.write(home(tmp_path), CURL, now=START)
        assert (await look(provider, clock))[-1] == SvidUpdated(better)
        assert provider.status()[0].state is SvidState.VALID


async def test_the_certificate_of_another_identity_is_refused(tmp_path):
    Root().write(home(tmp_path), WEB, now=START)
    async with providing(tmp_path) as (provider, clock):
        provider.want([CURL])
        [event] = await look(provider, clock)
        assert str(WEB) in event.reason
        assert provider.current(CURL) is None


async def test_files_that_come_later_are_found(tmp_path):
    async with providing(tmp_path) as (provider, clock):
        provider.want([CURL])
        [event] = await look(provider, clock)
        assert str(home(tmp_path)) in event.reason
        assert "tls.crt" in event.reason
        assert provider.status()[0].state is SvidState.FAILED
        written = Root().write(home(tmp_path), CURL, now=START)
        assert (await look(provider, clock))[-1] == SvidUpdated(written)


async def test_an_expired_one_is_withdrawn(tmp_path):
    Root().write(home(tmp_path), CURL, now=START, seconds=10)
    async with providing(tmp_path) as (provider, clock):
        provider.want([CURL])
        await look(provider, clock)
        for _ in range(10):
            await look(provider, clock)
        assert provider.current(CURL) is None
        assert "expired" in provider.status()[0].last_error


async def test_expiry_is_told(tmp_path):
    Root().write(home(tmp_path), CURL, now=START, seconds=5)
    async with providing(tmp_path) as (provider, clock):
        provider.want([CURL])
        told = []
        for _ in range(6):
            told += await look(provider, clock)
        assert [type(e) for e in told] == [SvidUpdated, SvidExpired, SvidFailed]


async def test_only_wanted_identities_are_read(tmp_path):
    root = Root()
    root.write(home(tmp_path), CURL, now=START)
    root.write(home(tmp_path, WEB), WEB, now=START)
    async with providing(tmp_path) as (provider, clock):
        provider.want([CURL])
        await look(provider, clock)
        assert provider.current(WEB) is None
        provider.want([WEB])
        told = await look(provider, clock)
        assert told[0] == SvidForgotten(CURL)
        assert provider.current(WEB) is not None


async def test_a_new_identity_is_looked_for_at_once(tmp_path):
    """The clock stands still: nothing but ``want`` can wake it."""
    written = Root().write(home(tmp_path), CURL, now=START)
    async with providing(tmp_path) as (provider, clock):
        await asleep(clock)
        provider.want([CURL])
        assert await asyncio.wait_for(provider.updates.get(), 5) == SvidUpdated(written)
        assert clock.now() == START


async def test_a_slow_disk_does_not_stop_the_loop(tmp_path, monkeypatch):
    Root().write(home(tmp_path), CURL, now=START)
    monkeypatch.setattr("agent.pki.files.find_files", lambda _: time.sleep(0.3))
    async with providing(tmp_path) as (provider, _):
        provider.want([CURL])
        started = time.monotonic()
        for _ in range(10):
            await asyncio.sleep(0.005)
        assert time.monotonic() - started < 0.25


async def test_a_key_that_everyone_may_read_is_said(tmp_path, caplog):
    Root().write(home(tmp_path), CURL, now=START)
    (home(tmp_path) / "tls.key").chmod(0o644)
    async with providing(tmp_path) as (provider, clock):
        provider.want([CURL])
        await look(provider, clock)
    assert any("everyone may use a private key" in r.getMessage() for r in caplog.records)
