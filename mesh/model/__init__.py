# SPDX-License-Identifier: Apache-2.0
"""Value objects: addresses, identities, workloads, services, namespaces, nodes, and events.

Every value is frozen and hashable and is checked when it is made: an Identity in hand is a valid
Identity. Sources make them, the compiler reads them, nobody changes them. Nothing here knows where
a value came from or where its rows go.
"""
