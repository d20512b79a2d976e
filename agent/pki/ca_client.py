# SPDX-License-Identifier: Apache-2.0
"""Calls ``istio.v1.auth.IstioCertificateService``: the doorway to grpc on the node.

Works with ``nodemesh ca`` and with istiod. Imported by ``ca_child`` only: the agent's own process
asks through ``ca_process``. Token and trust anchor are read from their files at each call: kubelet
renews tokens, and an authority's root may be replaced.
"""

import contextlib
import logging
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Final

import grpc
import grpc.aio

from agent.errors import CsrRejectedError, PkiError
from agent.pki.ca_settings import CaSettings
from mesh.model.identity import Identity
from wire.istio.v1.auth.ca_pb2 import IstioCertificateRequest, IstioCertificateResponse
from wire.x509 import X509Error, parse_certificates

__all__ = ["CaClient"]

log = logging.getLogger(__name__)

METHOD: Final = "/istio.v1.auth.IstioCertificateService/CreateCertificate"

OPTIONS: Final = (
    # Our own backoff decides when to try; the channel must then be ready to dial at once.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 1000),
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.enable_retries", 0),
    ("grpc.enable_http_proxy", 0),  # a token is for the authority, whatever the environment says
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.max_receive_message_length", 1024 * 1024),
)


@dataclass(slots=True)
class _Channel:
    """A channel, for one content of the trust anchor; closed when its last call is over."""

    channel: grpc.aio.Channel
    anchor: bytes
    calls: int = 0
    retired: bool = False


class CaClient:
    """A connection to the authority, opened when first needed."""

    def __init__(self, settings: CaSettings) -> None:
        self._settings = settings
        self._channel: _Channel | None = None

    async def create_certificate(
        self, identity: Identity, csr: str, *, lifetime: timedelta
    ) -> list[str]:
        """Ask for one certificate; PEM, the leaf first, the roots last.

        Raises:
            CsrRejectedError: the authority refused; asking again unchanged will not help.
            PkiError: it could not be asked; the text names the likely cause.

        """
        request = IstioCertificateRequest(
            csr=csr, validity_duration=max(1, int(lifetime.total_seconds()))
        )
        request.metadata.update({"ImpersonatedIdentity": str(identity)})
        headers = [("clusterid", self._settings.cluster_id)]
        if self._settings.token_file is not None:
            headers.append(("authorization", f"Bearer {_read_token(self._settings.token_file)}"))
        async with self._open() as channel:
            call = channel.unary_unary(
                METHOD,
                request_serializer=IstioCertificateRequest.SerializeToString,
                response_deserializer=IstioCertificateResponse.FromString,
            )
            try:
                response = await call(
                    request, metadata=tuple(headers), timeout=self._settings.timeout_seconds
                )
            except grpc.aio.AioRpcError as error:
                raise self._explain(identity, error) from error
        return list(response.cert_chain)

    async def close(self) -> None:
        """End the connection; open calls are cancelled."""
        held, self._channel = self._channel, None
        if held is not None:
            await held.channel.close()

    @contextlib.asynccontextmanager
    async def _open(self) -> AsyncIterator[grpc.aio.Channel]:
        held = await self._current()
        held.calls += 1
        try:
            yield held.channel
        finally:
            held.calls -= 1
            if held.retired and held.calls == 0:
                await held.channel.close()

    async def _current(self) -> _Channel:
        anchor = _read(self._settings.trust_anchor, "trust anchor")
        old = self._channel
        if old is not None and old.anchor == anchor:
            return old
        new = self._channel = _Channel(self._dial(anchor), anchor)
        if old is not None:
            log.info(
                "the trust anchor changed", extra={"fields": {"file": self._settings.trust_anchor}}
            )
            old.retired = True
            if old.calls == 0:
                await old.channel.close()
        return new

    def _dial(self, anchor: bytes) -> grpc.aio.Channel:
        try:
            parse_certificates(anchor)
        except X509Error as error:
            raise PkiError(
                f"the trust anchor {self._settings.trust_anchor} cannot be used: {error}"
            ) from error
        options: list[tuple[str, str | int]] = list(OPTIONS)
        if self._settings.server_name:
            options.append(("grpc.ssl_target_name_override", self._settings.server_name))
        credentials = grpc.ssl_channel_credentials(root_certificates=anchor)
        return grpc.aio.secure_channel(self._settings.address, credentials, options=options)

    def _explain(self, identity: Identity, error: grpc.aio.AioRpcError) -> PkiError:
        details = error.details() or "it gave no reason"
        authority = f"the authority at {self._settings.address}"
        match error.code():
            case grpc.StatusCode.UNAUTHENTICATED:
                return CsrRejectedError(
                    f"{authority} does not accept the token in "
                    f"{self._settings.token_file}: {details}"
                )
            case grpc.StatusCode.INVALID_ARGUMENT | grpc.StatusCode.PERMISSION_DENIED:
                return CsrRejectedError(f"{authority} refused to certify {identity}: {details}")
            case grpc.StatusCode.RESOURCE_EXHAUSTED:
                return PkiError(f"{authority} asks to slow down: {details}")
            case grpc.StatusCode.DEADLINE_EXCEEDED:
                return PkiError(
                    f"{authority} did not answer within {self._settings.timeout_seconds:g} s: a "
                    "firewall or a NetworkPolicy may swallow the packets"
                )
            case grpc.StatusCode.UNAVAILABLE:
                return PkiError(self._unreachable(authority, details))
            case code:
                return PkiError(f"{authority} failed with {code.name}: {details}")

    def _unreachable(self, authority: str, details: str) -> str:
        if "CERTIFICATE_VERIFY_FAILED" in details:
            cause = f"its certificate does not lead to a root in {self._settings.trust_anchor}"
        elif "Peer name" in details or "Hostname" in details:
            cause = "its certificate does not name that host: start it with --name, or set the name"
        elif "onnection refused" in details:
            cause = "nothing listens there; is `nodemesh ca` running?"
        else:
            cause = details
        return f"{authority} cannot be used: {cause}"


def _read(path: Path, what: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise PkiError(f"cannot read the {what} {path}: {error.strerror}") from error


def _read_token(path: Path) -> str:
    lines = _read(path, "token file").decode("ascii", "replace").splitlines()
    token = next((t for t in map(str.strip, lines) if t and not t.startswith("#")), "")
    if not token or not token.isprintable() or not token.isascii():
        raise PkiError(f"the token file {path} holds no usable token")
    return token
