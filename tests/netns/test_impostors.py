# SPDX-License-Identifier: Apache-2.0
"""Who says that he is another, or takes another door, between real pods and real agents."""

import json
import sys

import pytest
from netns_support import ENDED
from policy_support import CLIENT, NEAR, STRANGER, authorization

from lab.process import wait_until

pytestmark = pytest.mark.netns

BARE = "shop/far"
"""A pod of a node without an agent: what it sends to port 15008 is of its own making."""

HBONE_PORT = 15008

NOT_HTTP = 1
"""CURLE_UNSUPPORTED_PROTOCOL: what curl says of a TLS alert."""


def ask(lab, identity, scenario):
    """CONNECT from BARE to NEAR with a certificate of that pod."""
    svid = lab.certificate(lab.spec.identity(identity), identity.replace("/", "-"))
    said = lab.python(BARE, "hbone_peer.py", "connect", svid, lab.spec.address4(NEAR), scenario)
    return json.loads(said)


def refused_as(lab, reason):
    """The refusal is in the record of the node that refused, with the address it came from."""
    address = lab.spec.address4(BARE)

    def found():
        records = lab.records(lab.one, direction="inbound", reason=reason)
        return any(one["source"].startswith(f"{address}:") for one in records)

    wait_until(found, seconds=5, what=f"a record of {reason}")


def test_a_certificate_used_from_another_pods_address_is_refused(lab):
    answer = ask(lab, CLIENT, "get")
    assert answer["status"] == "401"
    assert not answer["body"]
    refused_as(lab, "peer-identity-mismatch")
    assert ask(lab, BARE, "get")["status"] == "200", "with its own certificate it is let in"


def test_headers_that_name_another_client_change_nothing(lab, policies):
    client = lab.spec.address4(CLIENT)
    answer = ask(lab, BARE, "forged-headers")
    assert answer["status"] == "200"
    seen = json.loads(answer["body"].partition("\r\n\r\n")[2])
    assert seen["client"] == lab.spec.address4(BARE), "the application sees who it is"
    for source in ({"ipBlocks": [client]}, {"remoteIpBlocks": [client]}):
        policies(authorization(NEAR, "ALLOW", source))
        assert ask(lab, BARE, "forged-headers")["status"] == "401"
        refused_as(lab, "no-allow-rule")


@pytest.mark.parametrize("source", [CLIENT, STRANGER], ids=["enrolled", "stranger"])
@pytest.mark.parametrize("version", [4, 6])
def test_port_15008_serves_no_plaintext(lab, source, version):
    """Nor does it to a pod of the mesh that dials it by itself: no byte of an application comes."""
    address = (lab.spec.address4 if version == 4 else lab.spec.address6)(NEAR)
    host = f"[{address}]" if version == 6 else address
    status, body = lab.curl(source, f"http://{host}:{HBONE_PORT}/")
    assert status in (NOT_HTTP, *ENDED)
    assert "whoami" not in body
    assert NEAR not in body


def test_the_agents_port_shows_metrics_and_nothing_else(lab):
    """15020 is open to whoever reaches the node, so there is nothing there to change or learn."""
    program = (
        "import http.client, sys\n"
        "for method, path in (('GET', '/healthz'), ('GET', '/explain'), ('POST', '/log'),"
        " ('GET', '/policy/state')):\n"
        "    ask = http.client.HTTPConnection(sys.argv[1], 15020, timeout=5)\n"
        "    ask.request(method, path)\n"
        "    print(ask.getresponse().status)\n"
    )
    place = lab.cluster.pod(CLIENT)
    node = lab.spec.node(lab.one).link4
    said = place.run([sys.executable, "-c", program, node], check=False)
    assert said.stdout.split() == ["200", "404", "404", "404"], said
