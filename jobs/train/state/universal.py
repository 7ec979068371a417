"""A checkpoint in DeepSpeed's universal format: whole tensors, one file each, for `checkpoint.load_universal: true`.

For leaving Tideline, or for tools that read the format; Tideline itself never needs it. Serves ZeRO 1, 2 and 3 alike.
Format: deepspeed/checkpoint/universal_checkpoint.py and ds_to_universal.py in 0.19. Frozen parameters and buffers are
written, but DeepSpeed's universal loader does not read them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from jobs.train.state.dtypes import torch_dtype
from jobs.train.state.export import new_folder
from jobs.train.state.kinds import FP32
from jobs.train.state.loading import fill
from jobs.train.state.manifest import Manifest
from jobs.train.state.sources import ShardSource
from jobs.train.state.view import Piece

# ZeRO 1 and 2 read the first file, ZeRO 3 the second.
_MODEL_FILES = ("mp_rank_00_model_states.pt", "zero_pp_rank_0_mp_rank_00_model_states.pt")


def export_universal(manifest: Manifest, source: ShardSource, out_dir: Path) -> Path:
    """Write the checkpoint as a new folder: `engine.load_checkpoint(out_dir.parent, tag=out_dir.name)` loads it.

    Raises: StateError if `out_dir` is there and not empty, CorruptStateError, StorageError.
    """
    module: dict[str, torch.Tensor] = {}
    with new_folder(out_dir) as draft:
        for name, kinds in manifest.contents().items():
            tensors = _gather(name, kinds, manifest, source)
            if FP32 in tensors:
                _write_trained(draft / "zero" / name, tensors, manifest)
            else:
                module.update((name, tensor) for tensor in tensors.values())
        torch.save(_optimizer_state(manifest), draft / "zero" / "optimizer_state.pt")
        for file in _MODEL_FILES:
            torch.save(_model_state(manifest, module), draft / file)
    return out_dir


def _gather(name: str, kinds: Mapping[str, str], manifest: Manifest, source: ShardSource) -> dict[str, torch.Tensor]:
    """All that was saved of one tensor, whole; only one tensor is in memory at a time."""
    shape = manifest.shapes[name]
    flat = {kind: torch.empty(math.prod(shape), dtype=torch_dtype(dtype)) for kind, dtype in kinds.items()}
    fill([Piece(name, kind, 0, tensor.numel(), tensor) for kind, tensor in flat.items()], manifest, source)
    return {kind: tensor.view(shape) for kind, tensor in flat.items()}


def _write_trained(folder: Path, tensors: Mapping[str, torch.Tensor], manifest: Manifest) -> None:
    folder.mkdir(parents=True)
    for kind, tensor in tensors.items():
        torch.save({"param": tensor, "cat_dim": 0}, folder / f"{kind}.pt")
    if manifest.moments:
        torch.save(_step(manifest), folder / "step.pt")


def _step(manifest: Manifest) -> torch.Tensor:
    """The optimizer's step counter as torch's own optimizers keep it."""
    return torch.tensor(float(manifest.scalars.get("step", manifest.step)))


def _optimizer_state(manifest: Manifest) -> dict[str, Any]:
    """What both loaders look for. Groups are empty: the loading job keeps its own hyperparameters."""
    groups: list[dict[str, Any]] = [{} for _ in manifest.model]
    return {
        "ds_version": version("deepspeed"),
        "param_groups": groups,
        "optimizer_state_dict": {"state": {0: {"step": _step(manifest)}}, "param_groups": groups},
    }


def _model_state(manifest: Manifest, module: Mapping[str, torch.Tensor]) -> dict[str, Any]:
    return {
        "module": dict(module),
        "dp_world_size": manifest.world_size,
        "mp_world_size": 1,
        "global_steps": manifest.step,
        "skipped_steps": 0,
        "lr_scheduler": manifest.replicated.get("scheduler"),
        "ds_version": version("deepspeed"),
        "universal_checkpoint_info": {},
    }
