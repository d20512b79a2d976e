# SPDX-License-Identifier: Apache-2.0
"""One call from token to chain, without the wire.

::

    rate limit -> authenticate -> read the request -> authorize -> sign -> log and count
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from control.ca.authority import AuthorityStore
from control.ca.errors import Refusal, RefusedError
from control.ca.issue import Issued, IssueRules, issue, read_wish
from control.ca.limiter import RateLimiter
from control.ca.metrics import CaMetrics
from control.ca.verifier import CallerVerifier

__all__ = ["Call", "CertificateService"]

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """What arrived. The token and the request are kept out of ``repr``."""

    peer: str
    """Address of the caller, without the port."""
    token: str | None
    csr: str
    seconds: int
    impersonated: str
    """Empty if the caller named none beside the request."""
    cluster_id: str

    def __repr__(self) -> str:
        return f"<Call from {self.peer}>"


class CertificateService:
    """Signs for callers who may have what they ask for."""

    def __init__(
        self,
        *,
        authority: AuthorityStore,
        rules: IssueRules,
        verifier: CallerVerifier,
        limiter: RateLimiter,
        metrics: CaMetrics,
        clock: Callable[[], datetime],
    ) -> None:
        self._authority = authority
        self._rules = rules
        self._verifier = verifier
        self._limiter = limiter
        self._metrics = metrics
        self._clock = clock

    async def create_certificate(self, call: Call) -> Issued:
        """Sign, or raise RefusedError; either is counted and logged once."""
        try:
            return await self._create(call)
        except RefusedError as error:
            self._metrics.refused(error.refusal)
            fields = {"reason": error.refusal.value, "peer": call.peer, "detail": str(error)}
            if error.__cause__ is not None and error.refusal is Refusal.UNABLE:
                fields["cause"] = str(error.__cause__)
            log.warning("refused a certificate", extra={"fields": fields})
            raise

    async def _create(self, call: Call) -> Issued:
        now = self._clock()
        if not self._limiter.allow(call.peer, now=now.timestamp()):
            raise RefusedError(
                Refusal.TOO_MANY, "too many requests from this address; wait a little"
            )
        if not call.token:
            raise RefusedError(
                Refusal.UNAUTHENTICATED, "the call has no 'authorization: Bearer <token>'"
            )
        caller = await self._verifier.authenticate(call.token)
        wish = read_wish(
            call.csr, seconds=call.seconds, impersonated=call.impersonated, rules=self._rules
        )
        await self._verifier.authorize(caller, wish.identity)
        issued = issue(wish, self._authority.current, now=now)
        self._metrics.issued()
        fields = {
            "identity": issued.identity,
            "serial": issued.leaf.serial,
            "caller": caller.name,
            "peer": call.peer,
            "cluster": call.cluster_id,
            "expires": f"{issued.leaf.not_after:%FT%TZ}",
        }
        log.info("issued a certificate", extra={"fields": fields})
        return issued
