# SPDX-License-Identifier: Apache-2.0
"""Sources: where facts come from. Each watches one place and queues typed events.

What lives here: the file source (:mod:`agent.sources.file`) and what it needs to read one YAML
file: the text with its lines (``yaml_text``), the published schema (``schema``), the checks that a
schema cannot make and the conversion (``convert``, ``references``), and the events between two
readings (``changes``).

Who may call it: the app, the admin interface and ``nodemesh config check``. A source never touches
the kernel, never decides what a fact means for this node, and never takes back what it said because
it cannot read its place just now.
"""
