# SPDX-License-Identifier: Apache-2.0
"""The real authority and the real client over TLS on loopback."""

import asyncio
import logging
import re
import socket
import ssl
import subprocess
import urllib.request
from datetime import UTC, datetime, timedelta

import grpc
import grpc.aio
import pytest
from pki_loopback import client, fetch, settings
from pki_world import CURL, TOKEN, WEB, Root, config, running_ca, write_token

from agent.errors import ConfigError, CsrRejectedError, PkiError
from control.ca.errors import AuthorityError
from mesh.model.identity import Identity
from wire.istio.v1.auth.ca_pb2 import IstioCertificateRequest, IstioCertificateResponse
from wire.x509 import Certificate, PrivateKey, build_request

pytestmark = pytest.mark.usefixtures("token")

METHOD = "/istio.v1.auth.IstioCertificateService/CreateCertificate"


@pytest.fixture
def token(tmp_path):
    return write_token(tmp_path / "token")


async def call(tmp_path, port, request, metadata):
    """A client that shares nothing with ours but the messages."""
    anchor = (tmp_path / "ca" / "root-cert.pem").read_bytes()
    credentials = grpc.ssl_channel_credentials(root_certificates=anchor)
    async with grpc.aio.secure_channel(f"127.0.0.1:{port}", credentials) as channel:
        method = channel.unary_unary(
            METHOD,
            request_serializer=IstioCertificateRequest.SerializeToString,
            response_deserializer=IstioCertificateResponse.FromString,
        )
        return await method(request, metadata=metadata, timeout=5)


async def status(tmp_path, port, request, metadata=(("authorization", f"Bearer {TOKEN}"),)):
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call(tmp_path, port, request, metadata)
    return caught.value.code(), caught.value.details()


def request(uri=str(CURL)):
    return IstioCertificateRequest(csr=build_request(PrivateKey.generate(), uri=uri))


async def test_an_svid_comes_over_the_wire(tmp_path, caplog):
    caplog.set_level(logging.DEBUG)
    async with running_ca(config(tmp_path)) as port, client(tmp_path, port) as made:
        svid = await fetch(made)
    left = svid.not_after - datetime.now(UTC)
    assert timedelta(minutes=59) < left <= timedelta(hours=1)
    [issued] = [r for r in caplog.records if r.getMessage() == "issued a certificate"]
    assert issued.fields["identity"] == CURL
    assert issued.fields["serial"] == svid.serial
    assert issued.fields["caller"] == "bootstrap-token"
    assert issued.fields["peer"] == "127.0.0.1"
    assert issued.fields["cluster"] == "Kubernetes"


def openssl(*arguments):
    command = ["openssl", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


async def test_openssl_verifies_the_chain(tmp_path):
    async with running_ca(config(tmp_path)) as port, client(tmp_path, port) as made:
        svid = await fetch(made)
    leaf = tmp_path / "leaf.pem"
    leaf.write_text(Certificate.from_der(svid.chain[0]).pem)
    root = tmp_path / "ca" / "root-cert.pem"
    for purpose in ("sslclient", "sslserver"):
        done = openssl("verify", "-x509_strict", "-purpose", purpose, "-CAfile", root, leaf)
        assert done.returncode == 0, done.stderr + done.stdout
    text = openssl("x509", "-in", leaf, "-noout", "-text").stdout
    assert re.search(rf"Alternative Name: critical\s+URI:{CURL}", text)
    assert "prime256v1" in text
    assert "CA:FALSE" in text


async def test_two_svids_make_mutual_tls(tmp_path):
    """Python's ssl plays both ends, with TLS 1.3 and both certificates demanded."""
    async with running_ca(config(tmp_path)) as port, client(tmp_path, port) as made:
        one, other = await asyncio.gather(fetch(made, CURL), fetch(made, WEB))
    seen = {}

    def context(svid, side):
        name = tmp_path / f"{svid.identity.service_account}.pem"
        key = PrivateKey.from_pkcs8_der(svid.private_key).to_pem().decode()
        name.write_text(key + "".join(Certificate.from_der(der).pem for der in svid.chain))
        made = ssl.SSLContext(side)
        made.minimum_version = ssl.TLSVersion.TLSv1_3
        made.check_hostname = False
        made.verify_mode = ssl.CERT_REQUIRED
        made.load_cert_chain(name)
        made.load_verify_locations(
            cadata="".join(Certificate.from_der(der).pem for der in svid.roots)
        )
        return made

    async def serve(reader, writer):
        seen["client"] = writer.get_extra_info("peercert")["subjectAltName"]
        writer.write(await reader.read(4))
        writer.close()

    server = await asyncio.start_server(
        serve, "127.0.0.1", 0, ssl=context(other, ssl.PROTOCOL_TLS_SERVER)
    )
    async with server:
        address = server.sockets[0].getsockname()
        reader, writer = await asyncio.open_connection(
            *address, ssl=context(one, ssl.PROTOCOL_TLS_CLIENT)
        )
        seen["server"] = writer.get_extra_info("peercert")["subjectAltName"]
        writer.write(b"ping")
        assert await reader.read(4) == b"ping"
        writer.close()
    assert seen == {"client": (("URI", str(CURL)),), "server": (("URI", str(WEB)),)}


async def test_tokens_are_needed(tmp_path):
    async with running_ca(config(tmp_path)) as port:
        unauthenticated = grpc.StatusCode.UNAUTHENTICATED
        for metadata in (
            (),
            (("authorization", TOKEN),),
            (("authorization", f"Basic {TOKEN}"),),
            (("authorization", "Bearer "),),
            (("authorization", "Bearer wrong-wrong-wrong-wrong"),),
        ):
            assert (await status(tmp_path, port, request(), metadata))[0] is unauthenticated
        answer = await call(tmp_path, port, request(), (("authorization", f"bearer {TOKEN}"),))
        assert len(answer.cert_chain) == 2, "the scheme is case-insensitive (RFC 9110)"


async def test_status_codes(tmp_path):
    async with running_ca(config(tmp_path)) as port:
        invalid = grpc.StatusCode.INVALID_ARGUMENT
        code, text = await status(tmp_path, port, request("spiffe://evil.example/ns/a/sa/b"))
        assert code is invalid
        assert "evil.example" in text
        assert (await status(tmp_path, port, IstioCertificateRequest(csr="x")))[0] is invalid
        impostor = request()
        impostor.metadata.update({"ImpersonatedIdentity": str(WEB)})
        code, text = await status(tmp_path, port, impostor)
        assert code is invalid
        assert "ImpersonatedIdentity" in text
        huge = IstioCertificateRequest(csr="x" * 100_000)
        assert (await status(tmp_path, port, huge))[0] is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_too_many_calls_are_slowed_down(tmp_path):
    limited = config(tmp_path, burst=3, requests_per_second=0.01)
    async with running_ca(limited) as port, client(tmp_path, port) as made:
        for _ in range(3):
            await fetch(made)
        with pytest.raises(PkiError, match="asks to slow down"):
            await fetch(made)


async def test_a_wrong_token_is_a_clear_error(tmp_path):
    other = write_token(tmp_path / "other", "not-the-right-token-at-all")
    async with (
        running_ca(config(tmp_path)) as port,
        client(tmp_path, port, token_file=other) as made,
    ):
        with pytest.raises(CsrRejectedError, match=r"does not accept the token in .*other"):
            await fetch(made)
        write_token(other)
        assert (await fetch(made)).identity == CURL, "the file is read at each call"


async def test_another_trust_domain_is_a_clear_error(tmp_path):
    async with running_ca(config(tmp_path)) as port, client(tmp_path, port) as made:
        with pytest.raises(CsrRejectedError, match=r"evil\.example"):
            await fetch(made, Identity("evil.example", "a", "b"))


@pytest.mark.parametrize("missing", ["token", "ca/root-cert.pem"])
async def test_a_missing_file_is_a_clear_error(tmp_path, missing):
    async with running_ca(config(tmp_path)) as port, client(tmp_path, port) as made:
        (tmp_path / missing).unlink()
        with pytest.raises(PkiError, match=rf"cannot read the .*{missing}: No such file"):
            await fetch(made)


async def test_a_server_of_another_root_is_not_trusted(tmp_path):
    wrong = tmp_path / "wrong.pem"
    now = datetime.now(UTC)
    wrong.write_text(Root(now=now).certificate.pem)
    async with (
        running_ca(config(tmp_path)) as port,
        client(tmp_path, port, trust_anchor=wrong) as made,
    ):
        with pytest.raises(PkiError, match=r"does not lead to a root in .*wrong\.pem"):
            await fetch(made)
        wrong.write_text((tmp_path / "ca" / "root-cert.pem").read_text())
        assert (await fetch(made)).identity == CURL, "the anchor is read again"


async def test_a_damaged_trust_anchor_is_a_clear_error(tmp_path):
    bad = tmp_path / "bad.pem"
    bad.write_text("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    async with (
        running_ca(config(tmp_path)) as port,
        client(tmp_path, port, trust_anchor=bad) as made,
    ):
        with pytest.raises(PkiError, match=r"trust anchor .*bad\.pem cannot be used: .*damaged"):
            await fetch(made)


async def test_no_token_file_shows_no_token(tmp_path):
    async with (
        running_ca(config(tmp_path)) as port,
        client(tmp_path, port, token_file=None) as made,
    ):
        with pytest.raises(CsrRejectedError, match="has no 'authorization"):
            await fetch(made)


@pytest.mark.parametrize("address", ["", "host", "host:", ":1", "host:x", "host:0", "::1:443"])
def test_an_address_has_host_and_port(tmp_path, address):
    with pytest.raises(ConfigError, match="HOST:PORT"):
        settings(tmp_path, 1, address=address)


async def test_a_server_of_another_name_is_not_trusted(tmp_path):
    named = config(tmp_path, names=("ca.example",))
    async with running_ca(named) as port:
        async with client(tmp_path, port) as made:
            with pytest.raises(PkiError, match="does not name that host"):
                await fetch(made)
        async with client(tmp_path, port, server_name="ca.example") as made:
            assert (await fetch(made)).identity == CURL


async def test_ipv6(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    async with (
        running_ca(config(tmp_path, host="::1")) as port,
        client(tmp_path, port, address=f"[::1]:{port}") as made,
    ):
        await fetch(made)
    assert [r.fields["peer"] for r in caplog.records if "issued" in r.getMessage()] == ["::1"]


async def test_a_taken_port_is_a_clear_error(tmp_path):
    async with running_ca(config(tmp_path)) as port:
        with pytest.raises(AuthorityError, match=rf"cannot listen on 127\.0\.0\.1:{port}"):
            async with running_ca(config(tmp_path, port=port)):
                pass


async def test_a_bad_token_file_stops_the_start(tmp_path, token):
    token.chmod(0o644)
    with pytest.raises(AuthorityError, match="mode 0644"):
        async with running_ca(config(tmp_path)):
            pass


async def test_many_at_once(tmp_path):
    async with running_ca(config(tmp_path)) as port, client(tmp_path, port) as made:
        names = [Identity("cluster.local", "shop", f"pod-{n}") for n in range(60)]
        svids = await asyncio.gather(*(fetch(made, name) for name in names))
    assert [svid.identity for svid in svids] == names
    assert len({svid.private_key for svid in svids}) == 60, "each has a key of its own"


async def test_secrets_reach_no_log(tmp_path, caplog):
    caplog.set_level(logging.DEBUG)
    async with running_ca(config(tmp_path)) as port, client(tmp_path, port) as made:
        svid = await fetch(made)
        other = write_token(tmp_path / "other", "another-secret-token-0123456789")
        async with client(tmp_path, port, token_file=other) as wrong:
            with pytest.raises(CsrRejectedError):
                await fetch(wrong)
        await status(tmp_path, port, IstioCertificateRequest(csr="x"))
    written = "\n".join(
        f"{r.getMessage()} {getattr(r, 'fields', '')} {r.exc_text or ''}" for r in caplog.records
    )
    assert "issued a certificate" in written
    assert "refused a certificate" in written
    ca_key = (tmp_path / "ca" / "ca-key.pem").read_text().splitlines()[1]
    for secret in (
        TOKEN,
        "another-secret-token",
        "PRIVATE KEY",
        ca_key,
        repr(svid.private_key)[2:40],
    ):
        assert secret not in written


async def test_it_is_counted(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        number = taken.getsockname()[1]
        with pytest.raises(AuthorityError, match="cannot serve metrics"):
            async with running_ca(config(tmp_path, metrics=("127.0.0.1", number))):
                pass
    url = f"http://127.0.0.1:{number}/metrics"
    async with (
        running_ca(config(tmp_path, metrics=("127.0.0.1", number))) as port,
        client(tmp_path, port) as made,
    ):
        await fetch(made)
        await fetch(made)
        await status(tmp_path, port, IstioCertificateRequest(csr="x"))
        answer = await asyncio.to_thread(lambda: urllib.request.urlopen(url, timeout=5).read())
    text = answer.decode()
    assert "nodemesh_ca_issued_total 2.0" in text
    assert 'nodemesh_ca_refused_total{reason="invalid"} 1.0' in text
    assert 'nodemesh_ca_refused_total{reason="unauthenticated"} 0.0' in text
