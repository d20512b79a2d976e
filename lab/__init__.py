# SPDX-License-Identifier: Apache-2.0
"""The lab: a cluster of network namespaces on one machine, for the demo, tests and bench.

Nodes and pods are network namespaces with cgroups of their own, joined by veth links; agents and
the certificate authority are the real programs. Everything a lab makes is written into its
manifest before it is made, so that ``nodemesh lab down`` removes it also after a crash half way.
Nothing here imports the agent: the lab drives it from outside, as a user would.
"""
