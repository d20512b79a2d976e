# SPDX-License-Identifier: Apache-2.0
"""The nouns of the mesh and the pure brain that turns them into rows.

What lives here: the model (:mod:`mesh.model`), everything known (:mod:`mesh.state`), the compiler
(:mod:`mesh.compile`), what it makes (:mod:`mesh.tables`), how two makings differ
(:mod:`mesh.diff`) and the numbered reasons (:mod:`mesh.reasons`).

Who may call it: every part. It never imports another part or anything beyond the standard
library, never does I/O, never reads a clock or draws a random number: the same events give the
same rows, in any process, at any time.
"""
