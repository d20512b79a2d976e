# SPDX-License-Identifier: Apache-2.0
"""The tools of nghttp2 at the HBONE port: a client that wants pages, and crowds of them."""

import re

import pytest
from envoy_support import HBONE_PORT, Envoy, Tunnel, client_config

pytestmark = pytest.mark.netns

FAR, CLIENT, WEB, OTHER = "shop/far", "shop/client", "shop/web-1", "shop/web-2"
CROWD_PORT = 11020


@pytest.fixture(scope="module")
def svid(shared_lab):
    """The certificate of the pod whose node has no agent."""
    return shared_lab.certificate(shared_lab.spec.identity(FAR), "nghttp2")


def run(lab, *command, timeout=40):
    """What a tool says in the pod whose node has no agent."""
    done = lab.cluster.pod(FAR).run(list(command), check=False, timeout=timeout)
    return done.stdout + done.stderr


def nghttp(lab, *options):
    url = f"https://{lab.spec.address4(WEB)}:{HBONE_PORT}/"
    return run(lab, "nghttp", "-nv", "-t", "5", *options, url)


def test_a_get_is_refused_with_400_and_the_connection_stays_in_order(lab, svid):
    said = nghttp(lab, f"--cert={svid}/chain.pem", f"--key={svid}/key.pem", "-m", "3")
    assert said.count(":status: 400") == 3
    assert "PROTOCOL_ERROR" not in said
    assert "The negotiated protocol: h2" in said


def test_without_a_certificate_there_is_no_answer(lab):
    said = nghttp(lab)
    assert "Connected" in said
    assert ":status" not in said


def test_a_crowd_of_gets_hurts_nobody(lab, svid):
    """Envoy gives h2load the client certificate that it cannot show itself."""
    address = lab.spec.address4(WEB)
    tunnel = Tunnel(CROWD_PORT, "", svid, lab.spec.identity(WEB))
    envoy = Envoy.start(lab, FAR, "envoy-crowd", client_config([tunnel], address))
    log = "crowd-hold"
    try:
        holder = lab.start_asking(CLIENT, log, lab.spec.address4(OTHER), "hold", "4")
        crowd = ("h2load", "-n", "3000", "-c", "30", "-m", "20", f"http://127.0.0.1:{CROWD_PORT}/")
        said = run(lab, *crowd)
        holder.popen.wait(30)
    finally:
        envoy.process.kill()
    answered = re.search(r"status codes: 0 2xx, 0 3xx, (\d+) 4xx, 0 5xx", said)
    assert answered, said
    assert int(answered[1]) == 3000, said
    assert " 0 errored, 0 timeout" in said
    held = lab.lines(log)[-1]
    assert held["end"] == "alive"
    assert held["rounds"] > 10


def test_a_crowd_without_certificates_hurts_nobody(lab):
    url = f"https://{lab.spec.address4(WEB)}:{HBONE_PORT}/"
    holder = lab.start_asking(CLIENT, "crowd-hold", lab.spec.address4(OTHER), "hold", "4")
    said = run(lab, "h2load", "-n", "100", "-c", "50", "-T", "5s", "-N", "5s", url)
    holder.popen.wait(30)
    assert " 0 succeeded" in said, said
    held = lab.lines("crowd-hold")[-1]
    assert held["end"] == "alive"
    assert held["rounds"] > 10
