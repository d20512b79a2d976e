# SPDX-License-Identifier: Apache-2.0
"""Renewal, backoff and forgetting, on a clock that is moved by hand."""

import asyncio
import contextlib
import itertools
from datetime import timedelta
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pki_world import CURL, START, WEB, HandClock, Root, settle

from agent.errors import PkiError
from agent.pki.provider import SvidExpired, SvidFailed, SvidForgotten, SvidState, SvidUpdated
from agent.pki.rotation import CONCURRENT_FETCHES, Rotator, backoff_seconds, renewal_time
from mesh.model.identity import Identity


class Issuing:
    """Issues for real from a root in memory; can be told to fail or to hang."""

    def __init__(self, clock, seconds=3600.0):
        self.clock, self.seconds, self.root = clock, seconds, Root()
        self.error = None
        self.gate = None
        self.calls = []
        self.busy = self.most_busy = 0

    async def fetch(self, identity):
        self.calls.append((self.clock.now(), identity))
        self.busy += 1
        self.most_busy = max(self.most_busy, self.busy)
        try:
            if self.gate is not None:
                await self.gate.wait()
            if self.error is not None:
                raise PkiError(self.error)
            return self.root.svid(identity, now=self.clock.now(), seconds=self.seconds)
        finally:
            self.busy -= 1


@contextlib.asynccontextmanager
async def rotating(seconds=3600.0):
    clock = HandClock()
    issuing = Issuing(clock, seconds)
    rotator = Rotator(issuing.fetch, clock=clock, random=Random(1))
    task = asyncio.get_running_loop().create_task(rotator.run())
    await settle()
    try:
        yield rotator, issuing, clock
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def events(rotator):
    return [rotator.updates.get_nowait() for _ in range(rotator.updates.qsize())]


async def test_a_wanted_identity_gets_an_svid():
    async with rotating() as (rotator, issuing, _):
        rotator.want([CURL])
        assert rotator.status()[0].state is SvidState.WAITING
        await settle()
        [event] = events(rotator)
        assert isinstance(event, SvidUpdated)
        assert event.svid.identity == CURL
        assert rotator.current(CURL) is event.svid
        assert rotator.current(WEB) is None
        [line] = rotator.status()
        assert line.state is SvidState.VALID
        assert line.serial == event.svid.serial
        assert line.as_json()["not_after"] == event.svid.not_after.timestamp()
        assert len(issuing.calls) == 1


async def test_wanting_before_running_is_allowed():
    clock = HandClock()
    rotator = Rotator(Issuing(clock).fetch, clock=clock, random=Random(1))
    rotator.want([CURL, WEB])
    task = asyncio.get_running_loop().create_task(rotator.run())
    await settle()
    assert rotator.current(CURL)
    assert rotator.current(WEB)
    task.cancel()


async def test_renewal_comes_at_half_life_and_the_old_one_serves_until_then():
    async with rotating(seconds=3600) as (rotator, issuing, clock):
        rotator.want([CURL])
        await settle()
        first = rotator.current(CURL)
        await clock.advance(1600)
        assert rotator.current(CURL) is first
        assert len(issuing.calls) == 1
        await clock.advance(400)
        second = rotator.current(CURL)
        assert second is not first
        assert second.serial != first.serial
        age = (issuing.calls[1][0] - START).total_seconds()
        assert 0.45 * 3600 <= age <= 0.55 * 3600


async def test_renewals_go_on():
    async with rotating(seconds=60) as (rotator, issuing, clock):
        rotator.want([CURL])
        await clock.advance(3600)
        assert 3600 / 33 - 1 <= len(issuing.calls) <= 3600 / 27 + 1
        assert rotator.current(CURL) is not None
        assert all(isinstance(e, SvidUpdated) for e in events(rotator))


async def test_the_old_one_serves_while_the_authority_is_down():
    async with rotating(seconds=3600) as (rotator, issuing, clock):
        rotator.want([CURL])
        await settle()
        first = rotator.current(CURL)
        events(rotator)
        issuing.error = "the authority is down"
        await clock.advance(3500)
        assert rotator.current(CURL) is first
        [line] = rotator.status()
        assert line.state is SvidState.RENEWAL_FAILING
        assert line.last_error == "the authority is down"
        assert line.serial == first.serial
        failures = events(rotator)
        assert failures
        assert all(isinstance(e, SvidFailed) for e in failures)
        issuing.error = None
        await clock.advance(90)
        assert rotator.current(CURL) is not first
        assert rotator.status()[0].state is SvidState.VALID
        assert not rotator.status()[0].last_error


async def test_pauses_double_up_to_their_limit():
    async with rotating() as (rotator, issuing, clock):
        issuing.error = "down"
        rotator.want([CURL])
        await clock.advance(2000)
        times = [(when - START).total_seconds() for when, _ in issuing.calls]
        pauses = [b - a for a, b in itertools.pairwise(times)]
        wanted = [1, 2, 4, 8, 16, 32, 64, 128, 150, 150, 150]
        for pause, middle in zip(pauses, wanted, strict=False):
            assert 0.8 * middle <= pause <= 1.2 * middle
        assert len(pauses) >= 11
        told = [e.retry_at for e in events(rotator)]
        assert told[:-1] == [when for when, _ in issuing.calls[1:]]


async def test_success_resets_the_pauses():
    async with rotating(seconds=600) as (rotator, issuing, clock):
        issuing.error = "down"
        rotator.want([CURL])
        await clock.advance(100)
        issuing.error = None
        await clock.advance(150)
        assert rotator.current(CURL) is not None
        issuing.error = "down again"
        before = len(issuing.calls)
        await clock.advance(331)
        first, second = issuing.calls[before][0], issuing.calls[before + 1][0]
        assert (second - first).total_seconds() <= 1.2


async def test_it_is_withdrawn_at_the_moment_it_expires():
    async with rotating(seconds=100) as (rotator, issuing, clock):
        rotator.want([CURL])
        await settle()
        issuing.error = "down"
        await clock.advance(99)
        assert rotator.current(CURL) is not None
        events(rotator)
        await clock.advance(1)
        assert rotator.current(CURL) is None
        assert SvidExpired(CURL) in events(rotator)
        assert rotator.status()[0].state is SvidState.FAILED
        issuing.error = None
        await clock.advance(180)
        assert rotator.current(CURL) is not None


async def test_one_failure_does_not_hold_up_others():
    async with rotating() as (rotator, issuing, clock):
        issuing.error = "down"
        rotator.want([CURL])
        await clock.advance(60)
        issuing.error = None
        rotator.want([CURL, WEB])
        await settle()
        assert rotator.current(WEB) is not None
        assert rotator.current(CURL) is None


async def test_what_is_not_wanted_is_forgotten_and_not_renewed():
    async with rotating() as (rotator, issuing, clock):
        rotator.want([CURL, WEB])
        await settle()
        events(rotator)
        rotator.want([WEB])
        assert events(rotator) == [SvidForgotten(CURL)]
        assert rotator.current(CURL) is None
        assert [s.identity for s in rotator.status()] == [WEB]
        await clock.advance(4000)
        assert {identity for when, identity in issuing.calls if when > START} == {WEB}


async def test_an_answer_for_a_forgotten_identity_is_dropped():
    async with rotating() as (rotator, issuing, _):
        issuing.gate = asyncio.Event()
        rotator.want([CURL])
        await settle()
        rotator.want([])
        issuing.gate.set()
        await settle()
        assert events(rotator) == [SvidForgotten(CURL)]
        assert rotator.current(CURL) is None


async def test_a_forgotten_identity_can_be_wanted_again():
    async with rotating() as (rotator, issuing, _):
        rotator.want([CURL])
        await settle()
        rotator.want([])
        rotator.want([CURL])
        await settle()
        assert rotator.current(CURL) is not None
        assert len(issuing.calls) == 2


async def test_at_most_eight_fetches_at_once():
    async with rotating() as (rotator, issuing, _):
        issuing.gate = asyncio.Event()
        rotator.want(Identity("cluster.local", "shop", f"pod-{n}") for n in range(30))
        await settle()
        assert len(issuing.calls) == issuing.most_busy == CONCURRENT_FETCHES
        issuing.gate.set()
        await settle()
        assert len(issuing.calls) == 30
        assert issuing.most_busy == CONCURRENT_FETCHES


@given(st.floats(1, 10**7), st.integers(0, 2**32))
def test_a_renewal_lies_well_inside_the_life(seconds, seed):
    end = START + timedelta(seconds=seconds)
    when = renewal_time(now=START, not_after=end, random=Random(seed))
    assert 0.449 * seconds <= (when - START).total_seconds() <= 0.551 * seconds


@given(st.integers(1, 10**6), st.integers(0, 2**32))
def test_a_pause_is_bounded(failures, seed):
    assert 0.8 <= backoff_seconds(failures, Random(seed)) <= 180


@pytest.mark.parametrize("seconds", [0.0, 0.1])
def test_a_life_of_nothing_does_not_spin(seconds):
    end = START + timedelta(seconds=seconds)
    assert renewal_time(now=START, not_after=end, random=Random(1)) - START >= timedelta(
        milliseconds=200
    )
