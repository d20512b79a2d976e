# SPDX-License-Identifier: Apache-2.0
"""Who may ask, and how often."""

import pytest
from pki_world import CURL, TOKEN, write_token

from control.ca.errors import AuthorityError, Refusal, RefusedError
from control.ca.limiter import MOST_SOURCES, RateLimiter
from control.ca.verifier import Caller, TokenFileVerifier

OTHER = "another-token-0123456789-abcdefgh"


async def refusal(verifier, token):
    with pytest.raises(RefusedError) as caught:
        await verifier.authenticate(token)
    assert token not in str(caught.value)
    return caught.value.refusal


async def test_a_known_token_is_a_node(tmp_path):
    verifier = TokenFileVerifier(write_token(tmp_path / "token"))
    caller = await verifier.authenticate(TOKEN)
    assert caller == Caller("bootstrap-token")
    await verifier.authorize(caller, CURL)


@pytest.mark.parametrize("token", [TOKEN[:-1], TOKEN + "x", TOKEN.upper(), "é", "x"])
async def test_another_token_is_refused(tmp_path, token):
    verifier = TokenFileVerifier(write_token(tmp_path / "token"))
    assert await refusal(verifier, token) is Refusal.UNAUTHENTICATED


async def test_two_tokens_while_one_is_replaced(tmp_path):
    path = write_token(tmp_path / "token")
    path.write_text(f"# old\n{TOKEN}\n\n# new\n{OTHER}\n")
    verifier = TokenFileVerifier(path)
    await verifier.authenticate(TOKEN)
    await verifier.authenticate(OTHER)
    assert await refusal(verifier, "# old old old old old") is Refusal.UNAUTHENTICATED


async def test_a_removed_token_ends_at_once(tmp_path):
    path = write_token(tmp_path / "token")
    verifier = TokenFileVerifier(path)
    await verifier.authenticate(TOKEN)
    path.write_text(OTHER)
    assert await refusal(verifier, TOKEN) is Refusal.UNAUTHENTICATED


async def test_a_file_that_others_may_read_lets_nobody_in(tmp_path):
    path = write_token(tmp_path / "token")
    verifier = TokenFileVerifier(path)
    path.chmod(0o644)
    assert await refusal(verifier, TOKEN) is Refusal.UNABLE
    path.unlink()
    assert await refusal(verifier, TOKEN) is Refusal.UNABLE


@pytest.mark.parametrize("text", ["", "\n\n", "# only a comment\n", "short\n"])
def test_a_file_without_a_real_token_is_refused(tmp_path, text):
    path = write_token(tmp_path / "token")
    path.write_text(text)
    with pytest.raises(AuthorityError, match="token"):
        TokenFileVerifier(path).tokens()


def test_a_burst_then_a_rate():
    limiter = RateLimiter(per_second=2, burst=3)
    assert [limiter.allow("a", now=0) for _ in range(5)] == [True, True, True, False, False]
    assert limiter.allow("b", now=0), "each source has its own"
    assert [limiter.allow("a", now=1) for _ in range(3)] == [True, True, False]
    assert [limiter.allow("a", now=1000) for _ in range(4)] == [True, True, True, False]


def test_a_clock_that_goes_back_gives_nothing():
    limiter = RateLimiter(per_second=1, burst=1)
    assert limiter.allow("a", now=100)
    assert not limiter.allow("a", now=50)


def test_sources_are_bounded():
    limiter = RateLimiter()
    for number in range(MOST_SOURCES + 100):
        limiter.allow(str(number), now=0)
    assert len(limiter._buckets) == MOST_SOURCES
