# SPDX-License-Identifier: Apache-2.0
"""The soak: mixed load on two real nodes for as long as one likes, with faults at random times.

Every operation is checked byte by byte and every failure has to be explained by a fault of that
time and that pair of pods; afterwards nothing may be left that was not there before. See
docs/soak.md.
"""
