"""Which files of a folder are code, and what they are called."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from jobs.code import listing
from jobs.code.listing import code_id, list_code
from orchestrator.spec.errors import UserError

FILES = {
    "task.py": "x = 1\n",
    "pkg/__init__.py": "",
    "pkg/deep/part.py": "y = 2\n",
    "pkg/deep/notes.txt": "keep\n",
    "pkg/deep/more.txt": "leave\n",
    "data/rows.csv": "1,2\n",
    "data/keep.py": "z = 3\n",
    "out.log": "said\n",
    ".gitignore": "*.log\ndata/*\n!data/keep.py\n",
    "pkg/.gitignore": "*.txt\n!notes.txt\n",
    ".tideignore": "secret*\n",
    "secret.env": "a=b\n",
    "pkg/__pycache__/part.cpython-311.pyc": "bytes",
    ".git/config": "[core]\n",
    ".venv/lib/big.py": "",
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, text in FILES.items():
        path = tmp_path / "project" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path / "project"


def names(folder: Path) -> list[str]:
    return [file.path for file in list_code(folder)]


def test_what_git_ignores_is_no_code(folder: Path) -> None:
    assert names(folder) == [
        ".gitignore", ".tideignore", "data/keep.py", "pkg/.gitignore", "pkg/__init__.py", "pkg/deep/notes.txt",
        "pkg/deep/part.py", "task.py",
    ]  # fmt: skip


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
def test_git_itself_sees_the_same_files(folder: Path) -> None:
    shutil.rmtree(folder / ".git")
    (folder / ".tideignore").unlink()
    for name in ("secret.env", "pkg/__pycache__", ".venv"):  # ignored by us alone
        path = folder / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    environment = {**os.environ, "GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_SYSTEM": "/dev/null"}

    def git(*arguments: str) -> str:
        done = subprocess.run(
            ["git", *arguments], cwd=folder, env=environment, capture_output=True, text=True, check=True
        )
        return done.stdout

    git("init", "--quiet")
    seen = git("ls-files", "--others", "--exclude-standard").splitlines()
    assert sorted(seen) == names(folder)


def test_the_id_is_of_names_modes_and_contents_alone(folder: Path, tmp_path: Path) -> None:
    same = tmp_path / "elsewhere"
    shutil.copytree(folder, same)
    os.utime(same / "task.py", (0, 0))
    (same / "out.log").write_text("other\n")
    before = code_id(folder, list_code(folder))
    assert code_id(same, list_code(same)) == before
    for change in (
        lambda: (same / "task.py").write_text("x = 2\n"),
        lambda: (same / "task.py").chmod(0o755),
        lambda: (same / "task.py").rename(same / "tasks.py"),
    ):
        last = code_id(same, list_code(same))
        change()
        assert code_id(same, list_code(same)) != last


def test_a_link_within_the_folder_is_a_file_and_one_that_leads_out_is_refused(folder: Path) -> None:
    (folder / "alias.py").symlink_to("task.py")
    assert "alias.py" in names(folder)
    (folder / "outside").symlink_to("/etc/hostname")
    with pytest.raises(UserError, match="outside is a link to /etc/hostname, which is not copied"):
        list_code(folder)
    (folder / ".tideignore").write_text("outside\n")
    assert "outside" not in names(folder)


def test_what_is_no_file_is_refused(folder: Path) -> None:
    os.mkfifo(folder / "pipe")
    with pytest.raises(UserError, match="pipe is neither a file nor a folder"):
        list_code(folder)


def test_a_folder_that_is_too_large_names_its_largest_files(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing, "MAX_BYTES", 1000)
    (folder / "weights.bin").write_bytes(bytes(2000))
    with pytest.raises(UserError, match=r"The largest: weights.bin .*\.tideignore"):
        list_code(folder)


@pytest.mark.parametrize(("name", "problem"), [("absent", "there is no such folder"), ("task.py", "is no folder")])
def test_a_working_dir_that_is_none_is_named(folder: Path, name: str, problem: str) -> None:
    with pytest.raises(UserError, match=f"{name}: {problem}"):
        list_code(folder / name)
