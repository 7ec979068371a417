"""Strict mode: equal means equal."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from jobs.train import messages
from jobs.train.config import RestoreFrom
from jobs.train.starters import RankStarter
from tests.train.ranks import Group, make_job, run, started

pytestmark = pytest.mark.cluster


def bits(group: Group) -> list[tuple[str, str]]:
    return [(step.loss.hex(), step.grad_norm.hex()) for step in group.of(messages.Step)]


def test_losses_and_norms_are_bitwise_equal_at_every_size(forked: RankStarter, tiny_dataset: Path) -> None:
    job = make_job(tiny_dataset, strict=True)
    alone = bits(run(forked, job, 1))
    assert bits(run(forked, job, 2)) == alone
    assert bits(run(forked, job, 3)) == alone
    assert bits(run(forked, job, 5)) == alone, "more ranks than micro-batches"


def test_without_strict_the_last_bits_differ(forked: RankStarter, tiny_dataset: Path) -> None:
    """Otherwise the test above would prove nothing."""
    job = make_job(tiny_dataset)
    assert bits(run(forked, job, 3)) != bits(run(forked, job, 1))


def test_a_resize_changes_no_bit(forked: RankStarter, tiny_dataset: Path, tmp_path: Path) -> None:
    undisturbed = bits(run(forked, make_job(tiny_dataset, strict=True), 2))
    job = make_job(tiny_dataset, strict=True, storage_url=tmp_path.as_uri())
    with started(forked, job, 3) as first:
        first.handles[1].send(messages.Stop("resize"))
        first.listen()
    stopped = first.last_words[0]
    assert isinstance(stopped, messages.Stopped), stopped
    again = replace(job, start_step=stopped.step, restore=RestoreFrom(step=stopped.step, keepers=False))
    assert bits(first) + bits(run(forked, again, 1)) == undisturbed


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"zero_stage": 2}, "zero_stage 1"),
        ({"precision": "bf16"}, "fp32"),
        ({"args": {"layers": 17, "d_model": 512, "heads": 8, "seq_len": 32}}, "50,000,000"),
    ],
)
def test_what_strict_cannot_do_is_refused_by_name(
    forked: RankStarter, tiny_dataset: Path, changes: dict[str, Any], complaint: str
) -> None:
    group = run(forked, make_job(tiny_dataset, strict=True, **changes), 1, succeed=False)
    failure = group.last_words[0]
    assert isinstance(failure, messages.Failed)
    assert (failure.kind, complaint in failure.detail) == ("user_code", True), failure.detail
