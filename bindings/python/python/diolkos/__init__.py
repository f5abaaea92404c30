# SPDX-License-Identifier: Apache-2.0
"""Client of a Diolkos daemon.

    import diolkos, numpy as np

    with diolkos.connect() as d:
        scores = d.infer("mobilenet", data=image)["output"]

On a unix socket, tensors lie in memory that the daemon shares:

- An array from `Client.empty` is sent without a copy. While a request has it, it is read-only.
- Any other array is copied into that memory once.
- Outputs are read-only arrays on that memory. It is used again when the last array on it is gone.

`diolkos.aio` has the same for asyncio. Every error is a `diolkos.Error`.
"""

from . import aio
from ._client import Client, Model, Pending, connect
from ._errors import (
    Aborted,
    Busy,
    Cancelled,
    ConnectionLost,
    Error,
    Internal,
    InvalidArgument,
    ModelChanged,
    NoMemory,
    NotFound,
    PermissionDenied,
    Timeout,
    TooLarge,
    Unavailable,
    Unsupported,
)
from ._types import Health, ModelInfo, ModelStats, Reply, TensorSpec, Timing

__all__ = [
    "Aborted",
    "Busy",
    "Cancelled",
    "Client",
    "ConnectionLost",
    "Error",
    "Health",
    "Internal",
    "InvalidArgument",
    "Model",
    "ModelChanged",
    "ModelInfo",
    "ModelStats",
    "NoMemory",
    "NotFound",
    "Pending",
    "PermissionDenied",
    "Reply",
    "TensorSpec",
    "Timeout",
    "Timing",
    "TooLarge",
    "Unavailable",
    "Unsupported",
    "aio",
    "connect",
]
