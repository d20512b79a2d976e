# SPDX-License-Identifier: Apache-2.0
"""Policies for the lab's pods, as they stand in a mesh file."""

CLIENT, NEAR, FAR, STRANGER = "shop/client", "shop/web-1", "shop/web-2", "legacy/old-2"


def selector(pod):
    """The label that only this pod has."""
    return {"matchLabels": {"pod": pod.split("/")[1]}}


def network_policy(pod, *, ingress=None, egress=None):
    spec = {"podSelector": selector(pod), "policyTypes": []}
    for name, rules in (("ingress", ingress), ("egress", egress)):
        if rules is not None:
            spec["policyTypes"].append(name.capitalize())
            spec[name] = rules
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": "np", "namespace": "shop"},
        "spec": spec,
    }


def authorization(pod, action, *sources):
    rules = [{"from": [{"source": source} for source in sources]}] if sources else []
    return {
        "apiVersion": "security.istio.io/v1",
        "kind": "AuthorizationPolicy",
        "metadata": {"name": action.lower(), "namespace": "shop"},
        "spec": {"selector": selector(pod), "action": action, "rules": rules},
    }


STRICT = {
    "apiVersion": "security.istio.io/v1",
    "kind": "PeerAuthentication",
    "metadata": {"name": "default", "namespace": "shop"},
    "spec": {"mtls": {"mode": "STRICT"}},
}


def taken(lab, node):
    """How many contents of the mesh file an agent has taken."""
    return lab.cluster.admin(node, "/status")["sources"][0]["generation"]
