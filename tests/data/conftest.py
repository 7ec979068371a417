"""Small folders of text to pack, in shards of a few hundred bytes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from jobs.data import PackRules

WriteFolder = Callable[[Mapping[str, bytes]], Path]

SMALL = PackRules(min_shard_bytes=200, max_shard_bytes=700)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    folder = tmp_path / "home"
    folder.mkdir()
    return folder


@pytest.fixture
def write_folder(tmp_path: Path) -> WriteFolder:
    made = 0

    def write(files: Mapping[str, bytes]) -> Path:
        nonlocal made
        root = tmp_path / f"corpus-{made}"
        made += 1
        root.mkdir()
        for path, content in files.items():
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_bytes(content)
        return root

    return write


def some_files(count: int = 150) -> dict[str, bytes]:
    """Enough files that both splits and several shards come out."""
    return {f"part{i % 3}/file{i}.txt": f"line {i}\n".encode() * (i % 7 + 1) for i in range(count)}
