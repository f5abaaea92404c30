# SPDX-License-Identifier: Apache-2.0
"""The native part of `diolkos`. Programs use the package; what is here may change at any time."""

from collections.abc import Sequence
from typing import Any, TypeAlias, final

__all__ = ["Arrivals", "Client", "Memory", "Model", "Options", "Pending", "after_fork", "settle"]

# Queue, copy in, compute, copy out: nanoseconds.
_Timing: TypeAlias = tuple[int, int, int, int]
# Version, timing, outputs by name.
_Reply: TypeAlias = tuple[int, _Timing, list[tuple[str, Memory]]]

# Name, data type (None: any), dimensions (None: any; None of one: it varies), may be left out.
_Spec: TypeAlias = tuple[str, str | None, list[int | None] | None, bool]
# Name, memory, data type, shape, first byte, number of bytes.
_Input: TypeAlias = tuple[str, Memory, str, tuple[int, ...], int, int]

@final
class Client:
    """A daemon, as a client sees it."""

    def __new__(
        cls,
        address: str,
        *,
        waiting: str,
        private_memory: bool,
        in_flight: int,
        region_bytes: int,
        reconnect: float,
        name: str,
        tenant: str | None,
        huge_pages: bool,
    ) -> Client: ...
    @property
    def number(self) -> int:
        """Tells this client's memory from that of others."""
    @property
    def shares_memory(self) -> bool:
        """Whether tensors lie in memory that the daemon shares."""
    def allocate(self, data_type: str, shape: Sequence[int], nbytes: int) -> Memory:
        """Memory for a tensor."""
    def open(self, name: str, version: int | None) -> Model:
        """Opens a model."""
    def models(self) -> list[tuple[str, int | None, str, str]]:
        """Name, version, state and reason of every model."""
    def stats(self, name: str | None) -> list[tuple[str, int, int, int, int, _Timing]]:
        """What a model, or all of them, did so far."""
    def health(self) -> tuple[bool, bool]:
        """Whether it is live, and ready."""
    def load(self, name: str) -> None:
        """Loads a model."""
    def unload(self, name: str) -> None:
        """Unloads a model."""
    def close(self) -> None:
        """Ends the connection, and every wait. Does nothing in a process that was forked off."""

@final
class Memory:
    """The bytes of a tensor, in a region that the daemon shares or in this process's own memory."""

    @property
    def client(self) -> int: ...
    @property
    def writable(self) -> bool: ...
    @property
    def data_type(self) -> str:
        """Name of its data type, such as `FP32`."""
    @property
    def shape(self) -> tuple[int, ...]:
        """Its dimensions."""
    @property
    def address(self) -> int:
        """Where the bytes are in this process."""
    @property
    def nbytes(self) -> int:
        """How many bytes there are."""
    def lend(self, writable: bool) -> None:
        """A request gets it. `writable`: the array on it is, and is to be again afterwards."""
    def give_back(self) -> bool:
        """A request that had it has ended. Says whether the array is to be made writable again."""
    def strings(self) -> list[bytes]:
        """The elements of a `BYTES` tensor."""

@final
class Options:
    """What a request says besides its inputs."""

    def __new__(
        cls,
        *,
        priority: str,
        timeout: float | None,
        params: dict[str, Any] | None,
        outputs: list[str] | None,
        once: bool,
    ) -> Options: ...

@final
class Model:
    """A model, opened."""

    @property
    def name(self) -> str:
        """Its name."""
    @property
    def version(self) -> int:
        """The version that was current when it was opened."""
    def inputs(self) -> list[_Spec]:
        """What it takes."""
    def outputs(self) -> list[_Spec]:
        """What it gives."""
    def would_wait(self, nbytes: int, copied: int) -> bool:
        """Whether sending a request with so many bytes of inputs, so many of which are copied first, would wait now."""
    def submit(self, inputs: list[_Input], options: Options) -> Pending:
        """Sends a request."""

@final
class Pending:
    """A request that was sent. Dropping it cancels the request."""

    def wait(self, seconds: float | None) -> _Reply | None:
        """Waits for the reply, for so many seconds at most. None: it has not come, and can still be waited for."""
    def watch(self, arrivals: Arrivals, token: int) -> _Reply | None:
        """Has `arrivals` tell `token` when it is worth polling. Says at once if the reply is there already."""
    def poll(self) -> _Reply | None:
        """The reply, if it has come."""
    def cancel(self) -> None:
        """Cancels it. A thread that waits for it is told."""

@final
class Arrivals:
    """Which requests are worth polling."""

    def __new__(cls) -> Arrivals: ...
    def fileno(self) -> int:
        """A descriptor that can be read while the list is not empty."""
    def take(self) -> list[int]:
        """The list, which is empty then."""

def settle(seconds: float) -> bool:
    """Ends all waits. Waits until no thread is within a call any more, for so many seconds at most. Says whether it is so."""

def after_fork() -> None:
    """To be called in a process that was just forked off: nothing of its parent's is its own."""
