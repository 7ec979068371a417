"""Keys and values of sequences being generated, in numbered slots of one preallocated block.

A slot belongs to one sequence at a time; who gets which slot is the server's business. Nothing is cleared between
sequences: a sequence reads only positions it has written itself, because each starts at position 0.

Shapes: L layers, S slots, H heads, P positions (`max_len`), d width of one head, B rows of a step, T tokens of a chunk.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from jobs.models.transformer import Attend, Rotation, band, rotation

_MIN_ROWS_AT_ONCE = 4
# What a row costs by itself beside its positions, in positions of a range of slots. Measured on one core in whole steps
# of six layers, whose caches are read from memory, 6 heads of 64: 50 us by itself with 96 positions, 0.35 us a position
# of the range; so of 32 slots with 64 to 128 positions 28 rows or more go together, and with 200 to 300 only all.
_ROW_POSITIONS = 50


@dataclass(frozen=True, slots=True)
class Chunk:
    """The next `num_tokens` tokens of the sequence in `slot`, from position `start`."""

    slot: int
    start: int
    num_tokens: int


@dataclass(frozen=True, slots=True)
class SlotRange:
    """Slots [first, end) up to `length` positions, as one call computes them; row i of a step is the `index[i]`-th.
    `seen` (R, 1, 1, P): which positions each slot sees."""

    first: int
    end: int
    length: int
    index: Tensor
    seen: Tensor


@dataclass(frozen=True, slots=True)
class Rows:
    """Where the tokens of one step go: slot and position of each row, as numbers and as tensors (B,) on the device.
    `together`: the range to compute at once, where that is cheaper than each row by itself."""

    slots: tuple[int, ...]
    positions: tuple[int, ...]
    slot_index: Tensor
    position_index: Tensor
    together: SlotRange | None = None


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

    def rows(self, slots: Sequence[int] | Tensor, positions: Sequence[int] | Tensor) -> Rows:
        """Rows of one decode step. Raises: ValueError unless slots are distinct and all lie within the cache."""
        slots, positions = _integers(slots), _integers(positions)
        self.check(slots, [position + 1 for position in positions])
        device = self.k_LSHPd.device
        slot_index, position_index = torch.tensor(slots, device=device), torch.tensor(positions, device=device)
        pays = device.type == "cpu" and _pays_together(slots, positions, min(self.max_len, self.window))
        together = _slot_range(slots, positions, slot_index, position_index) if pays else None
        return Rows(slots, positions, slot_index, position_index, together)

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

    def position_turn(self, positions_T: Tensor) -> Rotation:
        """Rotation of each given position, shapes (T, d / 2)."""
        cos, sin = self._turn_Pd
        return cos[positions_T], sin[positions_T]

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

    def attend_mixed(self, layer: int, chunks: Sequence[Chunk], rows: Rows | None) -> Attend:
        """Attention of several sequences' tokens that lie one after the other along T: chunks first, then rows."""

        def attend(q_1HTd: Tensor, k_1HTd: Tensor, v_1HTd: Tensor) -> Tensor:
            parts, at = [], 0
            for chunk in chunks:
                q, k, v = (x[:, :, at : at + chunk.num_tokens] for x in (q_1HTd, k_1HTd, v_1HTd))
                parts.append(self.attend_chunk(layer, chunk.slot, chunk.start)(q, k, v))
                at += chunk.num_tokens
            if rows is not None:
                q, k, v = (x[:, :, at:].transpose(0, 2) for x in (q_1HTd, k_1HTd, v_1HTd))  # rows become B
                parts.append(self.attend_rows(layer, rows)(q, k, v).transpose(0, 2))
            return torch.cat(parts, dim=2)

        return attend

    def attend_rows(self, layer: int, rows: Rows) -> Attend:
        """Attention of one new token per row, each to its own slot, whose positions they join."""
        k_SHPd, v_SHPd = self.k_LSHPd[layer], self.v_LSHPd[layer]
        if k_SHPd.device.type != "cpu":
            attend_to = self._all_rows
        else:
            attend_to = self._each_row if rows.together is None else self._slot_range

        def attend(q_BH1d: Tensor, k_BH1d: Tensor, v_BH1d: Tensor) -> Tensor:
            k_SHPd[rows.slot_index, :, rows.position_index] = k_BH1d[:, :, 0].to(k_SHPd.dtype)
            v_SHPd[rows.slot_index, :, rows.position_index] = v_BH1d[:, :, 0].to(v_SHPd.dtype)
            return attend_to(q_BH1d, k_SHPd, v_SHPd, rows)

        return attend

    def _each_row(self, q_BH1d: Tensor, k_SHPd: Tensor, v_SHPd: Tensor, rows: Rows) -> Tensor:
        """Row by row over exactly the positions it has: no copy of the cache, no padding to the longest row.

        Written out, because most of a fused call for a single query is overhead: 20 us a row of 96 positions in the
        processor's cache, not 26.
        """
        dtype, parts = q_BH1d.dtype, []
        scaled_BH1d = q_BH1d * q_BH1d.shape[-1] ** -0.5
        for q_H1d, slot, position in zip(scaled_BH1d.unbind(0), rows.slots, rows.positions, strict=True):
            seen = slice(max(0, position - self.window + 1), position + 1)
            weights_H1P = torch.bmm(q_H1d, k_SHPd[slot, :, seen].to(dtype).transpose(1, 2)).softmax(-1)
            parts.append(torch.bmm(weights_H1P, v_SHPd[slot, :, seen].to(dtype)))
        return torch.stack(parts)

    def _slot_range(self, q_BH1d: Tensor, k_SHPd: Tensor, v_SHPd: Tensor, rows: Rows) -> Tensor:
        """One call over the range of slots in use, in place: no copy of the cache, padded to the longest row."""
        part = rows.together
        assert part is not None, "it pays"
        q_RH1d = q_BH1d.new_zeros(part.end - part.first, *q_BH1d.shape[1:])
        q_RH1d[part.index] = q_BH1d
        keys = k_SHPd[part.first : part.end, :, : part.length].to(q_RH1d.dtype)
        values = v_SHPd[part.first : part.end, :, : part.length].to(q_RH1d.dtype)
        return F.scaled_dot_product_attention(q_RH1d, keys, values, attn_mask=part.seen)[part.index]

    def _all_rows(self, q_BH1d: Tensor, k_SHPd: Tensor, v_SHPd: Tensor, rows: Rows) -> Tensor:
        """One call for all rows over the positions any of them sees: on a GPU a launch costs more than the copy."""
        first, end = max(0, min(rows.positions) - self.window + 1), max(rows.positions) + 1
        distance_BP = rows.position_index[:, None] - torch.arange(first, end, device=q_BH1d.device)
        seen_B11P = ((distance_BP >= 0) & (distance_BP < self.window))[:, None, None]
        keys = k_SHPd[rows.slot_index, :, first:end].to(q_BH1d.dtype)
        values = v_SHPd[rows.slot_index, :, first:end].to(q_BH1d.dtype)
        return F.scaled_dot_product_attention(q_BH1d, keys, values, attn_mask=seen_B11P)


def _pays_together(slots: Sequence[int], positions: Sequence[int], longest: int) -> bool:
    """Whether one call for the range of slots, padded to the longest row, costs less than one call a row."""
    length = max(positions) + 1
    if len(slots) < _MIN_ROWS_AT_ONCE or length > longest:
        return False
    padded = (max(slots) + 1 - min(slots)) * length
    return padded < len(slots) * (_ROW_POSITIONS + 1) + sum(positions)


def _slot_range(
    slots: Sequence[int], positions: Sequence[int], slot_index: Tensor, position_index: Tensor
) -> SlotRange:
    first, end, length = min(slots), max(slots) + 1, max(positions) + 1
    index_B = slot_index - first
    seen_RP = torch.zeros(end - first, length, dtype=torch.bool)
    seen_RP[index_B] = torch.arange(length) <= position_index[:, None]
    seen_RP[:, 0] = True  # a slot that is not asked attends to something, or its softmax would be NaN
    return SlotRange(first, end, length, index_B, seen_RP[:, None, None])


def _integers(values: Sequence[int] | Tensor) -> tuple[int, ...]:
    return tuple(values.tolist() if isinstance(values, Tensor) else values)
