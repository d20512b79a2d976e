# SPDX-License-Identifier: Apache-2.0
"""Figures: no mesh, Envoy and nodemesh side by side, in one interleaved run (`make bench`).

    setup ─▶ each scenario: warm-up, then rounds of (direct, envoy, nodemesh) ─▶ results ─▶ table

``python -m bench`` starts it; ``bench/README.md`` says how to read what it prints. Nothing here
asserts a figure, and nothing in the product imports this.
"""
