"""Memory of the MPT configurations: all of them ran, most with the largest micro-batch that their devices took."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Sequence
from typing import Any

from orchestrator.planner.hardware import find_device
from orchestrator.planner.memory import Memory, Sharding, fit, memory
from orchestrator.planner.model import Model
from tests.benchmarks.planner_rows import Row

_VOCABULARY = 50_368


def fits_of(bench: Sequence[Row]) -> dict[str, Any]:
    """How many runs the planner says would fit, only just, or not; and estimates over the memory they ran in.

    A run says only that it fitted, so the share is no error; but where the largest micro-batch was used, it is near 1.
    """
    held = [(_held(row), find_device(row["gpu"]).memory_bytes) for row in bench]
    shares = sorted(one.total_bytes / there for one, there in held)
    said = Counter(fit(one, there).value for one, there in held)
    return {
        "runs": len(bench),
        "said": dict(said),
        "share": {"median": statistics.median(shares), "max": shares[-1]},
        "state_alone_max": max(one.state_bytes / there for one, there in held),
    }


def _held(row: Row) -> Memory:
    model = Model(
        num_params=int(row["params"]),
        seq_len=int(row["seq_len"]),
        layers=int(row["layers"]),
        d_model=int(row["d_model"]),
        vocabulary=_VOCABULARY,
    )
    # llm-foundry's mixed precision holds 16 bytes a parameter, as ours does; FSDP's FULL_SHARD is ZeRO 3.
    sharding = Sharding(
        zero_stage=3 if row["sharding"] == "FULL_SHARD" else 2, recompute_activations=row["act_ckpt"] == "True"
    )
    return memory(model, sharding, world_size=int(row["gpus"]), micro_batch_size=int(row["micro_batch"]))
