"""The loop on real ranks: leaving together, saving, continuing at another size, and every way to fail."""

from __future__ import annotations

import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from jobs.data.manifest import read_manifest
from jobs.train import messages
from jobs.train.config import RankJob, RestoreFrom
from jobs.train.starters import Exit, RankStarter
from jobs.train.state import open_storage, steps
from tests.train.ranks import ADAMW, Group, make_job, run, started

pytestmark = pytest.mark.cluster
FOREVER = 10**9
LOST_PEER_S = 10.0  # how long a rank tries to join one that has refused already; here nobody ends it sooner
REPOSITORY = str(Path(__file__).parents[2])


def broken(dataset: Path, how: str, **changes: Any) -> RankJob:
    return make_job(
        dataset,
        task="tests.train.broken_task:task",
        args={"break_": how},
        code_paths=(REPOSITORY,),
        **changes,
    )


def stopped_steps(group: Group) -> set[int]:
    last = group.last_words
    assert all(isinstance(message, messages.Stopped) for message in last), last
    return {message.step for message in last if isinstance(message, messages.Stopped)}


@pytest.mark.parametrize("how", ["message to rank 2", "SIGTERM to rank 1", "messages to all"])
def test_a_stop_anywhere_stops_all_ranks_after_the_same_step(forked: RankStarter, tiny_dataset: Path, how: str) -> None:
    with started(forked, make_job(tiny_dataset, steps=FOREVER, zero_stage=2), 3) as group:
        group.listen(until=lambda group: len(group.of(messages.Step)) >= 2)
        match how:
            case "message to rank 2":
                group.handles[2].send(messages.Stop("drain"))
            case "SIGTERM to rank 1":
                group.handles[1].signal(signal.SIGTERM)
            case _:
                for handle in group.handles:
                    handle.send(messages.Stop("resize"))
        group.listen()
        assert len(stopped_steps(group)) == 1
        assert group.exits == [Exit(0, None)] * 3
        reasons = [message.reason for message in group.last_words if isinstance(message, messages.Stopped)]
        assert {"message to rank 2": "drain", "SIGTERM to rank 1": "SIGTERM", "messages to all": "resize"}[
            how
        ] in reasons


@pytest.mark.parametrize(
    ("zero_stage", "sizes", "changes"),
    [
        (0, (2, 1), {}),
        (1, (1, 3), {}),
        (1, (3, 2), {"task": "tests.train.stream_task:task", "args": {}, "code_paths": (REPOSITORY,)}),
        (2, (3, 2), {}),
        (3, (2, 4), {}),
    ],
)
def test_a_stopped_run_continues_at_another_size_as_if_nothing_had_been(
    forked: RankStarter,
    tiny_dataset: Path,
    tmp_path: Path,
    zero_stage: int,
    sizes: tuple[int, int],
    changes: dict[str, Any],
) -> None:
    job = make_job(tiny_dataset, zero_stage=zero_stage, storage_url=tmp_path.as_uri(), **changes)
    undisturbed = run(forked, make_job(tiny_dataset, zero_stage=zero_stage, **changes), 1)
    with started(forked, job, sizes[0]) as first:
        first.listen(until=lambda group: len(group.of(messages.Step)) >= 2)
        first.handles[-1].send(messages.Stop("resize"))
        first.listen()
    [stopped_at] = stopped_steps(first)
    assert steps(open_storage(job.storage_url), "test") == [stopped_at]
    assert [saved.step for saved in first.of(messages.Saved)] == [stopped_at]
    again = make_job(
        tiny_dataset,
        zero_stage=zero_stage,
        storage_url=tmp_path.as_uri(),
        attempt=1,
        start_step=stopped_at,
        restore=RestoreFrom(step=stopped_at, keepers=False),
        **changes,
    )
    second = run(forked, again, sizes[1])
    restored = [second.of(messages.Restored, rank)[0] for rank in range(sizes[1])]
    assert {(message.step, message.source, message.detail) for message in restored} == {(stopped_at, "storage", "")}
    losses = first.losses + second.losses
    assert len(losses) == 12, "no step lost, none repeated"
    assert losses == pytest.approx(undisturbed.losses, rel=1e-5)
    hashes = [(step.hash_hi, step.hash_lo) for step in first.of(messages.Step) + second.of(messages.Step)]
    assert hashes == [(step.hash_hi, step.hash_lo) for step in undisturbed.of(messages.Step)]


def test_checkpoints_are_written_beside_training_and_on_demand(
    forked: RankStarter, tiny_dataset: Path, tmp_path: Path
) -> None:
    job = make_job(tiny_dataset, steps=FOREVER, storage_url=tmp_path.as_uri(), checkpoint_every_s=0.05)
    with started(forked, job, 2) as group:
        group.listen(until=lambda group: len(group.of(messages.Saved)) >= 2)
        group.handles[0].send(messages.Stop("enough"))
        group.listen()
    saved = [message.step for message in group.of(messages.Saved)]
    assert steps(open_storage(job.storage_url), "test") == saved
    assert saved[-1] in stopped_steps(group)
    on_demand = make_job(tiny_dataset, steps=FOREVER, run_id="demand", storage_url=tmp_path.as_uri())
    with started(forked, on_demand, 2) as group:
        group.handles[1].send(messages.Checkpoint())
        group.listen(until=lambda group: len(group.of(messages.Saved)) >= 1)


def test_a_damaged_newest_checkpoint_is_passed_over_and_said(
    forked: RankStarter, tiny_dataset: Path, tmp_path: Path
) -> None:
    job = make_job(tiny_dataset, steps=FOREVER, storage_url=tmp_path.as_uri(), checkpoint_every_s=0.01)
    with started(forked, job, 2) as group:
        group.listen(until=lambda group: len(group.of(messages.Saved)) >= 2)
        group.handles[0].send(messages.Stop("enough"))
        group.listen()
    older, newest = steps(open_storage(job.storage_url), "test")[-2:]
    [part] = (tmp_path / "test" / f"{newest:012d}").glob("part-00001*")
    content = bytearray(part.read_bytes())
    content[-1] ^= 1
    part.write_bytes(content)
    again = make_job(
        tiny_dataset,
        steps=older + 2,
        storage_url=tmp_path.as_uri(),
        start_step=newest,
        restore=RestoreFrom(step=newest, keepers=False),
    )
    group = run(forked, again, 3)
    [restored] = group.of(messages.Restored)
    assert restored.step == older
    assert f"step {newest}" in restored.detail
    assert [step.step for step in group.of(messages.Step)] == [older + 1, older + 2]


def test_a_run_goes_on_at_another_stage_and_precision_and_says_so(
    forked: RankStarter, tiny_dataset: Path, tmp_path: Path
) -> None:
    steady = replace(ADAMW, schedule="constant", warmup_steps=0)  # the same rates whatever the number of steps
    undisturbed = run(forked, make_job(tiny_dataset, optimizer=steady), 1)
    run(forked, make_job(tiny_dataset, steps=6, optimizer=steady, storage_url=tmp_path.as_uri()), 2)
    changed = make_job(
        tiny_dataset,
        optimizer=steady,
        zero_stage=3,
        precision="bf16",
        storage_url=tmp_path.as_uri(),
        start_step=6,
        restore=RestoreFrom(step=6, keepers=False),
    )
    group = run(forked, changed, 3)
    [restored] = group.of(messages.Restored)
    assert "ZeRO stage 1 -> 3" in restored.detail
    assert "precision fp32 -> bf16" in restored.detail
    assert group.losses == pytest.approx(undisturbed.losses[6:], rel=1e-2)


def refusals(group: Group) -> list[messages.Failed]:
    """What ranks said of saved state that they refused; whoever was still joining has lost its peer instead."""
    failed = [last for last in group.last_words if isinstance(last, messages.Failed)]
    assert len(failed) == len(group.last_words)
    found = [last for last in failed if last.kind == "state"]
    assert found
    return found


def test_state_of_another_data_set_is_refused_with_both_hashes(
    forked: RankStarter, tiny_dataset: Path, tmp_path: Path
) -> None:
    run(forked, make_job(tiny_dataset, steps=2, storage_url=tmp_path.as_uri()), 1)
    known = read_manifest(tiny_dataset).hash
    [manifest] = tmp_path.rglob("manifest.json")
    manifest.write_text(manifest.read_text().replace(known, "ab" * 32))
    again = make_job(
        tiny_dataset,
        storage_url=tmp_path.as_uri(),
        start_step=2,
        restore=RestoreFrom(step=2, keepers=False),
        collective_timeout_s=LOST_PEER_S,
    )
    group = run(forked, again, 2, succeed=False)
    for last in refusals(group):
        assert known in last.detail
        assert "ab" * 32 in last.detail


def test_state_of_another_model_is_refused_by_name(forked: RankStarter, tiny_dataset: Path, tmp_path: Path) -> None:
    job = make_job(tiny_dataset, steps=2, storage_url=tmp_path.as_uri())
    run(forked, job, 1)
    wider = make_job(
        tiny_dataset,
        args={**job.args, "d_model": 64},
        storage_url=tmp_path.as_uri(),
        start_step=2,
        restore=RestoreFrom(step=2, keepers=False),
        collective_timeout_s=LOST_PEER_S,
    )
    group = run(forked, wider, 2, succeed=False)
    for last in refusals(group):
        assert "embedding.weight" in last.detail


def test_a_killed_rank_is_noticed_by_its_peers(forked: RankStarter, tiny_dataset: Path) -> None:
    with started(forked, make_job(tiny_dataset, steps=FOREVER, zero_stage=3), 3) as group:
        group.listen(until=lambda group: len(group.of(messages.Step)) >= 1)
        group.handles[1].signal(signal.SIGKILL)
        group.listen()
        assert group.exits == [Exit(1, None), Exit(None, signal.SIGKILL), Exit(1, None)]
        for rank in (0, 2):
            last = group.last_words[rank]
            assert isinstance(last, messages.Failed)
            assert last.kind == "lost_peer", last.detail


def test_a_rank_that_hangs_is_reported_by_those_who_wait(forked: RankStarter, tiny_dataset: Path) -> None:
    with started(forked, broken(tiny_dataset, "hang", collective_timeout_s=3.0), 3) as group:
        group.listen(until=lambda group: all(group.of(messages.Failed, rank) for rank in (0, 2)))
        assert {group.of(messages.Failed, rank)[0].kind for rank in (0, 2)} <= {"hang", "lost_peer"}
        assert any(group.of(messages.Failed, rank)[0].kind == "hang" for rank in (0, 2))
        assert not group.of(messages.Failed, 1)


@pytest.mark.parametrize("zero_stage", [0, 1, 2, 3])
def test_nan_stops_every_rank_before_it_reaches_the_parameters(
    forked: RankStarter, tiny_dataset: Path, zero_stage: int
) -> None:
    group = run(forked, broken(tiny_dataset, "nan", zero_stage=zero_stage), 2, succeed=False)
    for last in group.last_words:
        assert isinstance(last, messages.Failed)
        assert last.kind == "nan"
    assert group.exits == [Exit(1, None)] * 2


@pytest.mark.parametrize("zero_stage", [0, 2, 3])
def test_a_nan_step_can_be_skipped(forked: RankStarter, tiny_dataset: Path, zero_stage: int) -> None:
    group = run(forked, broken(tiny_dataset, "nan", zero_stage=zero_stage, on_nan="skip"), 2)
    [skipped] = group.of(messages.Skipped)
    steps_ = group.of(messages.Step)
    assert [step.step for step in steps_] == list(range(1, 13))
    assert [step.step for step in steps_ if step.loss != step.loss] == [skipped.step]
    assert steps_[skipped.step - 1].grad_norm == float("inf")


def test_a_nan_step_can_be_rolled_back(forked: RankStarter, tiny_dataset: Path, tmp_path: Path) -> None:
    seed = make_job(tiny_dataset, steps=3, storage_url=tmp_path.as_uri(), zero_stage=2)
    first = run(forked, seed, 2)
    job = broken(
        tiny_dataset,
        "nan",
        zero_stage=2,
        on_nan="rollback",
        storage_url=tmp_path.as_uri(),
        start_step=3,
        restore=RestoreFrom(step=3, keepers=False),
    )
    group = run(forked, job, 2)
    assert len(first.losses) == 3
    [rolled_back] = group.of(messages.RolledBack)
    assert rolled_back.to_step == 3
    assert [step.step for step in group.of(messages.Step)] == list(range(4, 13))
    assert group.losses[-1] == group.losses[-1]


def test_nothing_to_roll_back_to_is_a_failure_of_state(forked: RankStarter, tiny_dataset: Path) -> None:
    group = run(forked, broken(tiny_dataset, "nan", on_nan="rollback"), 2, succeed=False)
    assert all(isinstance(last, messages.Failed) and last.kind == "state" for last in group.last_words)
