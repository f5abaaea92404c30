# SPDX-License-Identifier: Apache-2.0
"""Stock `tritonclient.http` against a running daemon: every call kind that the daemon advertises.

The daemon serves examples/digits/models and tests/data/affine.onnx and lets clients load and unload.
run.py starts it; to run this alone: `python http_smoke.py --tcp HOST:PORT --unix PATH`.
"""

import asyncio
import http.client
import json
import struct
import sys

import ml_dtypes
import numpy as np
import tritonclient.http as triton
import tritonclient.http.aio as triton_aio
from tritonclient.utils import InferenceServerException, deserialize_bytes_tensor

from harness import Checks, digit_images, near, same, says, smoke_arguments

ADVERTISED = {
    "binary_tensor_data",
    "classification",
    "model_configuration",
    "model_repository",
    "parameters",
    "schedule_policy",
    "statistics",
    "system_shared_memory",
}

NUMERIC = {
    "BOOL": np.array([[True, False], [False, True]]),
    "UINT8": np.array([[0, 255], [1, 128]], np.uint8),
    "UINT16": np.array([[0, 65535], [1, 256]], np.uint16),
    "UINT32": np.array([[0, 2**32 - 1], [1, 65536]], np.uint32),
    "UINT64": np.array([[0, 2**64 - 1], [1, 2**53 + 1]], np.uint64),
    "INT8": np.array([[-128, 127], [0, -1]], np.int8),
    "INT16": np.array([[-32768, 32767], [0, -1]], np.int16),
    "INT32": np.array([[-(2**31), 2**31 - 1], [0, -1]], np.int32),
    "INT64": np.array([[-(2**63), 2**63 - 1], [0, -(2**53) - 1]], np.int64),
    "FP16": np.array([[0.5, -65504.0], [6e-8, np.inf]], np.float16),
    "FP32": np.array([[0.1, -3.4e38], [1e-45, np.nan]], np.float32),
    "FP64": np.array([[0.1, -1.7e308], [5e-324, -np.inf]], np.float64),
}
BYTES = np.array([[b"", b"a\x00b"], ["Διόλκος".encode(), b"x" * 300]], object)


def tensor(name, data, datatype, binary=True):
    result = triton.InferInput(name, list(data.shape), datatype)
    result.set_data_from_numpy(data, binary_data=binary)
    return result


def affine_input(rows=2, binary=True):
    data = np.arange(rows * 4, dtype=np.float32).reshape(rows, 4)
    return data, tensor("x", data, "FP32", binary)


def refused(call, status, *words):
    """The call must fail with this HTTP status and a sentence that holds these words."""
    try:
        result = call()
    except InferenceServerException as error:
        same(error.status(), status, f"the status of '{error.message()}'")
        says(error.message(), *words)
        return error.message()
    raise AssertionError(f"it was answered: {result}")


class Smoke:
    def __init__(self, address, checks):
        self.address = address
        self.host, _, port = address.partition(":")
        self.port = int(port)
        self.client = triton.InferenceServerClient(address)
        self.checks = checks

    def all(self):
        names = [name for name in vars(type(self)) if name.startswith("check_")]
        for name in names:
            self.checks.run(f"http {name[6:].replace('_', ' ')}", getattr(self, name))
        for datatype, data in NUMERIC.items():
            for binary in (True, False):
                self.checks.run(f"http echo {datatype} as {'binary' if binary else 'JSON'}", self.echo, datatype, data, binary)
        self.client.close()

    # Health, metadata, configuration, statistics.

    def check_live_and_ready(self):
        same(self.client.is_server_live(), True, "live")
        same(self.client.is_server_ready(), True, "ready")
        same(self.client.is_model_ready("digits"), True, "digits ready")
        same(self.client.is_model_ready("digits", "1"), True, "digits 1 ready")
        same(self.client.is_model_ready("digits", "7"), False, "digits 7 ready")
        same(self.client.is_model_ready("nobody"), False, "nobody ready")

    def check_server_metadata_advertises_what_works(self):
        metadata = self.client.get_server_metadata()
        same(metadata["name"], "diolkos", "name")
        same(set(metadata["extensions"]), ADVERTISED, "extensions")

    def check_model_metadata(self):
        metadata = self.client.get_model_metadata("digits")
        same(metadata["name"], "digits", "name")
        same(metadata["versions"], ["1"], "versions")
        same(metadata["inputs"], [{"name": "image", "datatype": "FP32", "shape": [-1, 1, 8, 8]}], "inputs")
        same(metadata["outputs"], [{"name": "probabilities", "datatype": "FP32", "shape": [-1, 10]}], "outputs")
        same(self.client.get_model_metadata("digits", "1"), metadata, "metadata of version 1")

    def check_model_config(self):
        config = self.client.get_model_config("digits")
        same(config["name"], "digits", "name")
        same(config["max_batch_size"], 64, "max_batch_size")
        same(config["input"][0]["name"], "image", "input")
        same(config["input"][0]["data_type"], "TYPE_FP32", "data_type")
        same([int(dim) for dim in config["input"][0]["dims"]], [1, 8, 8], "dims without the batch")

    def check_statistics_count_requests(self):
        def success():
            (stats,) = self.client.get_inference_statistics("digits")["model_stats"]
            return int(stats["inference_stats"]["success"]["count"]), int(stats["inference_count"])

        requests, images = success()
        data, _ = digit_images()
        self.client.infer("digits", [tensor("image", data[:5], "FP32")])
        same(success(), (requests + 1, images + 5), "successes and images after one request of five")
        all_stats = self.client.get_inference_statistics()["model_stats"]
        assert {"digits", "affine"} <= {stats["name"] for stats in all_stats}, all_stats

    # Repository.

    def check_repository_index(self):
        index = self.client.get_model_repository_index()
        states = {entry["name"]: entry["state"] for entry in index}
        same((states.get("digits"), states.get("affine")), ("READY", "READY"), "states")

    def check_unload_and_load(self):
        self.client.unload_model("affine")
        same(self.client.is_model_ready("affine"), False, "ready after unload")
        _, x = affine_input()
        refused(lambda: self.client.infer("affine", [x]), "503", "affine")
        self.client.load_model("affine")
        same(self.client.is_model_ready("affine"), True, "ready after load")
        data, x = affine_input()
        near(self.client.infer("affine", [x]).as_numpy("y"), data * 2 + 1, "y after load")

    def check_loading_the_unknown_is_refused(self):
        refused(lambda: self.client.load_model("nobody"), "404", "nobody")
        refused(lambda: self.client.unload_model("nobody"), "404", "nobody")

    # Inference.

    def check_digits_are_read(self):
        data, expected = digit_images()
        result = self.client.infer("digits", [tensor("image", data, "FP32")])
        probabilities = result.as_numpy("probabilities")
        same(probabilities.argmax(1).tolist(), [entry["predicted"] for entry in expected], "digits")
        best = np.array([entry["probability"] for entry in expected], np.float32)
        near(probabilities.max(1), best, "probabilities", absolute=2e-5)
        return f"{len(expected)} images"

    def check_json_and_binary_both_ways(self):
        for binary_in in (True, False):
            for binary_out in (True, False):
                data, x = affine_input(binary=binary_in)
                wanted = [triton.InferRequestedOutput("y", binary_data=binary_out)]
                result = self.client.infer("affine", [x], outputs=wanted)
                same(result.as_numpy("y"), data * 2 + 1, f"y (binary in {binary_in}, out {binary_out})")
                parameters = result.get_output("y").get("parameters", {})
                same("binary_data_size" in parameters, binary_out, "whether the output is binary")

    def check_bodies_may_be_compressed_both_ways(self):
        for compression in ("gzip", "deflate"):
            for binary in (True, False):
                data, x = affine_input(rows=500, binary=binary)
                result = self.client.infer(
                    "affine",
                    [x],
                    request_compression_algorithm=compression,
                    response_compression_algorithm=compression,
                )
                same(result.as_numpy("y"), data * 2 + 1, f"y ({compression})")

    def check_request_id_model_and_version_come_back(self):
        data, x = affine_input()
        response = self.client.infer("affine", [x], model_version="1", request_id="no. 7").get_response()
        same((response["id"], response["model_name"], response["model_version"]), ("no. 7", "affine", "1"), "response")

    def check_classification_names_the_labels(self):
        data, expected = digit_images()
        wanted = [triton.InferRequestedOutput("probabilities", class_count=3)]
        result = self.client.infer("digits", [tensor("image", data[:4], "FP32")], outputs=wanted)
        classes = result.as_numpy("probabilities")
        same(classes.shape, (4, 3), "shape")
        for row, entry in zip(classes, expected):
            value, index, label = row[0].decode().split(":", 2)
            same(int(index), entry["predicted"], "index")
            assert label, row
            assert abs(float(value) - entry["probability"]) < 2e-5, (row, entry)
        wanted = [triton.InferRequestedOutput("probabilities", binary_data=False, class_count=1)]
        result = self.client.infer("digits", [tensor("image", data[:2], "FP32", binary=False)], outputs=wanted)
        same(result.as_numpy("probabilities").shape, (2, 1), "shape as JSON")

    def check_priority_timeout_and_parameters(self):
        for priority in (0, 1, 2, 99):
            data, x = affine_input()
            result = self.client.infer(
                "affine", [x], priority=priority, timeout=60_000_000, parameters={"colour": "blue", "depth": 3}
            )
            same(result.as_numpy("y"), data * 2 + 1, f"y with priority {priority}")

    def check_outputs_may_be_chosen(self):
        data = np.array([[3, -1], [7, 0]], np.int32)
        result = self.client.infer("minmax", [tensor("data", data, "INT32")])
        same((int(result.as_numpy("min")), int(result.as_numpy("max"))), (-1, 7), "min and max")
        wanted = [triton.InferRequestedOutput("max")]
        result = self.client.infer("minmax", [tensor("data", data, "INT32")], outputs=wanted)
        same([output["name"] for output in result.get_response()["outputs"]], ["max"], "outputs")

    def check_sgemm(self):
        a = np.arange(6, dtype=np.float32).reshape(2, 3)
        b = np.arange(12, dtype=np.float32).reshape(3, 4)
        names = [entry["name"] for entry in self.client.get_model_metadata("blas.sgemm")["inputs"]]
        result = self.client.infer("blas.sgemm", [tensor(names[0], a, "FP32"), tensor(names[1], b, "FP32")])
        output = result.get_response()["outputs"][0]["name"]
        near(result.as_numpy(output), a @ b, output)

    def check_empty_and_nan_tensors(self):
        empty = np.zeros((0, 4), np.float32)
        same(self.client.infer("echo", [tensor("data", empty, "FP32")]).as_numpy("data"), empty, "empty echo")
        nan = np.full((1, 4), np.nan, np.float32)
        same(self.client.infer("affine", [tensor("x", nan, "FP32")]).as_numpy("y"), nan, "y of NaN")

    def check_echo_BYTES_as_binary_and_JSON(self):
        result = self.client.infer("echo", [tensor("data", BYTES, "BYTES")])
        same(result.as_numpy("data").tolist(), BYTES.tolist(), "binary BYTES")
        text = np.array(["", "α", "two words"], object)
        wanted = [triton.InferRequestedOutput("data", binary_data=False)]
        result = self.client.infer("echo", [tensor("data", text, "BYTES", binary=False)], outputs=wanted)
        got = [value if isinstance(value, str) else value.decode() for value in result.as_numpy("data").tolist()]
        same(got, text.tolist(), "JSON BYTES")

    def check_echo_BF16(self):
        data = np.array([[0.5, -2.0, 3.0e38, np.inf]], ml_dtypes.bfloat16)
        result = self.client.infer("echo", [tensor("data", data, "BF16")])
        got = np.asarray(result.as_numpy("data"))
        same(got.astype(np.float32), data.astype(np.float32), "BF16")

    def check_async_infer(self):
        client = triton.InferenceServerClient(self.address, concurrency=8)
        try:
            calls = []
            for index in range(64):
                data = np.full((1, 4), index, np.float32)
                calls.append((data, client.async_infer("affine", [tensor("x", data, "FP32")], request_id=str(index))))
            for index, (data, call) in enumerate(calls):
                result = call.get_result()
                same(result.as_numpy("y"), data * 2 + 1, f"y of call {index}")
                same(result.get_response()["id"], str(index), "id")
        finally:
            client.close()

    def check_asyncio_client(self):
        async def calls():
            async with triton_aio.InferenceServerClient(self.address) as client:
                same(await client.is_server_live(), True, "live")
                same(await client.is_model_ready("digits"), True, "ready")
                same((await client.get_model_metadata("affine"))["name"], "affine", "name")
                same((await client.get_model_config("digits"))["max_batch_size"], 64, "max_batch_size")
                assert (await client.get_inference_statistics("affine"))["model_stats"]
                assert await client.get_model_repository_index()

                async def one(index):
                    data = np.full((1, 4), index, np.float32)
                    result = await client.infer("affine", [tensor("x", data, "FP32", binary=index % 2 == 0)])
                    same(result.as_numpy("y"), data * 2 + 1, f"y of call {index}")

                await asyncio.gather(*(one(index) for index in range(64)))
                try:
                    await client.infer("nobody", [affine_input()[1]])
                except InferenceServerException as error:
                    says(error.message(), "nobody")
                else:
                    raise AssertionError("an unknown model was answered")

        asyncio.run(calls())

    def check_trace_context_comes_back(self):
        trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
        _, headers, _ = self.raw("GET", "/v2/health/live", headers={"traceparent": trace})
        got = headers.get("traceparent", "")
        same(got.split("-")[1:2], [trace.split("-")[1]], f"the trace id in '{got}'")

    def check_raw_binary_form(self):
        data = np.arange(64, dtype=np.float32)
        headers = {"Inference-Header-Content-Length": "0", "Content-Type": "application/octet-stream"}
        status, headers, body = self.raw("POST", "/v2/models/digits/infer", data.tobytes(), headers)
        same(status, 200, f"the status of {body!r}")
        length = int({key.lower(): value for key, value in headers.items()}["inference-header-content-length"])
        (output,) = json.loads(body[:length])["outputs"]
        same((output["name"], output["shape"]), ("probabilities", [1, 10]), "output")
        same(len(body) - length, 40, "binary bytes")

    def check_metrics_are_exported(self):
        status, _, body = self.raw("GET", "/metrics")
        same(status, 200, "status")
        says(body.decode(), "nv_inference_request_success", 'model="digits"')

    # Errors: the right status, and a sentence with the name, the expected and the given value.

    def check_unknown_model(self):
        return refused(lambda: self.client.infer("nobody", [affine_input()[1]]), "404", "nobody")

    def check_unknown_version(self):
        _, x = affine_input()
        refused(lambda: self.client.infer("affine", [x], model_version="7"), "404", "affine", "7")
        refused(lambda: self.client.infer("affine", [x], model_version="one"), "400", "one")

    def check_unknown_input_and_output(self):
        data, x = affine_input()
        refused(lambda: self.client.infer("affine", [tensor("z", data, "FP32")]), "400", "z")
        refused(lambda: self.client.infer("affine", [x, tensor("z", data, "FP32")]), "400", "z")
        wanted = [triton.InferRequestedOutput("w")]
        refused(lambda: self.client.infer("affine", [x], outputs=wanted), "400", "w")

    def check_missing_input(self):
        refused(lambda: self.client.infer("blas.sgemm", [tensor("A", np.ones((2, 2), np.float32), "FP32")]), "400", "B")

    def check_wrong_shape_and_rank(self):
        for dims in ((2, 5), (4,), (1, 1, 4)):
            x = tensor("x", np.ones(dims, np.float32), "FP32")
            refused(lambda x=x: self.client.infer("affine", [x]), "400", "x", f"{dims[-1]}")

    def check_wrong_type(self):
        x = tensor("x", np.ones((1, 4), np.int64), "INT64")
        refused(lambda: self.client.infer("affine", [x]), "400", "x", "FP32", "INT64")

    def check_wrong_byte_count(self):
        x = triton.InferInput("x", [2, 4], "FP32")
        x.set_data_from_numpy(np.ones((2, 4), np.float32))
        x._raw_data = x._raw_data[:-4]
        x._parameters["binary_data_size"] = len(x._raw_data)
        refused(lambda: self.client.infer("affine", [x]), "400", "x", "32", "28")

    def check_too_large_a_batch(self):
        image = tensor("image", np.zeros((65, 1, 8, 8), np.float32), "FP32")
        refused(lambda: self.client.infer("digits", [image]), "400", "image", "64", "65")

    def check_bytes_element_that_claims_too_much(self):
        data = triton.InferInput("data", [1], "BYTES")
        data.set_data_from_numpy(np.array([b"abcd"], object))
        data._raw_data = struct.pack("<I", 2**32 - 1) + b"abcd"
        refused(lambda: self.client.infer("echo", [data]), "400", "data")

    def check_expired_timeout(self):
        # One microsecond is over before any thread can be woken.
        _, x = affine_input()
        refused(lambda: self.client.infer("affine", [x], timeout=1), "504")

    def check_sequences_are_refused(self):
        _, x = affine_input()
        refused(lambda: self.client.infer("affine", [x], sequence_id=5, sequence_start=True), "501", "sequence")

    def check_unknown_path_and_method(self):
        status, _, body = self.raw("GET", "/v2/nothing")
        same(status, 404, "status")
        says(json.loads(body)["error"], "/v2/nothing")
        status, _, body = self.raw("GET", "/v2/models/affine/infer")
        same(status, 405, "status")
        assert json.loads(body)["error"], body

    def echo(self, datatype, data, binary):
        if not binary and datatype == "FP16":
            # The stock client sends FP16 only as binary; ask for it back as JSON where it is finite.
            data = np.array([[0.5, -65504.0]], np.float16)
        if not binary and data.dtype.kind == "f":
            data = data[np.isfinite(data)]
        binary_in = binary or datatype == "FP16"
        if datatype == "FP16" and not binary:
            wanted = [triton.InferRequestedOutput("data", binary_data=True)]
        else:
            wanted = [triton.InferRequestedOutput("data", binary_data=binary)]
        result = self.client.infer("echo", [tensor("data", data, datatype, binary_in)], outputs=wanted)
        same(result.get_output("data")["datatype"], datatype, "datatype")
        same(result.as_numpy("data"), data, "data")

    def raw(self, method, path, body=None, headers=None):
        connection = http.client.HTTPConnection(self.host, self.port, timeout=60)
        try:
            connection.request(method, path, body, headers or {})
            response = connection.getresponse()
            return response.status, dict(response.getheaders()), response.read()
        finally:
            connection.close()


def main():
    arguments = smoke_arguments(__doc__.splitlines()[0])
    checks = Checks()
    Smoke(arguments.tcp, checks).all()
    return checks.finish()


if __name__ == "__main__":
    sys.exit(main())
