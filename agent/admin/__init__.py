# SPDX-License-Identifier: Apache-2.0
"""HTTP at the edge of the agent: the admin socket for root, metrics and readiness for everybody.

What can change anything or names every connection is served on a unix socket that only root can
open. The TCP ports are read-only.
"""
