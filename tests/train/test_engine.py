"""The main promise, on real DeepSpeed ranks: the world size changes nothing but speed."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from jobs.train import messages
from jobs.train.starters import RankStarter
from tests.train.ranks import Group, make_job, run

pytestmark = pytest.mark.cluster
REPOSITORY = str(Path(__file__).parents[2])


def max_relative_difference(ours: list[float], theirs: list[float]) -> float:
    assert len(ours) == len(theirs) > 0
    return max(abs(a - b) / abs(b) for a, b in zip(ours, theirs, strict=True))


def norms(group: Group) -> list[float]:
    return [step.grad_norm for step in group.of(messages.Step)]


@pytest.fixture(scope="module")
def alone(forked: RankStarter, tiny_dataset: Path) -> Group:
    """One worker, ZeRO 1, fp32: what all others are held against."""
    return run(forked, make_job(tiny_dataset), 1)


@pytest.mark.parametrize("zero_stage", [1, 2, 3])
@pytest.mark.parametrize("world_size", [2, 3])
def test_loss_does_not_depend_on_world_size(
    forked: RankStarter, tiny_dataset: Path, alone: Group, world_size: int, zero_stage: int
) -> None:
    group = run(forked, make_job(tiny_dataset, zero_stage=zero_stage), world_size)
    assert max_relative_difference(group.losses, alone.losses) <= 1e-5
    assert max_relative_difference(norms(group), norms(alone)) <= 1e-5


@pytest.mark.parametrize("zero_stage", [0, 2])
def test_more_ranks_than_micro_batches_change_nothing(
    forked: RankStarter, tiny_dataset: Path, alone: Group, zero_stage: int
) -> None:
    group = run(forked, make_job(tiny_dataset, zero_stage=zero_stage), 5)
    assert max_relative_difference(group.losses, alone.losses) <= 1e-5
    assert max_relative_difference(norms(group), norms(alone)) <= 1e-5


@pytest.mark.parametrize("zero_stage", [1, 2, 3])
def test_bf16_stays_close_at_every_size(forked: RankStarter, tiny_dataset: Path, zero_stage: int) -> None:
    job = make_job(tiny_dataset, zero_stage=zero_stage, precision="bf16")
    one, three = run(forked, job, 1), run(forked, job, 3)
    assert max_relative_difference(three.losses, one.losses) <= 1e-2


def test_a_task_with_real_numbers_need_not_know_its_precision(
    forked: RankStarter, tiny_dataset: Path, tmp_path: Path
) -> None:
    (tmp_path / "regression.py").write_text(
        "import torch\n"
        "from jobs.models.task import Task\n"
        "class Source:\n"
        "    num_samples = 64\n"
        "    def batch(self, ids):\n"
        "        x = torch.from_numpy(ids).float()[:, None] / 64\n"
        "        return {'x': x, 'y': 2 * x}\n"
        "class Line(Task):\n"
        "    def build_model(self):\n"
        "        return torch.nn.Linear(1, 1)\n"
        "    def open_data(self, root, split):\n"
        "        return Source()\n"
        "    def loss(self, model, batch):\n"
        "        return (model(batch['x']) - batch['y']).square().mean()\n"
        "def task() -> Line:\n"
        "    return Line()\n"
    )
    job = make_job(
        tiny_dataset, task="regression:task", args={}, code_paths=(str(tmp_path),), precision="bf16", zero_stage=2
    )
    losses = run(forked, job, 2).losses
    assert losses[-1] < losses[0]


def test_every_step_reports_what_it_did(alone: Group) -> None:
    steps = alone.of(messages.Step)
    assert [step.step for step in steps] == list(range(1, 13))
    assert steps[-1].loss < steps[0].loss - 0.2
    assert all(step.tokens == 10 * 32 and step.step_s > 0 for step in steps)
    assert [steps[i].lr for i in (0, 1, -1)] == pytest.approx([1.5e-3, 3e-3, 3e-4])
    assert all(math.isfinite(norm) for norm in norms(alone))
    assert max(norms(alone)) > 1.0, "otherwise clipping was not tested"


def test_a_swapped_sample_moves_the_loss_beyond_the_tolerance(
    forked: RankStarter, tiny_dataset: Path, alone: Group
) -> None:
    """Broken on purpose: one sample of ten is another one, once."""
    job = make_job(
        tiny_dataset,
        task="tests.train.broken_task:task",
        args={"break_": "sample"},
        code_paths=(REPOSITORY,),
    )
    group = run(forked, job, 2)
    assert max_relative_difference(group.losses, alone.losses) > 1e-5


def test_the_ledger_stops_a_group_that_repeats_a_sample(forked: RankStarter, tiny_dataset: Path) -> None:
    """Broken on purpose: rank 1 computes and books a sample twice, and leaves out another."""
    job = make_job(
        tiny_dataset,
        task="tests.train.broken_task:task",
        args={"break_": "ledger"},
        code_paths=(REPOSITORY,),
    )
    group = run(forked, job, 2, succeed=False)
    failure = group.last_words[0]
    assert isinstance(failure, messages.Failed)
    assert (failure.kind, "LedgerError" in failure.detail) == ("internal", True)
    assert [step.step for step in group.of(messages.Step)] == [1, 2, 3]
