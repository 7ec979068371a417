"""Pruning takes the smallest weights, exactly as many as were asked for, and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from jobs.transform.prune import prune
from jobs.transform.quantize import quantize
from orchestrator.spec.errors import ExitCode, UserError
from tests.transform.folders import folder_of, tensors, weights_of

MATRICES = ("wide", "tall")


@pytest.mark.parametrize("sparsity", [0.001, 0.3, 0.5, 0.999])
def test_the_smallest_of_the_whole_model_go(tmp_path: Path, sparsity: float) -> None:
    weights = tensors(1)
    done = prune("m@1", folder_of(tmp_path / "m", weights), tmp_path / "out", sparsity=sparsity)
    found = weights_of(tmp_path / "out")
    every = torch.cat([weights[name].flatten() for name in MATRICES]).abs().sort()[0]
    gone = int(sparsity * len(every))
    assert (done.num_zero, done.num_weights) == (gone, len(every))
    edge = every[gone - 1] if gone else -1.0
    for name, weight in weights.items():
        wanted = torch.where(weight.abs() <= edge, 0.0, weight) if name in MATRICES else weight
        assert torch.equal(found[name], wanted)


def test_each_tensor_can_lose_its_own(tmp_path: Path) -> None:
    weights = {**tensors(1), "wide": tensors(1)["wide"] * 100}
    prune("m@1", folder_of(tmp_path / "m", weights), tmp_path / "out", sparsity=0.5, per_tensor=True)
    found = weights_of(tmp_path / "out")
    assert {name: int((found[name] == 0).sum()) for name in MATRICES} == {"wide": 210, "tall": 60}


def test_formats_stay_and_what_is_kept_stays(tmp_path: Path) -> None:
    weights = tensors(1, torch.bfloat16)
    prune("m@1", folder_of(tmp_path / "m", weights), tmp_path / "out", sparsity=0.9, keep=["w*"])
    found = weights_of(tmp_path / "out")
    assert torch.equal(found["wide"], weights["wide"])
    assert found["tall"].dtype == torch.bfloat16
    assert int((found["tall"] == 0).sum()) >= 108


def test_what_cannot_be_pruned_is_refused(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "m", tensors(1))
    with pytest.raises(UserError, match="it has no matrix to prune") as refused:
        prune("m@1", folder, tmp_path / "no", sparsity=0.5, keep=["*"])
    assert refused.value.code is ExitCode.NEVER
    quantize("m@1", folder, tmp_path / "small", bits=8)
    with pytest.raises(UserError, match="it is quantized, and only full weights can be pruned"):
        prune("small@1", tmp_path / "small", tmp_path / "no", sparsity=0.5)
    with pytest.raises(ValueError, match="sparsity is 1"):
        prune("m@1", folder, tmp_path / "no", sparsity=1)
