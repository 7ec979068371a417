"""A job in DeepSpeed's words holds what DeepSpeed would refuse otherwise."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobs.train.deepspeed_config import deepspeed_config
from tests.train.ranks import make_job


@pytest.mark.parametrize(("parameters", "bucket"), [(0, 2), (1, 2), (160, 160), (161, 162), (10**12, 200_000_000)])
def test_buckets_are_even_and_no_larger_than_the_model_needs(tmp_path: Path, parameters: int, bucket: int) -> None:
    """DeepSpeed 0.19.8 refuses an odd `allgather_bucket_size`: models of an odd size did not start (ZeRO 1, 2)."""
    zero = deepspeed_config(make_job(tmp_path), world_size=2, num_parameters=parameters)["zero_optimization"]
    assert (zero["reduce_bucket_size"], zero["allgather_bucket_size"]) == (bucket, bucket)


@pytest.mark.parametrize(("stage", "by_rank"), [(0, True), (1, False), (2, False), (3, True)])
def test_gradients_are_summed_in_whole_buckets(tmp_path: Path, stage: int, by_rank: bool) -> None:
    """ZeRO 1 and 2 would cut them up by rank: 222 slices a step for each of 200 ranks, and as many looks at a group."""
    config = deepspeed_config(make_job(tmp_path, zero_stage=stage), world_size=2, num_parameters=2)
    assert config["zero_optimization"].get("reduce_scatter", True) is by_rank
