"""A trained model as a folder: `config.json` says which task built it, `model.safetensors` holds its weights, and
`code/` what the task is imported from where that is not installed.

Nothing is unpickled, and a tensor that does not belong to the architecture is an error that names it. Weights that are
kept in fewer bits (`jobs.models.packed`) come back in full precision.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from jobs.data.folders import writing
from jobs.models.own_code import CODE_FOLDER, importing_from
from jobs.models.packed import logical_shapes, logical_tensor, read_packings
from jobs.models.task import load_task
from orchestrator.spec.errors import ExitCode, UserError

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
_FORMAT = "tideline-model/1"
_NAMED_AT_MOST = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """What config.json says: the factory, its arguments, and whatever else the writer noted (`notes`)."""

    task: str
    args: Mapping[str, Any]
    notes: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> str:
        document = {**self.notes, "format": _FORMAT, "task": self.task, "args": dict(self.args)}
        return json.dumps(document, indent=1, sort_keys=True) + "\n"


def save_model(model: nn.Module, config: ModelConfig, folder: Path) -> Path:
    """Write `model` as a new folder, which appears whole or not at all. Raises: UserError if it exists with content."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError("is there already and not empty", where=str(folder), code=ExitCode.CONFLICT)
    with writing(folder):
        _write(model, config, folder)
    return folder


def _write(model: nn.Module, config: ModelConfig, folder: Path) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".model-", dir=folder.parent) as work:
        draft = Path(work, "model")
        draft.mkdir()
        (draft / CONFIG_FILE).write_text(config.to_json(), encoding="utf-8")
        tensors = {names[0]: tensor.detach().cpu().contiguous() for names, tensor in _unique(model)}
        save_file(tensors, draft / WEIGHTS_FILE, metadata={"format": "pt"})
        draft.replace(folder)


def load_model(folder: str | Path) -> tuple[nn.Module, ModelConfig]:
    """The model in `folder` on the CPU, in eval mode, in the precision its task builds it in.

    Raises: UserError if a file is missing or damaged, or its tensors are not those of the architecture.
    """
    folder = Path(folder)
    config = read_config(folder)
    with importing_from(folder / CODE_FOLDER):
        task = load_task(config.task, config.args)
        with torch.random.fork_rng(devices=[]):  # building draws random weights; the caller's generator stays as it was
            model = task.build_model()
    load_weights(model, folder / WEIGHTS_FILE)
    return model.eval(), config


def read_config(folder: Path) -> ModelConfig:
    """The `config.json` of a model folder. Raises: UserError."""
    path = folder / CONFIG_FILE
    try:
        document = json.loads(path.read_bytes())
        task, args = document.pop("task"), document.pop("args")
        if not isinstance(task, str) or not isinstance(args, dict):
            raise TypeError("task must be text and args an object")
    except OSError as error:
        code = ExitCode.UNKNOWN
        raise UserError(f"no model there: {error.strerror}", where=str(path), code=code) from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        problem = f"not a model's configuration: {type(error).__name__}: {error}"
        raise UserError(problem, where=str(path)) from error
    return ModelConfig(task=task, args=args, notes=document)


def load_weights(model: nn.Module, path: Path) -> None:
    """Copy the tensors of a safetensors file into `model`, in place. Raises: UserError before anything is changed."""
    try:
        with safe_open(path, framework="pt") as stored:
            packings = read_packings(stored.metadata(), str(path))
            found = logical_shapes(stored, packings, str(path))
            problems = differences(shapes(model), _aliased(model, found))
            if problems:
                shown = "; ".join(problems[:_NAMED_AT_MOST])
                more = f" and {len(problems) - _NAMED_AT_MOST} more" if len(problems) > _NAMED_AT_MOST else ""
                raise UserError(f"these weights are of another model: {shown}{more}", where=str(path))
            _copy(model, ((name, logical_tensor(stored, name, packings)) for name in found))
    except OSError as error:
        raise UserError(f"no weights there: {error}", where=str(path), code=ExitCode.UNKNOWN) from error
    except SafetensorError as error:
        raise UserError(f"the file is damaged: {error}", where=str(path)) from error


def shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    """Shape of every persistent tensor of a model by name."""
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def differences(wanted: Mapping[str, tuple[int, ...]], found: Mapping[str, tuple[int, ...]]) -> list[str]:
    """One sentence per tensor that is missing, unknown or of another shape; empty when all fit."""
    problems = [f"{name} is missing" for name in wanted if name not in found]
    problems += [f"{name} is unknown" for name in found if name not in wanted]
    return problems + [
        f"{name} is {_shape(found[name])} instead of {_shape(shape)}"
        for name, shape in wanted.items()
        if name in found and found[name] != shape
    ]


def _shape(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "a scalar"


def _unique(model: nn.Module) -> list[tuple[list[str], Tensor]]:
    """Every tensor of a model once, with all names it goes by: tied weights are one tensor with several."""
    tensors: dict[tuple[int, int, tuple[int, ...], tuple[int, ...]], tuple[list[str], Tensor]] = {}
    for name, tensor in model.state_dict().items():
        place = (tensor.untyped_storage().data_ptr(), tensor.storage_offset(), tuple(tensor.shape), tensor.stride())
        tensors.setdefault(place, ([], tensor))[0].append(name)
    return list(tensors.values())


def _aliased(model: nn.Module, found: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """`found`, with a tied tensor's shape under all its names when it is stored under one of them."""
    filled = dict(found)
    for names, _ in _unique(model):
        stored = next((found[name] for name in names if name in found), None)
        filled.update((name, stored) for name in names if stored is not None and name not in found)
    return filled


def _copy(model: nn.Module, stored: Iterable[tuple[str, Tensor]]) -> None:
    own = model.state_dict()
    with torch.no_grad():
        for name, tensor in stored:
            own[name].copy_(tensor)
