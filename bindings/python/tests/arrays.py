# SPDX-License-Identifier: Apache-2.0
"""What goes in comes out: types, shapes, orders."""

from __future__ import annotations

from typing import Any

import diolkos
import ml_dtypes
import numpy as np
import numpy.typing as npt

from support import Daemon, refused, same, ways

Array = npt.NDArray[Any]

NUMBERS: list[Array] = [
    np.array([[True, False], [False, True]]),
    np.array([0, 255, 7], np.uint8),
    np.array([0, 65535], np.uint16),
    np.array([0, 2**32 - 1], np.uint32),
    np.array([0, 2**64 - 1], np.uint64),
    np.array([-128, 127], np.int8),
    np.array([-32768, 32767], np.int16),
    np.array([-(2**31), 2**31 - 1], np.int32),
    np.array([-(2**63), 2**63 - 1], np.int64),
    np.array([0.5, -65504.0, np.nan], np.float16),
    np.array([0.1, -3.4e38, np.inf], np.float32),
    np.array([0.1, -1.7e308, -np.inf], np.float64),
    np.array([1.0, -2.5, 3e38], ml_dtypes.bfloat16),
]


def check_every_type_comes_back(daemon: Daemon) -> None:
    for way, client in ways(daemon):
        echo = client.open("echo")
        for array in NUMBERS:
            output = echo.infer(data=array)["data"]
            same(output, array, f"{array.dtype} by {way}")
            same(output.flags.writeable, False, "an output's writeable flag")
            mine = client.empty(array.shape, array.dtype)
            mine[...] = array
            same(echo.infer(data=mine)["data"], array, f"{array.dtype} in shared memory by {way}")


def check_scalars_and_empty_arrays(daemon: Daemon) -> None:
    for way, client in ways(daemon):
        echo = client.open("echo")
        for shape in [(), (0,), (3, 0, 2), (1,), (1, 1, 1, 1, 1, 1, 1, 1), (1,) * 16, (7, 11, 13)]:
            for dtype in (np.float32, np.uint8):
                array = np.arange(np.prod(shape, dtype=int), dtype=dtype).reshape(shape)
                same(echo.infer(data=array)["data"], array, f"{shape} by {way}")
                mine = client.empty(shape, dtype)
                mine[...] = array
                same(echo.infer(data=mine)["data"], array, f"{shape} in shared memory by {way}")
        refused(diolkos.InvalidArgument, lambda: echo.infer(data=np.zeros((1,) * 17)), "17 dimensions")


def check_any_order_in_memory(daemon: Daemon) -> None:
    with daemon.connect() as client:
        echo = client.open("echo")
        base = np.arange(24, dtype=np.int32).reshape(2, 3, 4)
        mine = client.empty((2, 3, 4), np.int32)
        mine[...] = base
        for what, view, plain in [
            ("transposed", mine.T, base.T),
            ("every other", mine[:, ::2], base[:, ::2]),
            ("backwards", mine[::-1, :, ::-1], base[::-1, :, ::-1]),
            ("a column", mine[:, 1:2], base[:, 1:2]),
            ("repeated", np.broadcast_to(mine, (5, 2, 3, 4)), np.broadcast_to(base, (5, 2, 3, 4))),
        ]:
            expected = np.ascontiguousarray(plain)
            same(echo.infer(data=plain)["data"], expected, what)
            same(echo.infer(data=view)["data"], expected, f"{what}, in shared memory")
        same(echo.infer(data=np.asfortranarray(base))["data"], base, "Fortran order")
        same(echo.infer(data=base.astype(">i4"))["data"], base, "big endian")
        same(echo.infer(data=mine.view(">i4"))["data"], base.byteswap(), "big endian in shared memory")
        unaligned = np.frombuffer(b"x" + base.tobytes(), np.int32, offset=1)
        same(echo.infer(data=unaligned)["data"], base.ravel(), "unaligned")
        same(echo.infer(data=base.view(np.ndarray))["data"], base)


def check_bfloat16_without_ml_dtypes(daemon: Daemon) -> None:
    from diolkos import _arrays

    bits = np.array([0x3F80, 0xC020], np.uint16)
    with daemon.connect() as client:
        array = client.empty(2, "bfloat16")
        same(array.dtype, np.dtype(ml_dtypes.bfloat16))
        there = _arrays._bfloat16
        try:
            vars(_arrays)["_bfloat16"] = lambda: np.dtype(np.uint16)
            array = client.empty(2, "bfloat16")
            array[...] = bits
            reply = client.infer("echo", data=array)
            same(reply["data"], bits)
            same(client.infer("minmax", data=array)["max"], np.array(0x3F80, np.uint16), "compared as bfloat16")
        finally:
            vars(_arrays)["_bfloat16"] = there


def check_strings(daemon: Daemon) -> None:
    words = np.array([[b"", b"a\x00b\x00"], ["Διόλκος".encode(), b"x" * 300]], object)
    for way, client in ways(daemon):
        echo = client.open("echo")
        output = echo.infer(data=words)["data"]
        same(output, words, way)
        refused(ValueError, lambda: output.fill(b""))
        for given in (["one", "δύο"], np.array(["one", "δύο"]), np.array(["one".encode(), "δύο".encode()])):
            same(echo.infer(data=given)["data"].tolist(), [b"one", "δύο".encode()], f"{given!r} by {way}")
        same(echo.infer(data=np.array("one"))["data"], np.array(b"one", object), "a single one")
        same(echo.infer(data=np.empty((0, 2), object))["data"], np.empty((0, 2), object), "none")
        refused(diolkos.InvalidArgument, lambda: echo.infer(data=np.array([b"a", 3], object)), "'data'", "int")


def check_what_is_no_array_takes_the_models_type(daemon: Daemon) -> None:
    with daemon.connect() as client:
        result = client.infer("blas.sgemm", A=[[1, 2], [3, 4]], B=[[1, 0], [0, 1]])["result"]
        same(result, np.array([[1, 2], [3, 4]], np.float32))
        same(client.infer("echo", data=7)["data"].item(), 7)
        same(client.infer("echo", data=[1.5, 2])["data"], np.array([1.5, 2.0]))
        refused(diolkos.InvalidArgument, lambda: client.infer("blas.sgemm", A=["x"], B=[1]), "'A'", "FP32")
        refused(diolkos.InvalidArgument, lambda: client.infer("echo", data=[[1], [1, 2]]), "'data'")


def check_types_that_the_daemon_does_not_know(daemon: Daemon) -> None:
    with daemon.connect() as client:
        for array in (np.zeros(2, np.complex64), np.zeros(2, "datetime64[s]"), np.zeros(2, "i4,f4")):
            refused(diolkos.InvalidArgument, lambda: client.infer("echo", data=array), "'data'", "does not know")
            refused(diolkos.InvalidArgument, lambda: client.empty(2, array.dtype), "no shared memory")
        refused(diolkos.InvalidArgument, lambda: client.empty(2, object), "no shared memory")
        refused(diolkos.InvalidArgument, lambda: client.empty(2, ">f4"), "no shared memory")
        refused(diolkos.InvalidArgument, lambda: client.empty((2, -1)), "negative")
        refused(diolkos.InvalidArgument, lambda: client.empty(2**62), "too large")
        # What does not fit the declared type is refused by the daemon, and not converted.
        refused(diolkos.InvalidArgument, lambda: client.infer("blas.sgemm", A=np.eye(2), B=np.eye(2)), "FP32")
