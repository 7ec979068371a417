"""Compute-optimal sizes: which N parameters and D tokens a budget of FLOPs is best spent on, and what loss follows.

Two rules of one paper (Hoffmann et al., 2203.15556): 20 tokens per parameter, and the parametric fit
L(N, D) = E + A/N^alpha + B/D^beta in nats per token. The second wants ever more tokens a parameter as budgets grow;
both are shown where one is asked.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from orchestrator.planner.utilisation import training_flops
from orchestrator.planner.values import not_negative, positive

TOKENS_PER_PARAM = 20.0
_SEARCH_STEPS = 100  # of a golden section over 4 decades: far below what floats resolve
_GOLDEN = (math.sqrt(5) - 1) / 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """A model and its training tokens. FLOPs are 6 N D."""

    num_params: float
    num_tokens: float

    @property
    def flops(self) -> float:
        return training_flops(self.num_params, self.num_tokens)

    @property
    def tokens_per_param(self) -> float:
        return self.num_tokens / self.num_params


@dataclass(frozen=True, slots=True, kw_only=True)
class ParametricFit:
    """Constants of L = E + A/N^alpha + B/D^beta.

    The paper rounds its exponents to 0.34 and 0.28, which misses its own Table A3 by 1.6 to 2.2x; 0.336 and 0.283 come
    within 8 %. Besiroglu et al. (2404.10102) dispute the fit; treat losses as comparisons.
    """

    e: float = 1.69
    a: float = 406.4
    b: float = 410.7
    alpha: float = 0.336
    beta: float = 0.283

    def loss(self, sizes: Sizes) -> float:
        """Nats per token of a text like the paper's; not of your data."""
        return float(self.e + self.a / sizes.num_params**self.alpha + self.b / sizes.num_tokens**self.beta)

    @property
    def _g(self) -> float:
        return float((self.alpha * self.a / (self.beta * self.b)) ** (1 / (self.alpha + self.beta)))

    def optimal(self, flops: float) -> Sizes:
        """The sizes of least loss with 6 N D = `flops`. Source: equation 4: N = G (C/6)^(beta/(alpha+beta))."""
        half = positive("flops", flops) / 6.0
        num_params = self._g * half ** (self.beta / (self.alpha + self.beta))
        return Sizes(num_params=num_params, num_tokens=half / num_params)

    def optimal_for(self, num_params: float) -> Sizes:
        """The inverse: the tokens that make a model of this size the optimum of its own FLOPs."""
        half = (positive("num_params", num_params) / self._g) ** ((self.alpha + self.beta) / self.beta)
        return Sizes(num_params=num_params, num_tokens=half / num_params)

    def tokens_to_reach(self, loss: float, num_params: float) -> float | None:
        """Training tokens with which a model of this size reaches `loss`; None where it never does."""
        left = loss - self.e - self.a / positive("num_params", num_params) ** self.alpha
        return float((self.b / left) ** (1 / self.beta)) if left > 0 else None


CHINCHILLA = ParametricFit()


def by_rule(flops: float, *, tokens_per_param: float = TOKENS_PER_PARAM) -> Sizes:
    """20 tokens per parameter: N = sqrt(C / 120). Source: the paper's Table 3."""
    ratio = positive("tokens_per_param", tokens_per_param)
    num_params = math.sqrt(positive("flops", flops) / (6.0 * ratio))
    return Sizes(num_params=num_params, num_tokens=ratio * num_params)


def rule_for(num_params: float, *, tokens_per_param: float = TOKENS_PER_PARAM) -> Sizes:
    """The inverse: tokens and FLOPs for a model of this size."""
    return Sizes(num_params=positive("num_params", num_params), num_tokens=tokens_per_param * num_params)


def lifetime_flops(sizes: Sizes, served_tokens: float) -> float:
    """6 N D of training and 2 N of each token served."""
    return sizes.flops + 2.0 * sizes.num_params * not_negative("served_tokens", served_tokens)


def serving_aware(sizes: Sizes, served_tokens: float, fit: ParametricFit = CHINCHILLA) -> Sizes:
    """Sizes of the same loss whose training and serving together take the fewest FLOPs: smaller, trained for longer.

    Never worse than what was given. Source: Sardana et al. (2401.00448), equation 2, solved by a golden section over
    log N, in which the cost falls and then rises.
    """
    not_negative("served_tokens", served_tokens)
    loss = fit.loss(sizes)

    def at(log_n: float) -> Sizes:
        num_params = math.exp(log_n)
        return Sizes(num_params=num_params, num_tokens=fit.tokens_to_reach(loss, num_params) or math.inf)

    def cost(log_n: float) -> float:
        candidate = at(log_n)
        return candidate.num_params * (6.0 * candidate.num_tokens + 2.0 * served_tokens)

    # Below this size no number of tokens reaches the loss.
    least = math.log(fit.a / (loss - fit.e)) / fit.alpha
    best = at(_least(cost, least, math.log(sizes.num_params) + math.log(1e3)))
    return best if lifetime_flops(best, served_tokens) < lifetime_flops(sizes, served_tokens) else sizes


def serving_aware_within(flops: float, served_tokens: float, fit: ParametricFit = CHINCHILLA) -> Sizes:
    """The least loss whose training and serving together stay within `flops`; what serving leaves, trains.

    D = (C - 2 N S) / 6 N for each N: the same optimum as `serving_aware`, asked from the budget's side.
    """
    positive("flops", flops)
    if not_negative("served_tokens", served_tokens) == 0:
        return fit.optimal(flops)

    def at(log_n: float) -> Sizes:
        num_params = math.exp(log_n)
        left = flops - 2.0 * num_params * served_tokens
        return Sizes(num_params=num_params, num_tokens=left / (6.0 * num_params))

    def loss(log_n: float) -> float:
        candidate = at(log_n)
        return fit.loss(candidate) if candidate.num_tokens > 0 else math.inf

    top = math.log(flops / (2.0 * served_tokens))  # a model of this size could be served, and not trained
    most = math.log(fit.optimal(flops).num_params)
    return at(_least(loss, min(top, most) - math.log(1e6), min(top, most)))


def _least(cost: Callable[[float], float], low: float, high: float) -> float:
    """Where a function that falls and then rises is least."""
    for _ in range(_SEARCH_STEPS):
        first, second = high - _GOLDEN * (high - low), low + _GOLDEN * (high - low)
        if cost(first) <= cost(second):
            high = second
        else:
            low = first
    return (low + high) / 2
