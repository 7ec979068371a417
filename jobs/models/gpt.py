"""A byte-level GPT and its task: pre-norm blocks, rotary positions, tied embedding, vocabulary 256.

Serving interface, used by the token engines:
    cache = model.new_cache(num_slots, max_len, dtype)
    logits_V  = model.prefill(tokens_T, cache, slot, start)          # the next T tokens of one sequence
    hidden_TD = model.read(tokens_T, cache, slot, start)             # the same, hidden states instead of scores
    logits_BV = model.decode(tokens_B, slots_B, positions_B, cache)  # one token for each of B sequences
    logits_BV = model.step(tokens_T, chunks, slots_B, positions_B, cache)  # optional: both in one pass
`prefill` takes a prompt in chunks of any size. `positions_B[i]` is the index of `tokens_B[i]` in its sequence, counted
from 0. Both calls write the cache and return the scores of the token after the last one given. The model must be in
eval mode. A row's result does not depend on which rows are computed with it, up to float rounding (matrix products
round differently for 1, 2, 3 and >= 4 rows).
Attention reaches `seq_len` tokens back, the distance the model was trained on, so `max_len` may be larger than it.

Shapes: B rows, T positions, D width, V = 256, L layers.
"""

# mypy: allow-subclassing-any, allow-untyped-decorators
# torch is not read by mypy, so its classes and decorators are of type Any.
from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from jobs.data import open_dataset
from jobs.models.byte_windows import ByteWindows
from jobs.models.kv_cache import Chunk, SlotCache
from jobs.models.task import Batch, Task, num_parameters
from jobs.models.transformer import Block, TiedEmbedding, causal_attend, rotation

VOCABULARY = 256
_HEAD_DIM = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class GPTConfig:
    """Size of a model; `seq_len` is the number of tokens it is trained on at once."""

    layers: int
    d_model: int
    heads: int
    seq_len: int
    mlp_ratio: int = 4
    dropout: float = 0.0

    def __post_init__(self) -> None:
        for name in ("layers", "d_model", "heads", "seq_len", "mlp_ratio"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}, it must be at least 1")
        if self.d_model % (2 * self.heads):
            raise ValueError(f"d_model is {self.d_model}, it must be a multiple of 2 x heads ({2 * self.heads})")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout is {self.dropout}, it must be at least 0 and below 1")

    @property
    def head_dim(self) -> int:
        return self.d_model // self.heads


class GPT(nn.Module):
    """Scores of the next byte after every position."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = TiedEmbedding(VOCABULARY, config.d_model)
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(
            Block(
                config.d_model,
                config.heads,
                mlp_ratio=config.mlp_ratio,
                layers=config.layers,
                dropout=config.dropout,
            )
            for _ in range(config.layers)
        )
        self.norm = nn.LayerNorm(config.d_model)

    def forward(self, tokens_BT: Tensor) -> Tensor:
        """Logits (B, T, V) of whole sequences, without a cache."""
        turn = rotation(torch.arange(tokens_BT.shape[1], device=tokens_BT.device), self.config.head_dim)
        attend = causal_attend(self.config.seq_len)
        x_BTD = self.dropout(self.embedding(tokens_BT))
        for block in self.blocks:
            x_BTD = block(x_BTD, turn, attend)
        return self.embedding(self.norm(x_BTD), to_logits=True)

    def new_cache(self, num_slots: int, max_len: int, dtype: torch.dtype | None = None) -> SlotCache:
        """An empty cache on the model's device; `dtype` defaults to the weights'."""
        weight = self.embedding.weight
        return SlotCache(
            layers=self.config.layers,
            num_slots=num_slots,
            heads=self.config.heads,
            max_len=max_len,
            head_dim=self.config.head_dim,
            window=self.config.seq_len,
            dtype=dtype or weight.dtype,
            device=weight.device,
        )

    @torch.inference_mode()
    def prefill(self, tokens_T: Tensor, cache: SlotCache, slot: int, start: int) -> Tensor:
        """Read tokens [start, start + T) of the sequence in `slot`; logits (V,) after the last of them."""
        x_TD = self._read(tokens_T, cache, slot, start)
        return self.embedding(self.norm(x_TD[-1]), to_logits=True)

    @torch.inference_mode()
    def read(self, tokens_T: Tensor, cache: SlotCache, slot: int, start: int) -> Tensor:
        """As `prefill`, but returns the last hidden state (T, D) of each of these tokens."""
        return self.norm(self._read(tokens_T, cache, slot, start))

    def _read(self, tokens_T: Tensor, cache: SlotCache, slot: int, start: int) -> Tensor:
        self._check_serving(len(tokens_T))
        end = start + len(tokens_T)
        cache.check([slot], [end])
        turn = cache.chunk_turn(start, end)
        x_1TD = self.embedding(tokens_T[None])
        for layer, block in enumerate(self.blocks):
            x_1TD = block(x_1TD, turn, cache.attend_chunk(layer, slot, start))
        return x_1TD[0]

    @torch.inference_mode()
    def decode(
        self, tokens_B: Tensor, slots_B: Sequence[int] | Tensor, positions_B: Sequence[int] | Tensor, cache: SlotCache
    ) -> Tensor:
        """Read one token for each row; logits (B, V). Slots may be any distinct ones, in any order."""
        self._check_serving(len(tokens_B))
        rows = cache.rows(slots_B, positions_B)
        turn = cache.row_turn(rows.position_index)
        x_B1D = self.embedding(tokens_B[:, None])
        for layer, block in enumerate(self.blocks):
            x_B1D = block(x_B1D, turn, cache.attend_rows(layer, rows))
        return self.embedding(self.norm(x_B1D[:, 0]), to_logits=True)

    @torch.inference_mode()
    def step(
        self,
        tokens_T: Tensor,
        chunks: Sequence[Chunk],
        slots_B: Sequence[int] | Tensor,
        positions_B: Sequence[int] | Tensor,
        cache: SlotCache,
    ) -> Tensor:
        """Chunks of prompts and single tokens of other sequences in one pass, which reads every weight once.

        `tokens_T` holds the chunks' tokens one after the other, then one token per row; logits after the last token of
        each chunk, then of each row.
        """
        self._check_serving(len(tokens_T))
        cache.check([chunk.slot for chunk in chunks], [chunk.start + chunk.num_tokens for chunk in chunks])
        rows = cache.rows(slots_B, positions_B) if len(slots_B) else None
        places = [torch.arange(chunk.start, chunk.start + chunk.num_tokens) for chunk in chunks]
        places += [rows.position_index] if rows else []
        turn = cache.position_turn(torch.cat([place.to(tokens_T.device) for place in places]))
        x_1TD = self.embedding(tokens_T[None])
        for layer, block in enumerate(self.blocks):
            x_1TD = block(x_1TD, turn, cache.attend_mixed(layer, chunks, rows))
        lengths = [chunk.num_tokens for chunk in chunks] + [1] * len(slots_B)
        ends_B = torch.tensor(lengths, device=x_1TD.device).cumsum(0) - 1
        return self.embedding(self.norm(x_1TD[0, ends_B]), to_logits=True)

    def _check_serving(self, num_tokens: int) -> None:
        if self.training:
            raise ValueError("the model is in training mode; call model.eval() before generating")
        if num_tokens < 1:
            raise ValueError("there is no token to read")


class GPTTask(Task):
    """Predict every byte of a window from those before it; loss in nats per byte."""

    def __init__(self, config: GPTConfig) -> None:
        self.config = config
        self.tokens_per_sample = config.seq_len

    def build_model(self) -> GPT:
        return GPT(self.config)

    def open_data(self, root: Path, split: str) -> ByteWindows:
        return ByteWindows(open_dataset(root).split(split), self.config.seq_len)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Mean over rows and bytes: every window has the same number of bytes, so rows weigh the same."""
        bytes_BT = batch["bytes_BT"]
        logits_BTV = model(bytes_BT[:, :-1])
        return F.cross_entropy(logits_BTV.flatten(0, 1).float(), bytes_BT[:, 1:].flatten())

    def metrics(self, mean_loss: float) -> dict[str, float]:
        return {"loss": mean_loss, "bits_per_byte": mean_loss / math.log(2)}

    def flops_per_sample(self) -> float:
        """6 N + 12 L D T per token: what model FLOPs utilisation is defined by (PaLM, appendix B)."""
        attention = 12 * self.config.layers * self.config.d_model * self.config.seq_len
        return float(6 * num_parameters(self) + attention) * self.tokens_per_sample


def task(
    *,
    layers: int = 2,
    d_model: int = 64,
    heads: int | None = None,
    seq_len: int = 64,
    mlp_ratio: int = 4,
    dropout: float = 0.0,
) -> GPTTask:
    """The task `jobs.models.gpt:task`; `heads` defaults to one per 64 of `d_model`. Raises: ValueError."""
    heads = max(1, d_model // _HEAD_DIM) if heads is None else heads
    return GPTTask(
        GPTConfig(layers=layers, d_model=d_model, heads=heads, seq_len=seq_len, mlp_ratio=mlp_ratio, dropout=dropout)
    )
