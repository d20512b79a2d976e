# SPDX-License-Identifier: Apache-2.0
"""The kernel half's user side: compiles and attaches ``bpf/``, fills its maps, enrols pods.

:class:`agent.dataplane.sink.Dataplane` is what the agent talks to. Under it, each noun has a file:
``source`` and ``compiler`` make programs, ``loader`` pins and attaches them, ``rows`` turns Tables
into map contents, ``sync`` makes a map equal to them, ``enroll`` does what has to happen inside a
pod's network namespace, ``ring`` and ``telemetry`` read what the kernel tells, ``cleanup`` undoes.

``bpf`` is the only module that calls bpf(2), ``netlink`` the only one that imports pyroute2,
``compile_child`` (a program of its own) the only one that imports bcc. All calls here block: the
sink runs them in a thread, never on the event loop.
"""
