# SPDX-License-Identifier: Apache-2.0
"""An independent HBONE peer (OpenSSL by Python's ssl, and h2) on both sides of the agent."""

import datetime as dt
import json
import time
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from netns_support import ENDED

pytestmark = pytest.mark.netns

FAR, CLIENT, WEB = "shop/far", "shop/client", "shop/web-1"


@pytest.fixture(scope="module")
def far_svid(shared_lab):
    """The certificate of the pod whose node has no agent."""
    return shared_lab.certificate(shared_lab.spec.identity(FAR), "far")


def ask(lab, svid, scenario, *, six=False):
    address = lab.spec.address6(WEB) if six else lab.spec.address4(WEB)
    return json.loads(lab.python(FAR, "hbone_peer.py", "connect", svid, address, scenario))


# ── the stranger as the client, the agent as the server ──


@pytest.mark.parametrize("six", [False, True])
def test_connect_reaches_the_application_as_the_client(lab, far_svid, six):
    answer = ask(lab, far_svid, "get", six=six)
    assert answer["status"] == "200"
    assert answer["ended"] == "end"
    assert answer["identity"] == lab.spec.identity(WEB)
    seen = json.loads(answer["body"].partition("\r\n\r\n")[2])
    assert seen["pod"] == WEB
    assert seen["client"] == (lab.spec.address6(FAR) if six else lab.spec.address4(FAR))


def test_the_settings_are_those_of_hbone(lab, far_svid):
    settings = ask(lab, far_svid, "get")["settings"]
    assert settings["4"] == 4 << 20
    assert settings["5"] == 1 << 20
    assert settings["3"] >= 100


def test_fifty_streams_share_one_connection(lab, far_svid):
    answer = ask(lab, far_svid, "many")
    assert answer["statuses"] == ["200"] * 50
    assert answer["whole"] == 50


@pytest.mark.parametrize(
    ("scenario", "status"),
    [
        ("wrong-authority", "400"),
        ("malformed-authority", "400"),
        ("not-connect", "400"),
        ("closed-port", "503"),
    ],
)
def test_refusals(lab, far_svid, scenario, status):
    answer = ask(lab, far_svid, scenario)
    assert answer["status"] == status
    assert answer["ended"]
    assert not answer["goaway"]


def test_ping_is_answered(lab, far_svid):
    assert ask(lab, far_svid, "ping")["pings"] == 1


def test_without_a_certificate_nothing_is_served(lab, far_svid):
    answer = ask(lab, far_svid, "no-certificate")
    assert answer["status"] == ""
    assert "error" in answer


def test_a_foreign_authority_is_refused(lab, far_svid, tmp_path):
    key = ec.generate_private_key(ec.SECP256R1())
    now = dt.datetime.now(dt.UTC)
    uri = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(lab.spec.identity(FAR))])
    name = x509.Name([x509.NameAttribute(x509.NameOID.ORGANIZATION_NAME, "elsewhere")])
    forged = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(7)
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(hours=1))
        .add_extension(uri, critical=False)
        .sign(key, hashes.SHA256())
    )
    (tmp_path / "chain.pem").write_bytes(forged.public_bytes(serialization.Encoding.PEM))
    (tmp_path / "key.pem").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    (tmp_path / "roots.pem").write_bytes((Path(far_svid) / "roots.pem").read_bytes())
    answer = ask(lab, str(tmp_path), "get")
    assert answer["status"] == ""


# ── the agent as the client, the stranger as the server ──


@pytest.fixture
def far_server(lab, far_svid):
    """Start the far end in a mode; everything ends with the test."""
    started = []

    def start(mode, *, svid=far_svid, six=False):
        address = lab.spec.address6(FAR) if six else lab.spec.address4(FAR)
        started.append(lab.start(FAR, "far-server", "hbone_peer.py", "serve", svid, address, mode))
        return f"http://[{address}]:8080/" if six else f"http://{address}:8080/"

    yield start
    for process in started:
        process.kill()
    time.sleep(0.1)


@pytest.mark.parametrize("six", [False, True])
def test_the_agent_connects_as_hbone_wants_it(lab, far_server, six):
    url = far_server("echo", six=six)
    status, body = lab.curl(CLIENT, url)
    assert (status, body) == (0, "far\n")
    lines = lab.lines("far-server")
    tunnel = next(line for line in lines if line["event"] == "tunnel")
    own = lab.spec.address6(CLIENT) if six else lab.spec.address4(CLIENT)
    assert tunnel["peer"] == own
    assert tunnel["identity"] == lab.spec.identity(CLIENT)
    assert tunnel["alpn"] == "h2"
    assert tunnel["version"] == "TLSv1.3"
    assert tunnel["sni"] is None
    request = next(line for line in lines if line["event"] == "request")
    headers = dict(request["headers"])
    far = lab.spec.address6(FAR) if six else lab.spec.address4(FAR)
    assert headers[":method"] == "CONNECT"
    assert headers[":authority"] == (f"[{far}]:8080" if six else f"{far}:8080")
    assert ":scheme" not in headers
    assert ":path" not in headers
    assert "k8s.namespace.name=shop" in headers["baggage"]
    assert headers["forwarded"].startswith("for=")
    assert own in headers["forwarded"]
    version, trace, span, _ = headers["traceparent"].split("-")
    assert (version, len(trace), len(span)) == ("00", 32, 16)
    settings = next(line for line in lines if line["event"] == "settings")["values"]
    assert settings["4"] == 4 << 20


def test_connections_share_a_tunnel(lab, far_server):
    url = far_server("echo")
    for _ in range(5):
        assert lab.curl(CLIENT, url)[0] == 0
    lines = lab.lines("far-server")
    assert sum(line["event"] == "tunnel" for line in lines) == 1
    assert sum(line["event"] == "request" for line in lines) == 5


def test_after_goaway_a_new_tunnel_is_made(lab, far_server):
    url = far_server("goaway")
    assert lab.curl(CLIENT, url) == (0, "last\n")
    assert lab.curl(CLIENT, url)[0] == 0
    assert sum(line["event"] == "tunnel" for line in lab.lines("far-server")) == 2


def test_another_identity_than_expected_is_refused(lab, far_server):
    url = far_server("echo", svid=lab.certificate(lab.spec.identity(WEB), "stranger"))
    status, _ = lab.curl(CLIENT, url)
    assert status in ENDED
    assert not any(line["event"] == "request" for line in lab.lines("far-server"))
    assert_reason(lab, "peer-identity-mismatch")


@pytest.mark.parametrize(
    ("mode", "reason"), [("refuse", "connect-denied"), ("reset", "stream-reset")]
)
def test_a_refusal_is_a_reset_with_a_reason(lab, far_server, mode, reason):
    status, _ = lab.curl(CLIENT, far_server(mode))
    assert status in ENDED
    assert_reason(lab, reason)


def test_no_agent_at_the_far_end_fails_fast(lab):
    began = time.monotonic()
    status, _ = lab.curl(CLIENT, f"http://{lab.spec.address4(FAR)}:8080/")
    assert status in ENDED
    assert time.monotonic() - began < 2
    assert_reason(lab, "upstream-connect-failed")


def assert_reason(lab, reason):
    deadline = time.monotonic() + 5
    far = f"{lab.spec.address4(FAR)}:8080"
    while True:
        found = lab.records(lab.one, destination=far, direction="outbound")
        if found and found[0]["reason"] == reason:
            return
        assert time.monotonic() < deadline, [record["reason"] for record in found]
        time.sleep(0.05)
