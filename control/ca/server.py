# SPDX-License-Identifier: Apache-2.0
"""``istio.v1.auth.IstioCertificateService`` over TLS: the doorway to grpc on this side."""

import logging
import urllib.parse
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from threading import Lock
from typing import Final

import grpc
import grpc.aio

from control.ca.authority import AuthorityStore
from control.ca.errors import AuthorityError, Refusal, RefusedError
from control.ca.service import Call, CertificateService
from wire.istio.v1.auth.ca_pb2 import IstioCertificateRequest, IstioCertificateResponse
from wire.x509 import Certificate, PrivateKey, X509Error, server_profile

__all__ = ["CaServer", "ServerCertificate"]

log = logging.getLogger(__name__)

SERVICE: Final = "istio.v1.auth.IstioCertificateService"

STATUS: Final = {
    Refusal.UNAUTHENTICATED: grpc.StatusCode.UNAUTHENTICATED,
    Refusal.INVALID: grpc.StatusCode.INVALID_ARGUMENT,
    Refusal.NOT_PERMITTED: grpc.StatusCode.PERMISSION_DENIED,
    Refusal.TOO_MANY: grpc.StatusCode.RESOURCE_EXHAUSTED,
    Refusal.UNABLE: grpc.StatusCode.UNAVAILABLE,
}

OPTIONS: Final = (
    ("grpc.so_reuseport", 0),  # a second authority on the port is an error, not a lottery
    ("grpc.max_receive_message_length", 64 * 1024),
    ("grpc.max_metadata_size", 16 * 1024),
    ("grpc.max_concurrent_streams", 64),
    ("grpc.max_connection_idle_ms", 300_000),
    ("grpc.server_handshake_timeout_ms", 10_000),
)

MOST_CALLS: Final = 256
"""Calls in progress at once; more are answered RESOURCE_EXHAUSTED by grpc."""


RETRY_AFTER: Final = timedelta(seconds=30)
"""Pause before the server's certificate is tried again after a failure."""


class ServerCertificate:
    """The server's own certificate: signed here, kept in memory, renewed at half its life.

    ``current`` is called by grpc's threads at each handshake.
    """

    def __init__(
        self,
        authority: AuthorityStore,
        *,
        hosts: Sequence[str],
        lifetime: timedelta,
        clock: Callable[[], datetime],
    ) -> None:
        self._authority = authority
        self._hosts = tuple(hosts)
        self._lifetime = lifetime
        self._clock = clock
        self._lock = Lock()
        self._issuer: Certificate | None = None
        self._renew_at = clock()
        self._configuration: grpc.ServerCertificateConfiguration | None = None

    def current(self) -> grpc.ServerCertificateConfiguration:
        """Return the configuration in force; make one when it is time or the authority changed."""
        with self._lock:
            now = self._clock()
            issuer = self._authority.current.issuer.certificate
            if self._configuration is None:
                self._configuration = self._sign(now)
            elif now >= self._renew_at or issuer != self._issuer:
                self._renew(now)
            self._issuer = issuer
            return self._configuration

    def _renew(self, now: datetime) -> None:
        try:
            self._configuration = self._sign(now)
        except X509Error as error:
            self._renew_at = now + RETRY_AFTER
            log.warning("kept the server's own certificate", extra={"fields": {"cause": error}})

    def _sign(self, now: datetime) -> grpc.ServerCertificateConfiguration:
        authority = self._authority.current
        key = PrivateKey.generate()
        leaf = authority.issuer.sign_key(
            key, server_profile(self._hosts), now=now, not_after=now + self._lifetime
        )
        self._renew_at = now + max((leaf.not_after - now) / 2, timedelta(seconds=1))
        chain = "".join(c.pem for c in (leaf, *authority.intermediates))
        fields = {"serial": leaf.serial, "names": ",".join(self._hosts), "expires": leaf.not_after}
        log.info("made the server's own certificate", extra={"fields": fields})
        return grpc.ssl_server_certificate_configuration([(key.to_pem(), chain.encode("ascii"))])


class CaServer:
    """Listens, turns calls into :class:`Call`, and refusals into status codes."""

    def __init__(self, service: CertificateService, certificate: ServerCertificate) -> None:
        self._service = service
        self._certificate = certificate
        self._server: grpc.aio.Server | None = None

    async def start(self, host: str, port: int) -> int:
        """Listen on TLS; the port in use is returned (0 asks for any). AuthorityError if taken."""
        server = grpc.aio.server(options=OPTIONS, maximum_concurrent_rpcs=MOST_CALLS)
        handler = grpc.unary_unary_rpc_method_handler(
            self._create_certificate,
            request_deserializer=IstioCertificateRequest.FromString,
            response_serializer=IstioCertificateResponse.SerializeToString,
        )
        server.add_generic_rpc_handlers(
            [grpc.method_handlers_generic_handler(SERVICE, {"CreateCertificate": handler})]
        )
        credentials = grpc.dynamic_ssl_server_credentials(
            self._certificate.current(), self._certificate.current
        )
        address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        try:
            bound = server.add_secure_port(address, credentials)
        except RuntimeError as error:
            raise AuthorityError(
                f"cannot listen on {address}: is the address this machine's and the port free?"
            ) from error
        await server.start()
        self._server = server
        return bound

    async def stop(self, *, grace_seconds: float) -> None:
        """Take no new calls; let the open ones finish within the grace."""
        if self._server is not None:
            await self._server.stop(grace_seconds)

    async def _create_certificate(
        self,
        request: IstioCertificateRequest,
        context: "grpc.aio.ServicerContext[IstioCertificateRequest, IstioCertificateResponse]",
    ) -> IstioCertificateResponse:
        try:
            issued = await self._service.create_certificate(_call(request, context))
        except RefusedError as error:
            await context.abort(STATUS[error.refusal], str(error))
        except Exception:
            # Its text could hold anything; the caller learns only that it was not its fault.
            log.exception("could not answer a request")
            await context.abort(grpc.StatusCode.INTERNAL, "the authority failed; see its log")
        return IstioCertificateResponse(cert_chain=issued.cert_chain)


def _call(
    request: IstioCertificateRequest,
    context: "grpc.aio.ServicerContext[IstioCertificateRequest, IstioCertificateResponse]",
) -> Call:
    metadata = {
        key: value for key, value in context.invocation_metadata() or () if isinstance(value, str)
    }
    scheme, _, token = metadata.get("authorization", "").partition(" ")
    fields = request.metadata.fields
    impersonated = fields.get("ImpersonatedIdentity")
    return Call(
        peer=_host_of(context.peer()),
        token=token.strip() if scheme.lower() == "bearer" else None,
        csr=request.csr,
        seconds=request.validity_duration,
        impersonated=impersonated.string_value if impersonated is not None else "",
        cluster_id=metadata.get("clusterid", "")[:64],
    )


def _host_of(peer: str) -> str:
    """``ipv4:192.0.2.1:5`` and ``ipv6:%5B2001:db8::1%5D:5`` without scheme and port."""
    _, _, rest = urllib.parse.unquote(peer).partition(":")
    return rest.rpartition(":")[0].strip("[]")
