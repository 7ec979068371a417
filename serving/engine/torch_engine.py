"""Any torch model with a KV-cache forward, in slots: plain PyTorch on CPU or CUDA.

Shapes: B rows, T tokens of a chunk, V vocabulary, L layers, H heads, P positions, d head width.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn

from jobs.models.kv_cache import Chunk
from jobs.models.load import load_model
from orchestrator.spec.errors import UserError
from serving.engine.int8 import quantize
from serving.engine.protocol import DecodeRow, PrefillChunk, Sampling
from serving.engine.sampling import draw_tokens

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "int8": torch.float32}  # int8: of what is not a weight


class CachedModel(Protocol):
    """What a model offers to be served; `jobs.models.gpt` documents each method."""

    def new_cache(self, num_slots: int, max_len: int, dtype: torch.dtype | None = None) -> Any: ...

    def prefill(self, tokens_T: Tensor, cache: Any, slot: int, start: int) -> Tensor: ...

    def read(self, tokens_T: Tensor, cache: Any, slot: int, start: int) -> Tensor: ...

    def decode(self, tokens_B: Tensor, slots_B: Sequence[int], positions_B: Sequence[int], cache: Any) -> Tensor: ...


class TorchEngine:
    """Versions of one model with one slot cache on one device. A sequence keeps the version it started with; a version
    that is replaced is forgotten with its last sequence."""

    def __init__(self, model: CachedModel, *, num_slots: int, max_context: int, device: torch.device) -> None:
        self.num_slots = num_slots
        self.max_context = max_context
        self._default = model
        self._named: dict[str, CachedModel] = {}
        self._model_of: dict[int, CachedModel] = {}
        self._written_by: dict[int, weakref.ref[CachedModel]] = {}
        self._device = device
        self._cache = model.new_cache(num_slots, max_context)

    def serve(self, model: CachedModel) -> None:
        """Answer new sequences with these weights from now on. Raises: ValueError for another architecture."""
        self.check_shapes(model)
        self._default = model

    def offer(self, version: str, model: CachedModel | None) -> None:
        """Answer new sequences that ask for `version` with these weights; None takes it back."""
        if model is None:
            self._named.pop(version, None)
        else:
            self.check_shapes(model)
            self._named[version] = model

    def prefill(self, slot: int, tokens: Sequence[int], *, start: int, sampling: Sampling | None) -> int | None:
        return self._prefill(PrefillChunk(slot=slot, tokens=tuple(tokens), start=start, sampling=sampling))

    def embed(self, slot: int, tokens: Sequence[int], *, start: int, version: str = "") -> list[float]:
        self._settle(PrefillChunk(slot=slot, tokens=tuple(tokens), start=start, sampling=None, version=version))
        hidden_TD = self._model_of[slot].read(self._tensor(tokens), self._cache, slot, start)
        return [float(value) for value in hidden_TD.float().sum(dim=0).cpu()]

    def decode(self, rows: Sequence[DecodeRow]) -> list[int]:
        return self.step([], rows)[1]

    def step(self, chunks: Sequence[PrefillChunk], rows: Sequence[DecodeRow]) -> tuple[list[int | None], list[int]]:
        for chunk in chunks:
            self._settle(chunk)
        slots = [*(chunk.slot for chunk in chunks), *(row.slot for row in rows)]
        models = {id(self._model_of[slot]): self._model_of[slot] for slot in slots}
        made: dict[int, int | None] = {}
        for model in models.values():  # nearly always one
            mine = [part for part in chunks if self._model_of[part.slot] is model]
            decoding = [row for row in rows if self._model_of[row.slot] is model]
            their_slots = [*(chunk.slot for chunk in mine), *(row.slot for row in decoding)]
            made |= zip(their_slots, self._compute(model, mine, decoding), strict=True)
        decoded = (made[row.slot] for row in rows)
        return [made[chunk.slot] for chunk in chunks], [token for token in decoded if token is not None]

    def park(self, slot: int, num_tokens: int) -> tuple[CachedModel, Tensor, Tensor]:
        keys, values = self._cache.k_LSHPd, self._cache.v_LSHPd
        # Host memory: a parked row must not hold what the rows that displaced it need.
        saved = keys[:, slot, :, :num_tokens].cpu().clone(), values[:, slot, :, :num_tokens].cpu().clone()
        return self._model_of.pop(slot), *saved

    def resume(self, slot: int, parked: tuple[CachedModel, Tensor, Tensor]) -> None:
        model, k_LHPd, v_LHPd = parked
        self._occupy(slot, model)
        self._cache.k_LSHPd[:, slot, :, : k_LHPd.shape[2]] = k_LHPd
        self._cache.v_LSHPd[:, slot, :, : v_LHPd.shape[2]] = v_LHPd

    def free(self, slot: int) -> None:
        """Let go of the sequence's version; its cache is overwritten by the next one, from position 0."""
        self._model_of.pop(slot, None)

    def _settle(self, chunk: PrefillChunk) -> None:
        if chunk.start == 0:  # a version that was taken back meanwhile is answered by the default one
            self._occupy(chunk.slot, self._named.get(chunk.version, self._default))

    def _occupy(self, slot: int, model: CachedModel) -> None:
        """A sequence of this version has the slot. What another version left there goes: where that was no numbers, a
        weight of 0 would not hide it."""
        last = self._written_by.get(slot)
        if last is not None and last() is not model:
            self._cache.k_LSHPd[:, slot].zero_()
            self._cache.v_LSHPd[:, slot].zero_()
        self._model_of[slot], self._written_by[slot] = model, weakref.ref(model)

    def _compute(
        self, model: CachedModel, chunks: Sequence[PrefillChunk], rows: Sequence[DecodeRow]
    ) -> list[int | None]:
        """The tokens of chunks, then rows, which all have this model."""
        in_one_pass = getattr(model, "step", None)
        if in_one_pass is None or len(chunks) + bool(rows) < 2:
            first = [self._prefill(chunk) for chunk in chunks]
            return [*first, *self._decode(model, rows)]
        tokens = [token for part in chunks for token in part.tokens] + [row.token for row in rows]
        logits_BV = in_one_pass(
            self._tensor(tokens),
            [Chunk(part.slot, part.start, len(part.tokens)) for part in chunks],
            [row.slot for row in rows],
            [row.position for row in rows],
            self._cache,
        )
        wanted = [(part.sampling, part.start + len(part.tokens)) for part in chunks]
        wanted += [(row.sampling, row.position + 1) for row in rows]
        drawn = [(index, how, at) for index, (how, at) in enumerate(wanted) if how is not None]
        indices, samplings, positions = [d[0] for d in drawn], [d[1] for d in drawn], [d[2] for d in drawn]
        made = dict(zip(indices, self._draw(logits_BV[indices], samplings, positions), strict=True))
        return [made.get(index) for index in range(len(wanted))]

    def _prefill(self, chunk: PrefillChunk) -> int | None:
        self._settle(chunk)
        logits_V = self._model_of[chunk.slot].prefill(self._tensor(chunk.tokens), self._cache, chunk.slot, chunk.start)
        if chunk.sampling is None:
            return None
        return self._draw(logits_V[None], [chunk.sampling], [chunk.start + len(chunk.tokens)])[0]

    def _decode(self, model: CachedModel, rows: Sequence[DecodeRow]) -> list[int]:
        if not rows:
            return []
        slots, positions = [row.slot for row in rows], [row.position for row in rows]
        logits_BV = model.decode(self._tensor([row.token for row in rows]), slots, positions, self._cache)
        return self._draw(logits_BV, [row.sampling for row in rows], [position + 1 for position in positions])

    def check_shapes(self, model: CachedModel) -> None:
        """Raises: ValueError for a model whose sequences do not fit this engine's cache."""
        mine, other = (_cache_shape(each.new_cache(1, 1)) for each in (self._default, model))
        if mine != other:
            raise ValueError(f"the new weights need a cache of shape {other}, this replica's has {mine}")

    def _tensor(self, tokens: Sequence[int]) -> Tensor:
        return torch.tensor(tokens, dtype=torch.long, device=self._device)

    def _draw(self, logits_BV: Tensor, samplings: Sequence[Sampling], positions: Sequence[int]) -> list[int]:
        return draw_tokens(logits_BV.float().cpu().numpy(), samplings, positions)


def _cache_shape(cache: Any) -> tuple[int, ...]:
    return tuple(cache.k_LSHPd.shape)


def place_model(model: nn.Module, precision: str, device: torch.device) -> nn.Module:
    """The model ready to serve: its weights in `precision` on `device`. Raises: UserError for one it cannot serve."""
    if not all(callable(getattr(model, name, None)) for name in ("new_cache", "prefill", "read", "decode")):
        raise UserError(f"a {type(model).__name__} has no KV-cache forward (new_cache, prefill, read, decode)",
                        next_step="jobs/models/gpt.py shows what the server calls.")  # fmt: skip
    if precision not in DTYPES:
        raise UserError(f"engine.precision {precision} is not served by the torch engine; {' or '.join(DTYPES)} is")
    if precision == "int8":
        if device.type != "cpu":
            raise UserError(f"engine.precision int8 is computed on CPUs, not on {device.type}",
                            next_step="bf16 is the fast format of a GPU.")  # fmt: skip
        model = quantize(model)
    return model.to(device=device, dtype=DTYPES[precision]).eval()


def load_placed(folder: Path, precision: str) -> tuple[nn.Module, torch.device]:
    """A registered version ready to serve, on the GPU when there is one. Raises: UserError."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return place_model(load_model(folder)[0], precision, device), device


def load_engine(folder: Path, *, num_slots: int, max_context: int | None, precision: str) -> TorchEngine:
    """The engine of a registered version, on the GPU when there is one. Raises: UserError.

    `max_context` None means the length the model was trained with.
    """
    placed, device = load_placed(folder, precision)
    context = max_context or trained_context(placed)
    return TorchEngine(cast(CachedModel, placed), num_slots=num_slots, max_context=context, device=device)


def trained_context(model: nn.Module) -> int:
    """Tokens the model was trained on at once. Raises: UserError for a model that does not say."""
    length = getattr(getattr(model, "config", None), "seq_len", None)
    if not isinstance(length, int):
        raise UserError(f"a {type(model).__name__} does not say how long its context is",
                        next_step="Set engine.max_context in the endpoint's file.")  # fmt: skip
    return length
