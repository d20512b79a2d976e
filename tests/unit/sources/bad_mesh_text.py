# SPDX-License-Identifier: Apache-2.0
"""Bad mesh files: what stands in the good one, what instead of it, and the whole message."""

BAD = [
    (
        '"10.0.0.1"',
        '"10.1.1"',
        (
            '13: workloads[0].addresses[0]: "10.1.1" is not an IP address '
            "(IPv4 like 10.0.0.1 or IPv6 like fd00::1)"
        ),
    ),
    ('"10.0.0.1"', "10", "13: workloads[0].addresses[0]: must be text, not 10"),
    (
        '"10.0.0.1"',
        '"127.0.0.1"',
        '13: workloads[0].addresses[0]: "127.0.0.1" is a loopback address; it names no one peer',
    ),
    ('["10.0.0.1", "fd00::1"]', "[]", "13: workloads[0].addresses: must not be empty"),
    (
        '["10.0.0.1", "fd00::1"]',
        "10.0.0.1",
        '13: workloads[0].addresses: must be a list, not "10.0.0.1"',
    ),
    ('["10.0.0.1", "fd00::1"]', "", "13: workloads[0].addresses: must be a list, but is empty"),
    ('"fd00::1"', '"10.0.0.1"', "13: workloads[0].addresses: names something twice"),
    ('"fd00::1"', '"::ffff:10.0.0.1"', "9: workloads[0]: workload shop/web names an address twice"),
    (
        "    node: node1\n",
        "    nod: node1\n",
        '9: workloads[0]: the field "node" is missing',
        "12: workloads[0].nod: unknown field; did you mean node?",
    ),
    ("    node: node1\n", "    node: node9\n", '12: workloads[0].node: no node is named "node9"'),
    (
        "    node: node1\n",
        "    node: node1\n    quux: 1\n",
        (
            "13: workloads[0].quux: unknown field; "
            "known are addresses, healthy, hostNetwork, labels, name, namespace, netns, node, "
            "ports, "
            "serviceAccount"
        ),
    ),
    (
        "    node: node1\n",
        "    node: node1\n    node: node1\n",
        "13: workloads[0].node: given twice; first in line 12",
    ),
    (
        "serviceAccount: web",
        "serviceAccount: Web",
        (
            '11: workloads[0].serviceAccount: "Web" is not a '
            "name (labels of a-z, 0-9 and -, joined by dots)"
        ),
    ),
    (
        "serviceAccount: web",
        'serviceAccount: "web\\n"',
        (
            '11: workloads[0].serviceAccount: "web\\n" '
            "is not a name (labels of a-z, 0-9 and -, joined by dots)"
        ),
    ),
    (
        "/var/run/netns/web",
        "web",
        '15: workloads[0].netns: "web" is not an absolute path, like /var/run/netns/web-1',
    ),
    (
        "    netns: ",
        "    hostNetwork: true\n    netns: ",
        "16: workloads[0].netns: a workload with hostNetwork has no netns of its own",
    ),
    (
        "    netns: ",
        "    healthy: yes\n    netns: ",
        '15: workloads[0].healthy: must be true or false, not "yes"',
    ),
    (
        "    labels: {app: web}",
        "    labels: {app: 1}",
        "14: workloads[0].labels.app: must be text, not 1",
    ),
    (
        "    labels: {app: web}",
        "    labels: {a b: c}",
        (
            '14: workloads[0].labels["a b"]: "a b" is '
            "not a label key (like app or istio.io/dataplane-mode)"
        ),
    ),
    (
        "    labels: {app: web}",
        "    labels: {app: w b}",
        (
            '14: workloads[0].labels.app: "w b" is not '
            "a label value (at most 63 letters, digits, '.', '-' and '_'; quote numbers)"
        ),
    ),
    ("port: 80, ", "port: 0, ", "20: services[0].ports[0].port: 0 is not a port from 1 to 65535"),
    (
        "port: 80, ",
        "port: 65536, ",
        "20: services[0].ports[0].port: 65536 is not a port from 1 to 65535",
    ),
    (
        "port: 80, ",
        "port: http, ",
        '20: services[0].ports[0].port: must be a whole number, not "http"',
    ),
    (
        "targetPort: 8080",
        "targetPort: Http",
        (
            '20: services[0].ports[0].targetPort: "Http" is not a '
            "port from 1 to 65535 or the name of a workload's port"
        ),
    ),
    (
        "targetPort: 8080",
        "protocol: SCTP",
        '20: services[0].ports[0].protocol: must be TCP or UDP, not "SCTP"',
    ),
    (
        "[{port: 80, targetPort: 8080}]",
        "[{port: 80}, {port: 80}]",
        "17: services[0]: service shop/web names a port twice for one protocol",
    ),
    (
        "[{port: 80, targetPort: 8080}]",
        "[{port: 80, name: a}, {port: 81, name: a}]",
        (
            '20: services[0].ports[1].name: "a" is already in use by '
            "services[0].ports[0].name (line 20)"
        ),
    ),
    ("    selector: {app: web}", "    selector: {}", "21: services[0].selector: must not be empty"),
    (
        "    selector: {app: web}",
        "    selector: web",
        '21: services[0].selector: must be a mapping, not "web"',
    ),
    (
        "    selector: {app: web}",
        "    selector: {app: web}\n    endpoints: []",
        "17: services[0]: has both a selector and endpoints; choose one",
    ),
    (
        "    selector: {app: web}",
        "    endpoints: [{workload: shop/gone}]",
        '21: services[0].endpoints[0].workload: no workload is named "shop/gone"',
    ),
    (
        "    selector: {app: web}",
        "    endpoints: [{workload: web}]",
        '21: services[0].endpoints[0].workload: "web" is not a workload as namespace/name',
    ),
    (
        "    selector: {app: web}",
        "    endpoints: [{}]",
        "21: services[0].endpoints[0]: must not be empty",
    ),
    (
        "    selector: {app: web}",
        "    endpoints: [{address: 10.0.0.2, workload: shop/web}]",
        "21: services[0].endpoints[0]: must have only one of these fields",
    ),
    (
        "    selector: {app: web}",
        "    endpoints: [{address: '::'}]",
        (
            '21: services[0].endpoints[0].address: "::" is the unspecified address; '
            "it names no one peer"
        ),
    ),
    (
        'vips: ["10.96.0.1"]',
        'vips: ["10.0.0.1"]',
        (
            "19: services[0].vips[0]: address 10.0.0.1 is "
            "already in use by workloads[0].addresses[0] (line 13)"
        ),
    ),
    (
        'vips: ["10.96.0.1"]',
        'vips: ["172.31.0.1"]',
        (
            "19: services[0].vips[0]: address 172.31.0.1 is "
            "already in use by nodes[0].addresses[0] (line 5)"
        ),
    ),
    (
        '["172.31.0.1"]',
        '["fd00::1"]',
        (
            "13: workloads[0].addresses[1]: address fd00::1 is already "
            "in use by nodes[0].addresses[0] (line 5)"
        ),
    ),
    (
        "trustDomain: cluster.local",
        "trustDomain: a/b",
        (
            '3: trustDomain: "a/b" is not a trust domain '
            "(1 to 255 of a-z, 0-9, '.', '-' and '_', like cluster.local)"
        ),
    ),
    ("kind: Mesh", "kind: Mush", '2: kind: must be "Mesh", not "Mush"'),
    (
        "nodes:\n",
        "cluster: '-'\nnodes:\n",
        "4: cluster: \"-\" is not a cluster name (letters, digits, '.', '-' and '_')",
    ),
    (
        "nodes:\n",
        "agent: {tunnel: {workers: -1}}\nnodes:\n",
        "4: agent.tunnel.workers: -1 is not allowed by the schema (minimum)",
    ),
    (
        "nodes:\n",
        "agent: {certificates: {provider: files}}\nnodes:\n",
        '4: agent.certificates: the field "directory" is missing',
    ),
    (
        "nodes:\n",
        "agent: {certificates: {provider: ca, lifetime: 1w}}\nnodes:\n",
        '4: agent.certificates: the field "address" is missing',
        '4: agent.certificates: the field "trustAnchor" is missing',
        '4: agent.certificates.lifetime: "1w" is not a duration, like 90s, 30m, 24h or 7d',
    ),
]


TWICE = [
    (
        "nodes:\n",
        "nodes:\n  - {name: node1}\n",
        '6: nodes[1].name: "node1" is already in use by nodes[0].name (line 5)',
    ),
    (
        "namespaces:\n",
        "namespaces:\n  - {name: shop}\n",
        '8: namespaces[1].name: "shop" is already in use by namespaces[0].name (line 7)',
    ),
    (
        "services:\n",
        "services:\n  - {name: web, namespace: shop, ports: [{port: 1}]}\n",
        '18: services[1].name: "shop/web" is already in use by services[0].name (line 17)',
    ),
    (
        "services:\n",
        "services:\n  - {name: w2, namespace: shop, vips: [10.96.0.1], ports: [{port: 80}]}\n",
        "19: services[1].vips[0]: VIP 10.96.0.1 port 80/TCP is already in "
        "use by services[0].name (line 17)".replace("19:", "20:"),
    ),
    (
        "workloads:\n",
        "workloads:\n  - {name: web, namespace: shop, node: node1, addresses: [10.0.0.2]}\n",
        '10: workloads[1].name: "shop/web" is already in use by workloads[0].name (line 9)',
    ),
    (
        "workloads:\n",
        "workloads:\n  - {name: w2, namespace: shop, node: node1, addresses: [10.0.0.1]}\n",
        (
            "14: workloads[1].addresses[0]: address 10.0.0.1 is already in "
            "use by workloads[0].addresses[0] (line 9)"
        ),
    ),
    (
        "workloads:\n",
        (
            "workloads:\n  - {name: w2, namespace: shop, node: node1, "
            "addresses: [10.0.0.2], netns: /var/run/netns/web}\n"
        ),
        (
            "16: workloads[1].netns: "
            '"/var/run/netns/web" is already in use by workloads[0].netns (line 9)'
        ),
    ),
]
