# SPDX-License-Identifier: Apache-2.0
"""What a program calls."""

from __future__ import annotations

import atexit
import os
import sys
import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, Literal, Self, TypeAlias

import numpy as np
import numpy.typing as npt

from . import _arrays, _native
from ._arrays import Inputs, Loans
from ._errors import Error, InvalidArgument, ModelChanged, NotFound, Timeout, Unavailable
from ._types import Health, ModelInfo, ModelStats, Reply, TensorSpec, Timing

__all__ = ["Client", "Model", "Pending", "connect"]

Priority: TypeAlias = Literal["interactive", "standard", "batch"]
Waiting: TypeAlias = Literal["adaptive", "blocking", "polling"]

# Models that `Client.infer` keeps open: enough for any program, and far from what a daemon allows.
_OPEN_MAX = 64

_clients: weakref.WeakSet[Client] = weakref.WeakSet()


@atexit.register
def _leave() -> None:
    """Ends all waits, so that no thread comes back to an interpreter that is gone."""
    for client in list(_clients):
        client.close()
    _native.settle(2.0)


os.register_at_fork(after_in_child=_native.after_fork)


def connect(
    address: str = "env",
    *,
    waiting: Waiting = "adaptive",
    private_memory: bool = False,
    in_flight: int = 64,
    region_bytes: int = 1 << 20,
    reconnect: float = 5.0,
    name: str | None = None,
    tenant: str | None = None,
    huge_pages: bool = True,
) -> Client:
    """Connects to a daemon.

    address: `unix:PATH`, `tcp:HOST:PORT`, `tls:HOST:PORT` (see DIOLKOS_CA, DIOLKOS_CERTIFICATE and DIOLKOS_KEY), or `env`: what DIOLKOS_ENDPOINT says, or else the daemon's default socket.
    waiting: how to wait for an answer in shared memory. `"adaptive"` looks for up to 60 µs if answers have been coming
        that quickly, and then sleeps; `"blocking"` sleeps at once; `"polling"` looks until it is there, which costs a
        core.
    private_memory: keep tensors in this process's own memory and send them through the socket, as TCP always does.
    in_flight: how many requests can be under way at once; a power of two, at most 512.
    region_bytes: size of the first region of shared memory, in bytes, whose pages are made at once; more are made as
        they are needed, each as large as all before it, but of 64 MiB at most or as large as its tensor.
    reconnect: how long to try to connect again when the connection is lost, in seconds. Requests that were under way
        are sent again then (but see `Model.with_options`, `once`). 0: not at all.
    name: this client's name in the daemon's log; the program's by default.
    tenant: the tenant that this client speaks for, if it is a bridge (`tenants.NAME.acts_for` in the daemon's settings);
        by default what DIOLKOS_TENANT says, or else itself.
    huge_pages: whether the kernel may put pages of shared memory together into huge ones.

    Raises ConnectionLost if nobody answers there, InvalidArgument if the address is none.
    """
    return Client(
        _native.Client(
            address,
            waiting=waiting,
            private_memory=private_memory,
            in_flight=in_flight,
            region_bytes=region_bytes,
            reconnect=reconnect,
            name=os.path.basename(sys.argv[0] if sys.argv else "") or "python" if name is None else name,
            tenant=tenant,
            huge_pages=huge_pages,
        )
    )


class Client:
    """A daemon, as this program sees it. For many threads at once.

    Made by `connect`. Used with `with`, or ended by `close`. Not for a process that was forked off: connect there.
    """

    def __init__(self, native: _native.Client) -> None:
        self._native = native
        self._models: dict[str, Model] = {}
        self._lock = threading.Lock()
        _clients.add(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends the connection. Whoever waits gets ConnectionLost, and so does whoever asks later. Arrays stay."""
        self._native.close()

    @property
    def shares_memory(self) -> bool:
        """Whether arrays lie in memory that the daemon shares, and are not sent through the socket."""
        return self._native.shares_memory

    def infer(self, model: str, inputs: Inputs = None, /, **named: npt.ArrayLike) -> Reply:
        """Sends a request to a model or built-in operation, and waits for its reply.

        Inputs are given by name, as keywords or, for names that are no identifiers, in a mapping. They are NumPy arrays,
        or what `numpy.asarray` takes; numbers and lists take the type that the model declares. Arrays of `empty` are sent
        from where they are and are read-only meanwhile; others are copied once. `BYTES` are arrays of bytes or str.

        Raises what the daemon refuses with (NotFound, InvalidArgument, Busy …), and ConnectionLost.
        """
        try:
            return self._opened(model).infer(inputs, **named)
        except (ModelChanged, NotFound, Unavailable) as error:
            with self._lock:
                self._models.pop(model, None)
            if not isinstance(error, ModelChanged):
                raise
        return self._opened(model).infer(inputs, **named)

    def _opened(self, name: str) -> Model:
        model = self._models.get(name)
        if model is None:
            model = self.open(name)
            with self._lock:
                while len(self._models) >= _OPEN_MAX:
                    del self._models[next(iter(self._models))]
                self._models[name] = model
        return model

    def open(self, name: str, version: int | None = None) -> Model:
        """Opens a model or built-in operation; one version of it, or whichever is current when a request comes.

        Raises NotFound.
        """
        return Model(self._native, self._native.open(name, version))

    def empty(self, shape: int | Sequence[int], dtype: npt.DTypeLike = np.float32) -> npt.NDArray[Any]:
        """An array to fill, in memory that the daemon shares: sending it, or a contiguous part of it, copies nothing.

        Its elements are whatever was there before. While a request has it, it is read-only: from `submit` or `infer` until
        the reply, the error or `cancel`. Several requests can have it at once. The memory is used again when the last
        array on it is gone.

        dtype: also `"bfloat16"`, which is ml_dtypes.bfloat16 if that is installed, and otherwise its bits in uint16. There
        is none for strings.

        Raises NoMemory if the daemon grants no more.
        """
        return _arrays.empty(self._native, shape, dtype)

    def models(self) -> list[ModelInfo]:
        """The models that there are."""
        return [ModelInfo(*model) for model in self._native.models()]

    def stats(self, name: str | None = None) -> list[ModelStats]:
        """What a model did so far, or all of them, version by version."""
        return [ModelStats(*model[:5], Timing(*model[5])) for model in self._native.stats(name)]

    def health(self) -> Health:
        """How the daemon is."""
        return Health(*self._native.health())

    def load(self, name: str) -> None:
        """Loads a model that is installed. Raises PermissionDenied where the daemon does not let clients do that."""
        self._native.load(name)

    def unload(self, name: str) -> None:
        """Unloads a model. Raises PermissionDenied where the daemon does not let clients do that."""
        self._native.unload(name)


class Model:
    """A model or built-in operation, opened. For many threads at once. Made by `Client.open`."""

    def __init__(
        self, client: _native.Client, native: _native.Model, options: _native.Options | None = None
    ) -> None:
        self._client = client
        self._native = native
        self._options = _options() if options is None else options
        self._inputs = tuple(_arrays.spec(spec) for spec in native.inputs())
        self._specs = {spec.name: spec for spec in self._inputs}

    def __repr__(self) -> str:
        return f"<diolkos.Model {self.name!r} version {self.version}>"

    @property
    def name(self) -> str:
        """Its name."""
        return self._native.name

    @property
    def version(self) -> int:
        """The version that was current when it was opened."""
        return self._native.version

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """What it takes."""
        return self._inputs

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """What it gives."""
        return tuple(_arrays.spec(spec) for spec in self._native.outputs())

    def with_options(
        self,
        *,
        priority: Priority = "standard",
        timeout: float | None = None,
        params: Mapping[str, bool | int | float | str] | None = None,
        outputs: Sequence[str] | None = None,
        once: bool = False,
    ) -> Model:
        """The same model, whose requests say more than their inputs.

        priority: which of this tenant's own requests go first.
        timeout: a request that has not begun after so many seconds never runs, and raises Timeout.
        params: parameters for the operation, such as `alpha` of `blas.sgemm`.
        outputs: names of the wanted outputs in the wanted order; all by default.
        once: running it twice is not the same as running it once, so it is not sent again when the connection is lost.
        """
        return Model(self._client, self._native, _options(priority, timeout, params, outputs, once))

    def _sends_soon(self, values: Sequence[npt.ArrayLike]) -> bool:
        """Whether `submit` takes no time to speak of."""
        return _arrays.are_soon_copied(values) and not self._native.would_wait(*_arrays.sizes(values))

    def infer(self, inputs: Inputs = None, /, **named: npt.ArrayLike) -> Reply:
        """Sends a request and waits for its reply. See `Client.infer`."""
        with self.submit(inputs, **named) as pending:
            return pending.wait()

    def submit(self, inputs: Inputs = None, /, **named: npt.ArrayLike) -> Pending:
        """Sends a request. Many can be under way at once; with as many as `in_flight`, this waits for one to end."""
        loans = Loans()
        try:
            if inputs is not None:
                for name, value in inputs.items():
                    loans.add(self._client, self._specs, name, value)
            for name, value in named.items():
                if inputs is not None and name in inputs:
                    raise InvalidArgument(f"input {name!r} is given twice")
                loans.add(self._client, self._specs, name, value)
            native = self._native.submit(loans.inputs, self._options)
        except BaseException:
            loans.give_back()
            raise
        return Pending(native, loans)


def _options(
    priority: str = "standard",
    timeout: float | None = None,
    params: Mapping[str, bool | int | float | str] | None = None,
    outputs: Sequence[str] | None = None,
    once: bool = False,
) -> _native.Options:
    return _native.Options(
        priority=priority,
        timeout=timeout,
        params=None if params is None else dict(params),
        outputs=None if outputs is None else list(outputs),
        once=once,
    )


class Pending:
    """A request that was sent. Made by `Model.submit`.

    Dropping it, or leaving its `with` block, cancels the request if it has not ended.
    """

    __slots__ = ("_loans", "_native", "__weakref__")

    def __init__(self, native: _native.Pending, loans: Loans) -> None:
        self._native = native
        self._loans = loans

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.cancel()

    def __del__(self) -> None:
        self.cancel()

    def wait(self, timeout: float | None = None) -> Reply:
        """Waits for the reply, for so many seconds at most. It is given once.

        Raises what the request was refused with; Cancelled after `cancel`; Timeout (without a code) if the reply has not
        come in time: the request is still under way then and can be waited for again. Ctrl-C ends the wait within 50 ms.
        """
        try:
            given = self._native.wait(timeout)
        except Error:
            self._loans.give_back()
            raise
        if given is None:
            raise Timeout(f"no reply came within {timeout} s; the request is still under way")
        self._loans.give_back()
        return _arrays.reply(*given)

    def cancel(self) -> None:
        """Cancels the request. Arrays that it had can be written again. Does nothing if it has ended."""
        self._native.cancel()
        self._loans.give_back()

    def _watch(self, arrivals: _native.Arrivals, token: int) -> Reply | None:
        """Has an event loop told when it is worth polling."""
        return self._polled(lambda: self._native.watch(arrivals, token))

    def _poll(self) -> Reply | None:
        return self._polled(self._native.poll)

    def _polled(self, poll: Callable[[], _native._Reply | None]) -> Reply | None:
        try:
            given = poll()
        except Error:
            self._loans.give_back()
            raise
        if given is None:
            return None
        self._loans.give_back()
        return _arrays.reply(*given)
