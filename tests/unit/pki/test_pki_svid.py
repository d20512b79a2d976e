# SPDX-License-Identifier: Apache-2.0
"""An Svid in hand is usable; what is not, cannot be made, and the field is named."""

from datetime import timedelta

import pytest
from pki_world import CURL, START, WEB, Root

from agent.errors import SvidExpiredError
from agent.pki.svid import Svid, SvidInvalidError
from wire.x509 import PrivateKey


@pytest.fixture
def parts():
    root, key = Root(), PrivateKey.generate()
    leaf = root.leaf(CURL, key, now=START)
    return {
        "identity": CURL,
        "chain": (leaf.der,),
        "private_key": key.to_pkcs8_der(),
        "roots": (root.certificate.der,),
        "at": START,
    }


def test_it_notes_what_the_leaf_says(parts):
    svid = Svid(**parts)
    assert svid.not_after == START + timedelta(hours=1)
    assert svid.issuer == "CN=nodemesh root,O=cluster.local"
    assert int(svid.serial, 16) > 0
    assert len(svid.serial) % 2 == 0


def test_it_does_not_show_its_key(parts):
    svid = Svid(**parts)
    assert "private_key" not in repr(svid)
    assert repr(parts["private_key"]) not in repr(svid)


def invalid(parts, **changes):
    with pytest.raises(SvidInvalidError) as caught:
        Svid(**(parts | changes))
    return caught.value.field, str(caught.value)


def test_the_key_must_belong_to_the_leaf(parts):
    field, text = invalid(parts, private_key=PrivateKey.generate().to_pkcs8_der())
    assert field == "private_key"
    assert "does not belong" in text


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("chain", ()),
        ("chain", (b"x",)),
        ("roots", ()),
        ("roots", (b"",)),
        ("private_key", b""),
        ("private_key", b"0\x00"),
    ],
)
def test_a_malformed_field_is_named(parts, name, value):
    assert invalid(parts, **{name: value})[0] == name


def test_the_leaf_must_name_the_identity(parts):
    field, text = invalid(parts, identity=WEB)
    assert field == "chain"
    assert str(CURL) in text
    assert str(WEB) in text


def test_the_chain_must_lead_to_a_root(parts):
    assert invalid(parts, roots=(Root().certificate.der,))[0] == "chain"


def test_an_expired_one_has_an_error_of_its_own(parts):
    with pytest.raises(SvidExpiredError, match="expired at 2026-03-01T13:00:00Z"):
        Svid(**(parts | {"at": START + timedelta(hours=2)}))


def test_an_authority_is_no_leaf(parts):
    root = Root()
    changes = {
        "chain": (root.certificate.der,),
        "private_key": root.key.to_pkcs8_der(),
        "roots": (root.certificate.der,),
    }
    assert invalid(parts, **changes)[0] == "chain"


def test_roots_that_overlap_are_all_kept():
    old, new, key = Root(), Root(), PrivateKey.generate()
    leaf = new.leaf(CURL, key, now=START)
    svid = Svid.of(
        CURL,
        chain=[leaf, new.certificate],
        key=key,
        roots=[old.certificate, new.certificate, old.certificate],
        at=START,
    )
    assert svid.roots == (old.certificate.der, new.certificate.der)
    assert svid.chain == (leaf.der,), "a root in the chain is not sent to peers"
