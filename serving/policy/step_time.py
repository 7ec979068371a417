"""How long the next engine step takes: a linear model of what is in it, learned while serving.

t = a + b*rows + c*sqrt(rows) + d*prefill + e*context. The square root is what plain-torch decoding measures (6.6, 11.2,
15.8, 21.6, 29.5 ms at 1, 4, 8, 16, 32 rows: small matrix products grow efficient with rows); on a GPU it fits to zero.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

Vector = tuple[float, ...]
Matrix = tuple[Vector, ...]

# Typical magnitudes, so that one ridge suits every feature: a step of 16 rows, 64 prefill tokens, 4096 cached tokens.
_SCALE: Vector = (1.0, 16.0, 4.0, 64.0, 4096.0)
# How uncertain each weight is before anything is known of it, the noise of a step's time being 1. What a step costs by
# itself and what it costs beside others is anybody's guess. Cached tokens cost less than what reads them, so short
# contexts, between which any hiccup is a steep slope, say nothing about long ones.
_UNKNOWN: Vector = (1e4, 1e4, 1e4, 1e4, 1.0)
_TAIL_STEPS = 64  # about a second of steps: what slowed them down may be gone after that
_TAIL_QUANTILE = 0.95
_PACE_GAIN = 0.15
_SLOWEST, _FASTEST = 8.0, 0.1
_MAX_SLOWDOWN = 2.0  # that one step is believed: a stall is over with its step
# Of what was predicted: a stall of the machine says nothing about what rows cost. A shape that has not been seen often
# may surprise by more, and is learned in a few steps all the same.
_MAX_SURPRISE = 1.0
_MAX_SURPRISE_NEW = 2.0
_KNOWN = 0.2  # x'Px of a shape that has been seen often enough to be surprised by
_REPEATS = 3
_MOST_S = 3600.0  # that any part of a step takes: whatever says more is noise that was divided by next to nothing


@dataclass(frozen=True, slots=True)
class StepShape:
    """What one step computes: rows that decode a token, prompt tokens prefilled, cached tokens those rows attend to."""

    decode_rows: int = 0
    prefill_tokens: int = 0
    context_tokens: int = 0

    def __add__(self, other: StepShape) -> StepShape:
        return StepShape(
            self.decode_rows + other.decode_rows,
            self.prefill_tokens + other.prefill_tokens,
            self.context_tokens + other.context_tokens,
        )

    @property
    def features(self) -> Vector:
        """The model's regressors, each around one."""
        rows = self.decode_rows
        _, per_row, per_root, per_token, per_context = _SCALE
        prefill, context = self.prefill_tokens / per_token, self.context_tokens / per_context
        return (1.0, rows / per_row, math.sqrt(rows) / per_root, prefill, context)


EMPTY = StepShape()


@dataclass(frozen=True, slots=True, kw_only=True)
class StepTimeModel:
    """Recursive least squares with forgetting; immutable, `observe` returns the next model.

    `weights` in seconds per scaled feature; `covariance` the usual P matrix; `pace` how much slower than the weights
    say steps are just now, because weights need hundreds of steps to follow a machine that others use, too; `excess_s`
    how much longer than predicted recent steps took, `tail_s` its 95th percentile.
    One step says little: what it takes beyond the prediction is believed up to a multiple of that, and a slope that it
    shows between contexts is weighed against how far apart they are.
    Holds: predictions are never negative and never shrink when work is added (tests/serving/policy/test_step_time.py).
    """

    weights: Vector
    covariance: Matrix
    pace: float = 1.0
    excess_s: Vector = ()
    tail_s: float = 0.0
    forgetting: float = 0.998

    def predict_s(self, shape: StepShape) -> float:
        """Expected duration. Weights that noise made negative count as zero, so more work never looks cheaper."""
        return self.predict_parts_s(shape.decode_rows, shape.prefill_tokens, shape.context_tokens)

    def predict_parts_s(self, decode_rows: int, prefill_tokens: int, context_tokens: int) -> float:
        """As `predict_s`. Written out and without a shape, because every decision of the scheduler asks many times."""
        base, row, root, token, context = self.weights
        total_s = base if base > 0 else 0.0
        if decode_rows:
            total_s += (row * decode_rows / _SCALE[1] if row > 0 else 0.0) + (
                root * math.sqrt(decode_rows) / _SCALE[2] if root > 0 else 0.0
            )
        if prefill_tokens and token > 0:
            total_s += token * prefill_tokens / _SCALE[3]
        return self.pace * (total_s + (context * context_tokens / _SCALE[4] if context > 0 else 0.0))

    def observe(self, shape: StepShape, elapsed_s: float) -> StepTimeModel:
        """Learn from one step that took `elapsed_s`."""
        x = shape.features
        gained = tuple(_dot(row, x) for row in self.covariance)
        divisor = self.forgetting + _dot(x, gained)
        known_s = _dot(self.weights, x)
        error_s = elapsed_s - known_s
        is_known = known_s > 0 and divisor - self.forgetting < _KNOWN
        if known_s > 0:
            surprise = _MAX_SURPRISE if is_known else _MAX_SURPRISE_NEW
            error_s = max(-surprise * known_s, min(surprise * known_s, error_s))
        weights = tuple(w + g * error_s / divisor for w, g in zip(self.weights, gained, strict=True))
        covariance = _bounded(
            [
                [(p - gi * gj / divisor) / self.forgetting for p, gj in zip(row, gained, strict=True)]
                for row, gi in zip(self.covariance, gained, strict=True)
            ]
        )
        weights = _without_negative(weights, covariance)
        if not all(math.isfinite(one) for one in (*weights, *(p for row in covariance for p in row))):
            # Steps of no length leave directions without any uncertainty, and what is divided by that has no end: what
            # is known stays, and is as uncertain as at the beginning.
            weights, covariance = self.weights, untrained().covariance
        weights = tuple(min(one, _MOST_S) for one in weights)
        predicted_s = self.predict_s(shape)
        ratio = elapsed_s * self.pace / predicted_s if is_known and predicted_s > 0 else 1.0
        slowest = min(_SLOWEST, _MAX_SLOWDOWN * self.pace)
        pace = self.pace + _PACE_GAIN * (min(slowest, max(_FASTEST, ratio)) - self.pace)
        excess_s = (*self.excess_s[-_TAIL_STEPS + 1 :], elapsed_s - predicted_s)
        return replace(
            self, weights=weights, covariance=covariance, pace=pace, excess_s=excess_s, tail_s=_tail_s(excess_s)
        )


def _without_negative(weights: Vector, covariance: Matrix) -> Vector:
    """The likeliest weights of which none is negative: the others take over what a negative one stood for, as far as
    the steps that were seen say that they can."""
    for _ in weights:
        least = min(range(len(weights)), key=weights.__getitem__)
        if weights[least] >= 0 or covariance[least][least] <= 0:
            break
        excess = weights[least] / covariance[least][least]
        weights = tuple(0.0 if i == least else w - excess * covariance[i][least] for i, w in enumerate(weights))
    return weights


def _bounded(covariance: Sequence[Sequence[float]]) -> Matrix:
    """No weight more uncertain than before the first step: forgetting would blow up along directions that traffic never
    varies. Rows and columns shrink together, or the matrix would be none of covariances any more."""
    shrink = [
        math.sqrt(bound / row[i]) if row[i] > bound else 1.0
        for i, (row, bound) in enumerate(zip(covariance, _UNKNOWN, strict=True))
    ]
    return tuple(
        tuple(p * a * b for p, b in zip(row, shrink, strict=True)) for row, a in zip(covariance, shrink, strict=True)
    )


def _tail_s(excess_s: Vector) -> float:
    return max(0.0, sorted(excess_s)[math.ceil(_TAIL_QUANTILE * len(excess_s)) - 1])


def untrained() -> StepTimeModel:
    """A model that knows nothing and learns from its first steps."""
    size = len(_SCALE)
    eye = tuple(tuple(_UNKNOWN[i] if i == j else 0.0 for j in range(size)) for i in range(size))
    return StepTimeModel(weights=(0.0,) * size, covariance=eye)


def calibrated(samples: Sequence[tuple[StepShape, float]]) -> StepTimeModel:
    """A model seeded with measured steps, in order. Of steps with one shape the fastest counts: the others were
    disturbed, and `pace` follows a machine that always is."""
    fastest: dict[StepShape, float] = {}
    for shape, elapsed_s in samples:
        fastest[shape] = min(elapsed_s, fastest.get(shape, math.inf))
    model = untrained()
    for shape, elapsed_s in [*fastest.items()] * _REPEATS:
        model = model.observe(shape, elapsed_s)
    return replace(model, pace=1.0, excess_s=(), tail_s=0.0)


def exact(
    *, base_s: float, row_s: float = 0.0, prefill_token_s: float = 0.0, context_token_s: float = 0.0
) -> StepTimeModel:
    """The model with known coefficients per unit; it never learns. For simulation."""
    raw = (base_s, row_s, 0.0, prefill_token_s, context_token_s)
    weights = tuple(value * scale for value, scale in zip(raw, _SCALE, strict=True))
    return StepTimeModel(weights=weights, covariance=((0.0,) * len(raw),) * len(raw))


def _dot(left: Vector, right: Vector) -> float:
    return sum(a * b for a, b in zip(left, right, strict=True))
