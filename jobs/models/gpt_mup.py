"""The byte-level GPT in maximal update parametrisation: the best learning rate of a narrow model is that of a wide one.

Rules for Adam (Yang et al., Tensor Programs V, 2203.03466, table 8), against a base width, m = width / base width:
hidden matrices start with variance 1 / m of the base's and learn at 1 / m of its rate, scores are divided by m, and
attention logits fall with 1 / head width instead of its root. Here every parameter keeps one learning rate, which is
what the trainer's optimizer has: a hidden matrix is stored as w with W = w / m, and w starts m^(1/2) wider than the
base's. Adam moves w by the rate whatever its gradient's scale, so W moves by rate / m, and starts with m^(-1/2) of the
base's spread. Embeddings and norms are as they were. At the base width and `init_scale` 1 the model is the plain one.

`init_scale` multiplies the spread with which every matrix starts. The plain model's start suits wide models and is
small for a narrow base (at width 64 a matrix keeps its input's size with a spread of 1 / 8, six times 0.02): search it
at the base width beside the rate; both move to other widths.

Hold fixed while the width changes: layers, base_width, batch, schedule; weight decay acts on w at the one rate.
"""

# mypy: allow-subclassing-any, allow-untyped-decorators
from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor, nn

from jobs.models.gpt import GPT, GPTConfig, GPTTask
from jobs.models.task import Task
from jobs.models.transformer import Attend, Attention, Rotation, TiedEmbedding


class ScaledLinear(nn.Linear):
    """A hidden matrix W = w / m."""

    def __init__(self, plain: nn.Linear, m: float) -> None:
        super().__init__(plain.in_features, plain.out_features, bias=False)
        self._m = m
        self.weight.data.copy_(plain.weight.data * math.sqrt(m))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight) / self._m


class ScaledEmbedding(TiedEmbedding):
    """Scores divided by m; vectors as they are."""

    def __init__(self, plain: TiedEmbedding, m: float) -> None:
        super().__init__(*plain.weight.shape)
        self._m = m
        self.weight.data.copy_(plain.weight.data)

    def forward(self, x: Tensor, *, to_logits: bool = False) -> Tensor:
        out = super().forward(x, to_logits=to_logits)
        return out / self._m if to_logits else out


class ScaledAttention(Attention):
    """Logits fall with 1 / d: the inner attention divides by the root of d, this by the root of d over the base's."""

    def __init__(self, plain: Attention, m: float, scale: float) -> None:
        nn.Module.__init__(self)
        self.heads = plain.heads
        self.qkv, self.out = ScaledLinear(plain.qkv, m), ScaledLinear(plain.out, m)
        self._scale = scale

    def forward(self, x_BTD: Tensor, turn: Rotation, attend: Attend) -> Tensor:
        def scaled(q_BHTd: Tensor, k_BHTd: Tensor, v_BHTd: Tensor) -> Tensor:
            return attend(q_BHTd * self._scale, k_BHTd, v_BHTd)

        return super().forward(x_BTD, turn, scaled)


class MupGPT(GPT):
    """A GPT whose parameters are scaled against `base_width`, and whose matrices start `init_scale` times as wide."""

    def __init__(self, config: GPTConfig, base_width: int, init_scale: float) -> None:
        super().__init__(config)
        m = config.d_model / base_width
        self.embedding = ScaledEmbedding(self.embedding, m)
        base_head = base_width / config.heads
        for block in self.blocks:
            block.attention = ScaledAttention(block.attention, m, math.sqrt(base_head / config.head_dim))
            block.mlp.widen, block.mlp.narrow = ScaledLinear(block.mlp.widen, m), ScaledLinear(block.mlp.narrow, m)
        for parameter in self.parameters():
            if parameter.dim() > 1:  # the others are norms
                parameter.data.mul_(init_scale)


class MupTask(GPTTask):
    """The GPT's task with a scaled model."""

    def __init__(self, config: GPTConfig, base_width: int, init_scale: float) -> None:
        super().__init__(config)
        self._base_width, self._init_scale = base_width, init_scale

    def build_model(self) -> GPT:
        return MupGPT(self.config, self._base_width, self._init_scale)


def task(
    *,
    layers: int = 2,
    d_model: int = 64,
    heads: int = 4,
    seq_len: int = 64,
    mlp_ratio: int = 4,
    dropout: float = 0.0,
    base_width: int = 64,
    init_scale: float = 1.0,
) -> Task:
    """The task `jobs.models.gpt_mup:task`; keep `heads` while `d_model` changes. Raises: ValueError."""
    if base_width < 1:
        raise ValueError(f"base_width is {base_width}, it must be at least 1")
    if not 0 < init_scale < math.inf:
        raise ValueError(f"init_scale is {init_scale}, it must be above 0")
    config = GPTConfig(
        layers=layers, d_model=d_model, heads=heads, seq_len=seq_len, mlp_ratio=mlp_ratio, dropout=dropout
    )
    return MupTask(config, base_width, init_scale)
