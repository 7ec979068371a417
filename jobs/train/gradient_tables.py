"""Which ranks keep which part of each gradient: ZeRO 1 and 2's own tables, filled in one walk over the parameters.

DeepSpeed goes through all parameters for each rank, and does so on every rank: 200 ranks and 300 parameters are 60,000
looks, 50 ms of every rank's start instead of 2. Held to DeepSpeed's by tests/train/test_gradient_tables.py.
"""

from __future__ import annotations

from typing import Any

from deepspeed import comm


def fill(optimizer: Any) -> None:
    """In place of `DeepSpeedZeroOptimizer.initialize_gradient_partitioning_data_structures`."""
    for number, parameters in enumerate(optimizer.round_robin_bit16_groups):
        ranks = range(comm.get_world_size(group=optimizer.real_dp_process_group[number]))
        ranks_of: dict[Any, list[int]] = {}
        count = dict.fromkeys(ranks, 0)
        first: dict[int, int | None] = dict.fromkeys(ranks)
        computed: dict[int, dict[Any, bool]] = {rank: {} for rank in ranks}
        inserted_at: dict[int, dict[Any, int]] = {rank: {} for rank in ranks}
        starts_at: dict[int, dict[Any, int]] = {rank: {} for rank in ranks}
        size, at = optimizer.partition_size[number], 0
        for index, (parameter, padding) in enumerate(
            zip(parameters, optimizer.round_robin_bit16_padding[number], strict=True)
        ):
            name, numel = optimizer.get_param_id(parameter), parameter.numel()
            begins, ends = _ranks_of(at, at + numel, size, len(ranks))
            if begins < ends:
                ranks_of[name] = list(range(begins, ends))
            for rank in range(begins, ends):
                count[rank] += 1
                first[rank] = index if first[rank] is None else first[rank]
                computed[rank][name] = False
                inserted_at[rank][name] = max(0, at - rank * size)
                starts_at[rank][name] = max(0, rank * size - at)
            at += numel + padding
        optimizer.param_to_partition_ids[number] = ranks_of
        optimizer.total_grads_in_partition[number] = count
        optimizer.remaining_grads_in_partition[number] = {}
        optimizer.is_partition_reduced[number] = dict.fromkeys(ranks, False)
        optimizer.is_grad_computed[number] = computed
        optimizer.grad_partition_insertion_offset[number] = inserted_at
        optimizer.grad_start_offset[number] = starts_at
        optimizer.first_param_index_in_partition[number] = first


def _ranks_of(start: int, stop: int, size: int, num_ranks: int) -> tuple[int, int]:
    """The ranks [first, last) whose `size` elements hold some of [start, stop); nothing counts where it starts."""
    if not size:
        return 0, 0
    return min(start // size, num_ranks), min(max(start // size + 1, -(-stop // size)), num_ranks)
