"""Reading ahead is a wish to the kernel: what is asked for, and that nothing here can go wrong."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from jobs.data import PackRules, pack
from jobs.data.manifest import read_manifest
from jobs.train.readahead import available_bytes, read_ahead


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    for number in range(60):
        (corpus / f"{number}.txt").write_bytes(os.urandom(40))
    return pack(corpus, name="texts", home=tmp_path, rules=PackRules(min_shard_bytes=200, max_shard_bytes=700)).folder


def sizes(folder: Path) -> list[int]:
    found = [shard.file_bytes for split in read_manifest(folder).splits.values() for shard in split.shards]
    assert len(found) > 2
    return found


def test_all_of_a_small_data_set_is_asked_for(folder: Path) -> None:
    assert read_ahead(folder) == sum(sizes(folder))


def test_no_more_than_the_limit_is_asked_for(folder: Path) -> None:
    assert read_ahead(folder, limit_bytes=300) == 300
    assert read_ahead(folder, limit_bytes=0) == 0


def test_a_folder_that_is_no_data_set_is_left_to_the_rank(tmp_path: Path) -> None:
    assert read_ahead(tmp_path) == 0
    assert read_ahead(tmp_path / "none") == 0


def test_available_memory_is_read_as_the_kernel_says_it(tmp_path: Path) -> None:
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal:  100 kB\nMemAvailable:     40 kB\n")
    assert available_bytes(meminfo) == 40 * 1024
