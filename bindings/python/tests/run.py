# SPDX-License-Identifier: Apache-2.0
"""Runs the checks of the Python package against daemons of its own. DIOLKOS_BIN names the executable.

    python run.py [PATTERN]

PATTERN chooses among the checks by name.
"""

from __future__ import annotations

import re
import sys

import arrays
import calls
import faults
import memory
import tasks
from support import Checks, Daemon


def main() -> int:
    checks = Checks(re.compile(sys.argv[1]) if len(sys.argv) > 1 else None)
    with Daemon(digits=True) as daemon:
        for module in (arrays, memory, calls, faults, tasks):
            checks.module(module, daemon)
        checks.run("the daemon is still there", lambda: daemon.connect().close())
    return checks.finish()


if __name__ == "__main__":
    sys.exit(main())
