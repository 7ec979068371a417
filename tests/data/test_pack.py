"""Packing: what goes in, what comes out, and what is left when it ends in the middle."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs.data import PackRules, open_dataset, pack
from jobs.data.files import FileRules
from jobs.data.splits import BY_PATH
from jobs.data.store import datasets
from orchestrator.spec.errors import ExitCode, UserError
from tests.data.conftest import SMALL, WriteFolder, some_files


def text_of(folder: Path, split: str) -> bytes:
    return np.asarray(open_dataset(folder).split(split)).tobytes()


def is_validation(path: str) -> bool:
    return int(hashlib.sha256(path.encode()).hexdigest(), 16) % 20 == 0


def expected(files: dict[str, bytes], *, validation: bool) -> bytes:
    return joined({path: content for path, content in files.items() if is_validation(path) == validation})


def joined(files: dict[str, bytes]) -> bytes:
    return b"".join(files[path] + b"\0" for path in sorted(files, key=str.encode))


def test_splits_hold_every_document_once_in_the_order_of_paths(home: Path, write_folder: WriteFolder) -> None:
    files = some_files()
    packed = pack(write_folder(files), name="texts", home=home, rules=SMALL)
    assert text_of(packed.folder, "train") == expected(files, validation=False)
    assert text_of(packed.folder, "validation") == expected(files, validation=True)
    assert len(packed.manifest.train.shards) > 3


def test_hash_depends_on_content_alone(home: Path, write_folder: WriteFolder) -> None:
    files = some_files()
    forwards = pack(write_folder(files), name="one", home=home, rules=SMALL)
    backwards = pack(
        write_folder(dict(reversed(files.items()))), name="two", home=home, rules=SMALL, origin="elsewhere"
    )
    assert forwards.manifest.hash == backwards.manifest.hash
    changed = pack(write_folder({**files, "part0/file0.txt": b"changed"}), name="one", home=home, rules=SMALL)
    assert changed.manifest.hash != forwards.manifest.hash


_files = st.dictionaries(
    st.text("abcxyz", min_size=1, max_size=6),
    st.binary(min_size=1, max_size=900).map(lambda content: content.replace(b"\0", b"\n")),
    max_size=30,
)


@settings(max_examples=30, deadline=None)
@given(files=_files, max_shard_bytes=st.integers(1, 900))
def test_no_byte_is_lost_whatever_the_sizes(files: dict[str, bytes], max_shard_bytes: int) -> None:
    files = {**files, "enough": b"for two splits " * 2}
    with tempfile.TemporaryDirectory() as scratch:
        root, home = Path(scratch, "root"), Path(scratch, "home")
        root.mkdir()
        for path, content in files.items():
            (root / path).write_bytes(content)
        rules = PackRules(min_shard_bytes=max(1, max_shard_bytes // 2), max_shard_bytes=max_shard_bytes)
        packed = pack(root, name="any", home=home, rules=rules)
        assert all(0 < shard.num_bytes <= max_shard_bytes for shard in packed.manifest.shards)
        train, validation = text_of(packed.folder, "train"), text_of(packed.folder, "validation")
        if packed.manifest.split_rule == BY_PATH:
            assert (train, validation) == (expected(files, validation=False), expected(files, validation=True))
        else:
            tails = {path: content[len(content) - len(content) // 20 :] for path, content in files.items()}
            heads = {path: content.removesuffix(tails[path]) for path, content in files.items()}
            assert train == joined(heads)
            assert validation == joined({path: tail for path, tail in tails.items() if tail})


def test_one_big_file_gives_its_tail_to_validation(home: Path, write_folder: WriteFolder) -> None:
    text = bytes(range(1, 201)) * 2
    packed = pack(write_folder({"book.txt": text}), name="book", home=home)
    assert text_of(packed.folder, "train") == text[:380] + b"\0"
    assert text_of(packed.folder, "validation") == text[380:] + b"\0"


def test_a_changed_file_changes_few_shards(home: Path, write_folder: WriteFolder) -> None:
    files = some_files(400)
    before = pack(write_folder(files), name="texts", home=home, rules=SMALL).manifest
    after = pack(
        write_folder({**files, "part0/file3.txt": b"longer than before " * 9}), name="texts", home=home, rules=SMALL
    )
    new = set(after.manifest.shards) - set(before.shards)
    assert 0 < len(new) < len(before.shards) / 4


def test_only_plain_text_files_of_the_tree_are_packed(home: Path, write_folder: WriteFolder, tmp_path: Path) -> None:
    secret = tmp_path / "secret.txt"
    secret.write_text("PASSWORD" * 50)
    plain = {"a.txt": b"text " * 100, "b/c.txt": b"more " * 100}
    root = write_folder(
        {**plain, "bin": b"\x7fELF\0", "empty": b"", ".git/config": b"hidden", "__pycache__/x.py": b"x"}
    )
    (root / "link.txt").symlink_to(secret)
    (root / "folder-link").symlink_to(tmp_path)
    os.mkfifo(root / "pipe")  # reading it would block for ever
    packed = pack(root, name="texts", home=home)
    assert text_of(packed.folder, "train") == joined({path: content[:475] for path, content in plain.items()})
    assert b"PASSWORD" not in text_of(packed.folder, "validation")
    assert packed.passed_over == 2


def test_include_and_exclude_choose_files(home: Path, write_folder: WriteFolder) -> None:
    root = write_folder(
        {"a.py": b"x = 1\n" * 9, "b.txt": b"words " * 9, "old/c.py": b"y = 2\n" * 9, "d_gen.py": b"z\n" * 9}
    )
    rules = PackRules(files=FileRules(include=("*.py",), exclude=("old", "*_gen.py")))
    packed = pack(root, name="code", home=home, rules=rules)
    assert packed.manifest.train.documents == 1
    assert text_of(packed.folder, "train").startswith(b"x = 1")


@pytest.mark.parametrize("name", ["", "Up", "../x", "a/b", ".hidden", "a" * 64, "x@y", "trailing-"])
def test_a_name_that_is_none_is_refused(home: Path, write_folder: WriteFolder, name: str) -> None:
    with pytest.raises(UserError, match="not a name for a data set"):
        pack(write_folder(some_files()), name=name, home=home)
    assert not (home / "datasets").exists()


def test_too_little_text_is_refused(home: Path, write_folder: WriteFolder) -> None:
    with pytest.raises(UserError, match="too little"):
        pack(write_folder({"a.txt": b"tiny"}), name="tiny", home=home)
    assert datasets(home) == []


def test_a_folder_that_is_not_there_is_said(home: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        pack(tmp_path / "nowhere", name="x", home=home)
    assert caught.value.code is ExitCode.UNKNOWN


@pytest.mark.parametrize("content", [b"grown " * 500, b"", b"\0"])
def test_a_file_that_changes_while_it_is_packed_stops_everything(
    home: Path, write_folder: WriteFolder, content: bytes
) -> None:
    files = {"a.txt": b"first" * 50, "z.txt": b"last" * 50}
    root = write_folder(files)

    def meddle(done: int, total: int) -> None:
        (root / "z.txt").write_bytes(content)

    with pytest.raises(UserError, match="changed while it was being packed") as caught:
        pack(root, name="texts", home=home, progress=meddle)
    assert caught.value.where.endswith("z.txt")
    assert datasets(home) == []
    assert [entry.name for entry in (home / "datasets" / "texts").iterdir()] == [".lock"]


def test_a_full_disk_is_said_and_leaves_nothing(
    home: Path, write_folder: WriteFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: object) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match="No space left") as caught:
        pack(write_folder(some_files()), name="texts", home=home)
    assert caught.value.where == str(home / "datasets" / "texts")
    assert [entry.name for entry in (home / "datasets" / "texts").iterdir()] == [".lock"]


_KILLED = """
import os, sys
from pathlib import Path
from jobs.data import PackRules, pack
from tests.data.conftest import SMALL
calls = 0
def die(done, total):
    global calls
    calls += 1
    if calls == int(sys.argv[3]):
        os.kill(os.getpid(), 9)
pack(Path(sys.argv[1]), name="texts", home=Path(sys.argv[2]), rules=SMALL, progress=die)
"""


def test_kill_leaves_nothing_visible_and_the_next_pack_sweeps(home: Path, write_folder: WriteFolder) -> None:
    root = write_folder(some_files())
    first = pack(root, name="texts", home=home, rules=SMALL)
    (root / "new.txt").write_bytes(b"another version " * 20)
    command = [sys.executable, "-c", _KILLED, str(root), str(home), "30"]
    assert subprocess.run(command, check=False).returncode == -9
    assert [stored.version for stored in datasets(home)] == [first.manifest.hash]
    assert list((home / "datasets" / "texts").glob(".work-*"))
    second = pack(root, name="texts", home=home, rules=SMALL)
    assert [stored.version for stored in datasets(home) if stored.is_latest] == [second.manifest.hash]
    assert not list((home / "datasets" / "texts").glob(".work-*"))


def test_packing_at_once_gives_one_version_and_sweeps_no_live_work(home: Path, write_folder: WriteFolder) -> None:
    root = write_folder(some_files())
    with ThreadPoolExecutor(8) as pool:
        packed = list(pool.map(lambda _: pack(root, name="texts", home=home, rules=SMALL), range(24)))
    assert len({made.folder for made in packed}) == 1
    assert sorted(entry.name for entry in (home / "datasets" / "texts").iterdir()) == sorted(
        [".lock", "latest", packed[0].manifest.hash]
    )


def test_packing_the_same_again_keeps_one_version(home: Path, write_folder: WriteFolder) -> None:
    root = write_folder(some_files())
    first, second = (pack(root, name="texts", home=home, rules=SMALL) for _ in range(2))
    assert first.folder == second.folder
    assert len(datasets(home)) == 1
