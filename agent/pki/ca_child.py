# SPDX-License-Identifier: Apache-2.0
"""Asks an authority for certificates and ends with its parent: grpc is never resident in an agent.

Lines of JSON. Standard input: first the settings, then a line for each request. Standard output: a
line for each answer, as they come, and one for each line of our log::

    {"address", "trust_anchor", "token_file", "cluster_id", "server_name", "timeout_seconds"}
    {"id", "identity", "csr", "lifetime_seconds"}
    {"id", "chain": [PEM, …]} | {"id", "rejected": sentence} | {"id", "failed": sentence}
    {"log": level, "logger", "message", "fields"}

The end of standard input ends it, and the open calls with it. No key comes here: the token is read
here, the request was signed by the parent. Only ``ca_process`` runs it.
"""

import asyncio
import json
import logging
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

from agent.children import die_with_parent
from agent.errors import CsrRejectedError, PkiError
from agent.pki.ca_client import CaClient
from agent.pki.ca_settings import CaSettings
from mesh.model.identity import parse_identity

__all__ = ["LINE_LIMIT_BYTES", "main"]

LINE_LIMIT_BYTES: Final = 4 * 1024 * 1024
"""An answer of the authority is at most 1 MiB (``ca_client.OPTIONS``), in JSON a bit more."""


def main() -> None:
    """Work until standard input ends."""
    die_with_parent()
    logging.basicConfig(level=logging.INFO, handlers=[_ToParent()], format="%(message)s")
    asyncio.run(_serve())


async def _serve() -> None:
    reader = asyncio.StreamReader(limit=LINE_LIMIT_BYTES)
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), sys.stdin
    )
    client = CaClient(_settings(json.loads(await reader.readline())))
    try:
        async with asyncio.TaskGroup() as group:
            calls: set[asyncio.Task[None]] = set()
            while line := await reader.readline():
                call = group.create_task(_answer(client, json.loads(line)))
                calls.add(call)
                call.add_done_callback(calls.discard)
            for call in calls:
                call.cancel()
    finally:
        await client.close()


def _settings(given: dict[str, Any]) -> CaSettings:
    token = given["token_file"]
    return CaSettings(
        address=given["address"],
        trust_anchor=Path(given["trust_anchor"]),
        token_file=None if token is None else Path(token),
        cluster_id=given["cluster_id"],
        server_name=given["server_name"],
        timeout_seconds=given["timeout_seconds"],
    )


async def _answer(client: CaClient, request: dict[str, Any]) -> None:
    try:
        chain = await client.create_certificate(
            parse_identity(request["identity"]),
            request["csr"],
            lifetime=timedelta(seconds=request["lifetime_seconds"]),
        )
    except CsrRejectedError as error:
        _tell({"id": request["id"], "rejected": str(error)})
    except PkiError as error:
        _tell({"id": request["id"], "failed": str(error)})
    else:
        _tell({"id": request["id"], "chain": chain})


def _tell(said: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(said) + "\n")
    sys.stdout.flush()


class _ToParent(logging.Handler):
    """Our log is the agent's."""

    def emit(self, record: logging.LogRecord) -> None:
        fields = {key: str(value) for key, value in getattr(record, "fields", {}).items()}
        message = self.format(record)
        _tell({"log": record.levelno, "logger": record.name, "message": message, "fields": fields})
