"""Any torch model with a KV-cache forward, in slots: plain PyTorch on CPU or CUDA.

Shapes: B rows, T tokens of a chunk, V vocabulary, L layers, H heads, P positions, d head width.
"""

from __future__ import annotations

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

    def decode(self, tokens_B: Tensor, slots_B: Sequence[int], positions_B: Sequence[int], cache: Any) -> Tensor: ...


class TorchEngine:
    """One model with its slot cache on one device."""

    def __init__(self, model: CachedModel, *, num_slots: int, max_context: int, device: torch.device) -> None:
        self.num_slots = num_slots
        self.max_context = max_context
        self._model = model
        self._device = device
        self._cache = model.new_cache(num_slots, max_context)
        self._in_one_pass = getattr(model, "step", None)

    def prefill(self, slot: int, tokens: Sequence[int], *, start: int, sampling: Sampling | None) -> int | None:
        logits_V = self._model.prefill(self._tensor(tokens), self._cache, slot, start)
        if sampling is None:
            return None
        return self._draw(logits_V[None], [sampling], [start + len(tokens)])[0]

    def decode(self, rows: Sequence[DecodeRow]) -> list[int]:
        slots, positions = [row.slot for row in rows], [row.position for row in rows]
        logits_BV = self._model.decode(self._tensor([row.token for row in rows]), slots, positions, self._cache)
        return self._draw(logits_BV, [row.sampling for row in rows], [position + 1 for position in positions])

    def step(self, chunks: Sequence[PrefillChunk], rows: Sequence[DecodeRow]) -> tuple[list[int | None], list[int]]:
        if self._in_one_pass is None or len(chunks) + bool(rows) < 2:
            first = [self.prefill(part.slot, part.tokens, start=part.start, sampling=part.sampling) for part in chunks]
            return first, self.decode(rows) if rows else []
        tokens = [token for part in chunks for token in part.tokens] + [row.token for row in rows]
        logits_BV = self._in_one_pass(
            self._tensor(tokens),
            [Chunk(part.slot, part.start, len(part.tokens)) for part in chunks],
            [row.slot for row in rows],
            [row.position for row in rows],
            self._cache,
        )
        parts = [(part.sampling, part.start + len(part.tokens)) for part in chunks]
        parts += [(row.sampling, row.position + 1) for row in rows]
        wanted = [index for index, (sampling, _) in enumerate(parts) if sampling is not None]
        drawn = self._draw(logits_BV[wanted], [parts[i][0] for i in wanted], [parts[i][1] for i in wanted])  # type: ignore[misc]
        made = dict(zip(wanted, drawn, strict=True))
        return [made.get(index) for index in range(len(chunks))], drawn[len(drawn) - len(rows) :]

    def park(self, slot: int, num_tokens: int) -> tuple[Tensor, Tensor]:
        keys, values = self._cache.k_LSHPd, self._cache.v_LSHPd
        # Host memory: a parked row must not hold what the rows that displaced it need.
        return keys[:, slot, :, :num_tokens].cpu().clone(), values[:, slot, :, :num_tokens].cpu().clone()

    def resume(self, slot: int, parked: tuple[Tensor, Tensor]) -> None:
        k_LHPd, v_LHPd = parked
        self._cache.k_LSHPd[:, slot, :, : k_LHPd.shape[2]] = k_LHPd
        self._cache.v_LSHPd[:, slot, :, : v_LHPd.shape[2]] = v_LHPd

    def free(self, slot: int) -> None:
        """Nothing to do: a new sequence overwrites the slot from position 0."""

    def _tensor(self, tokens: Sequence[int]) -> Tensor:
        return torch.tensor(tokens, dtype=torch.long, device=self._device)

    def _draw(self, logits_BV: Tensor, samplings: Sequence[Sampling], positions: Sequence[int]) -> list[int]:
        return draw_tokens(logits_BV.float().cpu().numpy(), samplings, positions)


def place_model(model: nn.Module, precision: str, device: torch.device) -> nn.Module:
    """The model ready to serve: its weights in `precision` on `device`. Raises: UserError for one it cannot serve."""
    if not all(callable(getattr(model, name, None)) for name in ("new_cache", "prefill", "decode")):
        raise UserError(f"a {type(model).__name__} has no KV-cache forward (new_cache, prefill, decode)",
                        next_step="jobs/models/gpt.py shows what the server calls.")  # fmt: skip
    if precision not in DTYPES:
        raise UserError(f"engine.precision {precision} is not served by the torch engine; {' or '.join(DTYPES)} is")
    if precision == "int8":
        if device.type != "cpu":
            raise UserError(f"engine.precision int8 is computed on CPUs, not on {device.type}",
                            next_step="bf16 is the fast format of a GPU.")  # fmt: skip
        model = quantize(model)
    return model.to(device=device, dtype=DTYPES[precision]).eval()


def load_engine(folder: Path, *, num_slots: int, max_context: int | None, precision: str) -> TorchEngine:
    """The engine of a registered version, on the GPU when there is one. Raises: UserError.

    `max_context` None means the length the model was trained with.
    """
    model, _ = load_model(folder)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    placed = place_model(model, precision, device)
    context = max_context or trained_context(placed)
    return TorchEngine(cast(CachedModel, placed), num_slots=num_slots, max_context=context, device=device)


def trained_context(model: nn.Module) -> int:
    """Tokens the model was trained on at once. Raises: UserError for a model that does not say."""
    length = getattr(getattr(model, "config", None), "seq_len", None)
    if not isinstance(length, int):
        raise UserError(f"a {type(model).__name__} does not say how long its context is",
                        next_step="Set engine.max_context in the endpoint's file.")  # fmt: skip
    return length
