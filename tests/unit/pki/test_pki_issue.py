# SPDX-License-Identifier: Apache-2.0
"""What is signed and what is not. Requests are made with the library, so that any can be tried."""

from datetime import timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID
from pki_world import CURL, START, WEB, store

from control.ca.errors import Refusal, RefusedError
from control.ca.issue import IssueRules, issue, read_wish

RULES = IssueRules(trust_domain="cluster.local")


def csr(*names, key=None, subject=(), extensions=()):
    key = key or ec.generate_private_key(ec.SECP256R1())
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name(subject))
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    for extension in extensions:
        builder = builder.add_extension(extension, critical=True)
    digest = None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256()
    return builder.sign(key, digest).public_bytes(serialization.Encoding.PEM).decode()


def uri(text):
    return x509.UniformResourceIdentifier(text)


def read(text, *, seconds=0, impersonated=""):
    return read_wish(text, seconds=seconds, impersonated=impersonated, rules=RULES)


def refused(text, **options):
    with pytest.raises(RefusedError) as caught:
        read(text, **options)
    assert caught.value.refusal is Refusal.INVALID
    return str(caught.value)


def test_a_leaf_is_an_svid(tmp_path):
    authority = store(tmp_path / "ca").open(now=START)
    issued = issue(read(csr(uri(str(CURL)))), authority, now=START)
    leaf = issued.leaf.library_certificate
    extensions = leaf.extensions
    names = extensions.get_extension_for_class(x509.SubjectAlternativeName)
    usage = extensions.get_extension_for_class(x509.KeyUsage).value
    purposes = extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    constraints = extensions.get_extension_for_class(x509.BasicConstraints)
    assert list(leaf.subject) == []
    assert names.critical
    assert list(names.value) == [uri(str(CURL))]
    assert usage.digital_signature
    assert not usage.key_cert_sign
    assert not usage.key_encipherment
    assert set(purposes) == {ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH}
    assert constraints.critical
    assert not constraints.value.ca
    assert START - issued.leaf.not_before == timedelta(minutes=2)
    assert issued.cert_chain == (issued.leaf.pem, authority.roots_pem)


def test_nothing_else_of_a_request_is_honoured(tmp_path):
    authority = store(tmp_path / "ca").open(now=START)
    text = csr(
        uri(str(CURL)),
        x509.DNSName("ca.example"),
        x509.RFC822Name("root@example"),
        subject=[x509.NameAttribute(x509.NameOID.COMMON_NAME, "admin")],
        extensions=[x509.BasicConstraints(ca=True, path_length=None)],
    )
    leaf = issue(read(text), authority, now=START).leaf
    assert leaf.subject == ""
    assert not leaf.is_authority
    assert leaf.dns_names == ()
    assert b"ca.example" not in leaf.der
    assert b"admin" not in leaf.der


@pytest.mark.parametrize(
    "names",
    [
        (),
        (x509.DNSName("cluster.local"),),
        (uri(str(CURL)), uri(str(WEB))),
        (uri(str(CURL)), uri("https://example.org/")),
    ],
)
def test_there_is_exactly_one_uri(names):
    assert "exactly one SPIFFE ID" in refused(csr(*names))


@pytest.mark.parametrize(
    "text",
    [
        "https://cluster.local/ns/a/sa/b",
        "spiffe://cluster.local",
        "spiffe://cluster.local/ns/a",
        "spiffe://cluster.local/ns/a/sa/b/c",
        "spiffe://cluster.local/ns/a/sa/b?x=1",
        "spiffe://cluster.local/ns/../sa/b",
        "spiffe://user@cluster.local/ns/a/sa/b",
        "spiffe://cluster.local/ns/a/sa/%62",
    ],
)
def test_the_uri_is_a_spiffe_id_of_our_layout(text):
    refused(csr(uri(text)))


def test_another_trust_domain_is_refused():
    assert "'evil.example'" in refused(csr(uri("spiffe://evil.example/ns/a/sa/b")))


@pytest.mark.parametrize(
    "key",
    [
        rsa.generate_private_key(65537, 2048),
        ed25519.Ed25519PrivateKey.generate(),
        ec.generate_private_key(ec.SECP224R1()),
        ec.generate_private_key(ec.SECP256K1()),
    ],
    ids=["rsa", "ed25519", "p224", "k256"],
)
def test_weak_and_odd_keys_are_refused(key):
    assert "use one of P-256, P-384" in refused(csr(uri(str(CURL)), key=key))


def test_p384_is_accepted():
    read(csr(uri(str(CURL)), key=ec.generate_private_key(ec.SECP384R1())))


@pytest.mark.parametrize("text", ["", "x", "-----BEGIN CERTIFICATE REQUEST-----", "é"])
def test_rubbish_is_refused(text):
    assert "PKCS#10" in refused(text)


def test_a_long_request_is_refused_unread():
    assert "bytes" in refused("x" * 20_000)


def test_the_impersonated_identity_must_be_the_requested_one():
    read(csr(uri(str(CURL))), impersonated=str(CURL))
    assert "ImpersonatedIdentity" in refused(csr(uri(str(CURL))), impersonated=str(WEB))


@pytest.mark.parametrize(
    ("asked", "given"), [(0, 86400), (1, 1), (3600, 3600), (86400, 86400), (10**12, 86400)]
)
def test_lifetime(tmp_path, asked, given):
    authority = store(tmp_path / "ca").open(now=START)
    leaf = issue(read(csr(uri(str(CURL))), seconds=asked), authority, now=START).leaf
    assert leaf.not_after - START == timedelta(seconds=given)


def test_a_negative_lifetime_is_refused():
    refused(csr(uri(str(CURL))), seconds=-1)


def test_no_leaf_outlives_the_authority(tmp_path):
    authority = store(tmp_path / "ca").open(now=START)
    late = authority.not_after - timedelta(minutes=5)
    leaf = issue(read(csr(uri(str(CURL)))), authority, now=late).leaf
    assert leaf.not_after == authority.not_after
    assert late - leaf.not_before == timedelta(minutes=2), "for peers whose clock is late"


def test_an_expired_authority_signs_nothing(tmp_path):
    authority = store(tmp_path / "ca").open(now=START)
    with pytest.raises(RefusedError) as caught:
        issue(read(csr(uri(str(CURL)))), authority, now=authority.not_after)
    assert caught.value.refusal is Refusal.UNABLE
