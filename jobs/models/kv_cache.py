"""Keys and values of sequences being generated, in numbered slots of one preallocated block.

A slot belongs to one sequence at a time; who gets which slot is the server's business. Nothing is cleared between
sequences: a sequence reads only positions it has written itself, because each starts at position 0.

Shapes: L layers, S slots, H heads, P positions (`max_len`), d width of one head, B rows of a step, T tokens of a chunk.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from jobs.models.transformer import Attend, Rotation, band, rotation


class SlotCache:
    """Cache for `num_slots` sequences of up to `max_len` tokens; `num_bytes` is allocated at once and never grows."""

    def __init__(
        self,
        *,
        layers: int,
        num_slots: int,
        heads: int,
        max_len: int,
        head_dim: int,
        window: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        if num_slots < 1 or max_len < 1:
            raise ValueError(f"a cache needs at least one slot and one position, not {num_slots} and {max_len}")
        shape_LSHPd = (layers, num_slots, heads, max_len, head_dim)
        self.num_slots, self.max_len, self.window = num_slots, max_len, window
        # Zeros, not empty: a masked position weighs 0, and 0 * NaN would still be NaN.
        self.k_LSHPd = torch.zeros(shape_LSHPd, dtype=dtype, device=device)
        self.v_LSHPd = torch.zeros(shape_LSHPd, dtype=dtype, device=device)
        self._turn_Pd = rotation(torch.arange(max_len, device=device), head_dim)

    @property
    def num_bytes(self) -> int:
        return int(2 * self.k_LSHPd.nbytes)

    def check(self, slots: Sequence[int], ends: Sequence[int]) -> None:
        """Raise ValueError unless every slot exists once and every end position fits."""
        if len(set(slots)) != len(slots) or not all(0 <= slot < self.num_slots for slot in slots):
            raise ValueError(f"slots {list(slots)} must be distinct and within 0..{self.num_slots - 1}")
        if not all(0 < end <= self.max_len for end in ends):
            raise ValueError(f"positions must end within 1..{self.max_len}, not at {max(ends, key=abs)}")

    def chunk_turn(self, start: int, end: int) -> Rotation:
        """Rotation of positions [start, end), shapes (T, d / 2)."""
        cos, sin = self._turn_Pd
        return cos[start:end], sin[start:end]

    def row_turn(self, positions_B: Tensor) -> Rotation:
        """Rotation of one position per row, shapes (B, 1, 1, d / 2)."""
        cos, sin = self._turn_Pd
        return cos[positions_B, None, None], sin[positions_B, None, None]

    def attend_chunk(self, layer: int, slot: int, start: int) -> Attend:
        """Attention of one sequence's next tokens (B = 1) to all it has so far, which they join."""

        def attend(q_1HTd: Tensor, k_1HTd: Tensor, v_1HTd: Tensor) -> Tensor:
            end = start + q_1HTd.shape[2]
            first = max(0, start - self.window + 1)
            k_HPd, v_HPd = self.k_LSHPd[layer, slot], self.v_LSHPd[layer, slot]
            k_HPd[:, start:end], v_HPd[:, start:end] = k_1HTd[0], v_1HTd[0]
            seen_TP = band(start, end, first, end, self.window, q_1HTd.device)
            keys, values = k_HPd[None, :, first:end].to(q_1HTd.dtype), v_HPd[None, :, first:end].to(q_1HTd.dtype)
            return F.scaled_dot_product_attention(q_1HTd, keys, values, attn_mask=seen_TP)

        return attend

    def attend_rows(
        self, layer: int, slots: Sequence[int], positions: Sequence[int], index: tuple[Tensor, Tensor]
    ) -> Attend:
        """Attention of one new token per row, each to its own slot; `index` is (slots, positions) as tensors.

        One call per row over exactly the positions it has: no copy of the cache, no padding to the longest neighbour,
        and nothing of a neighbour in the result.
        """
        k_SHPd, v_SHPd = self.k_LSHPd[layer], self.v_LSHPd[layer]
        slots_B, positions_B = index

        def attend(q_BH1d: Tensor, k_BH1d: Tensor, v_BH1d: Tensor) -> Tensor:
            k_SHPd[slots_B, :, positions_B] = k_BH1d[:, :, 0].to(k_SHPd.dtype)
            v_SHPd[slots_B, :, positions_B] = v_BH1d[:, :, 0].to(v_SHPd.dtype)
            y_BH1d = torch.empty_like(q_BH1d)
            for row, (slot, position) in enumerate(zip(slots, positions, strict=True)):
                seen = slice(max(0, position - self.window + 1), position + 1)
                keys = k_SHPd[slot : slot + 1, :, seen].to(q_BH1d.dtype)
                values = v_SHPd[slot : slot + 1, :, seen].to(q_BH1d.dtype)
                y_BH1d[row] = F.scaled_dot_product_attention(q_BH1d[row : row + 1], keys, values)[0]
            return y_BH1d

        return attend
