# SPDX-License-Identifier: Apache-2.0
"""``python -m cli``."""

import sys

from cli.main import main

if __name__ == "__main__":
    sys.exit(main())
