# SPDX-License-Identifier: Apache-2.0
"""The kinds of policy there are."""

from mesh.model.authorization_policy import AuthorizationPolicy
from mesh.model.network_policy import NetworkPolicy
from mesh.model.peer_authentication import PeerAuthentication

__all__ = ["Policy"]

Policy = NetworkPolicy | AuthorizationPolicy | PeerAuthentication
