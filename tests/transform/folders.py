"""Small model folders for tests of transforms."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

ARGS = {"layers": 2, "heads": 2, "dropout": 0.0}
SHAPES = {"wide": (6, 70), "tall": (40, 3), "norm": (7,), "one": (1,), "scalar": (), "none": (0, 4)}


def tensors(seed: int, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """Tensors of every awkward shape, drawn from `seed`."""
    draw = torch.Generator().manual_seed(seed)
    return {name: torch.randn(shape, generator=draw).to(dtype) for name, shape in SHAPES.items()}


def folder_of(path: Path, weights: Mapping[str, Tensor], args: Mapping[str, object] = ARGS) -> Path:
    """A model folder with these weights, of a task that nobody has."""
    path.mkdir(parents=True)
    config = {"format": "tideline-model/1", "task": "none:task", "args": dict(args), "run": "r", "step": 7}
    (path / "config.json").write_text(json.dumps(config))
    save_file(dict(weights), path / "model.safetensors", metadata={"format": "pt"})
    return path


def weights_of(folder: Path) -> dict[str, Tensor]:
    return load_file(folder / "model.safetensors")
