"""Code is kept by what it holds: once, read-only, whole; and no archive writes anywhere else."""

from __future__ import annotations

import gzip
import io
import os
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from jobs.code import bundle
from jobs.code.bundle import pack
from jobs.code.listing import code_id, list_code
from jobs.code.store import CodeStore
from orchestrator.spec.errors import ExitCode, UserError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "project"
    (path / "pkg").mkdir(parents=True)
    (path / "task.py").write_text("x = 1\n")
    (path / "pkg" / "run.sh").write_text("echo\n")
    (path / "pkg" / "run.sh").chmod(0o755)
    return path


@pytest.fixture
def store(tmp_path: Path) -> CodeStore:
    return CodeStore(tmp_path / "home")


def test_what_was_kept_is_what_was_there_whatever_becomes_of_the_folder(folder: Path, store: CodeStore) -> None:
    kept = store.keep(folder)
    (folder / "task.py").write_text("x = 2\n")
    inside = store.folder(kept)
    assert (inside / "task.py").read_text() == "x = 1\n"
    assert code_id(inside, list_code(inside)) == kept
    assert os.access(inside / "pkg" / "run.sh", os.X_OK)
    assert (inside / "task.py").stat().st_mode & 0o222 == 0, "nobody writes into it by accident"
    assert store.keep(folder) != kept


def test_the_same_code_is_kept_once(folder: Path, store: CodeStore) -> None:
    first = store.keep(folder)
    inode = store.folder(first).stat().st_ino
    files = list_code(folder)
    store.add(first, pack(folder, files))
    assert (store.keep(folder), store.folder(first).stat().st_ino) == (first, inode)


def test_an_archive_that_is_not_what_it_is_called_is_refused_and_nothing_is_left(
    folder: Path, store: CodeStore, tmp_path: Path
) -> None:
    packed = pack(folder, list_code(folder))
    with pytest.raises(UserError, match=r"the archive holds .*, not 000000000000"):
        store.add("0" * 64, packed)
    assert not store.has("0" * 64)
    assert {path.name for path in (tmp_path / "home" / "code").iterdir()} == {".lock"}


def member(name: str, content: bytes = b"x", **more: object) -> Callable[[tarfile.TarFile], None]:
    def add(archive: tarfile.TarFile) -> None:
        entry = tarfile.TarInfo(name)
        entry.size = len(content)
        for key, value in more.items():
            setattr(entry, key, value)
        archive.addfile(entry, io.BytesIO(content))

    return add


@pytest.mark.parametrize(
    ("members", "problem"),
    [
        ([member("../out.py")], "no path within"),
        ([member("/etc/out.py")], "no path within"),
        ([member("a/../../out.py")], "no path within"),
        ([member("a\nb.py")], "no path within"),
        ([member("link", b"", type=tarfile.SYMTYPE, linkname="/etc")], "no plain file"),
        ([member("hard", b"", type=tarfile.LNKTYPE, linkname="task.py")], "no plain file"),
        ([member("device", b"", type=tarfile.CHRTYPE)], "no plain file"),
        ([member("a.py"), member("a.py")], "comes twice"),
        ([member("a"), member("a/b.py")], "both a file and a folder"),
    ],
)
def test_no_archive_writes_anywhere_else(
    store: CodeStore, tmp_path: Path, members: list[Callable[[tarfile.TarFile], None]], problem: str
) -> None:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        for add in members:
            add(archive)
    with pytest.raises(UserError, match=problem) as refused:
        store.add("0" * 64, packed.getvalue())
    assert refused.value.code is ExitCode.INVALID
    assert not list(tmp_path.rglob("out.py"))


# Without its time, an archive is the same bytes in every process that collects the tests.
@pytest.mark.parametrize(
    "packed",
    [b"", b"no archive", gzip.compress(b"no tar", mtime=0), gzip.compress(b"\0" * 100, mtime=0)[:-9]],
    ids=["empty", "text", "no tar", "cut off"],
)
def test_rubbish_is_no_archive(store: CodeStore, packed: bytes) -> None:
    with pytest.raises(UserError, match=r"no archive of code|the archive holds"):
        store.add("0" * 64, packed)


def test_an_archive_that_opens_to_too_much_is_given_up_early(store: CodeStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundle, "_MOST_OPENED", 100_000)
    bomb = io.BytesIO()
    with tarfile.open(fileobj=bomb, mode="w:gz", format=tarfile.PAX_FORMAT, pax_headers={"comment": "a" * 1_000_000}):
        pass
    with pytest.raises(UserError, match="opens to more than"):
        store.add("0" * 64, bomb.getvalue())


def test_old_code_goes_unless_somebody_needs_it(folder: Path, store: CodeStore) -> None:
    kept = store.keep(folder)
    (folder / "task.py").write_text("x = 2\n")
    needed = store.keep(folder)
    for ident in (kept, needed):
        os.utime(store.folder(ident), (0, 0))
    assert store.prune(unused_s=60.0, in_use={needed}) == [kept]
    assert (store.has(kept), store.has(needed)) == (False, True)
    os.utime(store.folder(needed), (0, 0))
    assert store.has(needed)  # who asks is about to use it
    assert store.prune(unused_s=60.0, in_use=()) == []
    with pytest.raises(UserError, match=f"there is no code {kept[:12]}"):
        store.folder(kept)
