# SPDX-License-Identifier: Apache-2.0
"""The authority's files: who may read them, which sets are accepted, what a change does."""

import stat
import subprocess
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from pki_world import START, Root, store

from control.ca.errors import AuthorityError
from control.ca.issue import IssueRules, issue, read_wish
from wire.x509 import Certificate, Curve, PrivateKey, build_request


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


def intermediate(root, *, start=START, days=10, path_length=0, name="issuing"):
    """An authority below a root that allows one; signed with the library, not with our code."""
    key = PrivateKey.generate()
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(root.library_certificate.subject)
        .public_key(key.library_key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(start + timedelta(days=days))
        .add_extension(x509.BasicConstraints(ca=True, path_length=path_length), critical=True)
    )
    return key, certificate


def deep_root():
    """A root without a limit to the path, as `openssl req -x509` makes."""
    key = PrivateKey.generate()
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "company root")])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.library_key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(START - timedelta(days=1))
        .not_valid_after(START + timedelta(days=365))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key.library_key, hashes.SHA256())
    )
    return key, Certificate(certificate)


def write_intermediate(directory, *, days=10, start=START):
    root_key, root = deep_root()
    key, builder = intermediate(root, days=days, start=start)
    own = Certificate(builder.sign(root_key.library_key, hashes.SHA256()))
    directory.mkdir(mode=0o700)
    (directory / "ca-key.pem").touch(mode=0o600)
    (directory / "ca-key.pem").write_bytes(key.to_pem())
    (directory / "ca-cert.pem").write_text(own.pem)
    (directory / "root-cert.pem").write_text(root.pem)
    return own, root


@pytest.mark.parametrize("curve", list(Curve))
def test_an_empty_directory_gets_a_root(tmp_path, curve):
    authority = store(tmp_path / "ca", curve=curve).open(now=START)
    own = authority.issuer.certificate
    assert own.is_self_signed
    assert own.path_length == 0
    assert own.public_kind == curve.value
    assert authority.roots == (own,)
    assert authority.intermediates == ()
    assert mode(tmp_path / "ca") == 0o700
    assert mode(tmp_path / "ca" / "ca-key.pem") == 0o600
    assert (tmp_path / "ca" / "root-cert.pem").read_text() == own.pem
    assert not [p for p in (tmp_path / "ca").iterdir() if p.name.startswith(".")]


def test_the_root_is_kept(tmp_path):
    first = store(tmp_path / "ca").open(now=START)
    second = store(tmp_path / "ca").open(now=START)
    assert first.roots == second.roots


@pytest.mark.parametrize("wide", [0o640, 0o604, 0o660, 0o610])
def test_a_key_that_others_may_use_is_refused(tmp_path, wide):
    store(tmp_path / "ca").open(now=START)
    (tmp_path / "ca" / "ca-key.pem").chmod(wide)
    with pytest.raises(AuthorityError, match=r"ca-key.pem has mode 0\d+.*chmod 0600"):
        store(tmp_path / "ca").open(now=START)


def test_a_directory_that_others_may_enter_is_refused(tmp_path):
    (tmp_path / "ca").mkdir(mode=0o755)
    (tmp_path / "ca").chmod(0o755)
    with pytest.raises(AuthorityError, match=r"mode 0755.*chmod 0700"):
        store(tmp_path / "ca").open(now=START)


def test_an_intermediate_is_used(tmp_path):
    own, root = write_intermediate(tmp_path / "ca")
    authority = store(tmp_path / "ca").open(now=START)
    assert authority.issuer.certificate == own
    assert authority.intermediates == (own,)
    assert authority.roots == (root,)
    assert authority.not_after == own.not_after


def test_an_expired_intermediate_is_refused(tmp_path):
    write_intermediate(tmp_path / "ca", days=1)
    with pytest.raises(AuthorityError, match=r"CN=issuing.*is valid from .* only"):
        store(tmp_path / "ca").open(now=START + timedelta(days=2))


def test_no_leaf_outlives_any_certificate_of_the_chain(tmp_path):
    """The intermediate claims ten years; its root has one."""
    _, root = write_intermediate(tmp_path / "ca", days=3650)
    authority = store(tmp_path / "ca").open(now=START)
    assert authority.not_after == root.not_after
    key = PrivateKey.generate()
    text = build_request(key, uri="spiffe://cluster.local/ns/a/sa/b")
    rules = IssueRules(trust_domain="cluster.local", max_lifetime=timedelta(days=1000))
    wish = read_wish(text, seconds=0, impersonated="", rules=rules)
    assert issue(wish, authority, now=START).leaf.not_after == root.not_after


def test_an_intermediate_without_its_root_is_refused(tmp_path):
    write_intermediate(tmp_path / "ca")
    (tmp_path / "ca" / "root-cert.pem").unlink()
    with pytest.raises(AuthorityError, match=r"root-cert.pem is missing"):
        store(tmp_path / "ca").open(now=START)


def test_an_intermediate_of_another_root_is_refused(tmp_path):
    write_intermediate(tmp_path / "ca")
    (tmp_path / "ca" / "root-cert.pem").write_text(Root().certificate.pem)
    with pytest.raises(AuthorityError, match="does not lead to a certificate"):
        store(tmp_path / "ca").open(now=START)


def test_a_chain_of_two_needs_its_middle(tmp_path):
    root_key, root = deep_root()
    upper_key, builder = intermediate(root, path_length=1, name="upper")
    upper = Certificate(builder.sign(root_key.library_key, hashes.SHA256()))
    lower_key, builder = intermediate(upper)
    lower = Certificate(builder.sign(upper_key.library_key, hashes.SHA256()))
    directory = tmp_path / "ca"
    directory.mkdir(mode=0o700)
    (directory / "ca-key.pem").touch(mode=0o600)
    (directory / "ca-key.pem").write_bytes(lower_key.to_pem())
    (directory / "ca-cert.pem").write_text(lower.pem)
    (directory / "root-cert.pem").write_text(root.pem)
    with pytest.raises(AuthorityError, match="does not lead"):
        store(directory).open(now=START)
    (directory / "cert-chain.pem").write_text(upper.pem)
    assert store(directory).open(now=START).intermediates == (lower, upper)


def test_a_root_that_signs_leaves_only_bears_no_intermediate(tmp_path):
    root = Root()
    key, builder = intermediate(root.certificate)
    own = Certificate(builder.sign(root.key.library_key, hashes.SHA256()))
    directory = tmp_path / "ca"
    directory.mkdir(mode=0o700)
    (directory / "ca-key.pem").touch(mode=0o600)
    (directory / "ca-key.pem").write_bytes(key.to_pem())
    (directory / "ca-cert.pem").write_text(own.pem)
    (directory / "root-cert.pem").write_text(root.certificate.pem)
    with pytest.raises(AuthorityError, match="cannot issue usable certificates"):
        store(directory).open(now=START)


@pytest.mark.parametrize("lost", ["ca-key.pem", "ca-cert.pem"])
def test_half_a_set_is_refused_and_not_replaced(tmp_path, lost):
    store(tmp_path / "ca").open(now=START)
    (tmp_path / "ca" / lost).unlink()
    with pytest.raises(AuthorityError, match=lost):
        store(tmp_path / "ca").open(now=START)
    assert not (tmp_path / "ca" / lost).exists()


def test_another_key_is_refused(tmp_path):
    store(tmp_path / "ca").open(now=START)
    (tmp_path / "ca" / "ca-key.pem").write_bytes(PrivateKey.generate().to_pem())
    with pytest.raises(AuthorityError, match="does not belong"):
        store(tmp_path / "ca").open(now=START)


def test_a_second_root_is_handed_out_beside_the_first(tmp_path):
    authority = store(tmp_path / "ca").open(now=START)
    other = Root().certificate
    roots = tmp_path / "ca" / "root-cert.pem"
    roots.write_text(other.pem + roots.read_text())
    again = store(tmp_path / "ca").open(now=START)
    assert again.roots == (authority.roots[0], other), "the root in use comes first"


def test_files_are_read_again_when_they_change(tmp_path):
    opened = store(tmp_path / "ca")
    first = opened.open(now=START)
    assert opened.reload(now=START) is False
    other = store(tmp_path / "other").open(now=START)
    for name in ("ca-key.pem", "ca-cert.pem", "root-cert.pem"):
        (tmp_path / "other" / name).replace(tmp_path / "ca" / name)
    assert opened.reload(now=START) is True
    assert opened.current.roots == other.roots != first.roots


def test_a_bad_change_keeps_the_last_good_authority(tmp_path, caplog):
    opened = store(tmp_path / "ca")
    first = opened.open(now=START)
    (tmp_path / "ca" / "ca-cert.pem").write_text("rubbish")
    assert [opened.reload(now=START) for _ in range(3)] == [False] * 3
    assert opened.current is first
    assert sum("kept the old authority" in r.getMessage() for r in caplog.records) == 1
    (tmp_path / "ca" / "ca-cert.pem").write_text(first.roots[0].pem)
    assert opened.reload(now=START) is True


def test_openssl_finds_the_root_sound(tmp_path):
    store(tmp_path / "ca").open(now=datetime.now(UTC))
    root = tmp_path / "ca" / "root-cert.pem"
    done = subprocess.run(
        ["openssl", "verify", "-x509_strict", "-CAfile", root, root],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
