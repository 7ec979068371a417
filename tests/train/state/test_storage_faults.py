"""Storage fails at every point it can: what was committed before is never touched, what was not is never visible."""

from __future__ import annotations

import errno
import os

import pytest

import jobs.train.state.storage as storage_module
from jobs.train.state import FileStorage, StorageError, latest, load_latest_good, prune, read_manifest, steps, verify
from tests.train.state.fakes import gathered, random_whole, same, save_to_storage, views, zero3_cuts, zero12_cuts
from tests.train.state.faulty_os import Crash, FaultyOs

OLD = random_whole({"a": (40, 3), "b": (5,)}, 1)
NEW = random_whole({"a": (40, 3), "b": (5,)}, 2)


def _save(root, whole, step, attempt=0):
    save_to_storage(FileStorage(root), views(whole, zero12_cuts(whole, 2)), step, attempt=attempt)


def _loaded(root, whole):
    """The state that a new attempt of three ranks would continue from."""
    ranks = views(whole, zero3_cuts(whole, 3), filled=False)
    found = [load_latest_good(view, FileStorage(root), "run") for view in ranks]
    return found[0].manifest.step, gathered(whole, ranks)


def _count_calls(tmp_path, monkeypatch, action):
    counter = FaultyOs(fail_at=-1)
    with monkeypatch.context() as patch:
        patch.setattr(storage_module, "os", counter)
        action()
    return counter.calls


def test_a_crash_at_any_point_of_a_save_leaves_the_previous_checkpoint(tmp_path, monkeypatch):
    _save(tmp_path / "count", OLD, 1)
    calls = _count_calls(tmp_path, monkeypatch, lambda: _save(tmp_path / "count", NEW, 2))
    assert {"write", "fsync", "replace", "link"} <= set(calls)
    outcomes = set()
    for point in range(len(calls)):
        root = tmp_path / str(point)
        _save(root, OLD, 1)
        faulty = FaultyOs(fail_at=point)
        with monkeypatch.context() as patch:
            patch.setattr(storage_module, "os", faulty)
            with pytest.raises(Crash):
                _save(root, NEW, 2)
        faulty.power_off()
        step, state = _loaded(root, OLD)
        assert same(state, (OLD if step == 1 else NEW).flat), calls[point]
        assert verify(latest(FileStorage(root), "run"), FileStorage(root)) == []
        _save(root, NEW, 2, attempt=1)  # and the next attempt saves the same step as if nothing had been
        assert same(_loaded(root, NEW)[1], NEW.flat)
        outcomes.add(step)
    assert outcomes == {1, 2}


def test_without_syncing_the_crash_test_fails(tmp_path, monkeypatch):
    """The guarantee broken on purpose: a commit that syncs nothing loses a checkpoint that looked whole."""
    calls = _count_calls(tmp_path, monkeypatch, lambda: _save(tmp_path / "count", NEW, 2))
    faulty = FaultyOs(fail_at=len(calls) - 1, ignored="fsync")
    with monkeypatch.context() as patch:
        patch.setattr(storage_module, "os", faulty)
        with pytest.raises(Crash):
            _save(tmp_path / "broken", NEW, 2)
    faulty.power_off()
    assert latest(FileStorage(tmp_path / "broken"), "run") is None
    assert steps(FileStorage(tmp_path / "broken"), "run") == [2]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EIO, errno.EDQUOT, errno.EACCES, errno.ESTALE])
def test_an_error_at_any_point_is_named_and_leaves_the_previous_checkpoint(tmp_path, monkeypatch, code):
    _save(tmp_path / "count", OLD, 1)
    calls = _count_calls(tmp_path, monkeypatch, lambda: _save(tmp_path / "count", NEW, 2))
    for point, name in enumerate(calls):
        if name in ("unlink", "close"):  # tidying up may fail silently, close reports nothing that fsync has not
            continue
        root = tmp_path / str(point)
        _save(root, OLD, 1)
        with monkeypatch.context() as patch:
            patch.setattr(storage_module, "os", FaultyOs(fail_at=point, error=code))
            with pytest.raises(StorageError) as caught:
                _save(root, NEW, 2)
        assert "earlier checkpoints are untouched" in caught.value.problem
        assert str(root) in caught.value.where
        assert caught.value.next_step
        step, state = _loaded(root, OLD)
        assert same(state, (OLD if step == 1 else NEW).flat)
        assert not list(root.rglob("*.tmp")), name


@pytest.mark.parametrize(
    ("code", "problem"),
    [
        (errno.ENOSPC, "storage is full"),
        (errno.EROFS, "read-only"),
        (errno.EACCES, "refuses access"),
        (errno.EIO, "failed"),
    ],
)
def test_the_cause_is_said(tmp_path, monkeypatch, code, problem):
    monkeypatch.setattr(storage_module, "os", FaultyOs(fail_at=1, error=code))
    with pytest.raises(StorageError, match=problem):
        _save(tmp_path, OLD, 1)


def test_file_systems_that_cannot_reserve_space_are_written_all_the_same(tmp_path, monkeypatch):
    calls = _count_calls(tmp_path, monkeypatch, lambda: _save(tmp_path / "count", OLD, 1))
    monkeypatch.setattr(storage_module, "os", FaultyOs(calls.index("posix_fallocate"), error=errno.EOPNOTSUPP))
    _save(tmp_path / "real", OLD, 1)
    monkeypatch.undo()
    assert same(_loaded(tmp_path / "real", OLD)[1], OLD.flat)


def test_a_crash_at_any_point_of_pruning_leaves_the_kept_checkpoints(tmp_path, monkeypatch):
    def build(root):
        for step in (1, 2, 3):
            _save(root, OLD if step < 3 else NEW, step)

    build(tmp_path / "count")
    calls = _count_calls(tmp_path, monkeypatch, lambda: prune(FileStorage(tmp_path / "count"), "run", keep=1))
    for point in range(len(calls)):
        root = tmp_path / str(point)
        build(root)
        with monkeypatch.context() as patch:
            patch.setattr(storage_module, "os", FaultyOs(fail_at=point))
            with pytest.raises(Crash):
                prune(FileStorage(root), "run", keep=1)
        for step in steps(FileStorage(root), "run"):  # whatever is still listed is whole
            assert verify(read_manifest(FileStorage(root), "run", step), FileStorage(root)) == []
        prune(FileStorage(root), "run", keep=1)
        assert steps(FileStorage(root), "run") == [3]
        assert len([p for p in root.rglob("*") if p.is_file()]) == 3


def test_storage_that_goes_away_in_the_middle_is_reported(tmp_path):
    _save(tmp_path / "mount", OLD, 1)
    storage = FileStorage(tmp_path / "mount")
    (tmp_path / "mount").rename(tmp_path / "unmounted")
    (tmp_path / "mount").write_text("not a folder")
    with pytest.raises(StorageError, match="storage failed"):
        _save(tmp_path / "mount", NEW, 2)
    (tmp_path / "mount").unlink()
    os.rename(tmp_path / "unmounted", tmp_path / "mount")
    assert latest(storage, "run").step == 1
