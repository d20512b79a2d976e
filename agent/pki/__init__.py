# SPDX-License-Identifier: Apache-2.0
"""Certificates on the node: one SVID for each identity that has a pod here, kept fresh.

``provider`` says what every provider does; ``rotation`` (with ``issuance`` and ``ca_client``) gets
them from an authority, ``files`` reads them from a directory, ``svid`` is the value that both
deliver. Keys are made on the node and never written. Nothing here knows of pods or of the tunnel.
"""
