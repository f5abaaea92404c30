# SPDX-License-Identifier: Apache-2.0
"""Hostile clients against a daemon with small limits, while a good client's requests all succeed.

Each check sends something that a mistaken or malicious client might, and looks at the answer; all the
while a good client on another connection asks for answers and checks each. A refusal must be a clear
4xx (or 503 where the limit is the server's), and nobody else may notice.
"""

import contextlib
import gzip
import http.client
import json
import multiprocessing
import os
import shutil
import socket
import struct
import sys
import tempfile
import time
import zlib
from pathlib import Path

import numpy as np

from harness import AFFINE, Checks, Daemon, raise_descriptor_limit, same, says

CONNECTIONS_MAX = 32
BODY_BYTES_MAX = 1 << 20
SETTINGS = f"""
[limits]
connections_max = {CONNECTIONS_MAX}
body_bytes_max = "1MiB"
header_timeout = "1s"
body_timeout = "2s"
idle_timeout = "60s"
"""
# How long each attack goes on at least. The longer, the more its neighbour's latencies say.
ATTACK_SECONDS = float(os.environ.get("DIOLKOS_ATTACK_SECONDS", "0.5"))
# Ends a check that would otherwise wait for an answer that never comes.
PATIENCE = 60
FORK = multiprocessing.get_context("fork")
INFER = "/v2/models/affine/infer"
REQUEST = json.dumps({"inputs": [{"name": "x", "shape": [1, 4], "datatype": "FP32", "data": [1, 2, 3, 4]}]}).encode()
ANSWER = [3.0, 5.0, 7.0, 9.0]


class GoodClient:
    """Keeps asking on a connection of its own and checks every answer. A process of its own, so that what an
    attack takes of this interpreter does not show as the daemon's latency."""

    def __init__(self, daemon):
        self.ended = FORK.Event()
        self.told, tell = FORK.Pipe(duplex=False)
        self.process = FORK.Process(target=keep_asking, args=(daemon.port, self.ended, tell), daemon=True)
        self.process.start()
        # Its first answer pays for starting a process and a connection; the attack begins after it.
        if not self.told.poll(PATIENCE) or self.told.recv() != "ready":
            self.process.kill()
            raise AssertionError("the good client got no answer before the attack began")

    def finish(self):
        """How long each answer took, in seconds."""
        self.ended.set()
        if not self.told.poll(PATIENCE):
            self.process.kill()
            raise AssertionError("the good client still waits for an answer")
        latencies, problems = self.told.recv()
        self.process.join()
        if problems:
            raise AssertionError(f"{len(problems)} of its requests failed, first: {problems[0]}")
        if not latencies:
            raise AssertionError("it got no answer at all")
        return latencies


def keep_asking(port, ended, tell):
    latencies, problems, connection, ready = [], [], None, False
    # Once at least, however short the attack.
    while not (latencies or problems) or not ended.is_set():
        try:
            connection = connection or http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
            asked = time.perf_counter()
            connection.request("POST", INFER, REQUEST)
            response = connection.getresponse()
            body = response.read()
            latencies.append(time.perf_counter() - asked)
            if response.status != 200 or json.loads(body)["outputs"][0]["data"] != ANSWER:
                problems.append(f"{response.status} {body[:200]!r}")
        except Exception as error:  # noqa: BLE001 - any failure of the good client is the finding
            problems.append(f"{type(error).__name__}: {error}")
            connection = None
        if not ready:
            ready = True
            latencies.clear()
            tell.send("ready")
    tell.send((latencies, problems))


def alone(daemon, seconds=2):
    """The latencies of a good client that has the daemon to itself."""
    good = GoodClient(daemon)
    time.sleep(seconds)
    return good.finish()


def crowded(daemon):
    """The same beside a process that takes a whole core and leaves the daemon alone: what any busy neighbour
    on the machine costs, and an attacker is one."""
    neighbour = FORK.Process(target=spin, daemon=True)
    neighbour.start()
    try:
        return alone(daemon)
    finally:
        neighbour.kill()
        neighbour.join()


def spin():
    while True:
        pass


def attack(check, daemon):
    """The attack again and again until a good client has had the time to notice, if there is anything to notice."""
    until = time.monotonic() + ATTACK_SECONDS
    note = check(daemon)
    while time.monotonic() < until:
        check(daemon)
    return note


def beside(good, calm, busy):
    """How a good client fared, next to its own latencies without an attack: on a calm machine, and beside a
    neighbour that only takes a core. Told and never judged: on a shared machine how long something takes
    proves nothing."""
    latencies = good.finish()
    told = ", ".join(
        f"{name} {quantile(latencies, q) * 1e6:.0f} µs"
        f" ({quantile(latencies, q) / quantile(calm, q):.1f} x calm, {quantile(latencies, q) / quantile(busy, q):.1f} x crowded)"
        for name, q in (("median", 0.5), ("p99", 0.99))
    )
    return f"{len(latencies)} answers, each right; {told}"


def quantile(values, q):
    return sorted(values)[min(int(len(values) * q), len(values) - 1)]


class Raw:
    """A socket that says whatever we like."""

    def __init__(self, daemon):
        self.socket = socket.create_connection(("127.0.0.1", daemon.port), timeout=PATIENCE)

    def send(self, data):
        self.socket.sendall(data)
        return self

    def half_close(self):
        """No more from us. The server may have hung up already, which is an answer too."""
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_WR)

    def answer(self):
        """Status and body of one HTTP/1.1 answer."""
        response = http.client.HTTPResponse(self.socket)
        response.begin()
        return response.status, response.read()

    def until_closed(self):
        """Everything until the server closes. A reset counts as closed: it owes garbage no good-bye."""
        data = b""
        try:
            while part := self.socket.recv(65536):
                data += part
        except ConnectionError:
            pass
        return data

    def close(self):
        self.socket.close()


@contextlib.contextmanager
def raw(daemon, data=b""):
    client = Raw(daemon)
    try:
        yield client.send(data)
    finally:
        client.close()


def post(daemon, body, headers=None, path=INFER):
    status, _, answer = daemon.request("POST", path, body, headers, PATIENCE)
    return status, answer


def refused(result, statuses, *words):
    status, body = result
    if status not in statuses:
        raise AssertionError(f"status {status}, expected one of {statuses}: {body[:300]!r}")
    says(json.loads(body)["error"], *words)
    return f"{status}: {json.loads(body)['error'][:120]}"


def head(length, path=INFER):
    return f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n".encode()


# Bodies.


def huge_content_length(daemon):
    for length in (BODY_BYTES_MAX + 1, 2**40, 2**63 - 1):
        with raw(daemon, head(length)) as client:
            note = refused(client.answer(), (413,), "body")
    return note


def absurd_content_length(daemon):
    for length in ("99999999999999999999999999", "-1", "0x10", "1, 2"):
        with raw(daemon, head(length)) as client:
            status = client.until_closed()[:12]
            same(status, b"HTTP/1.1 400", f"the answer to Content-Length {length}")


def a_body_over_the_limit(daemon):
    """The refusal comes before the body has arrived, and must not be lost to a reset while we still send."""
    body = b" " * (BODY_BYTES_MAX + 1) + REQUEST
    for _ in range(20):
        with raw(daemon) as client:
            with contextlib.suppress(ConnectionError):
                client.send(head(len(body)) + body)
            note = refused(client.answer(), (413,), "limits.body_bytes_max")
    return note


def an_endless_chunked_body(daemon):
    start = f"POST {INFER} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
    chunk = b"10000\r\n" + b" " * 0x10000 + b"\r\n"
    with raw(daemon, start) as client:
        try:
            for _ in range(4 * BODY_BYTES_MAX // 0x10000):
                client.send(chunk)
        except ConnectionError:
            pass
        answer = client.until_closed()
        # The kernel may drop the answer when the rest of what we sent is thrown away.
        if answer:
            says(answer[:60].decode(), "413")


def a_truncated_body(daemon):
    for cut in (0, 1, len(REQUEST) // 2):
        with raw(daemon, head(len(REQUEST)) + REQUEST[:cut]) as client:
            client.half_close()
            answer = client.until_closed()
            assert b" 200 " not in answer[:20], answer[:200]


def a_truncated_binary_body(daemon):
    def call(size, given, shape=(1, 4)):
        header = {"name": "x", "shape": list(shape), "datatype": "FP32", "parameters": {"binary_data_size": size}}
        header = json.dumps({"inputs": [header]}).encode()
        return post(daemon, header + b"\0" * given, {"Inference-Header-Content-Length": str(len(header))})

    refused(call(16, 15), (400,), "x", "16", "15")
    refused(call(16, 17), (400,), "1")
    refused(call(12, 12), (400,), "x", "16", "12")
    refused(call(2**64 - 1, 16), (400,), "x")
    status, body = post(daemon, REQUEST, {"Inference-Header-Content-Length": str(len(REQUEST) + 1)})
    return refused((status, body), (400,), str(len(REQUEST) + 1), str(len(REQUEST)))


def a_shape_whose_product_overflows(daemon):
    for shape in ([2**32, 2**32], [2**62, 4], [2**63 - 1] * 8, [-1, 4], [1] * 100_000):
        body = {"inputs": [{"name": "x", "shape": shape, "datatype": "FP32", "data": [1]}]}
        note = refused(post(daemon, json.dumps(body).encode()), (400, 413), "x")
    return note


# Bombs.


def json_depth(daemon):
    for depth in (100, 1_000, 400_000):
        nested = b"[" * depth + b"1" + b"]" * depth
        body = b'{"inputs":[{"name":"x","shape":[1,4],"datatype":"FP32","data":' + nested + b"}]}"
        refused(post(daemon, body), (400,))
        refused(post(daemon, b'{"junk":' + nested + b"}"), (400,))
        refused(post(daemon, b'{"a":' * min(depth, 100_000) + b"1" + b"}" * min(depth, 100_000)), (400,))


def json_bombs(daemon):
    room = BODY_BYTES_MAX - 200
    many = b'{"inputs":[' + b",".join([b"{}"] * (room // 3)) + b"]}"
    objects = b'{"inputs":[],"outputs":[' + b",".join([b'{"name":"y"}'] * (room // 13)) + b"]}"
    keys = b'{"parameters":{' + b",".join(b'"%d":1' % index for index in range(room // 12)) + b'},"inputs":[]}'
    values = b'{"inputs":[{"name":"x","shape":[1,4],"datatype":"FP32","data":[' + b"1," * (room // 2) + b"1]}]}"
    name = b'{"inputs":[{"name":"' + b"x" * room + b'","shape":[1,4],"datatype":"FP32","data":[1]}]}'
    number = b'{"inputs":[{"name":"x","shape":[1,4],"datatype":"FP32","data":[' + b"9" * room + b"]}]}"
    for bomb in (many, objects, keys, values, name, number):
        assert len(bomb) <= BODY_BYTES_MAX, len(bomb)
        status, body = post(daemon, bomb)
        note = refused((status, body), (400, 413))
        assert len(body) < 4096, f"the refusal has {len(body)} bytes"
    return note


def junk_json(daemon):
    for body in (b"", b"{", b"null", b"[]", b"\xff\xfe", b'{"inputs": 7}', b'{"inputs":[{"name":"x"}]}', b"NaN", b"\0" * 99):
        refused(post(daemon, body), (400,))


def compression_bombs(daemon):
    before = daemon.resident_bytes()
    zeros = b" " * (256 << 20)
    for encoding, body in (("gzip", gzip.compress(zeros, 9)), ("deflate", zlib.compress(zeros, 9))):
        assert len(body) < BODY_BYTES_MAX, "the bomb must pass the limit as it is sent"
        note = refused(post(daemon, body, {"Content-Encoding": encoding}), (413,))
    grown = daemon.resident_bytes() - before
    # 256 MiB inflated; the limit allows 1 MiB of it. The rest of the room is the allocator's, which takes memory from
    # the system by 32 MiB and keeps it for a while.
    assert grown < 96 << 20, f"the daemon grew by {grown >> 20} MiB"
    return f"{note}; the daemon grew by {max(grown, 0) >> 10} KiB"


def broken_compression(daemon):
    for encoding in ("gzip", "deflate"):
        refused(post(daemon, b"this is not compressed", {"Content-Encoding": encoding}), (400,))
    whole = gzip.compress(REQUEST)
    refused(post(daemon, whole[:-9], {"Content-Encoding": "gzip"}), (400,))
    return refused(post(daemon, REQUEST, {"Content-Encoding": "brotli-ish"}), (400, 415))


# The wire.


def garbage_on_the_port(daemon):
    random = np.random.default_rng(7)
    for length in (1, 10, 1000, 100_000):
        with raw(daemon) as client:
            with contextlib.suppress(ConnectionError):
                client.send(random.bytes(length))
                client.half_close()
            assert b" 200 " not in client.until_closed()[:20]
    tls_hello = bytes.fromhex("16030100c8010000c40303") + random.bytes(193)
    with raw(daemon, tls_hello) as client:
        client.half_close()
        assert b" 200 " not in client.until_closed()[:20]


def http2_garbage(daemon):
    preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
    random = np.random.default_rng(8)

    def frame(kind, flags, stream, payload=b"", length=None):
        length = len(payload) if length is None else length
        return struct.pack(">I", length)[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload

    settings = frame(4, 0, 0)
    attacks = [
        random.bytes(5000),
        preface + random.bytes(5000),
        preface + settings + frame(1, 4, 1, random.bytes(200)),  # headers that are no HPACK
        preface + settings + frame(0, 1, 1, b"data of no stream"),
        preface + settings + frame(8, 0, 0, struct.pack(">I", 0)),  # a window update by nothing
        preface + settings + frame(9, 0, 1, b"continuation of nothing"),
        preface + settings + frame(0, 0, 1, b"", length=2**24 - 1),  # a frame larger than agreed
        preface + settings + frame(6, 0, 0, b"short"),  # a ping of the wrong size
        preface + b"".join(frame(4, 0, 0, struct.pack(">HI", 3, n)) for n in range(20_000)),  # settings flood
        preface + settings + b"".join(frame(6, 0, 0, struct.pack(">Q", n)) for n in range(20_000)),  # ping flood
    ]
    for attack in attacks:
        with raw(daemon) as client:
            with contextlib.suppress(ConnectionError):
                client.send(attack)
                client.half_close()
            client.until_closed()


def http2_rapid_reset(daemon):
    """Opens streams and resets each at once: the server must hang up or bear it, not work for it."""
    headers = bytes([0x83, 0x86, 0x84]) + b"\x01\x01x"  # POST http / and authority `x`, literally
    with raw(daemon, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0") as client:
        try:
            for stream in range(1, 40_001, 2):
                opened = struct.pack(">I", len(headers))[1:] + bytes([1, 4]) + struct.pack(">I", stream) + headers
                reset = b"\0\0\4\3\0" + struct.pack(">I", stream) + struct.pack(">I", 8)
                client.send(opened + reset)
            client.half_close()
        except ConnectionError:
            return "the server hung up"
        client.until_closed()


def enormous_headers(daemon):
    lines = [b"X-Junk: " + b"a" * 100_000, b"\r\n".join(b"X-%d: 1" % index for index in range(5000))]
    for line in lines:
        with raw(daemon) as client:
            with contextlib.suppress(ConnectionError):
                client.send(b"GET /v2/health/live HTTP/1.1\r\nHost: x\r\n" + line + b"\r\n\r\n")
            answer = client.until_closed()
            assert not answer or answer[:12] in (b"HTTP/1.1 431", b"HTTP/1.1 400"), answer[:100]


# Slowness.


def slow_loris_in_the_header(daemon):
    clients = [Raw(daemon) for _ in range(8)]
    try:
        begun = time.monotonic()
        open_ones = dict(enumerate(clients))
        answers = {}
        for index, client in open_ones.items():
            client.socket.settimeout(0.1)
            client.send(b"GET /v2/health/live HTTP/1.1\r\n")
        while len(answers) < len(clients) and time.monotonic() < begun + PATIENCE:
            for index, client in open_ones.items():
                if index in answers:
                    continue
                try:
                    client.send(b"X: 1\r\n")
                    answers[index] = client.socket.recv(4096)
                except TimeoutError:
                    pass
                except ConnectionError:
                    answers[index] = b""
        same(len(answers), len(clients), "how many were hung up on")
        assert all(not answer or b" 408 " in answer for answer in answers.values()), answers
    finally:
        for client in clients:
            client.close()


def slow_loris_in_the_body(daemon):
    with raw(daemon, head(100_000)) as client:
        begun = time.monotonic()
        client.socket.settimeout(0.1)
        while time.monotonic() < begun + PATIENCE:
            try:
                client.send(b" ")
                answer = client.socket.recv(4096)
            except TimeoutError:
                continue
            except ConnectionError:
                return "hung up"
            assert b" 408 " in answer[:20] or not answer, answer[:200]
            return answer[:12].decode() or "hung up"
    raise AssertionError(f"a byte in 100 ms is still borne after {PATIENCE} s")


def a_client_that_does_not_read(daemon):
    """Asks for megabytes and never reads them. It must not hold the daemon up; that is the good client's part."""
    data = np.zeros(200_000, np.float32)
    header = {
        "inputs": [
            {"name": "data", "shape": [200_000], "datatype": "FP32", "parameters": {"binary_data_size": data.nbytes}}
        ],
        "parameters": {"binary_data_output": True},
    }
    header = json.dumps(header).encode()
    request = (
        f"POST /v2/models/echo/infer HTTP/1.1\r\nHost: x\r\nInference-Header-Content-Length: {len(header)}\r\n"
        f"Content-Length: {len(header) + data.nbytes}\r\n\r\n"
    ).encode()
    with raw(daemon) as client:
        client.socket.settimeout(1)
        with contextlib.suppress(TimeoutError, ConnectionError):
            for _ in range(50):
                client.send(request + header + data.tobytes())
        assert daemon.is_ready(), "the daemon answers nobody"


# Too many.


def busy_connection(daemon):
    """A connection in the middle of a request: the server has said that it waits for the body."""
    client = Raw(daemon)
    expecting = head(len(REQUEST)).replace(b"\r\n\r\n", b"\r\nExpect: 100-continue\r\n\r\n")
    with contextlib.suppress(ConnectionError):
        client.send(expecting)
    return client, client.socket.recv(4096)


def more_idle_connections_than_the_limit(daemon):
    clients = []
    try:
        for _ in range(3 * CONNECTIONS_MAX):
            client = Raw(daemon)
            clients.append(client)
            client.send(b"GET /v2/health/live HTTP/1.1\r\nHost: x\r\n\r\n")
            same(client.answer()[0], 200, f"the status for connection {len(clients)}")
    finally:
        for client in clients:
            client.close()
    return f"{len(clients)} connections, limit {CONNECTIONS_MAX}: idle ones make room"


def more_busy_connections_than_the_limit(daemon):
    """Those over the limit get a clear 503; those that were let in still get their answers."""
    busy, turned_away = [], []
    try:
        for _ in range(CONNECTIONS_MAX):
            client, answer = busy_connection(daemon)
            busy.append(client)
            says(answer.decode(), "100 Continue")
        for _ in range(CONNECTIONS_MAX):
            client, answer = busy_connection(daemon)
            turned_away.append(client)
            status, _, body = answer.partition(b"\r\n\r\n")
            refused((int(status.split()[1]), body or client.until_closed()), (503,), "connections_max")
            says(status.decode().lower(), "retry-after")
        for client in busy:
            client.send(REQUEST)
            status, body = client.answer()
            same((status, json.loads(body)["outputs"][0]["data"]), (200, ANSWER), "the answer to one that was let in")
    finally:
        for client in busy + turned_away:
            client.close()
    return f"{len(busy)} served, {len(turned_away)} refused"


def clients_that_vanish(daemon):
    """As killed processes do: their connections are reset in the middle of a request."""
    for _ in range(12):
        # Few enough at once that there is room for everybody.
        for _ in range(CONNECTIONS_MAX // 2):
            with raw(daemon, head(len(REQUEST)) + REQUEST) as client:
                # Closing with this option and without a lingering time resets the connection.
                client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        patience = time.monotonic() + PATIENCE
        while (connections := open_connections(daemon)) > 2:
            assert time.monotonic() < patience, f"{connections} connections are still open"


def open_connections(daemon):
    """Two of them are the good client's and our own."""
    for line in daemon.get("/metrics")[2].decode().splitlines():
        if line.startswith('diolkos_connections_open{transport="tcp"}'):
            return float(line.split()[-1])
    raise AssertionError("/metrics has no diolkos_connections_open")


CHECKS = [
    huge_content_length,
    absurd_content_length,
    a_body_over_the_limit,
    an_endless_chunked_body,
    a_truncated_body,
    a_truncated_binary_body,
    a_shape_whose_product_overflows,
    json_depth,
    json_bombs,
    junk_json,
    compression_bombs,
    broken_compression,
    garbage_on_the_port,
    http2_garbage,
    http2_rapid_reset,
    enormous_headers,
    slow_loris_in_the_header,
    slow_loris_in_the_body,
    a_client_that_does_not_read,
    more_idle_connections_than_the_limit,
    more_busy_connections_than_the_limit,
    clients_that_vanish,
]


# Model files.


def bad_model_files(checks):
    """One daemon with good and bad models side by side: the bad ones say why and the good one serves."""
    folder = Path(tempfile.mkdtemp(prefix="diolkos-bad-models-"))
    good = AFFINE.read_bytes()
    bad = {
        "truncated": good[: len(good) // 2],
        "empty": b"",
        "text": b"this is not a model",
        "noise": np.random.default_rng(9).bytes(100_000),
        # A tensor of 2^62 elements, an inner message longer than the file, lengths without end.
        "hostile_lengths": b"\x3a\xff\xff\xff\xff\xff\xff\xff\xff\x7f" + good,
        "hostile_nesting": b"\x3a\x7f" * 5000,
    }
    try:
        for name, data in {"good": good, **bad}.items():
            (folder / name / "1").mkdir(parents=True)
            (folder / name / "1/model.onnx").write_bytes(data)
        with Daemon("[models]\nclient_load = true\n", models=[folder], log_name="bad-models") as daemon:
            status, _, body = daemon.request("POST", "/v2/repository/index", b"{}")
            index = {entry["name"]: entry for entry in json.loads(body)}

            def judged(name):
                same(index[name]["state"], "UNAVAILABLE", "state")
                assert index[name]["reason"], index[name]
                return index[name]["reason"][:160]

            def refused_by_name(name):
                status, _, body = daemon.request("POST", f"/v2/models/{name}/infer", REQUEST)
                refused((status, body), (503,), name)
                status, _, body = daemon.request("POST", f"/v2/repository/models/{name}/load", b"{}")
                return refused((status, body), (400, 500, 503), "")

            for name in bad:
                checks.run(f"model file: {name}: the index says why", judged, name)
                checks.run(f"model file: {name}: requests and loads are refused", refused_by_name, name)
            checks.run("model file: the good one beside them serves", good_serves, daemon)
    finally:
        shutil.rmtree(folder)


def good_serves(daemon):
    status, _, body = daemon.request("POST", "/v2/models/good/infer", REQUEST)
    same((status, json.loads(body)["outputs"][0]["data"]), (200, ANSWER), "the answer")
    assert daemon.alive(), "the daemon died"


def main():
    raise_descriptor_limit()
    checks = Checks()
    with Daemon(SETTINGS, files=[AFFINE], log_name="hostile") as daemon:
        calm, busy = alone(daemon), crowded(daemon)
        for check in CHECKS:
            name = f"hostile: {check.__name__.replace('_', ' ')}"
            # When every place is busy, a good client's idle moment is when it loses its own.
            good = None if check is more_busy_connections_than_the_limit else GoodClient(daemon)
            checks.run(name, attack, check, daemon)
            if good:
                checks.run(f"{name}: a good client beside it", beside, good, calm, busy)
            if not daemon.alive():
                print(f"the daemon died: {daemon.log_tail()}")
                break
        checks.run("hostile: the daemon lives and stops cleanly", lambda: same(daemon.stop(), 0, "exit status"))
    bad_model_files(checks)
    return checks.finish()


if __name__ == "__main__":
    sys.exit(main())
