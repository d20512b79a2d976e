# SPDX-License-Identifier: Apache-2.0
"""Services of the whole cluster, one process for many nodes: the certificate authority.

It imports ``mesh`` and ``wire``, never ``agent``: the two sides meet on the network only.
"""
