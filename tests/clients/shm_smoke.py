# SPDX-License-Identifier: Apache-2.0
"""Stock tritonclient with `tritonclient.utils.shared_memory`: tensors that cross no socket.

Over HTTP and gRPC on TCP, where the connections of a pool prove nothing but their user, and over gRPC on the
unix socket. run.py starts the daemon; to run this alone: `python shm_smoke.py --tcp HOST:PORT --unix PATH`.
"""

import os
import queue
import sys
from contextlib import contextmanager

import numpy as np
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http
import tritonclient.utils.shared_memory as shm
from tritonclient.utils import InferenceServerException, serialize_byte_tensor

from harness import Checks, near, same, says, smoke_arguments

# Only so that an answer which never comes ends the check instead of hanging it.
ANSWER_SECONDS = 60


class Http:
    """What differs between the two clients."""

    module = triton_http
    codes = {"invalid": "400", "unknown": "404", "not offered": "501"}

    def __init__(self, address):
        self.client = triton_http.InferenceServerClient(address, concurrency=4)

    def regions(self, name=""):
        listed = self.client.get_system_shared_memory_status(name)
        return {region["name"]: (region["key"], region["offset"], region["byte_size"]) for region in listed}

    def cuda_regions(self):
        return self.client.get_cuda_shared_memory_status()

    def infer_many(self, calls):
        """All at once, and so over several connections."""
        pending = [self.client.async_infer("affine", inputs, outputs=outputs) for inputs, outputs in calls]
        for answer in pending:
            answer.get_result()

    @staticmethod
    def parameters(output):
        return output["parameters"]


class Grpc:
    module = triton_grpc
    codes = {
        "invalid": "StatusCode.INVALID_ARGUMENT",
        "unknown": "StatusCode.NOT_FOUND",
        "not offered": "StatusCode.UNIMPLEMENTED",
    }

    def __init__(self, address):
        self.client = triton_grpc.InferenceServerClient(address)

    def regions(self, name=""):
        listed = self.client.get_system_shared_memory_status(name).regions
        return {name: (region.key, region.offset, region.byte_size) for name, region in listed.items()}

    def cuda_regions(self):
        return list(self.client.get_cuda_shared_memory_status().regions)

    def infer_many(self, calls):
        answers = queue.Queue()
        for inputs, outputs in calls:
            self.client.async_infer(
                "affine", inputs, lambda result, error: answers.put(error), outputs=outputs
            )
        for _ in calls:
            if error := answers.get(timeout=ANSWER_SECONDS):
                raise error

    @staticmethod
    def parameters(output):
        kinds = output.parameters.items()
        return {name: getattr(value, value.WhichOneof("parameter_choice")) for name, value in kinds}


class Smoke:
    def __init__(self, label, api, checks):
        self.label = label
        self.api = api
        self.client = api.client
        self.checks = checks

    def all(self):
        for name in [name for name in vars(type(self)) if name.startswith("check_")]:
            self.checks.run(f"shm {self.label} {name[6:].replace('_', ' ')}", getattr(self, name))
            self.client.unregister_system_shared_memory()
        self.client.close()

    # Helpers.

    @contextmanager
    def memory(self, name, bytes, register=True):
        """Shared memory, and a region over all of it with the same name."""
        key = f"/diolkos-{os.getpid()}-{name}"
        handle = shm.create_shared_memory_region(name, key, bytes, create_only=True)
        try:
            if register:
                self.client.register_system_shared_memory(name, key, bytes)
            yield handle, key
        finally:
            shm.destroy_shared_memory_region(handle)

    def input(self, name, array, datatype, region, bytes=None, offset=0):
        tensor = self.api.module.InferInput(name, list(array.shape), datatype)
        tensor.set_shared_memory(region, array.nbytes if bytes is None else bytes, offset)
        return tensor

    def output(self, name, region, bytes, offset=0):
        wanted = self.api.module.InferRequestedOutput(name)
        wanted.set_shared_memory(region, bytes, offset)
        return wanted

    def refused(self, call, kind, *words):
        try:
            result = call()
        except InferenceServerException as error:
            same(error.status(), self.api.codes[kind], f"the status of '{error.message()}'")
            says(error.message(), *words)
            return error.message()
        raise AssertionError(f"it was answered: {result}")

    # Checks.

    def check_register_status_unregister(self):
        metadata = self.client.get_server_metadata()
        names = metadata["extensions"] if isinstance(metadata, dict) else metadata.extensions
        assert "system_shared_memory" in names, names
        same(self.api.regions(), {}, "regions at first")
        with self.memory("a", 64) as (_, key):
            self.client.register_system_shared_memory("b", key, 16, offset=32)
            same(self.api.regions(), {"a": (key, 0, 64), "b": (key, 32, 16)}, "regions")
            same(self.api.regions("b"), {"b": (key, 32, 16)}, "one region")
            self.refused(lambda: self.client.register_system_shared_memory("a", key, 1), "invalid", "a", "already in manager")
            self.client.unregister_system_shared_memory("a")
            self.client.unregister_system_shared_memory("a")
            same(self.api.regions(), {"b": (key, 32, 16)}, "regions without a")
            self.refused(lambda: self.api.regions("a"), "unknown", "'a'")
            self.client.unregister_system_shared_memory()
            same(self.api.regions(), {}, "regions at the end")

    def check_tensors_in_regions(self):
        data = np.arange(8, dtype=np.float32).reshape(2, 4)
        with self.memory("in", 64) as (inside, _), self.memory("out", 256) as (outside, _):
            shm.set_shared_memory_region(inside, [data], offset=16)
            inputs = [self.input("x", data, "FP32", "in", offset=16)]
            result = self.client.infer("affine", inputs, outputs=[self.output("y", "out", 240, 8)])
            near(shm.get_contents_as_numpy(outside, np.float32, (2, 4), offset=8), data * 2 + 1, "y")
            output = result.get_output("y")
            expected = {"shared_memory_region": "out", "shared_memory_offset": 8, "shared_memory_byte_size": 32}
            # Triton's C++ client wants it where an output has parameters.
            if self.api.module is triton_http:
                expected["binary_data_size"] = 0
            same(self.api.parameters(output), expected, "the output's parameters")
            # From a region into the message, and from the message into a region.
            near(self.client.infer("affine", inputs).as_numpy("y"), data * 2 + 1, "y in the message")
            x = self.api.module.InferInput("x", [2, 4], "FP32")
            x.set_data_from_numpy(data + 1)
            self.client.infer("affine", [x], outputs=[self.output("y", "out", 32)])
            near(shm.get_contents_as_numpy(outside, np.float32, (2, 4)), (data + 1) * 2 + 1, "y of the message")

    def check_some_tensors_in_regions_and_others_not(self):
        a, b = np.ones((2, 3), np.float32), np.arange(6, dtype=np.float32).reshape(3, 2)
        with self.memory("b", b.nbytes) as (inside, _):
            shm.set_shared_memory_region(inside, [b])
            first = self.api.module.InferInput("A", [2, 3], "FP32")
            first.set_data_from_numpy(a)
            second = self.input("B", b, "FP32", "b")
            for inputs in ([first, second], [second, first]):
                result = self.client.infer("blas.sgemm", inputs)
                near(result.as_numpy("result"), a @ b, "the product")

    def check_BYTES_in_regions(self):
        data = np.array([b"", b"a\x00b", "Διόλκος".encode()], object)
        packed = serialize_byte_tensor(data)
        bytes = len(packed.item())
        with self.memory("in", bytes) as (inside, _), self.memory("out", 100) as (outside, _):
            shm.set_shared_memory_region(inside, [packed])
            wanted = [self.output("data", "out", 100)]
            self.client.infer("echo", [self.input("data", data, "BYTES", "in", bytes)], outputs=wanted)
            same(shm.get_contents_as_numpy(outside, np.object_, [3]).tolist(), data.tolist(), "strings")

    def check_large_tensors(self):
        data = np.random.default_rng(7).integers(0, 2**32, 8 << 20, np.uint32)
        with self.memory("in", data.nbytes) as (inside, _), self.memory("out", data.nbytes) as (outside, _):
            shm.set_shared_memory_region(inside, [data])
            inputs = [self.input("data", data, "UINT32", "in")]
            self.client.infer("echo", inputs, outputs=[self.output("data", "out", data.nbytes)])
            same(shm.get_contents_as_numpy(outside, np.uint32, data.shape), data, "data")
        return f"{data.nbytes >> 20} MiB each way"

    def check_many_at_once(self):
        count = 64
        data = np.arange(4 * count, dtype=np.float32).reshape(count, 1, 4)
        with self.memory("in", data.nbytes) as (inside, _), self.memory("out", data.nbytes) as (outside, _):
            shm.set_shared_memory_region(inside, [data])
            calls = [
                ([self.input("x", data[index], "FP32", "in", offset=16 * index)], [self.output("y", "out", 16, 16 * index)])
                for index in range(count)
            ]
            self.api.infer_many(calls)
            near(shm.get_contents_as_numpy(outside, np.float32, data.shape), data * 2 + 1, "all of them")

    def check_what_is_wrong_is_said(self):
        data = np.zeros((1, 4), np.float32)
        with self.memory("r", 32) as (_, key):
            register = self.client.register_system_shared_memory
            self.refused(lambda: register("s", "/diolkos-nobody", 8), "invalid", "region `s`", "/diolkos-nobody")
            for wrong in ("", "/", "../etc/passwd", "/a/b", "/.."):
                self.refused(lambda wrong=wrong: register("s", wrong, 8), "invalid", "s")
            self.refused(lambda: register("s", key, 33), "invalid", "33", "32")
            self.refused(lambda: register("s", key, 8, offset=2**64 - 4), "invalid", "18446744073709551612")
            self.refused(lambda: register("s", key, 0), "invalid", "byte_size")
            infer = lambda *inputs, outputs=None: self.client.infer("affine", list(inputs), outputs=outputs)  # noqa: E731
            self.refused(lambda: infer(self.input("x", data, "FP32", "nobody")), "unknown", "x", "nobody")
            self.refused(lambda: infer(self.input("x", data, "FP32", "r", 12)), "invalid", "x", "16", "12")
            self.refused(lambda: infer(self.input("x", data, "FP32", "r", offset=17)), "invalid", "x", "17", "32")
            x = self.input("x", data, "FP32", "r")
            self.refused(lambda: infer(x, outputs=[self.output("y", "r", 12)]), "invalid", "y", "16", "12")
            self.refused(lambda: infer(x, outputs=[self.output("y", "nobody", 16)]), "unknown", "y", "nobody")
            os.truncate(f"/dev/shm{key}", 8)
            self.refused(lambda: infer(x), "invalid", "region `r` has shrunk", "8 bytes now")
            self.refused(lambda: infer(self.input("x", data, "FP32", "r"), outputs=[self.output("y", "r", 16)]), "invalid", "shrunk")
            os.truncate(f"/dev/shm{key}", 32)
            near(infer(x).as_numpy("y"), data * 2 + 1, "y after all of it")

    def check_links_and_pipes_are_nothing(self):
        register = self.client.register_system_shared_memory
        name = f"diolkos-{os.getpid()}-other"
        path = f"/dev/shm/{name}"
        nothing = self.refused(lambda: register("r", name, 8), "invalid", name)
        for make in (lambda: os.symlink("/etc/passwd", path), lambda: os.mkfifo(path), lambda: os.mkdir(path)):
            make()
            try:
                same(self.refused(lambda: register("r", name, 8), "invalid"), nothing, "what is told")
            finally:
                os.rmdir(path) if os.path.isdir(path) else os.unlink(path)
        if os.geteuid() == 0:
            with open(path, "wb") as file:
                file.write(b"theirs..")
            try:
                os.chown(path, 4242, -1)
                same(self.refused(lambda: register("r", name, 8), "invalid"), nothing, "what is told")
            finally:
                os.unlink(path)

    def check_there_is_no_cuda(self):
        self.client.unregister_cuda_shared_memory()
        self.client.unregister_cuda_shared_memory("r")
        same(self.api.cuda_regions(), [], "regions")
        call = lambda: self.client.register_cuda_shared_memory("r", b"AAAA", 0, 8)  # noqa: E731
        if self.api.module is triton_http:
            call = lambda: self.client.register_cuda_shared_memory("r", "AAAA", 0, 8)  # noqa: E731
        self.refused(call, "not offered", "cuda_shared_memory")


def main():
    arguments = smoke_arguments(__doc__.splitlines()[0])
    checks = Checks()
    for label, api in (
        ("http tcp", Http(arguments.tcp)),
        ("grpc tcp", Grpc(arguments.tcp)),
        ("grpc unix", Grpc(f"unix:{arguments.unix}")),
    ):
        Smoke(label, api, checks).all()
    return checks.finish()


if __name__ == "__main__":
    sys.exit(main())
