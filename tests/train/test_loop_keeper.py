"""Ranks and a real keeper: snapshots outlive their ranks, and the next attempt continues from memory."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from jobs.train import messages
from jobs.train.config import RestoreFrom
from jobs.train.starters import RankStarter
from jobs.train.state import open_storage, steps
from tests.train.keepers import begin, keeper
from tests.train.ranks import make_job, run, started

pytestmark = pytest.mark.cluster
FOREVER = 10**9


@pytest.mark.parametrize(("zero_stage", "sizes"), [(1, (2, 3)), (3, (3, 2))])
def test_killed_ranks_lose_at_most_the_steps_since_the_last_snapshot(
    forked: RankStarter, tiny_dataset: Path, short_folder: Path, zero_stage: int, sizes: tuple[int, int]
) -> None:
    undisturbed = run(forked, make_job(tiny_dataset, zero_stage=zero_stage), 1)
    with keeper(short_folder / "keeper") as running:
        begin(running, attempt=0, world_size=sizes[0])
        job = make_job(tiny_dataset, zero_stage=zero_stage, keeper_socket=running.socket_path, snapshot_every_steps=3)
        with started(forked, job, sizes[0]) as first:
            first.listen(until=lambda group: len(group.of(messages.Step)) >= 5)
            for handle in first.handles:
                handle.signal(signal.SIGKILL)
            first.listen()
        last = first.of(messages.Step)[-1].step
        begin(running, attempt=1, world_size=sizes[1])
        again = make_job(
            tiny_dataset,
            zero_stage=zero_stage,
            keeper_socket=running.socket_path,
            snapshot_every_steps=3,
            attempt=1,
            start_step=3,
            restore=RestoreFrom(step=3, keepers=True),
        )
        second = run(forked, again, sizes[1])
    [restored] = second.of(messages.Restored)
    assert restored.source == "keepers"
    assert 0 <= last - restored.step <= 3 + 1
    assert [step.step for step in second.of(messages.Step)] == list(range(restored.step + 1, 13))
    assert second.losses == pytest.approx(undisturbed.losses[restored.step :], rel=1e-5)


def test_a_stop_is_sealed_in_the_keeper_which_writes_it_to_storage_alone(
    forked: RankStarter, tiny_dataset: Path, short_folder: Path, tmp_path: Path
) -> None:
    url = tmp_path.as_uri()
    with keeper(short_folder / "keeper") as running:
        begin(running, attempt=0, world_size=2, storage_url=url)
        job = make_job(
            tiny_dataset,
            steps=FOREVER,
            storage_url=url,
            keeper_socket=running.socket_path,
            snapshot_every_steps=1000,
        )
        with started(forked, job, 2) as group:
            group.listen(until=lambda group: len(group.of(messages.Step)) >= 2)
            group.handles[1].send(messages.Stop("close of the window"))
            group.listen()
        [last, _] = group.last_words
        assert isinstance(last, messages.Stopped)
        assert [snapshot.step for snapshot in group.of(messages.Snapshot)] == [last.step]
        running.flush_now("test")
        assert running.wait_flushed("test", last.step, timeout_s=10), running.status("test")
    assert steps(open_storage(url), "test") == [last.step]
    from_storage = make_job(
        tiny_dataset,
        steps=last.step + 2,
        storage_url=url,
        start_step=last.step,
        restore=RestoreFrom(step=last.step, keepers=False),
    )
    continued = run(forked, from_storage, 3)
    assert [step.step for step in continued.of(messages.Step)] == [last.step + 1, last.step + 2]


def test_a_keeper_without_room_costs_snapshots_but_not_the_run(
    forked: RankStarter, tiny_dataset: Path, short_folder: Path
) -> None:
    """There is room for the two snapshots that are always kept, so a third one waits for the end to displace them."""
    with keeper(short_folder / "keeper", limit_bytes=4 * 2**21) as running:
        begin(running, attempt=0, world_size=2)
        job = make_job(tiny_dataset, keeper_socket=running.socket_path, snapshot_every_steps=2)
        group = run(forked, job, 2)
    assert isinstance(group.last_words[0], messages.Finished)
    assert [snapshot.step for snapshot in group.of(messages.Snapshot)][-1] == 12, "the last one found room"
    assert group.of(messages.NotSaved), "some in between did not"
