# SPDX-License-Identifier: Apache-2.0
"""Certificates on the node: one SVID for each identity that has a pod here, kept fresh.

``provider`` says what every provider does; ``rotation`` (with ``issuance``) gets them from an
authority, which ``ca_process`` asks through a process that is there only meanwhile (``ca_child``,
``ca_client``); ``files`` reads them from a directory, ``svid`` is the value that both deliver.
Keys are made on the node and never written. Nothing here knows of pods or of the tunnel.
"""
