"""Random generators as JSON values, for the `replicated` part of a manifest.

Training draws from (seed, step, micro-batch) and needs none of this; it is for user code that draws on its own. The
generators of rank 0 are saved and every rank of the next attempt gets them: one per rank means nothing at another size.
"""

from __future__ import annotations

import base64
import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from jobs.train.state.errors import CorruptStateError


def capture_generators() -> dict[str, Any]:
    """The state of Python's, numpy's and torch's global generators (and the current accelerator's, if there is one)."""
    version, numbers, gauss = random.getstate()
    mersenne: dict[str, Any] = dict(np.random.get_state(legacy=False))
    found: dict[str, Any] = {
        "python": [version, list(numbers), gauss],
        "numpy": [
            _text(mersenne["state"]["key"].tobytes()),
            int(mersenne["state"]["pos"]),
            int(mersenne["has_gauss"]),
            float(mersenne["gauss"]),
        ],
        "torch": _text(torch.get_rng_state().numpy().tobytes()),
    }
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        found["cuda"] = _text(torch.cuda.get_rng_state().numpy().tobytes())
    return found


def restore_generators(saved: Mapping[str, Any]) -> None:
    """The inverse of `capture_generators`; a CUDA state is left out where there is no CUDA.

    Raises: CorruptStateError if the values are not what was captured.
    """
    try:
        version, numbers, gauss = saved["python"]
        random.setstate((version, tuple(numbers), gauss))
        keys, position, has_gauss, gauss = saved["numpy"]
        np.random.set_state(("MT19937", np.frombuffer(_bytes(keys), np.uint32), position, has_gauss, gauss))
        torch.set_rng_state(_state(saved["torch"]))
        if "cuda" in saved and torch.cuda.is_available():
            torch.cuda.set_rng_state(_state(saved["cuda"]))
    except (LookupError, TypeError, ValueError, RuntimeError) as error:
        raise CorruptStateError(f"random generators cannot be restored ({type(error).__name__}: {error})") from error


def _state(text: str) -> torch.Tensor:
    return torch.frombuffer(bytearray(_bytes(text)), dtype=torch.uint8)


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _bytes(text: str) -> bytes:
    return base64.b64decode(text, validate=True)
