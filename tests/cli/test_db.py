"""`tide db`: set up, checked, backed up; each mistake has its exit code and its next step."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest
from sqlalchemy import text

from orchestrator.cli.main import main
from tests.ledger.world import World, new, sqlite


def tide(*arguments: str) -> int:
    with pytest.raises(SystemExit) as exit_:
        main(["db", *arguments])
    return int(exit_.value.code or 0)


def test_a_new_database_is_set_up_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    url = sqlite(tmp_path)
    assert tide("upgrade", "--url", url, "-o", "json") == 0
    first = json.loads(capsys.readouterr().out)
    assert (first["kind"], first["before"]) == ("DatabaseUpgrade", None)
    assert tide("upgrade", "--url", url) == 0
    assert stat.S_IMODE((tmp_path / "tide.db").stat().st_mode) == 0o600


def test_a_check_names_every_law_that_is_broken(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    world = World(sqlite(tmp_path))
    world.ledger.submit(new("a", 4), new("b", 4, work_s=4.0))
    world.run(5)
    assert tide("check", "--url", world.url) == 0
    with world.ledger.database.writing() as connection:
        connection.execute(text("UPDATE leases SET holder = 'nobody'"))
        connection.execute(text("UPDATE entries SET amount = amount + 1 WHERE seq = 1"))
    capsys.readouterr()
    assert tide("check", "--url", world.url, "-o", "json") == 1
    broken = json.loads(capsys.readouterr().out)["broken"]
    assert any("has no holder" in law for law in broken)
    assert any("they must sum to 0" in law for law in broken)
    world.ledger.database.close()


def test_a_backup_is_whole_while_somebody_writes(tmp_path: Path) -> None:
    world = World(sqlite(tmp_path))
    world.ledger.submit(new("a", 4))
    world.run(3)
    copy = tmp_path / "copies" / "tide.db"
    assert tide("backup", str(copy), "--url", world.url) == 0
    world.run(3)
    assert stat.S_IMODE(copy.stat().st_mode) == 0o600
    assert [path.name for path in copy.parent.iterdir()] == ["tide.db"]
    assert tide("check", "--url", f"sqlite:///{copy}") == 0
    assert tide("backup", str(copy), "--url", world.url) == 7
    world.ledger.database.close()


def test_what_is_not_there_is_neither_checked_nor_backed_up(tmp_path: Path) -> None:
    url = sqlite(tmp_path)
    assert tide("backup", str(tmp_path / "copy.db"), "--url", url) == 4
    assert tide("check", "--url", url) == 7
    assert tide("check", "--url", "mysql://host/db") == 3


def test_what_is_no_database_and_no_place_for_a_copy_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "notes.csv").write_text("a,b\n" * 200)
    for verb in ("check", "upgrade"):
        assert tide(verb, "--url", f"sqlite:///{tmp_path}/notes.csv") == 3
        assert "notes.csv: cannot be read as a database: file is not a database" in capsys.readouterr().err
    assert tide("upgrade", "--url", sqlite(tmp_path)) == 0
    target = tmp_path / "notes.csv" / "copy.db"
    assert tide("backup", str(target), "--url", sqlite(tmp_path)) == 3
    assert f"{target}: cannot be written: " in capsys.readouterr().err
