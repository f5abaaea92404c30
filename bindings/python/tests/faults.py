# SPDX-License-Identifier: Apache-2.0
"""Daemons that die, interpreters that end, processes that fork."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time

import diolkos
import numpy as np

from support import SECONDS_MAX, Daemon, eventually, refused, same


def check_a_daemon_is_killed_and_restarted(_: Daemon) -> None:
    with Daemon() as daemon, daemon.connect(reconnect=30) as client, diolkos.connect(daemon.tcp, reconnect=30) as far:
        echo, far_echo = client.open("echo"), far.open("echo")
        mine = client.empty(100_000, np.int16)
        mine[...] = 7
        daemon.stop()
        under_way = [model.submit(data=mine) for model in (echo, far_echo)]
        once = [model.with_options(once=True).submit(data=mine) for model in (echo, far_echo)]
        daemon.kill()
        threading.Timer(0.2, daemon.restart).start()
        for pending in under_way:
            same(pending.wait()["data"], np.full(100_000, 7, np.int16))
        for pending in once:
            refused(diolkos.ConnectionLost, pending.wait)
        same(mine.flags.writeable, True)
        mine[...] = 8
        same(echo.infer(data=mine)["data"][0].item(), 8)
        same(far_echo.infer(data=mine)["data"][0].item(), 8)
        same(client.health().live, True)


def check_a_daemon_that_stays_away(_: Daemon) -> None:
    with Daemon() as daemon, daemon.connect(reconnect=0.2) as client:
        echo = client.open("echo")
        mine = client.empty(10)
        daemon.kill()
        error = refused(ConnectionError, lambda: echo.infer(data=mine), "daemon")
        same((type(error), error.code), (diolkos.ConnectionLost, None))
        same(mine.flags.writeable, True)
        refused(diolkos.ConnectionLost, client.health)
        refused(diolkos.ConnectionLost, lambda: client.empty(10))


def python(code: str, *arguments: str, seconds: float = SECONDS_MAX) -> tuple[int, str]:
    """Exit status and output of a program."""
    command = [sys.executable, "-X", "faulthandler", "-c", code, *arguments]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=seconds)
    return done.returncode, done.stdout


def check_an_interpreter_ends_with_requests_under_way(daemon: Daemon) -> None:
    code = """
import asyncio, os, signal, sys, threading, time, diolkos
address, pid = sys.argv[1], int(sys.argv[2])
d = diolkos.connect(address)
echo = d.open("echo")
kept = d.empty(1000)
os.kill(pid, signal.SIGSTOP)
pending = [echo.submit(data=kept) for _ in range(10)]
for _ in range(3):
    threading.Thread(target=lambda: echo.infer(data=1), daemon=True).start()
threading.Thread(target=d.health, daemon=True).start()
async def main():
    global far, task
    far = diolkos.aio.connect(address)
    task = asyncio.ensure_future(far)
    await asyncio.sleep(0.1)
try:
    asyncio.run(asyncio.wait_for(main(), 1))
except TimeoutError:
    pass
time.sleep(0.1)
print("at the end")
"""
    for _ in range(5):
        try:
            status, output = python(code, daemon.unix, str(daemon.process.pid))
        finally:
            daemon.process.send_signal(signal.SIGCONT)
        # Threads that were told may say so.
        same((status, "at the end" in output, "Fatal" in output), (0, True, False), output)


def check_asyncio_ends_with_requests_under_way(daemon: Daemon) -> None:
    code = """
import asyncio, os, signal, sys, diolkos
address, pid, how = sys.argv[1], int(sys.argv[2]), sys.argv[3]
async def main():
    global d
    d = await diolkos.aio.connect(address)
    echo = await d.open("echo")
    os.kill(pid, signal.SIGSTOP)
    tasks = [asyncio.create_task(echo.infer(data=1)) for _ in range(100)]
    await asyncio.sleep(0.1)
    if how == "close":
        await d.close()
        for ended in await asyncio.gather(*tasks, return_exceptions=True):
            assert isinstance(ended, diolkos.ConnectionLost), ended
if how == "drop":
    loop = asyncio.new_event_loop()
    loop.run_until_complete(main())
    loop.close()
else:
    asyncio.run(main())
print("at the end")
"""
    for how in ("close", "leave", "drop"):
        try:
            status, output = python(code, daemon.unix, str(daemon.process.pid), how)
        finally:
            daemon.process.send_signal(signal.SIGCONT)
        same((status, "at the end" in output, "Fatal" in output), (0, True, False), f"{how}: {output}")


def check_a_forked_child_leaves_its_parent_alone(daemon: Daemon) -> None:
    with daemon.connect() as client:
        echo = client.open("echo")
        mine = client.empty(100)
        mine[...] = 3
        with daemon.paused():
            pending = echo.submit(data=mine)
            child = os.fork()
            if child == 0:
                # The child of a test must not run the rest of the tests.
                status = 1
                try:
                    for call in (lambda: echo.infer(data=1), client.health, lambda: client.empty(3), pending.wait):
                        refused(diolkos.Error, call, "forked")
                    same(mine[0].item(), 3.0)
                    client.close()
                    del client, echo, mine, pending, call
                    status = 0
                finally:
                    os._exit(status)
        same(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), 0, "the child's exit status")
        same(pending.wait()["data"][0].item(), 3.0)
        same(echo.infer(data=mine)["data"], mine)


def check_a_forked_child_can_connect(daemon: Daemon) -> None:
    with daemon.connect() as client:
        child = os.fork()
        if child == 0:
            status = 1
            try:
                with daemon.connect() as own:
                    same(own.infer("echo", data=1)["data"].item(), 1)
                status = 0
            finally:
                os._exit(status)
        same(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), 0, "the child's exit status")
        same(client.infer("echo", data=2)["data"].item(), 2)


def check_nothing_is_left_behind(daemon: Daemon) -> None:
    def descriptors() -> int:
        return len(os.listdir("/proc/self/fd"))

    def threads() -> int:
        return len(os.listdir("/proc/self/task"))

    with daemon.connect() as client:
        client.infer("echo", data=1)
    time.sleep(0.05)
    before = descriptors(), threads()
    for _ in range(20):
        client = daemon.connect()
        pending = client.open("echo").submit(data=np.zeros(10))
        output = pending.wait()
        client.close()
        del client, pending, output
    eventually("that descriptors and threads are gone", lambda: (descriptors(), threads()) <= before)
