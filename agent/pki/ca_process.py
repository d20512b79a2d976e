# SPDX-License-Identifier: Apache-2.0
"""The authority as the agent asks it: through a process that runs only while there is something.

gRPC and protobuf would be a fifth of an idle agent's memory, for a call a day and identity. The
process starts with the first request, serves those that come meanwhile, and is let go when
none came for a while. Keys stay here; it sees requests and certificates.

::

    create_certificate ─▶ line of JSON ─▶ ca_child ─▶ gRPC ─▶ authority
                       ◀─ line of JSON ◀─          ◀─      ◀─
"""

import asyncio
import contextlib
import itertools
import json
import logging
from collections.abc import Sequence
from datetime import timedelta
from types import TracebackType
from typing import Any, Final, Self

from agent.children import child_command
from agent.errors import CsrRejectedError, PkiError
from agent.pki.ca_settings import CaSettings
from mesh.model.identity import Identity

__all__ = ["CaProcess"]

log = logging.getLogger(__name__)

_CHILD: Final = "agent.pki.ca_child"

_IDLE_SECONDS: Final = 15.0
"""Pods come in groups (a rollout), and each start costs a third of a second of CPU."""

_START_SECONDS: Final = 20.0
"""On top of a call's own time: Python and gRPC have to be loaded, maybe while the node boots."""

_END_SECONDS: Final = 2.0
"""After that a process that was asked to end is killed."""

_LAST_SECONDS: Final = 1.0
"""From the end of its output to its own end."""

_LINE_LIMIT_BYTES: Final = 4 * 1024 * 1024
"""As in ``ca_child``, which is not imported here."""


class CaProcess:
    """Signs requests as :class:`agent.pki.issuance.Authority` says. For the loop's thread.

    Used in an ``async with``; at its end there is no process, and open calls are given up.
    """

    def __init__(
        self,
        settings: CaSettings,
        *,
        idle_seconds: float = _IDLE_SECONDS,
        start_seconds: float = _START_SECONDS,
        command: Sequence[str] | None = None,
    ) -> None:
        self._settings = settings
        self._idle_seconds = idle_seconds
        self._seconds = settings.timeout_seconds + start_seconds
        self._command = command
        self._starting = asyncio.Lock()
        self._child: _Child | None = None
        self._group = asyncio.TaskGroup()

    async def __aenter__(self) -> Self:
        await self._group.__aenter__()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._child is not None:
            self._child.retire()
        await self._group.__aexit__(kind, error, trace)

    async def create_certificate(
        self, identity: Identity, csr: str, *, lifetime: timedelta
    ) -> list[str]:
        """Ask for one certificate; PEM, the leaf first, the roots last.

        Raises:
            CsrRejectedError: the authority refused; asking again unchanged will not help.
            PkiError: it could not be asked; the text names the likely cause.

        """
        request = {
            "identity": str(identity),
            "csr": csr,
            "lifetime_seconds": lifetime.total_seconds(),
        }
        child = await self._running()
        try:
            async with asyncio.timeout(self._seconds):
                answer = await child.ask(request)
        except TimeoutError as error:
            child.kill()
            raise PkiError(
                f"{child.who} did not answer within {self._seconds:g} s and was ended: the "
                "machine may be overloaded or out of memory"
            ) from error
        match answer:
            case {"chain": [*chain]} if all(isinstance(one, str) for one in chain):
                return chain
            case {"rejected": str(sentence)}:
                raise CsrRejectedError(sentence)
            case {"failed": str(sentence)}:
                raise PkiError(sentence)
            case _:
                child.kill()
                raise PkiError(f"{child.who} gave an answer that is none, and was ended")

    async def _running(self) -> "_Child":
        async with self._starting:
            if self._child is None or self._child.ended:
                self._child = await self._start()
            return self._child

    async def _start(self) -> "_Child":
        settings = self._settings
        who = f"the process that asks the authority at {settings.address}"
        try:
            process = await asyncio.create_subprocess_exec(
                *(self._command or child_command(_CHILD)),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                limit=_LINE_LIMIT_BYTES,
                start_new_session=True,  # Ctrl-C is for the agent, which drains
            )
        except OSError as error:
            raise PkiError(f"{who} cannot be started: {error.strerror}") from error
        child = _Child(process, who, self._idle_seconds)
        self._group.create_task(child.run(), name="authority's process")
        child.send(
            {
                "address": settings.address,
                "trust_anchor": str(settings.trust_anchor),
                "token_file": None if settings.token_file is None else str(settings.token_file),
                "cluster_id": settings.cluster_id,
                "server_name": settings.server_name,
                "timeout_seconds": settings.timeout_seconds,
            }
        )
        return child


class _Child:
    """One running process and the requests that wait for its answer."""

    def __init__(self, process: asyncio.subprocess.Process, who: str, idle_seconds: float) -> None:
        assert process.stdin is not None  # noqa: S101 - pipes were asked for
        assert process.stdout is not None  # noqa: S101
        assert process.stderr is not None  # noqa: S101
        self.who = who
        self.ended = False
        """It takes no more requests."""

        self._process = process
        self._killed = False
        self._requests = process.stdin
        self._answers = process.stdout
        self._words = process.stderr
        self._wrong = self._last_words = ""
        self._idle_seconds = idle_seconds
        self._idle: asyncio.TimerHandle | None = None
        self._numbers = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[dict[str, Any]]] = {}

    async def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        """Send a request and wait for its answer. PkiError if the process ends before."""
        number = next(self._numbers)
        answer: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._waiting[number] = answer
        self._rest(start=False)
        try:
            self.send({"id": number, **request})
            return await answer
        finally:
            self._waiting.pop(number, None)
            self._rest(start=not self._waiting)

    def send(self, line: dict[str, Any]) -> None:
        """Queue a line; that nobody takes it any more is seen by who reads the answers."""
        self._requests.write(json.dumps(line).encode() + b"\n")

    def kill(self) -> None:
        """End it at once, whatever it does.

        Once only: Popen looks first whether it has ended, and would so take away the status that
        asyncio waits for.
        """
        self.ended = True
        if self._killed:
            return
        self._killed = True
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()

    def retire(self) -> None:
        """Let it end in order, or kill it if it does not."""
        self.ended = True
        self._rest(start=False)
        self._requests.close()
        asyncio.get_running_loop().call_later(_END_SECONDS, self.kill)

    def _rest(self, *, start: bool) -> None:
        """Start to count idle time, or stop it."""
        if self._idle is not None:
            self._idle.cancel()
            self._idle = None
        if start and not self.ended:
            self._idle = asyncio.get_running_loop().call_later(self._idle_seconds, self.retire)

    async def run(self) -> None:
        """Hand out the answers until the process is gone; then say so to who still waits."""
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._listen(), name="authority's process, words")
                await self._hand_out()
                await self._see_off()
        finally:
            if self._process.returncode is None:
                self.kill()
            self._rest(start=False)
            self._requests.close()
            status = await self._process.wait()
            for answer in self._waiting.values():
                if not answer.done():
                    answer.set_exception(PkiError(self._explain(status)))

    async def _see_off(self) -> None:
        """What closes its output gives no answer any more: it ends, or is killed."""
        self.ended = True
        try:
            async with asyncio.timeout(_LAST_SECONDS):
                await self._process.wait()
        except TimeoutError:
            self.kill()

    async def _hand_out(self) -> None:
        try:
            while line := await self._answers.readline():
                self._take(json.loads(line))
        except (ValueError, TypeError, KeyError, AttributeError):  # no line, no JSON, no object
            self._wrong = "it wrote something that is no answer"

    def _take(self, said: dict[str, Any]) -> None:
        if "log" in said:
            fields = {"fields": dict(said["fields"])}
            logger = logging.getLogger(said["logger"])
            logger.log(int(said["log"]), "%s", said["message"], extra=fields)
            return
        answer = self._waiting.get(said["id"])
        if answer is not None and not answer.done():  # else whoever asked has gone
            answer.set_result(said)

    async def _listen(self) -> None:
        """Standard error: grpc's complaints, or why the process ends."""
        with contextlib.suppress(ValueError):  # a line without end
            while line := await self._words.readline():
                self._last_words = line.decode(errors="replace").strip() or self._last_words
                log.debug("%s says: %s", self.who, self._last_words)

    def _explain(self, status: int) -> str:
        how = f"was ended by signal {-status}" if status < 0 else f"ended with {status}"
        words = self._wrong or self._last_words
        return f"{self.who} {how}: {words}" if words else f"{self.who} {how}"
