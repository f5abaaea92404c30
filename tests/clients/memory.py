# SPDX-License-Identifier: Apache-2.0
"""A daemon under a memory limit that is the sum of its own limits, and two tenants who want all of it.

    python memory.py [--seconds N]

The limit is a control group's (memory.max, or memory.limit_in_bytes of version 1), so whatever the daemon takes beyond it
gets it killed. Each attack is a process of its own that does for N seconds (in all, shared among the attacks) what is most expensive in
memory: bodies that stop short of their end, bodies that unpack to a thousand times their size, numbers as text, answers that
nobody takes, half headers, HTTP/2 streams of which nothing is read, and on the native channel bodies that do not end, answers on a stream
and in rings that nobody takes, parameters that wait with their requests, regions that the daemon fills, and memory files that
their makers keep.
"""

import argparse
import contextlib
import gzip
import http.client
import itertools
import json
import multiprocessing
import os
import resource
import socket
import struct
import sys
import threading
import time
from pathlib import Path

import native_raw
from harness import Checks, Daemon, Skip, raise_descriptor_limit, says

MIB = 1 << 20
SECONDS = 30 if os.environ.get("CI") else 120
CONNECTIONS = 256
REQUESTS_MEMORY = 96 * MIB
BODY_BYTES = 32 * MIB
# Of each of the two tenants: regions of native channels. They are the clients' memory, and none of it is in the sum.
REGIONS_MEMORY = 64 * MIB
# Of each user of the two: files of the extension system_shared_memory.
SYSTEM_MEMORY = 32 * MIB
# Of one connection, beside what is charged to the budgets: a header, buffers of TLS and HTTP, what HTTP/2 has taken and
# not given on, answers too small to be charged. docs/operations.md has the sum.
CONNECTION_BYTES = 1 * MIB
# The daemon itself, and what was freed and not given back to the system yet.
KEPT_BYTES = 64 * MIB + max(REQUESTS_MEMORY // 8, 16 * MIB)
FORK = multiprocessing.get_context("fork")

SETTINGS = f"""
socket_mode = "0666"
listen = []
[limits]
connections_max = {CONNECTIONS}
body_bytes_max = "{BODY_BYTES}B"
request_memory_max = "{REQUESTS_MEMORY // 2}B"
requests_memory_max = "{REQUESTS_MEMORY}B"
header_timeout = "5s"
body_timeout = "5s"
[shared_memory]
bytes_max = "{SYSTEM_MEMORY}B"
[models]
memory_max = "64MiB"
[tenants.good]
uids = [{os.getuid()}]
metrics = true
leases.all = {{ kind = "compute", models = ["*"], operations = ["*"] }}
[tenants.a]
sockets = ["unix:FOLDER/a.sock"]
regions_memory_max = "{REGIONS_MEMORY}B"
leases.all = {{ kind = "compute", models = ["*"], operations = ["*"] }}
[tenants.b]
sockets = ["unix:FOLDER/b.sock"]
regions_memory_max = "{REGIONS_MEMORY}B"
leases.all = {{ kind = "compute", models = ["*"], operations = ["*"] }}
"""


class Group:
    """A control group with a memory limit, made for one daemon."""

    def __init__(self):
        name = f"diolkos-memory-{os.getpid()}"
        mounts = [line.split()[1:4] for line in Path("/proc/self/mounts").read_text().splitlines()]
        self.folder = None
        for folder, kind, options in mounts:
            folder = Path(folder)
            if kind == "cgroup" and "memory" in options.split(","):
                self.folder, self.limit, self.peak = folder / name, "memory.limit_in_bytes", "memory.max_usage_in_bytes"
                self.events = "memory.oom_control"
            elif kind == "cgroup2" and "memory" in (folder / "cgroup.subtree_control").read_text().split():
                self.folder, self.limit, self.peak = folder / name, "memory.max", "memory.peak"
                self.events = "memory.events"
        if self.folder is None:
            raise Skip("no control groups with a memory controller are mounted here")
        try:
            self.folder.mkdir()
        except OSError as error:
            raise Skip(f"no control group can be made: {error}") from None

    def set_limit(self, limit):
        try:
            (self.folder / self.limit).write_text(str(limit))
        except OSError as error:
            raise Skip(f"the memory limit can't be set: {error}") from None

    def shared_bytes(self):
        """Pages of memory files and tmpfs that are counted to it."""
        lines = dict(line.split() for line in (self.folder / "memory.stat").read_text().splitlines())
        return int(lines["shmem"])

    def peak_bytes(self):
        return int((self.folder / self.peak).read_text())

    def kills(self):
        lines = dict(line.split() for line in (self.folder / self.events).read_text().splitlines())
        return int(lines.get("oom_kill", 0))

    def remove(self):
        # Its last process may just be ending.
        for _ in range(100):
            try:
                return self.folder.rmdir()
            except OSError:
                time.sleep(0.05)


class Limited(Daemon):
    """A daemon in a control group."""

    def __init__(self, group, settings):
        super().__init__(settings="", log_name="memory")
        self.config.write_text(settings.replace("FOLDER", str(self.folder)))
        enter = f'echo $$ > {group.folder}/cgroup.procs && exec "$0" "$@"'
        self.command = ["sh", "-c", enter, *self.command]


class HttpOverUnix(http.client.HTTPConnection):
    """HTTP/1.1 over a unix socket."""

    def __init__(self, path):
        super().__init__("d")
        self.path = path

    def connect(self):
        self.sock = connect(self.path)


def connect(path):
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(10)
    connection.connect(path)
    return connection


def until(seconds, path, attack, done):
    """Does it again and again: being refused, or cut off, is what an attacker has to expect. An attack yields for each part of it
    that was carried out, and `done` counts these."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            for _ in attack(path, end):
                with done.get_lock():
                    done.value += 1
        except (OSError, ConnectionError):
            time.sleep(0.01)


def head(length, more="", path="/v2/models/echo/infer"):
    return f"POST {path} HTTP/1.1\r\nHost: d\r\nContent-Length: {length}\r\n{more}\r\n".encode()


def binary(size):
    """A request to echo so many bytes, and the length of its JSON."""
    text = {
        "inputs": [{"name": "data", "shape": [size], "datatype": "UINT8", "parameters": {"binary_data_size": size}}],
        "outputs": [{"name": "data", "parameters": {"binary_data": True}}],
    }
    text = json.dumps(text).encode()
    return text + bytes(size), len(text)


def held_bodies(path, end):
    """As many as there are connections, each short of its end by a byte."""
    body, length = binary(BODY_BYTES - 4096)
    held = []
    while len(held) < CONNECTIONS // 2 and time.monotonic() < end:
        connection = connect(path)
        held.append(connection)
        try:
            connection.sendall(head(len(body), f"Inference-Header-Content-Length: {length}\r\n") + body[:-1])
            yield
        except OSError:
            held.pop().close()


def bombs(path, end):
    """Bodies that become a thousand times larger, and are no JSON in the end."""
    bomb = gzip.compress(b" " * (BODY_BYTES - 1) + b"x")
    message = head(len(bomb), "Content-Encoding: gzip\r\nContent-Type: application/json\r\n") + bomb
    connections = [connect(path) for _ in range(16)]
    for connection in connections:
        connection.sendall(message)
    for connection in connections:
        connection.recv(1 << 16)
        yield


def numbers(path, end):
    """Numbers as text: one byte of payload for two of JSON, and lists in lists."""
    count = BODY_BYTES // 2 - 4096
    data = b"[" + b",".join([b"7"] * count) + b"]"
    body = b'{"inputs":[{"name":"data","shape":[%d],"datatype":"UINT8","data":%s}]}' % (count, data)
    connections = [connect(path) for _ in range(4)]
    for connection in connections:
        # Some are refused for want of memory, and cut off.
        with contextlib.suppress(OSError):
            connection.sendall(head(len(body)) + body)
            yield
    for connection in connections:
        with contextlib.suppress(OSError):
            while connection.recv(1 << 20) and time.monotonic() < end:
                pass


def answers(path, end):
    """Answers that nobody takes."""
    body, length = binary(8 * MIB)
    held = []
    while len(held) < CONNECTIONS // 4 and time.monotonic() < end:
        connection = connect(path)
        held.append(connection)
        connection.sendall(head(len(body), f"Inference-Header-Content-Length: {length}\r\n") + body)
        yield
    time.sleep(1)


def headers(path, end):
    """Headers that never end."""
    half = b"GET /v2 HTTP/1.1\r\nHost: d\r\nX-Long: " + b"x" * (31 << 10)
    held = []
    while len(held) < CONNECTIONS and time.monotonic() < end:
        connection = connect(path)
        connection.sendall(half)
        held.append(connection)
        yield
    time.sleep(1)


def frame(kind, flags, stream, payload):
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def literal(name, value):
    """One header field, neither indexed nor Huffman coded (RFC 7541, section 6.2.2)."""
    def text(text):
        assert len(text) < 127
        return bytes([len(text)]) + text
    return b"\0" + text(name) + text(value)


FIELDS = b"".join(
    literal(name, value)
    for name, value in [
        (b":method", b"POST"), (b":scheme", b"http"), (b":authority", b"d"),
        (b":path", b"/inference.GRPCInferenceService/ModelStreamInfer"),
        (b"content-type", b"application/grpc"), (b"te", b"trailers"),
    ]
)


def message(size):
    """A gRPC message that asks to echo so many bytes."""
    from tritonclient.grpc import service_pb2

    request = service_pb2.ModelInferRequest(model_name="echo")
    tensor = request.inputs.add(name="data", datatype="UINT8")
    tensor.shape.append(size)
    request.raw_input_contents.append(bytes(size))
    request = request.SerializeToString()
    return b"\0" + struct.pack(">I", len(request)) + request


def streams(path, end):
    """HTTP/2: as many streams as there may be, requests on each until the daemon takes no more, and nothing is read: answers
    below the size that is charged pile up, and so does what the daemon can't go on with."""
    small = message(48 << 10)
    held = []
    while len(held) < CONNECTIONS // 8 and time.monotonic() < end:
        connection = connect(path)
        connection.settimeout(0.2)
        held.append(connection)
        # A window as large as can be: what is not sent is the daemon's own choice.
        hello = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(4, 0, 0, struct.pack(">HI", 4, (1 << 31) - 1))
        connection.sendall(hello + frame(8, 0, 0, struct.pack(">I", (1 << 31) - 1 - 65535)))
        try:
            for stream in range(1, 200, 2):
                connection.sendall(frame(1, 4, stream, FIELDS))
                yield
            for _ in range(20):
                for stream in range(1, 200, 2):
                    for at in range(0, len(small), 16384):
                        connection.sendall(frame(0, 0, stream, small[at : at + 16384]))
        except OSError:
            # Full, which is what was wanted.
            continue
    time.sleep(1)


def peers(path, count, end):
    """Connections to the native channel, until there are so many or no more are let in."""
    held = []
    while len(held) < count and time.monotonic() < end:
        try:
            held.append(native_raw.Peer(path))
        except OSError:
            break
    return held


def native_bodies(path, end):
    """Payload that stops a byte short of its end."""
    size = BODY_BYTES - 4096
    held = peers(path, CONNECTIONS // 2, end)
    for peer in held:
        body = native_raw.infer(peer.open("echo"), [native_raw.tensor(0, native_raw.UINT8, [size], native_raw.on_stream(size))])
        with contextlib.suppress(OSError):
            peer.socket.sendall(native_raw.frame(native_raw.INFER, 7, body, size) + bytes(size - 1))
            yield


def native_messages(path, end):
    """Messages that stop a byte short of their end."""
    message = native_raw.frame(native_raw.LIST, 7, bytes((1 << 20) - 1))
    held = peers(path, CONNECTIONS, end)
    for peer in held:
        peer.socket.settimeout(0.2)
        with contextlib.suppress(OSError):
            peer.socket.sendall(message[:-1])
            yield
    time.sleep(1)


def until_full(peer, messages, end):
    """Sends them until the daemon reads no more, which may be within one: nothing else can be sent after it."""
    peer.socket.settimeout(0.2)
    with contextlib.suppress(OSError):
        for message in messages:
            if time.monotonic() > end:
                break
            peer.socket.sendall(message)
            yield


def renumbered(message):
    """The same for each number that may be in flight."""
    return (message[:8] + struct.pack("<Q", number) + message[16:] for number in range(512))


def product(peer, rows, inner):
    """A request for the product of two matrices, without the matrices, and how many bytes these have."""
    shapes = [[rows, inner], [inner, rows]]
    place = native_raw.on_stream(4 * rows * inner)
    inputs = [native_raw.tensor(index, native_raw.FP32, shape, place) for index, shape in enumerate(shapes)]
    size = 8 * rows * inner
    return native_raw.frame(native_raw.INFER, 0, native_raw.infer(peer.open("blas.sgemm"), inputs), size), size


def native_answers(path, end):
    """Answers on a stream that nobody takes: products that are hundreds of times as large as what they are of, and lists."""
    held = peers(path, CONNECTIONS // 4, end)
    for at, peer in enumerate(held):
        if at % 2 == 0:
            message, size = product(peer, 512, 1)
            yield from until_full(peer, (message + bytes(size) for message in renumbered(message)), end)
        else:
            yield from until_full(peer, [native_raw.frame(native_raw.LIST, 9)] * 600, end)
    time.sleep(1)


def native_parameters(path, end):
    """Parameters of requests that wait."""
    params = [(f"p{index}", "x" * 8192) for index in range(64)]
    held = peers(path, CONNECTIONS // 4, end)
    for at, peer in enumerate(held):
        if at % 4 == 0:
            # They have to wait for something.
            message, size = product(peer, 1500, 1500)
            for _ in until_full(peer, (message + bytes(size) for message in itertools.islice(renumbered(message), 2)), end):
                pass
        else:
            body = native_raw.infer(peer.open("noop"), [], params=params)
            yield from until_full(peer, renumbered(native_raw.frame(native_raw.INFER, 0, body)), end)
    time.sleep(1)


def native_rings(path, end):
    """The largest rings that there may be, and in each an answer that needs a page of its own."""
    held = peers(path, CONNECTIONS // 2, end)
    for peer in held:
        try:
            channel = peer.channel(512, 64 << 10)
        except ConnectionError:
            break
        for number in range(512):
            # A handle that means nothing: the refusal is too long for the entry, and lies in a slot.
            channel.put(number, native_raw.INFER, native_raw.infer(struct.pack("<II", 999, 7), []))
            yield
    time.sleep(1)


def native_regions(path, end):
    """Regions that the daemon fills from one end to the other."""
    size = 4 * MIB
    held = peers(path, CONNECTIONS // 4, end)
    for peer in held:
        handle = peer.open("echo")
        with contextlib.suppress(ConnectionError):
            for region in range(8):
                peer.lend(region, size).close()
                yield
        for region in range(8):
            inputs = [native_raw.tensor(0, native_raw.UINT8, [size // 2], native_raw.in_region(region, 0, size // 2))]
            body = native_raw.infer(handle, inputs, native_raw.in_region(region, size // 2, size // 2))
            peer.socket.sendall(native_raw.frame(native_raw.INFER, region, body))
            # And onto the stream, where nobody takes it.
            peer.socket.sendall(native_raw.frame(native_raw.INFER, 100 + region, native_raw.infer(handle, inputs)))
    time.sleep(1)


def native_kept(path, end):
    """Memory files that stay when the daemon was told that they are closed, and when the connection is: holes that the daemon
    is to fill, and, so that this is no attack on our own memory, a few without. What it fills would be counted to it."""
    size, kept = 4 * MIB, []
    try:
        while len(kept) < 500 and time.monotonic() < end:
            with contextlib.closing(native_raw.Peer(path)) as peer:
                handle = peer.open("echo")
                for number in range(8):
                    region = native_raw.Region(size)
                    kept.append(region.file)
                    peer.register(number, region)
                    # The second only looks at its pages, which makes them as well, and then has the kernel take them back.
                    if number == 0:
                        region.fill()
                    if number == 1:
                        region.look()
                    whole = [native_raw.tensor(0, native_raw.UINT8, [size // 2], native_raw.in_region(number, 0, size // 2))]
                    one = [native_raw.tensor(0, native_raw.UINT8, [1], native_raw.in_region(number, 0, 1))]
                    for commit in [False, True]:
                        if commit:
                            region.seal()
                            with contextlib.suppress(ConnectionError):
                                peer.commit(number)
                            if number == 1:
                                region.page_out()
                        # Read, written, and as rings.
                        asks = [
                            (native_raw.INFER, native_raw.infer(handle, whole)),
                            (native_raw.INFER, native_raw.infer(handle, one, native_raw.in_region(number, size // 2, 64))),
                            (native_raw.OPEN_CHANNEL, struct.pack("<IIBH", 64, 4096, 1, number)),
                        ]
                        for kind, body in asks:
                            peer.socket.sendall(native_raw.frame(kind, 9, body))
                            for descriptor in peer.receive()[2]:
                                os.close(descriptor)
                            yield
                    region.memory.close()
                    # Most are forgotten already.
                    with contextlib.suppress(ConnectionError):
                        peer.close_region(number)
        # Still there, while the group is looked at.
        time.sleep(1)
    finally:
        for file in kept:
            os.close(file)


def system_kept(path, end):
    """Files of the extension system_shared_memory, each for outputs, that stay when they are unregistered: by name, or without a name and
    mapped, or as a path that can be opened again."""
    size, kept = 1 * MIB, []

    def call(verb, rest, text, data=b""):
        text = json.dumps(text).encode()
        try:
            connection.request(verb, rest, text + data, {"Inference-Header-Content-Length": len(text)} if data else {})
            answer = connection.getresponse()
            return answer.status, answer.read()
        except (OSError, http.client.HTTPException) as error:
            # It is cut off where a body is refused unread, and connects anew with the next call.
            connection.close()
            return 0, error

    with contextlib.closing(HttpOverUnix(path)) as connection, contextlib.ExitStack() as names:
        while len(kept) < 400 and time.monotonic() < end:
            name = f"diolkos-kept-{os.getpid()}-{len(kept)}"
            file = os.open(f"/dev/shm/{name}", os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
            kept.append(file)
            names.callback(Path(f"/dev/shm/{name}").unlink, missing_ok=True)
            os.ftruncate(file, size)
            region = f"/v2/systemsharedmemory/region/{name}"
            status, _ = call("POST", f"{region}/register", {"key": f"/{name}", "offset": 0, "byte_size": size})
            if status == 200:
                place = {"shared_memory_region": name, "shared_memory_byte_size": size}
                whole = {"name": "data", "shape": [size], "datatype": "UINT8", "parameters": {"binary_data_size": size}}
                request = {"inputs": [whole], "outputs": [{"name": "data", "parameters": place}]}
                if call("POST", "/v2/models/echo/infer", request, bytes(size))[0] == 200:
                    yield
                call("POST", f"{region}/unregister", {})
            if len(kept) % 3:
                os.unlink(f"/dev/shm/{name}")
            if len(kept) % 3 == 2:
                kept[-1] = os.open(f"/proc/self/fd/{file}", os.O_PATH)
                os.close(file)
        # Still there, while the group is looked at.
        time.sleep(1.5)
        for file in kept:
            os.close(file)


ATTACKS = [
    held_bodies,
    bombs,
    numbers,
    answers,
    headers,
    streams,
    native_bodies,
    native_messages,
    native_answers,
    native_parameters,
    native_rings,
    native_regions,
    native_kept,
    system_kept,
]


def attackers(daemon, attack, seconds, done):
    return [
        FORK.Process(target=until, args=(seconds, str(daemon.folder / f"{name}.sock"), attack, done), daemon=True)
        for name in "ab"
    ]


class Watch:
    """The most that was seen."""

    def __init__(self, daemon, group):
        self.daemon, self.group, self.ended = daemon, group, threading.Event()
        self.most = self.shared = 0
        self.thread = threading.Thread(target=self.look, daemon=True)

    def look(self):
        while not self.ended.wait(0.05):
            try:
                self.most = max(self.most, self.daemon.resident_bytes())
                self.shared = max(self.shared, self.group.shared_bytes())
            except (OSError, RuntimeError):
                return

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.ended.set()
        self.thread.join()


def mebibytes(count):
    return f"{count / MIB:.0f} MiB"


def stays_within(daemon, group, attacks, seconds, base):
    done = [FORK.Value("Q") for _ in attacks]
    processes = [
        process for attack, count in zip(attacks, done) for process in attackers(daemon, attack, seconds, count)
    ]
    with Watch(daemon, group) as watch:
        for process in processes:
            process.start()
        for process in processes:
            process.join()
    if not daemon.alive() or group.kills():
        raise AssertionError(f"the daemon took too much: {mebibytes(watch.most)} were seen; {daemon.log_tail()}")
    may_be = 2 * SYSTEM_MEMORY if system_kept in attacks else 0
    if watch.shared > may_be + MIB:
        raise AssertionError(f"{mebibytes(watch.shared)} of clients' memory are counted to the daemon")
    status, _, body = daemon.get("/v2/models/echo")
    if status != 200:
        raise AssertionError(f"{status} {body[:200]!r}")
    # An attack that did nothing would prove nothing. Beside all others one may come to nothing.
    if len(attacks) == 1 and not done[0].value:
        raise AssertionError("it was never carried out")
    if wrong := [process.exitcode for process in processes if process.exitcode]:
        raise AssertionError(f"{len(wrong)} attackers ended with {wrong[0]}")
    counts = f" ({done[0].value} times)" if len(attacks) == 1 else ""
    return f"{mebibytes(watch.most - base)} over {mebibytes(base)} at most{counts}"


def gives_back(daemon, base):
    """What the attacks took is given back once they are over."""
    end = time.monotonic() + 60
    while (resident := daemon.resident_bytes()) > base + 64 * MIB:
        if time.monotonic() > end:
            raise AssertionError(f"{mebibytes(resident)} after {mebibytes(base)} at the start")
        time.sleep(0.5)
    metrics = daemon.get("/metrics")[2].decode()
    says(metrics, "diolkos_body_memory_bytes 0\n", "diolkos_request_memory_bytes 0\n")
    return mebibytes(resident)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=SECONDS)
    arguments = parser.parse_args()
    checks = Checks()
    raise_descriptor_limit()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        group = Group()
    except Skip as skip:
        checks.run("memory", lambda: (_ for _ in ()).throw(skip))
        return checks.finish()
    try:
        with Limited(group, SETTINGS) as daemon:
            base = daemon.resident_bytes()
            limit = 2 * REQUESTS_MEMORY + 2 * SYSTEM_MEMORY + CONNECTIONS * CONNECTION_BYTES + KEPT_BYTES
            group.set_limit(limit)
            print(f"limit {mebibytes(limit)}")
            each = arguments.seconds / (len(ATTACKS) + 1)
            for attack in ATTACKS:
                name = attack.__name__.replace("_", " ")
                checks.run(f"memory: {name}", stays_within, daemon, group, [attack], each, base)
            checks.run("memory: all together", stays_within, daemon, group, ATTACKS, each, base)
            checks.run("memory: gives it back", gives_back, daemon, base)
            print(f"peak of the group {mebibytes(group.peak_bytes())}")
    except Skip as skip:
        checks.run("memory", lambda: (_ for _ in ()).throw(skip))
    finally:
        group.remove()
    return checks.finish()


if __name__ == "__main__":
    sys.exit(main())
