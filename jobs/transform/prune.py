"""Prune: the weights of smallest magnitude become 0."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from jobs.transform.chosen import matrices
from jobs.transform.magnitude import magnitudes_of_rank
from jobs.transform.stored import FLOATS, Entry, OnBytes, StoredModel, blocks
from jobs.transform.written import new_model_folder, new_weights
from orchestrator.spec.errors import ExitCode, UserError

PASSES = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Pruned:
    """`num_zero` of `num_weights` in the matrices are 0 now; zeros that had been there are among them."""

    num_weights: int
    num_zero: int

    @property
    def sparsity(self) -> float:
        return self.num_zero / self.num_weights


def prune(
    label: str,
    folder: Path,
    out: Path,
    *,
    sparsity: float,
    per_tensor: bool = False,
    keep: Sequence[str] = (),
    on_read: OnBytes = lambda count: None,
) -> Pruned:
    """Write the model with this part of its matrices' weights at 0 as a new folder, which appears whole or not at all.

    The smallest go, of all matrices together or of each tensor. Norms, biases and what a pattern of `keep` names stay.
    Raises: UserError for a model that is quantized or has nothing to prune.
    """
    if not 0 < sparsity < 1:
        raise ValueError(f"sparsity is {sparsity}; a number above 0 and below 1 would be right")
    with StoredModel(label, folder, on_read) as model:
        model.refuse_packed("pruned")
        chosen = matrices(model, keep)
        if not chosen:
            raise UserError("it has no matrix to prune", where=label, code=ExitCode.NEVER)
        edges = _edges(model, chosen, sparsity, per_tensor=per_tensor)
        with new_model_folder(out, folder, _note(label, sparsity, per_tensor, keep)) as draft:
            with new_weights(draft, model.entries.values(), {}) as write:
                num_zero = 0
                for entry in model.entries.values():
                    for block, zeros in _pruned(model, entry, edges.get(entry.name)):
                        write(entry.name, block)
                        num_zero += zeros
        return Pruned(num_weights=sum(entry.numel for entry in chosen), num_zero=num_zero)


def _edges(model: StoredModel, entries: Sequence[Entry], sparsity: float, *, per_tensor: bool) -> dict[str, float]:
    """The largest magnitude that goes, for each tensor."""
    groups = [[entry] for entry in entries] if per_tensor else [entries]
    return {entry.name: edge for group in groups for edge in [_edge(model, group, sparsity)] for entry in group}


def _edge(model: StoredModel, entries: Sequence[Entry], sparsity: float) -> float:
    count = int(sparsity * sum(entry.numel for entry in entries))

    def stream() -> Iterator[list[Tensor]]:
        for entry in entries:
            for start, length in blocks(entry.numel):
                yield [model.floats(entry.name, start, length)]

    return magnitudes_of_rank(stream, 1, count)[0] if count else 0.0


def _pruned(model: StoredModel, entry: Entry, edge: float | None) -> Iterator[tuple[Tensor, int]]:
    """Blocks in their own type, with the number of zeros in each; a tensor without an edge as it is."""
    if edge is None:
        yield from ((model.raw(entry.name, start, count), 0) for start, count in blocks(entry.num_bytes))
        return
    for start, count in blocks(entry.numel):
        values = model.floats(entry.name, start, count)
        gone = values.abs() <= edge
        yield values.masked_fill_(gone, 0.0).to(FLOATS[entry.dtype]), int(gone.sum())


def _note(label: str, sparsity: float, per_tensor: bool, keep: Sequence[str]) -> Mapping[str, object]:
    scope = "tensor" if per_tensor else "model"
    return {"relation": "finetune", "model": label, "sparsity": sparsity, "scope": scope, "keep": list(keep)}
