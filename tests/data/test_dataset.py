"""Reading: every byte as packed, or an error that names the shard."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs.data import PackedDataset, PackRules, open_dataset, pack
from jobs.data.shard import ShardReader, ShardWriter
from jobs.data.verify import verify
from orchestrator.spec.errors import ExitCode, UserError
from tests.data.conftest import SMALL, WriteFolder, some_files


@pytest.fixture
def folder(home: Path, write_folder: WriteFolder) -> Path:
    return pack(write_folder(some_files()), name="texts", home=home, rules=SMALL).folder


def read_all(folder: Path) -> bytes:
    dataset = open_dataset(folder)
    return b"".join(np.asarray(dataset.split(name)).tobytes() for name in ("train", "validation"))


def test_reading_any_range_equals_slicing_the_whole(folder: Path) -> None:
    split = open_dataset(folder).split("train")
    whole = np.asarray(split)
    generator = np.random.default_rng(0)
    for start, stop in generator.integers(0, len(split) + 1, size=(200, 2)).tolist():
        np.testing.assert_array_equal(split[start:stop], whole[start:stop])
        np.testing.assert_array_equal(split.read(start, stop), whole[start : max(start, stop)])
    assert [split[0], split[-1]] == [whole[0], whole[-1]]
    np.testing.assert_array_equal(split[::-3], whole[::-3])
    np.testing.assert_array_equal(np.concatenate(list(split.blocks(100))), whole)
    with pytest.raises(IndexError):
        split[len(split)]


def test_windows_cross_shards(folder: Path) -> None:
    split = open_dataset(folder).split("train")
    border = split.readers[0].shard.num_bytes
    rows = split.windows(np.array([border - 3, 0]), 7)
    np.testing.assert_array_equal(rows, np.stack([np.asarray(split)[border - 3 : border + 4], np.asarray(split)[:7]]))


@pytest.mark.parametrize("start", [-1, 1])
def test_windows_that_leave_the_split_are_refused(folder: Path, start: int) -> None:
    split = open_dataset(folder).split("train")
    assert split.windows(np.array([0]), len(split)).shape == (1, len(split))
    with pytest.raises(ValueError, match="must start within"):
        split.windows(np.array([start]), len(split))


def test_content_is_mapped_and_not_copied(folder: Path) -> None:
    view = open_dataset(folder).split("train").read(0, 50)
    assert not view.flags.owndata
    assert not view.flags.writeable


def test_an_unknown_split_is_refused(folder: Path) -> None:
    with pytest.raises(UserError, match="no split 'test'"):
        open_dataset(folder).split("test")


def test_a_data_set_crosses_processes_as_a_path(folder: Path) -> None:
    dataset = open_dataset(folder)
    assert len(pickle.dumps(dataset)) < 1000
    assert pickle.loads(pickle.dumps(dataset)).manifest == dataset.manifest


def flip_bit(path: Path, position: int) -> None:
    content = bytearray(path.read_bytes())
    content[position // 8] ^= 1 << position % 8
    path.chmod(0o644)
    path.write_bytes(content)


def flip_first(path: Path) -> None:
    flip_bit(path, 0)


def flip_last_checksum_bit(path: Path) -> None:
    flip_bit(path, path.stat().st_size * 8 - 1)


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


def drop_a_row(path: Path) -> None:
    lines = path.read_bytes().split(b"\n")
    path.chmod(0o644)
    path.write_bytes(b"\n".join(lines[:1] + lines[2:]))


def swap_two_rows(path: Path) -> None:
    lines = path.read_bytes().split(b"\n")
    path.chmod(0o644)
    path.write_bytes(b"\n".join([lines[-2], *lines[1:-2], lines[0], lines[-1]]))


def append(path: Path) -> None:
    path.chmod(0o644)
    with open(path, "ab") as file:
        file.write(b"x")


@pytest.mark.parametrize(
    "damage",
    [flip_first, flip_last_checksum_bit, truncate, drop_a_row, swap_two_rows, append, Path.unlink],
    ids=lambda damage: damage.__name__,
)
def test_damage_is_an_error_that_names_the_shard(folder: Path, damage: Callable[[Path], None]) -> None:
    shard = open_dataset(folder).split("train").readers[2].path
    damage(shard)
    with pytest.raises(UserError, match=r"train\[2\] is damaged") as caught:
        read_all(folder)
    assert caught.value.where == str(shard)
    assert [found.shard for found in verify(folder)] == ["train[2]"]


def test_content_changed_together_with_its_checksum_is_found(folder: Path) -> None:
    reader = open_dataset(folder).split("train").readers[0]
    content = bytearray(reader.path.read_bytes()[: reader.shard.num_bytes])
    content[0] ^= 1
    reader.path.chmod(0o644)
    reader.path.write_bytes(bytes(content) + xxhash.xxh3_128(bytes(content)).digest())
    with pytest.raises(UserError, match=r"train\[0\] is damaged: its block checksums"):
        read_all(folder)


def test_shards_that_change_places_are_found(folder: Path) -> None:
    first, second = (reader.path for reader in open_dataset(folder).split("train").readers[:2])
    content = first.read_bytes()
    shutil.copyfile(second, first.parent / "aside")
    os.replace(first.parent / "aside", first)
    second.chmod(0o644)
    second.write_bytes(content)
    with pytest.raises(UserError, match="is damaged"):
        read_all(folder)


def test_damage_elsewhere_does_not_stop_the_reader(folder: Path) -> None:
    readers = open_dataset(folder).split("train").readers
    flip_first(readers[-1].path)
    split = open_dataset(folder).split("train")
    assert len(split.read(0, readers[0].shard.num_bytes)) == readers[0].shard.num_bytes


def test_a_shard_truncated_after_it_was_opened_is_an_error_and_not_a_crash(tmp_path: Path) -> None:
    writer = ShardWriter(tmp_path, "draft")
    writer.write(memoryview(os.urandom(300_000)))
    shard = writer.close()
    reader = ShardReader(tmp_path / shard.file, shard, "train[0]")
    reader.read(0, 10)
    os.truncate(reader.path, 70_000)
    with pytest.raises(UserError, match="truncated"):
        reader.read(200_000, 200_010)


@settings(max_examples=60, deadline=None)
@given(bit=st.integers(min_value=0), num_bytes=st.integers(1, 140_000))
def test_any_flipped_bit_is_found(tmp_path_factory: pytest.TempPathFactory, bit: int, num_bytes: int) -> None:
    folder = tmp_path_factory.mktemp("shard")
    writer = ShardWriter(folder, "draft")
    writer.write(memoryview(np.random.default_rng(num_bytes).bytes(num_bytes)))
    shard = writer.close()
    path = folder / shard.file
    flip_bit(path, bit % (shard.file_bytes * 8))
    with pytest.raises(UserError, match="is damaged"):
        ShardReader(path, shard, "train[0]").read(0, num_bytes)


@pytest.mark.parametrize(
    "change",
    [
        {"split_rule": "another"},
        {"hash": "0" * 64},
        {"format": "tideline-data/2"},
        {"train": {"documents": -1, "shards": []}},
        {"train": {"documents": 1, "shards": [{"num_bytes": 1, "sha256": "../../etc/passwd", "sums": "0" * 32}]}},
    ],
)
def test_a_changed_manifest_is_refused(folder: Path, change: dict[str, object]) -> None:
    path = folder / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(UserError) as caught:
        open_dataset(folder)
    assert caught.value.where == str(path)


def test_a_folder_without_a_data_set_is_unknown(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        open_dataset(tmp_path)
    assert caught.value.code is ExitCode.UNKNOWN


def test_opening_reads_no_content(home: Path, write_folder: WriteFolder) -> None:
    folder = pack(write_folder(some_files(20)), name="texts", home=home, rules=PackRules()).folder
    dataset = PackedDataset(folder)
    assert all(reader._content is None for reader in dataset.split("train").readers)
