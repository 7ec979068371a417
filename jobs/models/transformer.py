"""Building blocks of a pre-norm transformer with rotary positions; how attention is computed is passed in.

Training attends to the micro-batch itself, serving to a cache: both hand an `Attend` to the same blocks, so a weight
has one use and one code path.

Shapes: B rows, T positions, D model width, H heads, d width of one head, V vocabulary.
"""

# mypy: allow-subclassing-any, allow-untyped-decorators
# torch is not read by mypy, so its classes and decorators are of type Any.
from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# (q_BHTd, k_BHTd, v_BHTd) -> y_BHTd, all of the new positions only.
Attend = Callable[[Tensor, Tensor, Tensor], Tensor]
Rotation = tuple[Tensor, Tensor]

_ROTARY_BASE = 10_000.0
_INIT_STD = 0.02


def rotation(positions: Tensor, head_dim: int) -> Rotation:
    """Cosines and sines of `positions` (any shape), each of shape positions.shape + (head_dim / 2,), in float32.

    Computed per call and not kept as a buffer: casting a model to bf16 would cast the angles with it.
    Source: RoFormer (2104.09864), with the halves of a head rotated against each other as GPT-NeoX does.
    """
    steps = torch.arange(0, head_dim, 2, device=positions.device, dtype=torch.float32)
    angles = positions.float().unsqueeze(-1) * torch.exp(steps * (-math.log(_ROTARY_BASE) / head_dim))
    return angles.cos(), angles.sin()


def rotate(x: Tensor, turn: Rotation) -> Tensor:
    """Turn heads `x` (..., d) by `turn`, whose shapes broadcast to (..., d / 2)."""
    cos, sin = turn[0].to(x.dtype), turn[1].to(x.dtype)
    first, second = x.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)


def causal_attend(window: int) -> Attend:
    """Attention of a whole sequence to itself: each position sees itself and the `window - 1` before it."""

    def attend(q_BHTd: Tensor, k_BHTd: Tensor, v_BHTd: Tensor) -> Tensor:
        num_positions = q_BHTd.shape[2]
        if num_positions <= window:
            return F.scaled_dot_product_attention(q_BHTd, k_BHTd, v_BHTd, is_causal=True)
        seen_TT = band(0, num_positions, 0, num_positions, window, q_BHTd.device)
        return F.scaled_dot_product_attention(q_BHTd, k_BHTd, v_BHTd, attn_mask=seen_TT)

    return attend


def band(first_q: int, end_q: int, first_k: int, end_k: int, window: int, device: torch.device) -> Tensor:
    """Which keys [first_k, end_k) each query of [first_q, end_q) sees, as booleans of shape (queries, keys)."""
    distance = torch.arange(first_q, end_q, device=device)[:, None] - torch.arange(first_k, end_k, device=device)
    return (distance >= 0) & (distance < window)


class TiedEmbedding(nn.Module):
    """One matrix that turns tokens into vectors and vectors into scores.

    Both uses go through forward(): ZeRO-3 gathers a parameter for the module that owns it, in that module's hooks.
    """

    def __init__(self, vocabulary: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(vocabulary, width))
        nn.init.normal_(self.weight, std=_INIT_STD)

    def forward(self, x: Tensor, *, to_logits: bool = False) -> Tensor:
        """Tokens (...) -> vectors (..., D); with `to_logits` vectors (..., D) -> logits (..., V)."""
        return F.linear(x, self.weight) if to_logits else F.embedding(x, self.weight)


class Attention(nn.Module):
    """Multi-head attention with rotary positions."""

    def __init__(self, width: int, heads: int, *, residual_std: float) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = _linear(width, 3 * width, _INIT_STD)
        self.out = _linear(width, width, residual_std)

    def forward(self, x_BTD: Tensor, turn: Rotation, attend: Attend) -> Tensor:
        B, T, D = x_BTD.shape
        qkv_3BHTd = self.qkv(x_BTD).view(B, T, 3, self.heads, D // self.heads).permute(2, 0, 3, 1, 4)
        q_BHTd, k_BHTd, v_BHTd = qkv_3BHTd.unbind(0)
        y_BHTd = attend(rotate(q_BHTd, turn), rotate(k_BHTd, turn), v_BHTd)
        return self.out(y_BHTd.transpose(1, 2).reshape(B, T, D))


class Mlp(nn.Module):
    """Widen, GELU, narrow."""

    def __init__(self, width: int, hidden: int, *, residual_std: float) -> None:
        super().__init__()
        self.widen = _linear(width, hidden, _INIT_STD)
        self.narrow = _linear(hidden, width, residual_std)

    def forward(self, x_BTD: Tensor) -> Tensor:
        return self.narrow(F.gelu(self.widen(x_BTD), approximate="tanh"))


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)); dropout on both branches.

    Attention weights are not dropped: the CPU's fused attention cannot, and falls back to a several times slower path.
    """

    def __init__(self, width: int, heads: int, *, mlp_ratio: int, layers: int, dropout: float) -> None:
        super().__init__()
        # GPT-2: 2 * layers branches add up on the residual stream, so each starts smaller.
        residual_std = _INIT_STD / math.sqrt(2 * layers)
        self.attention_norm = nn.LayerNorm(width)
        self.attention = Attention(width, heads, residual_std=residual_std)
        self.mlp_norm = nn.LayerNorm(width)
        self.mlp = Mlp(width, mlp_ratio * width, residual_std=residual_std)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x_BTD: Tensor, turn: Rotation, attend: Attend) -> Tensor:
        x_BTD = x_BTD + self.dropout(self.attention(self.attention_norm(x_BTD), turn, attend))
        return x_BTD + self.dropout(self.mlp(self.mlp_norm(x_BTD)))


def _linear(inputs: int, outputs: int, std: float) -> nn.Linear:
    # Not torch's skip_init, which saves a draw but allocates on the CPU even under the meta device.
    layer = nn.Linear(inputs, outputs, bias=False)
    nn.init.normal_(layer.weight, std=std)
    return layer
