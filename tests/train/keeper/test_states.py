"""A rank restores from keepers, passes damaged snapshots over together with all others, and falls back to storage."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from jobs.train.keeper import states
from jobs.train.keeper.client import KeeperClient
from jobs.train.keeper.states import KeeperStates
from jobs.train.restoring import Restored
from jobs.train.state.errors import WrongStateError
from tests.train.keeper.test_live import NUMBERS, RUN, TIMEOUT_S, Cluster, save_all, values, view_of

JOB = SimpleNamespace(run_id=RUN, zero_stage=1, precision="fp32")


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    folder = Path(tempfile.mkdtemp(prefix="tide-test-", dir="/dev/shm"))
    made = Cluster(folder)
    yield made
    made.close()
    shutil.rmtree(folder)


class Fallback:
    """Storage, as far as this test cares: it was asked."""

    asked = 0

    def load_newest(self, engine, job, dataset_hash):
        self.asked += 1
        return Restored(manifest=None, source="storage", read_bytes=0, detail="")


def load(
    cluster: Cluster, monkeypatch, *, dataset: str = "d", client: KeeperClient | None = None, agree=lambda x: x, job=JOB
):
    """One rank that wants everything; its engine is a tensor."""
    whole = torch.zeros(NUMBERS)
    monkeypatch.setattr(states, "view_of", lambda engine, moments: view_of(engine, 0, 1))
    client = client or cluster.client(0)
    fallback = Fallback()
    source = KeeperStates(
        client, rank=0, share=lambda text: text, agree=agree, storage=None, fallback=fallback, timeout_s=TIMEOUT_S
    )
    try:
        return whole, source.load_newest(SimpleNamespace(deepspeed=whole), job, dataset), fallback
    finally:
        client.close()


def two_snapshots(cluster: Cluster) -> None:
    cluster.begin(world_size=3)
    for step in (20, 40):
        save_all(cluster, step, 3)
        assert cluster.nodes["a"].keeper.wait_safe(RUN, step, TIMEOUT_S)


def damage(cluster: Cluster, step: int) -> None:
    """All copies of one rank's part."""
    for node in cluster.nodes.values():
        for part in node.keeper.store.sealed(RUN):
            if part.meta.key.snapshot.step == step and part.meta.key.rank == 1:
                part.segment.map()[part.meta.nbytes - 1] ^= 1


def test_the_newest_snapshot_is_loaded(cluster, monkeypatch):
    two_snapshots(cluster)
    whole, restored, fallback = load(cluster, monkeypatch)
    assert torch.equal(whole, values(40))
    assert (restored.source, restored.manifest.step, fallback.asked) == ("keepers", 40, 0)
    assert restored.read_bytes > 4 * NUMBERS


def test_a_snapshot_damaged_everywhere_is_passed_over_and_that_is_said(cluster, monkeypatch):
    two_snapshots(cluster)
    damage(cluster, 40)
    whole, restored, _ = load(cluster, monkeypatch)
    assert torch.equal(whole, values(20))
    assert restored.manifest.step == 20
    assert "step 40 passed over" in restored.detail
    assert "does not have its hash" in restored.detail


def test_without_any_sound_snapshot_storage_is_asked(cluster, monkeypatch):
    two_snapshots(cluster)
    damage(cluster, 20)
    damage(cluster, 40)
    _, restored, fallback = load(cluster, monkeypatch)
    assert (restored.source, fallback.asked) == ("storage", 1)
    assert "step 40 passed over" in restored.detail
    assert "step 20 passed over" in restored.detail


def test_trouble_of_another_rank_makes_this_one_go_back_too(cluster, monkeypatch):
    two_snapshots(cluster)
    answers = [False, True]
    _, restored, _ = load(cluster, monkeypatch, agree=lambda mine: answers.pop(0) and mine)
    assert restored.manifest.step == 20
    assert "another rank could not read it" in restored.detail


def test_a_keeper_that_does_not_answer_means_storage(cluster, monkeypatch, tmp_path):
    _, restored, fallback = load(cluster, monkeypatch, client=KeeperClient(str(tmp_path / "gone"), timeout_s=1.0))
    assert fallback.asked == 1
    assert "the node's keeper does not answer" in restored.detail


def test_another_stage_and_precision_than_when_it_was_saved_are_said(cluster, monkeypatch):
    two_snapshots(cluster)
    changed = SimpleNamespace(run_id=RUN, zero_stage=3, precision="bf16")
    whole, restored, _ = load(cluster, monkeypatch, job=changed)
    assert torch.equal(whole, values(40))
    assert "ZeRO stage 1 -> 3" in restored.detail
    assert "precision fp32 -> bf16" in restored.detail
    assert "->" not in load(cluster, monkeypatch)[1].detail


def test_the_state_of_another_data_set_is_refused(cluster, monkeypatch):
    two_snapshots(cluster)
    with pytest.raises(WrongStateError, match="was saved with data set d, the job uses other"):
        load(cluster, monkeypatch, dataset="other")
