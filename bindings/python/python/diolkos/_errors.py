# SPDX-License-Identifier: Apache-2.0
"""Exceptions: one class for each code of the daemon, and some for what goes wrong on this side.

Where Python has an exception of the same meaning, the class is one of those as well.
"""

__all__ = [
    "Aborted",
    "Busy",
    "Cancelled",
    "ConnectionLost",
    "Error",
    "Internal",
    "InvalidArgument",
    "ModelChanged",
    "NoMemory",
    "NotFound",
    "PermissionDenied",
    "Timeout",
    "TooLarge",
    "Unavailable",
    "Unsupported",
    "make",
]


class Error(Exception):
    """Why a call got no result. The text says what was wrong and what to do."""

    code: str | None = None
    """The daemon's code, such as `"not_found"`; None for an error of this side."""


class InvalidArgument(Error, ValueError):
    """The request is wrong, and sending it again fails again: a shape, a type, a name, an address."""


class NotFound(Error):
    """There is no such model, or no such version of it."""


class Busy(Error):
    """A limit of the daemon is reached now."""

    retry_after: float | None = None
    """Seconds after which it is worth trying again, if the daemon said so."""


class Timeout(Error, TimeoutError):
    """It took too long.

    With the code `"deadline_exceeded"`, the request did not begin in time and never ran. Without a code, `wait` gave up:
    the request is still under way.
    """


class Cancelled(Error):
    """The request was cancelled."""


class Unsupported(Error):
    """The daemon knows what is asked for and does not offer it."""


class Unavailable(Error):
    """The model is there and can't serve now: it is being loaded, could not be loaded, or the daemon is going away."""


class PermissionDenied(Error, PermissionError):
    """The daemon does not let this client do that."""


class TooLarge(Error):
    """The request needs more than the daemon will ever give it."""


class Internal(Error):
    """The daemon or a backend is at fault."""


class Aborted(Error):
    """The work ended without an answer."""


class ConnectionLost(Error, ConnectionError):
    """The daemon can't be reached, or went away and did not come back in time, or this client was closed."""


class NoMemory(Error, MemoryError):
    """There is no memory for a tensor: the daemon grants so much, and arrays hold all of it."""


class ModelChanged(Error):
    """The model was replaced by one that takes or gives other tensors. Open it again."""


def make(kind: str, message: str, code: str | None, retry_after: float | None) -> Error:
    """The exception of this kind."""
    error: Error = globals()[kind](message)
    if code is not None:
        error.code = code
    if isinstance(error, Busy):
        error.retry_after = retry_after
    return error
