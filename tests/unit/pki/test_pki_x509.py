# SPDX-License-Identifier: Apache-2.0
"""The doorway to X.509: what it makes, what it refuses, what it never shows."""

import base64
import pickle
from datetime import timedelta

import pytest
from pki_world import CURL, START, WEB, Root

from wire.x509 import (
    CertificateRequest,
    Curve,
    PrivateKey,
    X509Error,
    build_request,
    parse_certificates,
    server_profile,
    verify_chain,
)


def test_a_key_does_not_show_itself():
    key = PrivateKey.generate(Curve.P384)
    assert repr(key) == str(key) == "<PrivateKey P-384>"
    with pytest.raises(TypeError):
        pickle.dumps(key)


@pytest.mark.parametrize("curve", list(Curve))
def test_a_key_survives_pem_and_der(curve):
    key = PrivateKey.generate(curve)
    assert PrivateKey.from_pem(key.to_pem()).public_der == key.public_der
    assert PrivateKey.from_pkcs8_der(key.to_pkcs8_der()).public_der == key.public_der


@pytest.mark.parametrize("text", [b"", b"secret", b"-----BEGIN PRIVATE KEY-----\nAAAA\n"])
def test_a_refused_key_is_not_quoted(text):
    with pytest.raises(X509Error) as caught:
        PrivateKey.from_pem(text)
    assert "AAAA" not in str(caught.value)


def test_a_leaf_verifies_to_its_root_only():
    root, other = Root(), Root()
    leaf = root.leaf(CURL, PrivateKey.generate(), now=START)
    verify_chain(leaf, intermediates=[], roots=[other.certificate, root.certificate], at=START)
    with pytest.raises(X509Error, match="none of the given certificates issued the leaf"):
        verify_chain(leaf, intermediates=[], roots=[other.certificate], at=START)


@pytest.mark.parametrize(
    ("offset", "text"), [(3601, "the leaf expired"), (-121, "not valid before")]
)
def test_validity_is_judged_for_the_given_time(offset, text):
    root = Root()
    leaf = root.leaf(CURL, PrivateKey.generate(), now=START)
    when = START + timedelta(seconds=offset)
    with pytest.raises(X509Error, match=text):
        verify_chain(leaf, intermediates=[], roots=[root.certificate], at=when)


def test_a_leaf_cannot_issue():
    root, key = Root(), PrivateKey.generate()
    false_issuer = root.leaf(CURL, key, now=START)
    with pytest.raises(X509Error, match="not an authority"):
        type(root.issuer)(false_issuer, key)


def test_a_leaf_never_outlives_its_issuer():
    root = Root(days=1)
    leaf = root.leaf(CURL, PrivateKey.generate(), now=START, seconds=7 * 86400)
    assert leaf.not_after == root.certificate.not_after


def test_a_certificate_without_life_is_refused():
    root = Root(days=1)
    with pytest.raises(X509Error, match="no use"):
        root.leaf(CURL, PrivateKey.generate(), now=START + timedelta(days=2))


def test_a_changed_request_is_refused():
    first = build_request(PrivateKey.generate(), uri=str(CURL))
    body = CertificateRequest.from_pem(first)
    assert body.uris == (str(CURL),)
    der = bytearray(base64.b64decode("".join(first.splitlines()[1:-1])))
    der[der.index(b"sa/curl") + 3] ^= 1
    changed = base64.encodebytes(bytes(der)).decode()
    text = f"-----BEGIN CERTIFICATE REQUEST-----\n{changed}-----END CERTIFICATE REQUEST-----\n"
    with pytest.raises(X509Error, match="signature"):
        CertificateRequest.from_pem(text)


def test_several_certificates_are_read_in_order():
    roots = [Root().certificate for _ in range(3)]
    text = "\n# a comment\n".join(root.pem for root in roots)
    assert parse_certificates(text.encode()) == tuple(roots)


def test_a_damaged_bundle_is_refused_whole():
    text = Root().certificate.pem + "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"
    with pytest.raises(X509Error, match="damaged"):
        parse_certificates(text.encode())


def test_a_server_needs_a_name():
    with pytest.raises(X509Error, match="at least one"):
        server_profile([])


def test_serials_are_random():
    root, key = Root(), PrivateKey.generate()
    serials = {root.leaf(WEB, key, now=START).serial for _ in range(20)}
    assert len(serials) == 20
