"""Checkpoints in file and object storage: committed once, fallen back from with the reason, pruned, refused."""

from __future__ import annotations

import os
import pickle
from dataclasses import replace

import fsspec
import pytest

from jobs.train.state import (
    CorruptStateError,
    Expected,
    FileStorage,
    Manifest,
    StorageError,
    WrongStateError,
    changes,
    commit,
    latest,
    load_latest_good,
    open_storage,
    place_marker,
    prune,
    read_manifest,
    remove_marker,
    require,
    require_marker,
    steps,
    verify,
)
from orchestrator.spec.errors import ExitCode
from tests.train.state.fakes import gathered, random_whole, same, save_to_storage, views, zero3_cuts, zero12_cuts

WHOLE = random_whole({"a": (40, 3), "b": (5,), "n": (2,)}, 1, buffers=("n",))
OTHER = random_whole({"a": (40, 3), "b": (5,), "n": (2,)}, 2, buffers=("n",))


@pytest.fixture(params=["file", "memory"])
def storage(request, tmp_path):
    if request.param == "file":
        yield open_storage(tmp_path.as_uri())
    else:
        yield open_storage(f"memory://{tmp_path.name}")
        fsspec.filesystem("memory").store.clear()


def _save(storage, step, whole=WHOLE, **changes_):
    return save_to_storage(storage, views(whole, zero12_cuts(whole, 2)), step, **changes_)


def _load(storage, **options):
    ranks = views(WHOLE, zero3_cuts(WHOLE, 3), filled=False)
    found = [load_latest_good(view, storage, "run", **options) for view in ranks]
    return found[0], gathered(WHOLE, ranks)


def _damage(storage, name, change):
    """Change stored bytes behind the storage's back."""
    content = bytearray(storage.read(name, 0, storage.size(name)))
    change(content)
    storage.delete([name])
    storage.write(name, [memoryview(bytes(content))], len(content))


def _flip(at):
    def change(content):
        content[at] ^= 1

    return change


def _cut(content):
    del content[-1:]


def test_what_is_saved_is_listed_and_loads(storage):
    assert latest(storage, "run") is None
    assert _load(storage)[0] is None
    for step in (5, 10):
        _save(storage, step, WHOLE if step == 10 else OTHER)
    assert steps(storage, "run") == [5, 10]
    loaded, state = _load(storage)
    assert (loaded.manifest.step, loaded.refused) == (10, ())
    assert same(state, WHOLE.flat)
    assert verify(loaded.manifest, storage) == []


def test_runs_do_not_see_each_other(storage):
    _save(storage, 5)
    _save(storage, 7, run="another")
    assert steps(storage, "run") == [5]
    assert steps(storage, "another") == [7]


def test_a_step_is_committed_once(storage):
    _save(storage, 5, WHOLE)
    second = replace(_save(storage, 5, OTHER, attempt=1))
    assert not commit(storage, second)
    assert read_manifest(storage, "run", 5).attempt == 0
    assert same(_load(storage)[1], WHOLE.flat)


def test_a_missing_part_is_not_committed(storage):
    manifest = _save(storage, 5)
    storage.delete([manifest.parts[1].file])
    with pytest.raises(CorruptStateError, match="not committed"):
        commit(storage, replace(manifest, step=6))
    assert steps(storage, "run") == [5]


@pytest.mark.parametrize(
    "damage", [_flip(-3), _flip(0), _cut, bytearray.clear], ids=["data bit", "header bit", "truncated", "emptied"]
)
def test_a_damaged_part_is_named_and_the_previous_checkpoint_used(storage, damage):
    _save(storage, 5, WHOLE)
    bad = _save(storage, 10, OTHER)
    _damage(storage, bad.parts[1].file, damage)
    (problem,) = verify(bad, storage)
    assert bad.parts[1].file in str(problem)
    loaded, state = _load(storage)
    assert loaded.manifest.step == 5
    assert "step 10" in loaded.refused[0]
    assert bad.parts[1].file in loaded.refused[0]
    assert same(state, WHOLE.flat)


def test_every_single_bit_of_a_small_part_is_guarded(tmp_path):
    storage = FileStorage(tmp_path)
    small = random_whole({"a": (3,)}, 1)
    manifest = save_to_storage(storage, views(small, zero12_cuts(small, 1)), 5)
    path = tmp_path / manifest.parts[0].file
    content = path.read_bytes()
    for at in range(len(content)):
        path.write_bytes(content[:at] + bytes([content[at] ^ (1 << at % 8)]) + content[at + 1 :])
        storage.close()
        assert len(verify(manifest, storage)) == 1


def test_without_hashes_a_flipped_bit_would_load(tmp_path):
    """The guarantee broken on purpose: the same damage goes unnoticed when nothing is verified."""
    storage = FileStorage(tmp_path)
    manifest = _save(storage, 5)
    _damage(storage, manifest.parts[0].file, _flip(-1))
    blind = replace(manifest, parts=tuple(replace(part, blocks=()) for part in manifest.parts))
    assert verify(blind, storage) == []
    assert verify(manifest, storage) != []


@pytest.mark.parametrize("damage", [_cut, _flip(20)], ids=["truncated", "bit"])
def test_a_damaged_manifest_is_passed_over(storage, damage):
    _save(storage, 5)
    _save(storage, 10)
    _damage(storage, "run/000000000010/manifest.json", damage)
    loaded, _ = _load(storage)
    assert loaded.manifest.step == 5


def test_when_no_checkpoint_is_sound_all_of_them_are_named(storage):
    for step in (5, 10):
        storage.delete([_save(storage, step).parts[0].file])
    with pytest.raises(CorruptStateError, match=r"step 10: .*step 5: ") as caught:
        _load(storage)
    assert caught.value.next_step


def test_ranks_agree_on_the_checkpoint_that_all_can_read(storage):
    _save(storage, 5)
    _save(storage, 10, OTHER)
    answers = iter([False, True])
    view = views(WHOLE, zero12_cuts(WHOLE, 1), filled=False)[0]
    loaded = load_latest_good(view, storage, "run", agree=lambda good: next(answers) and good)
    assert loaded.manifest.step == 5
    assert "another rank" in loaded.refused[0]


def _expected(**changes_):
    values = {"shapes": WHOLE.shapes, "dataset_hash": "d" * 64, "zero_stage": 2, "precision": "fp32"}
    return Expected(**(values | changes_))


def test_a_checkpoint_of_another_model_names_the_tensors(storage):
    _save(storage, 5)
    shapes = {"a": (40, 4), "c": (1,), "n": (2,)}
    with pytest.raises(WrongStateError) as caught:
        _load(storage, expected=_expected(shapes=shapes))
    for phrase in ("a is [40, 3] in the checkpoint and [40, 4]", "c [1] is not in the checkpoint", "b [5] is not in"):
        assert phrase in caught.value.problem


def test_a_checkpoint_of_another_data_set_names_both(storage):
    _save(storage, 5)
    with pytest.raises(WrongStateError, match=r"d{64}.*e{64}"):
        _load(storage, expected=_expected(dataset_hash="e" * 64))


def test_many_differing_tensors_are_summed_up():
    manifest = Manifest.from_bytes(_manifest_bytes(), "here")
    with pytest.raises(WrongStateError, match="and 4 more"):
        require(_expected(shapes={f"x{i}": (1,) for i in range(6)}), manifest)


def _manifest_bytes():
    fs = open_storage("memory://bytes")
    return _save(fs, 5).to_bytes()


def test_stage_and_precision_may_change_and_that_is_said():
    manifest = Manifest.from_bytes(_manifest_bytes(), "here")
    require(_expected(zero_stage=3, precision="bf16"), manifest)
    said = changes(_expected(zero_stage=3, precision="bf16"), manifest)
    assert len(said) == 2
    assert "2 -> 3" in said[0]
    assert changes(_expected(), manifest) == []


def test_a_manifest_survives_its_json():
    content = _manifest_bytes()
    manifest = Manifest.from_bytes(content, "here")
    assert manifest.to_bytes() == content
    assert manifest.moments == ("exp_avg", "exp_avg_sq")
    assert manifest.buffers == {"n": (2,)}


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"{}", b'{"format":"tideline-state/9"}', b'{"format":"tideline-state/1"}', b"\xff"]
)
def test_what_is_no_manifest_is_refused(content):
    with pytest.raises(CorruptStateError) as caught:
        Manifest.from_bytes(content, "here")
    assert caught.value.where == "here"


def test_a_manifest_that_lacks_a_rank_is_refused():
    manifest = Manifest.from_bytes(_manifest_bytes(), "here")
    with pytest.raises(CorruptStateError, match="one part for each of 2 ranks"):
        Manifest.from_bytes(replace(manifest, parts=manifest.parts[:1]).to_bytes(), "here")


def test_pruning_keeps_the_newest_and_removes_remains(storage):
    for step in (5, 10, 15, 20):
        _save(storage, step)
    storage.write("run/000000000012/part-00000-of-00002.a3.safetensors", [memoryview(b"half")], 4)
    storage.write("run/000000000020/part-00000-of-00002.a3.safetensors", [memoryview(b"half")], 4)
    storage.write("run/000000000025/part-00000-of-00002.a3.safetensors", [memoryview(b"under way")], 9)
    assert prune(storage, "run", keep=2) == [5, 10]
    assert steps(storage, "run") == [15, 20]
    assert len(storage.names("run")) == 2 * 3 + 1
    assert prune(storage, "run", keep=2) == []
    with pytest.raises(ValueError, match="at least 1"):
        prune(storage, "run", keep=0)


def test_nodes_with_different_folders_are_found_out(tmp_path):
    first, second = (FileStorage(tmp_path / name) for name in ("shared", "local"))
    marker = place_marker(first)
    require_marker(open_storage(first.url), marker, "node-2")
    with pytest.raises(StorageError, match="node-2 does not see") as caught:
        require_marker(second, marker, "node-2")
    assert caught.value.code == ExitCode.INVALID
    remove_marker(first, marker)
    assert first.names("") == []


@pytest.mark.parametrize("url", ["relative/path", "file://host/path", "nosuch://bucket"])
def test_urls_that_mean_no_storage_are_refused(url):
    with pytest.raises(StorageError) as caught:
        open_storage(url)
    assert caught.value.code == ExitCode.INVALID
    assert caught.value.next_step


@pytest.mark.parametrize("name", ["../x", "run/../../x"])
def test_names_cannot_lead_out_of_the_storage(storage, name):
    with pytest.raises(ValueError, match="leads out"):
        storage.size(name)


def test_unreadable_storage_is_not_taken_for_an_empty_one(tmp_path):
    (tmp_path / "run").write_text("a file where the run's folder should be")
    with pytest.raises(StorageError):
        steps(FileStorage(tmp_path), "run")


def test_unfinished_files_are_cleared_when_old(tmp_path):
    storage = FileStorage(tmp_path)
    _save(storage, 5)
    left = tmp_path / "run" / "000000000010" / "part.safetensors.abc.tmp"
    left.parent.mkdir()
    left.write_bytes(b"half")
    os.utime(left, (1000, 1000))
    assert storage.delete_unfinished("run", older_than_s=3600, now_s=2000) == 0
    assert storage.delete_unfinished("run", older_than_s=3600, now_s=9000) == 1
    assert steps(storage, "run") == [5]


def test_errors_survive_pickling():
    error = CorruptStateError("is gone", where="file", next_step="look")
    copy = pickle.loads(pickle.dumps(error))
    assert (type(copy), str(copy)) == (CorruptStateError, str(error))
    storage_error = pickle.loads(pickle.dumps(StorageError("full", where="disk")))
    assert storage_error.code == ExitCode.UNREACHABLE
