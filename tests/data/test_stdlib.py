"""The data set every machine has: this interpreter's own standard library."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import numpy as np
import pytest

from jobs.data import ensure_dataset, open_dataset
from jobs.data.stdlib import pack_stdlib
from jobs.models.ladder import ladder, place
from orchestrator.spec.errors import UserError
from tests.data.conftest import WriteFolder

_LEFT_OUT = {"test", "tests", "lib2to3", "idlelib", "site-packages", "dist-packages", "__pycache__"}


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return ensure_dataset("python-stdlib@latest", tmp_path_factory.mktemp("home"))


def test_it_holds_every_module_without_tests(packed: Path) -> None:
    root = Path(sysconfig.get_paths()["stdlib"])
    sources = {}
    for folder, folders, names in os.walk(root):
        folders[:] = set(folders) - _LEFT_OUT
        for path in (Path(folder, name) for name in names if name.endswith(".py")):
            if not path.is_symlink():
                sources[path.relative_to(root).as_posix()] = path.read_bytes()
    expected = {"train": b"", "validation": b""}
    for path in sorted(sources, key=str.encode):
        validation = int(hashlib.sha256(path.encode()).hexdigest(), 16) % 20 == 0
        expected["validation" if validation else "train"] += sources[path] + b"\0" if sources[path] else b""
    dataset = open_dataset(packed)
    for split, text in expected.items():
        assert np.asarray(dataset.split(split)).tobytes() == text
    assert len(expected["train"]) > 5e6


def test_its_ladder_has_the_published_rungs(packed: Path) -> None:
    rungs = {rung.name: rung.bits_per_byte for rung in ladder(open_dataset(packed))}
    # Measured on CPython 3.11; other versions' libraries differ by a few hundredths.
    assert rungs == pytest.approx({"unigram": 4.81, "bigram": 3.60, "zlib": 1.90, "xz": 1.55}, abs=0.12)
    assert list(rungs.values()) == sorted(rungs.values(), reverse=True)
    assert place(3.2, ladder(open_dataset(packed))) == 2


def test_it_is_built_once(packed: Path) -> None:
    home = packed.parents[2]
    before = packed.stat().st_ino
    assert ensure_dataset("python-stdlib@latest", home) == packed
    assert ensure_dataset(f"python-stdlib@{packed.name[:10]}", home) == packed
    assert packed.stat().st_ino == before


def test_only_the_standard_library_is_built_unasked(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no data set 'texts@latest'"):
        ensure_dataset("texts@latest", tmp_path)
    assert not (tmp_path / "datasets").exists()


def test_it_follows_the_rules_in_any_folder(tmp_path: Path, write_folder: WriteFolder) -> None:
    code = b"import this\n" * 20
    kept = {"os.py": code, "json/decoder.py": code, "turtledemo/clock.py": code}
    dropped = {"test/a.py": code, "json/tests/b.py": code, "lib2to3/c.py": code, "idlelib/d.py": code, "e.txt": code}
    folder = pack_stdlib(tmp_path / "home", source=write_folder({**kept, **dropped}))
    assert sum(split.documents for split in open_dataset(folder).manifest.splits.values()) == len(kept)


def test_data_sets_are_read_without_torch() -> None:
    check = "import jobs.data, sys; sys.exit('torch' in sys.modules or 'fsspec' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check], check=False).returncode == 0
