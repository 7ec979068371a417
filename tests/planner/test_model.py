"""Parameters and FLOPs of published models come out, and of our own."""

from __future__ import annotations

import pytest

from orchestrator.planner.model import Model, gpt, gpt_params


@pytest.mark.parametrize(
    ("layers", "d_model", "published"),
    [(12, 768, 125_311_488), (32, 4096, 6_658_859_008), (80, 8192, 64_862_437_376)],
)
def test_mpt_models_have_the_parameters_that_were_counted(layers: int, d_model: int, published: int) -> None:
    assert gpt_params(layers, d_model, 50_368, learned_positions=2048) == published


def test_our_own_task_builds_as_many_parameters() -> None:
    # jobs.models.gpt:task, layers 2, d_model 64: 256 x 64 embedding, 2 x (12 x 64^2 + 4 x 64), a last norm.
    assert gpt(2, 64, 64).num_params == 256 * 64 + 2 * (12 * 64**2 + 4 * 64) + 2 * 64


def test_attention_counts_where_the_shape_is_known() -> None:
    bare, whole = Model(num_params=10**9, seq_len=4096), Model(num_params=10**9, seq_len=4096, layers=24, d_model=2048)
    assert bare.flops_per_token == 6e9
    assert whole.flops_per_token == 6e9 + 12 * 24 * 2048 * 4096
    assert (bare.shape_known, whole.shape_known) == (False, True)


@pytest.mark.parametrize("bad", [{"num_params": 0}, {"seq_len": 0}, {"layers": -1}, {"layers": 2}, {"d_model": 8}])
def test_sizes_that_are_no_counts_are_refused(bad: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=next(iter(bad))):
        Model(**({"num_params": 1000, "seq_len": 8} | bad))
