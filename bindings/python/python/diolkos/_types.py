# SPDX-License-Identifier: Apache-2.0
"""What calls give."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["Health", "ModelInfo", "ModelStats", "Reply", "TensorSpec", "Timing"]


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """A tensor that a model takes or gives."""

    name: str
    """Its name: the keyword of `infer`, and the key of a reply."""
    data_type: str | None
    """What the daemon calls the type of its elements, such as `"FP32"`; None if every type is taken."""
    dtype: np.dtype[Any] | None
    """The same as NumPy's type: object for `BYTES`, ml_dtypes.bfloat16 or else uint16 for `BF16`."""
    shape: tuple[int | None, ...] | None
    """Its dimensions, outermost first; None in place of one that varies, and of all if every shape is taken."""
    optional: bool
    """Whether it may be left out."""


@dataclass(frozen=True, slots=True)
class Timing:
    """Where the time went in the daemon, in nanoseconds."""

    queue_ns: int
    """Until a slot took the job."""
    copy_in_ns: int
    """Bringing inputs to where the backend reads them."""
    compute_ns: int
    """Computing."""
    copy_out_ns: int
    """Handing outputs over."""


@dataclass(frozen=True, slots=True)
class Health:
    """How the daemon is."""

    live: bool
    """It answers."""
    ready: bool
    """Every model named at its start was loaded, or failed to be."""


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """A model that the daemon has."""

    name: str
    version: int | None
    """None for one without any."""
    state: str
    """`"ready"`, `"loading"`, `"unavailable"` (not loaded) or `"failed"` (could not be loaded)."""
    reason: str
    """Why it does not serve, if it does not."""


@dataclass(frozen=True, slots=True)
class ModelStats:
    """What a version of a model did so far."""

    name: str
    version: int
    succeeded: int
    """Requests with a result."""
    failed: int
    """Requests without."""
    executions: int
    """Runs of the backend."""
    timing: Timing
    """The time of all requests together."""


class Reply(dict[str, npt.NDArray[Any]]):
    """What came of a request: its outputs by name, in the order in which they were asked for.

    They are read-only arrays on memory that the daemon wrote. It is used again when the last array on it, or on a part
    of it, is gone; all outputs of a reply share one piece. Outputs of `BYTES` are ordinary arrays of bytes objects.
    """

    __slots__ = ("timing", "version")

    version: int
    """Version of the model that ran."""
    timing: Timing
    """Where the time went in the daemon."""
