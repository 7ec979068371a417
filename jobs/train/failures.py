"""Why a rank gave up, as one of few kinds that a supervisor's policy can act on."""

from __future__ import annotations

import re
from pathlib import Path
from types import TracebackType

from jobs.train.messages import FailureKind
from orchestrator.spec.errors import ExitCode, UserError

# The transports say what happened in text only: gloo (TCP) and NCCL, as of torch 2.13.
_HANG = re.compile(r"timed out|timeout", re.IGNORECASE)
_LOST_PEER = re.compile(
    r"connection (closed|reset|refused)|broken pipe|connectFullMesh|remote process exited|"
    r"NCCL.*(remote|system error)|socket (closed|error)",
    re.IGNORECASE,
)
_LIBRARIES = ("/torch/", "/numpy/", "/site-packages/deepspeed/", "/importlib/")
_OWN_FOLDER = str(Path(__file__).parent)


class NotFiniteError(ArithmeticError):
    """Loss or gradient is not a finite number, and the job's policy does not say to go on."""


def classify(error: BaseException) -> FailureKind:
    """The kind of failure that `error` means for the group."""
    from jobs.train.state.errors import StateError

    match error:
        case NotFiniteError():
            return "nan"
        case StateError():
            return "state"
        case UserError():
            return "environment" if error.code is ExitCode.UNREACHABLE else "user_code"
        case MemoryError():
            return "environment"
    return _of_transport(error) or _of_place(error)


def _of_transport(error: BaseException) -> FailureKind | None:
    """A rank that waits for others sees their end as a closed connection, and their silence as a timeout."""
    name, text = type(error).__name__, str(error)
    if name == "OutOfMemoryError":
        return "environment"
    if not isinstance(error, RuntimeError | ConnectionError | TimeoutError):
        return None
    if _LOST_PEER.search(text):
        return "lost_peer"
    return "hang" if name == "DistNetworkError" or _HANG.search(text) else None


def _of_place(error: BaseException) -> FailureKind:
    """Whose code raised: the innermost frame that is not a library's."""
    frames: list[str] = []
    walk: TracebackType | None = error.__traceback__
    while walk is not None:
        frames.append(walk.tb_frame.f_code.co_filename)
        walk = walk.tb_next
    for file in reversed(frames):
        if file.startswith(_OWN_FOLDER):
            return "internal"
        if not any(folder in file for folder in _LIBRARIES):
            return "user_code"
    return "internal"
