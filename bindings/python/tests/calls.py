# SPDX-License-Identifier: Apache-2.0
"""What a well-behaved program does, and what it is told when it errs."""

from __future__ import annotations

import copy
import os
import pickle
import pydoc
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import diolkos
import numpy as np

from support import Daemon, eventually, refused, same, ways


def check_models_and_their_tensors(daemon: Daemon) -> None:
    for way, client in ways(daemon):
        same(client.shares_memory, way in ("shared memory", "blocking"), way)
        same(client.health(), diolkos.Health(live=True, ready=True), way)
        names = {model.name: model for model in client.models()}
        same((names["echo"].version, names["echo"].state, names["digits"].state), (1, "ready", "ready"), way)
        digits = client.open("digits")
        same((digits.name, digits.version), ("digits", 1), way)
        spec = digits.inputs[0]
        same((spec.data_type, spec.dtype, spec.optional), ("FP32", np.dtype(np.float32), False), way)
        assert spec.shape is not None
        same(spec.shape[0], None, "a dimension that varies")
        image = client.empty((2, *(length or 1 for length in spec.shape[1:])))
        image[...] = 0.5
        output = digits.infer({spec.name: image})[digits.outputs[0].name]
        same((output.dtype, output.shape[0]), (np.dtype(np.float32), 2), way)
        any_type = client.open("echo").inputs[0]
        same((any_type.data_type, any_type.dtype, any_type.shape), (None, None, None), way)
        same([spec.optional for spec in client.open("blas.sgemm").inputs], [False, False, True], way)
        before = client.stats("noop")
        same(dict(client.infer("noop")), {}, way)
        after = client.stats("noop")
        same(after[0].succeeded >= 1 + sum(stats.succeeded for stats in before), True, way)
        same(len(client.stats()) > 1, True, way)
        reply = client.infer("echo", data=np.zeros(10))
        same((reply.version, type(reply.timing.compute_ns)), (1, int), way)


def check_options(daemon: Daemon) -> None:
    with daemon.connect() as client:
        minmax = client.open("minmax").with_options(outputs=["max", "min"], priority="interactive", timeout=10)
        same(list(minmax.infer(data=[3.0, -1.0, 2.0])), ["max", "min"])
        one = minmax.with_options(outputs=["min"], once=True)
        same({name: value.item() for name, value in one.infer(data=[3.0, -1.0]).items()}, {"min": -1.0})
        sgemm = client.open("blas.sgemm")
        doubled = sgemm.with_options(params={"alpha": 2.0, "transpose_a": True})
        given = np.array([[1, 2], [3, 4]], np.float32)
        same(doubled.infer(A=given, B=np.eye(2, dtype=np.float32))["result"], np.ascontiguousarray(2 * given.T))
        for wrong in ({"alpha": [1]}, {"alpha": 2**64}):
            refused(diolkos.InvalidArgument, lambda: sgemm.with_options(params=wrong), "`alpha`")  # type: ignore[arg-type]
        refused(diolkos.InvalidArgument, lambda: sgemm.with_options(priority="urgent"), "urgent")  # type: ignore[arg-type]
        refused(diolkos.InvalidArgument, lambda: sgemm.with_options(timeout=-1), "-1 seconds")
        refused(diolkos.InvalidArgument, lambda: sgemm.with_options(outputs=["x"]).infer(A=given, B=given), "`x`")


def check_errors_have_codes_and_classes(daemon: Daemon) -> None:
    for way, client in ways(daemon):
        error = refused(diolkos.NotFound, lambda: client.infer("unknown"), "unknown")
        same(error.code, "not_found", way)
        refused(diolkos.NotFound, lambda: client.open("echo", version=7))
        echo = client.open("echo", version=1)
        error = refused(diolkos.InvalidArgument, echo.infer, "data")
        same((error.code, isinstance(error, ValueError)), ("invalid_argument", True), way)
        error = refused(diolkos.InvalidArgument, lambda: echo.infer(date=[1]), "it has `data`")
        same(error.code, None, way)
        refused(diolkos.InvalidArgument, lambda: echo.infer({"data": 1}, data=1), "twice")
        error = refused(PermissionError, lambda: client.load("echo"))
        same((type(error), error.code), (diolkos.PermissionDenied, "permission_denied"), way)
        refused(diolkos.PermissionDenied, lambda: client.unload("echo"))
        again = pickle.loads(pickle.dumps(error))
        same((type(again), str(again), again.code), (type(error), str(error), error.code), "a pickled error")
        same(str(copy.copy(error)), str(error))
    error = refused(ConnectionError, lambda: diolkos.connect("unix:/nowhere/at/all"), "is it running")
    same((type(error), error.code), (diolkos.ConnectionLost, None))
    refused(diolkos.InvalidArgument, lambda: diolkos.connect("/nowhere"), "unix:PATH")
    refused(diolkos.InvalidArgument, lambda: daemon.connect(waiting="idle"), "idle")
    refused(diolkos.InvalidArgument, lambda: daemon.connect(in_flight=63), "")
    refused(diolkos.InvalidArgument, lambda: daemon.connect(reconnect=float("nan")))


def check_the_environment_names_the_daemon(daemon: Daemon) -> None:
    os.environ["DIOLKOS_ENDPOINT"] = daemon.unix
    try:
        with diolkos.connect() as client:
            same(client.health().live, True)
    finally:
        del os.environ["DIOLKOS_ENDPOINT"]


def check_a_closed_client(daemon: Daemon) -> None:
    client = daemon.connect()
    echo = client.open("echo")
    with daemon.paused():
        pending = echo.submit(data=1)
        client.close()
        refused(diolkos.ConnectionLost, pending.wait, "closed")
    refused(diolkos.ConnectionLost, lambda: echo.infer(data=1), "closed")
    refused(diolkos.ConnectionLost, client.health, "closed")
    client.close()


def check_a_reply_is_given_once(daemon: Daemon) -> None:
    with daemon.connect() as client:
        pending = client.open("echo").submit(data=3)
        same(pending.wait()["data"].item(), 3)
        refused(diolkos.InvalidArgument, pending.wait, "ended")
        pending.cancel()


def check_many_are_under_way(daemon: Daemon) -> None:
    for way, client in ways(daemon):
        echo = client.open("echo")
        # More than there are slots, and not waited for in order.
        pending = [echo.submit(data=np.full(5, number, np.uint32)) for number in range(300)]
        for number, one in reversed(list(enumerate(pending))):
            same(one.wait()["data"], np.full(5, number, np.uint32), way)


def check_threads_share_a_client(daemon: Daemon) -> None:
    for way, client in ways(daemon):

        def ask(thread: int) -> None:
            mine = client.empty(100, np.uint64)
            for round in range(100):
                mine[...] = thread * 1000 + round
                same(client.infer("echo", data=mine)["data"], mine, way)
                same(client.infer("echo", data=mine + np.uint64(1))["data"], mine + np.uint64(1), way)

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(ask, range(8)))


def check_threads_share_an_array(daemon: Daemon) -> None:
    with daemon.connect() as client:
        weights = client.empty(1000, np.float32)
        weights[...] = 3

        def ask(_: int) -> None:
            for _ in range(100):
                same(client.infer("echo", data=weights)["data"], np.full(1000, 3, np.float32))

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(ask, range(4)))
        weights[...] = 4


def check_others_run_while_one_waits(daemon: Daemon) -> None:
    with daemon.connect() as client:
        echo = client.open("echo")
        ended = threading.Event()

        def wait() -> None:
            echo.infer(data=1)
            ended.set()

        with daemon.paused():
            thread = threading.Thread(target=wait)
            thread.start()
            # With the interpreter's lock held this would not come here.
            begun = time.monotonic()
            while time.monotonic() - begun < 0.05:
                sum(range(100))
            same(ended.is_set(), False)
        thread.join()
        same(ended.is_set(), True)


def check_timeouts_and_cancellation(daemon: Daemon) -> None:
    for way, client in ways(daemon):
        echo = client.open("echo")
        with daemon.paused():
            pending = echo.submit(data=[1, 2])
            begun = time.monotonic()
            error = refused(TimeoutError, lambda: pending.wait(0.02), "under way")
            same((type(error), error.code), (diolkos.Timeout, None), way)
            same(time.monotonic() - begun >= 0.02, True, f"that a timeout by {way} took its time")
            gone = echo.submit(data=[3])
            gone.cancel()
            error = refused(diolkos.Cancelled, gone.wait)
            with echo.submit(data=[4]) as left:
                pass
            refused(diolkos.Cancelled, lambda: left.wait(1))
            # A thread that waits is told.
            waiting = echo.submit(data=[5])
            with ThreadPoolExecutor(1) as pool:
                waited = pool.submit(waiting.wait)
                time.sleep(0.02)
                waiting.cancel()
                refused(diolkos.Cancelled, waited.result)
        same(pending.wait()["data"].tolist(), [1, 2], way)
        same(echo.infer(data=9)["data"].item(), 9, way)


def check_a_deadline_in_the_queue(daemon: Daemon) -> None:
    with Daemon("engine.slots = 1") as slow, slow.connect() as client:
        sgemm = client.open("blas.sgemm")
        big = client.empty((2048, 2048))
        big[...] = 1
        held = [sgemm.submit(A=big, B=big) for _ in range(2)]
        late = sgemm.with_options(timeout=0.001).submit(A=big, B=big)
        error = refused(TimeoutError, late.wait)
        same(error.code, "deadline_exceeded")
        same(big.flags.writeable, False)
        for one in held:
            same(one.wait()["result"][0, 0].item(), 2048.0)
        same(big.flags.writeable, True)


def check_busy_says_when_to_come_again(daemon: Daemon) -> None:
    settings = 'engine.slots = 1\n[limits]\nrequests_memory_max = "64MiB"\nrequest_memory_max = "32MiB"\n'
    with Daemon(settings) as small, small.connect() as client:
        sgemm = client.open("blas.sgemm")
        big = client.empty((1024, 1024))
        big[...] = 1
        pending = [sgemm.submit(A=big, B=big) for _ in range(6)]
        busy = []
        for one in pending:
            try:
                one.wait()
            except diolkos.Busy as error:
                busy.append(error)
        same(bool(busy), True, "that some were refused")
        same(busy[0].code, "busy")
        same(busy[0].retry_after is not None and busy[0].retry_after > 0, True, "retry_after")


def check_ctrl_c_ends_a_wait(daemon: Daemon) -> None:
    # Whoever was started in the background by a shell ignores it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with daemon.connect() as client, daemon.connect() as other:
        echo, crowded = client.open("echo"), other.open("echo")
        mine = client.empty(3)

        def interrupt() -> None:
            time.sleep(0.1)
            os.kill(os.getpid(), signal.SIGINT)

        # A request, a call of another kind, connecting, and waiting for a place among too many.
        crowd: list[diolkos.Pending] = []
        with daemon.paused():
            for call in (lambda: echo.infer(data=mine), client.health, daemon.connect, None):
                threading.Thread(target=interrupt).start()
                if call is not None:
                    refused(KeyboardInterrupt, call)
                else:
                    refused(KeyboardInterrupt, lambda: crowd.extend(crowded.submit(data=1) for _ in range(100)))
            same(mine.flags.writeable, True)
            same(len(crowd) < 100, True)
        same(echo.infer(data=5)["data"].item(), 5)


def check_models_come_and_go(daemon: Daemon) -> None:
    with Daemon("[models]\nclient_load = true\n", digits=True) as loading, loading.connect() as client:
        names = [spec.name for spec in client.open("digits").inputs]
        image = np.zeros((1, 1, 28, 28), np.float32)
        shape = client.open("digits").inputs[0].shape
        assert shape is not None
        image = np.zeros([length or 1 for length in shape], np.float32)
        client.infer("digits", {names[0]: image})
        client.unload("digits")
        refused(diolkos.Error, lambda: client.infer("digits", {names[0]: image}), "digits")
        eventually(
            "that it is unloaded", lambda: all(model.state != "ready" for model in client.models() if model.name == "digits")
        )
        client.load("digits")
        client.infer("digits", {names[0]: image})


def check_help_says_what_things_are(daemon: Daemon) -> None:
    for thing in (diolkos, diolkos.aio):
        for name in thing.__all__:
            part = getattr(thing, name)
            same(bool(part.__doc__), True, f"that {name} has a docstring")
            if not isinstance(part, type):
                continue
            for member, value in vars(part).items():
                if not member.startswith("_") and (callable(value) or isinstance(value, property)):
                    same(bool(value.__doc__), True, f"that {name}.{member} has a docstring")
    text = pydoc.render_doc(diolkos.Client.empty)
    same("read-only" in text, True)
