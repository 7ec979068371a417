"""The node-local cache: only what is missing, only what is whole, whoever else is at it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import fsspec
import numpy as np
import pytest

from jobs.data import Packed, ShardCache, open_dataset, pack
from jobs.data.shard import file_sha256
from orchestrator.spec.errors import ExitCode, UserError
from tests.data.conftest import SMALL, WriteFolder, some_files


@pytest.fixture
def packed(home: Path, write_folder: WriteFolder) -> Packed:
    return pack(write_folder(some_files()), name="texts", home=home, rules=SMALL)


@pytest.fixture
def cache(tmp_path: Path) -> ShardCache:
    return ShardCache(tmp_path / "node")


def shard_files(root: Path) -> list[Path]:
    return sorted((root / "node" / "shards").glob("*.shard"))


def test_staging_makes_the_same_data_set_here(packed: Packed, cache: ShardCache) -> None:
    staged = cache.stage(packed.folder)
    assert staged.fetched_shards == len(packed.manifest.shards)
    assert staged.fetched_bytes == sum(shard.file_bytes for shard in packed.manifest.shards)
    here, there = open_dataset(staged.folder), open_dataset(packed.folder)
    assert here.manifest == there.manifest
    np.testing.assert_array_equal(np.asarray(here.split("train")), np.asarray(there.split("train")))


def test_only_missing_shards_are_fetched(
    packed: Packed, cache: ShardCache, home: Path, write_folder: WriteFolder, tmp_path: Path
) -> None:
    cache.stage(packed.folder)
    assert cache.stage(packed.folder).fetched_shards == 0
    changed = pack(
        write_folder({**some_files(), "part0/file3.txt": b"new " * 40}), name="texts", home=home, rules=SMALL
    )
    assert 0 < cache.stage(changed.folder).fetched_shards < len(changed.manifest.shards) / 2
    shard_files(tmp_path)[0].unlink()
    assert cache.stage(changed.folder).fetched_shards + cache.stage(packed.folder).fetched_shards == 1


def test_staging_reads_any_url(packed: Packed, cache: ShardCache) -> None:
    memory = fsspec.filesystem("memory")
    memory.put(str(packed.folder), "/bucket/texts", recursive=True)
    try:
        staged = cache.stage("memory://bucket/texts")
    finally:
        memory.rm("/bucket", recursive=True)
    assert open_dataset(staged.folder).manifest.hash == packed.manifest.hash


@pytest.mark.parametrize("damage", ["flip", "truncate", "lengthen", "remove"])
def test_a_shard_damaged_at_its_source_gets_no_name_here(
    packed: Packed, cache: ShardCache, tmp_path: Path, damage: str
) -> None:
    path = packed.folder / packed.manifest.train.shards[1].file
    content = bytearray(path.read_bytes())
    content[0] ^= 1
    replaced = {"flip": bytes(content), "truncate": bytes(content[:-1]), "lengthen": path.read_bytes() + b"x"}
    path.unlink()
    if damage in replaced:
        path.write_bytes(replaced[damage])
    with pytest.raises(UserError, match=r"damaged at its source|no such file") as caught:
        cache.stage(packed.folder)
    assert caught.value.where == str(path)
    assert path.name not in [file.name for file in shard_files(tmp_path)]
    assert not list((tmp_path / "node" / "shards").glob(".*.part"))
    assert not [entry for entry in (tmp_path / "node" / "versions").iterdir() if entry.is_dir()]


def test_a_forged_manifest_is_refused(packed: Packed, cache: ShardCache) -> None:
    path = packed.folder / "manifest.json"
    document = json.loads(path.read_text())
    document["train"]["shards"][0]["sha256"] = "0" * 64
    path.write_text(json.dumps(document))
    with pytest.raises(UserError, match="it was changed"):
        cache.stage(packed.folder)


def test_rechecking_mends_what_was_damaged_on_this_node(packed: Packed, cache: ShardCache, tmp_path: Path) -> None:
    folder = cache.stage(packed.folder).folder
    victim = shard_files(tmp_path)[0]
    content = bytearray(victim.read_bytes())
    content[7] ^= 4
    victim.chmod(0o644)
    victim.write_bytes(content)
    dataset = open_dataset(folder)
    with pytest.raises(UserError, match="do not match their checksum"):
        [np.asarray(dataset.split(name)) for name in ("train", "validation")]
    assert cache.stage(packed.folder, recheck=True).fetched_shards == 1
    assert file_sha256(victim) == victim.stem
    assert len(np.asarray(open_dataset(folder).split("train"))) == packed.manifest.train.num_bytes


def test_a_source_that_is_not_there_is_said(cache: ShardCache, tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        cache.stage(tmp_path / "nowhere")
    assert caught.value.code is ExitCode.UNKNOWN
    with pytest.raises(UserError) as caught:
        cache.stage("no-such-protocol://bucket/texts")
    assert caught.value.code is ExitCode.UNREACHABLE


_STAGE = """
import sys
from pathlib import Path
from jobs.data import ShardCache
print(ShardCache(Path(sys.argv[1])).stage(sys.argv[2]).fetched_shards)
"""


def test_processes_at_once_fetch_each_shard_once(packed: Packed, tmp_path: Path) -> None:
    command = [sys.executable, "-c", _STAGE, str(tmp_path / "node"), str(packed.folder)]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    counts = [int(process.communicate()[0]) for process in running]
    assert [process.returncode for process in running] == [0] * 4
    assert sum(counts) == len(packed.manifest.shards)


_KILLED = """
import os, sys
from pathlib import Path
from jobs.data import ShardCache, source
read, replace = source.Source.copy, os.replace
calls = 0
def die(*args, **kwargs):
    global calls
    calls += 1
    if calls == 4:
        os.kill(os.getpid(), 9)
    return replace(*args, **kwargs)
os.replace = die
ShardCache(Path(sys.argv[1])).stage(sys.argv[2])
"""


def test_a_killed_fetch_is_resumed_by_the_next(packed: Packed, cache: ShardCache, tmp_path: Path) -> None:
    command = [sys.executable, "-c", _KILLED, str(tmp_path / "node"), str(packed.folder)]
    assert subprocess.run(command, check=False).returncode == -9
    assert len(shard_files(tmp_path)) == 3
    assert all(file_sha256(path) == path.stem for path in shard_files(tmp_path))
    assert list((tmp_path / "node" / "shards").glob(".*.part"))
    staged = cache.stage(packed.folder)
    assert staged.fetched_shards == len(packed.manifest.shards) - 3
    assert not list((tmp_path / "node" / "shards").glob(".*.part"))


def test_pruning_keeps_what_is_asked_for_and_readers_that_are_open(
    packed: Packed, cache: ShardCache, home: Path, write_folder: WriteFolder, tmp_path: Path
) -> None:
    other = pack(write_folder(some_files(40)), name="other", home=home, rules=SMALL)
    kept, dropped = cache.stage(packed.folder), cache.stage(other.folder)
    reader = open_dataset(dropped.folder).split("validation")
    before = np.asarray(reader)
    freed = cache.prune(keep=frozenset({kept.manifest.hash}))
    assert freed >= sum(shard.file_bytes for shard in set(other.manifest.shards) - set(packed.manifest.shards))
    assert not dropped.folder.exists()
    np.testing.assert_array_equal(np.asarray(reader), before)
    assert cache.stage(packed.folder).fetched_shards == 0
    assert cache.stage(other.folder).fetched_shards > 0


def test_a_full_disk_is_said(
    packed: Packed, cache: ShardCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(handle: int) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match="No space left"):
        cache.stage(packed.folder)
    monkeypatch.undo()
    assert shard_files(tmp_path) == []
    shutil.rmtree(tmp_path / "node" / "versions")
