"""Every method of a merge against its formula, in float64 and of the whole tensor at once.

Numbers are small multiples of powers of two, so that fp32 differences and their signs are exact and the formulas have
the same ties.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from jobs.transform.blend import Blend, Side, blend
from jobs.transform.draws import Draws
from orchestrator.spec.merge import Dare, Linear, Method, Slerp, TaskArithmetic, Ties

Floats = NDArray[np.float64]
SIZES = st.integers(0, 50)
WEIGHTS = st.lists(st.integers(-8, 16).map(lambda eighths: eighths / 8), min_size=1, max_size=4)
SEEDS = st.integers(0, 2**32 - 1)
DENSITIES = st.sampled_from([0.01, 0.2, 0.3, 0.5, 0.7, 0.99, 1.0])
SCALES = st.sampled_from([0.5, 1.0, 1.7])


def method(kind: type, **values: object) -> Method:
    """A method as a file would have it."""
    name = {Linear: "linear", Slerp: "slerp", TaskArithmetic: "task_arithmetic", Ties: "ties", Dare: "dare"}[kind]
    made: Method = kind.model_validate({"name": name, **values})
    return made


def drawn(seed: int, count: int, size: int) -> list[Floats]:
    """Arrays of multiples of 1/16 in -2..2; many of them are equal."""
    draw = np.random.default_rng(seed)
    return [draw.integers(-32, 33, size) / 16 for _ in range(count)]


def blended(
    how: Method, models: list[Floats], weights: list[float], base: Floats | None = None, block: int = 1000
) -> Floats:
    """What the method makes of the arrays, in blocks."""

    def reader(array: Floats) -> Callable[[int, int], torch.Tensor]:
        whole = torch.from_numpy(array).float()
        return lambda start, count: whole[start : start + count].clone()

    sides = [
        Side(name=f"m@{at}", weight=weight, read=reader(model))
        for at, (model, weight) in enumerate(zip(models, weights, strict=True))
    ]
    of = Blend(tensor="t", numel=len(models[0]), sides=sides, base=None if base is None else reader(base), block=block)
    parts = [part.clone() for part in blend(how, of)]
    assert all(part.dtype == torch.float32 for part in parts)
    return torch.cat([torch.empty(0), *parts]).double().numpy()


def close(found: Floats, wanted: Floats) -> None:
    np.testing.assert_allclose(found, wanted, rtol=2e-6, atol=2e-6)


@given(SEEDS, SIZES, WEIGHTS, st.booleans())
def test_linear_is_the_weighted_mean_or_sum(seed: int, size: int, weights: list[float], normalize: bool) -> None:
    total = sum(weights) if normalize else 1.0
    if abs(total) < 0.1:
        return
    models = drawn(seed, len(weights), size)
    wanted = sum((w * x for w, x in zip(weights, models, strict=True)), np.zeros(size)) / total
    found = blended(method(Linear, normalize=normalize), models, weights)
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-4)  # weights that nearly cancel magnify


@given(SEEDS, SIZES, st.floats(0, 1))
def test_slerp_is_the_point_on_the_arc(seed: int, size: int, t: float) -> None:
    a, b = drawn(seed, 2, size)
    lengths = np.linalg.norm(a) * np.linalg.norm(b)
    angle = math.acos(max(-1.0, min(1.0, a @ b / lengths))) if lengths else 0.0
    sine = math.sin(angle)
    if sine < 1e-4:
        wanted = (1 - t) * a + t * b
    else:
        wanted = (math.sin((1 - t) * angle) * a + math.sin(t * angle) * b) / sine
    found = blended(method(Slerp, t=t), [a, b], [1, 1])
    np.testing.assert_allclose(found, wanted, rtol=0, atol=2e-6 / max(sine, 1e-4))  # half a turn magnifies


@given(st.floats(0, 1), st.floats(0.01, 3.1))
def test_slerp_keeps_the_length_of_unit_vectors(t: float, angle: float) -> None:
    a, b = np.array([1.0, 0.0]), np.array([math.cos(angle), math.sin(angle)])
    assert np.linalg.norm(blended(method(Slerp, t=t), [a, b], [1, 1])) == pytest.approx(1, abs=1e-4)


@given(SEEDS, SIZES, WEIGHTS, SCALES)
def test_task_arithmetic_adds_weighted_differences(seed: int, size: int, weights: list[float], scale: float) -> None:
    base, *models = drawn(seed, len(weights) + 1, size)
    wanted = base + scale * sum((w * (x - base) for w, x in zip(weights, models, strict=True)), np.zeros(size))
    close(blended(method(TaskArithmetic, scale=scale), models, weights, base), wanted)


def agreed(changes: list[Floats], weights: list[float]) -> Floats:
    """The disjoint mean of TIES: of those whose sign is the sign of the weighted sum."""
    parts = np.stack([w * change for w, change in zip(weights, changes, strict=True)])
    agrees = parts * np.sign(parts.sum(0)) > 0
    share = (np.abs(weights)[:, None] * agrees).sum(0)
    mean: Floats = (parts * agrees).sum(0) / np.where(share == 0, 1, share)
    return mean


def trimmed(change: Floats, density: float) -> Floats:
    if not len(change):
        return change
    keep = max(1, math.ceil(density * len(change) - 1e-9))
    return np.where(np.abs(change) >= np.sort(np.abs(change))[-keep], change, 0)


@given(SEEDS, SIZES, WEIGHTS, DENSITIES, SCALES)
def test_ties_trims_elects_and_averages(
    seed: int, size: int, weights: list[float], density: float, scale: float
) -> None:
    base, *models = drawn(seed, len(weights) + 1, size)
    wanted = base + scale * agreed([trimmed(x - base, density) for x in models], weights)
    close(blended(method(Ties, density=density, scale=scale), models, weights, base), wanted)


@given(SEEDS, SIZES, WEIGHTS, DENSITIES, st.booleans())
def test_dare_drops_and_rescales(seed: int, size: int, weights: list[float], density: float, elect: bool) -> None:
    base, *models = drawn(seed, len(weights) + 1, size)
    masks = [Draws(seed, "t", f"m@{at}").chosen(size, density).numpy() for at in range(len(models))] if size else []
    masks = [np.ones(size)] * len(models) if density == 1 or not size else masks
    changes = [mask * (x - base) for mask, x in zip(masks, models, strict=True)]
    sums = sum((w * change for w, change in zip(weights, changes, strict=True)), np.zeros(size))
    wanted = base + 1.7 / density * (agreed(changes, weights) if elect else sums)
    found = blended(method(Dare, density=density, elect_sign=elect, scale=1.7, seed=seed), models, weights, base)
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-4)  # a density of 0.01 multiplies by 100


ALL = [
    method(Linear),
    method(Slerp, t=0.3),
    method(TaskArithmetic, scale=0.7),
    method(Ties, density=0.3),
    method(Dare, density=0.4),
    method(Dare, density=0.4, elect_sign=True),
]


@pytest.mark.parametrize("how", ALL, ids=lambda how: how.name)
@pytest.mark.parametrize("block", [2, 16, 98])
def test_the_size_of_blocks_changes_nothing(how: Method, block: int) -> None:
    base, a, b = drawn(5, 3, 101)
    of_base = None if isinstance(how, Linear | Slerp) else base
    whole = blended(how, [a, b], [0.5, 1.25], of_base)
    np.testing.assert_array_equal(blended(how, [a, b], [0.5, 1.25], of_base, block), whole)


@pytest.mark.parametrize("density", [0.1, 0.5, 0.9])
def test_dare_keeps_its_part_and_the_expectation(density: float) -> None:
    base, changed = np.zeros(40_000), np.ones(40_000)
    found = blended(method(Dare, density=density, seed=1), [changed], [1.0], base)
    spread = math.sqrt(density * (1 - density) / len(base))
    assert abs((found != 0).mean() - density) < 5 * spread
    assert abs(found.mean() - 1) < 5 * spread / density


def test_draws_differ_by_seed_tensor_and_model() -> None:
    purposes = [(0, "t", "a"), (1, "t", "a"), (0, "u", "a"), (0, "t", "b")]
    found = {tuple(Draws(*purpose).chosen(64, 0.5).tolist()) for purpose in purposes}
    assert len(found) == len(purposes)
    assert Draws(0, "t", "a").chosen(64, 0.5).tolist() == Draws(0, "t", "a").chosen(64, 0.5).tolist()


def test_draws_never_change() -> None:
    """A merge that is repeated by another version of this program must drop the same numbers."""
    assert (
        "".join(str(int(one)) for one in Draws(7, "w", "m@1").chosen(32, 0.5).tolist())
        == "00011001010100000111011100000100"
    )
