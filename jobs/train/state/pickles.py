"""Reading others' pickled checkpoints without running what is in them: data and a short list of DeepSpeed's classes."""

from __future__ import annotations

import enum
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
# How Python 3.11.0 to 3.11.3 write a member of an enumeration; here it looks up members and nothing else.
_GETATTR = "builtins.getattr"


def load_pickled(path: Path) -> dict[str, Any]:
    """A torch file with its tensors memory-mapped.

    Raises: StateError naming classes that are not on the list, CorruptStateError if the file is damaged or gone.
    """
    try:
        foreign = sorted(set(torch.serialization.get_unsafe_globals_in_checkpoint(path)) - {*_ALLOWED, _GETATTR})
        if foreign:
            raise StateError(
                f"holds objects of {', '.join(foreign)}, which could run code when read",
                where=str(path),
                next_step="Save the checkpoint again with a client_state of plain values",
            )
        allowed = [*(_class(name) for name in _ALLOWED), (_member, _GETATTR)]
        with torch.serialization.safe_globals(allowed):
            loaded = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    except FileNotFoundError as error:
        raise CorruptStateError("is gone", where=str(path)) from error
    except (RuntimeError, ValueError, EOFError, zipfile.BadZipFile, pickle.UnpicklingError, OSError) as error:
        raise CorruptStateError(f"cannot be read ({type(error).__name__}: {error})", where=str(path)) from error
    if not isinstance(loaded, dict):
        raise CorruptStateError("is no checkpoint", where=str(path))
    return loaded


def _member(kind: Any, name: Any) -> Any:
    """A member of an enumeration. Raises: UnpicklingError for whatever else a file might want looked up."""
    if not (isinstance(kind, enum.EnumMeta) and name in kind.__members__):
        raise pickle.UnpicklingError(f"looks up {str(name)[:80]!r}, which is no member of an enumeration")
    return kind[name]


def _class(name: str) -> Any:
    module, _, attribute = name.rpartition(".")
    return getattr(importlib.import_module(module), attribute)
