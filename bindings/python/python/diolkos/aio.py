# SPDX-License-Identifier: Apache-2.0
"""The same for asyncio.

    async with diolkos.aio.connect() as d:
        scores = (await d.infer("mobilenet", data=image))["output"]

Any number of requests can be awaited at once. To cancel the task that awaits one is to cancel the request.

    coroutine ── short inputs ───────────────────── shared memory ──> daemon
        ^    └── others ──> thread that sends ─────────┘                │
        └─────── event loop <── a descriptor <── thread that receives <─┘

Whatever takes time is done by two threads of the client, one for requests and one for other calls: copying long inputs,
connecting again, waiting while too many requests are under way. So the event loop does not wait, and arrays that were passed
must not be changed before the reply. Replies come through a descriptor that the loop watches, so this needs a loop with `add_reader`,
as all have but Windows' proactor.
"""

from __future__ import annotations

import asyncio
import itertools
import queue
import threading
from collections.abc import Callable, Generator, Mapping, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar

import numpy as np
import numpy.typing as npt

from . import _client, _native
from ._arrays import Inputs
from ._client import Priority, Waiting
from ._errors import ConnectionLost, Error, ModelChanged, NotFound, Unavailable
from ._types import Health, ModelInfo, ModelStats, Reply, TensorSpec

__all__ = ["Client", "Model", "connect"]

T = TypeVar("T")


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
    """A client that connects when it is awaited, or entered with `async with`. See `diolkos.connect`."""
    return Client(
        lambda: _client.connect(
            address,
            waiting=waiting,
            private_memory=private_memory,
            in_flight=in_flight,
            region_bytes=region_bytes,
            reconnect=reconnect,
            name=name,
            tenant=tenant,
            huge_pages=huge_pages,
        )
    )


class Client:
    """A daemon, as the coroutines of one event loop see it. Made by `connect`; ended by `close` or `async with`."""

    def __init__(self, connect: Callable[[], _client.Client]) -> None:
        self._connect = connect
        self._requests = _Requests()
        self._calls = _Worker("diolkos-calls")
        self._sync: _client.Client | None = None
        self._models: dict[str, Model] = {}

    async def __aenter__(self) -> Self:
        if self._sync is None:
            self._sync = await self._calls.do(self._connect)
            self._requests.start()
        return self

    def __await__(self) -> Generator[Any, None, Self]:
        return self.__aenter__().__await__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def __del__(self) -> None:
        # Without `close` and perhaps without a loop: the threads and the connection end all the same.
        self._calls.stop()
        self._requests.abandon()

    async def close(self) -> None:
        """Ends the connection. Whoever waits gets ConnectionLost, and so does whoever asks later."""
        if self._sync is not None:
            self._sync.close()
        self._requests.stop()

    @property
    def _connected(self) -> _client.Client:
        if self._sync is None:
            raise Error("this client is not connected: await it, or enter it with `async with`")
        return self._sync

    @property
    def shares_memory(self) -> bool:
        """Whether arrays lie in memory that the daemon shares, and are not sent through the socket."""
        return self._connected.shares_memory

    async def infer(self, model: str, inputs: Inputs = None, /, **named: npt.ArrayLike) -> Reply:
        """Sends a request to a model or built-in operation, and waits for its reply. See `diolkos.Client.infer`."""
        try:
            return await (await self._opened(model)).infer(inputs, **named)
        except (ModelChanged, NotFound, Unavailable) as error:
            self._models.pop(model, None)
            if not isinstance(error, ModelChanged):
                raise
        return await (await self._opened(model)).infer(inputs, **named)

    async def _opened(self, name: str) -> Model:
        model = self._models.get(name)
        if model is None:
            model = await self.open(name)
            while len(self._models) >= _client._OPEN_MAX:
                del self._models[next(iter(self._models))]
            self._models[name] = model
        return model

    async def open(self, name: str, version: int | None = None) -> Model:
        """Opens a model or built-in operation. See `diolkos.Client.open`."""
        client = self._connected
        return Model(self._requests, await self._calls.do(lambda: client.open(name, version)))

    def empty(self, shape: int | Sequence[int], dtype: npt.DTypeLike = np.float32) -> npt.NDArray[Any]:
        """An array to fill, in memory that the daemon shares. See `diolkos.Client.empty`. Does not wait."""
        return self._connected.empty(shape, dtype)

    async def models(self) -> list[ModelInfo]:
        """The models that there are."""
        return await self._calls.do(self._connected.models)

    async def stats(self, name: str | None = None) -> list[ModelStats]:
        """What a model did so far, or all of them, version by version."""
        client = self._connected
        return await self._calls.do(lambda: client.stats(name))

    async def health(self) -> Health:
        """How the daemon is."""
        return await self._calls.do(self._connected.health)

    async def load(self, name: str) -> None:
        """Loads a model that is installed. Raises PermissionDenied where the daemon does not let clients do that."""
        client = self._connected
        await self._calls.do(lambda: client.load(name))

    async def unload(self, name: str) -> None:
        """Unloads a model. Raises PermissionDenied where the daemon does not let clients do that."""
        client = self._connected
        await self._calls.do(lambda: client.unload(name))


class Model:
    """A model or built-in operation, opened. Made by `Client.open`."""

    def __init__(self, requests: _Requests, model: _client.Model) -> None:
        self._requests = requests
        self._model = model

    def __repr__(self) -> str:
        return f"<diolkos.aio.Model {self.name!r} version {self.version}>"

    @property
    def name(self) -> str:
        """Its name."""
        return self._model.name

    @property
    def version(self) -> int:
        """The version that was current when it was opened."""
        return self._model.version

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """What it takes."""
        return self._model.inputs

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """What it gives."""
        return self._model.outputs

    def with_options(
        self,
        *,
        priority: Priority = "standard",
        timeout: float | None = None,
        params: Mapping[str, bool | int | float | str] | None = None,
        outputs: Sequence[str] | None = None,
        once: bool = False,
    ) -> Model:
        """The same model, whose requests say more than their inputs. See `diolkos.Model.with_options`."""
        model = self._model.with_options(
            priority=priority, timeout=timeout, params=params, outputs=outputs, once=once
        )
        return Model(self._requests, model)

    async def infer(self, inputs: Inputs = None, /, **named: npt.ArrayLike) -> Reply:
        """Sends a request and waits for its reply. See `diolkos.Client.infer`."""
        model = self._model
        values = [*(inputs or {}).values(), *named.values()]
        # While the thread sends, it may take the last place that is left.
        at_once = self._requests.is_idle and model._sends_soon(values)
        return await self._requests.ask(lambda: model.submit(inputs, **named), at_once)


class _Jobs:
    """What a thread has to do. It has nothing else, so a client that nobody closes can still go away."""

    def __init__(self) -> None:
        self.queue: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        # Each counted by one thread only.
        self.asked = 0
        self.done = 0

    def work(self) -> None:
        while (job := self.queue.get()) is not None:
            job()
            del job  # holds tensors, and the next one may be long in coming
            self.done += 1


class _Worker:
    """A thread that does one thing after the other for coroutines, from the first one on."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._jobs = _Jobs()

    def put(self, job: Callable[[], None]) -> None:
        if self._jobs.asked == 0:
            threading.Thread(target=self._jobs.work, name=self._name, daemon=True).start()
        self._jobs.asked += 1
        self._jobs.queue.put(job)

    @property
    def is_idle(self) -> bool:
        return self._jobs.asked == self._jobs.done

    async def do(self, call: Callable[[], T]) -> T:
        """Awaits a call. If the task is cancelled meanwhile, what comes of it is dropped."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()

        def job() -> None:
            if future.cancelled():
                return
            try:
                result = call()
            except BaseException as error:  # noqa: BLE001 - whatever it is belongs to the caller
                _tell(loop, _fail, future, error)
            else:
                _tell(loop, _settle, future, result)

        self.put(job)
        return await future

    def stop(self) -> None:
        """Lets the thread end after what was asked for."""
        self._jobs.queue.put(None)


def _tell(loop: asyncio.AbstractEventLoop, callback: Callable[..., object], *arguments: object) -> None:
    try:
        loop.call_soon_threadsafe(callback, *arguments)
    except RuntimeError:
        pass  # the loop is closed: nobody waits any more


def _settle(future: asyncio.Future[T], result: T) -> None:
    if not future.done():
        future.set_result(result)


def _fail(future: asyncio.Future[T], error: BaseException) -> None:
    if not future.done():
        future.set_exception(error)


class _Request:
    """A request from when it is asked for until its end. `lock` guards `pending` and `cancelled`."""

    __slots__ = ("cancelled", "future", "lock", "pending", "token")

    def __init__(self, token: int, future: asyncio.Future[Reply]) -> None:
        self.token = token
        self.future = future
        self.lock = threading.Lock()
        self.pending: _client.Pending | None = None
        self.cancelled = False

    def cancel(self) -> None:
        with self.lock:
            self.cancelled = True
            pending, self.pending = self.pending, None
        if pending is not None:
            pending.cancel()


class _Requests:
    """The requests of a client, and how the loop hears of their replies."""

    def __init__(self) -> None:
        self._arrivals = _native.Arrivals()
        self._sender = _Worker("diolkos-sender")
        self._under_way: dict[int, _Request] = {}
        self._tokens = itertools.count()
        self._loop: asyncio.AbstractEventLoop | None = None

    def start(self) -> None:
        """Has the running loop watch the descriptor."""
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._arrivals.fileno(), self._arrived)

    def stop(self) -> None:
        """Tells everybody who waits, and watches no more."""
        if self._loop is not None:
            self._loop.remove_reader(self._arrivals.fileno())
            self._loop = None
        for request in list(self._under_way.values()):
            _fail(request.future, ConnectionLost("this client was closed"))
        self._sender.stop()

    def abandon(self) -> None:
        """As `stop`, where there may be no loop."""
        if self._loop is not None and not self._loop.is_closed():
            _tell(self._loop, self._loop.remove_reader, self._arrivals.fileno())
        self._sender.stop()

    @property
    def is_idle(self) -> bool:
        """Whether the thread that sends has nothing to do."""
        return self._sender.is_idle

    async def ask(self, submit: Callable[[], _client.Pending], at_once: bool) -> Reply:
        """Sends a request, on this thread or on that for it, and waits for its reply."""
        loop = self._loop
        if loop is None:
            raise ConnectionLost("this client was closed")
        if loop is not asyncio.get_running_loop():
            raise Error("this client belongs to another event loop")
        request = _Request(next(self._tokens), loop.create_future())
        self._under_way[request.token] = request
        try:
            if at_once:
                self._send(loop, request, submit)
            else:
                self._sender.put(lambda: self._send(loop, request, submit))
            return await request.future
        finally:
            del self._under_way[request.token]
            # Does nothing if it has ended.
            request.cancel()

    def _send(
        self, loop: asyncio.AbstractEventLoop, request: _Request, submit: Callable[[], _client.Pending]
    ) -> None:
        """On the thread that sends, or in the loop."""
        if request.cancelled:
            return
        try:
            pending = submit()
            with request.lock:
                if not request.cancelled:
                    request.pending = pending
            if request.pending is None:
                pending.cancel()
                return
            reply = pending._watch(self._arrivals, request.token)
        except BaseException as error:  # noqa: BLE001 - whatever it is belongs to the caller
            _tell(loop, _fail, request.future, error)
        else:
            if reply is not None:
                _tell(loop, _settle, request.future, reply)

    def _arrived(self) -> None:
        """In the loop: some requests are worth polling."""
        for token in self._arrivals.take():
            request = self._under_way.get(token)
            if request is None or request.pending is None or request.future.done():
                continue
            try:
                reply = request.pending._poll()
            except Exception as error:  # noqa: BLE001 - whatever it is belongs to the caller
                _fail(request.future, error)
            else:
                if reply is not None:
                    _settle(request.future, reply)
