"""Shares of a step: together they are the step, whatever the number of ranks."""

from __future__ import annotations

import random
import traceback

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from jobs.models.task import SampleSource, Task
from jobs.train.draws import seed_draws
from jobs.train.passes import Share
from jobs.train.prefetch import Prefetcher
from jobs.train.reading import NumberedReader
from jobs.train.samples import SampleStream
from orchestrator.policy.batch_plan import BatchPlan


class Numbers:
    """Sample i is the number i."""

    num_samples = 1000

    def batch(self, ids: NDArray[np.int64]) -> dict[str, torch.Tensor]:
        return {"x_B": torch.from_numpy(ids.copy())}


class Plain(Task):
    """All samples weigh the same."""


class Weighted(Task):
    """Samples weigh 1, 2 or 3."""

    def sample_weights(self, source: object, ids: NDArray[np.int64]) -> NDArray[np.float64] | None:
        return (1 + ids % 3).astype(np.float64)


def shares(
    world_size: int, batch: int, micro: int, weighted: bool = False, source: SampleSource | None = None
) -> list[Share]:
    stream = SampleStream(Numbers.num_samples, "hash", 3, batch)
    task = Weighted() if weighted else Plain()
    reader, plan = NumberedReader(task, source or Numbers(), stream), BatchPlan(batch, micro)
    return [
        Share(reader=reader, stream=stream, plan=plan, rank=rank, world_size=world_size) for rank in range(world_size)
    ]


@given(world_size=st.integers(1, 9), batch=st.integers(1, 40), micro=st.integers(1, 8), step=st.integers(0, 50))
def test_all_shares_together_are_the_step(world_size: int, batch: int, micro: int, step: int) -> None:
    all_shares = shares(world_size, batch, micro)
    passes = [list(share.passes(step, step + 1)) for share in all_shares]
    assert len({len(of_rank) for of_rank in passes}) == 1, "or collectives would not match"
    counted = [one for of_rank in passes for one in of_rank if one.weight]
    used = sorted(int(x) for one in counted for x in one.batch["x_B"])
    assert used == sorted(all_shares[0].stream.ids(step).tolist())
    assert sum(one.weight for one in counted) == pytest.approx(1.0, abs=1e-12)
    assert sum(one.sample_hash for one in counted) % 2**64 == all_shares[0].stream.step_hash(step)
    assert all(one.sample_hash == 0 and len(one.batch["x_B"]) for r in passes for one in r if not one.weight)
    assert all(of_rank[-1].last_of_step and not any(p.last_of_step for p in of_rank[:-1]) for of_rank in passes)


def test_draws_of_a_micro_batch_do_not_depend_on_who_runs_it() -> None:
    def seeds(world_size: int) -> dict[tuple[int, int], int]:
        found: dict[tuple[int, int], int] = {}
        for share in shares(world_size, 12, 2):
            found |= {(one.step_index, one.micro_batch): one.seed for one in share.passes(0, 3)}
        return found

    assert seeds(1) == seeds(4) == seeds(5)
    assert len(set(seeds(1).values())) == 18


class Noisy(Numbers):
    """Sample i is the number i beside what its seed draws."""

    def augmented_batch(self, ids: NDArray[np.int64], seeds: NDArray[np.uint64]) -> dict[str, torch.Tensor]:
        draws = [np.random.default_rng(seed).integers(2**40) for seed in seeds]
        return {"x_B": torch.from_numpy(ids.copy()), "noise_B": torch.tensor(draws)}


def test_what_augments_a_sample_depends_on_seed_epoch_and_id_alone() -> None:
    def noise(world_size: int, micro: int, steps: int) -> list[tuple[int, int]]:
        found: list[tuple[int, int]] = []
        for share in shares(world_size, 250, micro, source=Noisy()):
            for one in share.passes(0, steps):
                if one.weight:
                    found.extend(zip(one.batch["x_B"].tolist(), one.batch["noise_B"].tolist(), strict=True))
        return sorted(found)

    one_epoch, two_epochs = noise(1, 250, 4), noise(4, 7, 8)
    assert set(one_epoch) < set(two_epochs)
    assert len(set(two_epochs)) == 2000, "the second time a sample is taken it is changed in another way"


def test_every_default_generator_goes_by_the_step() -> None:
    def draws() -> list[float]:
        return [random.random(), random.gauss(0, 1), *np.random.rand(3), *torch.rand(3).tolist()]

    before = random.getstate(), np.random.get_state(), torch.get_rng_state()
    try:
        seed_draws(2**62 + 5)
        first = draws()
        seed_draws(2**62 + 6)
        assert not set(first) & set(draws())
        seed_draws(2**62 + 5)
        assert draws() == first
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])
        torch.set_rng_state(before[2])


def test_seeding_draws_what_torch_would_and_leaves_absent_devices_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """`torch.manual_seed` puts a note with the formatted stack down for each kind of device that is not there."""
    before = torch.get_rng_state()
    try:
        torch.manual_seed(2**62 + 5)
        expected = torch.rand(3)
        monkeypatch.setattr(traceback, "format_stack", lambda *_: pytest.fail("the stack was formatted"))
        seed_draws(2**62 + 5)
        assert torch.rand(3).equal(expected)
    finally:
        torch.set_rng_state(before)


def test_weights_of_samples_decide_the_weights_of_micro_batches() -> None:
    [share] = shares(1, 10, 4, weighted=True)
    ids = share.stream.ids(0)
    weight_B = 1.0 + ids % 3
    expected = [weight_B[:4].sum(), weight_B[4:8].sum(), weight_B[8:].sum()] / weight_B.sum()
    assert [one.weight for one in share.passes(0, 1)] == pytest.approx(list(expected), abs=1e-12)


def test_prefetching_keeps_order_and_ends() -> None:
    assert list(Prefetcher(lambda: iter(range(20)))) == list(range(20))


def test_an_error_while_preparing_surfaces_where_the_pass_would_have() -> None:
    def failing() -> object:
        yield 1
        raise OSError("disk gone")

    prefetcher: Prefetcher[object] = Prefetcher(failing)  # type: ignore[arg-type]
    assert next(prefetcher) == 1
    with pytest.raises(OSError, match="disk gone"):
        next(prefetcher)


def test_closing_early_ends_the_thread() -> None:
    prefetcher = Prefetcher(lambda: iter(range(10**9)))
    assert next(prefetcher) == 0
    prefetcher.close()
    assert not prefetcher._thread.is_alive()
