"""An object store that misbehaves: its errors become one clear error, its answers stay answers."""

from __future__ import annotations

import fsspec
import pytest

from jobs.train.state import StorageError, latest, open_storage, steps
from jobs.train.state.object_storage import FsspecStorage
from tests.train.state.fakes import random_whole, save_to_storage, views, zero12_cuts

WHOLE = random_whole({"a": (40, 3)}, 1)


class DeniedError(Exception):
    """As stores' own libraries raise: of no common type."""


@pytest.fixture
def storage(tmp_path):
    yield open_storage(f"memory://{tmp_path.name}")
    fsspec.filesystem("memory").store.clear()


def _save(storage, step):
    return save_to_storage(storage, views(WHOLE, zero12_cuts(WHOLE, 2)), step)


@pytest.mark.parametrize("verb", ["open", "pipe_file", "size"])
def test_a_store_that_refuses_leaves_the_previous_checkpoint(storage, monkeypatch, verb):
    _save(storage, 5)

    def refuse(*args, **kwargs):
        raise DeniedError("403")

    with monkeypatch.context() as patch:
        patch.setattr(storage._fs, verb, refuse)
        with pytest.raises(StorageError, match=r"DeniedError: 403.*earlier checkpoints are untouched"):
            _save(storage, 10)
    assert latest(storage, "run").step == 5
    assert steps(storage, "run") == [5]


def test_the_commit_is_one_conditional_put(storage, monkeypatch):
    puts = []
    real = storage._fs.pipe_file
    monkeypatch.setattr(storage._fs, "pipe_file", lambda *a, **k: (puts.append((a[0], k)), real(*a, **k)))
    _save(storage, 5)
    assert [(path.rsplit("/", 1)[1], options) for path, options in puts] == [("manifest.json", {"mode": "create"})]


def test_a_scheme_without_its_package_is_explained():
    with pytest.raises(StorageError, match="cannot be opened") as caught:
        FsspecStorage("abfs://container/path")
    assert "fsspec package for 'abfs'" in caught.value.next_step
