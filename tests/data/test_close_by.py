"""A node's own copy of a data set: fetched once, and never a reason for a run to fail."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobs.data import Packed, ShardCache, open_dataset, pack
from jobs.data.cache import Staged
from jobs.data.close_by import close_by
from orchestrator.spec.errors import UserError
from tests.data.conftest import SMALL, WriteFolder, some_files


@pytest.fixture
def packed(home: Path, write_folder: WriteFolder) -> Packed:
    return pack(write_folder(some_files()), name="texts", home=home, rules=SMALL)


def test_the_copy_is_the_same_data_set_and_is_used_again(packed: Packed, tmp_path: Path) -> None:
    here = close_by(packed.folder, tmp_path / "disk")
    assert here.is_relative_to(tmp_path / "disk")
    assert open_dataset(here).manifest == open_dataset(packed.folder).manifest
    shard = next((tmp_path / "disk" / "datasets" / "shards").glob("*.shard"))
    before = shard.stat().st_mtime_ns
    assert close_by(packed.folder, tmp_path / "disk") == here
    assert shard.stat().st_mtime_ns == before


def test_a_disk_that_cannot_be_written_costs_no_run(packed: Packed, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    assert close_by(packed.folder, tmp_path / "file") == packed.folder


def test_what_earlier_runs_left_makes_room(
    packed: Packed, home: Path, write_folder: WriteFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = {name: text + b"\nother\n" for name, text in some_files().items()}
    earlier = pack(write_folder(texts), name="earlier", home=home, rules=SMALL)
    left = close_by(earlier.folder, tmp_path / "disk")
    stage = ShardCache.stage

    def full_while_others_are_there(cache: ShardCache, source: Path) -> Staged:
        if left.exists():
            raise UserError("cannot be written: No space left on device")
        return stage(cache, source)

    monkeypatch.setattr(ShardCache, "stage", full_while_others_are_there)
    assert close_by(packed.folder, tmp_path / "disk").is_relative_to(tmp_path / "disk")
    assert not left.exists()
