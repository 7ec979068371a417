"""Quantize: the matrices of a model in eight or four bits, all else as it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from jobs.models.packed import SCALE, Packing, pack, to_metadata
from jobs.transform.chosen import matrices
from jobs.transform.stored import BLOCK, Entry, OnBytes, StoredModel, blocks
from jobs.transform.written import Write, new_model_folder, new_weights
from orchestrator.spec.errors import ExitCode, UserError

MAX_GROUP = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantized:
    """What became of a model: tensors in fewer bits, tensors as they were, and bytes of all weights."""

    num_packed: int
    num_kept: int
    bytes_before: int
    bytes_after: int


def quantize(
    label: str,
    folder: Path,
    out: Path,
    *,
    bits: int,
    group: int = 32,
    keep: Sequence[str] = (),
    on_read: OnBytes = lambda count: None,
) -> Quantized:
    """Write the model with its matrices in `bits` as a new folder, which appears whole or not at all.

    `group` columns share a scale with four bits; with eight it is a row. `keep` holds patterns of names. A matrix that
    would not become smaller stays as it is.
    Raises: UserError if nothing would become smaller, a number is not finite, or the model is quantized already.
    """
    if bits not in (4, 8) or group % 2 or not 2 <= group <= MAX_GROUP:
        raise ValueError(
            f"bits is {bits} and group {group}; 4 or 8, and an even number in 2..{MAX_GROUP}, would be right"
        )
    with StoredModel(label, folder, on_read) as model:
        model.refuse_packed("quantized")
        packings = _packings(model, matrices(model, keep), bits, group)
        entries = [part for entry in model.entries.values() for part in _as_written(entry, packings.get(entry.name))]
        count = sum(entry.numel for entry in model.entries.values())
        with new_model_folder(out, folder, _note(label, bits, group, keep)) as draft:
            with new_weights(draft, entries, to_metadata(packings, count)) as write:
                for entry in model.entries.values():
                    _write_tensor(model, entry, packings.get(entry.name), write)
        return Quantized(
            num_packed=len(packings),
            num_kept=len(model.entries) - len(packings),
            bytes_before=sum(entry.num_bytes for entry in model.entries.values()),
            bytes_after=sum(entry.num_bytes for entry in entries),
        )


def _packings(model: StoredModel, entries: Sequence[Entry], bits: int, group: int) -> dict[str, Packing]:
    every = {
        entry.name: (entry, Packing(bits=bits, group=0 if bits == 8 else group, shape=entry.shape)) for entry in entries
    }
    smaller = {name: packing for name, (entry, packing) in every.items() if packing.num_bytes < entry.num_bytes}
    if not smaller:
        problem = f"none of its {len(model.entries)} tensors becomes smaller with {bits} bits"
        raise UserError(problem, where=model.label, code=ExitCode.NEVER, next_step="Serve it as it is.")
    return smaller


def _as_written(entry: Entry, packing: Packing | None) -> list[Entry]:
    if packing is None:
        return [entry]
    (code_type, code_shape), (scale_type, scale_shape) = packing.packed, packing.scale
    num_codes = code_shape[0] * code_shape[1]
    codes = Entry(name=entry.name, dtype=code_type, shape=code_shape, num_bytes=num_codes)
    scale_bytes = packing.num_bytes - num_codes
    return [codes, Entry(name=entry.name + SCALE, dtype=scale_type, shape=scale_shape, num_bytes=scale_bytes)]


def _write_tensor(model: StoredModel, entry: Entry, packing: Packing | None, write: Write) -> None:
    if packing is None:
        for start, count in blocks(entry.num_bytes):
            write(entry.name, model.raw(entry.name, start, count))
        return
    width = packing.num_columns
    for row, count in blocks(packing.num_rows, max(1, BLOCK // width)):
        codes, scale = pack(model.floats(entry.name, row * width, count * width).view(count, width), packing)
        write(entry.name, codes)
        write(entry.name + SCALE, scale)


def _note(label: str, bits: int, group: int, keep: Sequence[str]) -> Mapping[str, object]:
    by = {"group": group} if bits == 4 else {}
    return {"relation": "quantized", "model": label, "bits": bits, **by, "keep": list(keep)}
