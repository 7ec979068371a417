"""What is killed leaves nothing: shared memory of dead keepers and folders of dead nodes go, living ones stay."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from jobs.train.keeper.folder import KeeperFolder
from orchestrator.adapters.ray_cluster.processes import SHARED_MEMORY_NOTE, remove_folders
from orchestrator.adapters.ray_train.keeper_host import YOUNG_S, sweep


@pytest.fixture
def folders(tmp_path: Path) -> dict[str, Path]:
    """One folder of a living keeper, one of a dead one, one too young to tell, one of somebody else's program."""
    paths = {name: tmp_path / f"tide-{os.getuid()}-{name}" for name in ("living", "dead", "young")}
    for path in paths.values():
        KeeperFolder(path).close()
    paths["other"] = tmp_path / "other"
    paths["other"].mkdir()
    for name in ("living", "dead"):
        os.utime(paths[name], (0, 0))
    return paths


def test_only_the_folders_of_dead_keepers_are_swept(folders: dict[str, Path], tmp_path: Path) -> None:
    assert YOUNG_S > 0
    keeper = KeeperFolder(folders["living"])
    os.utime(folders["living"], (0, 0))
    assert sweep(tmp_path) == 1
    assert [name for name, path in folders.items() if path.exists()] == ["living", "young", "other"]
    keeper.close()


def test_a_dead_node_s_shared_memory_goes_with_its_folder(tmp_path: Path) -> None:
    node, memory, other = tmp_path / "node", tmp_path / "memory", tmp_path / "unrelated"
    for path in (node / "tide" / "agent", memory, other):
        path.mkdir(parents=True)
    (memory / "segment").touch()
    (node / "tide" / "agent" / SHARED_MEMORY_NOTE).write_text(str(memory))
    remove_folders(node)
    assert not node.exists()
    assert not memory.exists()
    assert other.exists()
