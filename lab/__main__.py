# SPDX-License-Identifier: Apache-2.0
"""`python -m lab`: the lab's commands by themselves."""

import sys

from lab.commands import main

sys.exit(main())
