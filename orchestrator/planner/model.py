"""The size of a model: parameters of a GPT from its shape, and the FLOPs of a token.

Symbols as in the papers: L layers, d model width, s tokens of a sample, V vocabulary, N parameters.
"""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.planner.values import at_least_one, not_negative

FULL_RECOMPUTATION = 4 / 3
"""Hardware FLOPs over model FLOPs where every activation is computed twice: 2 + 2 + 4 instead of 2 + 4 per weight."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """What the formulas need of a model. `layers` and `d_model` 0 = not known: attention and activations are left out.

    Raises: ValueError for sizes that are no counts, or a width without layers.
    """

    num_params: int
    seq_len: int
    layers: int = 0
    d_model: int = 0
    heads: int = 0
    vocabulary: int = 0

    def __post_init__(self) -> None:
        at_least_one("num_params", self.num_params)
        at_least_one("seq_len", self.seq_len)
        for field in ("layers", "d_model", "heads", "vocabulary"):
            not_negative(field, getattr(self, field))
        if bool(self.layers) != bool(self.d_model):
            raise ValueError(f"layers is {self.layers} and d_model is {self.d_model}; give both or neither")

    @property
    def shape_known(self) -> bool:
        """Whether attention and activations can be counted."""
        return self.layers > 0

    @property
    def flops_per_token(self) -> float:
        """6N + 12 L d s: forward and backward of one training token, attention included.

        Source: PaLM (2204.02311), appendix B. Without a known shape 6N, which falls short at long samples.
        """
        return 6.0 * self.num_params + 12.0 * self.layers * self.d_model * self.seq_len


def gpt_params(
    layers: int,
    d_model: int,
    vocabulary: int,
    *,
    learned_positions: int = 0,
    mlp_ratio: int = 4,
    linear_biases: bool = True,
    norm_biases: bool = True,
) -> int:
    """Parameters of a pre-norm GPT with tied embedding: L (4 + 2r) d^2 of matrices, V d + positions, biases, norms.

    With r = 4 and biases this is 12 L d^2 (1 + 13/(12 d) + (V + s)/(12 L d)): Megatron (2104.04473), equation 2, but
    for the last norm. Raises: ValueError.
    """
    for name, value in (("layers", layers), ("d_model", d_model), ("vocabulary", vocabulary), ("mlp_ratio", mlp_ratio)):
        at_least_one(name, value)
    not_negative("learned_positions", learned_positions)
    matrices = (4 + 2 * mlp_ratio) * d_model**2
    biases = (5 + mlp_ratio) * d_model if linear_biases else 0
    norm = (2 if norm_biases else 1) * d_model
    return layers * (matrices + biases + 2 * norm) + (vocabulary + learned_positions) * d_model + norm


def gpt(layers: int, d_model: int, seq_len: int, *, vocabulary: int = 256, mlp_ratio: int = 4, heads: int = 0) -> Model:
    """The model that `jobs.models.gpt:task` builds: rotary positions, no biases. Raises: ValueError."""
    return Model(
        num_params=gpt_params(layers, d_model, vocabulary, mlp_ratio=mlp_ratio, linear_biases=False),
        seq_len=seq_len,
        layers=layers,
        d_model=d_model,
        heads=heads or max(1, d_model // 64),
        vocabulary=vocabulary,
    )
