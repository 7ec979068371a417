"""Ranks that write straight into storage: together a checkpoint, or none."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from datetime import timedelta
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from jobs.train import messages
from jobs.train.saving import RunFacts, Saver
from jobs.train.state import FP32, FileStorage, Piece, ShardView, StorageError, read_manifest, steps, verify
from jobs.train.storage_sink import StorageSink


class FullStorage(FileStorage):
    """A disk that fills up under one rank's part."""

    def write(self, name: str, chunks: Iterable[memoryview], nbytes: int) -> None:
        raise StorageError("storage is full", where=name)


def saver(rank: int, storage: FileStorage, store: dist.Store, sent: list[messages.Message]) -> Saver:
    weight = torch.full((10,), float(rank))
    piece = Piece("weight", FP32, rank * 10, rank * 10 + 10, weight)
    view = ShardView(
        rank=rank,
        world_size=2,
        zero_stage=1,
        precision="fp32",
        shapes={"weight": (20,)},
        owned=(piece,),
        wanted=(piece,),
    )
    facts = RunFacts(run="r", attempt=0, rank=rank, world_size=2, task={"task": "m:f", "args": {}}, dataset_hash="d")
    return Saver(facts, lambda: view, StorageSink(storage, store, rank, 2, sent.append), sent.append)


def save_together(savers: list[Saver], step: int, *, final: bool) -> list[BaseException | None]:
    """Both ranks at once, as they do; what each raised."""
    raised: list[BaseException | None] = [None, None]

    def save(rank: int) -> None:
        try:
            savers[rank].save(step, {}, final=final)
            savers[rank].finish()
        except StorageError as error:
            raised[rank] = error

    threads = [threading.Thread(target=save, args=(rank,)) for rank in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return raised


def test_both_parts_make_one_checkpoint_that_rank_0_announces(tmp_path: Path) -> None:
    store, sent = dist.HashStore(), ([], [])
    storage = FileStorage(tmp_path)
    savers = [saver(rank, storage, store, sent[rank]) for rank in (0, 1)]
    assert save_together(savers, 4, final=False) == [None, None]
    assert save_together(savers, 8, final=True) == [None, None]
    assert steps(storage, "r") == [4, 8]
    assert verify(read_manifest(storage, "r", 8), storage) == []
    assert [message.step for message in sent[0] if isinstance(message, messages.Saved)] == [4, 8]
    assert not any(isinstance(message, messages.Saved) for message in sent[1])


@pytest.mark.parametrize("full", [0, 1])
def test_one_part_that_cannot_be_written_leaves_no_checkpoint_and_is_said(tmp_path: Path, full: int) -> None:
    store, sent = dist.HashStore(), ([], [])
    store.set_timeout(timedelta(seconds=5))
    storages = [FullStorage(tmp_path) if rank == full else FileStorage(tmp_path) for rank in (0, 1)]
    savers = [saver(rank, storages[rank], store, sent[rank]) for rank in (0, 1)]
    assert save_together(savers, 4, final=False) == [None, None], "training goes on"
    assert steps(storages[0], "r") == []
    told = [message for message in sent[0] if isinstance(message, messages.NotSaved)]
    assert [message.step for message in told] == [4]
    assert save_together(savers, 8, final=True)[full] is not None, "but it must not end like this"
