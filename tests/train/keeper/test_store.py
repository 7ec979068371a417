"""One node's parts: allocated, sealed, dropped, adopted; what a crash leaves behind."""

from __future__ import annotations

import os

import pytest

from jobs.train.keeper import index
from jobs.train.keeper.faults import Point
from jobs.train.keeper.folder import KeeperFolder
from jobs.train.keeper.segments import NoRoomError, SegmentPool
from jobs.train.keeper.store import PartConflictError, PartStore
from jobs.train.keeper.values import PartKey, PartMeta, SnapshotKey
from orchestrator.spec.errors import ExitCode, UserError
from tests.train.keeper.world import BLOCK_BYTES, GRAIN_BYTES, Crash, CrashAt, content, entry_of

NBYTES = 200


def part(step: int = 1, rank: int = 0) -> PartKey:
    return PartKey(snapshot=SnapshotKey(run="r", step=step, attempt=0, world_size=4), rank=rank)


def meta_of(key: PartKey) -> PartMeta:
    entry = entry_of(key, content(key, NBYTES))
    return PartMeta(key=key, origin="n", entry=entry, header={} if key.rank == 0 else None)


def make(folder, limit_bytes: int = 4096, faults=lambda point: None) -> PartStore:
    return PartStore(folder, limit_bytes, block_bytes=BLOCK_BYTES, grain_bytes=GRAIN_BYTES, faults=faults)


def save(store: PartStore, key: PartKey) -> None:
    owner = object()
    segment = store.alloc(key, NBYTES, owner)
    segment.map()[:NBYTES] = content(key, NBYTES)
    store.seal(meta_of(key), owner)


def test_a_sealed_part_is_listed_and_an_allocated_one_is_not(tmp_path):
    store = make(tmp_path)
    store.alloc(part(1), NBYTES, object())
    save(store, part(2))
    assert [sealed.meta.key for sealed in store.sealed()] == [part(2)]
    assert store.get(part(1)) is None
    assert store.get(part(2)).data() == content(part(2), NBYTES)


def test_another_keeper_adopts_sealed_parts_and_sweeps_the_rest_away(tmp_path):
    store = make(tmp_path)
    save(store, part(1))
    store.alloc(part(2), NBYTES, object())
    (tmp_path / "x.draft").write_text("half")
    (tmp_path / "y.json").write_text("{}")
    heir = make(tmp_path)
    assert heir.adopt() == 1
    assert heir.get(part(1)).data() == content(part(1), NBYTES)
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".json", ".seg"]


@pytest.mark.parametrize("offset", [0, BLOCK_BYTES, NBYTES - 1])
def test_one_flipped_bit_anywhere_makes_a_part_unfit_for_adoption(tmp_path, offset):
    store = make(tmp_path)
    save(store, part(1))
    store.get(part(1)).segment.map()[offset] ^= 1
    heir = make(tmp_path)
    assert heir.adopt() == 0
    assert list(tmp_path.iterdir()) == []


def test_a_truncated_segment_or_entry_is_not_adopted(tmp_path):
    store = make(tmp_path)
    for step in (1, 2):
        save(store, part(step))
    first, second = (sealed.segment.path for sealed in store.sealed())
    os.truncate(first, 100)
    index.entry_path(second).write_text("{")
    assert make(tmp_path).adopt() == 0


def test_parts_with_other_block_sizes_are_not_adopted(tmp_path):
    save(make(tmp_path), part(1))
    assert PartStore(tmp_path, 4096, block_bytes=32, grain_bytes=GRAIN_BYTES).adopt() == 0


@pytest.mark.parametrize(
    ("point", "survives"),
    [
        (Point.ALLOC_CREATED, False),
        (Point.SEAL_BEFORE_INDEX, False),
        (Point.SEAL_HALF_INDEX, False),
        (Point.SEAL_AFTER_INDEX, True),
    ],
)
def test_a_crash_while_saving_leaves_the_older_snapshot_and_never_half_of_a_new_one(tmp_path, point, survives):
    save(make(tmp_path), part(1))
    store = make(tmp_path, faults=CrashAt(point))
    store.adopt()
    with pytest.raises(Crash):
        save(store, part(2))
    heir = make(tmp_path)
    heir.adopt()
    assert [sealed.meta.key.snapshot.step for sealed in heir.sealed()] == ([1, 2] if survives else [1])
    assert len(list(tmp_path.glob("*.seg"))) == len(heir.sealed())


def test_a_crash_while_dropping_never_brings_a_part_back(tmp_path):
    store = make(tmp_path, faults=CrashAt(Point.DROP_AFTER_INDEX))
    save(store, part(1))
    with pytest.raises(Crash):
        store.drop(part(1))
    assert make(tmp_path).adopt() == 0


def test_a_dropped_parts_pages_are_used_again_and_have_no_entry_meanwhile(tmp_path):
    store = make(tmp_path)
    save(store, part(1))
    path = store.get(part(1)).segment.path
    store.drop(part(1))
    assert not index.entry_path(path).exists()
    assert store.alloc(part(2), NBYTES, object()).path == path


def test_the_segment_of_a_writer_that_died_is_never_used_again(tmp_path):
    """It may hang in the middle of its copy and go on later."""
    store = make(tmp_path)
    owner = object()
    segment = store.alloc(part(1), NBYTES, owner)
    late = segment.map()
    store.abort_owned(owner)
    save(store, part(2))
    late[:NBYTES] = b"x" * NBYTES
    assert store.get(part(2)).data() == content(part(2), NBYTES)
    assert store.get(part(2)).segment.path != segment.path


def test_only_the_writer_may_seal_and_only_what_was_announced(tmp_path):
    store = make(tmp_path)
    owner = object()
    store.alloc(part(1), NBYTES, owner)
    with pytest.raises(PartConflictError, match="not allocated here"):
        store.seal(meta_of(part(1)), object())
    other = PartMeta(key=part(1), origin="n", entry=entry_of(part(1), b"short"), header={})
    with pytest.raises(PartConflictError, match="5 bytes"):
        store.seal(other, owner)
    headless = PartMeta(key=part(1), origin="n", entry=meta_of(part(1)).entry, header=None)
    with pytest.raises(PartConflictError, match="brings the snapshot's header"):
        store.seal(headless, owner)
    with pytest.raises(PartConflictError, match="part of 0 bytes"):
        store.alloc(part(2), 0, owner)


def test_sealing_twice_is_once(tmp_path):
    store = make(tmp_path)
    save(store, part(1))
    store.seal(meta_of(part(1)), object())
    with pytest.raises(PartConflictError, match="sealed already"):
        store.alloc(part(1), NBYTES, object())


def test_memory_is_never_above_the_limit_and_free_segments_give_way(tmp_path):
    pool = SegmentPool(tmp_path, 4 * GRAIN_BYTES, grain_bytes=GRAIN_BYTES)
    small = [pool.take(GRAIN_BYTES) for _ in range(4)]
    with pytest.raises(NoRoomError):
        pool.take(1)
    for segment in small:
        pool.materialise(segment)
        pool.give_back(segment)
    pool.take(3 * GRAIN_BYTES)
    assert pool.used_bytes == 4 * GRAIN_BYTES
    assert len(list(tmp_path.iterdir())) == 1


def test_a_much_larger_free_segment_is_not_wasted_on_a_small_part(tmp_path):
    pool = SegmentPool(tmp_path, 100 * GRAIN_BYTES, grain_bytes=GRAIN_BYTES)
    large = pool.take(10 * GRAIN_BYTES)
    pool.give_back(large)
    assert pool.take(GRAIN_BYTES) is not large
    assert pool.take(8 * GRAIN_BYTES) is large


def test_reserved_segments_are_there_when_they_are_needed_or_not_at_all(tmp_path):
    store = make(tmp_path, limit_bytes=3 * 256)
    store.reserve(NBYTES, 2)
    assert store.used_bytes == 2 * 256
    with pytest.raises(NoRoomError):
        store.reserve(1000, 1)
    assert store.used_bytes == 0, "free segments of the other size gave way"
    before = sorted(tmp_path.iterdir())
    store.reserve(NBYTES, 2)
    with pytest.raises(NoRoomError):
        store.reserve(NBYTES, 4)
    assert before == []
    assert store.used_bytes == 0


def test_a_full_shared_memory_is_an_error_of_the_keeper_and_not_a_crash_of_the_rank(tmp_path, monkeypatch):
    def full(fd: int, offset: int, nbytes: int) -> None:
        raise OSError(28, "No space left on device")

    store = make(tmp_path)
    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(NoRoomError, match="No space left on device"):
        store.alloc(part(1), NBYTES, object())
    monkeypatch.undo()
    assert store.used_bytes == 0
    save(store, part(1))


def test_a_folder_has_one_keeper_at_a_time(tmp_path):
    first = KeeperFolder(tmp_path / "k")
    with pytest.raises(UserError, match="another keeper serves this folder") as refused:
        KeeperFolder(tmp_path / "k")
    assert refused.value.code is ExitCode.CONFLICT
    first.close()
    KeeperFolder(tmp_path / "k").remove()
    assert not (tmp_path / "k").exists()


def test_a_folder_that_others_may_enter_or_that_is_a_link_is_refused(tmp_path):
    (tmp_path / "open").mkdir(mode=0o755)
    (tmp_path / "target").mkdir(mode=0o700)
    (tmp_path / "link").symlink_to(tmp_path / "target")
    for name in ("open", "link"):
        with pytest.raises(UserError, match="not a folder of user") as refused:
            KeeperFolder(tmp_path / name)
        assert refused.value.code is ExitCode.FORBIDDEN
