"""The tables of gradients are DeepSpeed's own, entry by entry and in the same order."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from deepspeed import comm
from deepspeed.runtime.zero.stage_1_and_2 import DeepSpeedZeroOptimizer
from hypothesis import example, given
from hypothesis import strategies as st

from jobs.train import gradient_tables

TABLES = (
    "param_to_partition_ids",
    "total_grads_in_partition",
    "remaining_grads_in_partition",
    "is_partition_reduced",
    "is_grad_computed",
    "grad_partition_insertion_offset",
    "grad_start_offset",
    "first_param_index_in_partition",
)


class Optimizer(SimpleNamespace):
    """As much of DeepSpeed's as its own code looks at, with as many ranks as one likes."""

    initialize_gradient_partition = DeepSpeedZeroOptimizer.initialize_gradient_partition
    get_first_param_index = DeepSpeedZeroOptimizer.get_first_param_index

    @staticmethod
    def get_param_id(parameter: Any) -> int:
        return int(parameter.number)

    def filled_by(self, fill: Any) -> dict[str, Any]:
        vars(self).update({name: {} for name in TABLES})
        fill(self)
        return {name: vars(self)[name] for name in TABLES}


def optimizer(groups: list[list[tuple[int, int]]], num_ranks: int) -> Optimizer:
    """Of groups of (elements, padding behind them), cut into equal parts, as even as DeepSpeed makes them."""
    sizes = [sum(map(sum, group)) for group in groups]
    return Optimizer(
        real_dp_process_group=[num_ranks] * len(groups),
        partition_size=[-(-size // (2 * num_ranks)) * 2 for size in sizes],
        round_robin_bit16_groups=[
            [SimpleNamespace(number=100 * i + j, numel=lambda n=numel: n) for j, (numel, _) in enumerate(group)]
            for i, group in enumerate(groups)
        ],
        round_robin_bit16_padding=[[padding for _, padding in group] for group in groups],
    )


groups_of_parameters = st.lists(
    st.lists(st.tuples(st.integers(0, 40), st.integers(0, 3)), min_size=1, max_size=8), min_size=1, max_size=3
)


@given(groups=groups_of_parameters, num_ranks=st.integers(1, 30))
@example(groups=[[(0, 0), (7, 1), (0, 0)]], num_ranks=3)
@example(groups=[[(1, 0)]], num_ranks=30)
def test_every_table_is_as_deepspeed_fills_it(groups: list[list[tuple[int, int]]], num_ranks: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(comm, "get_world_size", lambda group: group)
        patch.setattr("deepspeed.runtime.zero.stage_1_and_2.dist.get_world_size", lambda group: group)
        theirs = optimizer(groups, num_ranks).filled_by(
            DeepSpeedZeroOptimizer.initialize_gradient_partitioning_data_structures
        )
        ours = optimizer(groups, num_ranks).filled_by(gradient_tables.fill)
    assert repr(ours) == repr(theirs)
