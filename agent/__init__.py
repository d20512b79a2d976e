# SPDX-License-Identifier: Apache-2.0
"""The node agent: hears facts, compiles them, and makes them true in the kernel and in the tunnel.

Facts flow one way: ``sources`` -> ``mesh`` -> ``dataplane`` and ``tunnel``; kernel events come back
in as facts, figures leave sideways through ``telemetry`` and ``admin``. ``app`` puts it together.
"""
