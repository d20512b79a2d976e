# SPDX-License-Identifier: Apache-2.0
"""What two parts of nodemesh say to one another: messages generated from ``proto/``, and X.509.

Both ``agent`` and ``control`` import this; it imports neither, and nothing of ``mesh``. Generated
modules (``*_pb2``) are written by ``make proto`` and never by hand. ``wire.x509`` is the only
package that may import ``cryptography``.
"""
