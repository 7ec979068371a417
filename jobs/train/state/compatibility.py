"""Does saved state fit the job that wants to continue from it? What must be equal, and what may differ.

Must be equal: the parameters' names and shapes, the data set. May differ: world size, ZeRO stage (states are intervals,
whoever owned them), precision (master weights and moments are fp32 in all modes).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from jobs.train.state.errors import WrongStateError
from jobs.train.state.manifest import Manifest

_MAX_NAMED = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """What the job brings: shapes of parameters and buffers, and the hash of its data set's manifest."""

    shapes: Mapping[str, tuple[int, ...]]
    dataset_hash: str
    zero_stage: int
    precision: str


def require(expected: Expected, manifest: Manifest) -> None:
    """Raises: WrongStateError naming the tensors that differ, or both data set hashes."""
    where = f"{manifest.run} step {manifest.step}"
    differences = _tensor_differences(expected.shapes, manifest.shapes)
    if differences:
        shown = "; ".join(differences[:_MAX_NAMED])
        more = f"; and {len(differences) - _MAX_NAMED} more" if len(differences) > _MAX_NAMED else ""
        raise WrongStateError(
            f"was saved by another model: {shown}{more}",
            where=where,
            next_step="Use the task and args it was saved with, or another job name",
        )
    if expected.dataset_hash != manifest.dataset_hash:
        raise WrongStateError(
            f"was saved with data set {manifest.dataset_hash}, the job uses {expected.dataset_hash}",
            where=where,
            next_step="Name that data set's version in data.dataset, or start another job from the exported model",
        )


def changes(expected: Expected, manifest: Manifest) -> list[str]:
    """What differs and does no harm, in words for the log."""
    found = []
    if expected.zero_stage != manifest.zero_stage:
        found.append(f"ZeRO stage {manifest.zero_stage} -> {expected.zero_stage}: state is regrouped exactly")
    if expected.precision != manifest.precision:
        found.append(
            f"precision {manifest.precision} -> {expected.precision}: master weights and moments continue exactly, "
            "losses from here on differ in rounding"
        )
    return found


def _tensor_differences(wanted: Mapping[str, tuple[int, ...]], saved: Mapping[str, tuple[int, ...]]) -> list[str]:
    absent = [f"{name} {list(shape)} is not in the checkpoint" for name, shape in wanted.items() if name not in saved]
    extra = [f"{name} {list(shape)} is not in the job's model" for name, shape in saved.items() if name not in wanted]
    reshaped = [
        f"{name} is {list(saved[name])} in the checkpoint and {list(shape)} in the job's model"
        for name, shape in wanted.items()
        if name in saved and tuple(saved[name]) != tuple(shape)
    ]
    return reshaped + absent + extra
