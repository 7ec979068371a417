"""Reading others' pickled checkpoints without running what is in them: data and a short list of DeepSpeed's classes."""

from __future__ import annotations

import importlib
import pickle  # noqa: TID251 - only its error type: torch raises it for what its restricted unpickler refuses
import zipfile
from pathlib import Path
from typing import Any

import torch

from jobs.train.state.errors import CorruptStateError, StateError

# What DeepSpeed itself puts into optimizer and model files; each only holds plain values.
_ALLOWED = (
    "deepspeed.runtime.fp16.loss_scaler.LossScaler",
    "deepspeed.runtime.fp16.loss_scaler.DynamicLossScaler",
    "deepspeed.runtime.zero.config.ZeroStageEnum",
    "deepspeed.utils.tensor_fragment.fragment_address",
)


def load_pickled(path: Path) -> dict[str, Any]:
    """A torch file with its tensors memory-mapped.

    Raises: StateError naming classes that are not on the list, CorruptStateError if the file is damaged or gone.
    """
    try:
        foreign = sorted(set(torch.serialization.get_unsafe_globals_in_checkpoint(path)) - set(_ALLOWED))
        if foreign:
            raise StateError(
                f"holds objects of {', '.join(foreign)}, which could run code when read",
                where=str(path),
                next_step="Save the checkpoint again with a client_state of plain values",
            )
        with torch.serialization.safe_globals([_class(name) for name in _ALLOWED]):
            loaded = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    except FileNotFoundError as error:
        raise CorruptStateError("is gone", where=str(path)) from error
    except (RuntimeError, ValueError, EOFError, zipfile.BadZipFile, pickle.UnpicklingError, OSError) as error:
        raise CorruptStateError(f"cannot be read ({type(error).__name__}: {error})", where=str(path)) from error
    if not isinstance(loaded, dict):
        raise CorruptStateError("is no checkpoint", where=str(path))
    return loaded


def _class(name: str) -> Any:
    module, _, attribute = name.rpartition(".")
    return getattr(importlib.import_module(module), attribute)
