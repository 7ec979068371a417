"""What a search space allows, lists and makes of a job."""

from __future__ import annotations

import math

import pytest

from orchestrator.policy.study.space import apply, clamp, conflicts, grid, in_order, size_of
from orchestrator.spec.problems import SpecError
from tests.study.worlds import make_study


def _space(text: str, searcher: str = "{name: random}"):  # type: ignore[no-untyped-def]
    return make_study(space=text, searcher=searcher).spec


CONDITIONAL = (
    "{args.layers: {type: choice, values: [1, 2]}, "
    "args.d_model: {type: int, min: 16, max: 48, step: 16, when: {args.layers: [2]}}}"
)


def test_a_grid_leaves_out_what_a_condition_forbids_and_repeats_nothing() -> None:
    configs = list(grid(_space(CONDITIONAL).space))
    assert configs == [
        {"args.layers": 1},
        {"args.layers": 2, "args.d_model": 16},
        {"args.layers": 2, "args.d_model": 32},
        {"args.layers": 2, "args.d_model": 48},
    ]


def test_conditions_are_drawn_before_what_depends_on_them() -> None:
    turned = (
        "{args.d_model: {type: int, min: 16, max: 48, when: {args.layers: [2]}}, "
        "args.layers: {type: choice, values: [1, 2]}}"
    )
    assert in_order(_space(turned).space) == ["args.layers", "args.d_model"]


def test_a_range_has_no_end_of_configurations() -> None:
    spec = make_study().spec
    assert size_of(spec.space) == math.inf
    with pytest.raises(ValueError, match=r"optimizer\.lr"):
        list(grid(spec.space))


def test_a_configuration_replaces_the_templates_values_and_nothing_else() -> None:
    spec = make_study().spec
    job = apply(spec.template, {"optimizer.lr": 0.02, "args.layers": 4, "batch.global_batch_size": 64})
    assert (job.optimizer.lr, job.args["layers"], job.batch.global_batch_size) == (0.02, 4, 64)
    assert job.args["d_model"] == spec.template.args["d_model"]
    assert spec.template.args["layers"] == 2
    assert job.model_copy(update={"args": spec.template.args, "optimizer": spec.template.optimizer}).steps == 90


def test_values_that_contradict_each_other_are_named() -> None:
    spec = make_study().spec
    job = apply(spec.template, {"optimizer.warmup_steps": 500})
    assert conflicts(spec.template) == []
    assert [line.partition(":")[0] for line in conflicts(job)] == ["optimizer.warmup_steps"]


@pytest.mark.parametrize(
    ("text", "value", "nearest"),
    [
        ("{optimizer.lr: {type: loguniform, min: 1e-4, max: 1e-2}}", 0.5, 1e-2),
        ("{optimizer.lr: {type: loguniform, min: 1e-4, max: 1e-2}}", 1e-9, 1e-4),
        ("{args.layers: {type: int, min: 2, max: 8, step: 2}}", 5.4, 4),
        ("{args.layers: {type: int, min: 2, max: 8, step: 2}}", 99, 8),
    ],
)
def test_nudged_values_stay_inside_the_space(text: str, value: float, nearest: float) -> None:
    (parameter,) = _space(text).space.values()
    assert clamp(parameter, value) == pytest.approx(nearest)


@pytest.mark.parametrize(
    ("space", "says"),
    [
        ("{}", "must vary one key at least"),
        ("{optimizer.lrr: {type: uniform, min: 0.1, max: 0.2}}", "optimizer.lrr"),
        ("{optimizer.lr: {type: uniform, min: 0.3, max: 0.2}}", "is above max"),
        ("{optimizer.lr: {type: loguniform, min: 0, max: 0.2}}", "above 0"),
        ("{workers.max: {type: int, min: 1, max: 3}}", "E115 space.workers.max: has no effect on a trial"),
        ("{priority: {type: int, min: 1, max: 3}}", "E115 space.priority: has no effect on a trial"),
        ("{steps: {type: int, min: 10, max: 30}}", "E115 space.steps: has no effect on a trial"),
        ("{data.seed: {type: int, min: 1, max: 3}}", "E115 space.data.seed: has no effect on a trial"),
    ],
)
def test_a_space_that_cannot_be_searched_is_refused(space: str, says: str) -> None:
    with pytest.raises(SpecError, match=says):
        make_study(space=space)


def test_an_unknown_key_names_the_near_one() -> None:
    with pytest.raises(SpecError, match=r"lr\b") as refused:
        make_study(space="{optimizer.lrr: {type: uniform, min: 0.1, max: 0.2}}")
    assert "Did you mean" in str(refused.value)


def test_a_budget_of_nothing_is_refused() -> None:
    with pytest.raises(SpecError, match=r"trials"):
        make_study(budget="{trials: 0}")
    with pytest.raises(SpecError, match=r"usd"):
        make_study(budget='{usd: "0"}')
