# SPDX-License-Identifier: Apache-2.0
"""What the checks share: a daemon that is really spawned, and counting."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, Self

import diolkos
import numpy as np
import numpy.typing as npt

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[2]
DIGITS = Path(os.environ.get("DIOLKOS_DIGITS") or ROOT / "examples/digits/models")

# Only so that something that never comes about ends a check instead of hanging it.
SECONDS_MAX = 60.0


class Skip(Exception):
    """This machine can't run the check; the text says why."""


def binary() -> Path:
    path = Path(os.environ.get("DIOLKOS_BIN") or ROOT / "target/debug/diolkos")
    if not path.exists():
        sys.exit(f"{path} does not exist; set DIOLKOS_BIN to a daemon")
    return path


class Daemon:
    """A daemon on a private socket and a loopback port. It ends with this process, whose pipe is its standard input."""

    def __init__(self, settings: str = "", digits: bool = False) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="diolkos-python-")
        folder = Path(self._folder.name)
        self.unix = f"unix:{folder / 'd.sock'}"
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.tcp = f"tcp:127.0.0.1:{probe.getsockname()[1]}"
        self._log = folder / "log"
        config = folder / "diolkos.toml"
        config.write_text(settings)
        self._command = [str(binary()), "serve", "--config", str(config), "--exit-with-stdin"]
        self._command += ["--listen", self.unix, "--listen", self.tcp]
        if digits:
            self._command += ["--models", str(DIGITS)]
        self.process = self._start()

    def _start(self) -> subprocess.Popen[bytes]:
        with open(self._log, "ab") as log:
            process = subprocess.Popen(self._command, stdin=subprocess.PIPE, stdout=log, stderr=log)
        until = time.monotonic() + SECONDS_MAX
        while True:
            try:
                with diolkos.connect(self.unix, reconnect=0) as client:
                    if client.health().ready:
                        return process
            except diolkos.ConnectionLost:
                pass
            if process.poll() is not None or time.monotonic() > until:
                raise RuntimeError(f"the daemon does not start: {self._log.read_text(errors='replace')[-2000:]}")
            time.sleep(0.01)

    def connect(self, **options: Any) -> diolkos.Client:
        return diolkos.connect(self.unix, **options)

    def kill(self) -> None:
        """Ends it without giving it a chance to say goodbye."""
        self.process.kill()
        self.process.wait()
        self._close_pipe()

    def restart(self) -> None:
        self.process = self._start()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Meanwhile it does nothing at all, so requests stay under way."""
        self.stop()
        try:
            yield
        finally:
            self.process.send_signal(signal.SIGCONT)

    def stop(self) -> None:
        """Stops every thread of it, until SIGCONT or its end."""
        self.process.send_signal(signal.SIGSTOP)
        tasks = Path(f"/proc/{self.process.pid}/task")
        eventually("that it stands still", lambda: all(state(task) == "T" for task in tasks.iterdir()))

    def _close_pipe(self) -> None:
        if self.process.stdin is not None:
            self.process.stdin.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._close_pipe()
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.terminate()
        try:
            self.process.wait(SECONDS_MAX)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self._folder.cleanup()


class Checks:
    """Runs checks, a line for each, and counts."""

    def __init__(self, only: re.Pattern[str] | None) -> None:
        self.passed = self.failed = self.skipped = 0
        self._only = only

    def module(self, module: ModuleType, *arguments: object) -> None:
        """Runs every `check_…` of a module."""
        for name, check in list(vars(module).items()):
            if name.startswith("check_") and callable(check):
                self.run(f"{module.__name__}.{name.removeprefix('check_')}", check, *arguments)

    def run(self, name: str, check: Callable[..., object], *arguments: object) -> None:
        if self._only is not None and not self._only.search(name):
            return
        begun = time.monotonic()
        try:
            check(*arguments)
        except Skip as reason:
            self.skipped += 1
            print(f"SKIP {name}: {reason}", flush=True)
        except Exception as error:
            self.failed += 1
            ours = [frame for frame in traceback.extract_tb(error.__traceback__) if HERE in Path(frame.filename).parents]
            where = ", ".join(f"{Path(frame.filename).name}:{frame.lineno}" for frame in ours[1:])
            print(f"FAIL {name}: {where}: {type(error).__name__}: {error}", flush=True)
        else:
            self.passed += 1
            print(f"ok   {name} ({time.monotonic() - begun:.2f} s)", flush=True)

    def finish(self) -> int:
        print(f"{self.passed} passed, {self.failed} failed, {self.skipped} skipped")
        return 1 if self.failed else 0


def same(got: object, expected: object, what: str = "it") -> None:
    """Raises unless both are equal; arrays in type, shape and every bit, NaN included."""
    if isinstance(got, np.ndarray) and isinstance(expected, np.ndarray):
        if (got.dtype, got.shape) != (expected.dtype, expected.shape):
            raise AssertionError(
                f"{what} is {got.dtype}{got.shape}, and not {expected.dtype}{expected.shape}"
            )
        if got.dtype.hasobject:
            equal = got.tolist() == expected.tolist()
        else:
            equal = np.ascontiguousarray(got).tobytes() == np.ascontiguousarray(expected).tobytes()
    else:
        equal = got == expected
    if not equal:
        raise AssertionError(f"{what} is {got!r}, and not {expected!r}")


def refused(kind: type[BaseException], call: Callable[[], object], *words: str) -> Any:
    """The exception of this kind that a call must raise, with these words in its text."""
    try:
        result = call()
    except kind as error:
        missing = [word for word in words if word not in str(error)]
        if missing:
            raise AssertionError(f"the error does not say {missing}: {error}") from error
        return error
    raise AssertionError(f"it gave {result!r}, and no {kind.__name__}")


def eventually(what: str, holds: Callable[[], bool]) -> None:
    """Waits for something that another thread or process brings about."""
    until = time.monotonic() + SECONDS_MAX
    while not holds():
        if time.monotonic() > until:
            raise AssertionError(f"{what} did not come about")
        time.sleep(0.002)


def state(task: Path) -> str:
    """What a thread does: R runs, S sleeps, T was stopped …"""
    # Its name comes first, in parentheses, and may hold anything.
    return (task / "stat").read_text().rpartition(")")[2].split()[0]


def region_bytes() -> int:
    """How much shared memory this process has mapped as regions."""
    total = 0
    for line in Path("/proc/self/maps").read_text().splitlines():
        if "memfd:" in line:
            start, end = line.split()[0].split("-")
            total += int(end, 16) - int(start, 16)
    return total


def address(array: npt.NDArray[Any]) -> int:
    return int(array.__array_interface__["data"][0])


def ways(daemon: Daemon) -> Iterator[tuple[str, diolkos.Client]]:
    """A client for every way that there is."""
    with daemon.connect() as client:
        yield "shared memory", client
    with daemon.connect(waiting="blocking") as client:
        yield "blocking", client
    with daemon.connect(private_memory=True) as client:
        yield "stream over unix", client
    with diolkos.connect(daemon.tcp) as client:
        yield "stream over tcp", client
