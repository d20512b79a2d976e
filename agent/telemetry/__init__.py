# SPDX-License-Identifier: Apache-2.0
"""What leaves sideways: metrics, access log, recent connections, the agent's own log.

Nothing here decides anything. It is fed by the tunnel and the dataplane through plain records, and
knows workloads only as rows of ``mesh.tables``.
"""
