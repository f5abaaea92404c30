# SPDX-License-Identifier: Apache-2.0
"""The native channel, spoken byte by byte as docs/native-channel.md has it, for attacks that no client library would make."""

import array
import fcntl
import mmap
import os
import socket
import struct

PREFACE = bytes.fromhex("c4494f4c4b4f5300")
HELLO, OPEN_CHANNEL, REGISTER_REGION, CLOSE_REGION, COMMIT_REGION = 0x01, 0x10, 0x11, 0x12, 0x13
OPEN_MODEL, INFER, LIST = 0x20, 0x22, 0x32
CHANNEL_OPENED, MODEL_OPENED, DONE = 0x8010, 0x8020, 0xFFFE
SHARED_MEMORY, EVENT_DESCRIPTORS = 1, 4
UINT8, FP32 = 2, 11
MADV_PAGEOUT = 21
RINGS = 63
F_ADD_SEALS, SEAL_SHRINK, SEAL_GROW, SEAL_FUTURE_WRITE = 1033, 2, 4, 16


def text(value):
    value = value.encode()
    return struct.pack("<H", len(value)) + value


def frame(kind, number, body=b"", payload=0):
    """Header and body; `payload` bytes are to come behind it."""
    return struct.pack("<IHHQQ", len(body), kind, 0, number, payload) + body


def extent(region, offset, length):
    return struct.pack("<HQQ", region, offset, length)


def tensor(index, data_type, shape, place):
    return struct.pack(f"<HBB{len(shape)}Q", index, data_type, len(shape), *shape) + place


def on_stream(length):
    return struct.pack("<BQ", 0, length)


def in_region(region, offset, length):
    return b"\1" + extent(region, offset, length)


def infer(handle, inputs, results=b"\0", params=()):
    """The body of a request for all outputs."""
    body = handle + struct.pack("<BQQ", 1, 0, 0)
    body += struct.pack("<H", len(params)) + b"".join(text(name) + b"\5" + text(value) for name, value in params)
    return body + struct.pack("<H", len(inputs)) + b"".join(inputs) + b"\0" + results


class Region:
    """A memory file whose size is sealed: one hole, until it is filled."""

    def __init__(self, length):
        self.length = length
        self.file = os.memfd_create("region", os.MFD_ALLOW_SEALING)
        os.ftruncate(self.file, length)
        fcntl.fcntl(self.file, F_ADD_SEALS, SEAL_SHRINK | SEAL_GROW)
        self.memory = mmap.mmap(self.file, length)

    def fill(self):
        for at in range(0, self.length, mmap.PAGESIZE):
            self.memory[at] = 0

    def look(self):
        """Makes the pages by reading, so that the kernel may drop them again."""
        for at in range(0, self.length, mmap.PAGESIZE):
            self.memory[at]

    def page_out(self):
        self.memory.madvise(MADV_PAGEOUT)

    def seal(self):
        fcntl.fcntl(self.file, F_ADD_SEALS, SEAL_FUTURE_WRITE)

    def close(self):
        self.memory.close()
        os.close(self.file)


class Peer:
    """One connection."""

    def __init__(self, path):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(10)
        self.socket.connect(path)
        hello = struct.pack("<HHQ", 1, 1, SHARED_MEMORY | EVENT_DESCRIPTORS) + text("raw") + bytes(4) + text("")
        self.socket.sendall(PREFACE + frame(HELLO, 1, hello))
        self.receive()

    def receive(self):
        """Kind and body of the next message, and the descriptors that came with it."""
        head, descriptors = b"", []
        while len(head) < 24:
            data, ancillary, _, _ = self.socket.recvmsg(24 - len(head), socket.CMSG_SPACE(16))
            if not data:
                raise ConnectionError("the daemon hung up")
            head += data
            for _, _, given in ancillary:
                descriptors += array.array("i", given[: len(given) // 4 * 4]).tolist()
        length, kind, _, _, payload = struct.unpack("<IHHQQ", head)
        body = self.exactly(length)
        self.exactly(payload)
        return kind, body, descriptors

    def exactly(self, length):
        data = bytearray()
        while len(data) < length:
            part = self.socket.recv(min(length - len(data), 1 << 20))
            if not part:
                raise ConnectionError("the daemon hung up")
            data += part
        return bytes(data)

    def ask(self, kind, body, expected, descriptors=()):
        head = frame(kind, 2, body)
        if descriptors:
            ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))]
            self.socket.sendmsg([head], ancillary)
        else:
            self.socket.sendall(head)
        kind, body, given = self.receive()
        if kind != expected:
            raise ConnectionError(f"refused: {body[18:]!r}")
        return body, given

    def open(self, name):
        body, _ = self.ask(OPEN_MODEL, text(name) + bytes(8) + text(""), MODEL_OPENED)
        return body[:8]

    def register(self, number, region):
        self.ask(REGISTER_REGION, struct.pack("<HQ", number, region.length), DONE, [region.file])

    def commit(self, number):
        self.ask(COMMIT_REGION, struct.pack("<H", number), DONE)

    def close_region(self, number):
        self.ask(CLOSE_REGION, struct.pack("<H", number), DONE)

    def lend(self, number, length):
        """A region that the daemon may use."""
        region = Region(length)
        region.fill()
        self.register(number, region)
        region.seal()
        self.commit(number)
        return region

    def channel(self, entries, slot_bytes):
        region = self.lend(RINGS, 768 + 192 * entries + entries * slot_bytes)
        ask = struct.pack("<IIBH", entries, slot_bytes, 1, RINGS)
        body, descriptors = self.ask(OPEN_CHANNEL, ask, CHANNEL_OPENED)
        return Channel(region, body, descriptors)

    def close(self):
        self.socket.close()


class Channel:
    """The rings of a connection."""

    def __init__(self, region, opened, descriptors):
        (_, self.requests, self.entries, *_) = struct.unpack_from("<QQIQIQII", opened)
        self.bell, *others = descriptors
        self.region, self.memory = region, region.memory
        for descriptor in others:
            os.close(descriptor)
        self.sent = 0

    def put(self, number, kind, body):
        """A request whose body fits into its entry."""
        at = self.requests + 384 + self.sent % self.entries * 64
        entry = struct.pack("<HHIQ", kind, 2, len(body), number) + body
        self.memory[at : at + 64] = entry.ljust(64, b"\0")
        self.sent += 1
        self.memory[self.requests : self.requests + 4] = struct.pack("<I", self.sent)
        os.write(self.bell, struct.pack("<Q", 1))

    def close(self):
        self.region.close()
        os.close(self.bell)
