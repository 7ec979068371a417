"""References to versions, and what is said about those that lead nowhere."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobs.data import open_dataset, pack
from jobs.data.store import datasets, parse_ref, resolve
from orchestrator.spec.errors import ExitCode, UserError
from tests.data.conftest import SMALL, WriteFolder, some_files


@pytest.fixture
def versions(home: Path, write_folder: WriteFolder) -> list[str]:
    """Two versions of `texts`, oldest first."""
    roots = [write_folder(some_files(count)) for count in (50, 60)]
    return [pack(root, name="texts", home=home, rules=SMALL).manifest.hash for root in roots]


def test_latest_is_the_one_packed_last_and_older_ones_stay(home: Path, versions: list[str]) -> None:
    assert resolve("texts@latest", home).name == versions[1]
    assert resolve("texts", home).name == versions[1]
    assert resolve(f"texts@{versions[0][:8]}", home).name == versions[0]
    assert open_dataset(f"texts@{versions[0]}", home).manifest.hash == versions[0]


def test_a_hash_prefix_that_fits_two_versions_is_refused(home: Path, versions: list[str]) -> None:
    twin = resolve("texts@latest", home)
    digit = "0" if versions[1][4] != "0" else "1"
    twin.with_name(versions[1][:4] + digit + versions[1][5:]).mkdir()
    with pytest.raises(UserError, match="could be any of"):
        resolve(f"texts@{versions[1][:4]}", home)


@pytest.mark.parametrize(
    "ref", ["", "@latest", "../texts@latest", "texts@", "texts@..", "texts@newest", "texts@abc", "a/b@latest"]
)
def test_malformed_references_are_refused_before_the_disk_is_touched(ref: str) -> None:
    with pytest.raises(UserError, match="is not a reference to a data set"):
        parse_ref(ref)


def test_an_unknown_data_set_suggests_a_near_one(home: Path, versions: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        resolve("text@latest", home)
    assert caught.value.code is ExitCode.UNKNOWN
    assert "Did you mean 'texts'?" in caught.value.next_step


def test_latest_that_names_a_missing_version_is_said(home: Path, versions: list[str]) -> None:
    (home / "datasets" / "texts" / "latest").write_text("0" * 64 + "\n")
    with pytest.raises(UserError, match="which is not there"):
        resolve("texts@latest", home)


def test_listing_shows_a_damaged_version_and_goes_on(home: Path, versions: list[str]) -> None:
    (home / "datasets" / "texts" / versions[0] / "manifest.json").write_text("{}")
    old, new = datasets(home)
    assert old.manifest is None
    assert "manifest.json" in old.problem
    assert new.manifest is not None
    assert new.is_latest
