# SPDX-License-Identifier: Apache-2.0
"""Endurance of one daemon.

    python soak.py [--seconds N] [--connections N] [--reloads N]

Connections: each of 1,000 clients keeps a connection of its own and asks without pause; every answer is
checked, and no two clients ask the same. Reloads: a model's file is replaced 100 times under load, half
of the times noticed through a repository load, half through SIGHUP; no request may fail, every answer is the old
or the new model's, and memory returns to the start.
"""

import argparse
import asyncio
import json
import os
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from harness import AFFINE, AFFINE_HEAVY, AFFINE_HEAVY_B, Checks, Daemon, Skip, raise_descriptor_limit

SECONDS = 10 if os.environ.get("CI") else 60
# Descriptors that this process needs besides its connections.
SPARE_DESCRIPTORS = 64
PATIENCE = 120
A, B = (np.float32(2), np.float32(1)), (np.float32(3), np.float32(-1))
# What a heap with several arenas keeps after load, and what noise between two readings was seen. Each model
# keeps 4 MiB, so one in ten that is not let go shows.
GROWTH_BYTES_MAX = 32 << 20


class Client:
    """One client with one connection, which it never gives up."""

    def __init__(self, daemon, index, model="affine"):
        self.daemon, self.index, self.model = daemon, index, model
        self.answers = {"A": 0, "B": 0}
        self.sent = 0

    async def connect(self):
        self.reader, self.writer = await asyncio.open_connection("127.0.0.1", self.daemon.port)

    async def ask(self):
        """One request, with numbers that no other client and no other request has."""
        self.sent += 1
        x = np.array([[self.index, self.sent, self.index + self.sent, -self.sent]], np.float32)
        header = {
            "id": f"{self.index}/{self.sent}",
            "inputs": [{"name": "x", "shape": [1, 4], "datatype": "FP32", "parameters": {"binary_data_size": 16}}],
            "outputs": [{"name": "y", "parameters": {"binary_data": True}}],
        }
        header = json.dumps(header).encode()
        head = (
            f"POST /v2/models/{self.model}/infer HTTP/1.1\r\nHost: diolkos\r\nContent-Length: {len(header) + 16}\r\n"
            f"Inference-Header-Content-Length: {len(header)}\r\n\r\n"
        )
        self.writer.write(head.encode() + header + x.tobytes())
        status, headers, body = await asyncio.wait_for(self.answer(), PATIENCE)
        if status != 200:
            raise AssertionError(f"client {self.index}, request {self.sent}: {status} {body[:200]!r}")
        length = int(headers[b"inference-header-content-length"])
        reply = json.loads(body[:length])
        if reply["id"] != f"{self.index}/{self.sent}":
            raise AssertionError(f"client {self.index} asked {self.sent} and got the answer to {reply['id']}")
        y = np.frombuffer(body[length:], np.float32).reshape(1, 4)
        for name, (scale, offset) in (("A", A), ("B", B)):
            if np.array_equal(y, x * scale + offset):
                self.answers[name] += 1
                return name
        raise AssertionError(f"client {self.index}, request {self.sent}: {x} became {y}")

    async def answer(self):
        head = await self.reader.readuntil(b"\r\n\r\n")
        status, *lines = head.split(b"\r\n")
        headers = {}
        for line in lines:
            name, _, value = line.partition(b":")
            headers[name.strip().lower()] = value.strip()
        body = await self.reader.readexactly(int(headers[b"content-length"]))
        return int(status.split()[1]), headers, body

    async def close(self):
        self.writer.close()
        try:
            await self.writer.wait_closed()
        except ConnectionError:
            pass


async def connections(daemon, count, seconds):
    clients = [Client(daemon, index) for index in range(count)]
    for client in clients:
        await client.connect()
    # Everybody is connected before the time begins.
    end = time.monotonic() + seconds

    async def keep_asking(client):
        await client.ask()
        while time.monotonic() < end:
            await client.ask()

    await asyncio.gather(*(keep_asking(client) for client in clients))
    open_now = metric(daemon, 'diolkos_connections_open{transport="tcp"}')
    # The one that asked for the metrics is among them.
    if open_now < count:
        raise AssertionError(f"the daemon has {open_now} connections open, expected at least {count}")
    for client in clients:
        await client.close()
    answers = sum(client.answers["A"] for client in clients)
    wrong = sum(client.answers["B"] for client in clients)
    if wrong:
        raise AssertionError(f"{wrong} answers came from a model that is not loaded")
    least = min(client.sent for client in clients)
    return f"{count} connections, {answers} answers in {seconds} s, each right; at least {least} for each client"


def metric(daemon, name):
    for line in daemon.get("/metrics")[2].decode().splitlines():
        if line.startswith(name + " "):
            return float(line.rsplit(" ", 1)[1])
    raise AssertionError(f"/metrics has no {name}")


def check_connections(count, seconds):
    if raise_descriptor_limit() < count + SPARE_DESCRIPTORS:
        raise Skip(f"the hard limit of descriptors is below {count + SPARE_DESCRIPTORS}")
    with Daemon(files=[AFFINE], log_name="soak-connections") as daemon:
        before = daemon.resident_bytes()
        note = asyncio.run(connections(daemon, count, seconds))
        return f"{note}; resident {mib(before)} before, {mib(daemon.resident_bytes())} after"


def replace(path, source):
    """Puts a new file in the old one's place in one step, as a careful operator does."""
    new = path.with_suffix(".new")
    shutil.copyfile(source, new)
    os.replace(new, path)


async def reloads(daemon, path, count):
    clients = [Client(daemon, index) for index in range(8)]
    for client in clients:
        await client.connect()
    done = False

    async def keep_asking(client):
        while not done:
            await client.ask()

    load = [asyncio.create_task(keep_asking(client)) for client in clients]
    witness = Client(daemon, 1000)
    await witness.connect()
    settled = None
    for reload in range(count):
        wanted, source = ("B", AFFINE_HEAVY_B) if reload % 2 == 0 else ("A", AFFINE_HEAVY)
        replace(path, source)
        # In pairs, so that each way sees both directions.
        if reload // 2 % 2 == 0:
            status, _, body = await asyncio.to_thread(
                daemon.request, "POST", "/v2/repository/models/affine/load", b"{}"
            )
            if status != 200:
                raise AssertionError(f"reload {reload}: {status} {body[:300]!r}")
            if (name := await witness.ask()) != wanted:
                raise AssertionError(f"reload {reload}: loaded {wanted}, and {name} answers")
        else:
            daemon.process.send_signal(signal.SIGHUP)
            patience = time.monotonic() + PATIENCE
            while await witness.ask() != wanted:
                if time.monotonic() > patience:
                    raise AssertionError(f"reload {reload}: {wanted} does not answer {PATIENCE} s after SIGHUP")
                await asyncio.sleep(0.01)
        if failed := [task for task in load if task.done()]:
            failed[0].result()
        if reload + 1 == min(10, count):
            # Caches and heaps are warm now; what grows from here on grows with every reload.
            settled = daemon.resident_bytes()
    done = True
    await asyncio.gather(*load)
    for client in [*clients, witness]:
        await client.close()
    return settled, {name: sum(client.answers[name] for client in clients) for name in "AB"}


def check_reloads(count):
    folder = Path(tempfile.mkdtemp(prefix="diolkos-reload-"))
    try:
        path = folder / "affine/1/model.onnx"
        path.parent.mkdir(parents=True)
        shutil.copyfile(AFFINE_HEAVY, path)
        with Daemon("[models]\nclient_load = true\n", models=[folder], log_name="soak-reloads") as daemon:
            start = daemon.resident_bytes()
            settled, answers = asyncio.run(reloads(daemon, path, count))
            end = daemon.resident_bytes()
            note = (
                f"{count} reloads, {answers['A']} answers of A and {answers['B']} of B, none failed; resident "
                f"{mib(start)} at start, {mib(settled)} after 10 reloads, {mib(end)} at the end"
            )
            if not min(answers.values()):
                raise AssertionError(f"only one model was ever seen: {answers}")
            if end - settled > GROWTH_BYTES_MAX or end - start > 2 * GROWTH_BYTES_MAX:
                raise AssertionError(f"memory grew: {note}")
            return note
    finally:
        shutil.rmtree(folder)


def mib(size):
    return f"{size / (1 << 20):.1f} MiB"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=int, default=SECONDS, help="default 60, with CI set 10")
    parser.add_argument("--connections", type=int, default=1000)
    parser.add_argument("--reloads", type=int, default=100)
    arguments = parser.parse_args()
    checks = Checks()
    checks.run("soak: connections", check_connections, arguments.connections, arguments.seconds)
    checks.run("soak: hot reloads under load", check_reloads, arguments.reloads)
    return checks.finish()


if __name__ == "__main__":
    sys.exit(main())
