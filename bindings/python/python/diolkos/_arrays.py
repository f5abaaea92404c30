# SPDX-License-Identifier: Apache-2.0
"""Arrays and the memory that they lie in.

An array whose base is a `Memory` of the same client is sent from where it is; so is a part of it that is contiguous.
While a request has it, `Memory` gives no writable view, and the array that `empty` gave is read-only.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from . import _native
from ._errors import InvalidArgument
from ._types import Reply, TensorSpec, Timing

__all__ = ["Inputs", "Loans", "are_soon_copied", "empty", "reply", "spec"]

Array: TypeAlias = npt.NDArray[Any]

Inputs: TypeAlias = Mapping[str, npt.ArrayLike] | None
"""Inputs by name."""

_DTYPES: dict[str, np.dtype[Any]] = {
    "BOOL": np.dtype(np.bool_),
    "UINT8": np.dtype(np.uint8),
    "UINT16": np.dtype(np.uint16),
    "UINT32": np.dtype(np.uint32),
    "UINT64": np.dtype(np.uint64),
    "INT8": np.dtype(np.int8),
    "INT16": np.dtype(np.int16),
    "INT32": np.dtype(np.int32),
    "INT64": np.dtype(np.int64),
    "FP16": np.dtype(np.float16),
    "FP32": np.dtype(np.float32),
    "FP64": np.dtype(np.float64),
    "BYTES": np.dtype(np.object_),
}
_NAMES = {dtype: name for name, dtype in _DTYPES.items() if name != "BYTES"}
_BITS = np.dtype(np.uint16)

# Some microseconds of copying: less than handing them to another thread takes.
_SHORT_BYTES = 64 << 10


@functools.cache
def _bfloat16() -> np.dtype[Any]:
    """NumPy has no bfloat16. Without ml_dtypes its bits are in a uint16."""
    try:
        import ml_dtypes
    except ImportError:
        return _BITS
    found: np.dtype[Any] = np.dtype(ml_dtypes.bfloat16)
    return found


def _dtype(data_type: str) -> np.dtype[Any]:
    return _bfloat16() if data_type == "BF16" else _DTYPES[data_type]


def _data_type(dtype: np.dtype[Any]) -> str | None:
    """The daemon's name of a type; None if it has none."""
    name = _NAMES.get(dtype)
    return "BF16" if name is None and dtype.name == "bfloat16" else name


def spec(given: _native._Spec) -> TensorSpec:
    """A declared tensor."""
    name, data_type, shape, optional = given
    dtype = None if data_type is None else _dtype(data_type)
    return TensorSpec(name, data_type, dtype, None if shape is None else tuple(shape), optional)


def empty(client: _native.Client, shape: int | Sequence[int], dtype: npt.DTypeLike) -> Array:
    """An array to fill, in the client's memory."""
    lengths = (shape,) if isinstance(shape, int) else tuple(int(length) for length in shape)
    if any(length < 0 for length in lengths):
        raise InvalidArgument(f"shape {lengths} has a negative dimension")
    if isinstance(dtype, str) and dtype in ("bfloat16", "BF16"):
        data_type, wanted = "BF16", _bfloat16()
    else:
        wanted = np.dtype(dtype)
        found = _data_type(wanted)
        if found is None:
            raise InvalidArgument(f"there is no shared memory for elements of {wanted.str or wanted}")
        data_type = found
    return _allocate(client, data_type, lengths, wanted)[1]


def _allocate(
    client: _native.Client, data_type: str, shape: tuple[int, ...], dtype: np.dtype[Any]
) -> tuple[_native.Memory, Array]:
    nbytes = dtype.itemsize
    for length in shape:
        nbytes *= length
    try:
        memory = client.allocate(data_type, shape, nbytes)
    except OverflowError:
        raise InvalidArgument(f"a tensor of shape {shape} is too large") from None
    return memory, _array(memory, shape, dtype)


def _array(memory: Any, shape: int | tuple[int, ...], dtype: npt.DTypeLike) -> Array:
    """An array on memory, which keeps it as its base. NumPy's stubs know no class with a buffer of its own."""
    return np.ndarray(shape, dtype, memory)


def _home(array: Array) -> tuple[_native.Memory, Array] | None:
    """The memory that an array lies in, and the array whose base it is."""
    root = array
    base = root.base
    while isinstance(base, np.ndarray):
        root = base
        base = root.base
    return (base, root) if isinstance(base, _native.Memory) else None


def are_soon_copied(values: Iterable[npt.ArrayLike]) -> bool:
    """Whether an event loop can take the time that inputs need: they are where they are sent from, or short."""
    return all(
        isinstance(value, np.ndarray)
        and not value.dtype.hasobject
        and (value.nbytes <= _SHORT_BYTES or _home(value) is not None and value.flags.c_contiguous)
        for value in values
    )


def sizes(values: Iterable[npt.ArrayLike]) -> tuple[int, int]:
    """Bytes of arrays, and of those among them that are copied before they are sent."""
    arrays = [value for value in values if isinstance(value, np.ndarray)]
    stay = [_home(array) is not None and array.flags.c_contiguous and array.dtype.isnative for array in arrays]
    copied = sum(array.nbytes for array, stays in zip(arrays, stay) if not stays)
    return sum(array.nbytes for array in arrays), copied


class Loans:
    """The inputs of a request, and what is lent for it."""

    __slots__ = ("inputs", "_lent")

    def __init__(self) -> None:
        self.inputs: list[_native._Input] = []
        self._lent: list[tuple[_native.Memory, Array]] = []

    def add(self, client: _native.Client, specs: Mapping[str, TensorSpec], name: str, value: npt.ArrayLike) -> None:
        """Adds an input, where it is or copied."""
        declared = specs.get(name)
        wanted = None if declared is None else declared.data_type
        if isinstance(value, np.ndarray):
            array: Array = value
        else:
            # Numbers of no type in particular take the model's.
            plain = None if wanted is None or wanted in ("BYTES", "BF16") else _DTYPES[wanted]
            try:
                array = np.asarray(value, plain)
            except (OverflowError, TypeError, ValueError) as error:
                raise InvalidArgument(f"input {name!r} is no array of {wanted or 'one type'}: {error}") from error
        kind = array.dtype.kind
        if kind in "OSU":
            self._strings(client, name, array)
            return
        dtype = array.dtype if array.dtype.isnative else array.dtype.newbyteorder("=")
        data_type = _data_type(dtype)
        if data_type is None:
            raise InvalidArgument(f"input {name!r} has elements of {array.dtype}, which the daemon does not know")
        home = _home(array)
        if data_type == "UINT16" and (wanted == "BF16" or (home is not None and home[0].data_type == "BF16")):
            data_type = "BF16"
        nbytes = array.nbytes
        if home is not None and array.flags.c_contiguous and array.dtype.isnative:
            memory, root = home
            start = array.__array_interface__["data"][0] - memory.address
            if memory.client == client.number and 0 <= start <= memory.nbytes - nbytes:
                if memory.writable:
                    flags = root.flags
                    memory.lend(flags.writeable)
                    self._lent.append((memory, root))
                    flags.writeable = False
                self.inputs.append((name, memory, data_type, array.shape, start, nbytes))
                return
        memory, copy = _allocate(client, data_type, array.shape, dtype)
        copy[...] = array
        self.inputs.append((name, memory, data_type, array.shape, 0, nbytes))

    def _strings(self, client: _native.Client, name: str, array: Array) -> None:
        parts: list[bytes] = []
        for item in array.ravel().tolist():
            if isinstance(item, str):
                item = item.encode()
            elif not isinstance(item, (bytes, bytearray, memoryview)):
                raise InvalidArgument(f"input {name!r} has an element of {type(item).__name__}, and not bytes or str")
            item = bytes(item)
            parts += (len(item).to_bytes(4, "little"), item)
        data = b"".join(parts)
        memory = client.allocate("BYTES", array.shape, len(data))
        _array(memory, len(data), np.uint8)[...] = np.frombuffer(data, np.uint8)
        self.inputs.append((name, memory, "BYTES", array.shape, 0, len(data)))

    def give_back(self) -> None:
        """The request has ended: arrays that were writable are so again. May be called more than once."""
        self.inputs = []
        while self._lent:
            try:
                memory, root = self._lent.pop()
            except IndexError:  # another thread was quicker
                return
            if memory.give_back():
                try:
                    root.flags.writeable = True
                except ValueError:
                    pass  # lent again by another thread


def reply(version: int, timing: tuple[int, int, int, int], outputs: Iterable[tuple[str, _native.Memory]]) -> Reply:
    """A reply with its arrays."""
    made = Reply()
    made.version = version
    made.timing = Timing(*timing)
    for name, memory in outputs:
        data_type = memory.data_type
        if data_type == "BYTES":
            strings = np.empty(memory.shape, np.object_)
            strings.ravel()[...] = memory.strings()
            strings.flags.writeable = False
            made[name] = strings
        else:
            made[name] = _array(memory, memory.shape, _dtype(data_type))
    return made
