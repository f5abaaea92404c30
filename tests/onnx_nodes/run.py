# SPDX-License-Identifier: Apache-2.0
"""The ONNX backend node tests of onnx 1.22.0, all of them, through the server in one run.

    python run.py [--only TEXT] [--jobs N] [--write] [--json FILE]

Each test's model is loaded by name over REST and each of its data sets is sent as binary tensors; what
comes back is compared with what the test expects: rtol 1e-3 and atol 1e-7 as in ONNX's own runner,
integers, booleans and texts exactly, types and shapes always. A test ends as one of

    pass            every data set gave the expected values
    load refused    the server would not load the model and said why
    run refused     it loaded, and a request was refused with a reason
    rounding        outside of these tolerances, but by no more than floating point arithmetic differs when done
                    in another order; counted and listed apart, not among those that pass
    wrong           an answer with other values, shape or type: never acceptable
    crash           the daemon died
    hang            no answer in 60 s
    no type         the protocol has no such type (sequences, optionals, complex, 8- and 4-bit floats ...)

--write renews docs/onnx-operators.md and baseline.json, the list of tests that pass, against which every
other run looks for regressions. DIOLKOS_NODE_FLOOR changes the floor of plain-tensor passes.
"""

import argparse
import http.client
import json
import os
import queue
import shutil
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "clients"))

import report  # noqa: E402
from harness import ROOT, Checks, Daemon  # noqa: E402

DATA = Path(onnx.__file__).parent / "backend/test/data/node"
VERSION = "1.22.0"
TESTS = 1765
PLAIN_TENSOR_TESTS = 1546
FLOOR = int(os.environ.get("DIOLKOS_NODE_FLOOR", "1206"))
RTOL, ATOL = 1e-3, 1e-7
# How far apart two correct computations may be: see `steps_apart`. Seen with tract 0.23.9: up to 2 for sums in
# another order, and 21 where its sigmoid, which is good to 1e-6, is subtracted from one. A wrong formula, axis
# or operand is off by thousands.
ROUNDING_STEPS = 32
EPSILON = {"FP16": 2.0**-10, "BF16": 2.0**-7, "FP32": 2.0**-23, "FP64": 2.0**-52}
PATIENCE = 60
BASELINE = HERE / "baseline.json"
DOCUMENT = ROOT / "docs/onnx-operators.md"
# Small enough that the run also unloads models again, which is where stale state would show.
SETTINGS = '[models]\nlazy = true\nclient_load = true\nmemory_max = "256MiB"\n'

# ONNX element type to the protocol's name and numpy's type; BF16 is compared as FP32.
TYPES = {
    TensorProto.BOOL: ("BOOL", np.bool_),
    TensorProto.UINT8: ("UINT8", np.uint8),
    TensorProto.UINT16: ("UINT16", np.uint16),
    TensorProto.UINT32: ("UINT32", np.uint32),
    TensorProto.UINT64: ("UINT64", np.uint64),
    TensorProto.INT8: ("INT8", np.int8),
    TensorProto.INT16: ("INT16", np.int16),
    TensorProto.INT32: ("INT32", np.int32),
    TensorProto.INT64: ("INT64", np.int64),
    TensorProto.FLOAT16: ("FP16", np.float16),
    TensorProto.BFLOAT16: ("BF16", np.uint16),
    TensorProto.FLOAT: ("FP32", np.float32),
    TensorProto.DOUBLE: ("FP64", np.float64),
    TensorProto.STRING: ("BYTES", object),
}
NAMES = {name: kind for name, kind in TYPES.values()}


@dataclass
class Case:
    """One test directory, and how it ended."""

    name: str
    operators: list
    # The protocol's names of all types of inputs and outputs; None where one has no name.
    types: list
    # Whether all inputs and outputs are numeric or boolean tensors of types that the protocol has.
    plain: bool
    outcome: str = ""
    reason: str = ""
    seconds: float = 0.0
    inputs: list = field(default_factory=list)
    outputs: list = field(default_factory=list)


@dataclass
class Refused(Exception):
    reason: str


@dataclass
class Wrong(Exception):
    reason: str


@dataclass
class Rounding(Exception):
    reason: str


def read_case(folder):
    model = onnx.load(folder / "model.onnx")
    values = [*model.graph.input, *model.graph.output]
    types = []
    for value in values:
        kind = value.type.WhichOneof("value")
        element = value.type.tensor_type.elem_type if kind == "tensor_type" else None
        if element in TYPES:
            types.append(TYPES[element][0])
        elif element is None:
            types.append(kind.removesuffix("_type"))
        else:
            types.append(TensorProto.DataType.Name(element))
    plain = all(name in NAMES and name != "BYTES" for name in types)
    case = Case(folder.name, [node.op_type for node in model.graph.node], sorted(set(types)), plain)
    case.inputs = [value.name for value in model.graph.input]
    case.outputs = [value.name for value in model.graph.output]
    return case


def read_tensor(path):
    """Name of the protocol's type, shape and payload of a stored tensor."""
    stored = TensorProto()
    stored.ParseFromString(path.read_bytes())
    datatype = TYPES[stored.data_type][0]
    array = numpy_helper.to_array(stored)
    if datatype == "BYTES":
        texts = [text if isinstance(text, bytes) else str(text).encode() for text in array.ravel().tolist()]
        payload = b"".join(len(text).to_bytes(4, "little") + text for text in texts)
    else:
        payload = np.ascontiguousarray(array).tobytes()
    return datatype, list(array.shape), payload


def to_array(datatype, shape, payload):
    if datatype == "BYTES":
        texts, at = [], 0
        while at < len(payload):
            length = int.from_bytes(payload[at : at + 4], "little")
            texts.append(payload[at + 4 : at + 4 + length])
            at += 4 + length
        array = np.empty(len(texts), object)
        array[:] = texts
        return array.reshape(shape)
    array = np.frombuffer(payload, NAMES[datatype]).reshape(shape)
    if datatype == "BF16":
        return (array.astype(np.uint32) << 16).view(np.float32)
    return array


def compare(name, got, expected):
    (got_type, got_shape, got_data), (datatype, shape, data) = got, expected
    if got_type != datatype:
        raise Wrong(f"output {name} has type {got_type}, expected {datatype}")
    if list(got_shape) != list(shape):
        raise Wrong(f"output {name} has shape {got_shape}, expected {shape}")
    left, right = to_array(*got), to_array(*expected)
    if right.dtype.kind == "f":
        wide = np.float64
        close = np.isclose(left.astype(wide), right.astype(wide), rtol=RTOL, atol=ATOL, equal_nan=True)
    else:
        close = left == right
    if np.all(close):
        return
    at = np.argwhere(~np.atleast_1d(close))[0]
    where = tuple(at.tolist()) if left.ndim else ()
    reason = (
        f"output {name} has {left[where]!r} at {list(where)}, expected {right[where]!r}; "
        f"{int(np.size(close) - np.count_nonzero(close))} of {np.size(close)} values differ"
    )
    steps = steps_apart(left, right, datatype)
    if steps <= ROUNDING_STEPS:
        raise Rounding(f"{reason}, by at most {steps:.1f} steps of the largest value")
    raise Wrong(reason)


def steps_apart(left, right, datatype):
    """The largest difference, counted in steps between neighbouring numbers of this type at the size of the
    largest expected value: what sums in another order, or fused operations, make of the same arithmetic."""
    if datatype not in EPSILON:
        return np.inf
    left, right = left.astype(np.float64), right.astype(np.float64)
    if not np.array_equal(np.isfinite(left), np.isfinite(right)):
        return np.inf
    finite = np.isfinite(right)
    largest = np.max(np.abs(right[finite]), initial=0.0)
    difference = np.max(np.abs(left[finite] - right[finite]), initial=0.0)
    same_specials = np.array_equal(left[~finite], right[~finite], equal_nan=True)
    return difference / (EPSILON[datatype] * largest) if largest and same_specials else np.inf


class Connection:
    """One kept-alive connection to the daemon."""

    def __init__(self, daemon):
        self.http = http.client.HTTPConnection("127.0.0.1", daemon.port, timeout=PATIENCE)

    def post(self, path, body, headers=None):
        try:
            return self.exchange(path, body, headers)
        except (http.client.RemoteDisconnected, BrokenPipeError, ConnectionResetError):
            # The server may have closed an idle connection; a dead one fails again.
            self.http.close()
            return self.exchange(path, body, headers)

    def exchange(self, path, body, headers):
        self.http.request("POST", path, body, headers or {})
        response = self.http.getresponse()
        return response.status, response.headers, response.read()

    def accepted(self, path, body, headers=None):
        status, headers, body = self.post(path, body, headers)
        if status != 200:
            raise Refused(error_text(body))
        return headers, body

    def infer(self, case, tensors):
        """Sends tensors by name and returns the outputs by name."""
        inputs = [
            {"name": name, "datatype": datatype, "shape": shape, "parameters": {"binary_data_size": len(data)}}
            for name, (datatype, shape, data) in tensors.items()
        ]
        header = json.dumps({"inputs": inputs, "parameters": {"binary_data_output": True}}).encode()
        body = header + b"".join(data for _, _, data in tensors.values())
        headers = {"Inference-Header-Content-Length": str(len(header)), "Content-Type": "application/octet-stream"}
        headers, body = self.accepted(f"/v2/models/{case.name}/infer", body, headers)
        length = int(headers.get("Inference-Header-Content-Length", len(body)))
        outputs, at = {}, length
        for output in json.loads(body[:length])["outputs"]:
            size = output["parameters"]["binary_data_size"]
            outputs[output["name"]] = (output["datatype"], output["shape"], body[at : at + size])
            at += size
        return outputs


def error_text(body):
    try:
        return json.loads(body)["error"]
    except (ValueError, KeyError, TypeError):
        return f"no JSON error: {body[:200]!r}"


def run_case(case, connection):
    """Loads the model and sends every data set."""
    if not all(name in NAMES for name in case.types):
        odd = ", ".join(name for name in case.types if name not in NAMES)
        return "no type", f"the protocol has no type for {odd}"
    try:
        connection.accepted(f"/v2/repository/models/{case.name}/load", b"{}")
    except Refused as refused:
        return "load refused", refused.reason
    try:
        for data_set in sorted((DATA / case.name).glob("test_data_set_*")):
            stored = [read_tensor(data_set / f"input_{index}.pb") for index in range(len(case.inputs))]
            outputs = connection.infer(case, dict(zip(case.inputs, stored)))
            for index, name in enumerate(case.outputs):
                if name not in outputs:
                    raise Wrong(f"output {name} is missing")
                compare(name, outputs[name], read_tensor(data_set / f"output_{index}.pb"))
    except Refused as refused:
        return "run refused", refused.reason
    except Wrong as wrong:
        return "wrong", wrong.reason
    except Rounding as rounding:
        return "rounding", rounding.reason
    return "pass", ""


class Run:
    """All cases against one daemon, started anew only if it dies or hangs."""

    def __init__(self, repository, jobs):
        self.repository, self.jobs = repository, jobs
        self.restarts = 0
        self.peak = 0

    def start(self):
        name = f"onnx-nodes-{self.restarts}" if self.restarts else "onnx-nodes"
        return Daemon(SETTINGS, models=[self.repository], log_name=name).__enter__()

    def all(self, cases):
        waiting = cases
        while waiting:
            daemon = self.start()
            try:
                waiting = self.until_trouble(daemon, waiting)
                self.peak = max(self.peak, daemon.resident_bytes() if daemon.alive() else 0)
            finally:
                if daemon.alive():
                    daemon.process.terminate() if not waiting else daemon.process.kill()
                status = daemon.process.wait()
                shutil.rmtree(daemon.folder, ignore_errors=True)
            self.restarts += bool(waiting)
        return status

    def until_trouble(self, daemon, cases):
        """Runs cases in parallel. When the daemon dies or hangs, whoever was in flight is tried again alone,
        so that the blame falls on the right one; returns what is still to do."""
        todo = queue.SimpleQueue()
        for case in cases:
            todo.put(case)
        trouble, left = threading.Event(), []
        alone = self.jobs == 1 or self.restarts > 0

        def work():
            connection = Connection(daemon)
            while not trouble.is_set():
                try:
                    case = todo.get_nowait()
                except queue.Empty:
                    return
                begun = time.monotonic()
                try:
                    case.outcome, case.reason = run_case(case, connection)
                except TimeoutError:
                    self.blame(case, "hang", f"no answer in {PATIENCE} s", alone, left)
                    trouble.set()
                except (http.client.HTTPException, OSError) as error:
                    self.blame(case, "crash", f"{type(error).__name__}: {error}; {daemon.log_tail(3)}", alone, left)
                    trouble.set()
                case.seconds = time.monotonic() - begun

        workers = [threading.Thread(target=work) for _ in range(1 if alone else self.jobs)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        while True:
            try:
                left.append(todo.get_nowait())
            except queue.Empty:
                return left

    def blame(self, case, outcome, reason, alone, left):
        if alone:
            case.outcome, case.reason = outcome, reason
        else:
            left.append(case)


def make_repository(folder, cases):
    for case in cases:
        place = folder / case.name / "1"
        place.mkdir(parents=True)
        shutil.copyfile(DATA / case.name / "model.onnx", place / "model.onnx")


def judge(cases, complete):
    """The checks that decide whether the run as a whole passes."""
    checks = Checks()
    counts = report.count(cases)

    def none(outcome):
        bad = [f"{case.name} ({case.reason[:160]})" for case in cases if case.outcome == outcome]
        assert not bad, f"{len(bad)}: " + "; ".join(bad[:20])

    checks.run("onnx nodes: no wrong value", none, "wrong")
    checks.run("onnx nodes: no crash", none, "crash")
    checks.run("onnx nodes: no hang", none, "hang")

    def regressions():
        known = set(json.loads(BASELINE.read_text())["pass"])
        now = {case.name: case for case in cases}
        lost = [now[name] for name in sorted(known) if name in now and now[name].outcome != "pass"]
        gained = [case.name for case in cases if case.outcome == "pass" and case.name not in known]
        assert not lost, f"{len(lost)}: " + "; ".join(f"{case.name}: {case.reason[:160]}" for case in lost[:20])
        return f"{len(known)} in baseline.json, {len(gained)} more pass" + ("; renew it with --write" if gained else "")

    checks.run("onnx nodes: no regression", regressions)
    if complete:

        def everything():
            assert len(cases) == TESTS, f"{len(cases)} tests, expected {TESTS}"
            assert counts["plain"] == PLAIN_TENSOR_TESTS, f"{counts['plain']} plain-tensor tests"
            missing = [case.name for case in cases if not case.outcome]
            assert not missing, f"no outcome: {missing[:10]}"

        def floor():
            passed = counts["plain pass"]
            assert passed >= FLOOR, f"{passed} of {counts['plain']} plain-tensor tests pass, at least {FLOOR} must"
            return f"{passed} of {counts['plain']} plain-tensor tests pass, floor {FLOOR}"

        def document():
            assert DOCUMENT.read_text() == report.document(cases), "it is out of date: run with --write"

        checks.run(f"onnx nodes: all {TESTS} tests of onnx {VERSION} ran", everything)
        checks.run("onnx nodes: floor", floor)
        checks.run("onnx nodes: docs/onnx-operators.md", document)
    return checks


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", metavar="TEXT", help="tests whose name holds this")
    parser.add_argument("--jobs", type=int, default=2, help="tests at once (2)")
    parser.add_argument("--write", "--write-docs", action="store_true", help="renew the document and the baseline")
    parser.add_argument("--json", metavar="FILE", help="write every outcome there")
    arguments = parser.parse_args()
    assert onnx.__version__ == VERSION, f"onnx {onnx.__version__} is installed; the tests are those of {VERSION}"
    folders = sorted(folder.parent for folder in DATA.glob("*/model.onnx"))
    cases = [read_case(folder) for folder in folders if not arguments.only or arguments.only in folder.name]
    repository = Path(tempfile.mkdtemp(prefix="diolkos-nodes-"))
    begun = time.monotonic()
    try:
        make_repository(repository, cases)
        run = Run(repository, arguments.jobs)
        status = run.all(cases)
    finally:
        shutil.rmtree(repository)
    print(report.table(cases))
    print(
        f"{len(cases)} tests in {time.monotonic() - begun:.0f} s, {run.restarts} restarts, "
        f"{run.peak >> 20} MiB resident at the end"
    )
    if arguments.json:
        Path(arguments.json).write_text(report.as_json(cases))
    if arguments.write and not arguments.only:
        DOCUMENT.write_text(report.document(cases))
        passing = sorted(case.name for case in cases if case.outcome == "pass")
        BASELINE.write_text(json.dumps({"onnx": VERSION, "pass": passing}, indent=1) + "\n")
        print(f"wrote {DOCUMENT} and {BASELINE}")
    checks = judge(cases, not arguments.only)
    checks.run("onnx nodes: the daemon stops cleanly", lambda: check_status(status))
    passed = sum(case.outcome == "pass" for case in cases)
    # Tests that the runtime refuses with a reason are neither passed nor failed; the document names them.
    checks.passed += passed
    checks.skipped += sum(case.outcome in ("rounding", "load refused", "run refused", "no type") for case in cases)
    return checks.finish()


def check_status(status):
    assert status == 0, f"exit status {status}"


if __name__ == "__main__":
    sys.exit(main())
