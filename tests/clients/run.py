# SPDX-License-Identifier: Apache-2.0
"""Starts daemons of its own and runs the client checks against them.

    python run.py [--only NAME[,NAME]]

http, grpc, curl and shm share one daemon; hostile has one with small limits, and tls one with certificates. DIOLKOS_BIN names the executable.
"""

import argparse
import re
import subprocess
import sys
from pathlib import Path

from harness import AFFINE, DIGITS, Daemon

HERE = Path(__file__).resolve().parent
SHARED_DAEMON = {"http": "http_smoke.py", "grpc": "grpc_smoke.py", "curl": "curl_smoke.py", "shm": "shm_smoke.py"}
OWN_DAEMON = {"hostile": "hostile.py", "tls": "tls_smoke.py"}
SETTINGS = "[models]\nclient_load = true\n"
TALLY = re.compile(r"(\d+) passed, (\d+) failed, (\d+) skipped")


def run(script, *arguments):
    """Runs one script, shows its lines, and returns its counts."""
    command = [sys.executable, "-u", str(HERE / script), *arguments]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace")
    counts = None
    for line in process.stdout:
        # The script's own line of counts is added up here, and must not be read as another one further up.
        if match := TALLY.fullmatch(line.strip()):
            counts = [int(number) for number in match.groups()]
        else:
            print(line, end="", flush=True)
    status = process.wait()
    if counts is None or (status and not counts[1]):
        print(f"FAIL {script}: it ended with status {status}{'' if counts else ' and without a count'}")
        counts = counts or [0, 0, 0]
        counts[1] += 1
    return counts


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    names = [*SHARED_DAEMON, *OWN_DAEMON]
    parser.add_argument("--only", metavar="NAMES", help=f"of {', '.join(names)}")
    only = parser.parse_args().only
    wanted = only.split(",") if only else names
    if unknown := set(wanted) - set(names):
        parser.error(f"no checks named {', '.join(sorted(unknown))}")
    total = [0, 0, 0]

    def add(counts):
        total[:] = [sum(pair) for pair in zip(total, counts)]

    shared = [name for name in SHARED_DAEMON if name in wanted]
    if shared:
        daemon = Daemon(SETTINGS, models=[DIGITS / "models"], files=[AFFINE], log_name="clients")
        try:
            with daemon:
                for name in shared:
                    add(run(SHARED_DAEMON[name], "--tcp", daemon.address, "--unix", str(daemon.unix)))
                if not daemon.alive():
                    raise RuntimeError(f"it died: {daemon.log_tail()}")
                if status := daemon.stop():
                    raise RuntimeError(f"it ended with status {status}: {daemon.log_tail()}")
            add([1, 0, 0])
            print("ok   the daemon served all of them and ended cleanly on SIGTERM")
        except RuntimeError as error:
            add([0, 1, 0])
            print(f"FAIL the daemon of {', '.join(shared)}: {error}")
    for name in OWN_DAEMON:
        if name in wanted:
            add(run(OWN_DAEMON[name]))
    print(f"{total[0]} passed, {total[1]} failed, {total[2]} skipped")
    return 1 if total[1] else 0


if __name__ == "__main__":
    sys.exit(main())
