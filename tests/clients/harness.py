# SPDX-License-Identifier: Apache-2.0
"""What the scripts share: a daemon that is really spawned, counted checks, small helpers.

Every script ends with the line `N passed, N failed, N skipped`, which xtask reads.
"""

import argparse
import http.client
import os
import resource
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
import traceback
import zlib
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
DIGITS = ROOT / "examples/digits"
AFFINE = ROOT / "tests/data/affine.onnx"
AFFINE_HEAVY = ROOT / "tests/data/affine_heavy.onnx"
AFFINE_HEAVY_B = ROOT / "tests/data/affine_heavy_b.onnx"
MODELS = Path(os.environ.get("DIOLKOS_TEST_MODELS") or ROOT.parent / "shared/models")

# Only so that a daemon which never gets ready ends the test instead of hanging it.
START_SECONDS = 120
STOP_SECONDS = 60


class Skip(Exception):
    """This machine can't run the check; the text says why."""


class Checks:
    """Runs checks one by one, a line for each, and counts."""

    def __init__(self):
        self.passed = self.failed = self.skipped = 0

    def run(self, name, check, *arguments):
        begun = time.monotonic()
        try:
            note = check(*arguments)
        except Skip as skip:
            self.skipped += 1
            print(f"SKIP {name}: {skip}")
        except Exception as error:  # noqa: BLE001 - whatever a check raises is its failure
            self.failed += 1
            where = traceback.extract_tb(error.__traceback__)
            ours = [frame for frame in where if Path(frame.filename).parent.parent == ROOT / "tests"]
            place = f"{Path(ours[-1].filename).name}:{ours[-1].lineno}" if ours else ""
            print(f"FAIL {name}: {place}: {type(error).__name__}: {error}")
        else:
            self.passed += 1
            print(f"ok   {name}{f': {note}' if note else ''} ({time.monotonic() - begun:.2f} s)")

    def finish(self):
        print(f"{self.passed} passed, {self.failed} failed, {self.skipped} skipped")
        return 1 if self.failed else 0


def same(got, expected, what):
    """Raises unless both are equal, NaN included; arrays bit by bit in type and shape."""
    if isinstance(expected, np.ndarray):
        got = np.asarray(got)
        if got.dtype != expected.dtype or got.shape != expected.shape:
            raise AssertionError(f"{what} is {got.dtype}{got.shape}, expected {expected.dtype}{expected.shape}")
        equal = np.array_equal(got, expected, equal_nan=expected.dtype.kind == "f")
    else:
        equal = got == expected
    if not equal:
        raise AssertionError(f"{what} is {got!r}, expected {expected!r}")


def near(got, expected, what, absolute=1e-5):
    got = np.asarray(got)
    if got.shape != expected.shape or not np.allclose(got, expected, rtol=1e-5, atol=absolute):
        raise AssertionError(f"{what} is {got!r}, expected {expected!r}")


def says(error, *words):
    """Raises unless an error's text holds every word: it has to name what was wrong."""
    text = str(error)
    missing = [word for word in words if word not in text]
    if missing:
        raise AssertionError(f"the error does not say {missing}: {text}")


def free_port():
    """A port that is free now. Another process may take it first; the daemon says so then."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def read_gray_png(path):
    """An 8-bit grey PNG as an array of bytes."""
    data = Path(path).read_bytes()
    at, packed, size = 8, b"", None
    while at < len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        chunk = data[at + 8 : at + 8 + length]
        if kind == b"IHDR":
            width, height, depth, colour = struct.unpack_from(">IIBB", chunk)
            assert (depth, colour) == (8, 0), f"{path} is no 8-bit grey PNG"
            size = (height, width)
        elif kind == b"IDAT":
            packed += chunk
        at += 12 + length
    height, width = size
    lines = zlib.decompress(packed)
    rows = [[0] * width]
    for start in range(0, height * (width + 1), width + 1):
        row = []
        for column, byte in enumerate(lines[start + 1 : start + 1 + width]):
            left, above = (row[-1] if column else 0), rows[-1][column]
            corner = rows[-1][column - 1] if column else 0
            guesses = (0, left, above, (left + above) // 2, paeth(left, above, corner))
            row.append((byte + guesses[lines[start]]) & 0xFF)
        rows.append(row)
    return np.array(rows[1:], np.uint8)


def paeth(left, above, corner):
    """PNG's fourth filter: whichever neighbour is nearest to `left + above - corner`."""
    guess = left + above - corner
    return min((abs(guess - left), 0, left), (abs(guess - above), 1, above), (abs(guess - corner), 2, corner))[2]


def digit_images():
    """The example's held-out images as model input, and what was expected of each."""
    import json

    expected = json.loads((DIGITS / "expected.json").read_text())
    images = [read_gray_png(DIGITS / "images" / entry["image"]) for entry in expected]
    return np.stack(images).astype(np.float32)[:, None] / np.float32(255), expected


class Daemon:
    """A daemon of our own, on a private socket and a loopback port, ended by its own process id.

    It also ends when this process does, however that happens: its standard input is our pipe.
    """

    def __init__(self, settings="", models=(), files=(), log_name="daemon"):
        self.folder = Path(tempfile.mkdtemp(prefix="diolkos-"))
        self.unix = self.folder / "d.sock"
        self.port = free_port()
        self.address = f"127.0.0.1:{self.port}"
        config = self.folder / "diolkos.toml"
        config.write_text(settings)
        logs = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "client-logs"
        logs.mkdir(parents=True, exist_ok=True)
        self.log = logs / f"{log_name}.log"
        self.config = config
        self.command = [str(binary()), "serve", "--config", str(config), "--exit-with-stdin"]
        self.command += ["--listen", f"unix:{self.unix}", "--listen", f"tcp:{self.address}"]
        for flag, paths in (("--models", models), ("--model", files)):
            for path in paths:
                self.command += [flag, str(path)]
        self.process = None

    def __enter__(self):
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen(
                self.command, stdin=subprocess.PIPE, stdout=log, stderr=log, preexec_fn=usual_descriptor_limit
            )
        deadline = time.monotonic() + START_SECONDS
        while not self.is_ready():
            if self.process.poll() is not None:
                raise RuntimeError(f"the daemon ended at start: {self.log_tail()}")
            if time.monotonic() > deadline:
                raise RuntimeError(f"the daemon is not ready after {START_SECONDS} s: {self.log_tail()}")
            time.sleep(0.02)
        return self

    def __exit__(self, *_):
        try:
            self.stop()
        finally:
            shutil.rmtree(self.folder, ignore_errors=True)

    def stop(self):
        """Ends the daemon and returns its exit status."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise RuntimeError(f"the daemon did not end {STOP_SECONDS} s after SIGTERM: {self.log_tail()}") from None

    def is_ready(self):
        try:
            return self.get("/v2/health/ready")[0] == 200
        except OSError:
            return False

    def alive(self):
        return self.process.poll() is None

    def get(self, path):
        """Status, headers and body of a GET."""
        return self.request("GET", path)

    def request(self, method, path, body=None, headers=None, timeout=60):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        try:
            connection.request(method, path, body, headers or {})
            response = connection.getresponse()
            return response.status, dict(response.getheaders()), response.read()
        finally:
            connection.close()

    def resident_bytes(self):
        for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024
        raise RuntimeError("no VmRSS")

    def log_tail(self, lines=15):
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])


def binary():
    path = Path(os.environ.get("DIOLKOS_BIN") or ROOT / "target/debug/diolkos")
    if not path.exists():
        sys.exit(f"{path} does not exist; run `cargo build --package diolkos` or set DIOLKOS_BIN")
    return path


DESCRIPTORS_AT_START = resource.getrlimit(resource.RLIMIT_NOFILE)


def raise_descriptor_limit():
    """Room for this process's own connections. The daemon still gets what a user's shell would give it."""
    _, hard = DESCRIPTORS_AT_START
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def usual_descriptor_limit():
    soft, hard = DESCRIPTORS_AT_START
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def smoke_arguments(description):
    """What run.py passes to each smoke script."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--tcp", required=True, metavar="HOST:PORT", help="the daemon's TCP address")
    parser.add_argument("--unix", required=True, metavar="PATH", help="the daemon's unix socket")
    return parser.parse_args()
