"""Small model folders for registry tests."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from orchestrator.registry import Lineage, Provenance, Relation


def model_folder(path: Path, seed: int = 0) -> Path:
    """A folder with 15 parameters drawn from `seed`."""
    path.mkdir(parents=True)
    (path / "config.json").write_text(json.dumps({"task": "none", "args": {}}))
    draw = np.random.default_rng(seed)
    save_file({"w": draw.random((3, 4), np.float32), "b": draw.random(3, np.float32)}, path / "model.safetensors")
    return path


PROVENANCE = Provenance(
    dataset="python-stdlib@latest",
    dataset_hash="d" * 64,
    code_version="abc123",
    run="demo/1",
    metrics={"bits_per_byte": 2.5},
    tags={"purpose": "test"},
)


def child_of(*parents: str, relation: Relation = Relation.FINETUNE) -> Provenance:
    """Provenance of a version derived from `parents`."""
    return Provenance(lineage=Lineage(relation=relation, parents=parents))
