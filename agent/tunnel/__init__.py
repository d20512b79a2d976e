# SPDX-License-Identifier: Apache-2.0
"""The byte path as the agent sees it: give the Rust core what it needs, hear what happened.

``core`` is the doorway: the one module that imports ``_hbone``. ``sink`` makes the core hold what
the Tables say. ``records`` turns the core's events into telemetry's records.
"""
