# SPDX-License-Identifier: Apache-2.0
"""Each kind of traffic: which path it takes, who is proven to whom, what each end sees."""

import secrets

import pytest
from netns_support import ENDED

from lab.capture import LinkCapture, examine
from lab.servers import HTTP_PORT
from lab.spec import default_spec
from lab.traffic import Flow, default_flows, drive, look_up

pytestmark = pytest.mark.netns

FLOWS = {f"{f.source}-{f.destination}": f for f in default_flows(default_spec("nmt-names"))}


@pytest.mark.parametrize("name", FLOWS)
def test_flow(lab, name):
    result = drive(lab.cluster, FLOWS[name], "marker", repeat=3)
    look_up(lab.cluster, result)
    assert result.problems == []


def test_a_service_reaches_both_of_its_endpoints(lab):
    vip = lab.spec.service("web").vip4
    flow = Flow("shop/client", "web", vip, 80, "", ("shop/web-1", "shop/web-2"))
    seen = set()
    for _ in range(40):
        result = drive(lab.cluster, flow, "marker", repeat=1)
        assert result.problems == []
        seen.add(result.answer.server)
        if len(seen) == 2:
            break
    assert seen == {"shop/web-1", "shop/web-2"}


def test_the_link_holds_tls_and_no_payload(lab):
    secret, plain = secrets.token_hex(16), secrets.token_hex(16)
    pods = {"four": lab.spec.address4("shop/web-2"), "six": lab.spec.address6("shop/web-2")}
    old = Flow("shop/client", "old-2", lab.spec.address4("legacy/old-2"), HTTP_PORT, "",
               ("legacy/old-2",))  # fmt: skip
    with LinkCapture(lab.cluster) as capture:
        for address in pods.values():
            flow = Flow("shop/client", "web-2", address, HTTP_PORT, "tunnel", ("shop/web-2",))
            assert drive(lab.cluster, flow, secret, repeat=5).problems == []
        assert drive(lab.cluster, old, plain, repeat=1).problems == []
    evidence = examine(capture.path, lab.spec, [secret, plain])
    assert evidence.packets > 0
    assert not evidence.outside
    assert evidence.broken == []
    assert evidence.tunnels >= 4
    assert evidence.records["application data"] >= 20
    assert evidence.found == {secret: 0, plain: 3}


def test_a_port_that_the_service_does_not_have_is_refused(lab):
    status, _ = lab.curl("shop/client", f"http://{lab.spec.service('web').vip4}:81/")
    assert status == 7


def test_a_closed_port_of_the_far_pod_is_a_reset_and_not_a_wait(lab):
    url = f"http://{lab.spec.address4('shop/web-2')}:9/"
    status, _ = lab.curl("shop/client", url, "-m", "5")
    assert status in ENDED
