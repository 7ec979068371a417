"""Where a run continues when storage cannot be asked: from the keepers if they have a state, else not at all."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from jobs.train.keeper.judge import Choice, Source
from jobs.train.state import FileStorage, StorageError, open_storage, require_marker
from orchestrator.adapters.ray_train import run_state
from orchestrator.adapters.ray_train.run_state import RunState
from tests.train.state.fakes import random_whole, save_to_storage, views, zero12_cuts


class Keepers:
    """A fleet whose keepers hold a state of step `step`; None without keepers, 0 for keepers without a state."""

    def __init__(self, step):
        self.step = step

    seen = None

    def keepers(self):
        return {}

    def marker_trouble(self, url, marker):
        """As a node answers whose storage is `seen`, if that is another."""
        try:
            require_marker(open_storage(self.seen or url), marker, "n1")
        except StorageError as error:
            return error
        return None

    def begin_attempt(self, attempt, world_size, **rest):
        self.begun = attempt

    def flush(self, step, timeout_s):
        self.flushed = step

    flushed = None

    def newest(self, storage_step):
        if self.step is None:
            return None
        stored = storage_step or 0
        source = Source.KEEPERS if self.step > stored else Source.STORAGE if stored else Source.NOTHING
        step = max(self.step, stored)
        return Choice(source=source, step=step, key=None, places={}, older=(), passed_over=(), detail="")


@pytest.fixture
def store(tmp_path):
    whole = random_whole({"a": (4, 3)}, 1)
    save_to_storage(FileStorage(tmp_path / "store"), views(whole, zero12_cuts(whole, 2)), 30)
    return tmp_path / "store"


def state(store, step):
    return RunState("run", Keepers(step), storage_url=store.as_uri(), every_s=1.0, keep=1, domains=dict)


def take_away(store):
    store.rename(store.with_name("unmounted"))
    store.write_text("not a folder")


@pytest.mark.parametrize(
    ("held", "step", "keepers"), [(None, 30, False), (0, 30, False), (20, 30, False), (40, 40, True)]
)
def test_the_newer_of_keepers_and_storage_is_taken(store, held, step, keepers):
    found = state(store, held).restore_point()
    assert found is not None
    assert (found.step, found.keepers) == (step, keepers)


def test_storage_that_is_gone_does_not_stop_a_run_whose_keepers_have_its_state(store):
    take_away(store)
    found = state(store, 40).restore_point()
    assert found is not None
    assert (found.step, found.keepers) == (40, True)


@pytest.mark.parametrize("held", [None, 0])
def test_storage_that_is_gone_is_never_taken_for_a_run_that_has_not_begun(store, held):
    take_away(store)
    with pytest.raises(StorageError, match="storage failed") as caught:
        state(store, held).restore_point()
    assert caught.value.next_step


def test_news_of_checkpoints_wait_until_storage_is_back(store):
    run = state(store, 40)
    take_away(store)
    assert list(run.committed(5.0)) == []
    store.unlink()
    store.with_name("unmounted").rename(store)
    assert [event.step for event in run.committed(6.0)] == [30]


def test_storage_that_cannot_be_written_is_refused_before_anything_starts(store):
    run = state(store, None)
    take_away(store)
    with pytest.raises(StorageError, match="storage failed"):
        run.begin(1, 2, ())


def test_nodes_that_see_another_folder_are_refused_before_anything_starts(store, tmp_path):
    keepers = Keepers(None)
    keepers.seen = (tmp_path / "another").as_uri()
    run = RunState("run", keepers, storage_url=store.as_uri(), every_s=1.0, keep=1, domains=dict)
    with pytest.raises(StorageError, match="node n1 does not see the storage that the first node sees"):
        run.begin(1, 2, ())
    keepers.seen = None
    run.begin(1, 2, ())
    assert keepers.begun == 1
    assert FileStorage(store).names("") == FileStorage(store).names("run"), "markers are taken away"


def test_while_nodes_are_about_to_go_the_keepers_are_asked_more_often(store, monkeypatch):
    asked, noted, now = [], [], [100.0]
    keepers = Keepers(40)
    keepers.ask_status = lambda: asked.append(now[0])
    keepers.note_step = noted.append
    monkeypatch.setattr(run_state, "time", SimpleNamespace(monotonic=lambda: now[0]))
    found = RunState("run", keepers, storage_url=store.as_uri(), every_s=1.0, keep=1, domains=dict)

    def asked_in_a_second():
        before = len(asked), len(noted)
        for _ in range(8):
            now[0] += 0.125
            assert not list(found.news(40, now[0]))
        return len(asked) - before[0], len(noted) - before[1]

    assert asked_in_a_second() == (1, 1)
    found.tell(["n2"])
    assert asked_in_a_second() == (4, 1)
    found.tell([])
    assert asked_in_a_second() == (1, 1)


@pytest.mark.parametrize(("held", "waited_for"), [(47, 47), (30, None), (12, None), (0, None)])
def test_the_end_waits_for_what_keepers_alone_have_and_for_nothing_else(store, held, waited_for):
    """Storage has step 30. A wait for any step would be over at once, one for a state that nobody has never."""
    keepers = Keepers(held)
    assert RunState("run", keepers, storage_url=store.as_uri(), every_s=1.0, keep=1, domains=dict).secure(
        0, lambda: False
    )
    assert keepers.flushed == waited_for


def test_the_end_of_a_run_without_any_state_waits_for_nothing(tmp_path):
    keepers = Keepers(0)
    assert RunState("run", keepers, storage_url=tmp_path.as_uri(), every_s=1.0, keep=1, domains=dict).secure(
        0, lambda: False
    )
    assert keepers.flushed is None
