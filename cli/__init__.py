# SPDX-License-Identifier: Apache-2.0
"""The ``nodemesh`` command: run the parts, look inside.

``main`` knows the commands by name and imports one only when it is asked for, so that help and the
looking commands start fast. Each command is a module with ``add_arguments`` and ``run``.
"""
