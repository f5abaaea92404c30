# SPDX-License-Identifier: Apache-2.0
"""Stock `tritonclient.grpc` against a running daemon, over TCP and over its unix socket: every call kind
that the daemon advertises, and those that it says it does not offer.

The daemon serves examples/digits/models and tests/data/affine.onnx and lets clients load and unload.
run.py starts it; to run this alone: `python grpc_smoke.py --tcp HOST:PORT --unix PATH`, or for one address
`python grpc_smoke.py --address unix:PATH`.
"""

import argparse
import asyncio
import queue
import sys

import grpc
import ml_dtypes
import numpy as np
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2_grpc as stubs
from tritonclient.utils import InferenceServerException

from harness import Checks, digit_images, near, same, says

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

# The list of `InferTensorContents` that carries a type; FP16 has none.
TYPED = {
    "BOOL": "bool_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
}

# Only so that an answer which never comes ends the check instead of hanging it.
ANSWER_SECONDS = 60


def tensor(name, data, datatype):
    result = triton.InferInput(name, list(data.shape), datatype)
    result.set_data_from_numpy(data)
    return result


def affine_input(rows=2, value=None):
    data = np.arange(rows * 4, dtype=np.float32).reshape(rows, 4)
    if value is not None:
        data = np.full((rows, 4), value, np.float32)
    return data, tensor("x", data, "FP32")


def refused(call, code, *words):
    """The call must fail with this gRPC status and a sentence that holds these words."""
    try:
        result = call()
    except InferenceServerException as error:
        same(error.status(), f"StatusCode.{code}", f"the status of '{error.message()}'")
        says(error.message(), *words)
        return error.message()
    raise AssertionError(f"it was answered: {result}")


class Smoke:
    def __init__(self, label, address, checks):
        self.label = label
        self.address = address
        self.client = triton.InferenceServerClient(address)
        self.checks = checks

    def all(self):
        names = [name for name in vars(type(self)) if name.startswith("check_")]
        for name in names:
            self.checks.run(f"{self.label} {name[6:].replace('_', ' ')}", getattr(self, name))
        for datatype, data in NUMERIC.items():
            self.checks.run(f"{self.label} echo {datatype}", self.echo, datatype, data)
            if datatype in TYPED:
                self.checks.run(f"{self.label} echo {datatype} from typed contents", self.echo_typed, datatype, data)
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
        same(metadata.name, "diolkos", "name")
        same(set(metadata.extensions), ADVERTISED, "extensions")

    def check_model_metadata(self):
        metadata = self.client.get_model_metadata("digits")
        same((metadata.name, list(metadata.versions)), ("digits", ["1"]), "name and versions")
        (image,), (probabilities,) = metadata.inputs, metadata.outputs
        same((image.name, image.datatype, list(image.shape)), ("image", "FP32", [-1, 1, 8, 8]), "input")
        got = (probabilities.name, probabilities.datatype, list(probabilities.shape))
        same(got, ("probabilities", "FP32", [-1, 10]), "output")
        same(self.client.get_model_metadata("digits", "1"), metadata, "metadata of version 1")
        assert metadata.platform

    def check_metadata_as_json(self):
        same(self.client.get_model_metadata("digits", as_json=True)["name"], "digits", "name")

    def check_model_config(self):
        config = self.client.get_model_config("digits").config
        same((config.name, config.max_batch_size), ("digits", 64), "name and max_batch_size")
        (image,) = config.input
        same((image.name, list(image.dims)), ("image", [1, 8, 8]), "input without the batch")
        same(triton.model_config_pb2.DataType.Name(image.data_type), "TYPE_FP32", "data_type")
        same(config.output[0].label_filename, "labels.txt", "label_filename")
        same(config.WhichOneof("scheduling_choice"), None, "scheduling")
        assert config.backend and config.platform, config

    def check_statistics_count_requests(self):
        def success():
            (stats,) = self.client.get_inference_statistics("digits").model_stats
            return stats.inference_stats.success.count, stats.inference_count

        requests, images = success()
        data, _ = digit_images()
        self.client.infer("digits", [tensor("image", data[:5], "FP32")])
        same(success(), (requests + 1, images + 5), "successes and images after one request of five")
        all_stats = self.client.get_inference_statistics().model_stats
        assert {"digits", "affine"} <= {stats.name for stats in all_stats}, all_stats

    def check_grpc_health(self):
        # Written out, because the package with these messages is not among the stock clients.
        with grpc.insecure_channel(self.address) as channel:
            check = channel.unary_unary("/grpc.health.v1.Health/Check")
            for service in (b"", b"inference.GRPCInferenceService"):
                request = b"\x0a" + bytes([len(service)]) + service
                same(check(request, timeout=ANSWER_SECONDS), b"\x08\x01", "SERVING")
            try:
                check(b"\x0a\x06nobody", timeout=ANSWER_SECONDS)
            except grpc.RpcError as error:
                same(error.code(), grpc.StatusCode.NOT_FOUND, "the status of an unknown service")
            else:
                raise AssertionError("an unknown service is healthy")

    # Repository.

    def check_repository_index(self):
        index = self.client.get_model_repository_index()
        states = {entry.name: entry.state for entry in index.models}
        same((states.get("digits"), states.get("affine")), ("READY", "READY"), "states")

    def check_unload_and_load(self):
        self.client.unload_model("affine")
        same(self.client.is_model_ready("affine"), False, "ready after unload")
        refused(lambda: self.client.infer("affine", [affine_input()[1]]), "UNAVAILABLE", "affine")
        self.client.load_model("affine")
        same(self.client.is_model_ready("affine"), True, "ready after load")
        data, x = affine_input()
        near(self.client.infer("affine", [x]).as_numpy("y"), data * 2 + 1, "y after load")

    def check_loading_the_unknown_is_refused(self):
        refused(lambda: self.client.load_model("nobody"), "NOT_FOUND", "nobody")
        refused(lambda: self.client.unload_model("nobody"), "NOT_FOUND", "nobody")

    def check_what_is_not_offered_says_so(self):
        calls = {
            "cuda_shared_memory": lambda: self.client.register_cuda_shared_memory("r", b"AAAA", 0, 8),
            "trace": lambda: self.client.get_trace_settings(),
            "logging": lambda: self.client.get_log_settings(),
        }
        for word, call in calls.items():
            refused(call, "UNIMPLEMENTED", word)

    # Inference.

    def check_digits_are_read(self):
        data, expected = digit_images()
        result = self.client.infer("digits", [tensor("image", data, "FP32")])
        probabilities = result.as_numpy("probabilities")
        same(probabilities.argmax(1).tolist(), [entry["predicted"] for entry in expected], "digits")
        best = np.array([entry["probability"] for entry in expected], np.float32)
        near(probabilities.max(1), best, "probabilities", absolute=2e-5)
        return f"{len(expected)} images"

    def check_request_id_model_and_version_come_back(self):
        _, x = affine_input()
        response = self.client.infer("affine", [x], model_version="1", request_id="no. 7").get_response()
        same((response.id, response.model_name, response.model_version), ("no. 7", "affine", "1"), "response")

    def check_messages_may_be_compressed(self):
        for compression in ("gzip", "deflate", None):
            data, x = affine_input(rows=500)
            result = self.client.infer("affine", [x], compression_algorithm=compression)
            same(result.as_numpy("y"), data * 2 + 1, f"y ({compression})")

    def check_a_large_tensor_comes_back(self):
        data = np.arange(4 << 20, dtype=np.uint32)
        result = self.client.infer("echo", [tensor("data", data, "UINT32")])
        same(result.as_numpy("data"), data, "16 MiB")

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
        same([output.name for output in result.get_response().outputs], ["max"], "outputs")

    def check_empty_and_nan_tensors(self):
        empty = np.zeros((0, 4), np.float32)
        same(self.client.infer("echo", [tensor("data", empty, "FP32")]).as_numpy("data"), empty, "empty echo")
        nan = np.full((1, 4), np.nan, np.float32)
        same(self.client.infer("affine", [tensor("x", nan, "FP32")]).as_numpy("y"), nan, "y of NaN")

    def check_echo_BYTES(self):
        result = self.client.infer("echo", [tensor("data", BYTES, "BYTES")])
        same(result.as_numpy("data").tolist(), BYTES.tolist(), "BYTES")

    def check_echo_BF16(self):
        data = np.array([[0.5, -2.0, 256.0, np.inf]], ml_dtypes.bfloat16)
        result = self.client.infer("echo", [tensor("data", data, "BF16")])
        same(result.as_numpy("data"), data, "BF16")

    def check_async_infer(self):
        answers = queue.Queue()
        for index in range(64):
            _, x = affine_input(1, index)
            self.client.async_infer(
                "affine", [x], lambda result, error: answers.put((result, error)), request_id=str(index)
            )
        seen = set()
        for _ in range(64):
            result, error = answers.get(timeout=ANSWER_SECONDS)
            if error:
                raise error
            index = int(result.get_response().id)
            same(result.as_numpy("y"), np.full((1, 4), 2 * index + 1, np.float32), f"y of call {index}")
            seen.add(index)
        same(seen, set(range(64)), "answered calls")

    def check_async_infer_can_be_cancelled(self):
        answers = queue.Queue()
        _, x = affine_input()
        call = self.client.async_infer("affine", [x], lambda result, error: answers.put(error))
        call.cancel()
        error = answers.get(timeout=ANSWER_SECONDS)
        # The answer may have been faster.
        assert error is None or "CANCEL" in str(error).upper(), error

    def check_stream(self):
        answers = queue.Queue()
        self.client.start_stream(lambda result, error: answers.put((result, error)))
        try:
            for index in range(200):
                _, x = affine_input(1, index)
                self.client.async_stream_infer("affine", [x], request_id=str(index))
            for index in range(200):
                result, error = answers.get(timeout=ANSWER_SECONDS)
                if error:
                    raise error
                same(result.get_response().id, str(index), "the order of the answers")
                same(result.as_numpy("y"), np.full((1, 4), 2 * index + 1, np.float32), f"y of request {index}")
        finally:
            self.client.stop_stream()

    def check_stream_goes_on_after_an_error(self):
        answers = queue.Queue()
        with triton.InferenceServerClient(self.address) as client:
            client.start_stream(lambda result, error: answers.put((result, error)), compression_algorithm="gzip")
            _, x = affine_input()
            client.async_stream_infer("affine", [x], request_id="a")
            client.async_stream_infer("nobody", [x], request_id="b")
            client.async_stream_infer("affine", [x], request_id="c", enable_empty_final_response=True)
            result, error = answers.get(timeout=ANSWER_SECONDS)
            same((result.get_response().id, error), ("a", None), "the first answer")
            result, error = answers.get(timeout=ANSWER_SECONDS)
            says(error, "nobody")
            result, error = answers.get(timeout=ANSWER_SECONDS)
            same((result.get_response().id, error), ("c", None), "the answer after the error")
            same(result.get_response().parameters["triton_final_response"].bool_param, True, "final")

    def check_stream_may_be_left(self):
        client = triton.InferenceServerClient(self.address)
        answers = queue.Queue()
        client.start_stream(lambda result, error: answers.put((result, error)))
        _, x = affine_input()
        client.async_stream_infer("affine", [x])
        client.stop_stream(cancel_requests=True)
        client.close()
        same(self.client.is_server_live(), True, "live after a stream was cancelled")

    def check_asyncio_client(self):
        async def calls():
            async with triton_aio.InferenceServerClient(self.address) as client:
                same(await client.is_server_live(), True, "live")
                same(await client.is_model_ready("digits"), True, "ready")
                same((await client.get_model_metadata("affine")).name, "affine", "name")
                same((await client.get_model_config("digits")).config.max_batch_size, 64, "max_batch_size")
                assert (await client.get_inference_statistics("affine")).model_stats
                assert (await client.get_model_repository_index()).models

                async def one(index):
                    _, x = affine_input(1, index)
                    result = await client.infer("affine", [x])
                    same(result.as_numpy("y"), np.full((1, 4), 2 * index + 1, np.float32), f"y of call {index}")

                await asyncio.gather(*(one(index) for index in range(64)))

                async def requests():
                    for index in range(50):
                        _, x = affine_input(1, index)
                        model = "nobody" if index == 25 else "affine"
                        yield {"model_name": model, "inputs": [x], "request_id": str(index)}

                index = 0
                async for result, error in client.stream_infer(requests()):
                    if index == 25:
                        says(error, "nobody")
                    else:
                        same((error, result.get_response().id), (None, str(index)), "a streamed answer")
                    index += 1
                same(index, 50, "streamed answers")
                try:
                    await client.infer("nobody", [affine_input()[1]])
                except InferenceServerException as error:
                    says(error.message(), "nobody")
                else:
                    raise AssertionError("an unknown model was answered")

        asyncio.run(calls())

    def check_trace_context_comes_back(self):
        trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
        with grpc.insecure_channel(self.address) as channel:
            call = stubs.GRPCInferenceServiceStub(channel).ServerLive
            _, answered = call.with_call(pb.ServerLiveRequest(), metadata=[("traceparent", trace)])
            got = dict(answered.initial_metadata()).get("traceparent", "")
        same(got.split("-")[1:2], [trace.split("-")[1]], f"the trace id in '{got}'")

    # Errors: the right status, and a sentence with the name, the expected and the given value.

    def check_unknown_model(self):
        return refused(lambda: self.client.infer("nobody", [affine_input()[1]]), "NOT_FOUND", "nobody")

    def check_unknown_version(self):
        _, x = affine_input()
        refused(lambda: self.client.infer("affine", [x], model_version="7"), "NOT_FOUND", "affine", "7")
        refused(lambda: self.client.infer("affine", [x], model_version="one"), "INVALID_ARGUMENT", "one")

    def check_unknown_input_and_output(self):
        data, x = affine_input()
        refused(lambda: self.client.infer("affine", [tensor("z", data, "FP32")]), "INVALID_ARGUMENT", "z")
        refused(lambda: self.client.infer("affine", [x, tensor("z", data, "FP32")]), "INVALID_ARGUMENT", "z")
        wanted = [triton.InferRequestedOutput("w")]
        refused(lambda: self.client.infer("affine", [x], outputs=wanted), "INVALID_ARGUMENT", "w")

    def check_wrong_shape_and_rank(self):
        for dims in ((2, 5), (4,), (1, 1, 4)):
            x = tensor("x", np.ones(dims, np.float32), "FP32")
            refused(lambda x=x: self.client.infer("affine", [x]), "INVALID_ARGUMENT", "x", f"{dims[-1]}")

    def check_wrong_type(self):
        x = tensor("x", np.ones((1, 4), np.int64), "INT64")
        refused(lambda: self.client.infer("affine", [x]), "INVALID_ARGUMENT", "x", "FP32", "INT64")

    def check_wrong_byte_count(self):
        x = triton.InferInput("x", [2, 4], "FP32")
        x.set_data_from_numpy(np.ones((2, 4), np.float32))
        x._raw_content = x._raw_content[:-4]
        refused(lambda: self.client.infer("affine", [x]), "INVALID_ARGUMENT", "x", "32", "28")

    def check_too_large_a_batch(self):
        image = tensor("image", np.zeros((65, 1, 8, 8), np.float32), "FP32")
        refused(lambda: self.client.infer("digits", [image]), "INVALID_ARGUMENT", "image", "64", "65")

    def check_expired_timeout(self):
        # One microsecond is over before any thread can be woken.
        _, x = affine_input()
        refused(lambda: self.client.infer("affine", [x], timeout=1), "DEADLINE_EXCEEDED")

    def check_client_timeout(self):
        _, x = affine_input()
        # Moving this much there and back takes longer than a millisecond on any machine.
        large = tensor("data", np.zeros(12 << 20, np.uint32), "UINT32")
        refused(lambda: self.client.infer("echo", [large], client_timeout=1e-3), "DEADLINE_EXCEEDED")
        same(self.client.infer("affine", [x], client_timeout=ANSWER_SECONDS).as_numpy("y").shape, (2, 4), "shape")

    def check_sequences_are_refused(self):
        _, x = affine_input()
        call = lambda: self.client.infer("affine", [x], sequence_id=5, sequence_start=True)  # noqa: E731
        refused(call, "UNIMPLEMENTED", "sequence")

    def check_raw_and_typed_do_not_mix(self):
        request = pb.ModelInferRequest(model_name="affine", raw_input_contents=[b"\0" * 16])
        x = request.inputs.add(name="x", datatype="FP32", shape=[1, 4])
        x.contents.fp32_contents.extend([0.0] * 4)
        self.refused_stub(request, "x", "raw_input_contents")
        del request.inputs[:]
        self.refused_stub(request, "1 payloads for 0 inputs")

    def refused_stub(self, request, *words):
        with grpc.insecure_channel(self.address) as channel:
            try:
                answer = stubs.GRPCInferenceServiceStub(channel).ModelInfer(request, timeout=ANSWER_SECONDS)
            except grpc.RpcError as error:
                same(error.code(), grpc.StatusCode.INVALID_ARGUMENT, f"the status of '{error.details()}'")
                says(error.details(), *words)
            else:
                raise AssertionError(f"it was answered: {answer}")

    def echo(self, datatype, data):
        result = self.client.infer("echo", [tensor("data", data, datatype)])
        same(result.get_output("data").datatype, datatype, "datatype")
        same(result.as_numpy("data"), data, "data")

    def echo_typed(self, datatype, data):
        """The form without raw contents, which the stock client takes and never sends."""
        request = pb.ModelInferRequest(model_name="echo")
        x = request.inputs.add(name="data", datatype=datatype, shape=list(data.shape))
        getattr(x.contents, TYPED[datatype]).extend(data.flatten().tolist())
        with grpc.insecure_channel(self.address) as channel:
            response = stubs.GRPCInferenceServiceStub(channel).ModelInfer(request, timeout=ANSWER_SECONDS)
        same(triton.InferResult(response).as_numpy("data"), data, "data")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tcp", metavar="HOST:PORT", help="the daemon's TCP address")
    parser.add_argument("--unix", metavar="PATH", help="the daemon's unix socket")
    parser.add_argument("--address", metavar="ADDRESS", help="any address that grpcio knows")
    arguments = parser.parse_args()
    targets = []
    if arguments.tcp:
        targets.append(("grpc tcp", arguments.tcp))
    if arguments.unix:
        targets.append(("grpc unix", f"unix:{arguments.unix}"))
    if arguments.address:
        targets.append(("grpc", arguments.address))
    if not targets:
        parser.error("give --tcp, --unix or --address")
    checks = Checks()
    for label, address in targets:
        Smoke(label, address, checks).all()
    return checks.finish()


if __name__ == "__main__":
    sys.exit(main())
